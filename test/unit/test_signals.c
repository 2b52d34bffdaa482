// The process's signals, each case in a process of its own, begun with what a parent may leave behind: masks, ignored
// signals, pending ones.

#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/base/signals.h"

static const int taken[] = {SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2};
static const int astray[] = {SIGPIPE, SIGXFSZ, SIGTTOU, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGSTKFLT, SIGPWR};

// Returns the status of wait() of a process that runs it.
static int run(int (*story)(void))
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(story());
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void assert_good(int (*story)(void))
{
    int status = run(story);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void block_all(void)
{
    sigset_t all;
    sigfillset(&all);
    (void)sigprocmask(SIG_SETMASK, &all, NULL);
}

static int stray_signals(void)
{
    signals_init();
    for (size_t i = 0; i < ARRAY_LENGTH(astray); i++)
        (void)raise(astray[i]);
    for (int number = signals_notice() + 1; number <= SIGRTMAX; number++)
        (void)raise(number);
    return signals_wait(clock_now());
}

static void test_a_stray_signal_does_nothing(void **state)
{
    (void)state;
    assert_good(stray_signals);
}

static int left_pending(void)
{
    block_all();
    for (size_t i = 0; i < ARRAY_LENGTH(astray); i++)
        (void)raise(astray[i]);
    (void)raise(SIGHUP);
    signals_init();
    return signals_wait(clock_now()) == SIGHUP && signals_wait(clock_now()) == 0 ? 0 : 1;
}

static void test_what_a_parent_left_pending_is_taken_or_does_nothing(void **state)
{
    (void)state;
    assert_good(left_pending);
}

// Faults must reach their handlers.
static int left_blocked(void)
{
    block_all();
    signals_init();
    sigset_t now;
    (void)sigprocmask(SIG_BLOCK, NULL, &now);
    bool good = sigismember(&now, SIGSEGV) == 0 && sigismember(&now, SIGABRT) == 0 && sigismember(&now, SIGCHLD) == 0;
    for (size_t i = 0; i < ARRAY_LENGTH(taken); i++)
        good = good && sigismember(&now, taken[i]) == 1;
    return good ? 0 : 1;
}

static void test_a_mask_of_the_parent_is_forgotten(void **state)
{
    (void)state;
    assert_good(left_blocked);
}

static int left_ignored(void)
{
    for (size_t i = 0; i < ARRAY_LENGTH(taken); i++)
        (void)signal(taken[i], SIG_IGN);
    signals_init();
    for (size_t i = 0; i < ARRAY_LENGTH(taken); i++) {
        (void)raise(taken[i]);
        if (signals_wait(clock_now()) != taken[i])
            return 1;
    }
    return 0;
}

static void test_what_the_parent_ignored_is_taken(void **state)
{
    (void)state;
    assert_good(left_ignored);
}

static void note(int number)
{
    (void)number;
}

static int preloaded_profiler(void)
{
    struct sigaction action;
    (void)signal(SIGPROF, note);
    signals_init();
    (void)sigaction(SIGPROF, NULL, &action);
    return action.sa_handler == note ? 0 : 1;
}

static void test_a_handler_that_is_there_stays(void **state)
{
    (void)state;
    assert_good(preloaded_profiler);
}

static int order_of_signals(void)
{
    signals_init();
    for (size_t i = 0; i < ARRAY_LENGTH(taken); i++)
        (void)raise(taken[i]);
    signals_send_notice();
    for (int i = 0; i < 3; i++)
        if (!signals_told_to_end() || !signals_is_end(signals_wait(DEADLINE_NONE)))
            return 1;
    if (signals_told_to_end())
        return 2;
    bool good = signals_wait(DEADLINE_NONE) == SIGHUP && signals_wait(DEADLINE_NONE) == SIGUSR1 &&
                signals_wait(DEADLINE_NONE) == SIGUSR2 && signals_wait(DEADLINE_NONE) == signals_notice() &&
                signals_wait(clock_now()) == 0;
    return good ? 0 : 3;
}

static void test_the_end_comes_before_other_signals(void **state)
{
    (void)state;
    assert_good(order_of_signals);
}

static int end_descriptor(void)
{
    signals_init();
    struct pollfd end = {.fd = signals_end_descriptor(), .events = POLLIN};
    (void)raise(SIGHUP);
    if (end.fd < 0 || poll(&end, 1, 0) != 0)
        return 1;
    (void)raise(SIGQUIT);
    if (poll(&end, 1, 0) != 1 || signals_wait(DEADLINE_NONE) != SIGQUIT || poll(&end, 1, 0) != 0)
        return 2;
    return signals_end_descriptor() == end.fd ? 0 : 3;
}

static void test_a_descriptor_tells_of_the_end(void **state)
{
    (void)state;
    assert_good(end_descriptor);
}

static int restored_and_interrupted(void)
{
    signals_init();
    (void)raise(SIGINT); // came before it was known that this is a tool
    signals_restore();
    return 1;
}

static int restored_after_an_order(void)
{
    signals_init();
    (void)raise(SIGHUP);
    (void)raise(SIGUSR1);
    (void)raise(SIGUSR2);
    signals_restore();
    return 0;
}

static int restored_and_ignored(void)
{
    (void)signal(SIGINT, SIG_IGN);
    signals_init();
    signals_restore();
    signals_restore();
    (void)raise(SIGINT);
    return 0;
}

static void test_restored_signals_are_as_before(void **state)
{
    (void)state;
    int status = run(restored_and_interrupted);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGINT);
    assert_good(restored_after_an_order);
    assert_good(restored_and_ignored);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_stray_signal_does_nothing),
        cmocka_unit_test(test_what_a_parent_left_pending_is_taken_or_does_nothing),
        cmocka_unit_test(test_a_mask_of_the_parent_is_forgotten),
        cmocka_unit_test(test_what_the_parent_ignored_is_taken),
        cmocka_unit_test(test_a_handler_that_is_there_stays),
        cmocka_unit_test(test_the_end_comes_before_other_signals),
        cmocka_unit_test(test_a_descriptor_tells_of_the_end),
        cmocka_unit_test(test_restored_signals_are_as_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
