// An HTTP/1.1 server for a few clients who look at the process or tell it what to do, by libmicrohttpd. One thread,
// `control`, accepts, serves and answers, so whoever is served needs no locks against another one; it never waits for
// anything but its clients, and what takes time is answered later (struct http_wait).
//
// Nobody can make it take more than a little: so many clients at a time (the one that has been idle for longest makes
// room for the next), so many bytes of a request and of answers, so long for a request and its answer. It knows nothing
// of what it serves.

#ifndef BITFLOW_CONTROL_HTTP_SERVER_H
#define BITFLOW_CONTROL_HTTP_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "bitflow/base/error.h"
#include "bitflow/net/listener.h"

#define HTTP_CLIENTS_MAX 64
#define HTTP_HEAD_MAX ((size_t)16 * 1024)           // the request's line and headers, and what they take in memory
#define HTTP_BODY_MAX ((size_t)64 * 1024)           // nobody looks at it
#define HTTP_ANSWERS_MAX ((size_t)32 * 1024 * 1024) // bytes of answers on their way; a single one may be longer

struct http_request {
    const char *method;  // GET for HEAD, too
    const char *path;    // decoded, without the query
    bool is_local;       // by a Unix socket
    bool is_left_behind; // its client came by a listener that another one has taken the place of
    pid_t pid;           // who has connected, where that is known: is_local; 0: it is not
    uid_t uid;
    void *handle; // for http_argument()
};

// Of the query, decoded; "" where it has no value, NULL where it is not there.
const char *http_argument(const struct http_request *request, const char *name);

// How many the query has, each as often as it comes.
size_t http_argument_count(const struct http_request *request);

struct http_answer {
    unsigned status;
    const char *type;  // of the body; a constant
    const char *allow; // the methods that there are; NULL: there is no need to tell. A constant
    const char *retry; // after how many seconds to ask again; NULL likewise
    bool is_last;      // the connection is closed behind it
    char *body;        // taken over, and freed; NULL: there was no memory for it
    size_t length;
};

// An answer that takes time. Embedded in what its owner knows of it.
struct http_wait {
    int64_t deadline; // base/clock.h
    // Called after each http_server_wake(), and when the deadline has passed (`is_late`), on the server's thread. True:
    // the answer is set. One that is late must be.
    bool (*look)(struct http_wait *wait, bool is_late, struct http_answer *answer);
    // It is over, answered or since its client or the server has gone; frees it.
    void (*drop)(struct http_wait *wait);
};

struct http_actions {
    // On the server's thread. Sets the answer and returns NULL, or returns what it waits for.
    struct http_wait *(*serve)(void *subject, const struct http_request *request, struct http_answer *answer);
    void *subject;
};

struct http_server;

// Starts the thread; nobody can connect yet. ERROR_NO_*, ERROR_SYSTEM.
struct http_server *http_server_create(const struct http_actions *actions, struct error *error);

// Takes `listener` over, and closes the one before; NULL: nobody can connect any more. Whoever is connected stays. One
// thread alone calls this and http_server_destroy().
void http_server_listen(struct http_server *server, const struct listener *listener);

// Whoever waits looks again. Any thread.
void http_server_wake(struct http_server *server);

// Answers those that have asked, and those that came less than a second ago and are about to, for a second at most, and
// ends the thread. Accepts NULL.
void http_server_destroy(struct http_server **server);

#endif
