// The clients of the HTTP server, in a table: who may stay, and who makes room for others. Its thread's.

#ifndef BITFLOW_SRC_CONTROL_HTTP_CLIENTS_H
#define BITFLOW_SRC_CONTROL_HTTP_CLIENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/control/http_server.h"

struct http_client {
    bool is_there;
    int fd; // libmicrohttpd's, which closes it
    bool is_local;
    bool is_left_behind;  // it came by a listener that is not the server's any more
    bool has_asked;       // once at least
    bool is_busy;         // with a request, from its headers to the end of its answer
    int64_t since;        // when it came, or its last answer was done
    size_t body;          // bytes of the request's that have come
    size_t answer_length; // of the one that is being sent
    void *connection;
    struct http_wait *wait; // NULL: nothing is waited for
    bool is_answered;       // what was waited for has come:
    struct http_answer answer;
};

struct http_clients {
    struct http_client list[HTTP_CLIENTS_MAX];
};

// NULL: there is no room.
struct http_client *http_clients_add(struct http_clients *clients, int fd, bool is_local, int64_t now);
void http_clients_remove(struct http_client *client);

// Who is to make room for another: of those that ask for nothing, or else of those that are being answered, the one
// that has been for longest; last of all, one that has been for less than a second. NULL: all wait for something.
struct http_client *http_clients_victim(struct http_clients *clients, int64_t now);

// Shuts down whose request and answer have taken too long. Returns when it is to be called next.
int64_t http_clients_end_late(struct http_clients *clients, int64_t now);

// Whether one more answer is not more than all together may have.
bool http_clients_may_answer(const struct http_clients *clients, size_t length);

// The listener by which they all came is replaced.
void http_clients_leave_behind(struct http_clients *clients);

// Until when a server that ends is to go on for them: DEADLINE_NONE while one has a request or its answer under way, a
// second from then on for one that has come and not asked yet, or a time that has passed.
int64_t http_clients_awaited(const struct http_clients *clients);

#endif
