// A handshake with nobody, at the start: which of the functions that the program has in mbedTLS's place its SSL library
// really calls is decided when it is loaded, and can be seen only by having it do so. (arithmetic.c does the same for
// the arithmetic.)

#ifndef BITFLOW_SRC_TLS_ENGINE_TRIAL_HANDSHAKE_H
#define BITFLOW_SRC_TLS_ENGINE_TRIAL_HANDSHAKE_H

#include <stdbool.h>

#include "bitflow/base/error.h"

struct trial_result {
    bool has_key_exchange; // it comes to key_exchange.c
};

// After the arithmetic is ready; before there are other threads. False: it does not leave certificates to libcrypto,
// and nobody could be verified. ERROR_SYSTEM, ERROR_NO_MEMORY.
bool trial_handshake(struct trial_result *result, struct error *error);

#endif
