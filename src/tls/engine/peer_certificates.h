// The peer's certificates, on their way from mbedTLS's handshake to libcrypto's judgement. mbedTLS's library parses and
// verifies them by two functions that it calls through the dynamic linker, as it does with its arithmetic
// (arithmetic.h); the program has them itself. So mbedTLS sees the key of the peer's own certificate, which has to
// prove itself, and nothing else of what a stranger sends; it needs to understand no extension, order or algorithm.

#ifndef BITFLOW_SRC_TLS_ENGINE_PEER_CERTIFICATES_H
#define BITFLOW_SRC_TLS_ENGINE_PEER_CERTIFICATES_H

#include <stdbool.h>
#include <stdint.h>

#include <mbedtls/x509_crt.h>

#include "bitflow/base/error.h"
#include "verify.h"

// More than any peer has reason to send, and little enough to be read.
#define PEER_CERTIFICATES_MAX 32

// Finds mbedTLS's own of these functions, at the start. Whether its library comes to ours, trial_handshake.h finds out.
// ERROR_SYSTEM.
bool peer_certificates_init(struct error *error);

// Between these, what this thread has mbedTLS parse are the peer's certificates; else they are files of ours.
void peer_certificates_begin(struct tls_verification *verification);
void peer_certificates_end(void);

// What a handshake's f_vrfy has to be, with its struct tls_verification, for libcrypto to judge. mbedTLS itself never
// calls it; if it does all the same, the peer is refused.
int peer_certificates_callback(void *argument, mbedtls_x509_crt *certificate, int depth, uint32_t *flags);

#endif
