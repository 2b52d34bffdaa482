// Why a handshake failed. One table has, for each cause, what the peer is told (an alert), what is counted, and what is
// logged.

#include <mbedtls/asn1.h>
#include <mbedtls/ecp.h>
#include <mbedtls/error.h>
#include <mbedtls/md.h>
#include <mbedtls/pem.h>
#include <mbedtls/rsa.h>

#include "bitflow/base/compiler.h"
#include "bitflow/wire/foreign.h"
#include "handshake_internal.h"

struct failure_row {
    int cause;           // enum handshake_cause, an alert of the peer's (0 to 255), or a status of mbedTLS's (below 0)
    unsigned char alert; // that the peer is owed
    enum tls_failure failure;
    const char *peer_did; // words that follow "the client" or "the target"; NULL: `words` say it all
    const char *words;    // NULL: they are made below, or are the failure's in the list of all
};

#define ALERT(name) MBEDTLS_SSL_ALERT_MSG_##name
#define STATUS(name) MBEDTLS_ERR_SSL_##name
#define UNRULY "broke the rules of TLS"

static const struct failure_row rows[] = {
    {CAUSE_TIMEOUT, 0, TLS_FAILURE_TIMEOUT, NULL, NULL},
    {CAUSE_CANCELLED, 0, TLS_FAILURE_CANCELLED, NULL, NULL},
    {CAUSE_CLOSED, 0, TLS_FAILURE_CLOSED, NULL, NULL},
    {CAUSE_NOT_TLS, 0, TLS_FAILURE_NOT_TLS, NULL, NULL},
    {CAUSE_OUT_OF_MEMORY, ALERT(INTERNAL_ERROR), TLS_FAILURE_OUT_OF_MEMORY, NULL, "out of memory for a TLS handshake"},
    {CAUSE_BAD_CERTIFICATE, ALERT(INTERNAL_ERROR), TLS_FAILURE_CERTIFICATE_INVALID, NULL, NULL},
    {CAUSE_NO_CERTIFICATE, ALERT(INTERNAL_ERROR), TLS_FAILURE_CERTIFICATE_MISSING, NULL, NULL},
    {CAUSE_UNAUTHORIZED, ALERT(ACCESS_DENIED), TLS_FAILURE_CERTIFICATE_UNAUTHORIZED, NULL, NULL},
    {CAUSE_BAD_SIGNATURE, ALERT(DECRYPT_ERROR), TLS_FAILURE_CERTIFICATE_INVALID,
     "sent a signature that does not match its certificate", NULL},
    {CAUSE_BAD_KEY_SHARE, ALERT(ILLEGAL_PARAMETER), TLS_FAILURE_RULES, UNRULY ": its key share is not a valid point",
     NULL},
    // RFC 8446, 4.2.3, lets a server do so; it is mbedTLS that does not go along.
    {CAUSE_UNOFFERED_CHOICE, ALERT(ILLEGAL_PARAMETER), TLS_FAILURE_RULES, "made a choice that we did not offer", NULL},
    {CAUSE_OLD_VERSION, ALERT(PROTOCOL_VERSION), TLS_FAILURE_VERSION, NULL, NULL},
    {CAUSE_UNKNOWN_VERSION, ALERT(PROTOCOL_VERSION), TLS_FAILURE_RULES, NULL, NULL},
    {CAUSE_EARLY_DATA, ALERT(UNEXPECTED_MESSAGE), TLS_FAILURE_RULES, "sent more early data than is skipped (128 KiB)",
     NULL},
    {CAUSE_BIG_MESSAGE, ALERT(INTERNAL_ERROR), TLS_FAILURE_OTHER, NULL, NULL},
    {CAUSE_NO_NAME, 0, TLS_FAILURE_OTHER, NULL, "the target has no name that its certificate could be for"},
    {CAUSE_UNSENDABLE_NAME, 0, TLS_FAILURE_OTHER, NULL, "the target's name cannot be sent in TLS"},
    {CAUSE_NO_KEYS, ALERT(INTERNAL_ERROR), TLS_FAILURE_OTHER, NULL, "the TLS handshake left no keys"},

    {STATUS(BAD_PROTOCOL_VERSION), ALERT(PROTOCOL_VERSION), TLS_FAILURE_VERSION, NULL, NULL},
    {STATUS(HANDSHAKE_FAILURE), ALERT(HANDSHAKE_FAILURE), TLS_FAILURE_CIPHER, NULL, NULL},
    {STATUS(NO_APPLICATION_PROTOCOL), ALERT(NO_APPLICATION_PROTOCOL), TLS_FAILURE_PROTOCOL, NULL, NULL},
    {STATUS(NO_CLIENT_CERTIFICATE), ALERT(HANDSHAKE_FAILURE), TLS_FAILURE_CERTIFICATE_MISSING, "sent no certificate",
     NULL},
    {STATUS(PEER_CLOSE_NOTIFY), ALERT(USER_CANCELED), TLS_FAILURE_RULES, "ended the TLS handshake by close_notify",
     NULL},
    {STATUS(INVALID_MAC), ALERT(BAD_RECORD_MAC), TLS_FAILURE_RULES, "sent a record that does not decrypt", NULL},
    {STATUS(UNEXPECTED_MESSAGE), ALERT(UNEXPECTED_MESSAGE), TLS_FAILURE_RULES, "sent a message out of turn", NULL},
    {STATUS(INVALID_RECORD), ALERT(DECODE_ERROR), TLS_FAILURE_RULES, UNRULY, NULL},
    {STATUS(DECODE_ERROR), ALERT(DECODE_ERROR), TLS_FAILURE_RULES, UNRULY, NULL},
    {STATUS(ILLEGAL_PARAMETER), ALERT(ILLEGAL_PARAMETER), TLS_FAILURE_RULES, UNRULY, NULL},
    {STATUS(UNSUPPORTED_EXTENSION), ALERT(UNSUPPORTED_EXT), TLS_FAILURE_RULES, UNRULY, NULL},
    {STATUS(BAD_INPUT_DATA), ALERT(RECORD_OVERFLOW), TLS_FAILURE_RULES, "sent a record that is too long", NULL},
    {STATUS(BUFFER_TOO_SMALL), ALERT(RECORD_OVERFLOW), TLS_FAILURE_RULES, "sent a message that is too long", NULL},

    // Alerts get no answer.
    {ALERT(UNKNOWN_CA), 0, TLS_FAILURE_CERTIFICATE_REFUSED, "does not trust our certificate's CA", NULL},
    {ALERT(BAD_CERT), 0, TLS_FAILURE_CERTIFICATE_REFUSED, "rejected our certificate", NULL},
    {ALERT(UNSUPPORTED_CERT), 0, TLS_FAILURE_CERTIFICATE_REFUSED, "rejected our certificate", NULL},
    {ALERT(CERT_REVOKED), 0, TLS_FAILURE_CERTIFICATE_REFUSED, "rejected our certificate", NULL},
    {ALERT(CERT_EXPIRED), 0, TLS_FAILURE_CERTIFICATE_REFUSED, "rejected our certificate", NULL},
    {ALERT(CERT_UNKNOWN), 0, TLS_FAILURE_CERTIFICATE_REFUSED, "rejected our certificate", NULL},
    {ALERT(CERT_REQUIRED), 0, TLS_FAILURE_CERTIFICATE_REFUSED, "wants a certificate from us", NULL},
    {ALERT(PROTOCOL_VERSION), 0, TLS_FAILURE_VERSION, "speaks none of our TLS versions", NULL},
    {ALERT(NO_APPLICATION_PROTOCOL), 0, TLS_FAILURE_PROTOCOL, "speaks none of our protocols (ALPN)", NULL},
    {ALERT(UNRECOGNIZED_NAME), 0, TLS_FAILURE_SERVER_NAME, "does not know the server name", NULL},
    {ALERT(HANDSHAKE_FAILURE), 0, TLS_FAILURE_CIPHER, "found nothing acceptable in our offer", NULL},
    {ALERT(INSUFFICIENT_SECURITY), 0, TLS_FAILURE_CIPHER, "found nothing acceptable in our offer", NULL},
};

static const struct failure_row *find_row(int cause)
{
    static const struct failure_row other_alert = {0, 0, TLS_FAILURE_ALERT, NULL, NULL};
    static const struct failure_row other = {0, ALERT(INTERNAL_ERROR), TLS_FAILURE_OTHER, NULL, NULL};
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++)
        if (rows[i].cause == cause)
            return &rows[i];
    return cause >= 0 ? &other_alert : &other;
}

const char *tls_failure_name(enum tls_failure failure)
{
#define TLS_FAILURE_NAME(constant, name, text) [constant] = name,
    static const char *const names[TLS_FAILURE_COUNT] = {[TLS_FAILURE_NONE] = "none", TLS_FAILURES(TLS_FAILURE_NAME)};
#undef TLS_FAILURE_NAME
    return names[failure];
}

// Notes the cause for counting; nothing else does.
static const struct failure_row *note_failure(struct tls_info *info, int cause)
{
    const struct failure_row *row = find_row(cause);
    info->failure = row->failure;
    return row;
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

// ---- finding the cause

static bool is_tls_record(const struct tls_handshake *handshake)
{
    const struct record_follower *records = &handshake->records;
    return records->beginning_length >= 2 && records->beginning[0] >= 20 && records->beginning[0] <= 23 &&
           records->beginning[1] == 3;
}

// TLS 1.3: whether the peer's proof that it has its certificate's key is what is waited for. A server sends it between
// the handshake's secrets and the application's, a client behind both. mbedTLS says no more of a wrong one than that
// the handshake failed. (Nor of a wrong Finished, the message after it: only a peer that hashes wrongly sends one.)
static bool is_proof_due(const struct tls_handshake *handshake)
{
    bool has_application = handshake->keys.application.length > 0;
    bool has_certificate = handshake->verification.received > 0;
    return handshake->context->role == TLS_SERVER ? has_application && has_certificate
                                                  : handshake->keys.handshake.length > 0 && !has_application;
}

// Whether what ended it is a handshake message that does not fit into mbedTLS's buffer, wherever it noticed.
static bool is_big_message(const struct tls_handshake *handshake)
{
    const mbedtls_ssl_context *ssl = &handshake->ssl;
    return ssl->MBEDTLS_PRIVATE(badmac_seen_or_in_hsfraglen) > 0 &&
           ssl->MBEDTLS_PRIVATE(in_hslen) > MBEDTLS_SSL_IN_CONTENT_LEN &&
           ssl->MBEDTLS_PRIVATE(badmac_seen_or_in_hsfraglen) < ssl->MBEDTLS_PRIVATE(in_hslen);
}

// As far as it is mbedTLS that ended it.
static int cause_of_status(const struct tls_handshake *handshake, int status)
{
    bool is_server = handshake->context->role == TLS_SERVER;
    switch (status) {
    case MBEDTLS_ERR_X509_CERT_VERIFY_FAILED:
    case MBEDTLS_ERR_X509_UNKNOWN_VERSION: // as peer_certificates.c has them
    case MBEDTLS_ERR_X509_INVALID_FORMAT:
    case MBEDTLS_ERR_X509_FATAL_ERROR:
    case STATUS(BAD_CERTIFICATE):
        return handshake->verification.is_unauthorized ? CAUSE_UNAUTHORIZED : CAUSE_BAD_CERTIFICATE;
    case MBEDTLS_ERR_ECP_VERIFY_FAILED:
    case MBEDTLS_ERR_RSA_VERIFY_FAILED:
    case MBEDTLS_ERR_RSA_INVALID_PADDING: // likewise, where it is PSS
        return CAUSE_BAD_SIGNATURE;
    case STATUS(HANDSHAKE_FAILURE):
        return is_proof_due(handshake) ? CAUSE_BAD_SIGNATURE : status;
    case STATUS(ILLEGAL_PARAMETER):
        return !is_server && mbedtls_ssl_get_version_number(&handshake->ssl) == MBEDTLS_SSL_VERSION_TLS1_2
                   ? CAUSE_UNOFFERED_CHOICE
                   : status;
    case STATUS(BAD_PROTOCOL_VERSION):
        if (!handshake->server_hello.is_refused)
            return status;
        return handshake->server_hello.version > SERVER_HELLO_VERSION ? CAUSE_UNKNOWN_VERSION : CAUSE_OLD_VERSION;
    case STATUS(UNEXPECTED_MESSAGE):
        return handshake->early.is_exceeded ? CAUSE_EARLY_DATA : status;
    case STATUS(BAD_INPUT_DATA):
        // A record that is too long is not read to its end. Else it is a client's key share of which no secret came.
        return is_server && !record_follower_is_amid_record(&handshake->records) ? CAUSE_BAD_KEY_SHARE : status;
    default:
        return status;
    }
}

// TLS 1.3: a client that rejects our certificate may not have its keys in place yet. Its alert comes in clear then, and
// mbedTLS only says that it does not decrypt.
static bool has_ended_by_alert(const struct tls_handshake *handshake, int status)
{
    return status == STATUS(FATAL_ALERT_MESSAGE) ||
           (status == STATUS(INVALID_MAC) && handshake->records.has_plain_alert);
}

static int alert_of(const struct tls_handshake *handshake)
{
    const struct record_follower *records = &handshake->records;
    unsigned alert = UINT8_MAX; // IANA has none of this number
    enum tls_role peer = handshake->context->role == TLS_SERVER ? TLS_CLIENT : TLS_SERVER;
    if (records->has_plain_alert)
        alert = records->plain_alert;
    else
        (void)key_export_open_alert(&handshake->keys, peer, records->encrypted, records->record, records->length,
                                    &alert);
    return (int)alert;
}

static int cause_of(const struct tls_handshake *handshake, int status)
{
    static const int socket_causes[] = {[SOCKET_TIMEOUT] = CAUSE_TIMEOUT,
                                        [SOCKET_CANCELLED] = CAUSE_CANCELLED,
                                        [SOCKET_EOF] = CAUSE_CLOSED,
                                        [SOCKET_FAILED] = CAUSE_CLOSED};
    if (handshake->end != SOCKET_FINE)
        return socket_causes[handshake->end];
    if (has_ended_by_alert(handshake, status)) {
        // mbedTLS says so, too, where a target's list of certificates is empty.
        int alert = alert_of(handshake);
        bool is_none = alert == UINT8_MAX && handshake->context->role == TLS_CLIENT &&
                       handshake->verification.received == 0 && handshake->keys.handshake.length > 0;
        return is_none ? CAUSE_NO_CERTIFICATE : alert;
    }
    if (tls_is_memory_error(status))
        return CAUSE_OUT_OF_MEMORY;
    if (handshake->records.beginning_length > 0 && !is_tls_record(handshake))
        return CAUSE_NOT_TLS;
    if ((status == STATUS(BAD_INPUT_DATA) || status == MBEDTLS_ERR_ERROR_CORRUPTION_DETECTED) &&
        is_big_message(handshake))
        return CAUSE_BIG_MESSAGE;
    return cause_of_status(handshake, status);
}

// ---- saying it

// What came in place of TLS.
static void describe_foreign(const struct tls_handshake *handshake, const char *peer, struct error *error)
{
    const uint8_t *first = handshake->records.beginning;
    size_t length = handshake->records.beginning_length;
    bool is_server = handshake->context->role == TLS_SERVER;
    bool is_text = true;
    for (size_t i = 0; i < length; i++)
        is_text = is_text && ((first[i] >= ' ' && first[i] < 0x7f) || first[i] == '\r' || first[i] == '\n');
    // Fewer bytes tell too little.
    bool is_known = length >= 4;
    switch (is_known ? foreign_protocol_of(first, length, NULL) : FOREIGN_UNKNOWN) {
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

// A client that has come and gone without a byte. A target that does so has failed.
static bool has_client_left(const struct tls_handshake *handshake)
{
    bool is_over = handshake->end == SOCKET_EOF ||
                   (handshake->end == SOCKET_FAILED && error_code_of_errno(handshake->os_errno) != ERROR_NO_MEMORY);
    return handshake->context->role == TLS_SERVER && handshake->received == 0 && is_over;
}

static void describe_socket(const struct tls_handshake *handshake, const char *peer, struct error *error)
{
    const char *what = handshake->end == SOCKET_TIMEOUT ? "did not finish the TLS handshake in time"
                                                        : "closed the connection during the TLS handshake";
    if (handshake->end == SOCKET_CANCELLED)
        error_set(error, ERROR_CANCELLED, "the client left");
    else if (has_client_left(handshake))
        error_set(error, ERROR_CANCELLED, "%s closed the connection without a word of TLS", peer);
    else if (handshake->end == SOCKET_FAILED)
        error_set_errno(error, handshake->os_errno, "the TLS handshake with %s failed", peer);
    else if (handshake->received == 0 && handshake->end == SOCKET_EOF) // the target
        error_set(error, ERROR_INVALID, "%s closed the connection without a word of TLS", peer);
    else if (handshake->received == 0)
        error_set(error, ERROR_TIMEOUT, "%s sent nothing: the TLS handshake timed out", peer);
    else
        error_set(error, handshake->end == SOCKET_TIMEOUT ? ERROR_TIMEOUT : ERROR_INVALID, "%s %s", peer, what);
}

static void describe_big_message(const struct tls_handshake *handshake, const char *peer, struct error *error)
{
    // The message is put together behind the first record's header and its number.
    enum { AT = 8 + TLS_HEADER_SIZE };
    unsigned type = handshake->ssl.MBEDTLS_PRIVATE(in_buf)[AT];
    error_set(error, ERROR_INVALID, "%s's %s message is larger than 16 KiB, more than mbedTLS takes", peer,
              type == MBEDTLS_SSL_HS_CERTIFICATE           ? "Certificate"
              : type == MBEDTLS_SSL_HS_CERTIFICATE_REQUEST ? "CertificateRequest"
              : type == MBEDTLS_SSL_HS_CLIENT_HELLO        ? "ClientHello"
                                                           : "handshake");
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

// Words that need nothing but the table.
static void describe_row(const struct failure_row *row, struct error *error)
{
#define TLS_FAILURE_TEXT(constant, name, text) [constant] = text,
    static const char *const texts[TLS_FAILURE_COUNT] = {TLS_FAILURES(TLS_FAILURE_TEXT)};
#undef TLS_FAILURE_TEXT
    enum error_code code = row->cause == CAUSE_OUT_OF_MEMORY ? ERROR_NO_MEMORY
                           : row->cause == CAUSE_NO_KEYS     ? ERROR_SYSTEM
                                                             : ERROR_INVALID;
    error_set(error, code, "%s", row->words != NULL ? row->words : texts[row->failure]);
}

static void describe(struct tls_handshake *handshake, const struct failure_row *row, int cause, int status,
                     struct error *error)
{
    const char *peer = handshake->context->role == TLS_SERVER ? "the client" : "the target";
    const char *high = mbedtls_high_level_strerr(status);
    const char *low = mbedtls_low_level_strerr(status);
    bool is_alert = cause >= 0 && cause < CAUSE_TIMEOUT;
    if (cause == CAUSE_TIMEOUT || cause == CAUSE_CANCELLED || cause == CAUSE_CLOSED)
        describe_socket(handshake, peer, error);
    else if (cause == CAUSE_NOT_TLS)
        describe_foreign(handshake, peer, error);
    else if (cause == CAUSE_BAD_CERTIFICATE || cause == CAUSE_NO_CERTIFICATE || cause == CAUSE_UNAUTHORIZED)
        error_set(error, ERROR_INVALID, "%s",
                  tls_verify_reason(&handshake->verification, cause == CAUSE_NO_CERTIFICATE
                                                                  ? MBEDTLS_X509_BADCERT_MISSING
                                                                  : mbedtls_ssl_get_verify_result(&handshake->ssl)));
    else if (cause == CAUSE_OLD_VERSION || cause == CAUSE_UNKNOWN_VERSION)
        describe_server_hello(handshake, error);
    else if (cause == CAUSE_BIG_MESSAGE)
        describe_big_message(handshake, peer, error);
    else if (is_alert && row->peer_did != NULL)
        error_set(error, ERROR_INVALID, "%s %s (alert %s)", peer, row->peer_did, tls_alert_name((unsigned)cause));
    else if (is_alert)
        error_set(error, ERROR_INVALID, "%s ended the TLS handshake with the alert %s", peer,
                  tls_alert_name((unsigned)cause));
    else if (row->peer_did != NULL)
        error_set(error, ERROR_INVALID, "%s %s", peer, row->peer_did);
    else if (row->failure != TLS_FAILURE_OTHER)
        describe_row(row, error);
    else
        error_set(error, ERROR_INVALID, "the TLS handshake with %s failed: %s%s%s (-0x%04x)", peer,
                  high != NULL ? high : "", high != NULL && low != NULL ? ": " : "", low != NULL ? low : "",
                  (unsigned)-status);
}

bool handshake_fail(struct tls_handshake *handshake, int status, struct error *error, unsigned char *alert)
{
    int cause = cause_of(handshake, status);
    const struct failure_row *row = note_failure(handshake->info, cause);
    describe(handshake, row, cause, status, error);
    *alert = row->alert;
    // Only to those who speak TLS, and not in answer to an alert.
    return !handshake->has_alerted && handshake->end == SOCKET_FINE && !has_ended_by_alert(handshake, status) &&
           is_tls_record(handshake);
}

unsigned char handshake_fail_with(struct tls_info *info, enum handshake_cause cause, struct error *error)
{
    const struct failure_row *row = note_failure(info, (int)cause);
    describe_row(row, error);
    return row->alert;
}
