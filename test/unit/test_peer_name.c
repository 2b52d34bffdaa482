// Which texts are names to authorize, and which of a certificate's names they stand for, as tables. Names with what
// hostile certificates have: zero bytes, control characters, what is not ASCII, paths that lead elsewhere.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/base/peer_name.h"

#define DIGITS_OF_42 "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
#define PIN "spki:sha256/" DIGITS_OF_42 "A="

struct match {
    const char *text;
    const char *name;
    bool is_match;
};

// Of a block of just this size, so that a sanitizer sees a read beyond it.
static bool matches(const char *text, const char *name, size_t length, bool is_host)
{
    char *copy = malloc(length > 0 ? length : 1);
    assert_non_null(copy);
    memcpy(copy, name, length);
    bool is_match = peer_name_matches(text, copy, length, is_host);
    free(copy);
    return is_match;
}

static void check_matches(const struct match *table, size_t count, bool is_host)
{
    for (size_t i = 0; i < count; i++) {
        struct error error = ERROR_INIT;
        if (!peer_name_check(table[i].text, &error))
            fail_msg("%s %s", table[i].text, error.text);
        if (matches(table[i].text, table[i].name, strlen(table[i].name), is_host) != table[i].is_match)
            fail_msg("%s, %s", table[i].text, table[i].name);
    }
}

static void test_common_names_are_compared_byte_by_byte(void **state)
{
    (void)state;
    static const struct match table[] = {
        {"cn:web 1", "web 1", true},
        {"cn:web 1", "Web 1", false},
        {"cn:web 1", "web 1 ", false},
        {"cn:web 1", "web", false},
        {"cn:web 1", "", false},
        {"cn:b\xc3\xbc"
         "cher",
         "b\xc3\xbc"
         "cher",
         true},
        {"cn:cn:x", "cn:x", true},
    };
    check_matches(table, ARRAY_LENGTH(table), false);
}

static void test_dns_names_are_compared_in_any_case_and_by_one_label(void **state)
{
    (void)state;
    static const struct match table[] = {
        {"dns:web.example.com", "web.example.com", true},
        {"dns:web.example.com", "WEB.Example.COM", true},
        {"dns:WEB.example.com", "web.example.com", true},
        {"dns:web.example.com", "web.example.com.", false},
        {"dns:web.example.com", "eb.example.com", false},
        {"dns:web.example.com", "*.example.com", false},
        {"dns:*.example.com", "a.example.com", true},
        {"dns:*.example.com", "a.EXAMPLE.com", true},
        {"dns:*.example.com", "xn--bcher-kva.example.com", true},
        {"dns:*.example.com", "a.b.example.com", false},
        {"dns:*.example.com", "example.com", false},
        {"dns:*.example.com", ".example.com", false},
        {"dns:*.example.com", "*.example.com", false},
        {"dns:*.example.com", "a b.example.com", false},
        {"dns:*.example.com", "a.example.com\n", false},
        {"dns:*.example.com", "b\xc3\xbc.example.com", false},
        {"dns:localhost", "localhost", true},
        {"dns:localhost", "", false},
    };
    check_matches(table, ARRAY_LENGTH(table), false);
}

static void test_a_servers_wildcard_stands_for_hosts(void **state)
{
    (void)state;
    static const struct match table[] = {
        {"dns:a.example.com", "*.example.com", true},
        {"dns:a.example.com", "*.EXAMPLE.com", true},
        {"dns:a.b.example.com", "*.example.com", false},
        {"dns:example.com", "*.example.com", false},
        {"dns:*.example.com", "*.example.com", true},
        {"dns:*.a.example.com", "*.example.com", false},
        {"dns:a.com", "*.com", false},
        {"dns:a.example.com", "*", false},
        {"dns:a.example.com", "a.*.com", false},
        {"dns:a.example.com", "a.example.com", true},
    };
    check_matches(table, ARRAY_LENGTH(table), true);
}

static void test_uris_are_compared_by_their_parts(void **state)
{
    (void)state;
    static const struct match table[] = {
        {"uri:spiffe://example.org/web", "spiffe://example.org/web", true},
        {"uri:spiffe://example.org/web", "SPIFFE://Example.ORG/web", true},
        {"uri:spiffe://example.org/web", "spiffe://example.org/Web", false},
        {"uri:spiffe://example.org/web", "spiffe://example.org/web/", false},
        {"uri:spiffe://example.org/web", "spiffe://example.org", false},
        {"uri:spiffe://example.org/web", "spiffe://example.org/we%62", false},
        {"uri:spiffe://example.org", "spiffe://example.org", true},
        {"uri:spiffe://example.org", "spiffe://example.org/", false},
        {"uri:https://user@Example.org:8443/a?b#c", "HTTPS://user@example.ORG:8443/a?b#c", true},
        {"uri:https://user@example.org/a", "https://USER@example.org/a", false},
        {"uri:https://example.org/a", "https://example.org:443/a", false},
        {"uri:https://example.org/%7ea", "https://example.org/~a", false},
        {"uri:https://example.org/%7ea", "https://example.org/%7Ea", false},
        {"uri:urn:uuid:f81d4fae", "URN:uuid:f81d4fae", true},
        {"uri:urn:uuid:f81d4fae", "urn:UUID:f81d4fae", false},
        {"uri:https://[2001:db8::1]/", "https://[2001:DB8::1]/", true},
        {"uri:a:b", "", false},
        {"uri:a:b", "a:", false},
        {"uri:a:b", "a", false},
    };
    check_matches(table, ARRAY_LENGTH(table), false);
}

static void test_a_uris_wildcard_stands_for_what_is_below_it(void **state)
{
    (void)state;
    static const char below[] = "uri:spiffe://example.org/ns/prod/*";
    static const struct match table[] = {
        {below, "spiffe://example.org/ns/prod/web", true},
        {below, "spiffe://example.org/ns/prod/sa/web", true},
        {below, "Spiffe://EXAMPLE.org/ns/prod/...", true},
        {below, "spiffe://example.org/ns/prod/", false},
        {below, "spiffe://example.org/ns/prod", false},
        {below, "spiffe://example.org/ns/production", false},
        {below, "spiffe://example.org/ns/prod//web", false},
        {below, "spiffe://example.org/ns/prod/web/", false},
        {below, "spiffe://example.org/ns/prod/../web", false},
        {below, "spiffe://example.org/ns/prod/.", false},
        {below, "spiffe://example.org/ns/prod/%2e%2E/web", false},
        {below, "spiffe://example.org/ns/prod/w%65b", false},
        {below, "spiffe://example.org/ns/prod/web?a", false},
        {below, "spiffe://example.org/ns/prod/web#a", false},
        {below, "spiffe://example.org/NS/prod/web", false},
        {below, "spiffe://example.org.evil/ns/prod/web", false},
        {below, "spiffe://evil/example.org/ns/prod/web", false},
        {below, "spiffe://example.org:1/ns/prod/web", false},
        {below, "spiffe://a@example.org/ns/prod/web", false},
        {below, "spiffe:/example.org/ns/prod/web", false},
        {"uri:spiffe://example.org/*", "spiffe://example.org/web", true},
        {"uri:spiffe://example.org/*", "spiffe://example.org", false},
        {"uri:spiffe://example.org/*", "spiffe://example.orgs/web", false},
        {"uri:spiffe://example.org/*", "spiffe:///web", false},
        {"uri:https://example.org/a/*", "https://example.org/a/b%20c/~d", true},
        {"uri:https://example.org/a/*", "https://example.org/a/.%2e/b", false},
        {"uri:https://example.org/a/*", "https://example.org/a/b c", false},
        {"uri:https://example.org/a/*", "https://example.org/a/%2", false},
    };
    check_matches(table, ARRAY_LENGTH(table), false);
}

static void test_zero_bytes_end_no_name(void **state)
{
    (void)state;
    static const struct {
        const char *text, *name;
        size_t length;
    } table[] = {
        {"cn:web", "web\0.evil", 9},
        {"cn:web", "web", 4},
        {"dns:web.example.com", "web.example.com\0.evil.com", 25},
        {"dns:*.example.com", "a\0.example.com", 14},
        {"uri:spiffe://example.org/web", "spiffe://example.org/web\0x", 26},
        {"uri:spiffe://example.org/web", "spiffe://example.org/web", 25},
        {"uri:https://example.org/*", "https://example.org/a\0b", 23},
        {PIN, "sha256/" DIGITS_OF_42 "A=", 52},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(table); i++)
        if (matches(table[i].text, table[i].name, table[i].length, true))
            fail_msg("%s", table[i].text);
}

static void test_long_names_are_bounded(void **state)
{
    (void)state;
    char name[PEER_NAME_URI_MAX + 2] = "spiffe://example.org/";
    char text[PEER_NAME_URI_MAX + 8] = "uri:";
    memset(name + strlen(name), 'a', sizeof name - 1 - strlen(name));
    memcpy(text + strlen(text), name, sizeof name);
    assert_false(peer_name_check(text, NULL));
    assert_false(matches("uri:spiffe://example.org/*", name, PEER_NAME_URI_MAX + 1, false));
    assert_true(matches("uri:spiffe://example.org/*", name, PEER_NAME_URI_MAX, false));
    text[strlen(text) - 1] = '\0';
    assert_true(peer_name_check(text, NULL));
    assert_true(matches(text, name, PEER_NAME_URI_MAX, false));
    memset(name, 'a', sizeof name - 1);
    assert_false(matches("dns:*.example.com", name, sizeof name - 1, true));
}

static void test_pins_have_one_form(void **state)
{
    (void)state;
    static const struct match table[] = {
        {PIN, "sha256/" DIGITS_OF_42 "A=", true},
        {PIN, "sha256/" DIGITS_OF_42 "a=", false},
        {PIN, DIGITS_OF_42 "A=", false},
    };
    check_matches(table, ARRAY_LENGTH(table), false);
    static const char *const bad[] = {"spki:" DIGITS_OF_42 "A=",        "spki:sha256//" DIGITS_OF_42 "A=",
                                      "spki:sha1/" DIGITS_OF_42 "A=",   "spki:sha256/" DIGITS_OF_42 "A",
                                      "spki:sha256/" DIGITS_OF_42 "AA", "spki:sha256/" DIGITS_OF_42 "B=",
                                      "spki:sha256/-" DIGITS_OF_42 "=", "spki:"};
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++)
        assert_false(peer_name_check(bad[i], NULL));
}

// What the e2e tests have no room for.
static void test_bad_texts_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "cn",
                                      ":x",
                                      "cn:",
                                      "cn:a\tb",
                                      "cn:*",
                                      "dns:",
                                      "dns:*.",
                                      "dns:**.a",
                                      "dns:*a.b",
                                      "dns:*.*.a",
                                      "dns:-a.b",
                                      "dns:a_b c",
                                      "dns:1.2.3.4:1",
                                      "uri:",
                                      "uri::",
                                      "uri:1a:b",
                                      "uri:a/b:c",
                                      "uri:a:",
                                      "uri:a:\x7f",
                                      "uri:a:%zz",
                                      "uri:a:%2",
                                      "uri:a:*",
                                      "uri:a:b/*",
                                      "uri:a://*",
                                      "uri:a:///*",
                                      "uri:a://b/c*",
                                      "uri:a://b/**",
                                      "uri:*:b",
                                      "uri:a://b*",
                                      "uri:a://b//*",
                                      "uri:a://b/./*",
                                      "uri:a://b?/*",
                                      "uri:a://b/c?d/*",
                                      "uri:spiffe:a",
                                      "uri:spiffe://",
                                      "uri:spiffe:///a",
                                      "uri:spiffe://a@b/c",
                                      "uri:spiffe://a/b%20c",
                                      "uri:spiffe://a/",
                                      "uri:spiffe://a/./b",
                                      "uri:spiffe://a?b",
                                      "uri:spiffe://a:1",
                                      "uri:SPIFFE://a//b"};
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++)
        if (peer_name_check(bad[i], NULL))
            fail_msg("%s", bad[i]);
}

static void test_only_plain_names_are_told_of(void **state)
{
    (void)state;
    static const struct {
        enum peer_name_kind kind;
        const char *name;
        bool is_plain;
    } table[] = {
        {PEER_NAME_CN, "a b", true},           {PEER_NAME_CN, "", false},
        {PEER_NAME_CN, "a\nb", false},         {PEER_NAME_DNS, "a.example", true},
        {PEER_NAME_DNS, "*.a.example", true},  {PEER_NAME_DNS, "a b", false},
        {PEER_NAME_URI, "spiffe://a/b", true}, {PEER_NAME_URI, "spiffe://a/\"", false},
        {PEER_NAME_URI, "no scheme", false},   {PEER_NAME_SPKI, "sha256/x", false},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(table); i++)
        if (peer_name_is_plain(table[i].kind, table[i].name, strlen(table[i].name)) != table[i].is_plain)
            fail_msg("%s", table[i].name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_common_names_are_compared_byte_by_byte),
        cmocka_unit_test(test_dns_names_are_compared_in_any_case_and_by_one_label),
        cmocka_unit_test(test_a_servers_wildcard_stands_for_hosts),
        cmocka_unit_test(test_uris_are_compared_by_their_parts),
        cmocka_unit_test(test_a_uris_wildcard_stands_for_what_is_below_it),
        cmocka_unit_test(test_zero_bytes_end_no_name),
        cmocka_unit_test(test_long_names_are_bounded),
        cmocka_unit_test(test_pins_have_one_form),
        cmocka_unit_test(test_bad_texts_are_refused),
        cmocka_unit_test(test_only_plain_names_are_told_of),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
