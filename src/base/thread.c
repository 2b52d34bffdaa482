#include "bitflow/base/thread.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bitflow/base/compiler.h"
#include "bitflow/base/crash.h"
#include "bitflow/base/log.h"
#include "bitflow/base/mutex.h"
#include "bitflow/base/text.h"
#include "thread_internal.h"

// The threads that are running, for a debugger: the kernel's name of a thread is not in a core file, and what it runs
// is not always in its registers. Nothing in the process reads the list. A thread enters it once, when it starts; what
// changes with its tasks are plain stores of its own.

static struct mutex list_lock = MUTEX_INIT;
// src/gdb knows it by name.
static TAILQ_HEAD(, listed_thread) all_threads GUARDED_BY(list_lock) = TAILQ_HEAD_INITIALIZER(all_threads);
_Thread_local struct listed_thread *thread_own;

void thread_list_enter(struct listed_thread *self)
{
    self->id = gettid();
    mutex_lock(&list_lock);
    TAILQ_INSERT_TAIL(&all_threads, self, link);
    mutex_unlock(&list_lock);
    thread_own = self;
}

void thread_list_leave(struct listed_thread *self)
{
    thread_own = NULL;
    mutex_lock(&list_lock);
    TAILQ_REMOVE(&all_threads, self, link);
    mutex_unlock(&list_lock);
}

// How the kernel schedules the calling thread. What an operator chose is left alone, for the process (chrt, systemd's
// CPUSchedulingPolicy=) or for one thread: only SCHED_OTHER becomes SCHED_BATCH, and only what we made SCHED_BATCH
// becomes SCHED_OTHER again.
//
// A thread begins with its creator's policy, and the kernel's SCHED_RESET_ON_FORK ends real-time policies only. So each
// thread is told by its creator where its policy comes from, and settles on its own.

// It is SCHED_BATCH by our doing, and a thread or process that it starts will be, too.
static _Thread_local bool scheduling_is_ours;
static _Thread_local enum thread_scheduling scheduling_asked_for; // also where it was refused

void thread_scheduling_inherit(bool creator_is_ours)
{
    scheduling_is_ours = creator_is_ours;
    scheduling_asked_for = creator_is_ours ? THREAD_SCHEDULING_BATCH : THREAD_SCHEDULING_NORMAL;
}

// Returns 0, or what the system refused it with.
static int scheduling_change(int from, int to)
{
    int policy = sched_getscheduler(0);
    if (policy < 0)
        return errno;
    // To take that flag away would need a privilege.
    int kept = policy & SCHED_RESET_ON_FORK;
    if ((policy & ~SCHED_RESET_ON_FORK) != from)
        return 0;
    const struct sched_param no_priority = {.sched_priority = 0};
    if (sched_setscheduler(0, to | kept, &no_priority) != 0)
        return errno;
    scheduling_is_ours = to == SCHED_BATCH;
    return 0;
}

bool thread_scheduling_is_ours(void)
{
    return scheduling_is_ours;
}

void thread_scheduling_undo(void)
{
    if (scheduling_is_ours)
        (void)scheduling_change(SCHED_BATCH, SCHED_OTHER);
}

void thread_scheduling_settle(enum thread_scheduling wanted)
{
    static _Atomic bool is_said;
    if (wanted == scheduling_asked_for)
        return;
    scheduling_asked_for = wanted;
    if (wanted == THREAD_SCHEDULING_NORMAL) {
        thread_scheduling_undo();
        return;
    }
    int os_errno = scheduling_change(SCHED_OTHER, SCHED_BATCH);
    if (os_errno != 0 && !atomic_exchange_explicit(&is_said, true, memory_order_relaxed))
        log_debug(NULL, "threads keep the scheduling policy of the process", "error", strerrordesc_np(os_errno), NULL);
}

// What a new thread needs before it can live from its own stack.
struct first_run {
    void *(*run)(void *);
    void *argument;
    bool scheduling_is_ours; // the creator's
};

void thread_set_name(const char *name)
{
    char cut[THREAD_NAME_SIZE] = "";
    size_t length = strnlen(name, sizeof cut - 1);
    memcpy(cut, name, length);
    if (thread_own != NULL)
        memcpy(thread_own->name, cut, sizeof cut);
    (void)pthread_setname_np(pthread_self(), cut); // fails for longer names only
}

void thread_name(char out[THREAD_NAME_SIZE], const char *head, const char *tail)
{
    size_t tail_length = strnlen(tail, THREAD_NAME_SIZE - 1);
    size_t kept = strlen(head);
    if (kept > THREAD_NAME_SIZE - 1 - tail_length)
        kept = THREAD_NAME_SIZE - 1 - tail_length;
    kept = text_cut(head, kept);
    memcpy(out, head, kept);
    memcpy(out + kept, tail, tail_length);
    out[kept + tail_length] = '\0';
}

static size_t real_stack_size(size_t wanted)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    // The C library keeps its own and the program's thread-local storage on the stack.
    size_t minimum = (size_t)sysconf(_SC_THREAD_STACK_MIN);
    size_t size = wanted + minimum;
    if (IS_SANITIZED)
        size = size * 4 + (size_t)256 * 1024; // red zones make frames several times as large
    return (size + page - 1) / page * page;
}

// The new thread inherits the creator's mask, so the mask is changed around the creation.
static int create_with_signals_blocked(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                                       void *argument)
{
    sigset_t all, before;
    sigfillset(&all);
    // A fault must reach its handler whichever thread it happens on.
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    sigdelset(&all, SIGABRT);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int result = pthread_create(thread, attributes, run, argument);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return result;
}

bool thread_create(pthread_t *thread, size_t stack_size, int detach_state, void *(*run)(void *), void *argument,
                   struct error *error)
{
    pthread_attr_t attributes;
    int result = pthread_attr_init(&attributes);
    if (result != 0) {
        error_set_errno(error, result, "cannot prepare a thread");
        return false;
    }
    (void)pthread_attr_setdetachstate(&attributes, detach_state);
    result = pthread_attr_setstacksize(&attributes, real_stack_size(stack_size));
    if (result == 0)
        result = create_with_signals_blocked(thread, &attributes, run, argument);
    (void)pthread_attr_destroy(&attributes);
    if (result == EAGAIN)
        error_set(error, ERROR_NO_THREADS, "cannot start a thread: the system has no more (%s)",
                  strerrordesc_np(result));
    else if (result != 0)
        error_set_errno(error, result, "cannot start a thread");
    return result == 0;
}

static void *run_first(void *argument)
{
    struct first_run first = *(struct first_run *)argument;
    free(argument);
    thread_scheduling_inherit(first.scheduling_is_ours);
    thread_scheduling_settle(THREAD_SCHEDULING_NORMAL);
    void *alternate_stack = crash_stack_take();
    struct listed_thread listed = {.task = (uintptr_t)first.run, .argument = first.argument};
    thread_list_enter(&listed);
    void *result = first.run(first.argument);
    thread_list_leave(&listed);
    crash_stack_give_back(alternate_stack);
    return result;
}

bool thread_start(pthread_t *thread, size_t stack_size, void *(*run)(void *), void *argument, struct error *error)
{
    struct first_run *first = malloc(sizeof *first);
    if (first == NULL) {
        error_set_errno(error, ENOMEM, "cannot start a thread");
        return false;
    }
    *first = (struct first_run){.run = run, .argument = argument, .scheduling_is_ours = scheduling_is_ours};
    if (thread_create(thread, stack_size, PTHREAD_CREATE_JOINABLE, run_first, first, error))
        return true;
    free(first);
    return false;
}
