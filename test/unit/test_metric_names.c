// docs/metrics.md against the list of what is reported, both ways.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/tls/tls_failure.h"
#include "server/metric_names.h"

static char *read_document(void)
{
    const size_t size = (size_t)256 * 1024;
    char *text = calloc(1, size);
    FILE *file = fopen(BITFLOW_SOURCE_DIR "/docs/metrics.md", "re");
    assert_non_null(file);
    assert_non_null(text);
    size_t length = fread(text, 1, size, file);
    assert_true(length > 0 && length < size);
    assert_int_equal(fclose(file), 0);
    return text;
}

// How many rows of a table begin with the text.
static unsigned count_rows(const char *document, const char *begin)
{
    unsigned count = 0;
    for (const char *at = document; (at = strstr(at, begin)) != NULL; at++)
        count += at > document && at[-1] == '\n';
    return count;
}

static void test_every_metric_is_documented(void **state)
{
    (void)state;
    char *document = read_document();
    for (unsigned metric = 0; metric < METRIC_COUNT; metric++) {
        const struct metric_kind *kind = metric_kind((enum metric)metric);
        char row[256];
        (void)snprintf(row, sizeof row, "| `%s` | %s | %s | ", kind->pattern, kind->type, kind->unit);
        if (count_rows(document, row) != 1)
            fail_msg("docs/metrics.md has not one row that begins with: %s", row);
    }
    free(document);
}

static void test_nothing_else_is_documented(void **state)
{
    (void)state;
    char *document = read_document();
    // Each of them begins with one of these words, and has been found above.
    unsigned rows = count_rows(document, "| `proxy.") + count_rows(document, "| `threads.") +
                    count_rows(document, "| `process.") + count_rows(document, "| `telemetry.");
    assert_int_equal(rows, METRIC_COUNT);
    free(document);
}

static void test_every_cause_is_documented(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text;
    } causes[] = {
#define CAUSE(constant, name, text) {name, text},
        TLS_FAILURES(CAUSE)
#undef CAUSE
    };
    char *document = read_document();
    const char *table = strstr(document, "### Causes of failed handshakes\n\n| cause | |\n|---|---|\n");
    assert_non_null(table);
    table = strstr(table, "|---|---|\n") + strlen("|---|---|\n");
    for (size_t i = 0; i < sizeof causes / sizeof *causes; i++) {
        char row[256];
        int length = snprintf(row, sizeof row, "| `%s` | %s |\n", causes[i].name, causes[i].text);
        if (strncmp(table, row, (size_t)length) != 0)
            fail_msg("in place of %sthere is: %.80s", row, table);
        table += length;
    }
    assert_int_not_equal(*table, '|');
    assert_string_equal(tls_failure_name(TLS_FAILURE_CIPHER), "cipher");
    free(document);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_metric_is_documented),
        cmocka_unit_test(test_nothing_else_is_documented),
        cmocka_unit_test(test_every_cause_is_documented),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
