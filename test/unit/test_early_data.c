// Early data as a server that takes none reads of it: the announcement, in whatever pieces and however malformed the
// rest is, and its own hello's kind.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "hex.h"
#include "offer_reader.h"

// Lengths are filled in by make_hello().
#define BODY_BEGINNING                                                 \
    "0303"                                                             \
    "0000000000000000000000000000000000000000000000000000000000000000" \
    "0401020304"                                                       \
    "00021301"                                                         \
    "0100"
#define SUPPORTED_VERSIONS "002b0003020304"
#define SIGNATURE_ALGORITHMS "000d000400020403"
#define EARLY_DATA "002a0000"
#define PRE_SHARED_KEY "0029000401020304"

struct message {
    uint8_t at[512];
    size_t length;
};

// A ClientHello with these extensions (hexadecimal); NULL: without any, and their length.
static struct message make_hello(const char *extensions)
{
    struct message message = {.at = {1}};
    size_t at = 4 + from_hex(BODY_BEGINNING, message.at + 4, sizeof message.at - 4);
    if (extensions != NULL) {
        size_t length = from_hex(extensions, message.at + at + 2, sizeof message.at - at - 2);
        message.at[at] = (uint8_t)(length >> 8);
        message.at[at + 1] = (uint8_t)length;
        at += 2 + length;
    }
    message.at[2] = (uint8_t)((at - 4) >> 8);
    message.at[3] = (uint8_t)(at - 4);
    message.length = at;
    return message;
}

// The message in records of `size` bytes each, the stream in pieces of `piece`.
static struct early_data_offer read_offer(const struct message *message, size_t size, size_t piece)
{
    static uint8_t stream[sizeof message->at * 6];
    size_t length = 0;
    for (size_t at = 0; at < message->length; at += size) {
        size_t part = message->length - at < size ? message->length - at : size;
        const uint8_t header[] = {22, 3, 1, (uint8_t)(part >> 8), (uint8_t)part};
        memcpy(stream + length, header, sizeof header);
        memcpy(stream + length + sizeof header, message->at + at, part);
        length += sizeof header + part;
    }
    struct offer_reader reader = {.offer = {.is_over = false}};
    for (size_t at = 0; at < length; at += piece) {
        size_t part = length - at < piece ? length - at : piece;
        uint8_t *copy = malloc(part); // of just this size, for the sanitizer
        assert_non_null(copy);
        memcpy(copy, stream + at, part);
        offer_reader_take(&reader, copy, part);
        free(copy);
        assert_true(reader.offer.is_over || !reader.offer.is_made);
    }
    return reader.offer;
}

static void test_the_announcement_is_found_in_any_pieces(void **state)
{
    (void)state;
    static const struct {
        const char *extensions;
        bool is_made;
        bool has_signature_algorithms;
    } cases[] = {
        {SIGNATURE_ALGORITHMS, false, true},
        {SIGNATURE_ALGORITHMS SUPPORTED_VERSIONS EARLY_DATA, true, true},
        {SUPPORTED_VERSIONS SIGNATURE_ALGORITHMS, false, true},
        {SUPPORTED_VERSIONS EARLY_DATA PRE_SHARED_KEY, true, false},
        {EARLY_DATA, true, false},
        {SUPPORTED_VERSIONS EARLY_DATA, true, false},
        {SUPPORTED_VERSIONS PRE_SHARED_KEY, false, false},
        {"", false, false},
        {NULL, false, false},
        {"002b0004002a0000", false, false}, // inside another extension
        {"002b0004000d0000", false, false},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct message message = make_hello(cases[i].extensions);
        for (size_t size = 1; size <= message.length; size += size < 8 ? 1 : 13) {
            for (size_t piece = 1; piece < 9; piece++) {
                struct early_data_offer offer = read_offer(&message, size, piece);
                assert_true(offer.is_over);
                assert_true(offer.is_whole);
                assert_int_equal(offer.is_made, cases[i].is_made);
                assert_int_equal(offer.has_signature_algorithms, cases[i].has_signature_algorithms);
            }
        }
    }
}

static void test_half_a_hello_announces_nothing(void **state)
{
    (void)state;
    struct message message = make_hello(SUPPORTED_VERSIONS EARLY_DATA PRE_SHARED_KEY);
    for (size_t length = message.length - 1; length > 0; length--) {
        message.length = length;
        struct early_data_offer offer = read_offer(&message, length, length);
        assert_false(offer.is_made);
        assert_false(offer.is_over);
    }
}

static void test_a_malformed_hello_announces_nothing(void **state)
{
    (void)state;
    static const char *const malformed[] = {
        EARLY_DATA EARLY_DATA,   // twice
        "002a000400000000",      // not empty
        EARLY_DATA "002b",       // ends within an extension's type
        EARLY_DATA "002b00",     // within its length
        EARLY_DATA "002b000302", // within itself
        EARLY_DATA "002bffff",   // longer than all that there is
    };
    for (size_t i = 0; i < ARRAY_LENGTH(malformed); i++) {
        struct message message = make_hello(malformed[i]);
        for (size_t piece = 1; piece < 9; piece++) {
            struct early_data_offer offer = read_offer(&message, message.length, piece);
            assert_true(offer.is_over);
            assert_false(offer.is_made);
        }
    }
    // Each length inside, one too small and one too large: the session id's, the suites', the compressions', and that
    // of all the extensions. And another message, which is none of it.
    static const size_t lengths[] = {38, 44, 47, 50};
    for (size_t i = 0; i < 2 * ARRAY_LENGTH(lengths); i++) {
        struct message message = make_hello(EARLY_DATA);
        message.at[lengths[i / 2]] = (uint8_t)(message.at[lengths[i / 2]] + (i % 2 == 0 ? 1 : -1));
        struct early_data_offer offer = read_offer(&message, message.length, message.length);
        assert_false(offer.is_made);
    }
    struct message message = make_hello(EARLY_DATA);
    message.at[0] = 2;
    assert_true(read_offer(&message, message.length, 1).is_over);
    assert_false(read_offer(&message, message.length, 1).is_made);
    static const uint8_t tiny[] = {1, 0, 0, 0};
    memcpy(message.at, tiny, sizeof tiny);
    assert_true(read_offer(&message, message.length, 1).is_over);
    assert_false(read_offer(&message, message.length, 1).is_made);
}

static void test_only_the_first_message_counts(void **state)
{
    (void)state;
    struct message message = make_hello(SUPPORTED_VERSIONS);
    struct message second = make_hello(EARLY_DATA);
    memcpy(message.at + message.length, second.at, second.length);
    message.length += second.length;
    assert_false(read_offer(&message, message.length, message.length).is_made);
    assert_false(read_offer(&message, 7, 3).is_made);
}

// ---- the server's hello

#define SERVER_HELLO(random)   \
    "1603030030"               \
    "0200002c"                 \
    "0303" random "04a1a2a3a4" \
    "1302"                     \
    "00"
#define SOME_RANDOM "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20"
#define RETRY_RANDOM "cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c"

static void test_the_answers_are_told_apart(void **state)
{
    (void)state;
    uint8_t record[128];
    uint16_t suite = 0;
    size_t length = from_hex(SERVER_HELLO(RETRY_RANDOM), record, sizeof record);
    assert_int_equal(early_data_answer_of(record, length, &suite), EARLY_DATA_RETRY);
    assert_int_equal(suite, 0);
    length = from_hex(SERVER_HELLO(SOME_RANDOM), record, sizeof record);
    assert_int_equal(early_data_answer_of(record, length, &suite), EARLY_DATA_HELLO);
    assert_int_equal(suite, 0x1302);
    // Too short for what is wanted of it, in a block that ends there.
    for (size_t i = 0; i < length - 1; i++) {
        uint8_t *part = malloc(i + 1);
        assert_non_null(part);
        memcpy(part, record, i);
        assert_int_equal(early_data_answer_of(part, i, &suite), EARLY_DATA_UNANSWERED);
        free(part);
    }
    record[5] = 11; // a certificate
    assert_int_equal(early_data_answer_of(record, length, &suite), EARLY_DATA_UNANSWERED);
    record[5] = 2;
    record[0] = 21; // an alert
    assert_int_equal(early_data_answer_of(record, length, &suite), EARLY_DATA_UNANSWERED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_announcement_is_found_in_any_pieces),
        cmocka_unit_test(test_half_a_hello_announces_nothing),
        cmocka_unit_test(test_a_malformed_hello_announces_nothing),
        cmocka_unit_test(test_only_the_first_message_counts),
        cmocka_unit_test(test_the_answers_are_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
