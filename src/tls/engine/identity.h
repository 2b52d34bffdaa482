// Who a peer is by its certificate, which has been verified: which of its names one of the authorized ones
// (base/peer_name.h) stands for, or else which name it goes by. libcrypto reads the certificate. Any thread, no state.

#ifndef BITFLOW_SRC_TLS_ENGINE_IDENTITY_H
#define BITFLOW_SRC_TLS_ENGINE_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>

#include <openssl/x509.h>

// "uri:spiffe://example.org/ns/prod/sa/web": the kind, and the name as the certificate has it; cut with an ellipsis.
#define IDENTITY_SIZE 256

// Whether one of the names (the last one is followed by NULL) stands for one of the certificate's, which `out` gets. Of
// subjects with several common names none counts, as it cannot be told which one was checked by whom; of a URI of
// SPIFFE's, what X.509-SVID 2 and 4 say: it is the certificate's only URI, and that is no CA's. 1, 0, or below 0:
// libcrypto has failed.
int identity_find(X509 *certificate, const char *const *names, bool is_host, char out[IDENTITY_SIZE]);

// The first that it has of: a URI, a DNS name, its only common name. Empty: none that can be told.
void identity_describe(X509 *certificate, char out[IDENTITY_SIZE]);

#endif
