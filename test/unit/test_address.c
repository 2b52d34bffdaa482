// Addresses and endpoints: golden tables of what is understood, what is refused with which reason, and how it
// is written.

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/net/address.h"

#define LABEL_63 "a23456789012345678901234567890123456789012345678901234567890123"
#define NAME_253 LABEL_63 "." LABEL_63 "." LABEL_63 ".a234567890123456789012345678901234567890123456789012345678901"
#define PATH_107                                         \
    "/2345678901234567890123456789012345678901234567890" \
    "123456789012345678901234567890123456789012345678901234567"
#define FD_NAME_255 LABEL_63 LABEL_63 LABEL_63 LABEL_63 "123"

struct good {
    const char *text;
    const char *canonical;
    enum address_kind kind;
    enum address_family family;
    bool is_literal;
};

// Understood for a target, and so for a listener.
static const struct good good[] = {
    {"127.0.0.1:80", "tcp://127.0.0.1:80", ADDRESS_TCP, ADDRESS_IPV4, true},
    {"tcp://127.0.0.1:80", "tcp://127.0.0.1:80", ADDRESS_TCP, ADDRESS_IPV4, true},
    {"TCP://127.0.0.1:80", "tcp://127.0.0.1:80", ADDRESS_TCP, ADDRESS_IPV4, true},
    {"tcp4://127.0.0.1:65535", "tcp://127.0.0.1:65535", ADDRESS_TCP, ADDRESS_IPV4, true},
    {"127.0.0.1:0080", "tcp://127.0.0.1:80", ADDRESS_TCP, ADDRESS_IPV4, true},
    {"[::1]:80", "tcp://[::1]:80", ADDRESS_TCP, ADDRESS_IPV6, true},
    {"tcp://[::1]:1", "tcp://[::1]:1", ADDRESS_TCP, ADDRESS_IPV6, true},
    {"tcp6://[2001:DB8:0:0::1]:443", "tcp://[2001:db8::1]:443", ADDRESS_TCP, ADDRESS_IPV6, true},
    {"[::ffff:192.0.2.1]:80", "tcp://[::ffff:192.0.2.1]:80", ADDRESS_TCP, ADDRESS_IPV6, true},
    {"[fe80::1%eth0]:80", "tcp://[fe80::1%eth0]:80", ADDRESS_TCP, ADDRESS_IPV6, true},
    {"[fe80::1%3]:80", "tcp://[fe80::1%3]:80", ADDRESS_TCP, ADDRESS_IPV6, true},
    {"localhost:80", "tcp://localhost:80", ADDRESS_TCP, ADDRESS_ANY, false},
    {"tcp4://localhost:80", "tcp4://localhost:80", ADDRESS_TCP, ADDRESS_IPV4, false},
    {"tcp6://Example.ORG:80", "tcp6://Example.ORG:80", ADDRESS_TCP, ADDRESS_IPV6, false},
    {"example.org.:80", "tcp://example.org.:80", ADDRESS_TCP, ADDRESS_ANY, false},
    {"my_service-1.local:80", "tcp://my_service-1.local:80", ADDRESS_TCP, ADDRESS_ANY, false},
    {"_x:80", "tcp://_x:80", ADDRESS_TCP, ADDRESS_ANY, false},
    {"3com.com:80", "tcp://3com.com:80", ADDRESS_TCP, ADDRESS_ANY, false},
    {"1.2.3.4.example:80", "tcp://1.2.3.4.example:80", ADDRESS_TCP, ADDRESS_ANY, false},
    {LABEL_63 ":1", "tcp://" LABEL_63 ":1", ADDRESS_TCP, ADDRESS_ANY, false},
    {NAME_253 ":65535", "tcp://" NAME_253 ":65535", ADDRESS_TCP, ADDRESS_ANY, false},
    {"tcp4://" NAME_253 ".:65535", "tcp4://" NAME_253 ".:65535", ADDRESS_TCP, ADDRESS_IPV4, false},
    {"unix:///run/x.sock", "unix:///run/x.sock", ADDRESS_UNIX, ADDRESS_ANY, false},
    {"Unix:///a b", "unix:///a b", ADDRESS_UNIX, ADDRESS_ANY, false},
    {"unix://" PATH_107, "unix://" PATH_107, ADDRESS_UNIX, ADDRESS_ANY, false},
    {"unix://@name", "unix://@name", ADDRESS_UNIX, ADDRESS_ANY, false},
    {"unix://@/name/", "unix://@/name/", ADDRESS_UNIX, ADDRESS_ANY, false},
    {"unix://@" PATH_107, "unix://@" PATH_107, ADDRESS_UNIX, ADDRESS_ANY, false},
    {"fd://0", "fd://0", ADDRESS_FD, ADDRESS_ANY, false},
    {"fd://003", "fd://3", ADDRESS_FD, ADDRESS_ANY, false},
    {"fd://2147483647", "fd://2147483647", ADDRESS_FD, ADDRESS_ANY, false},
    {"fd://web.socket", "fd://web.socket", ADDRESS_FD, ADDRESS_ANY, false},
    {"fd://3x", "fd://3x", ADDRESS_FD, ADDRESS_ANY, false},
    {"fd://" FD_NAME_255, "fd://" FD_NAME_255, ADDRESS_FD, ADDRESS_ANY, false},
};

static const struct good good_to_listen[] = {
    {":80", "tcp://:80", ADDRESS_TCP, ADDRESS_ANY, true},
    {"tcp://:0", "tcp://:0", ADDRESS_TCP, ADDRESS_ANY, true},
    {"tcp4://:80", "tcp4://:80", ADDRESS_TCP, ADDRESS_IPV4, true},
    {"tcp6://:80", "tcp6://:80", ADDRESS_TCP, ADDRESS_IPV6, true},
    {"127.0.0.1:0", "tcp://127.0.0.1:0", ADDRESS_TCP, ADDRESS_IPV4, true},
    {"[::]:0", "tcp://[::]:0", ADDRESS_TCP, ADDRESS_IPV6, true},
    {"localhost:0", "tcp://localhost:0", ADDRESS_TCP, ADDRESS_ANY, false},
};

struct bad {
    const char *text;
    const char *reason;
};

// Refused for a target; those without a word of targets for a listener as well.
static const struct bad bad[] = {
    {"", "the address is empty"},
    {"tcp://", "the port is missing"},
    {"localhost", "the port is missing"},
    {"localhost:", "the port is missing"},
    {"127.0.0.1", "the port is missing"},
    {"[::1]", "the port is missing"},
    {"[::1]:", "the port is missing"},
    {"h:http", "port \"http\" is not a number"},
    {"h:-1", "port \"-1\" is not a number"},
    {"h:+1", "port \"+1\" is not a number"},
    {"h: 80", "port \" 80\" is not a number"},
    {"h:80 ", "port \"80 \" is not a number"},
    {"h:0x50", "port \"0x50\" is not a number"},
    {"h:80/x", "port \"80/x\" is not a number"},
    {"[::1]:x", "port \"x\" is not a number"},
    {"[::1", "[::1 lacks the closing bracket"},
    {"[::1:80", "[::1:80 lacks the closing bracket"},
    {"[", "[ lacks the closing bracket"},
    {"[]:80", "\"\" is not an IPv6 address"},
    {"[127.0.0.1]:80", "\"127.0.0.1\" is not an IPv6 address"},
    {"[localhost]:80", "\"localhost\" is not an IPv6 address"},
    {"[::1%]:80", "\"::1%\" is not an IPv6 address"},
    {"[::1%0123456789abcdef]:80", "\"::1%0123456789abcdef\" is not an IPv6 address"},
    {"[::1%a b]:80", "\"::1%a b\" is not an IPv6 address"},
    {"[::1]80", "\"80\" follows the closing bracket, where :PORT is expected"},
    {"::1:80", "an IPv6 address needs brackets: [::1]:PORT"},
    {"2001:DB8::1:80", "an IPv6 address needs brackets: [2001:db8::1]:PORT"},
    {"::1", "an IPv6 address needs brackets and a port: [::1]:PORT"},
    {"1:2:3:4:5:6:7:8:9:80", "host \"1:2:3:4:5:6:7:8:9\" has a colon; an IPv6 address is written [ADDRESS]:PORT"},
    {"a:b:80", "host \"a:b\" has a colon; an IPv6 address is written [ADDRESS]:PORT"},
    {"tcp4://[::1]:80", "tcp4 does not take an IPv6 address"},
    {"tcp6://127.0.0.1:80", "tcp6 does not take an IPv4 address"},
    {"*:80", "\"*\" is not a host; to listen on every address write :PORT"},
    {"256.1.1.1:80", "\"256.1.1.1\" is not an IPv4 address"},
    {"127.1:80", "\"127.1\" is not an IPv4 address"},
    {"1:80", "\"1\" is not an IPv4 address"},
    {"0x7f.0x1:80", "\"0x7f.0x1\" is not an IPv4 address"},
    {"a..b:80", "\"a..b\" is not a host name"},
    {".a:80", "\".a\" is not a host name"},
    {"a..:80", "\"a..\" is not a host name"},
    {".:80", "\".\" is not a host name"},
    {"-a:80", "\"-a\" is not a host name"},
    {"a-:80", "\"a-\" is not a host name"},
    {"a-.b:80", "\"a-.b\" is not a host name"},
    {"a b:80", "\"a b\" is not a host name"},
    {"a%b:80", "\"a%b\" is not a host name"},
    {"m\xc3\xbcnchen.de:80", "\"m\xc3\xbcnchen.de\" is not a host name"},
    {LABEL_63 "4:80", "\"" LABEL_63 "4\" is not a host name"},
    {"/run/x.sock", "\"/run/x.sock\" has no host; a Unix socket is written unix:///path"},
    {"unix:/run/x.sock", "a Unix socket is written unix:///path"},
    {"UNIX:x", "a Unix socket is written unix:///path"},
    {"unix@/run/x.sock", "a Unix socket is written unix:///path"},
    {"abns@x", "an abstract socket is written unix://@name"},
    {"fd@3", "an inherited descriptor is written fd://N"},
    {"fd:web", "an inherited descriptor is written fd://N"},
    {"systemd:web", "a socket from systemd is written fd://NAME"},
    {"tcp:/h:80", "a TCP address is written tcp://HOST:PORT"},
    {"ipv4@127.0.0.1:80", "an address that is IPv4 only is written tcp4://HOST:PORT"},
    {"ipv6@[::1]:80", "an address that is IPv6 only is written tcp6://HOST:PORT"},
    {"unix:70000", "a Unix socket is written unix:///path"},
    {"http://h:80", "unknown scheme \"http\"; expected tcp, tcp4, tcp6, unix or fd"},
    {"://h:80", "unknown scheme \"\"; expected tcp, tcp4, tcp6, unix or fd"},
    {"udp://h:80", "unknown scheme \"udp\"; expected tcp, tcp4, tcp6, unix or fd"},
    {"unix://", "the path is missing"},
    {"unix://@", "the abstract socket's name is missing"},
    {"unix://run/x", "unix path \"run/x\" is not absolute; it is written unix:///path"},
    {"unix:///run/", "unix path \"/run/\" names a directory"},
    {"unix:///", "unix path \"/\" names a directory"},
    {"unix://" PATH_107 "8", "unix path is 108 bytes long, the limit is 107"},
    {"unix://@" PATH_107 "8", "unix path is 108 bytes long, the limit is 107"},
    {"fd://", "the descriptor's number or name is missing"},
    {"fd://-1", "\"-1\" is neither a descriptor's number nor a name"},
    {"fd://2147483648", "\"2147483648\" is too large for a descriptor"},
    {"fd://99999999999999999999", "\"99999999999999999999\" is too large for a descriptor"},
    {"fd://a:b", "a descriptor's name is printable ASCII without spaces or colons"},
    {"fd://a b", "a descriptor's name is printable ASCII without spaces or colons"},
    {"fd://" FD_NAME_255 "6", "descriptor name is 256 bytes long, the limit is 255"},
};

static const struct bad bad_to_connect[] = {
    {":80", "a target needs a host"},
    {"8080", "that is only a port; a target is written HOST:8080"},
    {"tcp6://:80", "a target needs a host"},
    {"h:0", "port 0 is not in 1-65535"},
    {"h:70000", "port 70000 is not in 1-65535"},
    {"[::1]:99999999999999999999", "port 99999999999999999999 is not in 1-65535"},
};

static const struct bad bad_to_listen[] = {
    {"h:65536", "port 65536 is not in 0-65535"},
    {":70000", "port 70000 is not in 0-65535"},
};

static void check_good(const struct good *row, enum address_use use)
{
    struct address address, again;
    struct error error = ERROR_INIT;
    char text[ADDRESS_TEXT_SIZE];
    if (!address_parse(row->text, use, &address, &error))
        fail_msg("%s: %s", row->text, error.text);
    assert_int_equal(address.kind, row->kind);
    assert_int_equal(address.family, row->family);
    if (address.is_literal != row->is_literal)
        fail_msg("%s: literal is %d", row->text, address.is_literal);
    address_format(&address, text);
    assert_string_equal(text, row->canonical);
    assert_true(address_parse(text, use, &again, &error));
    assert_true(address_equal(&address, &again));
}

static void check_bad(const struct bad *row, enum address_use use)
{
    struct address address, untouched;
    struct error error = ERROR_INIT;
    memset(&address, 0x5a, sizeof address);
    memcpy(&untouched, &address, sizeof address);
    if (address_parse(row->text, use, &address, &error))
        fail_msg("\"%s\" was taken", row->text);
    assert_int_equal(error.code, ERROR_INVALID);
    assert_string_equal(error.text, row->reason);
    assert_memory_equal(&address, &untouched, sizeof address);
    assert_false(address_parse(row->text, use, &address, NULL));
}

static void test_a_good_address_is_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(good); i++) {
        check_good(&good[i], ADDRESS_TO_CONNECT);
        check_good(&good[i], ADDRESS_TO_LISTEN);
    }
    for (size_t i = 0; i < ARRAY_LENGTH(good_to_listen); i++)
        check_good(&good_to_listen[i], ADDRESS_TO_LISTEN);
}

static void test_a_bad_address_is_refused_with_the_reason(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        check_bad(&bad[i], ADDRESS_TO_CONNECT);
        check_bad(&bad[i], ADDRESS_TO_LISTEN);
    }
    for (size_t i = 0; i < ARRAY_LENGTH(bad_to_connect); i++)
        check_bad(&bad_to_connect[i], ADDRESS_TO_CONNECT);
    for (size_t i = 0; i < ARRAY_LENGTH(bad_to_listen); i++)
        check_bad(&bad_to_listen[i], ADDRESS_TO_LISTEN);
}

static void test_a_name_of_254_bytes_is_refused(void **state)
{
    (void)state;
    struct address address;
    struct error error = ERROR_INIT;
    assert_false(address_parse(NAME_253 "2:80", ADDRESS_TO_CONNECT, &address, &error));
    assert_non_null(strstr(error.text, "is not a host name"));
    assert_null(strstr(error.text, NAME_253)); // a long text is not repeated whole
}

static struct address parse(const char *text)
{
    struct address address;
    struct error error = ERROR_INIT;
    if (!address_parse(text, ADDRESS_TO_LISTEN, &address, &error))
        fail_msg("%s: %s", text, error.text);
    return address;
}

static void test_an_address_has_its_parts(void **state)
{
    (void)state;
    struct address tcp = parse("tcp://[2001:db8::1]:443"), path = parse("unix:///run/x"), name = parse("unix://@x"),
                   number = parse("fd://7"), named = parse("fd://web");
    assert_string_equal(tcp.host, "2001:db8::1");
    assert_int_equal(tcp.port, 443);
    assert_string_equal(path.path, "/run/x");
    assert_false(path.is_abstract);
    assert_string_equal(name.path, "x");
    assert_true(name.is_abstract);
    assert_int_equal(number.fd, 7);
    assert_string_equal(number.fd_name, "");
    assert_int_equal(named.fd, -1);
    assert_string_equal(named.fd_name, "web");
}

static void test_addresses_are_equal_when_they_mean_the_same(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b;
        bool equal;
    } rows[] = {
        {"h:80", "tcp://H:80", true},
        {"127.0.0.1:80", "tcp4://127.0.0.1:80", true},
        {"[0:0::1]:80", "tcp6://[::1]:80", true},
        {"h:80", "h:81", false},
        {"h:80", "g:80", false},
        {"h:80", "tcp4://h:80", false},
        {":80", "tcp6://:80", false},
        {"unix:///x", "unix:///x", true},
        {"unix:///x", "unix://@/x", false},
        {"unix:///x", "unix:///X", false},
        {"fd://3", "fd://03", true},
        {"fd://3", "fd://4", false},
        {"fd://a", "fd://a", true},
        {"fd://a", "fd://b", false},
        {"fd://3", "fd://a", false},
        {"fd://3", "unix:///3", false},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct address a = parse(rows[i].a), b = parse(rows[i].b);
        if (address_equal(&a, &b) != rows[i].equal || address_equal(&b, &a) != rows[i].equal)
            fail_msg("%s and %s", rows[i].a, rows[i].b);
    }
}

static void test_a_literal_has_an_endpoint_and_a_name_has_none(void **state)
{
    (void)state;
    static const struct {
        const char *address, *endpoint; // NULL: none
    } rows[] = {
        {"192.0.2.1:80", "192.0.2.1:80"},
        {"[2001:db8::1]:443", "[2001:db8::1]:443"},
        {"[::ffff:192.0.2.1]:80", "192.0.2.1:80"},
        {":80", "[::]:80"},
        {"tcp6://:80", "[::]:80"},
        {"tcp4://:80", "0.0.0.0:80"},
        {"[fe80::1%lo]:80", "[fe80::1%lo]:80"},
        {"[fe80::1%4000000000]:80", "[fe80::1%4000000000]:80"},
        {"[fe80::1%nosuchif]:80", NULL},
        {"[fe80::1%4294967296]:80", NULL},
        {"[fe80::1%0]:80", NULL},
        {"localhost:80", NULL},
        {"unix:///run/x", "unix:///run/x"},
        {"unix://@x", "unix://@x"},
        {"fd://3", NULL},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct address address = parse(rows[i].address);
        struct endpoint endpoint = {.length = 0};
        char text[ENDPOINT_TEXT_SIZE];
        if (endpoint_of_address(&address, &endpoint) != (rows[i].endpoint != NULL))
            fail_msg("%s", rows[i].address);
        if (rows[i].endpoint == NULL)
            continue;
        endpoint_format(&endpoint, text);
        assert_string_equal(text, rows[i].endpoint);
        assert_int_equal(endpoint_is_tcp(&endpoint), address.kind == ADDRESS_TCP);
    }
}

static void test_a_unix_endpoint_is_as_long_as_its_name(void **state)
{
    (void)state;
    struct endpoint endpoint;
    size_t header = offsetof(struct sockaddr_un, sun_path);
    struct address path = parse("unix:///ab"), name = parse("unix://@ab"), longest = parse("unix://@" PATH_107);
    assert_true(endpoint_of_address(&path, &endpoint));
    assert_int_equal(endpoint.length, header + 4); // with the zero at the end
    assert_true(endpoint_of_address(&name, &endpoint));
    assert_int_equal(endpoint.length, header + 3); // with the zero at the beginning
    assert_memory_equal(endpoint.address.local.sun_path, "\0ab", 3);
    assert_true(endpoint_of_address(&longest, &endpoint));
    assert_int_equal(endpoint.length, sizeof(struct sockaddr_un));
}

static struct endpoint unix_endpoint(const char *bytes, size_t count)
{
    struct endpoint endpoint = {.length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + count),
                                .address.local.sun_family = AF_UNIX};
    memcpy(endpoint.address.local.sun_path, bytes, count);
    return endpoint;
}

static void test_an_endpoint_is_printed_without_what_a_peer_forged(void **state)
{
    (void)state;
    char text[ENDPOINT_TEXT_SIZE];
    struct endpoint unnamed = unix_endpoint("", 0), forged = unix_endpoint("\0a\n\" \\b\xff", 8),
                    unterminated = unix_endpoint("/abc", 4), none = {.length = 0};
    endpoint_format(&unnamed, text);
    assert_string_equal(text, "unix:");
    endpoint_format(&forged, text);
    assert_string_equal(text, "unix://@a\\x0a\"\\x20\\x5cb\\xff");
    endpoint_format(&unterminated, text);
    assert_string_equal(text, "unix:///abc");
    endpoint_format(&none, text);
    assert_string_equal(text, "none");
    assert_false(endpoint_is_tcp(&none));

    char noise[107];
    memset(noise, '\n', sizeof noise);
    noise[0] = '\0';
    struct endpoint longest = unix_endpoint(noise, sizeof noise);
    endpoint_format(&longest, text); // cut, and not within an escape
    assert_true(strlen(text) < ENDPOINT_TEXT_SIZE);
    assert_string_equal(text + strlen(text) - 4, "\\x0a");
}

static void test_endpoints_are_equal_only_to_themselves(void **state)
{
    (void)state;
    static const char *const texts[] = {"127.0.0.1:80", "127.0.0.1:81", "127.0.0.2:80",
                                        "[::1]:80",     "[::1%1]:80",   "[::ffff:127.0.0.1]:80",
                                        "unix:///a",    "unix:///ab",   "unix://@a"};
    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++)
        for (size_t j = 0; j < ARRAY_LENGTH(texts); j++) {
            struct address a = parse(texts[i]), b = parse(texts[j]);
            struct endpoint left, right, none = {.length = 0};
            assert_true(endpoint_of_address(&a, &left) && endpoint_of_address(&b, &right));
            assert_int_equal(endpoint_equal(&left, &right), i == j);
            assert_false(endpoint_equal(&left, &none));
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_good_address_is_read),
        cmocka_unit_test(test_a_bad_address_is_refused_with_the_reason),
        cmocka_unit_test(test_a_name_of_254_bytes_is_refused),
        cmocka_unit_test(test_an_address_has_its_parts),
        cmocka_unit_test(test_addresses_are_equal_when_they_mean_the_same),
        cmocka_unit_test(test_a_literal_has_an_endpoint_and_a_name_has_none),
        cmocka_unit_test(test_a_unix_endpoint_is_as_long_as_its_name),
        cmocka_unit_test(test_an_endpoint_is_printed_without_what_a_peer_forged),
        cmocka_unit_test(test_endpoints_are_equal_only_to_themselves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
