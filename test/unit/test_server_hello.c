// The version of a ServerHello: found in whatever pieces and after whatever else it comes.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "hello_reader.h"
#include "hex.h"

enum { ALERT = 21, CHANGE_CIPHER_SPEC = 20, HANDSHAKE = 22, APPLICATION_DATA = 23 };
enum { HELLO_SIZE = 4 + 2 + 32 + 1 + 2 + 1, STREAM_MAX = 4096 };

static const char retry_random[] = "cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c";

struct stream {
    uint8_t at[STREAM_MAX];
    size_t length;
};

static void put(struct stream *stream, const void *bytes, size_t length)
{
    assert_true(length <= sizeof stream->at - stream->length);
    memcpy(stream->at + stream->length, bytes, length);
    stream->length += length;
}

static void put_record(struct stream *stream, uint8_t type, const void *bytes, size_t length)
{
    const uint8_t header[] = {type, 3, 3, (uint8_t)(length >> 8), (uint8_t)length};
    put(stream, header, sizeof header);
    if (length > 0)
        put(stream, bytes, length);
}

// Without extensions, as TLS 1.2 may have it; `is_retry`: a HelloRetryRequest's random.
static void make_hello(uint8_t hello[HELLO_SIZE], unsigned version, bool is_retry)
{
    memset(hello, 0x5a, HELLO_SIZE);
    hello[0] = 2;
    hello[1] = hello[2] = 0;
    hello[3] = HELLO_SIZE - 4;
    hello[4] = (uint8_t)(version >> 8);
    hello[5] = (uint8_t)version;
    if (is_retry)
        assert_int_equal(from_hex(retry_random, hello + 6, 32), 32);
}

// In pieces of `size` bytes, the last one maybe shorter, each in a block of its own for the sanitizer.
static bool follow(struct hello_reader *reader, const uint8_t *bytes, size_t length, size_t size)
{
    bool is_good = true;
    for (size_t at = 0; at < length; at += size) {
        size_t part = length - at < size ? length - at : size;
        uint8_t *copy = malloc(part);
        assert_non_null(copy);
        memcpy(copy, bytes + at, part);
        is_good = hello_reader_take(reader, copy, part);
        free(copy);
        assert_true(is_good || !reader->hello.is_over);
    }
    return is_good;
}

static bool is_taken(const struct stream *stream, size_t size)
{
    struct hello_reader reader = {.hello = {.is_over = false}};
    return follow(&reader, stream->at, stream->length, size);
}

// Whether it is taken, which must not depend on the segments.
static bool is_taken_in_any_pieces(const struct stream *stream)
{
    bool whole = is_taken(stream, stream->length);
    for (size_t size = 1; size < stream->length; size++)
        assert_true(is_taken(stream, size) == whole);
    for (size_t cut = 1; cut < stream->length; cut++) {
        struct hello_reader reader = {.hello = {.is_over = false}};
        bool first = follow(&reader, stream->at, cut, cut);
        bool second = follow(&reader, stream->at + cut, stream->length - cut, stream->length);
        assert_true(second == whole && (first || !second));
    }
    return whole;
}

static void test_only_tls_1_2_is_taken(void **state)
{
    (void)state;
    for (unsigned version = 0; version <= 0xffff; version++) {
        uint8_t message[HELLO_SIZE];
        struct stream stream = {.length = 0};
        struct hello_reader reader = {.hello = {.is_over = false}};
        make_hello(message, version, false);
        put_record(&stream, HANDSHAKE, message, sizeof message);
        assert_true(hello_reader_take(&reader, stream.at, stream.length) == (version == 0x0303));
        assert_true(reader.hello.is_over == (version == 0x0303));
        assert_int_equal(reader.hello.version, version);
    }
}

// It is refused with the version's last byte, before anyone could have read the message.
static void test_another_version_is_refused_with_its_last_byte(void **state)
{
    (void)state;
    uint8_t message[HELLO_SIZE];
    struct stream stream = {.length = 0};
    make_hello(message, 0x0304, false);
    put_record(&stream, HANDSHAKE, message, sizeof message);
    struct hello_reader reader = {.hello = {.is_over = false}};
    for (size_t i = 0; i < stream.length; i++)
        assert_true(hello_reader_take(&reader, stream.at + i, 1) == (i < 5 + 5));
}

// Two cuts anywhere in the message, and empty records and others between the parts.
static void test_a_hello_split_over_records_is_read(void **state)
{
    (void)state;
    static const uint8_t warning[] = {1, 90};
    for (unsigned version = 0x0302; version <= 0x0305; version++) {
        uint8_t message[HELLO_SIZE];
        make_hello(message, version, false);
        for (size_t first = 0; first <= HELLO_SIZE; first++) {
            for (size_t second = first; second <= HELLO_SIZE; second++) {
                struct stream stream = {.length = 0};
                put_record(&stream, ALERT, warning, sizeof warning);
                put_record(&stream, HANDSHAKE, message, first);
                put_record(&stream, CHANGE_CIPHER_SPEC, "\1", 1);
                put_record(&stream, HANDSHAKE, message + first, second - first);
                put_record(&stream, APPLICATION_DATA, NULL, 0);
                put_record(&stream, HANDSHAKE, message + second, HELLO_SIZE - second);
                assert_true(is_taken(&stream, stream.length) == (version == 0x0303));
                assert_true(is_taken(&stream, 1) == (version == 0x0303));
            }
        }
    }
}

// A HelloRequest, a message without a body, a long one, and another of the same record.
static void test_messages_before_the_hello_are_skipped(void **state)
{
    (void)state;
    uint8_t message[HELLO_SIZE];
    uint8_t long_one[4 + 600] = {11, 0, 600 >> 8, 600 & 0xff};
    memset(long_one + 4, 2, 600);
    for (unsigned version = 0x0303; version <= 0x0304; version++) {
        struct stream together = {.length = 0};
        put(&together, "\0\0\0\0", 4);
        put(&together, long_one, sizeof long_one);
        make_hello(message, version, false);
        put(&together, message, sizeof message);
        for (size_t size = 1; size <= together.length; size++) {
            struct stream stream = {.length = 0};
            for (size_t at = 0; at < together.length && stream.length + size + 5 < STREAM_MAX; at += size)
                put_record(&stream, HANDSHAKE, together.at + at,
                           together.length - at < size ? together.length - at : size);
            assert_true(is_taken(&stream, stream.length) == (version == 0x0303));
        }
    }
}

static void test_the_hello_after_a_retry_request_is_read_too(void **state)
{
    (void)state;
    static const struct {
        unsigned first;
        unsigned second;
        bool is_good;
    } cases[] = {{0x0303, 0x0303, true}, {0x0303, 0x0304, false}, {0x0304, 0x0303, false}, {0x0303, 0x0302, false}};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        for (int is_coalesced = 0; is_coalesced < 2; is_coalesced++) {
            uint8_t messages[2][HELLO_SIZE];
            struct stream stream = {.length = 0};
            make_hello(messages[0], cases[i].first, true);
            make_hello(messages[1], cases[i].second, false);
            if (is_coalesced) {
                put_record(&stream, HANDSHAKE, messages, sizeof messages);
            } else {
                put_record(&stream, HANDSHAKE, messages[0], HELLO_SIZE);
                put_record(&stream, CHANGE_CIPHER_SPEC, "\1", 1);
                put_record(&stream, HANDSHAKE, messages[1], HELLO_SIZE);
            }
            assert_true(is_taken_in_any_pieces(&stream) == cases[i].is_good);
        }
    }
}

// What is encrypted is no ServerHello, whatever it looks like.
static void test_what_is_encrypted_is_no_hello(void **state)
{
    (void)state;
    uint8_t message[HELLO_SIZE];
    struct stream stream = {.length = 0};
    make_hello(message, 0x0303, false);
    put_record(&stream, HANDSHAKE, message, sizeof message);
    make_hello(message, 0x0304, false);
    put_record(&stream, CHANGE_CIPHER_SPEC, "\1", 1);
    put_record(&stream, HANDSHAKE, message, sizeof message);
    assert_true(is_taken_in_any_pieces(&stream));
}

// One that is too short for what is looked for is for others to refuse, and leads nobody astray.
static void test_a_hello_that_is_too_short_is_left_to_others(void **state)
{
    (void)state;
    uint8_t message[HELLO_SIZE];
    for (size_t body = 0; body < HELLO_SIZE - 4; body++) {
        struct stream stream = {.length = 0};
        make_hello(message, 0x0304, false);
        message[3] = (uint8_t)body;
        put_record(&stream, HANDSHAKE, message, 4 + body);
        assert_true(is_taken_in_any_pieces(&stream) == (body < 2));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_only_tls_1_2_is_taken),
        cmocka_unit_test(test_another_version_is_refused_with_its_last_byte),
        cmocka_unit_test(test_a_hello_split_over_records_is_read),
        cmocka_unit_test(test_messages_before_the_hello_are_skipped),
        cmocka_unit_test(test_the_hello_after_a_retry_request_is_read_too),
        cmocka_unit_test(test_what_is_encrypted_is_no_hello),
        cmocka_unit_test(test_a_hello_that_is_too_short_is_left_to_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
