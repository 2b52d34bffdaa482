// The TLS contexts of a configuration: what its tls_contexts' files held when they were last read. Loaded as a whole,
// with every problem reported where the configuration names the file; then each proxy's generation takes its own.
// Immutable afterwards; any thread.

#ifndef BITFLOW_PROXY_TLS_CONTEXTS_H
#define BITFLOW_PROXY_TLS_CONTEXTS_H

#include <stdbool.h>
#include <stddef.h>

#include "bitflow/config/config.h"
#include "bitflow/tls/tls_context.h"

// Of one proxy.
struct tls_contexts {
    struct tls_context *listener; // NULL: plain
    struct tls_context **targets; // by the target's index; NULL: plain
    size_t target_count;
};

// Of every proxy, by its index. NULL: there are errors.
struct tls_contexts *tls_contexts_load(const struct config *config, struct diagnostics *diagnostics);

// Warns of certificates that have expired or soon will, and of what else is odd. For a configuration that will be used:
// what is wrong with the files of one that is refused is not what is in force.
void tls_contexts_check(const struct tls_contexts *tls_contexts, const struct config *config,
                        struct diagnostics *diagnostics);

// Wipes the keys of what no generation has taken; `proxy_count` as in the configuration. Accepts NULL.
void tls_contexts_free(struct tls_contexts **tls_contexts, size_t proxy_count);

// Of one proxy, as a generation holds it.
void tls_contexts_release(struct tls_contexts *tls_contexts);

#endif
