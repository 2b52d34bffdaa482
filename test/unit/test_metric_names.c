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

// The labels of a pattern, as the document has them: `proxy`, `reason`.
static void list_labels(const char *pattern, char *out, size_t size)
{
    size_t used = 0;
    *out = '\0';
    for (const char *at = strchr(pattern, '{'); at != NULL; at = strchr(at + 1, '{'))
        used += (size_t)snprintf(out + used, size - used, "%s`%.*s`", used == 0 ? "" : ", ", (int)strcspn(at + 1, "}"),
                                 at + 1);
    assert_true(used < size);
}

static void test_what_prometheus_calls_each_is_documented(void **state)
{
    (void)state;
    static const char *const types[] = {"counter", "gauge", "histogram"};
    char *document = read_document();
    for (enum metric metric = 0; metric < METRIC_COUNT; metric++) {
        const char *pattern = metric_kind(metric)->pattern;
        char name[PROMETHEUS_NAME_SIZE], labels[64], row[512];
        metric_prometheus_name(metric, name);
        list_labels(pattern, labels, sizeof labels);
        (void)snprintf(row, sizeof row, "| `%s` | `%s` | %s | %s |\n", pattern, name,
                       types[metric_prometheus_type(metric)], labels);
        if (count_rows(document, row) != 1)
            fail_msg("docs/metrics.md has not one row: %s", row);
    }
    free(document);
}

// All of a family's samples must come together, and a dashboard must not take one for the other.
static void test_no_two_metrics_have_one_name(void **state)
{
    (void)state;
    for (enum metric one = 0; one < METRIC_COUNT; one++) {
        char name[PROMETHEUS_NAME_SIZE], other[PROMETHEUS_NAME_SIZE];
        metric_prometheus_name(one, name);
        assert_in_range(strlen(metric_kind(one)->help), 10, 120);
        for (enum metric two = one + 1; two < METRIC_COUNT; two++) {
            metric_prometheus_name(two, other);
            assert_string_not_equal(name, other);
            assert_string_not_equal(metric_kind(one)->pattern, metric_kind(two)->pattern);
        }
    }
}

static void test_nothing_else_is_documented(void **state)
{
    (void)state;
    char *document = read_document();
    // Each of them begins with one of these words, and has been found above, in two tables.
    unsigned rows = count_rows(document, "| `proxy.") + count_rows(document, "| `threads.") +
                    count_rows(document, "| `process.") + count_rows(document, "| `config.") +
                    count_rows(document, "| `certificates.") + count_rows(document, "| `telemetry.");
    assert_int_equal(rows, 2 * METRIC_COUNT);
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
        cmocka_unit_test(test_what_prometheus_calls_each_is_documented),
        cmocka_unit_test(test_no_two_metrics_have_one_name),
        cmocka_unit_test(test_nothing_else_is_documented),
        cmocka_unit_test(test_every_cause_is_documented),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
