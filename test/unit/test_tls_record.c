// TLS records: known answers, round trips, keys that change, limits of the sender.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "hex.h"
#include "tls_record_rig.h"

static struct tls_sender *new_sender(const struct tls_keys *keys)
{
    struct error error = ERROR_INIT;
    struct tls_sender *sender = tls_sender_create(keys, &error);
    if (sender == NULL)
        fail_msg("%s", error.text);
    return sender;
}

static struct tls_receiver *new_receiver(const struct tls_keys *keys, bool is_client)
{
    struct error error = ERROR_INIT;
    struct tls_receiver *receiver = tls_receiver_create(keys, is_client, &error);
    if (receiver == NULL)
        fail_msg("%s", error.text);
    return receiver;
}

// RFC 8448 3, "Simple 1-RTT Handshake": the secrets of application data, and all the records under them.
static const char server_secret[] = "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
static const char client_secret[] = "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";
static const char server_ticket[] =
    "17 03 03 00 de 3a 6b 8f 90 41 4a 97 d6 95 9c 34 87 68 0d e5 13 4a 2b 24 0e 6c ff ac 11 6e 95 d4 1d 6a f8 f6 b5 80"
    "dc f3 d1 1d 63 c7 58 db 28 9a 01 59 40 25 2f 55 71 3e 06 1d c1 3e 07 88 91 a3 8e fb cf 57 53 ad 8e f1 70 ad 3c 73"
    "53 d1 6d 9d a7 73 b9 ca 7f 2b 9f a1 b6 c0 d4 a3 d0 3f 75 e0 9c 30 ba 1e 62 97 2a c4 6f 75 f7 b9 81 be 63 43 9b 29"
    "99 ce 13 06 46 15 13 98 91 d5 e4 c5 b4 06 f1 6e 3f c1 81 a7 7c a4 75 84 00 25 db 2f 0a 77 f8 1b 5a b0 5b 94 c0 13"
    "46 75 5f 69 23 2c 86 51 9d 86 cb ee ac 87 aa c3 47 d1 43 f9 60 5d 64 f6 50 db 4d 02 3e 70 e9 52 ca 49 fe 51 37 12"
    "1c 74 bc 26 97 68 7e 24 87 46 d6 df 35 30 05 f3 bc e1 86 96 12 9c 81 53 55 6b 3b 6c 67 79 b3 7b f1 59 85 68 4f";
static const char client_data[] =
    "17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42 f9 14 aa 66 bc ab 3f 2b 98 19 a8 a5 b4"
    "6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f 5a 62 92 a2 97 70 14 bd 1e 3d ea e6 3a ee bb 21 69 49 15 e4";
static const char server_data[] =
    "17 03 03 00 43 2e 93 7e 11 ef 4a c7 40 e5 38 ad 36 00 5f c4 a4 69 32 fc 32 25 d0 5f 82 aa 1b 36 e3 0e fa f9 7d 90"
    "e6 df fc 60 2d cb 50 1a 59 a8 fc c4 9c 4b f2 e5 f0 a2 1c 00 47 c2 ab f3 32 54 0d d0 32 e1 67 c2 95 5d";
static const char client_alert[] = "17 03 03 00 13 c9 87 27 60 65 56 66 b7 4d 7f f1 15 3e fd 6d b6 d0 b0 e3";
static const char server_alert[] = "17 03 03 00 13 b5 8f d6 71 66 eb f5 99 d2 47 20 cf be 7e fa 7a 88 64 a9";

static void test_the_keys_of_rfc_8448_are_derived(void **state)
{
    (void)state;
    static const struct {
        const char *secret;
        const char *key;
        const char *iv;
    } cases[] = {
        {server_secret, "9f02283b6c9c07efc26bb9f2ac92e356", "cf782b88dd83549aadf1e984"},
        {client_secret, "17422dda596ed5d9acd890e3c63f5051", "5b78923dee08579033e523d9"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        uint8_t secret[32];
        uint8_t expected[16];
        uint8_t derived[16];
        assert_int_equal(from_hex(cases[i].secret, secret, sizeof secret), sizeof secret);
        from_hex(cases[i].key, expected, sizeof expected);
        assert_true(hkdf_expand_label(TLS_SHA256, secret, "key", derived, 16));
        assert_memory_equal(derived, expected, 16);
        from_hex(cases[i].iv, expected, sizeof expected);
        assert_true(hkdf_expand_label(TLS_SHA256, secret, "iv", derived, 12));
        assert_memory_equal(derived, expected, 12);
    }
}

static struct tls_keys rfc_8448(const char *secret)
{
    struct tls_keys keys = {.version = TLS_1_3, .algorithm = AEAD_AES_128_GCM, .hash = TLS_SHA256};
    from_hex(secret, keys.secret, 32);
    return keys;
}

static void test_the_records_of_rfc_8448_are_sealed_and_opened(void **state)
{
    (void)state;
    uint8_t payload[50];
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)i;
    for (int is_server = 0; is_server < 2; is_server++) {
        struct tls_keys keys = rfc_8448(is_server ? server_secret : client_secret);
        // The receiver of the server's records is a client.
        struct tls_receiver *receiver = new_receiver(&keys, is_server);
        keys.sequence = is_server ? 1 : 0; // its ticket is not of our making
        struct tls_sender *sender = new_sender(&keys);
        uint8_t records[512];
        uint8_t sealed[TLS_SEALED_SIZE(50)];
        size_t length = is_server ? from_hex(server_ticket, records, sizeof records) : 0;
        size_t ticket = length;
        length += from_hex(is_server ? server_data : client_data, records + length, sizeof records - length);
        size_t data_end = length;
        length += from_hex(is_server ? server_alert : client_alert, records + length, sizeof records - length);

        size_t written = tls_sender_seal(sender, payload, sizeof payload, sealed, sizeof sealed);
        assert_int_equal(written, data_end - ticket);
        assert_memory_equal(sealed, records + ticket, written);
        written = tls_sender_alert(sender, TLS_ALERT_CLOSE_NOTIFY, sealed, sizeof sealed);
        assert_int_equal(written, length - data_end);
        assert_memory_equal(sealed, records + data_end, written);

        if (is_server) {
            struct tls_received received = tls_receiver_open(receiver, records, length);
            assert_int_equal(received.event, TLS_IGNORED);
            assert_int_equal(received.consumed, ticket);
        }
        struct tls_received received = tls_receiver_open(receiver, records + ticket, length - ticket);
        assert_int_equal(received.event, TLS_DATA);
        assert_int_equal(received.consumed, data_end - ticket);
        assert_int_equal(received.length, sizeof payload);
        assert_memory_equal(received.data, payload, sizeof payload);
        received = tls_receiver_open(receiver, records + data_end, length - data_end);
        assert_int_equal(received.event, TLS_CLOSE_NOTIFY);
        assert_int_equal(received.consumed, length - data_end);
        tls_receiver_destroy(&receiver);
        tls_sender_destroy(&sender);
    }
}

// Made once by Python's cryptography package (AESGCM, ChaCha20Poly1305, HKDFExpand), from the numbers of the RFCs and
// not from this code: the plaintext below, key bytes 0, 1, 2, ..., salt or IV a0, a1, ..., sequence 0x0102030405060708;
// `by_peer` has a nonce e0, e1, ... of the peer's choice. 1.3: secret bytes 40, 41, ...; a KeyUpdate as record 7, then
// data under the next secret.
static const char plaintext[] = "known to both";
static const struct {
    enum aead_algorithm algorithm;
    const char *sealed;
    const char *by_peer;
} known_12[] = {
    {AEAD_AES_128_GCM, "170303002501020304050607087753f4bd55e8e8aba6c5987470c4bc18229fac3bfcc313bf5ad9f78344",
     "1703030025e0e1e2e3e4e5e6e798c62f67027db3416ca48eb76e47a8a44f3a0407fb3184217d16800279"},
    {AEAD_AES_256_GCM, "170303002501020304050607089d942dd39a9b0e7666046787beffd17b301346e3e84c05589b844b8a6b",
     "1703030025e0e1e2e3e4e5e6e76f30bec44c36e3aca5d7361767580447a146e6069cd512293fbb7683e4"},
    {AEAD_CHACHA20_POLY1305, "170303001dcd912b21bdab4af9959e832e3b2eddaf4fb85f99d6eca3cb7011b78ec9",
     "170303001dcd912b21bdab4af9959e832e3b2eddaf4fb85f99d6eca3cb7011b78ec9"},
};
static const struct {
    enum aead_algorithm algorithm;
    enum tls_hash hash;
    const char *key_update;
    const char *data;
} known_13[] = {
    {AEAD_AES_128_GCM, TLS_SHA256, "1703030016dce0fc77382a5506388e725ea53ebf3f9051fbcfe3fa",
     "170303001ea94ecf707463e74244bb8ab018a614e0e05be239f6f3340b3b634e5c24b4"},
    {AEAD_AES_256_GCM, TLS_SHA384, "170303001600d7cce3ff31a7b9dc3e50595a2982e35ff701451cf9",
     "170303001e6252db16c7d834a226a5aa30730f65cb6f445f92b55e5b3e9efc0ec978f1"},
    {AEAD_CHACHA20_POLY1305, TLS_SHA256, "17030300164e4fa053091c03f6b51b001bbcb296d8dae1eac03f4c",
     "170303001e9e8f7f26baaeae2d508af86e819473529021f903e66c563afe20ef121d6c"},
};

static void fill(uint8_t *bytes, size_t length, unsigned from)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(from + i);
}

static void test_tls_1_2_records_match_known_answers(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(known_12); i++) {
        bool is_gcm = known_12[i].algorithm != AEAD_CHACHA20_POLY1305;
        struct tls_keys keys = {.version = TLS_1_2, .algorithm = known_12[i].algorithm, .sequence = 0x0102030405060708};
        fill(keys.key, aead_key_size(keys.algorithm), 0);
        fill(keys.iv, is_gcm ? 4 : 12, 0xa0);
        struct tls_sender *sender = new_sender(&keys);
        struct tls_receiver *receiver = new_receiver(&keys, true);
        uint8_t expected[64];
        uint8_t sealed[TLS_SEALED_SIZE(sizeof plaintext)];
        size_t length = from_hex(known_12[i].sealed, expected, sizeof expected);
        assert_int_equal(
            tls_sender_seal(sender, (const uint8_t *)plaintext, sizeof plaintext - 1, sealed, sizeof sealed), length);
        assert_memory_equal(sealed, expected, length);
        length = from_hex(known_12[i].by_peer, sealed, sizeof sealed);
        struct tls_received received = tls_receiver_open(receiver, sealed, length);
        assert_int_equal(received.event, TLS_DATA);
        assert_int_equal(received.consumed, length);
        assert_int_equal(received.length, sizeof plaintext - 1);
        assert_memory_equal(received.data, plaintext, sizeof plaintext - 1);
        tls_sender_destroy(&sender);
        tls_receiver_destroy(&receiver);
    }
}

static void test_tls_1_3_records_match_known_answers(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(known_13); i++) {
        struct tls_keys keys = {
            .version = TLS_1_3, .algorithm = known_13[i].algorithm, .hash = known_13[i].hash, .sequence = 7};
        fill(keys.secret, keys.hash == TLS_SHA256 ? 32 : 48, 0x40);
        struct tls_sender *sender = new_sender(&keys);
        struct tls_receiver *receiver = new_receiver(&keys, false);
        uint8_t expected[128];
        uint8_t sealed[128];
        size_t update = from_hex(known_13[i].key_update, expected, sizeof expected);
        size_t length = update + from_hex(known_13[i].data, expected + update, sizeof expected - update);
        tls_sender_request_key_update(sender);
        assert_int_equal(
            tls_sender_seal(sender, (const uint8_t *)plaintext, sizeof plaintext - 1, sealed, sizeof sealed), length);
        assert_memory_equal(sealed, expected, length);
        struct tls_received received = tls_receiver_open(receiver, sealed, length);
        assert_int_equal(received.event, TLS_KEY_UPDATE);
        assert_int_equal(received.consumed, update);
        assert_false(received.update_requested);
        received = tls_receiver_open(receiver, sealed + update, length - update);
        assert_int_equal(received.event, TLS_DATA);
        assert_memory_equal(received.data, plaintext, sizeof plaintext - 1);
        tls_sender_destroy(&sender);
        tls_receiver_destroy(&receiver);
    }
}

// Any length, through buffers that are just large enough, arriving in any pieces.
static void test_any_length_in_any_pieces_comes_back(void **state)
{
    (void)state;
    static const size_t lengths[] = {0, 1, 100, 16383, 16384, 16385, 32768, 50000};
    static uint8_t plain[50000];
    static uint8_t got[50000];
    fill(plain, sizeof plain, 1);
    for (size_t s = 0; s < TLS_SUITES; s++) {
        struct tls_sender *sender = new_sender(&tls_suites[s].keys);
        struct tls_receiver *receiver = new_receiver(&tls_suites[s].keys, s % 2 == 0);
        for (size_t i = 0; i < ARRAY_LENGTH(lengths) * 2; i++) {
            size_t length = lengths[i % ARRAY_LENGTH(lengths)];
            size_t room = TLS_SEALED_SIZE(length);
            uint8_t *sealed = malloc(room);
            assert_non_null(sealed);
            if (i % 3 == 2) {
                tls_sender_request_key_update(sender);
                tls_sender_refuse_renegotiation(sender);
            }
            assert_int_equal(tls_sender_seal(sender, plain, length, sealed, room - 1), 0);
            size_t written = tls_sender_seal(sender, length > 0 ? plain : NULL, length, sealed, room);
            assert_true(written > length && written <= room);
            size_t at = 0;
            size_t received_length = 0;
            size_t available = 0;
            while (at < written) {
                struct tls_received received = tls_receiver_open(receiver, sealed + at, available);
                if (received.event == TLS_NEEDS_MORE) {
                    assert_true(at + available < written);
                    size_t step = i % 2 == 0 ? 1000 : 7;
                    available = at + available + step < written ? available + step : written - at;
                    continue;
                }
                if (received.event == TLS_DATA) {
                    assert_true(received.length <= TLS_PLAIN_MAX);
                    memcpy(got + received_length, received.data, received.length);
                    received_length += received.length;
                } else {
                    bool is_13 = tls_suites[s].keys.version == TLS_1_3;
                    assert_true(i % 3 == 2 && at == 0);
                    assert_int_equal(received.event, is_13 ? TLS_KEY_UPDATE : TLS_IGNORED);
                }
                at += received.consumed;
                available -= received.consumed;
            }
            assert_int_equal(received_length, length);
            assert_memory_equal(got, plain, length);
            free(sealed);
        }
        tls_sender_destroy(&sender);
        tls_receiver_destroy(&receiver);
    }
}

static size_t end_of_record(const uint8_t *sealed, size_t begin)
{
    return begin + TLS_HEADER_SIZE + ((size_t)sealed[begin + 3] << 8 | sealed[begin + 4]);
}

static void test_only_whole_records_count_as_content(void **state)
{
    (void)state;
    static uint8_t plain[TLS_PLAIN_MAX + 100];
    static uint8_t sealed[TLS_SEALED_SIZE(sizeof plain)];
    for (size_t s = 0; s < TLS_SUITES; s++) {
        struct tls_sender *sender = new_sender(&tls_suites[s].keys);
        tls_sender_refuse_renegotiation(sender); // 1.2: an alert comes first
        size_t all = tls_sender_seal(sender, plain, sizeof plain, sealed, sizeof sealed);
        size_t alert = tls_suites[s].keys.version == TLS_1_2 ? end_of_record(sealed, 0) : 0;
        size_t first = end_of_record(sealed, alert);
        assert_int_equal(end_of_record(sealed, first), all);
        assert_int_equal(tls_sender_content_of(sender, sealed, 0), 0);
        assert_int_equal(tls_sender_content_of(sender, sealed, alert), 0);
        assert_int_equal(tls_sender_content_of(sender, sealed, first - 1), 0);
        assert_int_equal(tls_sender_content_of(sender, sealed, first), TLS_PLAIN_MAX);
        assert_int_equal(tls_sender_content_of(sender, sealed, first + TLS_HEADER_SIZE - 1), TLS_PLAIN_MAX);
        assert_int_equal(tls_sender_content_of(sender, sealed, all - 1), TLS_PLAIN_MAX);
        assert_int_equal(tls_sender_content_of(sender, sealed, all), sizeof plain);
        tls_sender_destroy(&sender);
    }
}

// RFC 8446 5.5: the key changes by itself, in the middle of a write if need be.
static void test_keys_are_changed_in_time(void **state)
{
    (void)state;
    static uint8_t plain[3 * TLS_PLAIN_MAX];
    static uint8_t sealed[TLS_SEALED_SIZE(sizeof plain)];
    for (size_t s = 0; s < TLS_SUITES; s++) {
        struct tls_keys keys = tls_suites[s].keys;
        bool is_due = keys.version == TLS_1_3 && keys.algorithm != AEAD_CHACHA20_POLY1305;
        keys.sequence = (UINT64_C(1) << 24) - 1;
        struct tls_sender *sender = new_sender(&keys);
        struct tls_receiver *receiver = new_receiver(&keys, false);
        size_t written = tls_sender_seal(sender, plain, sizeof plain, sealed, sizeof sealed);
        assert_true(written > 0);
        static const enum tls_event with[] = {TLS_DATA, TLS_KEY_UPDATE, TLS_DATA, TLS_DATA};
        static const enum tls_event without[] = {TLS_DATA, TLS_DATA, TLS_DATA};
        size_t at = 0;
        for (size_t i = 0; i < (is_due ? ARRAY_LENGTH(with) : ARRAY_LENGTH(without)); i++) {
            struct tls_received received = tls_receiver_open(receiver, sealed + at, written - at);
            assert_int_equal(received.event, is_due ? with[i] : without[i]);
            at += received.consumed;
        }
        assert_int_equal(at, written);
        tls_sender_destroy(&sender);
        tls_receiver_destroy(&receiver);
    }
}

static void test_a_sequence_does_not_wrap(void **state)
{
    (void)state;
    uint8_t sealed[TLS_SEALED_SIZE(1) + TLS_ALERT_RECORD_MAX];
    for (size_t s = 0; s < TLS_SUITES; s++) {
        struct tls_keys keys = tls_suites[s].keys;
        keys.sequence = UINT64_MAX - 4;
        struct tls_sender *sender = new_sender(&keys);
        struct tls_receiver *receiver = new_receiver(&keys, false);
        size_t written = tls_sender_seal(sender, (const uint8_t *)"x", 1, sealed, sizeof sealed);
        assert_true(written > 0);
        struct tls_received received = tls_receiver_open(receiver, sealed, written);
        written = tls_sender_seal(sender, (const uint8_t *)"x", 1, sealed, sizeof sealed);
        if (keys.version == TLS_1_3) {
            // A new key came first, and its sequence begins at 0.
            assert_int_equal(received.event, TLS_KEY_UPDATE);
            assert_true(written > 0);
        } else {
            assert_int_equal(received.event, TLS_DATA);
            assert_int_equal(written, 0);
            assert_true(tls_sender_alert(sender, TLS_ALERT_CLOSE_NOTIFY, sealed, sizeof sealed) > 0);
        }
        tls_sender_destroy(&sender);
        tls_receiver_destroy(&receiver);

        keys.sequence = UINT64_MAX;
        sender = new_sender(&keys);
        assert_int_equal(tls_sender_seal(sender, (const uint8_t *)"x", 1, sealed, sizeof sealed), 0);
        assert_int_equal(tls_sender_alert(sender, TLS_ALERT_INTERNAL_ERROR, sealed, sizeof sealed), 0);
        tls_sender_destroy(&sender);
        receiver = new_receiver(&keys, false);
        struct record_key key;
        assert_true(record_key_init(&key, &keys, NULL));
        received = tls_receiver_open(receiver, sealed, forge(&key, TLS_APPLICATION_DATA, "x", 1, 0, sealed));
        assert_int_equal(received.event, TLS_FAILED);
        assert_int_equal(received.alert, TLS_ALERT_INTERNAL_ERROR);
        record_key_release(&key);
        tls_receiver_destroy(&receiver);
    }
}

static void test_an_alert_is_sent_and_the_fatal_one_is_the_last(void **state)
{
    (void)state;
    uint8_t sealed[TLS_ALERT_RECORD_MAX];
    for (size_t s = 0; s < TLS_SUITES; s++) {
        struct tls_sender *sender = new_sender(&tls_suites[s].keys);
        struct tls_receiver *receiver = new_receiver(&tls_suites[s].keys, false);
        assert_int_equal(tls_sender_alert(sender, TLS_ALERT_CLOSE_NOTIFY, sealed, sizeof sealed - 1), 0);
        size_t written = tls_sender_alert(sender, TLS_ALERT_USER_CANCELED, sealed, sizeof sealed);
        struct tls_received received = tls_receiver_open(receiver, sealed, written);
        assert_int_equal(received.event, TLS_IGNORED);
        assert_int_equal(received.consumed, written);
        written = tls_sender_alert(sender, TLS_ALERT_BAD_RECORD_MAC, sealed, sizeof sealed);
        received = tls_receiver_open(receiver, sealed, written);
        assert_int_equal(received.event, TLS_PEER_ALERT);
        assert_int_equal(received.alert, TLS_ALERT_BAD_RECORD_MAC);
        assert_string_equal(received.reason, "bad_record_mac");
        assert_int_equal(received.consumed, written);
        // That was the last.
        assert_int_equal(tls_sender_alert(sender, TLS_ALERT_CLOSE_NOTIFY, sealed, sizeof sealed), 0);
        assert_int_equal(tls_sender_seal(sender, (const uint8_t *)"x", 1, sealed, sizeof sealed), 0);
        received = tls_receiver_open(receiver, sealed, 0);
        assert_int_equal(received.event, TLS_PEER_ALERT);
        assert_int_equal(received.alert, TLS_ALERT_BAD_RECORD_MAC);
        tls_sender_destroy(&sender);
        tls_receiver_destroy(&receiver);
    }
    assert_string_equal(tls_alert_name(0), "close_notify");
    assert_string_equal(tls_alert_name(112), "unrecognized_name");
    assert_string_equal(tls_alert_name(116), "certificate_required");
    assert_string_equal(tls_alert_name(255), "unknown_alert");
    assert_string_equal(tls_alert_name(1000), "unknown_alert");
}

int main(void)
{
    if (!aead_prepare(NULL))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_keys_of_rfc_8448_are_derived),
        cmocka_unit_test(test_the_records_of_rfc_8448_are_sealed_and_opened),
        cmocka_unit_test(test_tls_1_2_records_match_known_answers),
        cmocka_unit_test(test_tls_1_3_records_match_known_answers),
        cmocka_unit_test(test_any_length_in_any_pieces_comes_back),
        cmocka_unit_test(test_only_whole_records_count_as_content),
        cmocka_unit_test(test_keys_are_changed_in_time),
        cmocka_unit_test(test_a_sequence_does_not_wrap),
        cmocka_unit_test(test_an_alert_is_sent_and_the_fatal_one_is_the_last),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
