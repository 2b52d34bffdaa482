// Which library does the arithmetic of mbedTLS's handshakes: curves, signatures and hashes. The program itself has the
// functions for it that mbedTLS's headers declare, done by libcrypto. mbedTLS's shared libraries call these in place of
// their own, unless they were linked so that they cannot (-Bsymbolic).

#ifndef BITFLOW_TLS_TLS_ARITHMETIC_H
#define BITFLOW_TLS_TLS_ARITHMETIC_H

#include <stdbool.h>

#include "bitflow/base/error.h"

// Prepares it, and finds out whether mbedTLS really calls it; by tls_init(), before there are other threads. Where it
// does not, its own functions do the work, which is not an error. ERROR_SYSTEM: libcrypto does not give the curves (for
// want of memory, too) or computes something else than it should, or mbedTLS's own functions are not found.
bool tls_arithmetic_init(struct error *error);

// For --version and the log, as tls_arithmetic_init() has found it: "libcrypto (OpenSSL 3.0.19)", "mbedTLS 3.6.6".
const char *tls_arithmetic_provider(void);

#endif
