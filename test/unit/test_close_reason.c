// The list of close reasons is what users filter their logs by: its names, who ended it and what counts as an error are
// held to docs/connection-log.md.

#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/relay/close_reason.h"

// docs/connection-log.md has a row for each, with who ended it and whether it is an error, and no other rows.
static void test_the_document_has_each_reasons_row(void **state)
{
    (void)state;
    static char text[1024 * 1024];
    FILE *file = fopen(BITFLOW_SOURCE_DIR "/docs/connection-log.md", "re");
    assert_non_null(file);
    size_t length = fread(text, 1, sizeof text - 1, file);
    assert_int_equal(fclose(file), 0);
    assert_in_range(length, 1, sizeof text - 2);
    unsigned rows = 0;
    for (const char *at = text; (at = strstr(at, " | yes | ")) != NULL; at++)
        rows++;
    unsigned errors = 0;
    for (enum close_reason reason = CLOSE_NONE + 1; reason < CLOSE_REASON_COUNT; reason++) {
        char row[128];
        bool is_error = close_reason_level(reason) == LOG_ERROR;
        (void)snprintf(row, sizeof row, "\n| `%s` | %s | %s | ", close_reason_name(reason),
                       reason == CLOSE_COMPLETED ? "client or target" : ended_by_name(close_reason_ended_by(reason)),
                       is_error ? "yes" : "no");
        if (strstr(text, row) == NULL)
            fail_msg("docs/connection-log.md lacks the row%s", row);
        errors += is_error;
    }
    assert_int_equal(errors, rows);
}

// What a client was rejected for, and what it could have been rejected for, is a warning.
static void test_what_clients_are_rejected_for_is_a_warning(void **state)
{
    (void)state;
    assert_int_equal(close_reason_level(CLOSE_COMPLETED), LOG_INFO);
    assert_int_equal(close_reason_level(CLOSE_CONNECT_REFUSED), LOG_ERROR);
    assert_int_equal(close_reason_level(CLOSE_CONNECTION_LIMIT), LOG_ERROR);
    assert_int_equal(close_reason_level(CLOSE_SOURCE_CONNECTION_LIMIT), LOG_WARN);
    assert_int_equal(close_reason_level(CLOSE_SOURCE_NOT_AUTHORIZED), LOG_WARN);
    assert_int_equal(close_reason_level(CLOSE_PROXY_SOURCE_NOT_TRUSTED), LOG_WARN);
}

static void test_the_first_reason_stands(void **state)
{
    (void)state;
    _Atomic(enum close_reason) reason = CLOSE_NONE;
    assert_true(close_reason_settle(&reason, CLOSE_DRAIN));
    assert_false(close_reason_settle(&reason, CLOSE_LIFETIME));
    assert_int_equal(reason, CLOSE_DRAIN);
}

static void test_every_reason_has_a_name_and_a_text_of_its_own(void **state)
{
    (void)state;
    for (enum close_reason a = CLOSE_NONE; a < CLOSE_REASON_COUNT; a++) {
        const char *name = close_reason_name(a);
        assert_true(strlen(name) > 0);
        for (const char *at = name; *at != '\0'; at++)
            assert_true(islower((unsigned char)*at) || *at == '_');
        for (enum close_reason b = CLOSE_NONE; b < a; b++) {
            assert_string_not_equal(name, close_reason_name(b));
            assert_string_not_equal(close_reason_text(a), close_reason_text(b));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_document_has_each_reasons_row),
        cmocka_unit_test(test_what_clients_are_rejected_for_is_a_warning),
        cmocka_unit_test(test_the_first_reason_stands),
        cmocka_unit_test(test_every_reason_has_a_name_and_a_text_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
