// SOCKS5's messages: bytes as RFC 1928 and 1929 have them, every answer in words, however it is cut.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/wire/socks5.h"
#include "hex.h"

static struct socks5_text text_of(const char *text)
{
    return (struct socks5_text){.bytes = text, .length = (uint8_t)strlen(text)};
}

static void assert_bytes(const uint8_t *bytes, size_t length, const char *hex)
{
    uint8_t wanted[SOCKS5_CREDENTIALS_SIZE];
    assert_int_equal(length, from_hex(hex, wanted, sizeof wanted));
    assert_memory_equal(bytes, wanted, length);
}

static void test_requests_have_their_bytes(void **state)
{
    (void)state;
    uint8_t out[SOCKS5_CREDENTIALS_SIZE];
    assert_bytes(out, socks5_encode_greeting(false, out), "05 01 00");
    assert_bytes(out, socks5_encode_greeting(true, out), "05 02 00 02");
    assert_bytes(out, socks5_encode_credentials(text_of("me"), text_of("s3cret"), out), "01 02 6d65 06 733363726574");
    assert_bytes(out, socks5_encode_connect(SOCKS5_NAME, text_of("example.com"), 443, out),
                 "05 01 00 03 0b 6578616d706c652e636f6d 01bb");
    struct socks5_text ipv4 = {.bytes = "\xc0\0\2\1", .length = 4};
    assert_bytes(out, socks5_encode_connect(SOCKS5_IPV4, ipv4, 80, out), "05 01 00 01 c0000201 0050");
    struct socks5_text ipv6 = {.bytes = "\x20\1\xd\xb8\0\0\0\0\0\0\0\0\0\0\0\1", .length = 16};
    assert_bytes(out, socks5_encode_connect(SOCKS5_IPV6, ipv6, 65535, out),
                 "05 01 00 04 20010db8000000000000000000000001 ffff");
}

static void test_the_longest_texts_fit(void **state)
{
    (void)state;
    char text[256];
    memset(text, 'x', 255);
    text[255] = '\0';
    uint8_t credentials[SOCKS5_CREDENTIALS_SIZE];
    uint8_t request[SOCKS5_CONNECT_SIZE];
    assert_int_equal(socks5_encode_credentials(text_of(text), text_of(text), credentials), sizeof credentials);
    assert_int_equal(credentials[1], 255);
    assert_int_equal(credentials[257], 255);
    assert_int_equal(socks5_encode_connect(SOCKS5_NAME, text_of(text), 1, request), sizeof request);
    assert_int_equal(request[4], 255);
}

enum question { CHOICE, CHOICE_WITH_CREDENTIALS, VERDICT, REPLY };

static enum socks5_state parse(enum question question, const uint8_t *bytes, size_t length,
                               struct socks5_answer *answer)
{
    switch (question) {
    case CHOICE:
        return socks5_parse_choice(bytes, length, false, answer);
    case CHOICE_WITH_CREDENTIALS:
        return socks5_parse_choice(bytes, length, true, answer);
    case VERDICT:
        return socks5_parse_verdict(bytes, length, answer);
    case REPLY:
        break;
    }
    return socks5_parse_reply(bytes, length, answer);
}

// From a block of just this size, for the sanitizer.
static enum socks5_state parse_exactly(enum question question, const uint8_t *bytes, size_t length,
                                       struct socks5_answer *answer)
{
    uint8_t *copy = malloc(length > 0 ? length : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, length);
    enum socks5_state state = parse(question, copy, length, answer);
    free(copy);
    return state;
}

// Answers that are a yes: with any number of bytes less, just the right number is asked for.
static const struct {
    enum question question;
    const char *hex;
} good[] = {
    {CHOICE, "05 00"},
    {CHOICE_WITH_CREDENTIALS, "05 00"},
    {CHOICE_WITH_CREDENTIALS, "05 02"},
    {VERDICT, "01 00"},
    {VERDICT, "05 00"}, // of servers that mix up the versions
    {REPLY, "05 00 00 01 00000000 0000"},
    {REPLY, "05 00 ff 01 7f000001 1f90"}, // what is reserved does not matter
    {REPLY, "05 00 00 04 00000000000000000000000000000001 1f90"},
    {REPLY, "05 00 00 03 00 0050"},
    {REPLY, "05 00 00 03 05 70726f7879 0050"},
};

static void test_good_answers_are_read_in_any_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(good); i++) {
        uint8_t bytes[64];
        struct socks5_answer answer;
        size_t whole = from_hex(good[i].hex, bytes, sizeof bytes);
        for (size_t length = 0; length < whole; length++) {
            assert_int_equal(parse_exactly(good[i].question, bytes, length, &answer), SOCKS5_NEEDS_MORE);
            assert_int_equal(answer.needed, whole == 2 ? 2 : length < 5 ? 5 : whole);
        }
        memset(bytes + whole, 0xee, 10); // what follows is left alone
        assert_int_equal(parse_exactly(good[i].question, bytes, whole + 10, &answer), SOCKS5_COMPLETE);
        assert_int_equal(answer.length, whole);
        assert_int_equal(answer.wants_credentials, good[i].question == CHOICE_WITH_CREDENTIALS && bytes[1] == 2);
    }
}

static const struct {
    enum question question;
    const char *hex;
    enum socks5_state state;
    const char *reason;
} bad[] = {
    {CHOICE, "05 02", SOCKS5_DENIED, "demands a user and a password"},
    {CHOICE, "05 ff", SOCKS5_DENIED, "demands authentication"},
    {CHOICE_WITH_CREDENTIALS, "05 ff", SOCKS5_DENIED,
     "accepts neither a user and a password nor a client without them"},
    {CHOICE, "05 01", SOCKS5_DENIED, "demands GSSAPI, which is not supported"},
    {CHOICE_WITH_CREDENTIALS, "05 80", SOCKS5_DENIED,
     "demands an authentication method that it was not offered (method 0x80)"},
    {CHOICE, "00 5b", SOCKS5_INVALID, "speaks SOCKS4, not SOCKS5"},
    {CHOICE, "48 54 54 50", SOCKS5_INVALID, "speaks HTTP, not SOCKS5"},
    {CHOICE, "53", SOCKS5_INVALID, "speaks SSH, not SOCKS5"},
    {CHOICE, "15", SOCKS5_INVALID, "speaks TLS, not SOCKS5"},
    {CHOICE, "04", SOCKS5_INVALID, "does not speak SOCKS5"},
    {VERDICT, "01 01", SOCKS5_DENIED, "rejected the user or the password"},
    {VERDICT, "01 ff", SOCKS5_DENIED, "rejected the user or the password"},
    {VERDICT, "00", SOCKS5_INVALID, "answered the credentials with something else"},
    {REPLY, "05 01", SOCKS5_REFUSED, "answered: general failure"},
    {REPLY, "05 02 00 01 00000000 0000", SOCKS5_REFUSED, "answered: the connection is not allowed by its rules"},
    {REPLY, "05 03", SOCKS5_REFUSED, "answered: the network is unreachable"},
    {REPLY, "05 04", SOCKS5_REFUSED, "answered: the host is unreachable"},
    {REPLY, "05 05", SOCKS5_REFUSED, "answered: connection refused"},
    {REPLY, "05 06", SOCKS5_REFUSED, "answered: TTL expired"},
    {REPLY, "05 07", SOCKS5_REFUSED, "answered: the command is not supported"},
    {REPLY, "05 08", SOCKS5_REFUSED, "answered: the address type is not supported"},
    {REPLY, "05 09", SOCKS5_REFUSED, "answered with an unknown failure (reply code 0x09)"},
    {REPLY, "05 5b", SOCKS5_REFUSED, "answered with an unknown failure (reply code 0x5b)"},
    {REPLY, "05 ff", SOCKS5_REFUSED, "answered with an unknown failure (reply code 0xff)"},
    {REPLY, "04", SOCKS5_INVALID, "answered the request with something else"},
    {REPLY, "05 00 00 00 00", SOCKS5_INVALID, "answered with an address of an unknown type (type 0x00)"},
    {REPLY, "05 00 00 02 00", SOCKS5_INVALID, "answered with an address of an unknown type (type 0x02)"},
    {REPLY, "05 00 00 ff 00", SOCKS5_INVALID, "answered with an address of an unknown type (type 0xff)"},
};

static void test_bad_answers_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        uint8_t bytes[64];
        struct socks5_answer answer;
        size_t length = from_hex(bad[i].hex, bytes, sizeof bytes);
        assert_int_equal(parse_exactly(bad[i].question, bytes, length, &answer), bad[i].state);
        assert_string_equal(answer.reason, bad[i].reason);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests_have_their_bytes),
        cmocka_unit_test(test_the_longest_texts_fit),
        cmocka_unit_test(test_good_answers_are_read_in_any_cut),
        cmocka_unit_test(test_bad_answers_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
