// One connection, from the moment it was accepted to the record of its end. The acceptor creates it; a worker thread
// serves it and owns it from then on, until connection_serve() has ended and freed it.
//
//   ACCEPTED -> ADMITTING -> DIALLING -> RELAYING -> CLOSING
//                   \____________\____________________/
//
// connection_enter() is the only function that changes the stage, connection_end() the only one that ends a connection.

#ifndef BITFLOW_PROXY_CONNECTION_H
#define BITFLOW_PROXY_CONNECTION_H

#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/net/address.h"
#include "bitflow/proxy/proxy.h"
#include "bitflow/relay/close_reason.h"

enum connection_stage { STAGE_ACCEPTED, STAGE_ADMITTING, STAGE_DIALLING, STAGE_RELAYING, STAGE_CLOSING };

struct connection;

struct client {
    int fd;
    struct endpoint peer;
    bool is_inherited;     // other processes may hold the socket, too
    struct source *source; // that it counts for, of the proxy's; NULL: none
};

// Closes the client's socket; one that others hold as well is first disconnected, in order or by a reset.
void client_close(const struct client *client, bool reset);

// An id that no other connection of this process has, from 1.
uint64_t connection_next_id(void);

// Takes the client, with its place among those of its source, and a reference to the generation, and enters the
// registry. NULL: out of memory, and nothing was taken.
struct connection *connection_create(uint64_t id, struct runtime *runtime, struct generation *generation,
                                     const struct client *client, struct error *error);

// Undoes connection_create() for a connection that got no worker; the client is its owner's again.
void connection_abandon(struct connection **connection);

// The whole story of the struct connection passed (a thread pool's task); frees it.
void connection_serve(void *argument);

// The record of a client that was turned away before it became a connection.
void connection_reject(uint64_t id, struct generation *generation, const struct client *client,
                       enum close_reason reason, const char *error_text);

// For the reporting thread: adds up each proxy's live connections (proxy_metrics.live), and counts what they have done
// since the last time. `is_counted`: or only takes note of it, where metrics were off so far.
void connections_count_live(struct registry *registry, bool is_counted);

// What is done for connections that are reported while they live.
extern const struct report_actions connection_reports;

// The two threads' names: `<proxy>#<id>>` (reads from the client) and `<proxy>#<id><`, the proxy's name cut so that the
// id always fits.
void connection_thread_name(char out[THREAD_NAME_SIZE], const char *proxy, uint64_t id, char role);

#endif
