// What a receiver of TLS records accepts, skips and refuses.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "tls_record_rig.h"

static uint8_t record[90000];

// A receiver, and a peer that keeps to no rule.
struct pair {
    struct tls_receiver *receiver;
    struct record_key key;
};

static void open_pair(struct pair *pair, const struct tls_keys *keys, bool is_client)
{
    struct error error = ERROR_INIT;
    pair->receiver = tls_receiver_create(keys, is_client, &error);
    if (pair->receiver == NULL || !record_key_init(&pair->key, keys, &error))
        fail_msg("%s", error.text);
}

static void close_pair(struct pair *pair)
{
    tls_receiver_destroy(&pair->receiver);
    record_key_release(&pair->key);
}

static struct tls_received send_padded(struct pair *pair, unsigned content, const void *data, size_t length,
                                       size_t padding)
{
    size_t written = forge(&pair->key, content, data, length, padding, record);
    struct tls_received received = tls_receiver_open(pair->receiver, record, written);
    if (received.event != TLS_FAILED && received.consumed != written)
        fail_msg("%zu of %zu bytes consumed", received.consumed, written);
    return received;
}

static struct tls_received send(struct pair *pair, unsigned content, const void *data, size_t length)
{
    return send_padded(pair, content, data, length, 0);
}

static void assert_failed(struct pair *pair, struct tls_received received, enum tls_alert alert, const char *reason)
{
    assert_int_equal(received.event, TLS_FAILED);
    assert_string_equal(received.reason, reason);
    assert_int_equal(received.alert, alert);
    // It stays so.
    received = tls_receiver_open(pair->receiver, record, sizeof record);
    assert_int_equal(received.event, TLS_FAILED);
    assert_int_equal(received.alert, alert);
    assert_string_equal(received.reason, reason);
}

static const struct tls_keys *suite_of(enum tls_version version)
{
    return &tls_suites[version == TLS_1_3 ? 0 : 3].keys;
}

// Every bit of a record, changed: nothing of it is ever taken for data.
static void test_no_changed_bit_passes_for_data(void **state)
{
    (void)state;
    static const uint8_t data[20] = "nobody changes this";
    for (size_t s = 0; s < TLS_SUITES; s++) {
        const struct tls_keys *keys = &tls_suites[s].keys;
        struct pair pair;
        open_pair(&pair, keys, true);
        uint8_t intact[128];
        size_t length = forge(&pair.key, TLS_APPLICATION_DATA, data, sizeof data, 3, intact);
        close_pair(&pair);
        for (size_t bit = 0; bit < length * 8; bit++) {
            open_pair(&pair, keys, true);
            memcpy(record, intact, length);
            record[bit / 8] ^= (uint8_t)(1 << bit % 8);
            struct tls_received received = tls_receiver_open(pair.receiver, record, length);
            size_t claimed = (size_t)record[3] << 8 | record[4];
            if (bit / 8 >= TLS_HEADER_SIZE || (bit / 8 < 3 && keys->version == TLS_1_3 && bit / 8 > 0)) {
                assert_failed(&pair, received, TLS_ALERT_BAD_RECORD_MAC, "a record that is forged or damaged");
            } else if (bit / 8 >= 3 && claimed > length - TLS_HEADER_SIZE && claimed <= TLS_PLAIN_MAX + 256) {
                assert_int_equal(received.event, TLS_NEEDS_MORE);
            } else {
                assert_int_equal(received.event, TLS_FAILED);
            }
            close_pair(&pair);
        }
        // Cut short anywhere, it is waited for; twice or out of its turn, it is refused.
        open_pair(&pair, keys, true);
        memcpy(record, intact, length);
        for (size_t cut = 0; cut < length; cut++)
            assert_int_equal(tls_receiver_open(pair.receiver, record, cut).event, TLS_NEEDS_MORE);
        assert_int_equal(tls_receiver_open(pair.receiver, record, length).event, TLS_DATA);
        memcpy(record, intact, length);
        assert_failed(&pair, tls_receiver_open(pair.receiver, record, length), TLS_ALERT_BAD_RECORD_MAC,
                      "a record that is forged or damaged");
        close_pair(&pair);
    }
}

static void test_a_wrong_header_is_refused(void **state)
{
    (void)state;
    static const struct {
        enum tls_version version;
        uint8_t header[TLS_HEADER_SIZE];
        enum tls_alert alert;
        const char *reason;
    } cases[] = {
        {TLS_1_3, {20, 3, 3, 0, 1}, TLS_ALERT_UNEXPECTED_MESSAGE, "a change_cipher_spec after the handshake"},
        {TLS_1_2, {20, 3, 3, 0, 1}, TLS_ALERT_UNEXPECTED_MESSAGE, "a change_cipher_spec after the handshake"},
        {TLS_1_3, {21, 3, 3, 0, 2}, TLS_ALERT_UNEXPECTED_MESSAGE, "a record that is not encrypted"},
        {TLS_1_3, {22, 3, 3, 0, 40}, TLS_ALERT_UNEXPECTED_MESSAGE, "a record that is not encrypted"},
        {TLS_1_3, {24, 3, 3, 0, 40}, TLS_ALERT_UNEXPECTED_MESSAGE, "bytes that are not a TLS record"},
        {TLS_1_2, {'G', 'E', 'T', ' ', '/'}, TLS_ALERT_UNEXPECTED_MESSAGE, "bytes that are not a TLS record"},
        {TLS_1_2, {23, 3, 1, 0, 40}, TLS_ALERT_PROTOCOL_VERSION, "a record of another version of TLS"},
        {TLS_1_3, {23, 3, 3, 0x41, 1}, TLS_ALERT_RECORD_OVERFLOW, "a record longer than TLS allows"},
        {TLS_1_2, {23, 3, 3, 0xff, 0xff}, TLS_ALERT_RECORD_OVERFLOW, "a record longer than TLS allows"},
        {TLS_1_3, {23, 3, 3, 0, 0}, TLS_ALERT_BAD_RECORD_MAC, "a record too short to be encrypted"},
        {TLS_1_3, {23, 3, 3, 0, 15}, TLS_ALERT_BAD_RECORD_MAC, "a record too short to be encrypted"},
        {TLS_1_2, {23, 3, 3, 0, 23}, TLS_ALERT_BAD_RECORD_MAC, "a record too short to be encrypted"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct pair pair;
        open_pair(&pair, suite_of(cases[i].version), true);
        memcpy(record, cases[i].header, TLS_HEADER_SIZE);
        assert_int_equal(tls_receiver_open(pair.receiver, record, 4).event, TLS_NEEDS_MORE);
        // The header alone tells.
        assert_failed(&pair, tls_receiver_open(pair.receiver, record, TLS_HEADER_SIZE), cases[i].alert,
                      cases[i].reason);
        close_pair(&pair);
    }
}

static void test_a_record_beyond_the_limit_is_refused(void **state)
{
    (void)state;
    static const uint8_t data[TLS_PLAIN_MAX + 2] = {1};
    static const char too_long[] = "a record longer than TLS allows";
    for (size_t s = 0; s < TLS_SUITES; s++) {
        struct pair pair;
        open_pair(&pair, &tls_suites[s].keys, true);
        struct tls_received received = send(&pair, TLS_APPLICATION_DATA, data, TLS_PLAIN_MAX);
        assert_int_equal(received.event, TLS_DATA);
        assert_int_equal(received.length, TLS_PLAIN_MAX);
        assert_memory_equal(received.data, data, TLS_PLAIN_MAX);
        assert_failed(&pair, send(&pair, TLS_APPLICATION_DATA, data, TLS_PLAIN_MAX + 1), TLS_ALERT_RECORD_OVERFLOW,
                      too_long);
        close_pair(&pair);
    }
    // Padding counts.
    struct pair pair;
    open_pair(&pair, suite_of(TLS_1_3), true);
    struct tls_received received = send_padded(&pair, TLS_APPLICATION_DATA, data, 1000, TLS_PLAIN_MAX - 1000);
    assert_int_equal(received.event, TLS_DATA);
    assert_int_equal(received.length, 1000);
    received = send_padded(&pair, TLS_APPLICATION_DATA, data, 1000, TLS_PLAIN_MAX - 999);
    assert_failed(&pair, received, TLS_ALERT_RECORD_OVERFLOW, too_long);
    close_pair(&pair);
}

static void test_a_content_that_has_no_place_is_refused(void **state)
{
    (void)state;
    static const char no_place[] = "a record of a kind that has no place after the handshake";
    static const char empty[] = "an empty record that is not data";
    static const char alert[] = "an alert that is not two bytes long";
    static const struct {
        enum tls_version version;
        unsigned content;
        const char *data;
        size_t length;
        enum tls_alert alert;
        const char *reason;
    } cases[] = {
        {TLS_1_3, 0, "", 0, TLS_ALERT_UNEXPECTED_MESSAGE, "a record of nothing but padding"},
        {TLS_1_3, TLS_CHANGE_CIPHER_SPEC, "\1", 1, TLS_ALERT_UNEXPECTED_MESSAGE, no_place},
        {TLS_1_3, 24, "x", 1, TLS_ALERT_UNEXPECTED_MESSAGE, no_place},
        {TLS_1_3, TLS_ALERT, "", 0, TLS_ALERT_UNEXPECTED_MESSAGE, empty},
        {TLS_1_3, TLS_HANDSHAKE, "", 0, TLS_ALERT_UNEXPECTED_MESSAGE, empty},
        {TLS_1_2, TLS_ALERT, "", 0, TLS_ALERT_UNEXPECTED_MESSAGE, empty},
        {TLS_1_2, TLS_HANDSHAKE, "", 0, TLS_ALERT_UNEXPECTED_MESSAGE, empty},
        {TLS_1_3, TLS_ALERT, "\1", 1, TLS_ALERT_DECODE_ERROR, alert},
        {TLS_1_2, TLS_ALERT, "\1\0\1", 3, TLS_ALERT_DECODE_ERROR, alert},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct pair pair;
        open_pair(&pair, suite_of(cases[i].version), true);
        struct tls_received received = send_padded(&pair, cases[i].content, cases[i].data, cases[i].length, 9);
        assert_failed(&pair, received, cases[i].alert, cases[i].reason);
        close_pair(&pair);
    }
}

static void test_each_alert_has_its_event(void **state)
{
    (void)state;
    static const struct {
        enum tls_version version;
        uint8_t alert[2];
        enum tls_event event;
    } cases[] = {
        {TLS_1_3, {1, 0}, TLS_CLOSE_NOTIFY}, {TLS_1_3, {2, 0}, TLS_CLOSE_NOTIFY}, {TLS_1_3, {1, 90}, TLS_IGNORED},
        {TLS_1_3, {1, 42}, TLS_PEER_ALERT}, // whatever the level says
        {TLS_1_3, {2, 20}, TLS_PEER_ALERT},  {TLS_1_3, {0, 200}, TLS_PEER_ALERT}, {TLS_1_2, {1, 0}, TLS_CLOSE_NOTIFY},
        {TLS_1_2, {1, 90}, TLS_IGNORED},     {TLS_1_2, {1, 100}, TLS_IGNORED},    {TLS_1_2, {1, 42}, TLS_IGNORED},
        {TLS_1_2, {2, 42}, TLS_PEER_ALERT},  {TLS_1_2, {2, 90}, TLS_PEER_ALERT},  {TLS_1_2, {7, 42}, TLS_PEER_ALERT},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct pair pair;
        open_pair(&pair, suite_of(cases[i].version), true);
        struct tls_received received = send(&pair, TLS_ALERT, cases[i].alert, 2);
        assert_int_equal(received.event, cases[i].event);
        if (received.event == TLS_PEER_ALERT) {
            assert_int_equal(received.alert, cases[i].alert[1]);
            assert_string_equal(received.reason, tls_alert_name(cases[i].alert[1]));
            received = tls_receiver_open(pair.receiver, record, 77);
            assert_int_equal(received.event, TLS_PEER_ALERT);
            assert_int_equal(received.alert, cases[i].alert[1]);
            assert_int_equal(received.consumed, 0);
        } else if (received.event == TLS_CLOSE_NOTIFY) {
            // What follows is not even looked at (RFC 8446 6.1).
            assert_int_equal(tls_receiver_open(pair.receiver, record, 0).event, TLS_NEEDS_MORE);
            received = tls_receiver_open(pair.receiver, record, 77);
            assert_int_equal(received.event, TLS_IGNORED);
            assert_int_equal(received.consumed, 77);
        } else {
            assert_int_equal(received.alert, 0);
            assert_int_equal(send(&pair, TLS_APPLICATION_DATA, "x", 1).event, TLS_DATA);
        }
        close_pair(&pair);
    }
}

#define MESSAGE(text) text, sizeof(text) - 1

static void test_each_handshake_message_has_its_event(void **state)
{
    (void)state;
    static const char no_place[] = "a handshake message that has no place after the handshake";
    static const char wrong_length[] = "a handshake message of the wrong length";
    static const char too_large[] = "a handshake message larger than 128 KiB";
    static const struct {
        enum tls_version version;
        bool is_client;
        const char *message;
        size_t length;
        enum tls_event event;
        enum tls_alert alert;
        const char *reason;
    } cases[] = {
        {TLS_1_3, true,
         MESSAGE("\x04\0\0\x03"
                 "abc"),
         TLS_IGNORED, 0, NULL},
        {TLS_1_3, true,
         MESSAGE("\x04\0\0\x01"
                 "a\x04\0\0\x01"
                 "b"),
         TLS_IGNORED, 0, NULL},
        {TLS_1_3, true,
         MESSAGE("\x04\0\0\x01"
                 "a\x18\0\0\x01\0"),
         TLS_KEY_UPDATE, 0, NULL},
        {TLS_1_3, false, MESSAGE("\x18\0\0\x01\0"), TLS_KEY_UPDATE, 0, NULL},
        {TLS_1_3, false,
         MESSAGE("\x04\0\0\x03"
                 "abc"),
         TLS_FAILED, TLS_ALERT_UNEXPECTED_MESSAGE, no_place},
        {TLS_1_3, true, MESSAGE("\x0d\0\0\0"), TLS_FAILED, TLS_ALERT_UNEXPECTED_MESSAGE, no_place},
        {TLS_1_3, true, MESSAGE("\0\0\0\0"), TLS_FAILED, TLS_ALERT_UNEXPECTED_MESSAGE, no_place},
        {TLS_1_3, false, MESSAGE("\x01\0\0\0"), TLS_FAILED, TLS_ALERT_UNEXPECTED_MESSAGE, no_place},
        {TLS_1_3, true, MESSAGE("\x18\0\0\0"), TLS_FAILED, TLS_ALERT_DECODE_ERROR, wrong_length},
        {TLS_1_3, true, MESSAGE("\x18\0\0\x02\0\0"), TLS_FAILED, TLS_ALERT_DECODE_ERROR, wrong_length},
        {TLS_1_3, true, MESSAGE("\x18\0\0\x01\x02"), TLS_FAILED, TLS_ALERT_ILLEGAL_PARAMETER,
         "a KeyUpdate that neither asks for one nor does not"},
        {TLS_1_3, true, MESSAGE("\x18\0\0\x01\0\x04"), TLS_FAILED, TLS_ALERT_UNEXPECTED_MESSAGE,
         "a KeyUpdate that does not end its record"},
        {TLS_1_3, true, MESSAGE("\x18\0\0\x01\0\x18\0\0\x01\0"), TLS_FAILED, TLS_ALERT_UNEXPECTED_MESSAGE,
         "a KeyUpdate that does not end its record"},
        {TLS_1_3, true, MESSAGE("\x04\x02\0\x01"), TLS_FAILED, TLS_ALERT_DECODE_ERROR, too_large},
        {TLS_1_2, true, MESSAGE("\0\0\0\0"), TLS_IGNORED, TLS_ALERT_NO_RENEGOTIATION, NULL},
        {TLS_1_2, false, MESSAGE("\x01\0\0\x02xy"), TLS_IGNORED, TLS_ALERT_NO_RENEGOTIATION, NULL},
        {TLS_1_2, true, MESSAGE("\0\0\0\x01x"), TLS_FAILED, TLS_ALERT_DECODE_ERROR, wrong_length},
        {TLS_1_2, false, MESSAGE("\0\0\0\0"), TLS_FAILED, TLS_ALERT_UNEXPECTED_MESSAGE, no_place},
        {TLS_1_2, true, MESSAGE("\x01\0\0\x02xy"), TLS_FAILED, TLS_ALERT_UNEXPECTED_MESSAGE, no_place},
        {TLS_1_2, true,
         MESSAGE("\x04\0\0\x03"
                 "abc"),
         TLS_FAILED, TLS_ALERT_UNEXPECTED_MESSAGE, no_place},
        {TLS_1_2, true, MESSAGE("\x18\0\0\x01\0"), TLS_FAILED, TLS_ALERT_UNEXPECTED_MESSAGE, no_place},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct pair pair;
        open_pair(&pair, suite_of(cases[i].version), cases[i].is_client);
        struct tls_received received = send(&pair, TLS_HANDSHAKE, cases[i].message, cases[i].length);
        if (cases[i].event == TLS_FAILED) {
            assert_failed(&pair, received, cases[i].alert, cases[i].reason);
        } else {
            assert_int_equal(received.event, cases[i].event);
            assert_int_equal(received.alert, cases[i].alert);
            assert_false(received.update_requested);
            if (received.event == TLS_KEY_UPDATE)
                assert_true(record_key_update(&pair.key, NULL));
            assert_int_equal(send(&pair, TLS_APPLICATION_DATA, "x", 1).event, TLS_DATA);
        }
        close_pair(&pair);
    }
}

static void test_a_key_update_replaces_the_key(void **state)
{
    (void)state;
    for (size_t s = 0; tls_suites[s].keys.version == TLS_1_3; s++) {
        struct pair pair;
        open_pair(&pair, &tls_suites[s].keys, false);
        for (size_t i = 0; i < 100; i++) {
            const uint8_t message[5] = {24, 0, 0, 1, (uint8_t)(i % 2)};
            // In one record, or in two.
            size_t first = i % 6;
            if (first > 0 && first < 5)
                assert_int_equal(send(&pair, TLS_HANDSHAKE, message, first).event, TLS_IGNORED);
            else
                first = 0;
            struct tls_received received = send(&pair, TLS_HANDSHAKE, message + first, 5 - first);
            assert_int_equal(received.event, TLS_KEY_UPDATE);
            assert_int_equal(received.update_requested, i % 2);
            // The old key is good for nothing any more: this receiver does not open its records.
            assert_true(record_key_update(&pair.key, NULL));
            received = send(&pair, TLS_APPLICATION_DATA, &i, sizeof i);
            assert_int_equal(received.event, TLS_DATA);
            assert_memory_equal(received.data, &i, sizeof i);
        }
        assert_int_equal(send(&pair, TLS_HANDSHAKE, "\x18\0\0\1\0", 5).event, TLS_KEY_UPDATE);
        assert_failed(&pair, send(&pair, TLS_APPLICATION_DATA, "x", 1), TLS_ALERT_BAD_RECORD_MAC,
                      "a record that is forged or damaged");
        close_pair(&pair);
    }
}

static void test_a_split_message_must_not_be_interrupted(void **state)
{
    (void)state;
    static const struct {
        unsigned content;
        const char *data;
        size_t length;
    } between[] = {{TLS_APPLICATION_DATA, "x", 1}, {TLS_APPLICATION_DATA, "", 0}, {TLS_ALERT, "\1\0", 2}};
    for (size_t i = 0; i < ARRAY_LENGTH(between); i++) {
        for (size_t cut = 1; cut < 7; cut++) {
            struct pair pair;
            open_pair(&pair, suite_of(TLS_1_3), true);
            assert_int_equal(send(&pair, TLS_HANDSHAKE, "\x04\0\0\3abc", cut).event, TLS_IGNORED);
            assert_failed(&pair, send(&pair, between[i].content, between[i].data, between[i].length),
                          TLS_ALERT_UNEXPECTED_MESSAGE, "a handshake message with something else in its middle");
            close_pair(&pair);
        }
    }
    // A ticket over five records, its end and a KeyUpdate in the last.
    static uint8_t message[4 + 65535 + 5] = {4, 0, 0xff, 0xff};
    memcpy(message + 4 + 65535, "\x18\0\0\1\1", 5);
    struct pair pair;
    open_pair(&pair, suite_of(TLS_1_3), true);
    for (size_t at = 0; at < sizeof message; at += 16000) {
        size_t part = sizeof message - at < 16000 ? sizeof message - at : 16000;
        struct tls_received received = send(&pair, TLS_HANDSHAKE, message + at, part);
        assert_int_equal(received.event, at + part < sizeof message ? TLS_IGNORED : TLS_KEY_UPDATE);
        assert_int_equal(received.update_requested, at + part == sizeof message);
    }
    close_pair(&pair);
}

// 32 messages may come without data, not one more; data sets the count back.
static void test_messages_without_data_are_limited(void **state)
{
    (void)state;
    static const char flood[] = "too many TLS messages in a row without any data";
    static const struct {
        enum tls_version version;
        unsigned content;
        const char *data;
        size_t length;
        unsigned messages; // in one record
    } cases[] = {
        {TLS_1_3, TLS_APPLICATION_DATA, "", 0, 1},
        {TLS_1_3, TLS_HANDSHAKE, "\x18\0\0\1\1", 5, 1},
        {TLS_1_3, TLS_HANDSHAKE, "\x04\0\0\1x", 5, 1},
        {TLS_1_3, TLS_HANDSHAKE, "\x04\0\0\0\x04\0\0\0\x04\0\0\0\x04\0\0\0", 16, 4},
        {TLS_1_3, TLS_ALERT, "\1\x5a", 2, 1},
        {TLS_1_2, TLS_APPLICATION_DATA, "", 0, 1},
        {TLS_1_2, TLS_ALERT, "\1\x64", 2, 1},
        {TLS_1_2, TLS_HANDSHAKE, "\0\0\0\0", 4, 1},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct pair pair;
        open_pair(&pair, suite_of(cases[i].version), true);
        for (int round = 0; round < 2; round++) {
            for (unsigned sent = 0; sent < 32; sent += cases[i].messages) {
                struct tls_received received = send(&pair, cases[i].content, cases[i].data, cases[i].length);
                assert_int_not_equal(received.event, TLS_FAILED);
                if (received.event == TLS_KEY_UPDATE)
                    assert_true(record_key_update(&pair.key, NULL));
            }
            if (round == 0)
                assert_int_equal(send(&pair, TLS_APPLICATION_DATA, "x", 1).event, TLS_DATA);
        }
        assert_failed(&pair, send(&pair, cases[i].content, cases[i].data, cases[i].length),
                      TLS_ALERT_UNEXPECTED_MESSAGE, flood);
        close_pair(&pair);
    }
    // A message that comes in ever more pieces.
    struct pair pair;
    open_pair(&pair, suite_of(TLS_1_3), true);
    assert_int_equal(send(&pair, TLS_HANDSHAKE, "\x04\0\xff\xff", 4).event, TLS_IGNORED);
    for (int i = 1; i < 32; i++)
        assert_int_equal(send(&pair, TLS_HANDSHAKE, "x", 1).event, TLS_IGNORED);
    assert_failed(&pair, send(&pair, TLS_HANDSHAKE, "x", 1), TLS_ALERT_UNEXPECTED_MESSAGE, flood);
    close_pair(&pair);
}

int main(void)
{
    if (!aead_prepare(NULL))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_changed_bit_passes_for_data),
        cmocka_unit_test(test_a_wrong_header_is_refused),
        cmocka_unit_test(test_a_record_beyond_the_limit_is_refused),
        cmocka_unit_test(test_a_content_that_has_no_place_is_refused),
        cmocka_unit_test(test_each_alert_has_its_event),
        cmocka_unit_test(test_each_handshake_message_has_its_event),
        cmocka_unit_test(test_a_key_update_replaces_the_key),
        cmocka_unit_test(test_a_split_message_must_not_be_interrupted),
        cmocka_unit_test(test_messages_without_data_are_limited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
