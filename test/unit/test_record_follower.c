// The records of a handshake, followed in whatever pieces they come: alerts in clear, counts, and what is kept of the
// last one. What a server_hello makes of them is in test_server_hello.c.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/wire/record_follower.h"

#define RECORD(text) text, sizeof(text) - 1

static const char stream[] = "\x16\x03\x01\x00\x03xyz"  // a handshake record
                             "\x14\x03\x03\x00\x01\x01" // change_cipher_spec
                             "\x16\x03\x03\x00\x00"     // an empty one
                             "\x17\x03\x03\x00\x04seal" // an encrypted one
                             "\x16\x03";                // and what begins behind it

static void follow(struct record_follower *follower, const char *bytes, size_t length, size_t piece)
{
    memset(follower, 0, sizeof *follower);
    for (size_t at = 0; at < length; at += piece) {
        size_t part = length - at < piece ? length - at : piece;
        uint8_t *copy = malloc(part); // of just this size, for the sanitizer
        assert_non_null(copy);
        memcpy(copy, bytes + at, part);
        record_follower_take(follower, NULL, NULL, copy, part);
        free(copy);
    }
}

static void test_a_stream_in_any_pieces_has_the_same_records(void **state)
{
    (void)state;
    const size_t whole = sizeof stream - 1 - 2;
    for (size_t piece = 1; piece <= whole; piece++) {
        struct record_follower follower;
        follow(&follower, stream, whole, piece);
        assert_memory_equal(follower.beginning, stream, RECORD_FOLLOWER_HEADER);
        assert_int_equal(follower.beginning_length, RECORD_FOLLOWER_HEADER);
        assert_int_equal(follower.encrypted, 1);
        assert_false(record_follower_is_amid_record(&follower));
        assert_int_equal(follower.length, RECORD_FOLLOWER_HEADER + 4);
        assert_memory_equal(follower.record, stream + whole - follower.length, follower.length);
        assert_false(follower.has_plain_alert);
        follow(&follower, stream, whole - 1, piece);
        assert_true(record_follower_is_amid_record(&follower));
        assert_int_equal(follower.left, 1);
        follow(&follower, stream, whole + 2, piece); // the header of the next one is not complete
        assert_false(record_follower_is_amid_record(&follower));
        assert_int_equal(follower.length, 2);
    }
}

static void test_only_a_plain_alert_is_read(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t length;
        int alert; // -1: none in clear
    } cases[] = {
        {RECORD("\x15\x03\x03\x00\x02\x02\x30"), 0x30},
        {RECORD("\x15\x03\x03\x00\x02\x01\x5a\x15\x03\x03\x00\x02\x02\x28"), 0x28}, // the last one counts
        {RECORD("\x15\x03\x03\x00\x02\x02"), -1},                                   // not all of it
        {RECORD("\x15\x03\x03\x00\x03\x02\x30\x30"), -1},                           // longer: encrypted
        {RECORD("\x15\x03\x03\x00\x01\x02"), -1},
        {RECORD("\x15\x03\x03\x01\x02\x02\x30"), -1},
        {RECORD("\x16\x03\x03\x00\x02\x02\x30"), -1},
        {RECORD("\x17\x03\x03\x00\x02\x02\x30"), -1},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        for (size_t piece = 1; piece <= cases[i].length; piece++) {
            struct record_follower follower;
            follow(&follower, cases[i].bytes, cases[i].length, piece);
            assert_int_equal(follower.has_plain_alert, cases[i].alert >= 0);
            assert_true(cases[i].alert < 0 || follower.plain_alert == cases[i].alert);
        }
    }
}

// Of a long record the beginning is kept, and its whole length is known.
static void test_the_beginning_of_a_long_record_is_kept(void **state)
{
    (void)state;
    static char bytes[RECORD_FOLLOWER_HEADER + 0xffff] = {0x17, 3, 3, (char)0xff, (char)0xff};
    static const size_t pieces[] = {1, 7, RECORD_FOLLOWER_KEPT, RECORD_FOLLOWER_KEPT + 1, 16384, sizeof bytes};
    for (size_t i = RECORD_FOLLOWER_HEADER; i < sizeof bytes; i++)
        bytes[i] = (char)(i * 7);
    for (size_t i = 0; i < ARRAY_LENGTH(pieces); i++) {
        struct record_follower follower;
        follow(&follower, bytes, sizeof bytes, pieces[i]);
        assert_int_equal(follower.length, sizeof bytes);
        assert_int_equal(follower.left, 0);
        assert_memory_equal(follower.record, bytes, RECORD_FOLLOWER_KEPT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_stream_in_any_pieces_has_the_same_records),
        cmocka_unit_test(test_only_a_plain_alert_is_read),
        cmocka_unit_test(test_the_beginning_of_a_long_record_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
