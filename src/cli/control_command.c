#include "bitflow/cli/cli.h"

#include <curl/curl.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "control_client.h"
#include "control_processes.h"
#include "control_tables.h"

enum { EXIT_REFUSED = 1, EXIT_USAGE = 2 };

#define TIMEOUT (10 * NS_PER_S)
#define ORDER_TIMEOUT (130 * NS_PER_S) // the process itself gives up before that
#define TIMEOUT_MAX_S 86400

static const char usage[] = "usage: bitflow control [OPTION...] COMMAND\n"
                            "       bitflow health [OPTION...]\n";

static const char help[] =
    "\n"
    "Asks a running bitflow, through its control socket (application.control.address).\n"
    "\n"
    "  health             whether its main thread answers\n"
    "  ready              whether it wants clients: its listeners are open, and it does not drain\n"
    "  connections        the live connections\n"
    "  connection ID      one of them\n"
    "  proxies            the proxies, and their targets\n"
    "  processes          the process that serves, and those before it that drain after an upgrade\n"
    "  config             the configuration in force, without its secrets\n"
    "  metrics            the metrics, in Prometheus' text format\n"
    "  end ID             ends a connection\n"
    "  reload             reads the configuration again, and says what is wrong with it\n"
    "  reopen-logs        opens the connection logs again\n"
    "  drain              stops accepting, lets connections finish, ends\n"
    "\n"
    "  -s, --socket ADDRESS  where it is: unix:///path, or HOST:PORT\n"
    "  -c, --config FILE     the configuration that says where\n"
    "                        (else: BITFLOW_CONTROL, or " CONTROL_DEFAULT_SOCKET ")\n"
    "  -S, --signal PID      with reload: where no control socket takes orders, sends SIGHUP to this process\n"
    "  -P, --process PID     asks a process that drains after an upgrade\n"
    "  -p, --proxy NAME      with connections: those of this proxy alone\n"
    "  -t, --timeout SECONDS how long to wait for the answer: 10, for an order 130\n"
    "  -j, --json            the answer as it came\n"
    "  -h, --help            print this and exit\n"
    "\n"
    "Exit status: 0 done, 1 no, refused, failed, or nobody answers, 2 wrong usage\n";

struct arguments {
    const char *socket;
    const char *config;
    const char *proxy;
    uint64_t process;  // 0: the one that serves
    uint64_t signaled; // 0: none is
    int64_t timeout;   // 0: the command's own
    bool is_json;
    bool wants_help;
    const struct command *command;
    uint64_t id;
};

struct command {
    const char *name;
    const char *method;
    const char *path;
    const char *path_end; // behind an id; NULL: it takes none
    int64_t timeout;
    // The answer to a request that was granted, for people. False: it cannot be understood.
    bool (*print)(const json_t *answer);
};

static void print_error(const char *text)
{
    (void)fprintf(stderr, "bitflow: %s\n", text);
}

static bool print_status(const json_t *answer)
{
    const char *status = json_string_value(json_object_get(answer, "status"));
    return status != NULL && printf("%s\n", status) >= 0;
}

static bool print_draining(const json_t *answer)
{
    return printf("draining, %" JSON_INTEGER_FORMAT " connections are live\n",
                  json_integer_value(json_object_get(answer, "live"))) >= 0;
}

static bool print_proxies(const json_t *answer)
{
    return control_print_proxies(json_object_get(answer, "proxies"));
}

static bool print_processes(const json_t *answer)
{
    return control_print_processes(json_object_get(answer, "processes"));
}

static bool print_connections(const json_t *answer)
{
    return control_print_connections(json_object_get(answer, "connections"));
}

static const struct command commands[] = {
    {"health", "GET", "/health", NULL, TIMEOUT, print_status},
    {"ready", "GET", "/ready", NULL, TIMEOUT, print_status},
    {"connections", "GET", "/connections", NULL, TIMEOUT, print_connections},
    {"connection", "GET", "/connections/", "", TIMEOUT, control_print_yaml},
    {"proxies", "GET", "/proxies", NULL, TIMEOUT, print_proxies},
    {"processes", "GET", "/process", NULL, TIMEOUT, print_processes},
    {"config", "GET", "/config", NULL, TIMEOUT, control_print_yaml},
    {"metrics", "GET", "/metrics", NULL, TIMEOUT, NULL},
    {"end", "POST", "/connections/", "/end", TIMEOUT, print_status},
    {"reload", "POST", "/reload", NULL, ORDER_TIMEOUT, print_status},
    {"reopen-logs", "POST", "/reopen-logs", NULL, ORDER_TIMEOUT, print_status},
    {"drain", "POST", "/drain", NULL, ORDER_TIMEOUT, print_draining},
};

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < ARRAY_LENGTH(commands); i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

bool cli_is_command(const char *word)
{
    return strcmp(word, "control") == 0 || strcmp(word, "health") == 0;
}

// ---- arguments

static bool read_number(const char *text, uint64_t most, uint64_t *number)
{
    size_t length = strlen(text);
    if (length == 0 || length > 18 || strspn(text, "0123456789") != length)
        return false;
    *number = strtoull(text, NULL, 10);
    return *number > 0 && *number <= most;
}

// What is not an option. `first`: the word that the program was called with.
static bool read_words(const char *first, int count, char **words, struct arguments *arguments)
{
    const char *name = first;
    if (strcmp(first, "control") == 0) {
        if (count == 0) {
            print_error("which command?");
            return false;
        }
        name = words[0];
        count--;
        words++;
    }
    arguments->command = find_command(name);
    bool takes_id = arguments->command != NULL && arguments->command->path_end != NULL;
    if (arguments->command == NULL)
        (void)fprintf(stderr, "bitflow: there is no command '%s'\n", name);
    else if (takes_id && count == 0)
        (void)fprintf(stderr, "bitflow: %s takes a connection's id\n", name);
    else if (count > (takes_id ? 1 : 0))
        (void)fprintf(stderr, "bitflow: unexpected argument '%s'\n", words[takes_id ? 1 : 0]);
    else if (takes_id && !read_number(words[0], UINT64_MAX, &arguments->id))
        (void)fprintf(stderr, "bitflow: '%s' is not a connection's id\n", words[0]);
    else if (arguments->proxy != NULL && arguments->command->print != print_connections)
        print_error("--proxy goes with connections");
    else if (arguments->process != 0 && arguments->command->print == print_processes)
        print_error("--process does not go with processes");
    else if (arguments->signaled != 0 && strcmp(arguments->command->name, "reload") != 0)
        print_error("--signal goes with reload");
    else
        return true;
    return false;
}

static bool read_pid(const char *option, uint64_t *pid)
{
    if (read_number(optarg, INT32_MAX, pid))
        return true;
    (void)fprintf(stderr, "bitflow: %s takes a process's number\n", option);
    return false;
}

static bool read_option(int option, struct arguments *arguments)
{
    uint64_t seconds;
    switch (option) {
    case 's':
        arguments->socket = optarg;
        return true;
    case 'c':
        arguments->config = optarg;
        return true;
    case 'p':
        arguments->proxy = optarg;
        return true;
    case 'P':
        return read_pid("--process", &arguments->process);
    case 'S':
        return read_pid("--signal", &arguments->signaled);
    case 'j':
        arguments->is_json = true;
        return true;
    case 'h':
        arguments->wants_help = true;
        return true;
    case 't':
        if (read_number(optarg, TIMEOUT_MAX_S, &seconds)) {
            arguments->timeout = (int64_t)seconds * NS_PER_S;
            return true;
        }
        (void)fprintf(stderr, "bitflow: --timeout takes seconds, from 1 to %d\n", TIMEOUT_MAX_S);
        return false;
    default: // getopt has said what is wrong
        return false;
    }
}

static bool read_arguments(int argc, char **argv, struct arguments *arguments)
{
    static const struct option options[] = {
        {"socket", required_argument, NULL, 's'},
        {"config", required_argument, NULL, 'c'},
        {"proxy", required_argument, NULL, 'p'},
        {"process", required_argument, NULL, 'P'},
        {"signal", required_argument, NULL, 'S'},
        {"timeout", required_argument, NULL, 't'},
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int option;
    optind = 2; // behind the word
    while ((option = getopt_long(argc, argv, "s:c:p:P:S:t:jh", options, NULL)) != -1)
        if (!read_option(option, arguments))
            return false;
    return arguments->wants_help || read_words(argv[1], argc - optind, argv + optind, arguments);
}

// ---- answers

// What a reload has to say of the file, as the start would.
static void print_problems(const json_t *answer)
{
    const json_t *problems = json_object_get(answer, "problems");
    for (size_t i = 0; i < json_array_size(problems); i++) {
        const char *message = json_string_value(json_object_get(json_array_get(problems, i), "message"));
        if (message != NULL)
            (void)fprintf(stderr, "%s\n", message);
    }
    json_int_t left_out = json_integer_value(json_object_get(answer, "left_out"));
    if (left_out > 0)
        (void)fprintf(stderr, "and %" JSON_INTEGER_FORMAT " more problems and warnings\n", left_out);
}

static int print_refusal(const struct control_answer *answer, const json_t *root)
{
    const char *error = json_string_value(json_object_get(root, "error"));
    if (error != NULL)
        print_error(error);
    else
        (void)fprintf(stderr, "bitflow: HTTP status %ld\n", answer->status);
    return EXIT_REFUSED;
}

static int status_of_output(bool is_good)
{
    if (is_good && fflush(stdout) == 0 && !ferror(stdout))
        return EXIT_SUCCESS;
    print_error(is_good ? "the answer could not be written" : "the answer cannot be understood");
    return EXIT_REFUSED;
}

static int print_answer(const struct arguments *arguments, const struct control_answer *answer)
{
    bool is_granted = answer->status >= 200 && answer->status < 300;
    if (arguments->is_json || (is_granted && arguments->command->print == NULL)) {
        bool is_whole = fwrite(answer->body, 1, answer->length, stdout) == answer->length;
        return is_granted ? status_of_output(is_whole) : EXIT_REFUSED;
    }
    json_t *root = json_loadb(answer->body, answer->length, 0, NULL);
    print_problems(root);
    int status =
        is_granted ? status_of_output(root != NULL && arguments->command->print(root)) : print_refusal(answer, root);
    json_decref(root);
    return status;
}

// ---- requests

static int64_t timeout_of(const struct arguments *arguments)
{
    return arguments->timeout != 0 ? arguments->timeout : arguments->command->timeout;
}

// Nobody can be asked to reload: the process is told to, and its log has how that went.
static int signal_reload(const struct arguments *arguments, const struct error *why)
{
    if (kill((pid_t)arguments->signaled, SIGHUP) != 0) {
        (void)fprintf(stderr, "bitflow: %s; cannot send SIGHUP to process %" PRIu64 ": %s\n", why->text,
                      arguments->signaled, strerrordesc_np(errno));
        return EXIT_REFUSED;
    }
    (void)fprintf(stderr, "bitflow: %s; sent SIGHUP, the application log says how the reload goes\n", why->text);
    return EXIT_SUCCESS;
}

// Whether somebody at the address may take an order: over TCP nobody does (docs/control.md).
static bool takes_orders(const struct address *address, struct error *error)
{
    char where[ADDRESS_TEXT_SIZE];
    if (address->kind != ADDRESS_TCP)
        return true;
    address_format(address, where);
    error_set(error, ERROR_REFUSED, "the control socket is %s, and over TCP nothing can be ordered", where);
    return false;
}

static int ask_once(const struct arguments *arguments, const struct address *address)
{
    struct control_answer answer;
    struct error error = ERROR_INIT;
    char path[128];
    const struct command *command = arguments->command;
    if (command->path_end == NULL)
        (void)snprintf(path, sizeof path, "%s", command->path);
    else
        (void)snprintf(path, sizeof path, "%s%" PRIu64 "%s", command->path, arguments->id, command->path_end);
    if (!control_ask(address, command->method, path, timeout_of(arguments), &answer, &error)) {
        if (arguments->signaled != 0 && error.code == ERROR_REFUSED)
            return signal_reload(arguments, &error);
        print_error(error.text);
        return EXIT_REFUSED;
    }
    int status = print_answer(arguments, &answer);
    free(answer.body);
    return status;
}

// The query of one page; to be freed by curl_free(). NULL: no memory.
static char *write_query(const struct arguments *arguments, json_int_t after, char *out, size_t size)
{
    char *name = curl_easy_escape(NULL, arguments->proxy == NULL ? "" : arguments->proxy, 0);
    if (name != NULL)
        (void)snprintf(out, size, "/connections?after=%" JSON_INTEGER_FORMAT "%s%s", after,
                       arguments->proxy == NULL ? "" : "&proxy=", name);
    return name;
}

// One page after the other is added to `root`, which is the first. False: the exit status is told.
static bool add_pages(const struct arguments *arguments, const struct address *address, json_t **root, int *status)
{
    struct control_answer answer;
    struct error error = ERROR_INIT;
    json_int_t after = 0;
    char path[512];
    do {
        char *name = write_query(arguments, after, path, sizeof path);
        curl_free(name);
        *status = EXIT_REFUSED;
        if (name == NULL || !control_ask(address, "GET", path, timeout_of(arguments), &answer, &error)) {
            print_error(name == NULL ? "out of memory" : error.text);
            return false;
        }
        json_t *page = answer.status == 200 ? json_loadb(answer.body, answer.length, 0, NULL) : NULL;
        if (page == NULL) {
            *status = print_answer(arguments, &answer);
            free(answer.body);
            return false;
        }
        free(answer.body);
        after = json_integer_value(json_object_get(page, "next"));
        if (*root == NULL)
            *root = json_incref(page);
        else
            (void)json_array_extend(json_object_get(*root, "connections"), json_object_get(page, "connections"));
        json_decref(page);
    } while (after > 0);
    return true;
}

static int list_connections(const struct arguments *arguments, const struct address *address)
{
    json_t *root = NULL;
    int status;
    if (add_pages(arguments, address, &root, &status)) {
        const json_t *list = json_object_get(root, "connections");
        (void)json_object_set_new(root, "count", json_integer((json_int_t)json_array_size(list)));
        (void)json_object_set_new(root, "next", json_null());
        if (arguments->is_json)
            status = status_of_output(json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(10)) == 0 &&
                                      printf("\n") > 0);
        else
            status = status_of_output(control_print_connections(list));
    }
    json_decref(root);
    return status;
}

static int list_processes(const struct arguments *arguments, const struct address *address)
{
    struct error error = ERROR_INIT;
    json_t *root = control_list_processes(address, timeout_of(arguments), &error);
    if (root == NULL) {
        print_error(error.text);
        return EXIT_REFUSED;
    }
    int status = status_of_output(
        arguments->is_json ? json_dumpf(root, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII) == 0 && printf("\n") > 0
                           : print_processes(root));
    json_decref(root);
    return status;
}

static bool locate(const struct arguments *arguments, struct address *address, struct error *error)
{
    return control_locate(arguments->socket, arguments->config, address, error) &&
           (arguments->process == 0 || control_process_address(address, (int64_t)arguments->process, error));
}

static int ask(const struct arguments *arguments, const struct address *address)
{
    return arguments->command->print == print_connections ? list_connections(arguments, address)
           : arguments->command->print == print_processes ? list_processes(arguments, address)
                                                          : ask_once(arguments, address);
}

int cli_run(int argc, char **argv)
{
    struct arguments arguments = {.socket = NULL};
    struct address address;
    struct error error = ERROR_INIT;
    if (!read_arguments(argc, argv, &arguments)) {
        (void)fputs(usage, stderr);
        return EXIT_USAGE;
    }
    if (arguments.wants_help) {
        (void)printf("%s%s", usage, help);
        return status_of_output(true);
    }
    bool is_located = locate(&arguments, &address, &error);
    if (arguments.signaled != 0 && !(is_located && takes_orders(&address, &error)))
        return signal_reload(&arguments, &error);
    if (!is_located) {
        print_error(error.text);
        return arguments.socket != NULL ? EXIT_USAGE : EXIT_REFUSED;
    }
    (void)curl_global_init(CURL_GLOBAL_DEFAULT);
    int status = ask(&arguments, &address);
    curl_global_cleanup();
    return status;
}
