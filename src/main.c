// Arguments and exit codes: 0 a clean end, 1 a failed start or no listener left, 2 wrong use or wrong configuration.

#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/crash.h"
#include "bitflow/base/signals.h"
#include "bitflow/cli/cli.h"
#include "bitflow/net/inherited.h"
#include "bitflow/sentry/sentry.h"
#include "bitflow/server/build_info.h"
#include "bitflow/server/loaded_config.h"
#include "bitflow/server/server.h"
#include "bitflow/server/upgrade.h"
#include "bitflow/tls/tls_arithmetic.h"
#include "bitflow/tls/tls_context.h"
#include "bitflow/version.h"

enum { EXIT_START_FAILED = 1, EXIT_USAGE = 2 };

struct arguments {
    const char *config;
    bool check;
    bool is_strict;
};

static const char usage[] = "usage: bitflow --config FILE [--check [--strict]]\n"
                            "       bitflow control [OPTION...] COMMAND\n"
                            "       bitflow health [OPTION...]\n"
                            "       bitflow --version | --help\n";

static const char help[] = "\n"
                           "A Layer 4 TCP proxy.\n"
                           "\n"
                           "`bitflow control --help` says how a running one is asked, and told what to do.\n"
                           "\n"
                           "  -c, --config FILE  the configuration (YAML)\n"
                           "      --check        validate the configuration and exit; nothing is bound\n"
                           "      --strict       with --check: warnings are errors, too\n"
                           "  -V, --version      print the version, those of libraries, how it was built; exit\n"
                           "  -h, --help         print this and exit\n"
                           "\n"
                           "Signals: SIGTERM, SIGINT, SIGQUIT  stop accepting, let connections finish, end;\n"
                           "                                   twice: end at once\n"
                           "         SIGHUP                    read the configuration again, re-open the\n"
                           "                                   connection logs\n"
                           "         SIGUSR1                   re-open the connection logs\n"
                           "         SIGUSR2                   start the program anew, hand over the listening\n"
                           "                                   sockets, let connections finish, end\n"
                           "Exit status: 0 ended in order, 1 could not start, or all listeners failed,\n"
                           "             2 wrong usage or configuration\n";

// Whoever asked for the output must know if it didn't arrive, as on a full disk.
static int status_of_output(void)
{
    return fflush(stdout) == 0 && !ferror(stdout) ? EXIT_SUCCESS : EXIT_START_FAILED;
}

// Which arithmetic runs is known only once the libraries have been asked.
static int print_version(void)
{
    struct error error = ERROR_INIT;
    bool is_good = tls_init(&error);
    char info[BUILD_INFO_SIZE];
    build_info_format(info);
    (void)printf("bitflow %s\narithmetic: %s\n%s", BITFLOW_VERSION, is_good ? tls_arithmetic_provider() : error.text,
                 info);
    return is_good ? status_of_output() : EXIT_START_FAILED;
}

// `rest`: the first argument that is no option; NULL: there is none.
static bool check_usage(const struct arguments *arguments, const char *rest)
{
    if (rest != NULL)
        (void)fprintf(stderr, "bitflow: unexpected argument '%s'\n%s", rest, usage);
    else if (arguments->config == NULL)
        (void)fprintf(stderr, "bitflow: --config is missing\n%s", usage);
    else if (arguments->is_strict && !arguments->check) // a start is never stopped by a warning
        (void)fprintf(stderr, "bitflow: --strict goes with --check\n%s", usage);
    else
        return true;
    return false;
}

// Exits for --help, --version and wrong usage.
static struct arguments parse_arguments(int argc, char **argv)
{
    enum { OPTION_CHECK = 256, OPTION_STRICT };
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'},
        {"check", no_argument, NULL, OPTION_CHECK},
        {"strict", no_argument, NULL, OPTION_STRICT},
        {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct arguments arguments = {.config = NULL};
    int option;
    while ((option = getopt_long(argc, argv, "c:Vh", options, NULL)) != -1) {
        switch (option) {
        case 'c':
            arguments.config = optarg;
            break;
        case OPTION_CHECK:
            arguments.check = true;
            break;
        case OPTION_STRICT:
            arguments.is_strict = true;
            break;
        case 'V':
            signals_restore();
            exit(print_version());
        case 'h':
            signals_restore();
            (void)printf("%s%s", usage, help);
            exit(status_of_output());
        default: // getopt has said what is wrong
            signals_restore();
            (void)fputs(usage, stderr);
            exit(EXIT_USAGE);
        }
    }
    bool is_usable = check_usage(&arguments, optind < argc ? argv[optind] : NULL);
    if (arguments.check || !is_usable)
        signals_restore();
    if (!is_usable)
        exit(EXIT_USAGE);
    return arguments;
}

static void print_left_out(const struct diagnostics *diagnostics, enum diagnostic_severity severity, const char *what)
{
    size_t more = diagnostics_left_out(diagnostics, severity);
    if (more > 0)
        (void)fprintf(stderr, "%s: and %zu more %s\n", diagnostics->file, more, what);
}

static void print_diagnostics(const struct diagnostics *diagnostics)
{
    for (size_t i = 0; i < diagnostics->kept; i++) {
        char line[DIAGNOSTIC_LINE_SIZE];
        diagnostic_format(diagnostics, &diagnostics->list[i], line);
        (void)fprintf(stderr, "%s\n", line);
    }
    print_left_out(diagnostics, DIAGNOSTIC_ERROR, "problems");
    print_left_out(diagnostics, DIAGNOSTIC_WARNING, "warnings");
}

static int refuse(const struct loaded_config *loaded)
{
    signals_restore(); // the end of it all, and whoever reads stderr may be slow
    print_diagnostics(&loaded->diagnostics);
    return EXIT_USAGE;
}

// What is odd about the host is told, but it is not the configuration's fault.
static int check(const struct loaded_config *loaded, bool is_strict)
{
    size_t warnings = loaded->diagnostics.warnings;
    print_diagnostics(&loaded->diagnostics);
    print_diagnostics(&loaded->host_diagnostics);
    if (is_strict && warnings > 0) {
        (void)fprintf(stderr, "%s: refused because of %s\n", loaded->diagnostics.file,
                      warnings == 1 ? "the warning (--strict)" : "the warnings (--strict)");
        return EXIT_USAGE;
    }
    (void)printf("%s: the configuration is valid\n", loaded->diagnostics.file);
    return status_of_output();
}

// Where the parent closed one of the standard descriptors, a client's socket could become number 2, and be sent the
// log.
static bool fill_standard_descriptors(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        // The lowest free number is the one that is missing.
        if (fcntl(fd, F_GETFD) == -1 && open("/dev/null", O_RDWR | O_CLOEXEC) != fd)
            return false;
    return true;
}

// A process that crashed has started us.
static int report_crash(const char *descriptor)
{
    if (!fill_standard_descriptors())
        return EXIT_START_FAILED;
    char id[SENTRY_ID_SIZE];
    struct error error = ERROR_INIT;
    if (!sentry_report_crash((int)strtol(descriptor, NULL, 10), id, &error)) {
        (void)fprintf(stderr, "bitflow: the crash could not be reported to Sentry: %s\n", error.text);
        return EXIT_START_FAILED;
    }
    (void)fprintf(stderr, "bitflow: the crash was reported to Sentry as event %s\n", id);
    return EXIT_SUCCESS;
}

// As later on: an end that was asked for is not a failure.
static int end_before_start(void)
{
    int number = signals_wait(DEADLINE_NONE);
    (void)fprintf(stderr, "bitflow: ended by SIG%s before it had started\n", sigabbrev_np(number));
    return EXIT_SUCCESS;
}

// By default malloc() gives threads eight arenas a processor, each of which reserves 64 MiB of address space and keeps
// its own free memory. More than one a processor cannot be in use at a time.
static void bound_arenas(void)
{
    const char *tunables = getenv("GLIBC_TUNABLES");
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    bool is_chosen =
        getenv("MALLOC_ARENA_MAX") != NULL || (tunables != NULL && strstr(tunables, "glibc.malloc.arena_max") != NULL);
    if (!is_chosen && processors > 0)
        (void)mallopt(M_ARENA_MAX, (int)processors);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], CRASH_REPORT_OPTION) == 0)
        return report_crash(argv[2]);
    if (argc > 1 && cli_is_command(argv[1]))
        return fill_standard_descriptors() ? cli_run(argc, argv) : EXIT_START_FAILED;
    signals_init();
    upgrade_init(argv);
    if (!fill_standard_descriptors())
        return EXIT_START_FAILED;
    bound_arenas();
    crash_install();
    struct arguments arguments = parse_arguments(argc, argv);
    struct error error = ERROR_INIT;
    if (!tls_init(&error)) {
        (void)fprintf(stderr, "bitflow: %s\n", error.text);
        return EXIT_START_FAILED;
    }
    static struct loaded_config loaded;
    int status = EXIT_SUCCESS;
    if (!loaded_config_load(&loaded, arguments.config)) {
        status = signals_told_to_end() ? end_before_start() : refuse(&loaded);
    } else if (arguments.check) {
        status = check(&loaded, arguments.is_strict);
    } else {
        inherited_init();
        if (!server_run(arguments.config, &loaded, &error)) {
            (void)fprintf(stderr, "bitflow: %s\n", error.text);
            status = EXIT_START_FAILED;
        }
    }
    loaded_config_release(&loaded);
    if (upgrade_has_stand_in())
        status = upgrade_stand_by(status == EXIT_SUCCESS) ? EXIT_SUCCESS : EXIT_START_FAILED;
    return status;
}
