// Version 1 of the PROXY protocol: the specification's own lines, what is refused and why, however it is cut.

#include "proxy_protocol_rig.h"

static struct proxy_header_decoded decoded;

static enum proxy_header_state decode_text(const char *text)
{
    return decode((const uint8_t *)text, strlen(text), &decoded);
}

static void assert_refused(const char *text, const char *reason)
{
    assert_invalid(text, strlen(text), reason);
}

#define FULL_IPV6 "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"

// The examples of proxy-protocol.txt 2.1: the usual one, and the longest of each kind.
static const struct {
    const char *line;
    const char *source;
    const char *destination;
    uint16_t source_port;
    uint16_t destination_port;
} lines[] = {
    {"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", "192.168.0.1", "192.168.0.11", 56324, 443},
    {"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255", "255.255.255.255", 65535, 65535},
    {"PROXY TCP6 " FULL_IPV6 " " FULL_IPV6 " 65535 65535\r\n", FULL_IPV6, FULL_IPV6, 65535, 65535},
    {"PROXY TCP4 0.0.0.0 1.2.3.4 0 1\r\n", "0.0.0.0", "1.2.3.4", 0, 1},
    {"PROXY TCP6 2001:db8::1 :: 1 65535\r\n", "2001:db8::1", "::", 1, 65535},
    {"PROXY TCP6 ::1 2001:db8:0:1::1 1024 8443\r\n", "::1", "2001:db8:0:1::1", 1024, 8443},
};

static void test_a_line_is_decoded_and_encoded(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(lines); i++) {
        assert_int_equal(decode_text(lines[i].line), PROXY_HEADER_COMPLETE);
        assert_int_equal(decoded.version, 1);
        assert_int_equal(decoded.length, strlen(lines[i].line));
        assert_false(decoded.header.is_local);
        assert_end(&decoded.header.source, lines[i].source, lines[i].source_port);
        assert_end(&decoded.header.destination, lines[i].destination, lines[i].destination_port);

        uint8_t out[PROXY_HEADER_V1_MAX];
        struct proxy_header header = {.source = end_of(lines[i].source, lines[i].source_port),
                                      .destination = end_of(lines[i].destination, lines[i].destination_port)};
        assert_int_equal(proxy_header_encode_v1(&header, out), strlen(lines[i].line));
        assert_memory_equal(out, lines[i].line, strlen(lines[i].line));
    }
    assert_int_equal(strlen(lines[1].line), 56);
    assert_int_equal(strlen(lines[2].line), 104);
}

static void test_an_unknown_line_has_no_addresses(void **state)
{
    (void)state;
    static const char *const unknown[] = {
        "PROXY UNKNOWN\r\n",
        "PROXY UNKNOWN \r\n",
        "PROXY UNKNOWN what ever \x01\xff\r\n",
        "PROXY UNKNOWN " FULL_IPV6 " " FULL_IPV6 " 65535 65535\r\n",
    };
    for (size_t i = 0; i < ARRAY_LENGTH(unknown); i++) {
        assert_int_equal(decode_text(unknown[i]), PROXY_HEADER_COMPLETE);
        assert_int_equal(decoded.length, strlen(unknown[i]));
        assert_int_equal(decoded.header.source.family, PROXY_HEADER_UNKNOWN);
        assert_int_equal(decoded.header.destination.family, PROXY_HEADER_UNKNOWN);
    }
    assert_int_equal(decoded.length, 107);
}

static void test_what_follows_is_left_alone(void **state)
{
    (void)state;
    const char *line = lines[0].line;
    char stream[300];
    (void)snprintf(stream, sizeof stream, "%sGET / HTTP/1.1\r\n\n\r%s", line, line);
    assert_int_equal(decode_text(stream), PROXY_HEADER_COMPLETE);
    assert_int_equal(decoded.length, strlen(line));
}

// One byte more at a time: it is never refused, and waiting for just what is asked for gets there.
static void test_a_line_cut_anywhere_asks_for_no_more_than_it_needs(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(lines); i++) {
        size_t whole = strlen(lines[i].line);
        for (size_t length = 0; length < whole; length++) {
            assert_int_equal(decode((const uint8_t *)lines[i].line, length, &decoded), PROXY_HEADER_NEEDS_MORE);
            assert_in_range(decoded.needed, length + 1, whole);
        }
    }
    assert_needs("", 0, 15);
    assert_needs("P", 1, 15);
    assert_needs("PROXY UNKNOWN\r", 14, 15);
    assert_needs("PROXY UNKNOWN ", 14, 16);
    assert_needs("PROXY UNKNOWN  \r", 16, 17);
}

static void test_a_line_beyond_107_bytes_is_refused(void **state)
{
    (void)state;
    static const char too_long[] = "a PROXY protocol line longer than 107 bytes";
    char line[130];
    memset(line, 'x', sizeof line);
    memcpy(line, "PROXY UNKNOWN ", 14);
    assert_needs(line, 105, 107);
    assert_invalid(line, 106, too_long); // two more are needed at least
    assert_invalid(line, 107, too_long);
    assert_invalid(line, sizeof line, too_long);
    line[106] = '\r';
    line[107] = '\n';
    assert_invalid(line, 108, too_long);
    assert_invalid(line, 107, too_long);
    line[105] = '\r';
    line[106] = '\n';
    assert_needs(line, 106, 107);
    assert_int_equal(decode((const uint8_t *)line, 107, &decoded), PROXY_HEADER_COMPLETE);
}

#define BAD_SOURCE "a PROXY protocol line whose source address is malformed"
#define BAD_DESTINATION "a PROXY protocol line whose destination address is malformed"
#define BAD_SOURCE_PORT "a PROXY protocol line whose source port is malformed"
#define BAD_DESTINATION_PORT "a PROXY protocol line whose destination port is malformed"
#define BAD_FAMILIES "a PROXY protocol line whose addresses are not of the family that it names"
#define BAD_PROTOCOL "a PROXY protocol line of an unknown protocol"

static void test_a_malformed_line_is_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"PROXY \r\n", BAD_PROTOCOL},
        {"PROXY TCP4\r\n", BAD_PROTOCOL},
        {"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", BAD_PROTOCOL},
        {"PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n", BAD_PROTOCOL},
        {"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n", BAD_PROTOCOL},
        {"PROXY UNKNOWNS\r\n", BAD_PROTOCOL},
        {"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n", BAD_PROTOCOL},
        {"PROXY TCP4 \r\n", BAD_SOURCE},
        {"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", BAD_SOURCE},
        {"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n", BAD_SOURCE},
        {"PROXY TCP4 1.2.3.4.5 1.2.3.4 1 2\r\n", BAD_SOURCE},
        {"PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n", BAD_SOURCE},
        {"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n", BAD_SOURCE},
        {"PROXY TCP4 1.2.3.00 1.2.3.4 1 2\r\n", BAD_SOURCE},
        {"PROXY TCP4 1.2.3.-4 1.2.3.4 1 2\r\n", BAD_SOURCE},
        {"PROXY TCP4 1.2.3.4294967297 1.2.3.4 1 2\r\n", BAD_SOURCE},
        {"PROXY TCP4 ::1 ::1 1 2\r\n", BAD_FAMILIES},
        {"PROXY TCP4 ::ffff:1.2.3.4 ::ffff:1.2.3.4 1 2\r\n", BAD_FAMILIES},
        {"PROXY TCP4 localhost 1.2.3.4 1 2\r\n", BAD_SOURCE},
        {"PROXY TCP4 1 2 1.2.3.4 1.2.3.4\r\n", BAD_SOURCE}, // the wrong order
        {"PROXY TCP4 1.2.3.4\r\n", BAD_SOURCE},             // there is no more
        {"PROXY TCP4 1.2.3.4\t1.2.3.4 1 2\r\n", BAD_SOURCE},
        {"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n", BAD_FAMILIES},
        {"PROXY TCP6 1.2.3 ::1 1 2\r\n", BAD_SOURCE},
        {"PROXY TCP6 [::1] ::1 1 2\r\n", BAD_SOURCE},
        {"PROXY TCP6 ::1::2 ::1 1 2\r\n", BAD_SOURCE},
        {"PROXY TCP6 1:2:3:4:5:6:7 ::1 1 2\r\n", BAD_SOURCE},
        {"PROXY TCP6 1:2:3:4:5:6:7:8:9 ::1 1 2\r\n", BAD_SOURCE},
        {"PROXY TCP6 fe80::1%lo ::1 1 2\r\n", BAD_SOURCE},
        {"PROXY TCP6 ::10000 ::1 1 2\r\n", BAD_SOURCE},
        {"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ::1 1 2\r\n", BAD_SOURCE},
        {"PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n", BAD_DESTINATION},
        {"PROXY TCP4 1.2.3.4 1.2.3 1 2\r\n", BAD_DESTINATION},
        {"PROXY TCP4 1.2.3.4 ::1::2 1 2\r\n", BAD_DESTINATION},
        {"PROXY TCP6 ::1 1.2.3.256 1 2\r\n", BAD_DESTINATION},
        {"PROXY TCP6 ::1 localhost 1 2\r\n", BAD_DESTINATION},
        {"PROXY TCP4 1.2.3.4 1.2.3.4\r\n", BAD_DESTINATION},
        {"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n", BAD_SOURCE_PORT},
        {"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", BAD_SOURCE_PORT},
        {"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n", BAD_SOURCE_PORT},
        {"PROXY TCP4 1.2.3.4 1.2.3.4  2\r\n", BAD_SOURCE_PORT},
        {"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", BAD_SOURCE_PORT},
        {"PROXY TCP4 1.2.3.4 1.2.3.4 0x1 2\r\n", BAD_SOURCE_PORT},
        {"PROXY TCP4 1.2.3.4 1.2.3.4 99999999999999999999 2\r\n", BAD_SOURCE_PORT},
        {"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", BAD_DESTINATION_PORT},
        {"PROXY TCP4 1.2.3.4 1.2.3.4 1 00\r\n", BAD_DESTINATION_PORT},
        {"PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n", BAD_DESTINATION_PORT},
        {"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", "a PROXY protocol line with something after its ports"},
        {"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", "a PROXY protocol line with something after its ports"},
        {"PROXY TCP4 1.2.3.4 1.2.3.4 1 2x\r\n", "a PROXY protocol line with something after its ports"},
        {"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", "a PROXY protocol line with an LF without a CR before it"},
        {"PROXY UNKNOWN \r x\r\n", "a PROXY protocol line with a CR without an LF after it"},
        {"PROXY UNKNOWN \n x\r\n", "a PROXY protocol line with an LF without a CR before it"},
        {"PROXYTCP4 1.2.3.4 1.2.3.4 1 2\r\n", "no PROXY protocol header"},
        {"PROXX", "no PROXY protocol header"},
        {"proxy TCP4", "no PROXY protocol header"},
        {" PROXY TCP4", "no PROXY protocol header"},
        {"\n", "no PROXY protocol header"},
        {"GET / HTTP/1.1\r\n", "HTTP, not a PROXY protocol header"},
        {"POST / HTTP/1.1\r\n", "HTTP, not a PROXY protocol header"},
        {"SSH-2.0-OpenSSH_9.2\r\n", "SSH, not a PROXY protocol header"},
        {"\x16\x03\x01\x02", "TLS, not a PROXY protocol header"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        assert_refused(cases[i][0], cases[i][1]);
    // A zero byte is none of the text's end.
    assert_invalid("PROXY TCP6 ::1\0x ::1 1 2\r\n", 26, BAD_SOURCE);
}

static void assert_encodes(const struct proxy_header_address source, const struct proxy_header_address destination,
                           const char *line)
{
    uint8_t out[PROXY_HEADER_V1_MAX];
    struct proxy_header header = {.source = source, .destination = destination};
    size_t length = proxy_header_encode_v1(&header, out);
    assert_int_equal(length, strlen(line));
    assert_memory_equal(out, line, length);
}

static void test_a_pair_is_written_in_a_family_that_holds_both(void **state)
{
    (void)state;
    const struct proxy_header_address none = {.family = PROXY_HEADER_UNKNOWN};
    assert_encodes(end_of("::ffff:192.0.2.1", 1), end_of("::ffff:192.0.2.2", 2),
                   "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
    assert_encodes(end_of("192.0.2.1", 1), end_of("::ffff:192.0.2.2", 2), "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
    assert_encodes(end_of("192.0.2.1", 1), end_of("2001:db8::2", 2), "PROXY TCP6 ::ffff:c000:201 2001:db8::2 1 2\r\n");
    assert_encodes(end_of("2001:db8::1", 1), end_of("192.0.2.2", 2), "PROXY TCP6 2001:db8::1 ::ffff:c000:202 1 2\r\n");
    assert_encodes(end_of("2001:db8::1", 1), end_of("::ffff:0.0.0.2", 2), "PROXY TCP6 2001:db8::1 ::ffff:0:2 1 2\r\n");
    assert_encodes(end_of("::1.2.3.4", 1), end_of("::ffff:1", 2), "PROXY TCP6 ::102:304 ::ffff:1 1 2\r\n");
    assert_encodes(end_of("/run/a", 0), end_of("/run/b", 0), "PROXY UNKNOWN\r\n");
    assert_encodes(end_of("/run/a", 0), end_of("192.0.2.2", 2), "PROXY UNKNOWN\r\n");
    assert_encodes(end_of("192.0.2.2", 2), none, "PROXY UNKNOWN\r\n");
    assert_encodes(none, none, "PROXY UNKNOWN\r\n");

    uint8_t out[PROXY_HEADER_V1_MAX];
    struct proxy_header local = {
        .is_local = true, .source = end_of("192.0.2.1", 1), .destination = end_of("192.0.2.2", 2)};
    assert_int_equal(proxy_header_encode_v1(&local, out), 15);
    assert_memory_equal(out, "PROXY UNKNOWN\r\n", 15);
}

// nginx writes IPv4-mapped addresses of a dual stack listener so.
static void test_a_mapped_address_is_read(void **state)
{
    (void)state;
    assert_int_equal(decode_text("PROXY TCP6 ::ffff:127.0.0.1 ::ffff:127.0.0.2 1 2\r\n"), PROXY_HEADER_COMPLETE);
    assert_end(&decoded.header.source, "::ffff:127.0.0.1", 1);
    assert_end(&decoded.header.destination, "::ffff:127.0.0.2", 2);
}

// What a line of two families is sent on as, in either version, is of one.
static void assert_sent_on(const struct proxy_header *header, const char *source, const char *destination)
{
    struct proxy_header_decoded again;
    uint8_t out[PROXY_HEADER_V2_MAX];
    for (unsigned version = 1; version <= 2; version++) {
        size_t length = version == 1 ? proxy_header_encode_v1(header, out) : proxy_header_encode_v2(header, out);
        assert_int_equal(decode(out, length, &again), PROXY_HEADER_COMPLETE);
        assert_int_equal(again.version, version);
        assert_end(&again.header.source, source, header->source.port);
        assert_end(&again.header.destination, destination, header->destination.port);
    }
}

// nginx writes the client that it was told of and the address of its own where that came, whatever their families.
static void test_a_line_with_two_families_is_read(void **state)
{
    (void)state;
    static const struct {
        const char *line, *source, *destination, *sent_source, *sent_destination;
    } rows[] = {
        {"PROXY TCP6 2001:db8::7 127.0.0.1 5000 443\r\n", "2001:db8::7", "127.0.0.1", "2001:db8::7",
         "::ffff:127.0.0.1"},
        {"PROXY TCP4 192.0.2.7 2001:db8::9 5000 443\r\n", "192.0.2.7", "2001:db8::9", "::ffff:192.0.2.7",
         "2001:db8::9"},
        {"PROXY TCP6 192.0.2.7 2001:db8::9 5000 443\r\n", "192.0.2.7", "2001:db8::9", "::ffff:192.0.2.7",
         "2001:db8::9"},
        {"PROXY TCP4 192.0.2.7 ::ffff:127.0.0.1 5000 443\r\n", "192.0.2.7", "::ffff:127.0.0.1", "192.0.2.7",
         "127.0.0.1"},
        {"PROXY TCP6 ::ffff:192.0.2.7 127.0.0.1 5000 443\r\n", "::ffff:192.0.2.7", "127.0.0.1", "192.0.2.7",
         "127.0.0.1"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        assert_int_equal(decode_text(rows[i].line), PROXY_HEADER_COMPLETE);
        assert_int_equal(decoded.length, strlen(rows[i].line));
        assert_end(&decoded.header.source, rows[i].source, 5000);
        assert_end(&decoded.header.destination, rows[i].destination, 443);
        struct proxy_header header = decoded.header;
        assert_sent_on(&header, rows[i].sent_source, rows[i].sent_destination);
        for (size_t length = 0; length < strlen(rows[i].line); length++)
            assert_int_equal(decode((const uint8_t *)rows[i].line, length, &decoded), PROXY_HEADER_NEEDS_MORE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_line_is_decoded_and_encoded),
        cmocka_unit_test(test_an_unknown_line_has_no_addresses),
        cmocka_unit_test(test_what_follows_is_left_alone),
        cmocka_unit_test(test_a_line_cut_anywhere_asks_for_no_more_than_it_needs),
        cmocka_unit_test(test_a_line_beyond_107_bytes_is_refused),
        cmocka_unit_test(test_a_malformed_line_is_refused),
        cmocka_unit_test(test_a_pair_is_written_in_a_family_that_holds_both),
        cmocka_unit_test(test_a_mapped_address_is_read),
        cmocka_unit_test(test_a_line_with_two_families_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
