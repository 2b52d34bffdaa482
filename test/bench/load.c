#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CONNECTIONS 100000u
#define MAX_SIZE 4096ull
#define MAX_PORTS 1000u
#define MAX_SECONDS 86400.0

static const char usage[] =
    "usage: bitflow_bench_load COMMAND --address IPV4:PORT [OPTION VALUE]...\n"
    "  origin       --mode respond|echo|sink|source|mixed [--size BYTES]; prints its port\n"
    "  connections  short connections, one request and one response each, to a responding origin\n"
    "  pingpong     messages to and fro, to an echoing origin\n"
    "  stream       --direction up|down; bytes, to a sink or a source\n"
    "  idle         opens connections to an echoing origin, tells so, holds them until stdin ends\n"
    "options: --connections N  --seconds S  --count N  --size BYTES  --sources N  --ports N\n"
    "         --tls 1.2|1.3  --resume yes|no  --certificate FILE (the origin's, PEM, with its key)\n";

struct command {
    const char *name;
    int (*run)(const struct options *options);
    struct options defaults;
};

static const struct command commands[] = {
    {"origin", origin_run, {.size = 100, .seconds = 3600}},
    {"connections", connections_run, {.connections = 1, .ports = 1, .size = 100, .seconds = 1, .count = 2000000}},
    {"pingpong", pingpong_run, {.connections = 1, .ports = 1, .size = 64, .seconds = 1, .count = 100000000}},
    {"stream", stream_run, {.connections = 1, .ports = 1, .size = 1, .seconds = 1}},
    {"idle", idle_run, {.connections = 1, .ports = 1, .size = 64, .seconds = 120}},
};

static bool parse_number(const char *text, unsigned long long lowest, unsigned long long highest,
                         unsigned long long *number)
{
    char *end = NULL;
    unsigned long long value = 0;

    errno = 0;
    value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || text[0] == '-' || value < lowest || value > highest) {
        return false;
    }
    *number = value;
    return true;
}

static bool parse_unsigned(const char *text, unsigned lowest, unsigned highest, unsigned *number)
{
    unsigned long long value = 0;

    if (!parse_number(text, lowest, highest, &value)) {
        return false;
    }
    *number = (unsigned)value;
    return true;
}

static bool parse_seconds(const char *text, double *seconds)
{
    char *end = NULL;
    double value = 0;

    errno = 0;
    value = strtod(text, &end);
    if (errno != 0 || end == text || *end != '\0' || !(value > 0 && value <= MAX_SECONDS)) {
        return false;
    }
    *seconds = value;
    return true;
}

static bool parse_address(const char *text, struct sockaddr_in *address)
{
    char host[INET_ADDRSTRLEN];
    const char *colon = strrchr(text, ':');
    unsigned long long port = 0;

    if (colon == NULL || (size_t)(colon - text) >= sizeof host || !parse_number(colon + 1, 0, 65535, &port)) {
        return false;
    }
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = '\0';
    address->sin_family = AF_INET;
    address->sin_port = htons((uint16_t)port);
    return inet_pton(AF_INET, host, &address->sin_addr) == 1;
}

static bool parse_word(const char *text, const char *const *words, size_t count, unsigned *index)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(text, words[i]) == 0) {
            *index = (unsigned)i;
            return true;
        }
    }
    return false;
}

static bool parse_option(int letter, const char *text, struct options *options)
{
    static const char *const modes[] = {"respond", "echo", "sink", "source", "mixed"};
    static const char *const directions[] = {"up", "down"};
    static const char *const answers[] = {"no", "yes"};
    static const char *const versions[] = {"off", "1.2", "1.3"};
    unsigned long long number = 0;
    unsigned index = 0;
    bool valid = false;

    switch (letter) {
    case 'a':
        return parse_address(text, &options->address);
    case 'm':
        valid = parse_word(text, modes, sizeof modes / sizeof modes[0], &index);
        options->mode = (enum origin_mode)index;
        return valid;
    case 'd':
        valid = parse_word(text, directions, sizeof directions / sizeof directions[0], &index);
        options->direction = (enum direction)index;
        return valid;
    case 't':
        valid = parse_word(text, versions, sizeof versions / sizeof versions[0], &index);
        options->tls = (enum tls)index;
        return valid;
    case 'r':
        valid = parse_word(text, answers, sizeof answers / sizeof answers[0], &index);
        options->resumes = index == 1;
        return valid;
    case 'e':
        options->certificate = text;
        return true;
    case 'c':
        return parse_unsigned(text, 1, MAX_CONNECTIONS, &options->connections);
    case 'o':
        return parse_unsigned(text, 0, 250, &options->sources);
    case 'p':
        return parse_unsigned(text, 1, MAX_PORTS, &options->ports);
    case 'n':
        valid = parse_number(text, 1, UINT64_MAX, &number);
        options->count = number;
        return valid;
    case 'z':
        valid = parse_number(text, 1, MAX_SIZE, &number);
        options->size = (size_t)number;
        return valid;
    case 's':
        return parse_seconds(text, &options->seconds);
    default:
        return false;
    }
}

static bool parse_options(int argc, char **argv, struct options *options)
{
    static const struct option names[] = {
        {"address", required_argument, NULL, 'a'},
        {"mode", required_argument, NULL, 'm'},
        {"direction", required_argument, NULL, 'd'},
        {"tls", required_argument, NULL, 't'},
        {"resume", required_argument, NULL, 'r'},
        {"certificate", required_argument, NULL, 'e'},
        {"connections", required_argument, NULL, 'c'},
        {"sources", required_argument, NULL, 'o'},
        {"count", required_argument, NULL, 'n'},
        {"ports", required_argument, NULL, 'p'},
        {"size", required_argument, NULL, 'z'},
        {"seconds", required_argument, NULL, 's'},
        {NULL, 0, NULL, 0},
    };
    int letter = 0;

    while ((letter = getopt_long(argc, argv, "", names, NULL)) != -1) {
        if (!parse_option(letter, optarg, options)) {
            return false;
        }
    }
    return optind == argc && options->address.sin_family == AF_INET;
}

static int run_command(const struct command *command, const struct options *options)
{
    bool accepts = command->run == origin_run;

    if (accepts && options->tls != TLS_OFF && options->certificate == NULL) {
        (void)fputs("bitflow_bench_load: an origin that speaks TLS has a certificate\n", stderr);
        return 2;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    net_raise_descriptor_limit();
    return leg_prepare(options, accepts) ? command->run(options) : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(argv[1], commands[i].name) == 0) {
            struct options options = commands[i].defaults;

            if (!parse_options(argc - 1, argv + 1, &options)) {
                break;
            }
            return run_command(&commands[i], &options);
        }
    }
    (void)fputs(usage, stderr);
    return 2;
}
