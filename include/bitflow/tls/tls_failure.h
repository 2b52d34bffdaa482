// The one list of causes of a failed TLS handshake, for counting; the error's text mostly tells more. It feeds the
// enum, the names of metrics and, where there is no more to tell, that text.

#ifndef BITFLOW_TLS_TLS_FAILURE_H
#define BITFLOW_TLS_TLS_FAILURE_H

// X(constant, name in metrics, text for people)
#define TLS_FAILURES(X)                                                                                         \
    X(TLS_FAILURE_TIMEOUT, "timeout", "it took too long")                                                       \
    X(TLS_FAILURE_CLOSED, "closed", "the peer closed or reset the connection")                                  \
    X(TLS_FAILURE_CANCELLED, "cancelled", "the client that it was made for has left")                           \
    X(TLS_FAILURE_NOT_TLS, "not_tls", "the peer speaks something else")                                         \
    X(TLS_FAILURE_VERSION, "version", "no TLS version in common")                                               \
    X(TLS_FAILURE_CIPHER, "cipher", "no cipher suite, group or signature algorithm in common")                  \
    X(TLS_FAILURE_PROTOCOL, "protocol", "no protocol in common (ALPN)")                                         \
    X(TLS_FAILURE_SERVER_NAME, "server_name", "the server name is unknown, or changed during the handshake")    \
    X(TLS_FAILURE_CERTIFICATE_INVALID, "certificate_invalid", "the peer's certificate does not verify")         \
    X(TLS_FAILURE_CERTIFICATE_MISSING, "certificate_missing", "the peer sent no certificate")                   \
    X(TLS_FAILURE_CERTIFICATE_UNAUTHORIZED, "certificate_unauthorized",                                         \
      "the client's certificate has none of the authorized names")                                              \
    X(TLS_FAILURE_CERTIFICATE_REFUSED, "certificate_refused", "the peer refused our certificate, or wants one") \
    X(TLS_FAILURE_ALERT, "alert", "the peer ended it by another alert")                                         \
    X(TLS_FAILURE_RULES, "rules", "the peer broke the rules of TLS")                                            \
    X(TLS_FAILURE_OUT_OF_MEMORY, "out_of_memory", "out of memory")                                              \
    X(TLS_FAILURE_OTHER, "other", "anything else")

#define TLS_FAILURE_CONSTANT(constant, name, text) constant,
enum tls_failure { TLS_FAILURE_NONE, TLS_FAILURES(TLS_FAILURE_CONSTANT) TLS_FAILURE_COUNT };
#undef TLS_FAILURE_CONSTANT

// "none" where it did not fail.
const char *tls_failure_name(enum tls_failure failure);

#endif
