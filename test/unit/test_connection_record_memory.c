// A record of the connection log and memory: the usual one takes none. Of a long one, each allocation fails in turn:
// what comes out is the whole line or none, and what was taken is given back.

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "failing_memory.h"
#include "proxy/connection/connection_internal.h"

static bool is_whole(const struct json_line *line)
{
    json_t *object = json_loadb(line->text, line->length, 0, NULL);
    bool is_good = json_is_object(object) && json_object_get(object, "reason") != NULL;
    json_decref(object);
    return is_good && line->text[0] == '\n' && line->text[line->length - 1] == '\n';
}

static void render(const struct connection *connection, struct json_line *line)
{
    static const struct connection_sockets sockets = {.client = "192.0.2.1:1"};
    connection_record_render(connection, CONNECTION_ENDED, &sockets, 0, 0, line);
}

// Returns how many allocations the record takes.
static long assert_whole_or_none(const struct connection *connection)
{
    long failing = 0, lost = 0;
    struct json_line first; // the C library keeps what it needs to print times
    render(connection, &first);
    json_line_release(&first);
    for (bool is_over = false; !is_over; failing++) {
        struct json_line line;
        memory_count_begin(failing);
        render(connection, &line);
        is_over = !has_failed;
        is_counting = false;
        lost += line.text == NULL ? 1 : 0;
        bool is_right = line.text == NULL ? has_failed : is_whole(&line);
        is_counting = true;
        json_line_release(&line);
        long left = memory_count_end();
        if (!is_right)
            fail_msg("with allocation %ld failing", failing);
        assert_int_equal(left, 0);
    }
    return lost;
}

static struct proxy proxy;
static struct generation generation = {.proxy = &proxy};

static long assert_whole_or_none_with_name(const char *name)
{
    struct connection connection = {.generation = &generation};
    proxy.name = name;
    connection.failure.reason = CLOSE_COMPLETED;
    return assert_whole_or_none(&connection);
}

static void test_a_record_takes_no_memory(void **state)
{
    (void)state;
    assert_int_equal(assert_whole_or_none_with_name("web"), 0);
}

static void test_a_long_record_is_whole_or_lost(void **state)
{
    (void)state;
    static char name[30000];
    memset(name, 'x', sizeof name - 1);
    assert_int_equal(assert_whole_or_none_with_name(name), 1);
}

int main(void)
{
#ifdef HAS_THREAD_SANITIZER
    return 77; // ctest: skipped
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_record_takes_no_memory),
        cmocka_unit_test(test_a_long_record_is_whole_or_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
