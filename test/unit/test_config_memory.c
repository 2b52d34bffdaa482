// Reading a configuration when memory runs out: each allocation fails in turn, libyaml's too. It must end with NULL and
// an error, or with a warning that could not be kept as it was, and give back what it took.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/config/config.h"
#include "failing_memory.h"

// A value of every type, and aliases.
static const char good[] =
    "application: {log: {level: debug}}\n"
    "server:\n"
    "  proxies:\n"
    "  - name: one\n"
    "    listener: {address: '127.0.0.1:1', authorized_sources: [10.0.0.0/8, '::1'], read_timeout: 1m}\n"
    "    targets: &targets [{name: a, address: h:1, connect_attempts: 3}, {name: b, address: 'unix:///x'}]\n"
    "    options: {connection_log: /x, enable_dual_stack: false, connection_load_balancer: failover}\n"
    "  - {name: two, listener: {address: fd://3}, targets: *targets}\n";

// Refused, with the types that a configuration cannot have yet.
static const char bad[] =
    "server:\n"
    "  proxies:\n"
    "  - name: one\n"
    "    listener:\n"
    "      address: '127.0.0.1:1'\n"
    "      adress: x\n"
    "      tls_context: {certificates: [{key: k, certificate: c}], application_protocols: [h2]}\n"
    "    targets: [{name: a, address: h:1, proxy: h:1}, {name: a, address: h:1, tls_context: {}}]\n";

// Everything between is_counting on and off must balance, so what fails is only noted.
struct outcome {
    bool is_loaded;
    size_t problem_count;
    size_t kept;
    bool is_first_empty;
    bool is_warning_lost;
    long live;
};

static struct outcome load(const char *text, long failing)
{
    struct diagnostics diagnostics;
    memory_count_begin(failing);
    diagnostics_init(&diagnostics, "f");
    const struct config *config = config_load_text(text, strlen(text), &diagnostics);
    struct outcome outcome = {
        .is_loaded = config != NULL,
        .problem_count = diagnostics.errors,
        .kept = diagnostics.kept,
        .is_first_empty = diagnostics.kept == 0 || diagnostics.list[0].text[0] == '\0',
    };
    for (size_t i = 0; i < diagnostics.kept; i++) {
        const struct diagnostic *kept = &diagnostics.list[i];
        if (kept->severity == DIAGNOSTIC_WARNING)
            outcome.is_warning_lost |=
                strcmp(kept->text, "out of memory") == 0 || strcmp(kept->path, "out of memory") == 0;
    }
    config_drop(&config);
    diagnostics_release(&diagnostics);
    outcome.live = memory_count_end();
    return outcome;
}

static void assert_survives(const char *text, bool is_good)
{
    struct outcome outcome = load(text, -1);
    assert_int_equal(outcome.is_loaded, is_good);
    assert_int_equal(outcome.live, 0);
    long failing = 0;
    for (;; failing++) {
        outcome = load(text, failing);
        if (!has_failed)
            break;
        if (outcome.is_loaded != (outcome.problem_count == 0) || (outcome.is_loaded && !outcome.is_warning_lost) ||
            outcome.kept == 0 || outcome.is_first_empty)
            fail_msg("with allocation %ld failing: loaded %d, problems %zu", failing, outcome.is_loaded,
                     outcome.problem_count);
        if (outcome.live != 0)
            fail_msg("with allocation %ld failing: %ld blocks leaked", failing, outcome.live);
    }
    assert_true(failing > 50); // otherwise the allocator here is not the one in use
    assert_int_equal(outcome.is_loaded, is_good);
}

static void test_a_good_configuration_survives_any_failing_allocation(void **state)
{
    (void)state;
    assert_survives(good, true);
}

static void test_a_bad_configuration_survives_any_failing_allocation(void **state)
{
    (void)state;
    assert_survives(bad, false);
}

static void test_a_file_without_memory_for_it_is_one_error(void **state)
{
    (void)state;
    struct diagnostics diagnostics;
    diagnostics_init(&diagnostics, BITFLOW_SOURCE_DIR "/config.example.yaml");
    memory_count_begin(0);
    const struct config *config = config_load(BITFLOW_SOURCE_DIR "/config.example.yaml", &diagnostics);
    (void)memory_count_end();
    assert_null(config);
    assert_int_equal(diagnostics.errors, 1);
    char line[DIAGNOSTIC_LINE_SIZE];
    diagnostic_format(&diagnostics, &diagnostics.list[0], line);
    assert_string_equal(line, BITFLOW_SOURCE_DIR "/config.example.yaml: out of memory");
    diagnostics_release(&diagnostics);
}

int main(void)
{
#ifdef HAS_THREAD_SANITIZER
    return 77; // ctest: skipped
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_good_configuration_survives_any_failing_allocation),
        cmocka_unit_test(test_a_bad_configuration_survives_any_failing_allocation),
        cmocka_unit_test(test_a_file_without_memory_for_it_is_one_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
