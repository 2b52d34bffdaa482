#include "bitflow/base/signals.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"

static const int ends[] = {SIGTERM, SIGINT, SIGQUIT};
static const int orders[] = {SIGHUP, SIGUSR1, SIGUSR2};
// A write to a closed socket or pipe (SIGPIPE), to a file at its size limit (SIGXFSZ), or from the background to a
// terminal (SIGTTOU) is an error where it happens, or none, but no death and no stop. The others mean nothing to us.
static const int ignored[] = {SIGPIPE, SIGXFSZ, SIGTTOU, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGSTKFLT, SIGPWR};

#define TAKEN_COUNT (ARRAY_LENGTH(ends) + ARRAY_LENGTH(orders))

// As they were when the process began.
static sigset_t first_mask;
static struct sigaction first_actions[TAKEN_COUNT];
static bool is_restorable;

// Of the signal that was taken last.
static pid_t sender;

static int taken_signal(size_t i)
{
    return i < ARRAY_LENGTH(ends) ? ends[i] : orders[i - ARRAY_LENGTH(ends)];
}

static void end_signals(sigset_t *set)
{
    sigemptyset(set);
    for (size_t i = 0; i < ARRAY_LENGTH(ends); i++)
        sigaddset(set, ends[i]);
}

static void awaited_signals(sigset_t *set)
{
    sigemptyset(set);
    for (size_t i = 0; i < TAKEN_COUNT; i++)
        sigaddset(set, taken_signal(i));
    sigaddset(set, signals_notice());
}

static void ignore(int number)
{
    struct sigaction action;
    if (sigaction(number, NULL, &action) != 0 || action.sa_handler != SIG_DFL)
        return; // ignored already, or a profiler's
    action = (struct sigaction){.sa_handler = SIG_IGN};
    (void)sigaction(number, &action, NULL);
}

void signals_init(void)
{
    // All of them: one that the parent left pending must not come between the steps.
    sigset_t all, awaited;
    sigfillset(&all);
    (void)sigprocmask(SIG_SETMASK, &all, &first_mask);
    for (size_t i = 0; i < ARRAY_LENGTH(ignored); i++)
        ignore(ignored[i]);
    for (int number = signals_notice() + 1; number <= SIGRTMAX; number++)
        ignore(number);
    // A shell may have started us with some of them ignored (nohup, &); what is ignored is never pending.
    const struct sigaction by_default = {.sa_handler = SIG_DFL};
    for (size_t i = 0; i < TAKEN_COUNT; i++)
        (void)sigaction(taken_signal(i), &by_default, &first_actions[i]);
    (void)sigaction(signals_notice(), &by_default, NULL);
    (void)sigaction(SIGCHLD, &by_default, NULL); // where it is ignored, a child's status is lost
    is_restorable = true;
    awaited_signals(&awaited);
    (void)sigprocmask(SIG_SETMASK, &awaited, NULL);
}

void signals_end_by(int number)
{
    const struct sigaction by_default = {.sa_handler = SIG_DFL};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    (void)sigaction(number, &by_default, NULL);
    (void)raise(number);
    (void)pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    // Process 1 of a container is not ended by a signal from within.
    _exit(128 + number);
}

void signals_restore(void)
{
    if (!is_restorable)
        return;
    is_restorable = false;
    struct sigaction action = {.sa_handler = signals_end_by};
    const struct sigaction forget = {.sa_handler = SIG_IGN};
    sigemptyset(&action.sa_mask);
    // An order that came before we knew is for nobody; its default would kill.
    for (size_t i = 0; i < ARRAY_LENGTH(orders); i++)
        (void)sigaction(orders[i], &forget, NULL);
    for (size_t i = 0; i < TAKEN_COUNT; i++)
        (void)sigaction(taken_signal(i), first_actions[i].sa_handler == SIG_IGN ? &first_actions[i] : &action, NULL);
    (void)sigprocmask(SIG_SETMASK, &first_mask, NULL);
}

int signals_wait(int64_t deadline)
{
    sigset_t end, awaited;
    const struct timespec now = {.tv_sec = 0};
    siginfo_t info = {.si_pid = 0};
    end_signals(&end);
    awaited_signals(&awaited);
    for (;;) {
        int number = sigtimedwait(&end, &info, &now);
        struct timespec left = clock_timespec(deadline_left(deadline));
        if (number <= 0)
            number = sigtimedwait(&awaited, &info, deadline == DEADLINE_NONE ? NULL : &left);
        if (number > 0) {
            sender = info.si_code == SI_USER || info.si_code == SI_QUEUE ? info.si_pid : 0;
            return number;
        }
        if (errno == EAGAIN && deadline_left(deadline) == 0)
            return 0;
    }
}

pid_t signals_sender(void)
{
    return sender;
}

int signals_notice(void)
{
    return SIGRTMIN;
}

void signals_send_notice(void)
{
    (void)kill(getpid(), signals_notice());
}

bool signals_is_end(int number)
{
    for (size_t i = 0; i < ARRAY_LENGTH(ends); i++)
        if (ends[i] == number)
            return true;
    return false;
}

bool signals_told_to_end(void)
{
    sigset_t pending;
    if (sigpending(&pending) != 0)
        return false;
    for (size_t i = 0; i < ARRAY_LENGTH(ends); i++)
        if (sigismember(&pending, ends[i]) == 1)
            return true;
    return false;
}

int signals_end_descriptor(void)
{
    static int descriptor = -1;
    sigset_t end;
    end_signals(&end);
    if (descriptor < 0)
        descriptor = signalfd(-1, &end, SFD_CLOEXEC | SFD_NONBLOCK);
    return descriptor;
}
