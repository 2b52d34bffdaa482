// The ends of a connection from the kernel's form to the PROXY protocol's and back.

#include <netinet/in.h>
#include <stddef.h>

#include "bitflow/base/compiler.h"
#include "net_rig.h"
#include "proxy/proxy_address.h"

static struct endpoint endpoint_of(const char *text)
{
    struct address address = rig_address(text, ADDRESS_TO_LISTEN);
    struct endpoint endpoint;
    assert_true(endpoint_of_address(&address, &endpoint));
    return endpoint;
}

static void test_an_endpoint_survives_the_way_there_and_back(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum proxy_header_family family;
    } cases[] = {
        {"192.0.2.1:80", PROXY_HEADER_IPV4},
        {"[2001:db8::1]:65535", PROXY_HEADER_IPV6},
        {"[::ffff:1.2.3.4]:1", PROXY_HEADER_IPV6},
        {"unix:///run/a.sock", PROXY_HEADER_UNIX},
        {"unix://@name", PROXY_HEADER_UNIX},
        // as long as can be: 107 bytes and a zero, 107 bytes behind one
        {"unix:///23456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
         "012345",
         PROXY_HEADER_UNIX},
        {"unix://@123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
         "012345",
         PROXY_HEADER_UNIX},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct endpoint endpoint = endpoint_of(cases[i].text), back;
        struct proxy_header_address end;
        proxy_address_of_endpoint(&endpoint, &end);
        assert_int_equal(end.family, cases[i].family);
        endpoint_of_proxy_address(&end, &back);
        if (!endpoint_equal(&endpoint, &back))
            fail_msg("%s", cases[i].text);
    }
    struct endpoint endpoint = endpoint_of("192.0.2.1:80");
    struct proxy_header_address end;
    proxy_address_of_endpoint(&endpoint, &end);
    assert_memory_equal(end.address, "\xc0\0\2\1", 4);
    assert_int_equal(end.port, 80);
}

static void test_what_has_no_address_is_unknown(void **state)
{
    (void)state;
    struct proxy_header_address end;
    struct endpoint none = {.length = 0}, netlink = {.length = 12}, unnamed = {.length = sizeof(sa_family_t)}, back;
    netlink.address.any.sa_family = AF_NETLINK;
    unnamed.address.any.sa_family = AF_UNIX;
    proxy_address_of_endpoint(&none, &end);
    assert_int_equal(end.family, PROXY_HEADER_UNKNOWN);
    endpoint_of_proxy_address(&end, &back);
    assert_int_equal(back.length, 0);
    proxy_address_of_endpoint(&netlink, &end);
    assert_int_equal(end.family, PROXY_HEADER_UNKNOWN);
    proxy_address_of_endpoint(&unnamed, &end);
    assert_int_equal(end.family, PROXY_HEADER_UNIX);
    endpoint_of_proxy_address(&end, &back);
    assert_true(endpoint_equal(&back, &unnamed));
}

// A path that takes all of the room has no zero behind it.
static void test_a_path_without_a_zero_is_whole(void **state)
{
    (void)state;
    struct proxy_header_address end = {.family = PROXY_HEADER_UNIX};
    struct endpoint endpoint;
    char text[ENDPOINT_TEXT_SIZE];
    memset(end.address, 'x', sizeof end.address);
    endpoint_of_proxy_address(&end, &endpoint);
    assert_int_equal(endpoint.length, sizeof(struct sockaddr_un));
    endpoint_format(&endpoint, text);
    assert_int_equal(strlen(text), strlen("unix://") + 108);
    struct proxy_header_address back;
    proxy_address_of_endpoint(&endpoint, &back);
    assert_memory_equal(&back, &end, sizeof end);
    // What follows a path's zero is nobody's.
    memcpy(end.address, "/a\0b", 4);
    endpoint_of_proxy_address(&end, &endpoint);
    endpoint_format(&endpoint, text);
    assert_string_equal(text, "unix:///a");
    assert_int_equal(endpoint.length, offsetof(struct sockaddr_un, sun_path) + 3);
}

// The kernel counts a zero behind such a path, for which struct sockaddr_un has no room.
static void test_a_path_whose_zero_is_beyond_is_whole(void **state)
{
    (void)state;
    const socklen_t length = sizeof(struct sockaddr_un) + 1;
    struct endpoint endpoint = {.length = length};
    struct proxy_header_address end;
    endpoint.address.local.sun_family = AF_UNIX;
    memset((char *)&endpoint.address + offsetof(struct sockaddr_un, sun_path), 'x', PROXY_HEADER_UNIX_SIZE + 1);
    proxy_address_of_endpoint(&endpoint, &end);
    assert_int_equal(end.family, PROXY_HEADER_UNIX);
    assert_int_equal(end.address[PROXY_HEADER_UNIX_SIZE - 1], 'x');
    assert_int_equal(end.port, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_endpoint_survives_the_way_there_and_back),
        cmocka_unit_test(test_what_has_no_address_is_unknown),
        cmocka_unit_test(test_a_path_without_a_zero_is_whole),
        cmocka_unit_test(test_a_path_whose_zero_is_beyond_is_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
