// A record of the connection log when memory runs out: each allocation fails in turn. What comes out is the whole line
// or none, and what was taken is given back.

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "failing_memory.h"
#include "proxy/connection/connection_internal.h"

static bool is_whole(const struct connection_line *line)
{
    json_t *object = json_loadb(line->text, line->length, 0, NULL);
    bool is_good = json_is_object(object) && json_object_get(object, "reason") != NULL;
    json_decref(object);
    return is_good && line->text[0] == '\n' && line->text[line->length - 1] == '\n';
}

static void render(const struct connection *connection, struct connection_line *line)
{
    static const struct connection_sockets sockets = {.client = "192.0.2.1:1"};
    connection_record_render(connection, CONNECTION_ENDED, &sockets, 0, 0, line);
}

static void assert_whole_or_none(const struct connection *connection)
{
    long failing = 0, lost = 0;
    struct connection_line first; // jansson keeps what it needs to print numbers
    render(connection, &first);
    connection_line_release(&first);
    for (bool is_over = false; !is_over; failing++) {
        struct connection_line line;
        memory_count_begin(failing);
        render(connection, &line);
        is_over = !has_failed;
        is_counting = false;
        lost += line.text == NULL ? 1 : 0;
        bool is_right = line.text == NULL ? has_failed : is_whole(&line);
        is_counting = true;
        connection_line_release(&line);
        long left = memory_count_end();
        if (!is_right)
            fail_msg("with allocation %ld failing", failing);
        assert_int_equal(left, 0);
    }
    assert_true(lost > 10); // it does take memory
}

static struct proxy proxy;
static struct generation generation = {.proxy = &proxy};

static void assert_whole_or_none_with_name(const char *name)
{
    struct connection connection = {.generation = &generation};
    proxy.name = name;
    connection.failure.reason = CLOSE_COMPLETED;
    assert_whole_or_none(&connection);
}

static void test_a_record_is_whole_or_lost(void **state)
{
    (void)state;
    assert_whole_or_none_with_name("web");
}

static void test_a_long_record_is_whole_or_lost(void **state)
{
    (void)state;
    static char name[8192];
    memset(name, 'x', sizeof name - 1);
    assert_whole_or_none_with_name(name);
}

int main(void)
{
#ifdef HAS_THREAD_SANITIZER
    return 77; // ctest: skipped
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_record_is_whole_or_lost),
        cmocka_unit_test(test_a_long_record_is_whole_or_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
