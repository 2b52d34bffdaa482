// Our record halves and OpenSSL's libssl, after a real handshake: every suite, in both roles.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <openssl/err.h>

#include "bitflow/base/compiler.h"
#include "bitflow/tls/aead.h"
#include "libssl_peer.h"

static const struct libssl_suite suites[] = {
    {TLS_1_3, AEAD_AES_128_GCM, TLS_SHA256, "TLS_AES_128_GCM_SHA256"},
    {TLS_1_3, AEAD_AES_256_GCM, TLS_SHA384, "TLS_AES_256_GCM_SHA384"},
    {TLS_1_3, AEAD_CHACHA20_POLY1305, TLS_SHA256, "TLS_CHACHA20_POLY1305_SHA256"},
    {TLS_1_2, AEAD_AES_128_GCM, TLS_SHA256, "ECDHE-ECDSA-AES128-GCM-SHA256"},
    {TLS_1_2, AEAD_AES_256_GCM, TLS_SHA384, "ECDHE-ECDSA-AES256-GCM-SHA384"},
    {TLS_1_2, AEAD_CHACHA20_POLY1305, TLS_SHA256, "ECDHE-ECDSA-CHACHA20-POLY1305"},
};

#define DATA_MAX 100000
static uint8_t data[DATA_MAX];

// Counts of what came besides data.
struct others {
    size_t ignored;
    size_t key_updates;
    size_t requests;
    unsigned alert; // with something ignored
};

static void send_to_peer(struct libssl_peer *peer, size_t length)
{
    static uint8_t sealed[TLS_SEALED_SIZE(DATA_MAX)];
    static uint8_t got[DATA_MAX];
    size_t written = tls_sender_seal(peer->sender, data, length, sealed, sizeof sealed);
    assert_true(written > 0);
    assert_int_equal(BIO_write(peer->to_it, sealed, (int)written), written);
    size_t read = 0;
    while (read < length) {
        size_t part;
        assert_int_equal(SSL_read_ex(peer->ssl, got + read, sizeof got - read, &part), 1);
        read += part;
    }
    assert_int_equal(read, length);
    assert_memory_equal(got, data, length);
}

// Takes what the peer has written, up to its last byte or to the first event that is neither data nor ignored nor a
// KeyUpdate.
static struct tls_received take_all(struct libssl_peer *peer, uint8_t *got, size_t *length, struct others *others)
{
    uint8_t *bytes;
    size_t left = (size_t)BIO_get_mem_data(peer->from_it, (char **)&bytes);
    struct tls_received received = {.event = TLS_NEEDS_MORE};
    *others = (struct others){0};
    *length = 0;
    while (left > 0) {
        received = tls_receiver_open(peer->receiver, bytes, left);
        if (received.event == TLS_DATA) {
            assert_true(received.length <= DATA_MAX - *length);
            memcpy(got + *length, received.data, received.length);
            *length += received.length;
        } else if (received.event == TLS_KEY_UPDATE) {
            others->key_updates++;
            others->requests += received.update_requested;
            if (received.update_requested)
                tls_sender_request_key_update(peer->sender);
        } else if (received.event == TLS_IGNORED) {
            others->ignored++;
            others->alert |= received.alert;
        } else {
            break;
        }
        bytes += received.consumed;
        left -= received.consumed;
    }
    (void)BIO_reset(peer->from_it);
    return received;
}

static struct others receive_from_peer(struct libssl_peer *peer, size_t length)
{
    static uint8_t got[DATA_MAX];
    size_t written;
    if (length > 0)
        assert_int_equal(SSL_write_ex(peer->ssl, data, length, &written), 1);
    struct others others;
    size_t got_length;
    struct tls_received received = take_all(peer, got, &got_length, &others);
    if (received.event != TLS_DATA && received.event != TLS_KEY_UPDATE && received.event != TLS_IGNORED)
        fail_msg("event %d: %s", received.event, received.reason);
    assert_int_equal(got_length, length);
    assert_memory_equal(got, data, length);
    return others;
}

static void expect_closed(struct libssl_peer *peer)
{
    uint8_t got[16];
    uint8_t sealed[TLS_ALERT_RECORD_MAX];
    size_t length;
    struct others others;
    assert_true(SSL_shutdown(peer->ssl) >= 0);
    assert_int_equal(take_all(peer, got, &length, &others).event, TLS_CLOSE_NOTIFY);
    size_t written = tls_sender_alert(peer->sender, TLS_ALERT_CLOSE_NOTIFY, sealed, sizeof sealed);
    assert_int_equal(BIO_write(peer->to_it, sealed, (int)written), written);
    assert_int_equal(SSL_shutdown(peer->ssl), 1);
    assert_int_equal(SSL_get_shutdown(peer->ssl), SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
}

static void test_data_and_close_notify_pass_both_ways(void **state)
{
    (void)state;
    static const size_t lengths[] = {1, 2, 1000, 16383, 16384, 16385, DATA_MAX};
    for (size_t i = 0; i < ARRAY_LENGTH(suites) * 2; i++) {
        const struct libssl_suite *suite = &suites[i / 2];
        bool is_client = i % 2 == 0;
        struct libssl_peer peer;
        libssl_peer_open(&peer, suite, is_client);
        // The server has sent two tickets behind its handshake.
        struct others others = receive_from_peer(&peer, 1);
        assert_int_equal(others.ignored, is_client && suite->version == TLS_1_3 ? 2 : 0);
        for (size_t k = 0; k < ARRAY_LENGTH(lengths); k++) {
            send_to_peer(&peer, lengths[k]);
            receive_from_peer(&peer, lengths[k]);
        }
        // Small records, and in 1.3 padded ones.
        assert_int_equal(SSL_set_max_send_fragment(peer.ssl, 512), 1);
        receive_from_peer(&peer, 10000);
        assert_int_equal(SSL_set_max_send_fragment(peer.ssl, 16384), 1);
        assert_int_equal(SSL_set_block_padding(peer.ssl, 4096), 1);
        receive_from_peer(&peer, 100);
        receive_from_peer(&peer, 50000);
        expect_closed(&peer);
        libssl_peer_close(&peer);
    }
}

static void test_key_updates_of_either_side_are_followed(void **state)
{
    (void)state;
    for (size_t i = 0; i < 6; i++) {
        struct libssl_peer peer;
        libssl_peer_open(&peer, &suites[i / 2], i % 2 == 0);
        receive_from_peer(&peer, 1);
        for (size_t round = 0; round < 20; round++) {
            bool is_requested = round % 3 == 0;
            if (round % 2 == 0) {
                assert_int_equal(
                    SSL_key_update(peer.ssl, is_requested ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED),
                    1);
                struct others others = receive_from_peer(&peer, 20000);
                assert_int_equal(others.key_updates, 1);
                assert_int_equal(others.requests, is_requested);
            } else {
                // Ours, of our own will.
                tls_sender_request_key_update(peer.sender);
            }
            send_to_peer(&peer, 20000);
            send_to_peer(&peer, 3);
            receive_from_peer(&peer, 3);
        }
        expect_closed(&peer);
        libssl_peer_close(&peer);
    }
}

// A record damaged on its way: the peer tells why it ends, and we understand it; and the other way round.
static void test_a_damaged_record_is_answered_by_an_alert(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(suites) * 2; i++) {
        struct libssl_peer peer;
        uint8_t bytes[TLS_SEALED_SIZE(10)];
        size_t length;
        struct others others;
        libssl_peer_open(&peer, &suites[i / 2], i % 2 == 0);
        receive_from_peer(&peer, 1);
        size_t written = tls_sender_seal(peer.sender, data, 10, bytes, sizeof bytes);
        bytes[written - 1] ^= 1;
        assert_int_equal(BIO_write(peer.to_it, bytes, (int)written), written);
        assert_true(SSL_read(peer.ssl, bytes, sizeof bytes) <= 0);
        ERR_clear_error();
        struct tls_received received = take_all(&peer, bytes, &length, &others);
        assert_int_equal(received.event, TLS_PEER_ALERT);
        assert_string_equal(received.reason, "bad_record_mac");
        libssl_peer_close(&peer);

        libssl_peer_open(&peer, &suites[i / 2], i % 2 == 0);
        written = tls_sender_alert(peer.sender, TLS_ALERT_BAD_RECORD_MAC, bytes, sizeof bytes);
        assert_int_equal(BIO_write(peer.to_it, bytes, (int)written), written);
        assert_true(SSL_read(peer.ssl, bytes, sizeof bytes) <= 0);
        assert_int_equal(ERR_GET_REASON(ERR_peek_error()), SSL_R_SSLV3_ALERT_BAD_RECORD_MAC);
        ERR_clear_error();
        libssl_peer_close(&peer);
    }
}

// 1.2: the peer wants to renegotiate, and is told that it cannot.
static void test_renegotiation_is_refused_by_either_side(void **state)
{
    (void)state;
    for (size_t i = 6; i < ARRAY_LENGTH(suites) * 2; i++) {
        struct libssl_peer peer;
        uint8_t bytes[TLS_SEALED_SIZE(10)];
        libssl_peer_open(&peer, &suites[i / 2], i % 2 == 0);
        assert_int_equal(SSL_renegotiate(peer.ssl), 1);
        (void)SSL_do_handshake(peer.ssl);
        struct others others = receive_from_peer(&peer, 0);
        assert_int_equal(others.ignored, 1);
        assert_int_equal(others.alert, TLS_ALERT_NO_RENEGOTIATION);
        tls_sender_refuse_renegotiation(peer.sender);
        size_t written = tls_sender_seal(peer.sender, data, 10, bytes, sizeof bytes);
        assert_int_equal(BIO_write(peer.to_it, bytes, (int)written), written);
        assert_true(SSL_read(peer.ssl, bytes, sizeof bytes) <= 0);
        assert_int_equal(ERR_GET_REASON(ERR_peek_error()), SSL_R_NO_RENEGOTIATION);
        ERR_clear_error();
        libssl_peer_close(&peer);
    }
}

int main(void)
{
    if (!aead_prepare(NULL))
        return 1;
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 31 + i / 256);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_data_and_close_notify_pass_both_ways),
        cmocka_unit_test(test_key_updates_of_either_side_are_followed),
        cmocka_unit_test(test_a_damaged_record_is_answered_by_an_alert),
        cmocka_unit_test(test_renegotiation_is_refused_by_either_side),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
