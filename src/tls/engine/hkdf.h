// HKDF-Expand-Label (RFC 8446 7.1), from which the keys, IVs and next secrets of TLS 1.3 come. No state; any thread.

#ifndef BITFLOW_SRC_TLS_ENGINE_HKDF_H
#define BITFLOW_SRC_TLS_ENGINE_HKDF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/tls/tls_record.h"

size_t tls_hash_size(enum tls_hash hash); // bytes

// With an empty context, for lengths up to the hash's and labels up to 26 bytes. `secret` is as long as the hash.
// False: no memory.
bool hkdf_expand_label(enum tls_hash hash, const uint8_t *secret, const char *label, uint8_t *out, size_t length);

#endif
