// One connection, from the moment it was accepted to the record of its end. Admission (admission.h) creates it; a
// worker thread serves it and owns it from then on, and frees it at its end.
//
// Its phases are those of src/proxy/connection/phases.h. Its reason to end is settled once (close_reason_settle()), by
// whoever is first: a stage that fails (connection_end()), the relay, or the registry from outside. From then on
// failure.reason is that one, which the records tell.

#ifndef BITFLOW_PROXY_CONNECTION_H
#define BITFLOW_PROXY_CONNECTION_H

#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/proxy/client.h"
#include "bitflow/proxy/proxy.h"
#include "bitflow/relay/close_reason.h"

struct connection;

// An id that no other connection of this process has, from 1.
uint64_t connection_next_id(void);

// Takes the client, with its place among those of its source, and a reference to the generation, and enters the
// registry. NULL: out of memory, and nothing was taken.
struct connection *connection_create(uint64_t id, struct runtime *runtime, struct generation *generation,
                                     const struct client *client, struct error *error);

// Undoes connection_create() for a connection that got no worker; the client is its owner's again.
void connection_abandon(struct connection **connection);

// The whole story of the struct connection passed (a thread pool's task), which it frees, and of those that the thread
// accepts itself afterwards.
void connection_serve(void *argument);

// The record of a client that was rejected before it became a connection.
void connection_reject(uint64_t id, struct generation *generation, const struct client *client,
                       const struct failure *failure);

// For those who report, one thread at a time: adds up each proxy's live connections (proxy_metrics.counting), and
// counts what they have done since the last time. `is_counted`: or only takes note of it, where metrics were off.
void connections_count_live(struct registry *registry, bool is_counted);

// What is done for connections that are reported while they live.
extern const struct periodic_actions connection_periodic_actions;

// The two threads' names: `<proxy>#<id>>` (reads from the client) and `<proxy>#<id><`, the proxy's name cut so that the
// id always fits.
void connection_thread_name(char out[THREAD_NAME_SIZE], const char *proxy, uint64_t id, char role);

#endif
