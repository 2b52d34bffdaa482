#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "bitflow/base/compiler.h"
#include "bitflow/relay/pipe_pool.h"

static struct bulk_pipe pipes[PIPE_POOL_MAX + 1];

static unsigned take_all(void)
{
    unsigned count = 0;
    while (count < ARRAY_LENGTH(pipes) && pipe_pool_take(&pipes[count]))
        count++;
    return count;
}

static void limit_descriptors(rlim_t to, struct rlimit *before)
{
    assert_int_equal(getrlimit(RLIMIT_NOFILE, before), 0);
    struct rlimit lower = {.rlim_cur = to, .rlim_max = before->rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &lower), 0);
}

static int after_test(void **state)
{
    (void)state;
    (void)pipe_pool_trim();
    struct pipe_pool_count count = pipe_pool_count();
    return count.taken == 0 && count.idle == 0 ? 0 : -1;
}

static void test_a_pipe_is_large_and_closes_on_exec(void **state)
{
    (void)state;
    struct bulk_pipe taken;
    assert_true(pipe_pool_take(&taken));
    assert_int_equal(fcntl(taken.read_end, F_GETFD), FD_CLOEXEC);
    assert_int_equal(fcntl(taken.write_end, F_GETFD), FD_CLOEXEC);
    assert_true(fcntl(taken.write_end, F_GETPIPE_SZ) >= 65536);
    assert_int_equal(write(taken.write_end, "through", 7), 7);
    char text[8] = "";
    assert_int_equal(read(taken.read_end, text, sizeof text), 7);
    assert_string_equal(text, "through");
    pipe_pool_give(&taken);
}

static void test_a_given_pipe_is_the_next_taken(void **state)
{
    (void)state;
    struct bulk_pipe first, again;
    assert_true(pipe_pool_take(&first));
    pipe_pool_give(&first);
    assert_int_equal(pipe_pool_count().idle, 1);
    assert_true(pipe_pool_take(&again));
    assert_int_equal(again.read_end, first.read_end);
    assert_int_equal(again.write_end, first.write_end);
    assert_int_equal(pipe_pool_count().idle, 0);
    assert_int_equal(pipe_pool_count().taken, 1);
    pipe_pool_give(&again);
}

static void test_a_discarded_pipe_is_closed(void **state)
{
    (void)state;
    struct bulk_pipe taken;
    assert_true(pipe_pool_take(&taken));
    struct bulk_pipe copy = taken;
    pipe_pool_discard(&taken);
    assert_int_equal(fcntl(copy.read_end, F_GETFD), -1);
    assert_int_equal(fcntl(copy.write_end, F_GETFD), -1);
    assert_int_equal(pipe_pool_count().taken, 0);
    assert_int_equal(pipe_pool_count().idle, 0);
}

static void test_few_idle_pipes_are_kept(void **state)
{
    (void)state;
    unsigned count = 0;
    while (count < PIPE_POOL_MAX_IDLE + 8) {
        assert_true(pipe_pool_take(&pipes[count]));
        count++;
    }
    struct bulk_pipe first_given = pipes[count - 1];
    while (count > 0)
        pipe_pool_give(&pipes[--count]);
    assert_int_equal(pipe_pool_count().idle, PIPE_POOL_MAX_IDLE);
    assert_int_equal(pipe_pool_trim(), 2 * PIPE_POOL_MAX_IDLE);
    assert_int_equal(pipe_pool_count().idle, 0);
    assert_int_equal(pipe_pool_trim(), 0);
    assert_int_equal(fcntl(first_given.read_end, F_GETFD), -1);
}

static void test_pipes_take_an_eighth_of_the_descriptors(void **state)
{
    (void)state;
    struct rlimit before;
    limit_descriptors(320, &before);
    unsigned count = take_all();
    struct bulk_pipe one_more;
    bool more = pipe_pool_take(&one_more);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(count, 20); // two descriptors each
    assert_false(more);
    // One given back is one to be had.
    pipe_pool_give(&pipes[--count]);
    assert_true(pipe_pool_take(&pipes[count++]));
    while (count > 0)
        pipe_pool_give(&pipes[--count]);
}

static void test_a_shortage_of_descriptors_is_survived(void **state)
{
    (void)state;
    struct rlimit before;
    limit_descriptors(100, &before);
    int fillers[100];
    unsigned filled = 0;
    while (filled < ARRAY_LENGTH(fillers) && (fillers[filled] = fcntl(0, F_DUPFD_CLOEXEC, 0)) >= 0)
        filled++;
    struct bulk_pipe taken;
    bool none = !pipe_pool_take(&taken);
    assert_int_equal(close(fillers[--filled]), 0); // one is too few
    none = none && !pipe_pool_take(&taken);
    assert_int_equal(close(fillers[--filled]), 0);
    bool some = pipe_pool_take(&taken);
    while (filled > 0)
        assert_int_equal(close(fillers[--filled]), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_true(none);
    assert_true(some);
    assert_int_equal(pipe_pool_count().taken, 1);
    pipe_pool_give(&taken);
}

static void *take_and_give(void *argument)
{
    unsigned *failures = argument;
    for (unsigned i = 0; i < 3000; i++) {
        struct bulk_pipe taken;
        if (!pipe_pool_take(&taken)) {
            ++*failures;
            continue;
        }
        // A pipe that two threads had at once would not bring this back.
        char byte = (char)i, back = 0;
        if (write(taken.write_end, &byte, 1) != 1 || read(taken.read_end, &back, 1) != 1 || back != byte)
            ++*failures;
        if (i % 16 == 0)
            pipe_pool_discard(&taken);
        else
            pipe_pool_give(&taken);
        if (i % 64 == 0)
            (void)pipe_pool_trim();
    }
    return NULL;
}

static void test_any_thread_may_use_it(void **state)
{
    (void)state;
    pthread_t threads[6];
    unsigned failures[ARRAY_LENGTH(threads)] = {0};
    for (unsigned i = 0; i < ARRAY_LENGTH(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, take_and_give, &failures[i]), 0);
    for (unsigned i = 0; i < ARRAY_LENGTH(threads); i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(failures[i], 0);
    }
    assert_int_equal(pipe_pool_count().taken, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_a_pipe_is_large_and_closes_on_exec, after_test),
        cmocka_unit_test_teardown(test_a_given_pipe_is_the_next_taken, after_test),
        cmocka_unit_test_teardown(test_a_discarded_pipe_is_closed, after_test),
        cmocka_unit_test_teardown(test_few_idle_pipes_are_kept, after_test),
        cmocka_unit_test_teardown(test_pipes_take_an_eighth_of_the_descriptors, after_test),
        cmocka_unit_test_teardown(test_a_shortage_of_descriptors_is_survived, after_test),
        cmocka_unit_test_teardown(test_any_thread_may_use_it, after_test),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
