// Version 2 of the PROXY protocol: bytes as the specification's tables have them and as HAProxy sends them, what is
// refused and why, however it is cut.

#include "bytes.h"
#include "proxy_protocol_rig.h"
#include "wire/proxy_protocol_internal.h"

static struct proxy_header_decoded decoded;

#define SIGNATURE "0d0a0d0a000d0a515549540a"
#define INET_ADDRESSES "c0a80001 c0a8000b dc04 01bb" // the example of version 1
#define INET6_ADDRESSES "20010db8000000000000000000000001 20010db8000000000000000000000002 04d2 01bb"

static void set_hex(struct bytes *bytes, const char *hex)
{
    bytes->length = 0;
    put_hex(bytes, SIGNATURE);
    put_hex(bytes, hex);
}

static void put_field(struct bytes *bytes, unsigned type, const void *value, size_t length)
{
    uint8_t head[] = {(uint8_t)type, (uint8_t)(length >> 8), (uint8_t)length};
    put(bytes, head, sizeof head);
    put(bytes, value, length);
}

// Sets the header's own length to what is there.
static void close_header(struct bytes *bytes)
{
    size_t length = bytes->length - V2_FIXED;
    bytes->at[14] = (uint8_t)(length >> 8);
    bytes->at[15] = (uint8_t)length;
}

static void set_ipv4(struct bytes *bytes)
{
    set_hex(bytes, "21 11 0000" INET_ADDRESSES);
    close_header(bytes);
}

static void assert_decodes(const struct bytes *bytes)
{
    enum proxy_header_state state = decode(bytes->at, bytes->length, &decoded);
    if (state != PROXY_HEADER_COMPLETE)
        fail_msg("state %d: %s", (int)state, state == PROXY_HEADER_INVALID ? decoded.reason : "more");
    assert_int_equal(decoded.version, 2);
}

static void assert_refused(const struct bytes *bytes, const char *reason)
{
    assert_invalid(bytes->at, bytes->length, reason);
}

// HAProxy 2.6.12 with send-proxy-v2 and proxy-v2-options ssl,cert-cn,ssl-cipher,authority,crc32c,unique-id
static const char haproxy_header[] =
    SIGNATURE "21 11 0070 7f000001 7f000001 db72 a9d5 03 0004 68541ad6 01 0002 6832"
              "02 000f 7777772e6578616d706c652e636f6d 05 0007 69642d31323334 20 0039 07 00000000"
              "21 0007 544c5376312e33 22 000e 636c69656e742e6578616d706c65"
              "23 0016 544c535f4145535f3235365f47434d5f534841333834";

static void test_a_header_of_haproxy_is_read(void **state)
{
    (void)state;
    struct bytes bytes = {.length = 0};
    put_hex(&bytes, haproxy_header);
    put(&bytes, "hello", 5);
    assert_decodes(&bytes);
    assert_int_equal(decoded.length, bytes.length - 5);
    const struct proxy_header *header = &decoded.header;
    assert_end(&header->source, "127.0.0.1", 56178);
    assert_end(&header->destination, "127.0.0.1", 43477);
    assert_text(&header->protocol, "h2");
    assert_text(&header->authority, "www.example.com");
    assert_text(&header->unique_id, "id-1234");
    assert_true(header->tls.is_used && header->tls.has_certificate && header->tls.is_session_certified);
    assert_int_equal(header->tls.verify_result, 0);
    assert_text(&header->tls.version, "TLSv1.3");
    assert_text(&header->tls.common_name, "client.example");
    assert_text(&header->tls.cipher, "TLS_AES_256_GCM_SHA384");
}

static void test_a_wrong_checksum_is_refused(void **state)
{
    (void)state;
    // The check value of CRC-32C; four zeros stand in front of it as the checksum's place.
    assert_int_equal(proxy_header_crc32c((const uint8_t *)"123456789", 9, 9), 0xe3069283);
    // RFC 3720 B.4: 32 bytes of zeros, of ones.
    uint8_t block[32] = {0};
    assert_int_equal(proxy_header_crc32c(block, sizeof block, sizeof block), 0x8a9136aa);
    memset(block, 0xff, sizeof block);
    assert_int_equal(proxy_header_crc32c(block, sizeof block, sizeof block), 0x62a8ab43);

    struct bytes bytes = {.length = 0};
    put_hex(&bytes, haproxy_header);
    for (size_t i = V2_FIXED; i < bytes.length; i++) {
        bytes.at[i] ^= 0x20;
        assert_int_equal(decode(bytes.at, bytes.length, &decoded),
                         i == 28 ? PROXY_HEADER_COMPLETE : PROXY_HEADER_INVALID);
        bytes.at[i] ^= 0x20; // 28 is the type of the checksum's field, which then isn't one any more
    }
    bytes.at[40] ^= 1;
    assert_refused(&bytes, "a PROXY protocol header with a wrong checksum");

    static const size_t lengths[] = {0, 3, 5};
    for (size_t i = 0; i < ARRAY_LENGTH(lengths); i++) {
        set_ipv4(&bytes);
        put_field(&bytes, TLV_CRC32C, "\0\0\0\0\0", lengths[i]);
        close_header(&bytes);
        assert_refused(&bytes, "a PROXY protocol header whose checksum is malformed");
    }
}

static void test_addresses_of_each_family_are_read(void **state)
{
    (void)state;
    struct bytes bytes;
    set_hex(&bytes, "21 11 000c" INET_ADDRESSES);
    assert_decodes(&bytes);
    assert_int_equal(decoded.length, 28);
    assert_end(&decoded.header.source, "192.168.0.1", 56324);
    assert_end(&decoded.header.destination, "192.168.0.11", 443);

    set_hex(&bytes, "21 21 0024" INET6_ADDRESSES);
    assert_decodes(&bytes);
    assert_int_equal(decoded.length, 52);
    assert_end(&decoded.header.source, "2001:db8::1", 1234);
    assert_end(&decoded.header.destination, "2001:db8::2", 443);

    uint8_t paths[V2_UNIX_LENGTH] = "/run/client.sock";
    memset(paths + 108, 'x', 108); // no zero at its end
    set_hex(&bytes, "21 31 00d8");
    put(&bytes, paths, sizeof paths);
    assert_decodes(&bytes);
    assert_int_equal(decoded.length, 232);
    assert_end(&decoded.header.source, "/run/client.sock", 0);
    assert_int_equal(decoded.header.destination.family, PROXY_HEADER_UNIX);
    assert_memory_equal(decoded.header.destination.address, paths + 108, 108);
}

// What tells no address that counts: LOCAL, UNSPEC, datagrams.
static void test_a_header_without_addresses_is_read(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "20 00 0000",
        "20 11 000c" INET_ADDRESSES,
        "20 ff 0003 ffffff", // of a LOCAL, all is ignored
        "20 21 0001 00",
        "21 00 0000",
        "21 00 0005 0101ffff01", // what it has is no TLV
        "21 10 000c" INET_ADDRESSES,
        "21 01 000c" INET_ADDRESSES,
        "21 12 000c" INET_ADDRESSES,
        "21 22 0024" INET6_ADDRESSES,
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct bytes bytes;
        set_hex(&bytes, cases[i]);
        assert_decodes(&bytes);
        assert_int_equal(decoded.length, bytes.length);
        assert_int_equal(decoded.header.is_local, bytes.at[12] == 0x20);
        assert_int_equal(decoded.header.source.family, PROXY_HEADER_UNKNOWN);
        assert_int_equal(decoded.header.destination.family, PROXY_HEADER_UNKNOWN);
        assert_int_equal(decoded.header.protocol.length, 0);
    }
}

// UNSPEC has TLVs, too, and the checksum with them. Bytes that are no TLVs are no mistake there.
static void test_fields_are_read_without_addresses(void **state)
{
    (void)state;
    static const char wrong[] = "a PROXY protocol header with a wrong checksum";
    struct bytes bytes;
    set_hex(&bytes, "21 00 0007 03 0004 3ec9894e"); // as test_a_header_is_encoded_with_its_checksum has it
    assert_decodes(&bytes);
    bytes.at[bytes.length - 1] ^= 1;
    assert_refused(&bytes, wrong);
    set_hex(&bytes, "21 00 000c 01 0002 6832 03 0004 00000000");
    assert_refused(&bytes, wrong);
    // Of a LOCAL, the whole block is to be discarded, and the connection to be accepted.
    bytes.at[12] = 0x20;
    assert_decodes(&bytes);
    assert_true(decoded.header.is_local);
    assert_int_equal(decoded.header.protocol.length, 0);
    // A family without a transport: the TLVs are behind its addresses, which do not count.
    set_hex(&bytes, "21 10 0011" INET_ADDRESSES "02 0002 6162");
    assert_decodes(&bytes);
    assert_int_equal(decoded.header.source.family, PROXY_HEADER_UNKNOWN);
    assert_text(&decoded.header.authority, "ab");
    set_hex(&bytes, "21 10 0013" INET_ADDRESSES "03 0004 00000000");
    assert_refused(&bytes, wrong);
    // A transport without a family has no addresses, and no ports either.
    set_hex(&bytes, "21 01 0000");
    assert_decodes(&bytes);
    assert_int_equal(decoded.length, V2_FIXED);
    set_hex(&bytes, "21 01 0007 01 0004 68747470");
    assert_decodes(&bytes);
    assert_text(&decoded.header.protocol, "http");
    assert_int_equal(decoded.header.source.port, 0);
    assert_int_equal(decoded.header.destination.port, 0);
    static const char *const others[] = {"21 00 0001 03", "21 00 0005 03 0004 00 00", "21 10 0003 030000",
                                         "21 00 000c c0a80001 c0a8000b dc04 01bb"};
    for (size_t i = 0; i < ARRAY_LENGTH(others); i++) {
        set_hex(&bytes, others[i]);
        assert_decodes(&bytes);
        assert_int_equal(decoded.length, bytes.length);
    }
}

static void test_a_header_cut_anywhere_asks_for_the_rest(void **state)
{
    (void)state;
    struct bytes bytes = {.length = 0};
    put_hex(&bytes, haproxy_header);
    for (size_t length = 1; length < bytes.length; length++)
        assert_needs(bytes.at, length, length < V2_FIXED ? V2_FIXED : bytes.length);
}

static void test_a_malformed_fixed_part_is_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"11", "a PROXY protocol header of an unknown version"},
        {"01 11 000c" INET_ADDRESSES, "a PROXY protocol header of an unknown version"},
        {"31", "a PROXY protocol header of an unknown version"},
        {"22", "a PROXY protocol header with an unknown command"},
        {"2f 11 000c" INET_ADDRESSES, "a PROXY protocol header with an unknown command"},
        {"21 41", "a PROXY protocol header of an unknown address family"},
        {"21 f0 0000", "a PROXY protocol header of an unknown address family"},
        {"21 13", "a PROXY protocol header of an unknown address family"},
        {"21 11 ffff", "a PROXY protocol header longer than 4096 bytes"},
        {"21 11 0ff1", "a PROXY protocol header longer than 4096 bytes"},
        {"20 00 1000", "a PROXY protocol header longer than 4096 bytes"},
        {"21 11 000b" INET_ADDRESSES, "a PROXY protocol header that is too short for its addresses"},
        {"21 11 0000", "a PROXY protocol header that is too short for its addresses"},
        {"21 21 000c" INET_ADDRESSES, "a PROXY protocol header that is too short for its addresses"},
        {"21 12 0001 00", "a PROXY protocol header that is too short for its addresses"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct bytes bytes;
        set_hex(&bytes, cases[i][0]);
        assert_refused(&bytes, cases[i][1]);
    }
    struct bytes bytes;
    set_hex(&bytes, "21 11 0ff0");
    assert_needs(bytes.at, bytes.length, PROXY_HEADER_DECODED_MAX);
    // The signature must be whole.
    for (size_t i = 1; i < V2_SIGNATURE_LENGTH; i++) {
        set_ipv4(&bytes);
        bytes.at[i] ^= 1;
        assert_refused(&bytes, "no PROXY protocol header");
    }
}

static void test_malformed_fields_are_refused(void **state)
{
    (void)state;
    static const char cut[] = "a PROXY protocol header whose last field is cut short";
    static const char tls[] = "a PROXY protocol header whose SSL field is malformed";
    static const struct {
        const char *fields;
        const char *reason;
    } cases[] = {
        {"01", cut},
        {"0100", cut},
        {"010001", cut},
        {"01ffff68", cut},
        {"04 0001 00 ee", cut},
        {"ee 0000 ee 0002 00", cut},
        {"20 0000", tls},
        {"20 0004 01000000", tls},
        {"20 0006 01000000 00 21", tls},
        {"20 0008 01000000 00 21 0001", tls},
        {"20 0009 01000000 00 21 0002 41", tls},
        {"20 000a 01000000 00 210001 41 22", tls},
    };
    struct bytes bytes;
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        set_ipv4(&bytes);
        put_hex(&bytes, cases[i].fields);
        close_header(&bytes);
        assert_refused(&bytes, cases[i].reason);
    }
    uint8_t id[129] = {1};
    set_ipv4(&bytes);
    put_field(&bytes, TLV_UNIQUE_ID, id, 128);
    close_header(&bytes);
    assert_decodes(&bytes);
    assert_int_equal(decoded.header.unique_id.length, 128);
    put_field(&bytes, TLV_UNIQUE_ID, id, 129);
    close_header(&bytes);
    assert_refused(&bytes, "a PROXY protocol header whose unique id is longer than 128 bytes");
}

static void test_unknown_fields_are_skipped(void **state)
{
    (void)state;
    struct bytes bytes;
    uint8_t certificate[2500] = {0x30};
    set_ipv4(&bytes);
    put_field(&bytes, 0x04, "\0\0\0", 3);
    put_field(&bytes, 0xea, certificate, sizeof certificate); // AWS's
    put_field(&bytes, 0x30, "blue", 4);
    put_field(&bytes, TLV_ALPN, "h2", 2);
    put_field(&bytes, TLV_ALPN, "http/1.1", 8); // the last counts
    put_field(&bytes, TLV_AUTHORITY, "", 0);
    put_hex(&bytes, "20 000d 00 00000001 28 0001 30 21 0001 41");
    close_header(&bytes);
    assert_decodes(&bytes);
    assert_text(&decoded.header.protocol, "http/1.1");
    assert_int_equal(decoded.header.authority.length, 0);
    assert_false(decoded.header.tls.is_used);
    assert_int_equal(decoded.header.tls.verify_result, 1);
    assert_text(&decoded.header.tls.version, "A");
}

// Encoding

static void assert_encodes(const struct proxy_header *header, const char *hex)
{
    struct bytes wanted = {.length = 0};
    uint8_t out[PROXY_HEADER_V2_MAX];
    put_hex(&wanted, hex);
    size_t length = proxy_header_encode_v2(header, out);
    assert_int_equal(length, wanted.length);
    assert_memory_equal(out, wanted.at, length);
}

static void test_a_header_is_encoded_with_its_checksum(void **state)
{
    (void)state;
    struct proxy_header ipv4 = {.source = end_of("192.168.0.1", 56324), .destination = end_of("192.168.0.11", 443)};
    assert_encodes(&ipv4, SIGNATURE "21 11 0013" INET_ADDRESSES "03 0004 1c1ae9c6");
    struct proxy_header mapped = {.source = end_of("::ffff:192.168.0.1", 56324),
                                  .destination = end_of("::ffff:192.168.0.11", 443)};
    assert_encodes(&mapped, SIGNATURE "21 11 0013" INET_ADDRESSES "03 0004 1c1ae9c6");
    struct proxy_header ipv6 = {.source = end_of("2001:db8::1", 1234), .destination = end_of("2001:db8::2", 443)};
    assert_encodes(&ipv6, SIGNATURE "21 21 002b" INET6_ADDRESSES "03 0004 8a66d8f6");
    struct proxy_header unknown = {.source = end_of("192.168.0.1", 1)};
    assert_encodes(&unknown, SIGNATURE "21 00 0007 03 0004 3ec9894e");
    struct proxy_header local = {.is_local = true, .source = ipv4.source, .authority = text_of("a")};
    assert_encodes(&local, SIGNATURE "20 00 0000");
}

static void assert_same_text(const struct proxy_header_text *a, const struct proxy_header_text *b)
{
    assert_int_equal(a->length, b->length);
    if (a->length > 0)
        assert_memory_equal(a->bytes, b->bytes, a->length);
}

static void test_an_encoded_header_decodes_to_itself(void **state)
{
    (void)state;
    struct proxy_header header = {
        .source = end_of("/run/client", 0),
        .destination = end_of("/run/server", 0),
        .protocol = text_of("h2"),
        .authority = text_of("www.example.com"),
        .unique_id = text_of("1234-42"),
        .tls = {.is_used = true,
                .is_session_certified = true, // by a connection before this one
                .verify_result = 0x12345678,
                .version = text_of("TLSv1.2"),
                .cipher = text_of("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
                .common_name = text_of("client")},
    };
    struct bytes bytes;
    bytes.length = proxy_header_encode_v2(&header, bytes.at);
    assert_decodes(&bytes);
    assert_int_equal(decoded.length, bytes.length);
    assert_end(&decoded.header.source, "/run/client", 0);
    assert_end(&decoded.header.destination, "/run/server", 0);
    assert_same_text(&decoded.header.protocol, &header.protocol);
    assert_same_text(&decoded.header.authority, &header.authority);
    assert_same_text(&decoded.header.unique_id, &header.unique_id);
    assert_true(decoded.header.tls.is_used && decoded.header.tls.is_session_certified);
    assert_false(decoded.header.tls.has_certificate);
    assert_int_equal(decoded.header.tls.verify_result, 0x12345678);
    assert_same_text(&decoded.header.tls.version, &header.tls.version);
    assert_same_text(&decoded.header.tls.cipher, &header.tls.cipher);
    assert_same_text(&decoded.header.tls.common_name, &header.tls.common_name);
    // Any byte that another one changes on the way is noticed, but for the fixed ones, which have their own meanings.
    for (size_t i = V2_FIXED; i + TLV_HEADER + CRC_LENGTH < bytes.length; i++) {
        bytes.at[i] ^= 0x80;
        assert_int_equal(decode(bytes.at, bytes.length, &decoded), PROXY_HEADER_INVALID);
        bytes.at[i] ^= 0x80;
    }
}

static void test_texts_that_do_not_fit_are_left_out(void **state)
{
    (void)state;
    char text[301];
    memset(text, 'x', 300);
    text[300] = '\0';
    struct proxy_header header = {.source = end_of("/a", 0),
                                  .destination = end_of("/b", 0),
                                  .protocol = text_of(text + 44),
                                  .authority = text_of(text + 45),
                                  .unique_id = text_of(text + 171),
                                  .tls = {.is_used = true, .version = text_of(text + 45), .cipher = text_of(text)}};
    struct bytes bytes;
    bytes.length = proxy_header_encode_v2(&header, bytes.at);
    assert_decodes(&bytes);
    assert_int_equal(decoded.header.protocol.length, 0);
    assert_int_equal(decoded.header.authority.length, 255);
    assert_int_equal(decoded.header.unique_id.length, 0);
    assert_int_equal(decoded.header.tls.version.length, 255);
    assert_int_equal(decoded.header.tls.cipher.length, 0);

    // As much as there can be.
    header.protocol = header.tls.cipher = header.tls.common_name = header.authority;
    header.unique_id = text_of(text + 172);
    bytes.length = proxy_header_encode_v2(&header, bytes.at);
    assert_in_range(bytes.length, 1600, PROXY_HEADER_V2_MAX);
    assert_decodes(&bytes);
    assert_int_equal(decoded.header.unique_id.length, 128);
}

// Of the fields as they came those are encoded that are nobody's own to tell, as far as there is room.
static void test_fields_of_another_header_are_encoded_if_they_are_unknown(void **state)
{
    (void)state;
    struct bytes fields = {.length = 0};
    static const uint8_t large[1000] = {0};
    for (unsigned type = 0; type < 256; type++)
        put_field(&fields, (uint8_t)type, "", 0);
    struct proxy_header header = {.has_no_checksum = true, .fields = {.bytes = fields.at, .length = fields.length}};
    struct bytes bytes;
    bytes.length = proxy_header_encode_v2(&header, bytes.at);
    assert_decodes(&bytes);
    bool is_there[256] = {false};
    for (size_t at = V2_FIXED; at < bytes.length; at += TLV_HEADER)
        is_there[bytes.at[at]] = true;
    for (unsigned type = 0; type < 256; type++) {
        bool is_own = (type >= 0x01 && type <= 0x05) || (type >= 0x20 && type <= 0x30);
        assert_int_equal(is_there[type], !is_own);
    }

    fields.length = 0;
    put_field(&fields, 0xe0, large, sizeof large);
    put_field(&fields, 0xe1, large, 19);
    put_field(&fields, 0xe2, large, 18);
    put_field(&fields, 0xe3, large, 0);
    header.fields = (struct proxy_header_text){.bytes = fields.at, .length = fields.length};
    header.has_no_checksum = false;
    bytes.length = proxy_header_encode_v2(&header, bytes.at);
    assert_decodes(&bytes);
    assert_int_equal(bytes.length, V2_FIXED + PROXY_HEADER_PASSED_MAX + TLV_HEADER + CRC_LENGTH);
    assert_int_equal(bytes.at[V2_FIXED + TLV_HEADER + sizeof large], 0xe2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields_of_another_header_are_encoded_if_they_are_unknown),
        cmocka_unit_test(test_a_header_of_haproxy_is_read),
        cmocka_unit_test(test_a_wrong_checksum_is_refused),
        cmocka_unit_test(test_addresses_of_each_family_are_read),
        cmocka_unit_test(test_a_header_without_addresses_is_read),
        cmocka_unit_test(test_fields_are_read_without_addresses),
        cmocka_unit_test(test_a_header_cut_anywhere_asks_for_the_rest),
        cmocka_unit_test(test_a_malformed_fixed_part_is_refused),
        cmocka_unit_test(test_malformed_fields_are_refused),
        cmocka_unit_test(test_unknown_fields_are_skipped),
        cmocka_unit_test(test_a_header_is_encoded_with_its_checksum),
        cmocka_unit_test(test_an_encoded_header_decodes_to_itself),
        cmocka_unit_test(test_texts_that_do_not_fit_are_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
