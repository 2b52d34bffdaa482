// Why a handshake failed, in plain words.

#include <string.h>

#include <mbedtls/asn1.h>
#include <mbedtls/ecp.h>
#include <mbedtls/error.h>
#include <mbedtls/md.h>
#include <mbedtls/pem.h>
#include <mbedtls/rsa.h>

#include "bitflow/wire/foreign.h"
#include "context_internal.h"
#include "handshake_internal.h"

static bool is_tls_record(const struct tls_handshake *handshake)
{
    return handshake->first_length >= 2 && handshake->first[0] >= 20 && handshake->first[0] <= 23 &&
           handshake->first[1] == 3;
}

// What came in place of TLS.
static void describe_stranger(const struct tls_handshake *handshake, const char *peer, struct error *error)
{
    const uint8_t *first = handshake->first;
    bool is_server = handshake->context->role == TLS_SERVER;
    bool is_text = true;
    for (size_t i = 0; i < handshake->first_length; i++)
        is_text = is_text && ((first[i] >= ' ' && first[i] < 0x7f) || first[i] == '\r' || first[i] == '\n');
    // Fewer bytes tell too little.
    bool is_known = handshake->first_length >= 4;
    switch (is_known ? foreign_protocol_of(first, handshake->first_length, NULL) : FOREIGN_UNKNOWN) {
    case FOREIGN_HTTP:
    case FOREIGN_HTTP2:
        error_set(error, ERROR_INVALID, "%s %s plain HTTP", peer, is_server ? "sent" : "answered in");
        break;
    case FOREIGN_SSH:
        error_set(error, ERROR_INVALID, "%s speaks SSH, not TLS", peer);
        break;
    case FOREIGN_PROXY_V1:
    case FOREIGN_PROXY_V2:
        error_set(error, ERROR_INVALID, "%s sent a PROXY protocol header, which is not expected here", peer);
        break;
    case FOREIGN_SSLV2:
        error_set(error, ERROR_INVALID, "%s sent an SSLv2 hello", peer);
        break;
    default:
        error_set(error, ERROR_INVALID, "%s sent %s, not TLS", peer, is_text ? "plain text" : "binary data");
        break;
    }
}

static void describe_socket(const struct tls_handshake *handshake, const char *peer, struct error *error)
{
    const char *what = handshake->end == SOCKET_TIMEOUT ? "did not finish the TLS handshake in time"
                                                        : "closed the connection during the TLS handshake";
    if (handshake->end == SOCKET_CANCELLED)
        error_set(error, ERROR_CANCELLED, "the client left");
    else if (handshake->end == SOCKET_FAILED)
        error_set_errno(error, handshake->os_errno, "the TLS handshake with %s failed", peer);
    else if (handshake->received == 0 && handshake->end == SOCKET_EOF)
        error_set(error, ERROR_INVALID, "%s closed the connection without a word of TLS", peer);
    else if (handshake->received == 0)
        error_set(error, ERROR_TIMEOUT, "%s sent nothing: the TLS handshake timed out", peer);
    else
        error_set(error, handshake->end == SOCKET_TIMEOUT ? ERROR_TIMEOUT : ERROR_INVALID, "%s %s", peer, what);
}

// mbedTLS has no function for the one that it has read itself.
static unsigned alert_of(const struct tls_handshake *handshake)
{
    return handshake->has_plain_alert ? handshake->plain_alert : handshake->ssl.MBEDTLS_PRIVATE(in_msg)[1];
}

static bool has_ended_by_alert(const struct tls_handshake *handshake, int status)
{
    return status == MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE ||
           (status == MBEDTLS_ERR_SSL_INVALID_MAC && handshake->has_plain_alert);
}

static void describe_alert(const struct tls_handshake *handshake, const char *peer, struct error *error)
{
    unsigned alert = alert_of(handshake);
    const char *name = tls_alert_name(alert);
    const char *words;
    switch (alert) {
    case MBEDTLS_SSL_ALERT_MSG_UNKNOWN_CA:
        words = "does not trust our certificate's CA";
        break;
    case MBEDTLS_SSL_ALERT_MSG_BAD_CERT:
    case MBEDTLS_SSL_ALERT_MSG_UNSUPPORTED_CERT:
    case MBEDTLS_SSL_ALERT_MSG_CERT_REVOKED:
    case MBEDTLS_SSL_ALERT_MSG_CERT_EXPIRED:
    case MBEDTLS_SSL_ALERT_MSG_CERT_UNKNOWN:
        words = "rejected our certificate";
        break;
    case MBEDTLS_SSL_ALERT_MSG_CERT_REQUIRED:
        words = "wants a certificate of us";
        break;
    case MBEDTLS_SSL_ALERT_MSG_PROTOCOL_VERSION:
        words = "speaks none of our TLS versions";
        break;
    case MBEDTLS_SSL_ALERT_MSG_NO_APPLICATION_PROTOCOL:
        words = "speaks none of our protocols (ALPN)";
        break;
    case MBEDTLS_SSL_ALERT_MSG_UNRECOGNIZED_NAME:
        words = "does not know the server name";
        break;
    case MBEDTLS_SSL_ALERT_MSG_HANDSHAKE_FAILURE:
    case MBEDTLS_SSL_ALERT_MSG_INSUFFICIENT_SECURITY:
        words = "found nothing acceptable in our offer";
        break;
    default:
        error_set(error, ERROR_INVALID, "%s ended the TLS handshake with the alert %s", peer, name);
        return;
    }
    error_set(error, ERROR_INVALID, "%s %s (alert %s)", peer, words, name);
}

struct status_words {
    int status;
    unsigned char alert;
    bool is_about_peer; // the peer's name comes first
    const char *text;
};

// mbedTLS says the same of a record that does not fit and of a client's key share in 1.3 that no secret comes of, which
// it finds out only when it has written its ServerHello.
static bool is_bad_share(const struct tls_handshake *handshake, int status)
{
    return status == MBEDTLS_ERR_SSL_BAD_INPUT_DATA && handshake->context->role == TLS_SERVER &&
           handshake->ssl.MBEDTLS_PRIVATE(state) == MBEDTLS_SSL_SERVER_HELLO;
}

static const struct status_words *find_words(const struct tls_handshake *handshake, int status)
{
    static const char unruly[] = "broke the rules of TLS";
    static const struct status_words bad_share = {
        MBEDTLS_ERR_SSL_BAD_INPUT_DATA, MBEDTLS_SSL_ALERT_MSG_ILLEGAL_PARAMETER, true,
        "broke the rules of TLS: its key share is no point that a secret could come of"};
    static const struct status_words words[] = {
        {MBEDTLS_ERR_SSL_BAD_PROTOCOL_VERSION, MBEDTLS_SSL_ALERT_MSG_PROTOCOL_VERSION, false,
         "no TLS version in common"},
        {MBEDTLS_ERR_SSL_HANDSHAKE_FAILURE, MBEDTLS_SSL_ALERT_MSG_HANDSHAKE_FAILURE, false,
         "no cipher suite, group or signature algorithm in common"},
        {MBEDTLS_ERR_SSL_NO_APPLICATION_PROTOCOL, MBEDTLS_SSL_ALERT_MSG_NO_APPLICATION_PROTOCOL, false,
         "no protocol in common (ALPN)"},
        {MBEDTLS_ERR_SSL_NO_CLIENT_CERTIFICATE, MBEDTLS_SSL_ALERT_MSG_HANDSHAKE_FAILURE, true, "sent no certificate"},
        {MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY, MBEDTLS_SSL_ALERT_MSG_USER_CANCELED, true,
         "ended the TLS handshake by close_notify"},
        {MBEDTLS_ERR_SSL_INVALID_MAC, MBEDTLS_SSL_ALERT_MSG_BAD_RECORD_MAC, true,
         "sent a record that does not decrypt"},
        {MBEDTLS_ERR_SSL_UNEXPECTED_MESSAGE, MBEDTLS_SSL_ALERT_MSG_UNEXPECTED_MESSAGE, true,
         "sent a message out of turn"},
        {MBEDTLS_ERR_SSL_INVALID_RECORD, MBEDTLS_SSL_ALERT_MSG_DECODE_ERROR, true, unruly},
        {MBEDTLS_ERR_SSL_DECODE_ERROR, MBEDTLS_SSL_ALERT_MSG_DECODE_ERROR, true, unruly},
        {MBEDTLS_ERR_SSL_ILLEGAL_PARAMETER, MBEDTLS_SSL_ALERT_MSG_ILLEGAL_PARAMETER, true, unruly},
        {MBEDTLS_ERR_SSL_UNSUPPORTED_EXTENSION, MBEDTLS_SSL_ALERT_MSG_UNSUPPORTED_EXT, true, unruly},
        {MBEDTLS_ERR_SSL_BAD_INPUT_DATA, MBEDTLS_SSL_ALERT_MSG_RECORD_OVERFLOW, true, "sent a record that is too long"},
        {MBEDTLS_ERR_SSL_BUFFER_TOO_SMALL, MBEDTLS_SSL_ALERT_MSG_RECORD_OVERFLOW, true,
         "sent a message that is too long"},
    };
    if (is_bad_share(handshake, status))
        return &bad_share;
    for (size_t i = 0; i < ARRAY_LENGTH(words); i++)
        if (words[i].status == status)
            return &words[i];
    return NULL;
}

// The peer's certificate is not its own. In 1.3 mbedTLS says so by no more than where it stopped.
static bool is_bad_signature(const struct tls_handshake *handshake, int status)
{
    int its_proof =
        handshake->context->role == TLS_SERVER ? MBEDTLS_SSL_CLIENT_CERTIFICATE_VERIFY : MBEDTLS_SSL_CERTIFICATE_VERIFY;
    return status == MBEDTLS_ERR_ECP_VERIFY_FAILED || status == MBEDTLS_ERR_RSA_VERIFY_FAILED ||
           (status == MBEDTLS_ERR_SSL_HANDSHAKE_FAILURE && handshake->ssl.MBEDTLS_PRIVATE(state) == its_proof);
}

bool tls_handshake_owes_alert(const struct tls_handshake *handshake, int status, unsigned char *alert)
{
    // Only to those who speak TLS, and not in answer to an alert.
    if (handshake->has_alerted || handshake->end != SOCKET_FINE || has_ended_by_alert(handshake, status) ||
        !is_tls_record(handshake))
        return false;
    const struct status_words *words = find_words(handshake, status);
    if (is_bad_signature(handshake, status))
        *alert = MBEDTLS_SSL_ALERT_MSG_DECRYPT_ERROR;
    else
        *alert = words != NULL ? words->alert : MBEDTLS_SSL_ALERT_MSG_INTERNAL_ERROR;
    return true;
}

bool tls_is_memory_error(int status)
{
    // A sum of what failed, in steps of 0x80, and of what failed below that.
    int high = -(-status & ~0x7f);
    int low = -(-status & 0x7f);
    return high == MBEDTLS_ERR_SSL_ALLOC_FAILED || high == MBEDTLS_ERR_X509_ALLOC_FAILED ||
           high == MBEDTLS_ERR_PK_ALLOC_FAILED || high == MBEDTLS_ERR_ECP_ALLOC_FAILED ||
           high == MBEDTLS_ERR_PEM_ALLOC_FAILED || high == MBEDTLS_ERR_MD_ALLOC_FAILED ||
           low == MBEDTLS_ERR_MPI_ALLOC_FAILED || low == MBEDTLS_ERR_ASN1_ALLOC_FAILED;
}

static enum tls_failure classify_alert(const struct tls_handshake *handshake)
{
    switch (alert_of(handshake)) {
    case MBEDTLS_SSL_ALERT_MSG_UNKNOWN_CA:
    case MBEDTLS_SSL_ALERT_MSG_BAD_CERT:
    case MBEDTLS_SSL_ALERT_MSG_UNSUPPORTED_CERT:
    case MBEDTLS_SSL_ALERT_MSG_CERT_REVOKED:
    case MBEDTLS_SSL_ALERT_MSG_CERT_EXPIRED:
    case MBEDTLS_SSL_ALERT_MSG_CERT_UNKNOWN:
    case MBEDTLS_SSL_ALERT_MSG_CERT_REQUIRED:
        return TLS_FAILURE_CERTIFICATE_REFUSED;
    case MBEDTLS_SSL_ALERT_MSG_PROTOCOL_VERSION:
        return TLS_FAILURE_VERSION;
    case MBEDTLS_SSL_ALERT_MSG_NO_APPLICATION_PROTOCOL:
        return TLS_FAILURE_PROTOCOL;
    case MBEDTLS_SSL_ALERT_MSG_UNRECOGNIZED_NAME:
        return TLS_FAILURE_SERVER_NAME;
    case MBEDTLS_SSL_ALERT_MSG_HANDSHAKE_FAILURE:
    case MBEDTLS_SSL_ALERT_MSG_INSUFFICIENT_SECURITY:
        return TLS_FAILURE_CIPHER;
    default:
        return TLS_FAILURE_ALERT;
    }
}

static enum tls_failure classify_status(const struct tls_handshake *handshake, int status)
{
    switch (status) {
    case MBEDTLS_ERR_X509_CERT_VERIFY_FAILED:
    case MBEDTLS_ERR_SSL_BAD_CERTIFICATE:
        return (handshake->verification.named & MBEDTLS_X509_BADCERT_MISSING) != 0 ? TLS_FAILURE_CERTIFICATE_MISSING
                                                                                   : TLS_FAILURE_CERTIFICATE_INVALID;
    case MBEDTLS_ERR_SSL_NO_CLIENT_CERTIFICATE:
        return TLS_FAILURE_CERTIFICATE_MISSING;
    case MBEDTLS_ERR_SSL_BAD_PROTOCOL_VERSION:
        return handshake->server_hello.version > SERVER_HELLO_VERSION ? TLS_FAILURE_RULES : TLS_FAILURE_VERSION;
    case MBEDTLS_ERR_SSL_HANDSHAKE_FAILURE:
        return is_bad_signature(handshake, status) ? TLS_FAILURE_CERTIFICATE_INVALID : TLS_FAILURE_CIPHER;
    case MBEDTLS_ERR_SSL_NO_APPLICATION_PROTOCOL:
        return TLS_FAILURE_PROTOCOL;
    default:
        if (is_bad_signature(handshake, status))
            return TLS_FAILURE_CERTIFICATE_INVALID;
        return find_words(handshake, status) != NULL ? TLS_FAILURE_RULES : TLS_FAILURE_OTHER;
    }
}

enum tls_failure tls_handshake_classify(const struct tls_handshake *handshake, int status)
{
    switch (handshake->end) {
    case SOCKET_TIMEOUT:
        return TLS_FAILURE_TIMEOUT;
    case SOCKET_CANCELLED:
        return TLS_FAILURE_CANCELLED;
    case SOCKET_EOF:
    case SOCKET_FAILED:
        return TLS_FAILURE_CLOSED;
    case SOCKET_FINE:
        break;
    }
    if (has_ended_by_alert(handshake, status))
        return classify_alert(handshake);
    if (tls_is_memory_error(status))
        return TLS_FAILURE_OUT_OF_MEMORY;
    if (handshake->first_length > 0 && !is_tls_record(handshake))
        return TLS_FAILURE_NOT_TLS;
    return classify_status(handshake, status);
}

const char *tls_failure_name(enum tls_failure failure)
{
#define TLS_FAILURE_NAME(constant, name, text) [constant] = name,
    static const char *const names[TLS_FAILURE_COUNT] = {[TLS_FAILURE_NONE] = "none", TLS_FAILURES(TLS_FAILURE_NAME)};
#undef TLS_FAILURE_NAME
    return names[failure];
}

static void describe_server_hello(const struct tls_handshake *handshake, struct error *error)
{
    unsigned version = handshake->server_hello.version;
    if (version >= 0x0300 && version < SERVER_HELLO_VERSION)
        error_set(error, ERROR_INVALID, "no TLS version in common: the target chose %s",
                  version == 0x0300   ? "SSL 3.0"
                  : version == 0x0301 ? "TLS 1.0"
                                      : "TLS 1.1");
    else
        error_set(error, ERROR_INVALID,
                  "the target broke the rules of TLS: its ServerHello has the version 0x%04x, where 1.2 and 1.3 both "
                  "have 0x%04x",
                  version, SERVER_HELLO_VERSION);
}

void tls_handshake_describe(struct tls_handshake *handshake, int status, struct error *error)
{
    const char *peer = handshake->context->role == TLS_SERVER ? "the client" : "the target";
    const char *high = mbedtls_high_level_strerr(status);
    const char *low = mbedtls_low_level_strerr(status);
    const struct status_words *words = find_words(handshake, status);
    if (handshake->end != SOCKET_FINE) {
        describe_socket(handshake, peer, error);
    } else if (has_ended_by_alert(handshake, status)) {
        describe_alert(handshake, peer, error);
    } else if (status == MBEDTLS_ERR_X509_CERT_VERIFY_FAILED || status == MBEDTLS_ERR_SSL_BAD_CERTIFICATE) {
        error_set(error, ERROR_INVALID, "%s",
                  tls_verify_reason(&handshake->verification, mbedtls_ssl_get_verify_result(&handshake->ssl)));
    } else if (tls_is_memory_error(status)) {
        error_set(error, ERROR_NO_MEMORY, "out of memory for a TLS handshake");
    } else if (handshake->first_length > 0 && !is_tls_record(handshake)) {
        describe_stranger(handshake, peer, error);
    } else if (status == MBEDTLS_ERR_SSL_ILLEGAL_PARAMETER && handshake->context->role == TLS_CLIENT &&
               mbedtls_ssl_get_version_number(&handshake->ssl) == MBEDTLS_SSL_VERSION_TLS1_2) {
        // RFC 8446, 4.2.3, lets a server do so; it is mbedTLS that does not go along.
        error_set(error, ERROR_INVALID,
                  "%s made a choice that we did not offer, such as an RSA-PSS signature in TLS 1.2", peer);
    } else if (is_bad_signature(handshake, status)) {
        error_set(error, ERROR_INVALID, "%s has not the key of its certificate: its signature is wrong", peer);
    } else if (handshake->server_hello.is_refused) {
        describe_server_hello(handshake, error);
    } else if (words != NULL) {
        error_set(error, ERROR_INVALID, "%s%s%s", words->is_about_peer ? peer : "", words->is_about_peer ? " " : "",
                  words->text);
    } else {
        error_set(error, ERROR_INVALID, "the TLS handshake with %s failed: %s%s%s (-0x%04x)", peer,
                  high != NULL ? high : "", high != NULL && low != NULL ? ": " : "", low != NULL ? low : "",
                  (unsigned)-status);
    }
}
