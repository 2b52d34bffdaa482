// A configuration with the certificates and keys that it names: the start, --check and a reload load it by the same
// function, and tell of what was found each in its way. The main thread's.

#ifndef BITFLOW_SERVER_LOADED_CONFIG_H
#define BITFLOW_SERVER_LOADED_CONFIG_H

#include <stdbool.h>

#include "bitflow/config/config.h"
#include "bitflow/config/diagnostics.h"
#include "bitflow/proxy/tls_contexts.h"

struct loaded_config {
    const struct config *config;
    struct tls_contexts *tls_contexts; // by the proxy's index
    struct diagnostics diagnostics;
    struct diagnostics host_diagnostics; // warnings that hold for every configuration: ciphers that libcrypto lacks
};

// Reads the file, and the certificates, keys and authorities that it names. False: it cannot be used, and the
// diagnostics say why, or the process is told to end. To be released either way.
bool loaded_config_load(struct loaded_config *loaded, const char *path);

// Gives back what nobody has taken out of it.
void loaded_config_release(struct loaded_config *loaded);

#endif
