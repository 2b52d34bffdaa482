#ifndef BITFLOW_BENCH_LOAD_H
#define BITFLOW_BENCH_LOAD_H

/*
 * The benchmark's load generator: one origin and four clients in one single-threaded program. Every client is bounded
 * in time and count, checks what comes back, and prints one JSON object on stdout. Times are in nanoseconds of the
 * monotonic clock, sizes in bytes of what is carried, without TLS's own. Linux, IPv4 on loopback.
 */

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define NANOSECONDS 1000000000ull

/* How long a client waits for anything that is still outstanding when its time is up. */
#define GRACE_SECONDS 10

/* The origin's sink and source end a flow with the number of its bytes, in this many hexadecimal digits. */
#define TRAILER_SIZE 16

enum direction {
    DIRECTION_UP,
    DIRECTION_DOWN,
};

enum origin_mode {
    ORIGIN_RESPOND, /* reads one request of `size`, answers as much, closes */
    ORIGIN_ECHO,    /* sends back whatever comes, until EOF */
    ORIGIN_SINK,    /* discards until EOF, then sends the count */
    ORIGIN_SOURCE,  /* sends until EOF, then the count */
    ORIGIN_MIXED,   /* echoes, and closes after a message of `size`: idle connections and short ones */
};

enum tls {
    TLS_OFF,
    TLS_1_2,
    TLS_1_3,
};

struct options {
    struct sockaddr_in address; /* where a client connects, or the origin listens */
    enum tls tls;
    bool resumes;            /* a client: its last session; an origin: gives out what that takes */
    const char *certificate; /* the origin's, with its key: a PEM file */
    enum origin_mode mode;
    enum direction direction;
    unsigned connections; /* concurrent ones */
    unsigned sources; /* addresses 127.0.0.1 .. 127.0.0.n that clients connect from, in turn; 0: the kernel's choice */
    unsigned ports;   /* from that of `address` on, which clients connect to, in turn */
    uint64_t count;   /* no more than this many exchanges */
    size_t size;      /* of a request, a response, a message */
    double seconds;
};

/* leg.c: one end of a connection, plain or TLS. Functions that fail leave errno, be it EPROTO. */

struct ssl_st;

struct leg {
    int fd;
    struct ssl_st *ssl; /* NULL: plain */
    bool has_more;      /* received, where epoll does not know of it; to be asked for after leg_receive() */
    size_t unsent;      /* of the data given to a call of leg_send() that did not take it: sealed, and sent in part */
};

/* Once, before the first leg; what goes wrong is told on stderr. `accepts`: legs are the origin's. */
bool leg_prepare(const struct options *options, bool accepts);
/* On failure the socket is still the caller's. */
bool leg_open(struct leg *leg, int fd);
void leg_close(struct leg *leg);
/* How many of the closed legs had resumed a session. */
uint64_t leg_resumed(void);
/* Blocking; else the other calls see to it. */
bool leg_shake_hands(struct leg *leg);
/* As send(): what it took, or -1. */
ssize_t leg_send(struct leg *leg, const char *data, size_t size);
/* Sends the rest of a record that leg_send() has begun with; before anything else than a leg_send() of as much is. */
ssize_t leg_flush(struct leg *leg, const char *data);
/* As recv(): 0 is an orderly end. `is_discarded`: nobody will look at the data, which need not be there. */
ssize_t leg_receive(struct leg *leg, char *data, size_t size, bool is_discarded);
/* The end of the data that are sent. EAGAIN: call it once more. */
bool leg_shutdown(struct leg *leg);
/* The text of errno, or what libssl knows better. */
const char *leg_error(void);

/* net.c: sockets. Functions that fail leave errno. */

/* A bound on descriptors as high as the process may have. */
void net_raise_descriptor_limit(void);
int net_listen(const struct options *options);
/* Opens a non-blocking socket and begins to connect it. */
bool net_connect_start(const struct options *options, uint64_t number, struct leg *leg);
/* Connects a blocking socket whose calls time out after GRACE_SECONDS, handshake included. */
bool net_connect(const struct options *options, uint64_t number, struct leg *leg);
bool net_set_nonblocking(int fd);
/* Sends `size` bytes that depend on `number` and receives them back, blocking. A wrong reply is EPROTO. */
bool net_exchange(struct leg *leg, size_t size, uint64_t number);
/* Fills a message so that one with another number differs. */
void net_fill(char *message, size_t size, uint64_t number);
bool net_watch(int epoll, int fd, uint32_t events, void *data);
bool net_rewatch(int epoll, int fd, uint32_t events, void *data);

/* report.c: clock, latencies, result. */

uint64_t clock_now(void);

/* Latencies, to within 1/32 of each. */
struct histogram {
    uint64_t total;
    uint64_t highest;
    uint64_t buckets[2048];
};

void histogram_add(struct histogram *histogram, uint64_t nanoseconds);
uint64_t histogram_percentile(const struct histogram *histogram, double percent);

struct report {
    uint64_t errors;
    char first_error[200];
};

/* Counts an error; the text of the first is kept. */
void report_error(struct report *report, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same, with the text of errno. */
void report_errno(struct report *report, const char *what);
/* Prints the members in `format`, then processor time and errors; returns the exit status. */
int report_print(const struct report *report, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The latencies of the exchanges of a client. */
struct exchanges {
    struct histogram whole;   /* of what is counted: a connection, a message */
    struct histogram answers; /* of a connection: from its begin to all of the first response; empty: not told */
};

/* The same for a client that counts exchanges. */
int report_print_exchanges(const struct report *report, const char *command, unsigned connections, uint64_t nanoseconds,
                           const struct exchanges *exchanges);

/* The subcommands: each returns the exit status. */

int origin_run(const struct options *options);
int connections_run(const struct options *options);
int pingpong_run(const struct options *options);
int stream_run(const struct options *options);
int idle_run(const struct options *options);

#endif
