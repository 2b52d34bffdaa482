// Reading a configuration when memory runs out: each allocation fails in turn, libyaml's too. It must end with NULL and
// a problem, and give back what it took.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/config/config_load.h"
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
    long live;
};

static struct outcome load(const char *text, long failing)
{
    struct config_problems problems;
    left_before_failure = failing;
    has_failed = false;
    live = 0;
    is_counting = true;
    config_problems_init(&problems);
    const struct config *config = config_load_text("f", text, strlen(text), &problems);
    struct outcome outcome = {
        .is_loaded = config != NULL,
        .problem_count = problems.count,
        .kept = problems.kept,
        .is_first_empty = problems.kept == 0 || problems.lines[0][0] == '\0',
    };
    config_drop(&config);
    config_problems_release(&problems);
    is_counting = false;
    outcome.live = live;
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
        if (outcome.is_loaded || outcome.problem_count == 0 || outcome.kept == 0 || outcome.is_first_empty)
            fail_msg("with allocation %ld failing: loaded %d, problems %zu", failing, outcome.is_loaded,
                     outcome.problem_count);
        if (outcome.live != 0)
            fail_msg("with allocation %ld failing: %ld blocks leaked", failing, outcome.live);
    }
    assert_true(failing > 50); // otherwise the allocator here is not the one in use
    assert_int_equal(outcome.is_loaded, is_good);
}

static void test_a_good_configuration(void **state)
{
    (void)state;
    assert_survives(good, true);
}

static void test_a_bad_configuration(void **state)
{
    (void)state;
    assert_survives(bad, false);
}

static void test_a_file(void **state)
{
    (void)state;
    struct config_problems problems;
    config_problems_init(&problems);
    left_before_failure = 0;
    is_counting = true;
    const struct config *config = config_load(BITFLOW_SOURCE_DIR "/config.example.yaml", &problems);
    is_counting = false;
    assert_null(config);
    assert_int_equal(problems.count, 1);
    assert_non_null(strstr(problems.lines[0], "config.example.yaml: out of memory"));
    config_problems_release(&problems);
}

int main(void)
{
#ifdef HAS_THREAD_SANITIZER
    return 77; // ctest: skipped
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_good_configuration),
        cmocka_unit_test(test_a_bad_configuration),
        cmocka_unit_test(test_a_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
