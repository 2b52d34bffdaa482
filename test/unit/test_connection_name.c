// The names of a connection's threads: what gdb's `info threads` and `top -H` show, within the kernel's 15 bytes.

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/proxy/connection.h"

static const struct {
    const char *proxy;
    uint64_t id;
    char role;
    const char *name;
} table[] = {
    {"web", 1, '>', "web#1>"},
    {"web", 1, '<', "web#1<"},
    {"", 7, '>', "#7>"},
    {"twelve_bytes", 1, '>', "twelve_bytes#1>"},  // 15 exactly
    {"thirteen_byte", 1, '>', "thirteen_byt#1>"}, // the proxy's name gives way to the id
    {"a-long-proxy-name", 123456, '<', "a-long-#123456<"},
    {"web", 9999999999999, '>', "#9999999999999>"},        // 13 digits leave no room for the proxy
    {"web", UINT64_MAX, '>', "#18446744073709"},           // and more lose their end
    {"\xc3\xa9t\xc3\xa9", 5, '>', "\xc3\xa9t\xc3\xa9#5>"}, // é t é
    // A character that does not fit is left out whole: 11 + 2 bytes, where there is room for 12.
    {"elevenbytes\xc3\xa9", 1, '>', "elevenbytes#1>"},
    {"tenbytes..\xe2\x82\xac", 1, '>', "tenbytes..#1>"}, // three bytes in room for two
    {"\xf0\x9f\x90\xa7\xf0\x9f\x90\xa7", 123456789, '>', "\xf0\x9f\x90\xa7#123456789>"},
    {"\xf0\x9f\x90\xa7", 12345678901, '>', "#12345678901>"},
};

static void test_a_thread_is_named_after_proxy_id_and_role(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(table); i++) {
        char name[THREAD_NAME_SIZE];
        memset(name, 'x', sizeof name);
        connection_thread_name(name, table[i].proxy, table[i].id, table[i].role);
        assert_string_equal(name, table[i].name);
    }
}

// For every id that has room, the name ends with it and the role, whatever the proxy is called.
static void test_the_id_is_never_cut(void **state)
{
    (void)state;
    uint64_t id = 1;
    for (int digits = 1; digits <= 13; digits++, id *= 10) {
        char name[THREAD_NAME_SIZE], end[32];
        connection_thread_name(name, "a-proxy-with-a-very-long-name", id, '<');
        (void)snprintf(end, sizeof end, "#%" PRIu64 "<", id);
        assert_int_equal(strlen(name), 15);
        assert_string_equal(name + 15 - strlen(end), end);
    }
}

static void test_the_kernel_takes_the_name(void **state)
{
    (void)state;
    char name[THREAD_NAME_SIZE], kept[THREAD_NAME_SIZE];
    connection_thread_name(name, "a-proxy-with-a-very-long-name", 42, '>');
    thread_set_name(name);
    assert_int_equal(pthread_getname_np(pthread_self(), kept, sizeof kept), 0);
    assert_string_equal(kept, "a-proxy-wit#42>");
}

static void test_ids_go_up_from_one(void **state)
{
    (void)state;
    assert_int_equal(connection_next_id(), 1);
    assert_int_equal(connection_next_id(), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_thread_is_named_after_proxy_id_and_role),
        cmocka_unit_test(test_the_id_is_never_cut),
        cmocka_unit_test(test_the_kernel_takes_the_name),
        cmocka_unit_test(test_ids_go_up_from_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
