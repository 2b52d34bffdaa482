// CIDR blocks: golden tables.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/un.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/net/cidr.h"

static const struct {
    const char *block, *address;
    bool inside;
} memberships[] = {
    {"192.0.2.0/24", "192.0.2.0", true},
    {"192.0.2.0/24", "192.0.2.255", true},
    {"192.0.2.0/24", "192.0.3.0", false},
    {"192.0.2.0/24", "192.0.1.255", false},
    {"192.0.2.128/25", "192.0.2.127", false},
    {"192.0.2.128/25", "192.0.2.128", true},
    {"10.0.0.0/8", "10.255.255.255", true},
    {"10.0.0.0/8", "11.0.0.0", false},
    {"172.16.0.0/12", "172.31.255.255", true},
    {"172.16.0.0/12", "172.32.0.0", false},
    {"0.0.0.0/0", "255.255.255.255", true},
    {"0.0.0.0/0", "::1", false},
    {"0.0.0.0/0", "::ffff:1.2.3.4", true},
    {"128.0.0.0/1", "127.255.255.255", false},
    {"128.0.0.0/1", "128.0.0.0", true},
    {"192.0.2.1", "192.0.2.1", true},
    {"192.0.2.1", "192.0.2.0", false},
    {"192.0.2.1/32", "192.0.2.1", true},
    {"192.0.2.0/31", "192.0.2.1", true},
    {"192.0.2.0/31", "192.0.2.2", false},
    {"192.0.2.0/24", "::ffff:192.0.2.77", true},
    {"192.0.2.0/24", "::ffff:192.0.3.77", false},
    {"192.0.2.0/24", "::192.0.2.77", false}, // IPv4-compatible, which is long deprecated, is not IPv4-mapped
    {"2001:db8::/32", "2001:db8:ffff::1", true},
    {"2001:db8::/32", "2001:db9::", false},
    {"2001:db8::/32", "192.0.2.1", false},
    {"2001:db8::/33", "2001:db8:8000::", false},
    {"2001:db8::/33", "2001:db8:7fff::", true},
    {"::1", "::1", true},
    {"::1", "::2", false},
    {"::1/128", "::1", true},
    {"fe80::/10", "febf::1", true},
    {"fe80::/10", "fec0::1", false},
    {"::/0", "ffff::", true},
    {"::/0", "127.0.0.1", false},
    {"::/0", "::ffff:127.0.0.1", false}, // that is an IPv4 peer
    {"::ffff:10.0.0.0/104", "10.1.2.3", true},
    {"::ffff:10.0.0.0/104", "::ffff:10.1.2.3", true},
    {"::ffff:10.0.0.0/104", "11.0.0.0", false},
    {"::ffff:0:0/96", "1.2.3.4", true},
};

static struct sockaddr_storage sockaddr_of(const char *text)
{
    struct sockaddr_storage storage = {.ss_family = AF_UNSPEC};
    struct sockaddr_in inet = {.sin_family = AF_INET};
    struct sockaddr_in6 inet6 = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, text, &inet.sin_addr) == 1)
        memcpy(&storage, &inet, sizeof inet);
    else if (inet_pton(AF_INET6, text, &inet6.sin6_addr) == 1)
        memcpy(&storage, &inet6, sizeof inet6);
    else
        fail_msg("%s", text);
    return storage;
}

static void test_a_block_contains_its_addresses_only(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(memberships); i++) {
        struct cidr cidr;
        struct error error = ERROR_INIT;
        if (!cidr_parse(memberships[i].block, &cidr, &error))
            fail_msg("%s: %s", memberships[i].block, error.text);
        struct sockaddr_storage address = sockaddr_of(memberships[i].address);
        if (cidr_contains(&cidr, (const struct sockaddr *)&address) != memberships[i].inside)
            fail_msg("%s in %s", memberships[i].address, memberships[i].block);
    }
}

static void test_other_families_match_nothing(void **state)
{
    (void)state;
    struct cidr cidr;
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    assert_true(cidr_parse("0.0.0.0/0", &cidr, NULL));
    assert_false(cidr_contains(&cidr, (const struct sockaddr *)&local));
    assert_true(cidr_parse("::/0", &cidr, NULL));
    assert_false(cidr_contains(&cidr, (const struct sockaddr *)&local));
}

static const struct {
    const char *text, *reason;
} refused[] = {
    {"", "\"\" is not an IP address"},
    {"localhost", "\"localhost\" is not an IP address"},
    {"/8", "\"\" is not an IP address"},
    {"10.0.0/8", "\"10.0.0\" is not an IP address"},
    {"256.0.0.0/8", "\"256.0.0.0\" is not an IP address"},
    {"[::1]/128", "\"[::1]\" is not an IP address"},
    {" 10.0.0.0/8", "\" 10.0.0.0\" is not an IP address"},
    {"fe80::1%lo/64", "\"fe80::1%lo\" is not an IP address"},
    {"10.0.0.0/", "prefix length \"\" is not in 0-32"},
    {"10.0.0.0/33", "prefix length \"33\" is not in 0-32"},
    {"10.0.0.0/-1", "prefix length \"-1\" is not in 0-32"},
    {"10.0.0.0/8 ", "prefix length \"8 \" is not in 0-32"},
    {"10.0.0.0/8/9", "prefix length \"8/9\" is not in 0-32"},
    {"10.0.0.0/255.0.0.0", "prefix length \"255.0.0.0\" is not in 0-32"},
    {"10.0.0.0/4294967304", "prefix length \"4294967304\" is not in 0-32"},
    {"::/129", "prefix length \"129\" is not in 0-128"},
    {"10.1.2.3/8", "10.1.2.3 has bits set beyond its prefix of 8; the block is 10.0.0.0/8, the address 10.1.2.3/32"},
    {"10.0.0.1/31", "10.0.0.1 has bits set beyond its prefix of 31; the block is 10.0.0.0/31, the address 10.0.0.1/32"},
    {"10.0.0.1/0", "10.0.0.1 has bits set beyond its prefix of 0; the block is 0.0.0.0/0, the address 10.0.0.1/32"},
    {"2001:db8::1/32",
     "2001:db8::1 has bits set beyond its prefix of 32; the block is 2001:db8::/32, the address 2001:db8::1/128"},
};

static void test_a_malformed_block_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(refused); i++) {
        struct cidr cidr, untouched;
        struct error error = ERROR_INIT;
        memset(&cidr, 0x5a, sizeof cidr);
        memcpy(&untouched, &cidr, sizeof cidr);
        if (cidr_parse(refused[i].text, &cidr, &error))
            fail_msg("\"%s\" was taken", refused[i].text);
        assert_int_equal(error.code, ERROR_INVALID);
        assert_string_equal(error.text, refused[i].reason);
        assert_memory_equal(&cidr, &untouched, sizeof cidr);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_block_contains_its_addresses_only),
        cmocka_unit_test(test_other_families_match_nothing),
        cmocka_unit_test(test_a_malformed_block_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
