// A proxy as its connections see it.
//
// struct proxy is what outlives a reload: the name, the counts, and what is known of targets that stay. struct
// generation is one configuration of it: the snapshot and what was opened for it. A connection holds the generation it
// began with, and through it the proxy and the snapshot; the last holder frees them. Both are shared by reference count
// and, but for the atomics, what is known of targets and the counts of sources, never written after they were made. Any
// thread.

#ifndef BITFLOW_PROXY_PROXY_H
#define BITFLOW_PROXY_PROXY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/base/log.h"
#include "bitflow/base/mutex.h"
#include "bitflow/base/shared.h"
#include "bitflow/base/thread.h"
#include "bitflow/config/config.h"
#include "bitflow/proxy/metrics.h"
#include "bitflow/proxy/registry.h"
#include "bitflow/proxy/reports.h"
#include "bitflow/proxy/source_counts.h"
#include "bitflow/proxy/target.h"
#include "bitflow/proxy/tls_contexts.h"
#include "bitflow/telemetry/connection_log.h"

struct proxy {
    _Atomic unsigned references;
    _Atomic uint64_t active;      // connections that hold a place below the connection limit
    _Atomic uint64_t accepted;    // connections that got one, since the start; for a debugger
    _Atomic uint64_t rr_counter;  // connections that came to choose a target, since the start, for round-robin
    struct source_counts sources; // live connections by source, of those that began with a limit for it
    struct proxy_metrics *metrics;
    char *name;
    // What is known of its targets, whichever generation has them: struct target_load by name and address, struct
    // health by the route as well.
    struct mutex lock;
    struct shared_list loads GUARDED, healths GUARDED; // by the lock
};

struct generation {
    _Atomic unsigned references;
    struct proxy *proxy;
    const struct config *config;
    const struct proxy_config *settings; // in `config`
    struct connection_log *log;          // NULL: off
    struct report_queue reports;         // its connections that are reported while they live
    struct tls_context *tls;             // the listener's; NULL: plain
    struct target *targets;              // as many as `settings` has, in their order
};

// What all proxies of the process share. Lives as long as the process.
struct runtime {
    struct thread_pool *threads; // workers and the relays' second threads
    struct registry *registry;
    struct reports *reports; // periodic records
    struct metrics metrics;
};

// With one reference, the caller's. It counts among `metrics`. NULL: ERROR_NO_MEMORY.
struct proxy *proxy_create(const char *name, struct metrics *metrics, struct error *error);
struct proxy *proxy_hold(struct proxy *proxy);
void proxy_drop(struct proxy **proxy);

// One more connection, if there are fewer than `limit` (0: as many as come); and one less.
bool proxy_enter(struct proxy *proxy, int64_t limit);
void proxy_leave(struct proxy *proxy);

// Takes references of its own to `proxy` and `config`, takes over the tls_contexts (on success; they are empty then),
// and opens the connection log.
struct generation *generation_create(struct proxy *proxy, const struct config *config,
                                     const struct proxy_config *settings, struct tls_contexts *tls_contexts,
                                     struct error *error);
struct generation *generation_hold(struct generation *generation);
void generation_drop(struct generation **generation);

// It is in force: when its certificates expire is what is reported from now on.
void generation_publish(const struct generation *generation);

#endif
