// TLS records after the handshake: two independent halves, a sender and a receiver, each owned by one thread (the pump
// that writes to, or reads from, that socket), each with its own key, IV and sequence number. No lock, no system call:
// a pure codec, bytes in, bytes out. RFC 8446 5 (records), 4.6.3 and 7.2 (KeyUpdate), 6 (alerts), 5.5 (limits); RFC
// 5246 6.2.3.3 with RFC 5288 (GCM) and RFC 7905 (ChaCha20-Poly1305) for TLS 1.2.

#ifndef BITFLOW_TLS_TLS_RECORD_H
#define BITFLOW_TLS_TLS_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/tls/aead.h"

enum tls_version { TLS_1_2, TLS_1_3 };
enum tls_hash { TLS_SHA256, TLS_SHA384 };

#define TLS_SECRET_MAX 48
#define TLS_HEADER_SIZE 5
#define TLS_PLAIN_MAX 16384                                    // 2^14: one record's plaintext
#define TLS_RECORD_MAX (TLS_HEADER_SIZE + TLS_PLAIN_MAX + 256) // RFC 8446 5.2; 1.2's explicit nonce and tag fit in it
// What sealing `length` bytes can need at most: records of TLS_PLAIN_MAX each, and before them what may be due (a
// KeyUpdate, or a warning alert).
#define TLS_SEALED_SIZE(length) \
    ((length) + ((length) / TLS_PLAIN_MAX + 1) * (TLS_HEADER_SIZE + 8 + AEAD_TAG_SIZE + 1) + 32)

// One direction's keys as the handshake left them. Wiped by whoever is done with them.
struct tls_keys {
    enum tls_version version;
    enum aead_algorithm algorithm;
    enum tls_hash hash;
    uint64_t sequence;              // of the next record
    uint8_t secret[TLS_SECRET_MAX]; // 1.3: the application traffic secret; key and IV are derived from it
    uint8_t key[AEAD_KEY_MAX];      // 1.2
    uint8_t iv[AEAD_NONCE_SIZE];    // 1.2: GCM's 4-byte salt, or ChaCha20's 12 bytes
};

enum tls_alert {
    TLS_ALERT_CLOSE_NOTIFY = 0,
    TLS_ALERT_UNEXPECTED_MESSAGE = 10,
    TLS_ALERT_BAD_RECORD_MAC = 20,
    TLS_ALERT_RECORD_OVERFLOW = 22,
    TLS_ALERT_ILLEGAL_PARAMETER = 47,
    TLS_ALERT_DECODE_ERROR = 50,
    TLS_ALERT_PROTOCOL_VERSION = 70,
    TLS_ALERT_INTERNAL_ERROR = 80,
    TLS_ALERT_USER_CANCELED = 90,
    TLS_ALERT_NO_RENEGOTIATION = 100,
};

// "bad_record_mac" and so on, also for those not listed above; a constant.
const char *tls_alert_name(unsigned alert);

struct tls_sender;
struct tls_sender *tls_sender_create(const struct tls_keys *keys, struct error *error);
void tls_sender_destroy(struct tls_sender **sender);

// Seals application data into as many records as it takes (one, empty, for no data); returns the bytes written to
// `out`, or 0 on failure (the connection is to be ended). `room` is TLS_SEALED_SIZE(length) at least; `plain` and `out`
// do not overlap. Puts a KeyUpdate first where one is due: requested by tls_sender_request_key_update(), or because the
// AEAD's limit comes near (1.3; in 1.2, where there is none, sealing fails at the limit).
size_t tls_sender_seal(struct tls_sender *sender, const uint8_t *plain, size_t length, uint8_t *out, size_t room);

// The plaintext bytes that the whole records in `sealed`, which this sender has made, stand for. (In 1.3 a KeyUpdate
// cannot be told from data: it counts as 5 bytes.)
size_t tls_sender_content_of(const struct tls_sender *sender, const uint8_t *sealed, size_t length);

// Only what would go before the next data, so that the peer need not wait for that. 0: nothing is due (or it failed, as
// the next call will say). `room` is TLS_ALERT_RECORD_MAX at least.
size_t tls_sender_seal_due(struct tls_sender *sender, uint8_t *out, size_t room);

// One alert record, or 0; the sender seals nothing after close_notify or a fatal alert (all but user_canceled and
// no_renegotiation). `room` is TLS_ALERT_RECORD_MAX at least.
#define TLS_ALERT_RECORD_MAX 64
size_t tls_sender_alert(struct tls_sender *sender, enum tls_alert alert, uint8_t *out, size_t room);

// The peer asked for our KeyUpdate (RFC 8446 4.6.3): it goes before the next data. May be called from the receiver's
// thread.
void tls_sender_request_key_update(struct tls_sender *sender);

// The peer asked for a renegotiation (1.2): a no_renegotiation warning goes before the next data. Any thread.
void tls_sender_refuse_renegotiation(struct tls_sender *sender);

struct tls_receiver;
// `is_client`: we are the client, so NewSessionTicket may come and is skipped (1.3). A 1.2 peer's wish to renegotiate,
// a HelloRequest or a ClientHello, is answered by no_renegotiation, which is for the caller to send: TLS_IGNORED comes
// with that `alert` then, or else with none (0).
struct tls_receiver *tls_receiver_create(const struct tls_keys *keys, bool is_client, struct error *error);
void tls_receiver_destroy(struct tls_receiver **receiver);

enum tls_event {
    TLS_DATA,         // plaintext, `length` bytes at `data`, inside the caller's buffer; may be empty
    TLS_NEEDS_MORE,   // no whole record yet
    TLS_KEY_UPDATE,   // the receiver has changed keys; `update_requested`: tell the sender
    TLS_IGNORED,      // a NewSessionTicket, a warning alert, ...
    TLS_CLOSE_NOTIFY, // the orderly end of the stream; what may come behind it is TLS_IGNORED
    TLS_PEER_ALERT,   // the peer ended it with `alert`
    TLS_FAILED,       // the record breaks the rules: send `alert`, and end; `reason` says why in words
};

struct tls_received {
    enum tls_event event;
    size_t consumed; // of the buffer
    uint8_t *data;
    size_t length;
    bool update_requested;
    unsigned alert;     // enum tls_alert, or a number of the peer's
    const char *reason; // a constant
};

// Takes one record off the front of `buffer` (length bytes), decrypting in place. Call again with the rest. After
// TLS_PEER_ALERT or TLS_FAILED, it says the same again. A buffer of TLS_RECORD_MAX holds any record.
struct tls_received tls_receiver_open(struct tls_receiver *receiver, uint8_t *buffer, size_t length);

#endif
