// ClientHellos: what is read from them however they are cut, what is refused and why, how much more is asked for.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/wire/client_hello.h"
#include "bytes.h"
#include "hex.h"

static void put_number(struct bytes *bytes, size_t value, size_t size)
{
    for (size_t i = size; i-- > 0;) {
        uint8_t byte = (uint8_t)(value >> (8 * i));
        put(bytes, &byte, 1);
    }
}

static void put_vector(struct bytes *bytes, size_t size, const void *from, size_t length)
{
    put_number(bytes, length, size);
    put(bytes, from, length);
}

// The bytes at the end of a block that a test gives back: whoever reads beyond them is caught by the sanitizer.
static enum client_hello_state parse_exactly(const uint8_t *bytes, size_t length, struct client_hello *hello)
{
    uint8_t *copy = malloc(length > 0 ? length : 1);
    assert_non_null(copy);
    if (length > 0)
        memcpy(copy, bytes, length);
    enum client_hello_state state = client_hello_parse(copy, length, hello);
    free(copy);
    return state;
}

static void put_extension(struct bytes *extensions, unsigned type, const void *data, size_t length)
{
    put_number(extensions, type, 2);
    put_vector(extensions, 2, data, length);
}

static void put_server_name(struct bytes *extensions, const void *name, size_t length)
{
    static struct bytes data;
    data.length = 0;
    put_number(&data, length + 3, 2);
    put_number(&data, 0, 1);
    put_vector(&data, 2, name, length);
    put_extension(extensions, 0, data.at, data.length);
}

// A ClientHello with these extensions (NULL: none at all), in records of `record` bytes.
static void make(struct bytes *stream, unsigned version, const struct bytes *extensions, size_t record)
{
    static struct bytes body;
    static struct bytes message;
    static const uint8_t random[32] = {1, 2, 3};
    static const uint8_t session[32] = {9};
    body.length = message.length = stream->length = 0;
    put_number(&body, version, 2);
    put(&body, random, sizeof random);
    put_vector(&body, 1, session, sizeof session);
    put_vector(&body, 2, "\x13\x01\x13\x02", 4);
    put_vector(&body, 1, "", 1);
    if (extensions != NULL)
        put_vector(&body, 2, extensions->at, extensions->length);
    put_number(&message, 1, 1);
    put_vector(&message, 3, body.at, body.length);
    for (size_t at = 0; at < message.length; at += record) {
        size_t part = message.length - at < record ? message.length - at : record;
        put(stream, "\x16\x03\x01", 3);
        put_vector(stream, 2, message.at + at, part);
    }
}

static struct bytes extensions;
static struct bytes stream;
static struct client_hello hello;

// Made by Python 3.11's ssl module on OpenSSL 3.0: wrap_bio() of a client with ALPN h2 and http/1.1 for the name
// "Www.Example.COM", and do_handshake().
static const char openssl_hello[] =
    "1603010200010001fc03033a169a123f9c9b629383c852066efa2933fef312287a1a876ba9401eed98c78820b5be67ed4986"
    "b20b8b28e36272587c382acc3287be5a5aca7baf6c80422e24d4003e130213031301c02cc030009fcca9cca8ccaac02bc02f"
    "009ec024c028006bc023c0270067c00ac0140039c009c0130033009d009c003d003c0035002f00ff01000175000000140012"
    "00000f5777772e4578616d706c652e434f4d000b000403000102000a00160014001d0017001e001900180100010101020103"
    "0104002300000010000e000c02683208687474702f312e310016000000170000000d002a0028040305030603080708080809"
    "080a080b080408050806040105010601030303010302040205020602002b0009080304030303020301002d00020101003300"
    "260024001d00205e05ed74bf2c3534bdaf65b333d6741f59c6e8740146605ac09538dc42c75725001500ae00000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000";

static void test_a_hello_of_openssl_is_read(void **state)
{
    (void)state;
    stream.length = from_hex(openssl_hello, stream.at, sizeof stream.at);
    assert_int_equal(parse_exactly(stream.at, stream.length, &hello), CLIENT_HELLO_COMPLETE);
    assert_string_equal(hello.server_name, "www.example.com");
    assert_int_equal(hello.protocol_count, 2);
    assert_string_equal(hello.protocols[0], "h2");
    assert_string_equal(hello.protocols[1], "http/1.1");
    assert_int_equal(hello.highest_version, 0x0304);
}

static void make_usual(size_t record)
{
    extensions.length = 0;
    put_extension(&extensions, 0x0a0a, "", 0); // GREASE
    put_server_name(&extensions, "a.example.", 10);
    put_extension(&extensions, 16, "\0\x0c\x02h2\x08http/1.1", 14);
    put_extension(&extensions, 43, "\x06\xfa\xfa\x03\x04\x03\x03", 7);
    put_extension(&extensions, 51, extensions.at, 40);
    make(&stream, 0x0303, &extensions, record);
}

static void assert_usual(void)
{
    assert_string_equal(hello.server_name, "a.example");
    assert_int_equal(hello.protocol_count, 2);
    assert_string_equal(hello.protocols[0], "h2");
    assert_string_equal(hello.protocols[1], "http/1.1");
    assert_int_equal(hello.highest_version, 0x0304);
}

// One byte more at a time: it is never refused, what is asked for is never too much, and waiting for just that gets
// there.
static void test_a_hello_cut_anywhere_asks_for_no_more_than_it_needs(void **state)
{
    (void)state;
    static const size_t records[] = {16384, 100, 64, 7, 4, 3, 1};
    for (size_t i = 0; i < ARRAY_LENGTH(records); i++) {
        make_usual(records[i]);
        size_t asked = 0;
        for (size_t length = 0; length < stream.length; length++) {
            assert_int_equal(parse_exactly(stream.at, length, &hello), CLIENT_HELLO_NEEDS_MORE);
            assert_true(hello.needed > length && hello.needed >= asked && hello.needed <= stream.length);
            assert_string_equal(hello.server_name, "");
            // With the bytes that were asked for, it knows more than with one byte less.
            if (length == asked && length > 0)
                assert_true(hello.needed > asked);
            asked = hello.needed;
        }
        assert_int_equal(parse_exactly(stream.at, stream.length, &hello), CLIENT_HELLO_COMPLETE);
        assert_usual();
        size_t length = 0;
        while (parse_exactly(stream.at, length, &hello) == CLIENT_HELLO_NEEDS_MORE)
            length = hello.needed;
        assert_int_equal(length, stream.length);
        assert_usual();
    }
}

static void test_the_bytes_that_are_needed_are_told_exactly(void **state)
{
    (void)state;
    make_usual(100);
    static const struct {
        size_t have;
        size_t needed;
    } cases[] = {{0, 5}, {1, 5}, {4, 5}, {5, 9}, {8, 9}, {9, 105}, {104, 105}, {105, 110}, {109, 110}};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        assert_int_equal(parse_exactly(stream.at, cases[i].have, &hello), CLIENT_HELLO_NEEDS_MORE);
        assert_int_equal(hello.needed, cases[i].needed);
    }
    // The second record holds the rest of the message and something else: that is not waited for.
    size_t whole = stream.length;
    size_t payload = (size_t)stream.at[108] << 8 | stream.at[109];
    stream.at[108] = (uint8_t)((payload + 50) >> 8);
    stream.at[109] = (uint8_t)(payload + 50);
    assert_int_equal(parse_exactly(stream.at, 110, &hello), CLIENT_HELLO_NEEDS_MORE);
    assert_int_equal(hello.needed, whole);
    assert_int_equal(parse_exactly(stream.at, whole, &hello), CLIENT_HELLO_COMPLETE);
    assert_usual();
}

static void test_a_hello_without_extensions_is_complete(void **state)
{
    (void)state;
    make(&stream, 0x0303, NULL, 16384);
    assert_int_equal(parse_exactly(stream.at, stream.length, &hello), CLIENT_HELLO_COMPLETE);
    assert_string_equal(hello.server_name, "");
    assert_int_equal(hello.protocol_count, 0);
    assert_int_equal(hello.highest_version, 0x0303);
    extensions.length = 0;
    make(&stream, 0x0301, &extensions, 16384);
    assert_int_equal(parse_exactly(stream.at, stream.length, &hello), CLIENT_HELLO_COMPLETE);
    assert_int_equal(hello.highest_version, 0x0301);
    // 1.3 is what supported_versions says, or nothing.
    make(&stream, 0x0304, &extensions, 16384);
    assert_int_equal(parse_exactly(stream.at, stream.length, &hello), CLIENT_HELLO_COMPLETE);
    assert_int_equal(hello.highest_version, 0x0303);
}

static void test_a_server_name_is_lowercased_without_its_last_dot(void **state)
{
    (void)state;
    char longest[256];
    memset(longest, 'a', sizeof longest);
    static const struct {
        const char *sent;
        const char *read;
    } cases[] = {{"A-B.Example", "a-b.example"}, {"x.", "x"}, {"192.0.2.1", "192.0.2.1"}, {"::1", "::1"}, {"_x", "_x"}};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        extensions.length = 0;
        put_server_name(&extensions, cases[i].sent, strlen(cases[i].sent));
        make(&stream, 0x0303, &extensions, 16384);
        assert_int_equal(parse_exactly(stream.at, stream.length, &hello), CLIENT_HELLO_COMPLETE);
        assert_string_equal(hello.server_name, cases[i].read);
    }
    extensions.length = 0;
    put_server_name(&extensions, longest, 255);
    make(&stream, 0x0303, &extensions, 16384);
    assert_int_equal(parse_exactly(stream.at, stream.length, &hello), CLIENT_HELLO_COMPLETE);
    assert_int_equal(strlen(hello.server_name), 255);
}

static void test_the_first_protocols_are_kept(void **state)
{
    (void)state;
    static struct bytes list;
    static struct bytes data;
    list.length = data.length = extensions.length = 0;
    put_vector(&list, 1, "a\0b", 3); // left out
    for (size_t i = 0; i < 20; i++) {
        char name[255];
        memset(name, 'a' + (int)i, sizeof name);
        put_vector(&list, 1, name, i == 0 ? 255 : 1);
    }
    put_vector(&data, 2, list.at, list.length);
    put_extension(&extensions, 16, data.at, data.length);
    make(&stream, 0x0303, &extensions, 16384);
    assert_int_equal(parse_exactly(stream.at, stream.length, &hello), CLIENT_HELLO_COMPLETE);
    assert_int_equal(hello.protocol_count, CLIENT_HELLO_ALPN_MAX);
    assert_int_equal(strlen(hello.protocols[0]), 255);
    assert_string_equal(hello.protocols[15], "p");
}

static void assert_refused(const void *bytes, size_t length, const char *reason)
{
    hello.reason = NULL;
    assert_int_equal(parse_exactly(bytes, length, &hello), CLIENT_HELLO_INVALID);
    assert_string_equal(hello.reason, reason);
    assert_string_equal(hello.server_name, "");
    assert_int_equal(hello.protocol_count, 0);
}

#define BYTES(text) text, sizeof(text) - 1

static void test_what_is_no_tls_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t length;
        const char *reason;
    } cases[] = {
        {BYTES("GET / HTTP/1.1\r\n"), "plain HTTP, not TLS"},
        {BYTES("GET "), "plain HTTP, not TLS"},
        {BYTES("POST /"), "plain HTTP, not TLS"},
        {BYTES("HEAD /"), "plain HTTP, not TLS"},
        {BYTES("PUT /"), "plain HTTP, not TLS"},
        {BYTES("DELETE /"), "plain HTTP, not TLS"},
        {BYTES("OPTIONS *"), "plain HTTP, not TLS"},
        {BYTES("PATCH /"), "plain HTTP, not TLS"},
        {BYTES("TRACE /"), "plain HTTP, not TLS"},
        {BYTES("CONNECT a:1"), "plain HTTP, not TLS"},
        {BYTES("PRI * HTTP/2.0\r\n"), "plain HTTP/2, not TLS"},
        {BYTES("SSH-2.0-OpenSSH"), "SSH, not TLS"},
        {BYTES("PROXY TCP4 "), "a PROXY protocol header, which is not expected here"},
        {BYTES("\r\n\r\n\0\r\nQUIT\n\x21"), "a PROXY protocol header (version 2), which is not expected here"},
        {BYTES("EHLO x"), "plain SMTP, not TLS"},
        {BYTES("HELO x"), "plain SMTP, not TLS"},
        {BYTES("\0\0\0\x08\x04\xd2\x16\x2f"), "a PostgreSQL SSLRequest, not TLS"},
        {BYTES("\x80\x2e\x01\x00\x02"), "an SSLv2 hello"},
        {BYTES("\x80\x9e\x01\x03\x01"), "an SSLv2 hello"},
        {BYTES("\x80\x9e\x02\x03\x01"), "bytes that are not TLS"},
        {BYTES("\x15\x03"), "a TLS alert where a ClientHello was expected"},
        {BYTES("\x17\x03\x03"), "TLS data where a ClientHello was expected"},
        {BYTES("\x14\x03\x03"), "a TLS record where a ClientHello was expected"},
        {BYTES("\x17\x05"), "bytes that are not TLS"},
        {BYTES("GOT"), "bytes that are not TLS"},
        {BYTES("\n"), "bytes that are not TLS"},
        {BYTES("\x05\x01\x00"), "bytes that are not TLS"},
        {BYTES("\x16\x02"), "a TLS record of an unknown version"},
        {BYTES("\x16\x03\x01\0\0"), "an empty TLS handshake record"},
        {BYTES("\x16\x03\x01\x40\x01"), "a TLS record longer than 16 KiB"},
        {BYTES("\x16\x03\x01\x40\0\x02"), "a TLS handshake message that is not a ClientHello"},
        {BYTES("\x16\x03\x01\0\x08\x01\0\0\x28"), "a ClientHello that is too short"},
        {BYTES("\x16\x03\x01\0\x08\x01\0\xff\xfd"), "a ClientHello larger than 64 KiB"},
        {BYTES("\x16\x03\x01\0\x08\x01\xff\xff\xff"), "a ClientHello larger than 64 KiB"},
        {BYTES("\x16\x03\x01\0\x01\x01\x17"), "a ClientHello interrupted by another record"},
        {BYTES("\x16\x03\x01\0\x01\x01\x16\x03\x01\0\0"), "an empty TLS handshake record"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        assert_refused(cases[i].bytes, cases[i].length, cases[i].reason);
        // Before, it either knew already or asked for no more than was needed to know.
        for (size_t length = 0; length < cases[i].length; length++) {
            if (parse_exactly((const uint8_t *)cases[i].bytes, length, &hello) == CLIENT_HELLO_NEEDS_MORE)
                assert_true(hello.needed > length && hello.needed <= cases[i].length + 4);
        }
    }
}

static void test_a_hello_beyond_the_bounds_is_refused(void **state)
{
    (void)state;
    // 64 KiB with the records' headers are taken, one byte more is not.
    extensions.length = 0;
    size_t overhead = 4 * 5 + 4 + 2 + 32 + 33 + 6 + 2 + 2 + 4;
    put_number(&extensions, 21, 2);
    put_number(&extensions, CLIENT_HELLO_MAX - overhead, 2);
    extensions.length += CLIENT_HELLO_MAX - overhead;
    make(&stream, 0x0303, &extensions, 16384);
    assert_int_equal(stream.length, CLIENT_HELLO_MAX);
    assert_int_equal(parse_exactly(stream.at, stream.length, &hello), CLIENT_HELLO_COMPLETE);
    make(&stream, 0x0303, &extensions, 16000);
    assert_int_equal(stream.length, CLIENT_HELLO_MAX + 5);
    assert_refused(stream.at, stream.length, "a ClientHello larger than 64 KiB");
    // Known as soon as the last record's header is there.
    assert_refused(stream.at, 4 * 16005 + 5, "a ClientHello larger than 64 KiB");

    // Endless small records.
    extensions.length = 20000;
    make(&stream, 0x0303, &extensions, 2);
    assert_refused(stream.at, stream.length, "a ClientHello in too many records");
    size_t length = 0;
    while (parse_exactly(stream.at, length, &hello) == CLIENT_HELLO_NEEDS_MORE) {
        assert_true(hello.needed > length && hello.needed <= CLIENT_HELLO_MAX);
        length = hello.needed;
    }
}

static void test_malformed_extensions_are_refused(void **state)
{
    (void)state;
    static const char name[] = "a ClientHello whose server_name is malformed";
    static const char host[] = "a ClientHello whose server_name is not one host name";
    static const char odd[] = "a ClientHello whose server_name has bytes that no host name may have";
    static const char alpn[] = "a ClientHello whose ALPN is malformed";
    static const char versions[] = "a ClientHello whose supported_versions is malformed";
    static const struct {
        unsigned type;
        const char *bytes;
        size_t length;
        const char *reason;
    } cases[] = {
        {0, BYTES(""), name},
        {0, BYTES("\0\0"), name},
        {0, BYTES("\0\x05\0\0\x01"), name},
        {0, BYTES("\0\x04\0\0\x01x\0"), name},
        {0, BYTES("\0\x04\x01\0\x01x"), host},
        {0, BYTES("\0\x04\0\0\x02x"), host},
        {0, BYTES("\0\x05\0\0\x01xy"), host},
        {0, BYTES("\0\x08\0\0\x01x\0\0\x01y"), host},
        {0, BYTES("\0\x03\0\0\0"), "a ClientHello whose server_name is empty or longer than 255 bytes"},
        {0, BYTES("\0\x04\0\0\x01."), "a ClientHello whose server_name is a dot"},
        {0, BYTES("\0\x06\0\0\x03x\0y"), odd},
        {0, BYTES("\0\x06\0\0\x03x y"), odd},
        {0, BYTES("\0\x05\0\0\x02\xc3\xa4"), odd},
        {0, BYTES("\0\x04\0\0\x01\x7f"), odd},
        {16, BYTES(""), alpn},
        {16, BYTES("\0\0"), alpn},
        {16, BYTES("\0\x01\0"), alpn},
        {16, BYTES("\0\x03\x03h2"), alpn},
        {16, BYTES("\0\x03\x02h2x"), alpn},
        {16, BYTES("\0\x04\x02h2\0"), alpn},
        {43, BYTES(""), versions},
        {43, BYTES("\0"), versions},
        {43, BYTES("\x03\x03\x04\x03"), versions},
        {43, BYTES("\x02\x03\x04\x03"), versions},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        extensions.length = 0;
        put_extension(&extensions, cases[i].type, cases[i].bytes, cases[i].length);
        make(&stream, 0x0303, &extensions, 16384);
        assert_refused(stream.at, stream.length, cases[i].reason);
        make(&stream, 0x0303, &extensions, 3);
        assert_refused(stream.at, stream.length, cases[i].reason);
    }
    extensions.length = 0;
    char long_name[256];
    memset(long_name, 'a', sizeof long_name);
    put_server_name(&extensions, long_name, sizeof long_name);
    make(&stream, 0x0303, &extensions, 16384);
    assert_refused(stream.at, stream.length, "a ClientHello whose server_name is empty or longer than 255 bytes");

    extensions.length = 0;
    put_server_name(&extensions, "a", 1);
    put_server_name(&extensions, "b", 1);
    make(&stream, 0x0303, &extensions, 16384);
    assert_refused(stream.at, stream.length, "a ClientHello with a repeated extension");
}

static void test_lying_lengths_are_refused(void **state)
{
    (void)state;
    static const char hello_malformed[] = "a ClientHello that is malformed";
    static const char extensions_malformed[] = "a ClientHello whose extensions are malformed";
    // Offsets into the stream of a message in one record.
    static const struct {
        size_t at;
        uint8_t value;
        const char *reason;
    } cases[] = {
        {9, 2, "a ClientHello of an unknown version"},
        {43, 33, hello_malformed},       // session id
        {43, 255, hello_malformed},      // beyond the end
        {77, 0, hello_malformed},        // cipher suites: none
        {77, 3, hello_malformed},        // an odd number of bytes
        {76, 255, hello_malformed},      // beyond the end
        {82, 0, hello_malformed},        // no compression method
        {82, 255, hello_malformed},      // beyond the end
        {85, 3, extensions_malformed},   // shorter than what follows
        {85, 200, extensions_malformed}, // longer
        {89, 200, extensions_malformed}, // an extension longer than all of them
    };
    extensions.length = 0;
    put_server_name(&extensions, "a", 1);
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        make(&stream, 0x0303, &extensions, 16384);
        stream.at[cases[i].at] = cases[i].value;
        assert_refused(stream.at, stream.length, cases[i].reason);
    }
    // Whatever byte is changed, to whatever: an answer, and no read beyond the end (the sanitizer watches).
    make_usual(50);
    for (size_t at = 0; at < stream.length; at++) {
        uint8_t saved = stream.at[at];
        for (unsigned value = 0; value < 256; value++) {
            stream.at[at] = (uint8_t)value;
            enum client_hello_state result = parse_exactly(stream.at, stream.length, &hello);
            if (result == CLIENT_HELLO_NEEDS_MORE)
                assert_true(hello.needed > stream.length);
            else
                assert_true((result == CLIENT_HELLO_INVALID) == (hello.reason != NULL));
        }
        stream.at[at] = saved;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_hello_of_openssl_is_read),
        cmocka_unit_test(test_a_hello_cut_anywhere_asks_for_no_more_than_it_needs),
        cmocka_unit_test(test_the_bytes_that_are_needed_are_told_exactly),
        cmocka_unit_test(test_a_hello_without_extensions_is_complete),
        cmocka_unit_test(test_a_server_name_is_lowercased_without_its_last_dot),
        cmocka_unit_test(test_the_first_protocols_are_kept),
        cmocka_unit_test(test_what_is_no_tls_is_named),
        cmocka_unit_test(test_a_hello_beyond_the_bounds_is_refused),
        cmocka_unit_test(test_malformed_extensions_are_refused),
        cmocka_unit_test(test_lying_lengths_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
