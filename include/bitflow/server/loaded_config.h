// A configuration with the certificates and keys that it names: the start, --check and a reload load it by the same
// function, and tell of what was found each in its way. The main thread's.

#ifndef BITFLOW_SERVER_LOADED_CONFIG_H
#define BITFLOW_SERVER_LOADED_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "bitflow/config/config.h"
#include "bitflow/config/diagnostics.h"
#include "bitflow/proxy/tls_contexts.h"

struct loaded_config {
    const struct config *config;
    int64_t since;                     // clock_wall() before the first file was read
    struct tls_contexts *tls_contexts; // by the proxy's index
    uint64_t sentry_authority;         // what loaded_config_check_sentry_authority() has said of it
    struct diagnostics diagnostics;
    struct diagnostics host_diagnostics; // warnings that hold for every configuration: ciphers that libcrypto lacks
};

// Reads the file, and the certificates, keys and authorities that it names. False: it cannot be used, and the
// diagnostics say why, or the process is told to end. To be released either way.
bool loaded_config_load(struct loaded_config *loaded, const char *path);

// What a client that trusts sentry_authority would make of it; libcurl reads the file itself, each time it connects.
// Returns another number (base/hash.h) where the file holds something else; 0: there is none that is used.
uint64_t loaded_config_check_sentry_authority(const struct config *config, struct diagnostics *diagnostics);

// Gives back what nobody has taken out of it.
void loaded_config_release(struct loaded_config *loaded);

#endif
