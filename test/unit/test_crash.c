// Crashes of processes that the test starts: what they leave in stderr, the status they end with, what a reporter gets.

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/base/crash.h"
#include "bitflow/version.h"

#define OUTPUT_SIZE 16384

static char output[OUTPUT_SIZE];

// Runs `body` in a process of its own with the handlers installed; `output` gets its stderr. Returns its wait status.
static int run_crashing(void (*body)(void))
{
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const struct rlimit none = {.rlim_cur = 0};
        (void)setrlimit(RLIMIT_CORE, &none);
        (void)dup2(ends[1], STDERR_FILENO);
        crash_install();
        body();
        _exit(0);
    }
    assert_int_equal(close(ends[1]), 0);
    size_t length = 0;
    ssize_t got;
    while ((got = read(ends[0], output + length, sizeof output - 1 - length)) > 0)
        length += (size_t)got;
    output[length] = '\0';
    assert_int_equal(close(ends[0]), 0);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void assert_said(const char *what)
{
    if (strstr(output, what) == NULL)
        fail_msg("\"%s\" is not in: %s", what, output);
}

static void assert_crashed_by(int number, void (*body)(void))
{
    int status = run_crashing(body);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != number)
        fail_msg("wait status 0x%x, output: %s", (unsigned)status, output);
    assert_said("bitflow " BITFLOW_VERSION " crashed: ");
    assert_said(crash_signal_name(number));
    assert_said("  #0 0x");
    assert_said("  #1 0x");
    assert_said(" bitflow+0x");
}

// What the compiler cannot see through.
static int *volatile nowhere = (int *)16;
static volatile int zero;

static void write_nowhere(void)
{
    *nowhere = 1;
}

static void divide(void)
{
    zero = 1000 / zero;
}

static void read_beyond_a_file(void)
{
    int fd = memfd_create("empty", MFD_CLOEXEC);
    volatile char *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    zero = map[0];
}

static void send_itself(void)
{
    (void)kill(getpid(), SIGSEGV);
}

static void test_a_fault_tells_its_address(void **state)
{
    (void)state;
    assert_crashed_by(SIGSEGV, write_nowhere);
    assert_said("SIGSEGV (SEGV_MAPERR) at address 0x10, thread ");
}

static void test_every_fatal_signal_is_told_with_its_cause(void **state)
{
    (void)state;
    assert_crashed_by(SIGABRT, abort);
    assert_crashed_by(SIGBUS, read_beyond_a_file);
    assert_said("(BUS_ADRERR) at address 0x");
#if defined(__x86_64__) // elsewhere a division by zero is no fault
    assert_crashed_by(SIGFPE, divide);
    assert_said("(FPE_INTDIV)");
#endif
    assert_crashed_by(SIGSEGV, send_itself);
    assert_said("(SI_USER), thread ");
}

// ---- on another thread

static int fill_the_stack(int depth);
static int (*volatile deeper)(int depth) = fill_the_stack; // the compiler does not see the recursion

static int fill_the_stack(int depth)
{
    volatile char frame[512];
    frame[0] = (char)depth;
    return deeper(depth + 1) + frame[0];
}

static void *overflow(void *argument)
{
    thread_set_name("web#42>");
    (void)fill_the_stack((int)(intptr_t)argument);
    return NULL;
}

static void overflow_on_a_thread(void)
{
    pthread_t thread;
    if (thread_start(&thread, (size_t)64 * 1024, overflow, NULL, NULL))
        (void)pthread_join(thread, NULL);
}

static void run_overflow(void *argument)
{
    (void)overflow(argument);
}

static void overflow_on_a_pooled_thread(void)
{
    static const struct thread_pool_options options = {.parked_name = "parked", .stack_size = (size_t)64 * 1024};
    struct thread_pool *pool = thread_pool_create(&options, NULL);
    if (pool != NULL && thread_pool_run(pool, run_overflow, NULL, NULL))
        (void)thread_pool_drain(pool, deadline_after(10 * NS_PER_S));
}

static void test_an_overflow_of_a_stack_is_told(void **state)
{
    (void)state;
    assert_crashed_by(SIGSEGV, overflow_on_a_thread);
    assert_said("thread web#42> (");
    assert_crashed_by(SIGSEGV, overflow_on_a_pooled_thread);
    assert_said("thread web#42> (");
    assert_said("#47 0x");
    assert_null(strstr(output, "#48 0x"));
}

// Many more threads than one mapping has stacks for, one after the other and at once.
static void *wait_for_gate(void *argument)
{
    (void)pthread_barrier_wait(argument);
    return NULL;
}

static void overflow_after_many_threads(void)
{
    enum { THREADS = 200 };
    static pthread_t threads[THREADS];
    for (size_t round = 0; round < 5; round++) {
        pthread_barrier_t gate;
        (void)pthread_barrier_init(&gate, NULL, THREADS);
        for (size_t i = 0; i < THREADS; i++)
            if (!thread_start(&threads[i], (size_t)16 * 1024, wait_for_gate, &gate, NULL))
                _exit(1);
        for (size_t i = 0; i < THREADS; i++)
            (void)pthread_join(threads[i], NULL);
    }
    overflow_on_a_thread();
}

static void test_many_threads_leave_a_stack_for_the_next(void **state)
{
    (void)state;
    assert_crashed_by(SIGSEGV, overflow_after_many_threads);
    assert_said("thread web#42> (");
}

static void test_signal_stacks_do_not_overlap(void **state)
{
    (void)state;
    enum { STACKS = 2 * 64 }; // all of two mappings
    uintptr_t stacks[STACKS];
    for (size_t i = 0; i < STACKS; i++) {
        stacks[i] = (uintptr_t)crash_stack_take();
        assert_true(stacks[i] != 0);
        for (size_t n = 0; n < i; n++)
            assert_true(stacks[n] < stacks[i] ? stacks[i] - stacks[n] >= 32768 : stacks[n] - stacks[i] >= 32768);
    }
    crash_stack_give_back((void *)stacks[70]);
    assert_true((uintptr_t)crash_stack_take() == stacks[70]); // the only one that is free
    for (size_t i = 0; i < STACKS; i++)
        crash_stack_give_back((void *)stacks[i]);
    crash_stack_give_back(NULL);
}

static void *crash_too(void *argument)
{
    (void)argument;
    write_nowhere();
    return NULL;
}

static void crash_on_many_threads(void)
{
    pthread_t threads[8];
    for (size_t i = 0; i < ARRAY_LENGTH(threads); i++)
        (void)thread_start(&threads[i], (size_t)64 * 1024, crash_too, NULL, NULL);
    (void)pthread_join(threads[0], NULL);
}

static void test_of_several_crashes_one_is_told(void **state)
{
    (void)state;
    assert_crashed_by(SIGSEGV, crash_on_many_threads);
    assert_null(strstr(strstr(output, "crashed: ") + 1, "crashed: "));
}

// The stack pointer leads nowhere, and so does following it.
static void lose_the_stack(void)
{
#if defined(__x86_64__)
    __asm__ volatile("mov $64, %%rsp\n\tmov $64, %%rbp\n\tpush %%rax" ::: "memory");
#elif defined(__aarch64__)
    __asm__ volatile("mov x9, #64\n\tmov sp, x9\n\tmov x29, x9\n\tstr x9, [sp]" ::: "x9", "memory");
#endif
    abort();
}

static void test_a_stack_that_cannot_be_followed_ends_the_trace(void **state)
{
    (void)state;
    int status = run_crashing(lose_the_stack);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    assert_said("crashed: SIGSEGV (SEGV_MAPERR) at address 0x");
    assert_said("  #0 0x");
}

// ---- the reporter, which is this program again

#define OFFSET 100
#define AWAY ((off_t)1 << 20) // beyond the end of what it inherits
static const char notes[] = "what the reporter has to know";

static void crash_with_a_reporter(void)
{
    int fd = memfd_create("report", MFD_CLOEXEC);
    if (pwrite(fd, notes, sizeof notes, 0) == (ssize_t)sizeof notes)
        crash_set_reporter(fd, OFFSET);
    write_nowhere();
}

static void say(const char *text)
{
    ssize_t written = write(STDERR_FILENO, text, strlen(text));
    (void)written;
}

static int report(int fd)
{
    struct crash crash;
    char text[sizeof notes];
    sigset_t blocked;
    if (pread(fd, text, sizeof text, 0) != (ssize_t)sizeof text || memcmp(text, notes, sizeof text) != 0 ||
        pread(fd, &crash, sizeof crash, OFFSET) != (ssize_t)sizeof crash)
        return 1;
    if (crash.signal == SIGBUS && ftruncate(fd, 2 * AWAY) == 0)
        say("the reporter has mended it\n");
    (void)pthread_sigmask(SIG_BLOCK, NULL, &blocked);
    if (crash.signal == SIGSEGV && crash.code == SEGV_MAPERR && crash.address == 16 && crash.frame_count > 1 &&
        crash.frames[0].base != 0 && crash.process == getppid() && !sigismember(&blocked, SIGTERM))
        say("the reporter has it all\n");
    return 0;
}

static void test_the_reporter_gets_the_whole_crash(void **state)
{
    (void)state;
    assert_crashed_by(SIGSEGV, crash_with_a_reporter);
    assert_said("the reporter has it all\n");
}

// By the time that the handler returns, the instruction would go well.
static void crash_but_once(void)
{
    int fd = memfd_create("report", MFD_CLOEXEC);
    volatile char *away = mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, AWAY);
    if (pwrite(fd, notes, sizeof notes, 0) == (ssize_t)sizeof notes)
        crash_set_reporter(fd, OFFSET);
    *away = 1;
}

static void test_a_fault_that_the_reporter_mended_still_ends_the_process(void **state)
{
    (void)state;
    assert_crashed_by(SIGBUS, crash_but_once);
    assert_said("the reporter has mended it\n");
}

static void crash_with_a_closed_descriptor(void)
{
    crash_set_reporter(1000, 0);
    write_nowhere();
}

static void test_a_closed_descriptor_of_the_reporter_does_no_harm(void **state)
{
    (void)state;
    assert_crashed_by(SIGSEGV, crash_with_a_closed_descriptor);
}

static void crash_without_processes(void)
{
    int fd = memfd_create("report", MFD_CLOEXEC);
    const struct rlimit none = {.rlim_cur = 0};
    (void)setrlimit(RLIMIT_NPROC, &none);
    (void)syscall(SYS_setresuid, 65534, 65534, 65534); // root is not held to the limit
    crash_set_reporter(fd, 0);
    write_nowhere();
}

static void test_a_reporter_that_cannot_be_started_is_told_of(void **state)
{
    (void)state;
    assert_crashed_by(SIGSEGV, crash_without_processes);
    assert_said("no process can be started");
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], CRASH_REPORT_OPTION) == 0)
        return report((int)strtol(argv[2], NULL, 10));
    if (IS_SANITIZED)
        return 77; // nothing is installed
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_fault_tells_its_address),
        cmocka_unit_test(test_every_fatal_signal_is_told_with_its_cause),
        cmocka_unit_test(test_an_overflow_of_a_stack_is_told),
        cmocka_unit_test(test_many_threads_leave_a_stack_for_the_next),
        cmocka_unit_test(test_signal_stacks_do_not_overlap),
        cmocka_unit_test(test_a_stack_that_cannot_be_followed_ends_the_trace),
        cmocka_unit_test(test_of_several_crashes_one_is_told),
        cmocka_unit_test(test_the_reporter_gets_the_whole_crash),
        cmocka_unit_test(test_a_fault_that_the_reporter_mended_still_ends_the_process),
        cmocka_unit_test(test_a_closed_descriptor_of_the_reporter_does_no_harm),
        cmocka_unit_test(test_a_reporter_that_cannot_be_started_is_told_of),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
