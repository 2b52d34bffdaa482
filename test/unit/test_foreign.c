// Which other protocol a stream speaks: every beginning as a whole, byte by byte, and with another byte in it.

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/wire/foreign.h"

#define BYTES(text) (const uint8_t *)(text), sizeof(text) - 1

static const struct {
    const uint8_t *bytes;
    size_t length;
    enum foreign_protocol protocol;
} beginnings[] = {
    {BYTES("HTTP/"), FOREIGN_HTTP},
    {BYTES("GET "), FOREIGN_HTTP},
    {BYTES("POST "), FOREIGN_HTTP},
    {BYTES("HEAD "), FOREIGN_HTTP},
    {BYTES("PUT "), FOREIGN_HTTP},
    {BYTES("DELETE "), FOREIGN_HTTP},
    {BYTES("OPTIONS "), FOREIGN_HTTP},
    {BYTES("PATCH "), FOREIGN_HTTP},
    {BYTES("TRACE "), FOREIGN_HTTP},
    {BYTES("CONNECT "), FOREIGN_HTTP},
    {BYTES("PRI * HTTP/2"), FOREIGN_HTTP2},
    {BYTES("SSH-"), FOREIGN_SSH},
    {BYTES("PROXY "), FOREIGN_PROXY_V1},
    {BYTES("\r\n\r\n\0\r\nQUIT\n"), FOREIGN_PROXY_V2},
    {BYTES("EHLO "), FOREIGN_SMTP},
    {BYTES("HELO "), FOREIGN_SMTP},
    {BYTES("\0\0\0\10\4\322\26\57"), FOREIGN_POSTGRESQL},
    {BYTES("\x80\x2e\1\3\1"), FOREIGN_SSLV2},
    {BYTES("\x80\x2e\1\0\2"), FOREIGN_SSLV2},
    {BYTES("\x14\3"), FOREIGN_TLS},
    {BYTES("\x16\3"), FOREIGN_TLS},
    {BYTES("\x18\3"), FOREIGN_TLS},
};

static void test_a_beginning_names_its_protocol(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(beginnings); i++) {
        size_t needed = 1;
        assert_int_equal(foreign_protocol_of(beginnings[i].bytes, beginnings[i].length, &needed),
                         beginnings[i].protocol);
        assert_int_equal(needed, 0);
        assert_int_equal(foreign_protocol_of(beginnings[i].bytes, beginnings[i].length, NULL), beginnings[i].protocol);
    }
}

// Whoever asks again with as many bytes as are needed gets there, never with more than the beginning has.
static void test_part_of_a_beginning_says_how_much_would_tell_more(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(beginnings); i++) {
        enum foreign_protocol protocol = FOREIGN_UNKNOWN;
        size_t needed = 1;
        for (size_t length = 1; needed > 0; length = needed) {
            assert_in_range(length, 1, beginnings[i].length);
            protocol = foreign_protocol_of(beginnings[i].bytes, length, &needed);
            assert_true(needed == 0 || needed > length);
        }
        assert_int_equal(protocol, beginnings[i].protocol);
    }
}

static void test_part_of_a_beginning_is_a_guess(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        enum foreign_protocol protocol;
    } cases[] = {
        {"H", FOREIGN_HTTP},   {"HT", FOREIGN_HTTP},      {"HEL", FOREIGN_SMTP}, {"S", FOREIGN_SSH},
        {"PR", FOREIGN_HTTP2}, {"PRO", FOREIGN_PROXY_V1}, {"\x15", FOREIGN_TLS}, {"\x80\x2e\1", FOREIGN_UNKNOWN},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        size_t needed = 0;
        assert_int_equal(foreign_protocol_of((const uint8_t *)cases[i].bytes, strlen(cases[i].bytes), &needed),
                         cases[i].protocol);
        assert_true(needed > strlen(cases[i].bytes));
    }
}

static void test_what_begins_like_none_is_unknown(void **state)
{
    (void)state;
    static const struct {
        const uint8_t *bytes;
        size_t length;
    } cases[] = {
        {BYTES("x")},        {BYTES("get /")},          {BYTES("GETS")},   {BYTES("SSH2")},   {BYTES("\x05")},
        {BYTES("\x16\x02")}, {BYTES("\x80\x2e\2\3\1")}, {BYTES("\x13\3")}, {BYTES("\x19\3")},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        size_t needed = 1;
        assert_int_equal(foreign_protocol_of(cases[i].bytes, cases[i].length, &needed), FOREIGN_UNKNOWN);
        assert_int_equal(needed, 0);
    }
}

static void test_what_nobody_takes_for_an_answer_of_socks_is_not_named(void **state)
{
    (void)state;
    for (unsigned protocol = 0; protocol < FOREIGN_PROTOCOL_COUNT; protocol++) {
        bool is_named = protocol == FOREIGN_HTTP || protocol == FOREIGN_SSH || protocol == FOREIGN_TLS;
        const char *words = foreign_protocol_words((enum foreign_protocol)protocol, FOREIGN_NOT_SOCKS5);
        assert_int_equal(strcmp(words, "does not speak SOCKS5") != 0, is_named);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_beginning_names_its_protocol),
        cmocka_unit_test(test_part_of_a_beginning_says_how_much_would_tell_more),
        cmocka_unit_test(test_part_of_a_beginning_is_a_guess),
        cmocka_unit_test(test_what_begins_like_none_is_unknown),
        cmocka_unit_test(test_what_nobody_takes_for_an_answer_of_socks_is_not_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
