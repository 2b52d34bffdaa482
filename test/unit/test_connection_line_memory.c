// A record of the connection log when memory runs out: each allocation fails in turn. What comes out is the whole line
// or none, and what was taken is given back.

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/telemetry/connection_log.h"
#include "failing_memory.h"

static bool is_whole(const struct connection_line *line)
{
    json_t *object = json_loadb(line->text, line->length, 0, NULL);
    bool is_good = json_is_object(object) && json_object_get(object, "reason") != NULL;
    json_decref(object);
    return is_good && line->text[0] == '\n' && line->text[line->length - 1] == '\n';
}

static void assert_whole_or_none(const struct connection_record *record)
{
    long failing = 0, lost = 0;
    struct connection_line first; // jansson keeps what it needs to print numbers
    connection_line_init(&first, record);
    connection_line_release(&first);
    for (bool is_over = false; !is_over; failing++) {
        struct connection_line line;
        memory_count_begin(failing);
        connection_line_init(&line, record);
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

static void a_record_is_whole_or_lost(void **state)
{
    (void)state;
    const struct connection_record record = {.event = CONNECTION_ENDED,
                                             .proxy = "web",
                                             .client = "192.0.2.1:1",
                                             .reason = "completed",
                                             .ended_by = "client"};
    assert_whole_or_none(&record);
}

static void a_long_record_is_whole_or_lost(void **state)
{
    (void)state;
    static char error[8192];
    memset(error, 'x', sizeof error - 1);
    const struct connection_record record = {.event = CONNECTION_ENDED,
                                             .proxy = "web",
                                             .client = "192.0.2.1:1",
                                             .reason = "completed",
                                             .ended_by = "client",
                                             .error = error};
    assert_whole_or_none(&record);
}

int main(void)
{
#ifdef HAS_THREAD_SANITIZER
    return 77; // ctest: skipped
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_record_is_whole_or_lost),
        cmocka_unit_test(a_long_record_is_whole_or_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
