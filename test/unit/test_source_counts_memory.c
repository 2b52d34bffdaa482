// What counting sources takes of memory: nothing that is not given back with the last connection, and when there is
// none, that connection alone is refused.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/proxy/source_counts.h"
#include "failing_memory.h"
#include "source_endpoint.h"

#define SOURCES 20000
#define BLOCKS_A_SOURCE 2

static void test_memory_goes_with_its_sources(void **state)
{
    (void)state;
    static struct source *sources[SOURCES], *again[SOURCES];
    struct source_counts counts;
    bool is_good = true;
    memory_count_begin(-1);
    source_counts_init(&counts);
    for (unsigned i = 0; i < SOURCES; i++) {
        struct endpoint client = client_of(i, i % 3 == 0);
        is_good = is_good && enter_source(&counts, &client, 2, &sources[i], NULL) == CLOSE_NONE &&
                  enter_source(&counts, &client, 2, &again[i], NULL) == CLOSE_NONE && again[i] == sources[i];
    }
    long most = live;
    for (unsigned i = 0; i < SOURCES; i++)
        source_counts_leave(&counts, &again[i]);
    long with_one_each = live;
    // In an order of its own: 7919 is prime to the number of sources. Halfway, the others are still known.
    for (unsigned i = 0; i < SOURCES / 2; i++)
        source_counts_leave(&counts, &sources[i * 7919 % SOURCES]);
    long with_half = live;
    unsigned kept = 0, refused = 0;
    for (unsigned i = 0; i < SOURCES; i++) {
        struct endpoint client = client_of(i, i % 3 == 0);
        struct source *other;
        if (sources[i] == NULL)
            continue;
        kept++;
        refused += enter_source(&counts, &client, 1, &other, NULL) == CLOSE_SOURCE_CONNECTION_LIMIT;
    }
    for (unsigned i = SOURCES / 2; i < SOURCES; i++)
        source_counts_leave(&counts, &sources[i * 7919 % SOURCES]);
    source_counts_release(&counts);
    long left = memory_count_end();
    assert_true(is_good);
    assert_int_equal(most, BLOCKS_A_SOURCE * SOURCES);
    assert_int_equal(with_one_each, most);
    assert_int_equal(with_half, most / 2);
    assert_int_equal(kept, SOURCES / 2);
    assert_int_equal(refused, kept);
    assert_int_equal(left, 0);
}

static void test_without_memory_that_connection_is_refused(void **state)
{
    (void)state;
    for (long failing = 0; failing <= BLOCKS_A_SOURCE; failing++) {
        struct source_counts counts;
        struct endpoint known = client_at("192.0.2.1:1"), stranger = client_at("192.0.2.2:1");
        struct source *first, *second, *third = NULL;
        struct error error = ERROR_INIT;
        source_counts_init(&counts);
        assert_int_equal(enter_source(&counts, &known, 2, &first, NULL), CLOSE_NONE);
        memory_count_begin(failing);
        enum close_reason of_known = enter_source(&counts, &known, 2, &second, NULL); // takes none
        enum close_reason reason = enter_source(&counts, &stranger, 1, &third, &error);
        long kept = live;
        source_counts_leave(&counts, &third);
        long left = memory_count_end();
        assert_int_equal(of_known, CLOSE_NONE);
        assert_int_equal(has_failed, failing < BLOCKS_A_SOURCE);
        assert_int_equal(reason, has_failed ? CLOSE_OUT_OF_MEMORY : CLOSE_NONE);
        assert_int_equal(error.code, has_failed ? ERROR_NO_MEMORY : ERROR_NONE);
        assert_int_equal(kept, has_failed ? 0 : BLOCKS_A_SOURCE);
        assert_int_equal(left, 0);
        // It was that one connection: the next is let in.
        assert_int_equal(enter_source(&counts, &stranger, 1, &third, NULL), CLOSE_NONE);
        source_counts_leave(&counts, &third);
        source_counts_leave(&counts, &second);
        source_counts_leave(&counts, &first);
        source_counts_release(&counts);
    }
}

int main(void)
{
#ifdef HAS_THREAD_SANITIZER
    return 77; // ctest: skipped
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_goes_with_its_sources),
        cmocka_unit_test(test_without_memory_that_connection_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
