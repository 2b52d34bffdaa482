#include "bitflow/base/crash.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "bitflow/base/compiler.h"
#include "bitflow/base/signals.h"
#include "bitflow/version.h"

// How long a reader of stderr that does not read may hold up the end.
#define STDERR_TIMEOUT_MS 500

// The thread that crashed first, by its id; 0: none.
static _Atomic(pid_t) crashed_thread;
static _Atomic(int) reporter_fd = -1;
static _Atomic(size_t) reporter_offset;
static _Atomic(void (*)(void)) last_act; // NULL: none
// Not on the stack: only the first thread that crashes uses them.
static struct crash crash;
// What it is doing. A fault in one of these steps is what ends it; the next one is gone on with.
static volatile sig_atomic_t step;
enum { STEP_LAST_ACT = 1, STEP_RETIRE, STEP_HEADLINE, STEP_WALK_STACK, STEP_TRACE, STEP_REPORT, STEP_END };
static const ucontext_t *crash_context; // of the first fault

static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};

const char *crash_signal_name(int number)
{
    switch (number) {
    case SIGSEGV:
        return "SIGSEGV";
    case SIGBUS:
        return "SIGBUS";
    case SIGFPE:
        return "SIGFPE";
    case SIGILL:
        return "SIGILL";
    case SIGABRT:
        return "SIGABRT";
    default:
        return NULL;
    }
}

static const char *fault_name(int number, int code)
{
    if (number == SIGSEGV)
        return code == SEGV_MAPERR ? "SEGV_MAPERR" : code == SEGV_ACCERR ? "SEGV_ACCERR" : NULL;
    if (number == SIGBUS)
        return code == BUS_ADRALN ? "BUS_ADRALN" : code == BUS_ADRERR ? "BUS_ADRERR" : NULL;
    if (number == SIGFPE)
        return code == FPE_INTDIV ? "FPE_INTDIV" : code == FPE_INTOVF ? "FPE_INTOVF" : NULL;
    if (number == SIGILL)
        return code == ILL_ILLOPC ? "ILL_ILLOPC" : code == ILL_ILLOPN ? "ILL_ILLOPN" : NULL;
    return NULL;
}

const char *crash_code_name(int number, int code)
{
    switch (code) {
    case SI_USER:
        return "SI_USER";
    case SI_TKILL:
        return "SI_TKILL";
    case SI_QUEUE:
        return "SI_QUEUE";
    case SI_KERNEL:
        return "SI_KERNEL";
    default:
        return fault_name(number, code);
    }
}

// ---- a line of the trace

struct text {
    size_t length;
    char bytes[CRASH_MODULE_SIZE + 256];
};

static void put(struct text *text, const char *string)
{
    size_t length = strlen(string);
    if (length > sizeof text->bytes - text->length)
        length = sizeof text->bytes - text->length;
    memcpy(text->bytes + text->length, string, length);
    text->length += length;
}

static void put_number(struct text *text, uint64_t number, unsigned radix)
{
    char digits[20 + 1];
    size_t at = sizeof digits - 1;
    digits[at] = '\0';
    do
        digits[--at] = "0123456789abcdef"[number % radix];
    while ((number /= radix) != 0);
    put(text, digits + at);
}

static void put_address(struct text *text, uint64_t address)
{
    put(text, "0x");
    put_number(text, address, 16);
}

// A pipe that takes anything takes a line this short whole; one that does not is waited for, but once only.
static void write_out(const struct text *text)
{
    static int timeout_ms = STDERR_TIMEOUT_MS;
    struct pollfd poller = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&poller, 1, timeout_ms) != 1) {
        timeout_ms = 0;
        return;
    }
    ssize_t written = write(STDERR_FILENO, text->bytes, text->length);
    (void)written;
}

static void say(const char *string)
{
    struct text text = {.length = 0};
    put(&text, string);
    write_out(&text);
}

// ---- the trace

static void write_headline(void)
{
    struct text text = {.length = 0};
    const char *code = crash_code_name(crash.signal, crash.code);
    put(&text, "bitflow " BITFLOW_VERSION " crashed: ");
    put(&text, crash_signal_name(crash.signal));
    if (code != NULL) {
        put(&text, " (");
        put(&text, code);
        put(&text, ")");
    }
    if (crash.has_address) {
        put(&text, " at address ");
        put_address(&text, crash.address);
    }
    put(&text, ", thread ");
    put(&text, crash.thread_name);
    put(&text, " (");
    put_number(&text, (uint64_t)crash.thread, 10);
    put(&text, "), process ");
    put_number(&text, (uint64_t)crash.process, 10);
    put(&text, "\n");
    write_out(&text);
}

static void write_frame(uint32_t number)
{
    const struct crash_frame *frame = &crash.frames[number];
    struct text text = {.length = 0};
    put(&text, "  #");
    put_number(&text, number, 10);
    put(&text, " ");
    put_address(&text, frame->address);
    if (frame->base != 0) {
        put(&text, " ");
        put(&text, *frame->module == '\0' ? "bitflow" : frame->module);
        put(&text, "+");
        put_address(&text, frame->address - frame->base);
    }
    put(&text, "\n");
    write_out(&text);
}

static void describe_frame(struct crash_frame *frame, uint64_t address)
{
    struct dl_find_object found;
    *frame = (struct crash_frame){.address = address};
    // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of code is a number here
    if (_dl_find_object((void *)(uintptr_t)address, &found) != 0) // takes no lock, unlike dladdr()
        return;
    frame->base = found.dlfo_link_map->l_addr;
    const char *name = found.dlfo_link_map->l_name;
    if (name != NULL)
        memcpy(frame->module, name, strnlen(name, sizeof frame->module - 1));
}

static uint64_t program_counter(const ucontext_t *context)
{
#if defined(__x86_64__)
    return (uint64_t)context->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
    return context->uc_mcontext.pc;
#else
    (void)context;
    return 0; // the handler's own frames are included
#endif
}

// The frames below the handler's own. Where the unwinder does not get that far (a jump to nowhere), all it found.
static void describe_stack(uint64_t crashed_at)
{
    enum { OWN_FRAMES_MAX = 8 };
    void *addresses[CRASH_FRAMES_MAX + OWN_FRAMES_MAX];
    int count = backtrace(addresses, CRASH_FRAMES_MAX + OWN_FRAMES_MAX);
    int first = 0;
    while (first < count && (uint64_t)(uintptr_t)addresses[first] != crashed_at)
        first++;
    if (first == count)
        first = 0;
    crash.frame_count = 0; // what was known before is among them
    for (int i = first; i < count && crash.frame_count < CRASH_FRAMES_MAX; i++)
        describe_frame(&crash.frames[crash.frame_count++], (uint64_t)(uintptr_t)addresses[i]);
}

static void describe(int number, const siginfo_t *info)
{
    crash.signal = number;
    crash.code = info->si_code;
    crash.has_address = info->si_code > 0 && info->si_code != SI_KERNEL && number != SIGABRT;
    crash.address = crash.has_address ? (uint64_t)(uintptr_t)info->si_addr : 0;
    crash.process = getpid();
    crash.thread = gettid();
    (void)prctl(PR_GET_NAME, crash.thread_name);
}

static void walk_stack(void)
{
    describe_frame(&crash.frames[0], program_counter(crash_context));
    crash.frame_count = 1;
    describe_stack(program_counter(crash_context));
}

// ---- the reporter

// Between fork and exec.
static void become_reporter(int fd)
{
    static const char path[] = "/proc/self/exe";
    struct text number = {.length = 0};
    sigset_t none;
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    thread_scheduling_undo();
    (void)fcntl(fd, F_SETFD, 0);
    (void)fcntl(STDERR_FILENO, F_SETFD, 0); // net/inherited.c hands no socket down; this one is where it tells the rest
    put_number(&number, (uint64_t)fd, 10);
    number.bytes[number.length] = '\0';
    char name[] = "bitflow", option[] = CRASH_REPORT_OPTION;
    char *const arguments[] = {name, option, number.bytes, NULL};
    (void)execve(path, arguments, environ);
    say("bitflow: the crash cannot be reported: /proc/self/exe cannot be run\n");
    _exit(1);
}

static void wait_for_reporter(pid_t child)
{
    int handle = pidfd_open(child, 0);
    struct pollfd poller = {.fd = handle, .events = POLLIN};
    if (handle >= 0 && poll(&poller, 1, (int)(CRASH_REPORT_TIME / NS_PER_MS)) != 1) {
        say("bitflow: the crash could not be reported in time\n");
        (void)kill(child, SIGKILL);
    }
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        continue;
}

static void report(void)
{
    int fd = atomic_load(&reporter_fd);
    size_t offset = atomic_load(&reporter_offset);
    if (fd < 0 || pwrite(fd, &crash, sizeof crash, (off_t)offset) != (ssize_t)sizeof crash)
        return;
    pid_t child = _Fork(); // unlike fork(), it runs no handlers of libraries
    if (child == 0)
        become_reporter(fd);
    else if (child > 0)
        wait_for_reporter(child);
    else
        say("bitflow: the crash cannot be reported: no process can be started\n");
}

// ---- the others

// What a directory of /proc lists, as numbers: threads or descriptors. Without /proc, none.
static void for_each_number(const char *directory, void (*visit)(int number))
{
    char entries[2048];
    ssize_t length;
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (fd >= 0 && (length = getdents64(fd, entries, sizeof entries)) > 0) {
        uint16_t entry_length;
        for (ssize_t at = 0; at < length; at += entry_length) {
            const char *name = entries + at + offsetof(struct dirent64, d_name);
            memcpy(&entry_length, entries + at + offsetof(struct dirent64, d_reclen), sizeof entry_length);
            int number = 0;
            for (const char *digit = name; *digit >= '0' && *digit <= '9'; digit++)
                number = 10 * number + (*digit - '0');
            if (*name != '.' && number != fd)
                visit(number);
        }
    }
    if (fd >= 0)
        (void)close(fd);
}

// It waits in handle() from then on; its stack in a core dump has a signal's frame on top.
static void stop_thread(int id)
{
    // Not what this thread will end by: that one's default action comes back.
    if (id != gettid())
        (void)syscall(SYS_tgkill, getpid(), id, crash.signal == SIGABRT ? SIGBUS : SIGABRT);
}

// Not by shutdown(), which would end an inherited one for whoever else has it.
static void close_if_listening(int fd)
{
    int is_listening = 0;
    socklen_t length = sizeof is_listening;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &length) == 0 && is_listening)
        (void)close(fd);
}

// Nobody is served by a process whose memory may be spoilt. The threads first: one that waits at a listener keeps it
// open.
static void retire(void)
{
    for_each_number("/proc/self/task", stop_thread);
    for_each_number("/proc/self/fd", close_if_listening);
}

// ---- the end

// `fault`: what the kernel said of it. It is queued again, so that it comes when the handler returns, with the
// registers of that moment in the core dump, even if what the instruction stumbled on is gone by now. NULL: it was no
// fault.
static void end_by(int number, siginfo_t *fault)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    (void)sigaction(number, &action, NULL);
    if (fault != NULL && pthread_sigmask(SIG_BLOCK, &set, NULL) == 0 &&
        syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), number, fault) == 0)
        return;
    signals_end_by(number);
}

static void write_frames(void)
{
    for (uint32_t i = 0; i < crash.frame_count; i++)
        write_frame(i);
}

static void do_last_act(void)
{
    void (*act)(void) = atomic_load(&last_act);
    if (act != NULL)
        act();
}

// Goes on behind the step that was reached.
static void finish(void)
{
    static const struct {
        int step;
        void (*take)(void);
    } steps[] = {
        {STEP_LAST_ACT, do_last_act},  {STEP_RETIRE, retire},      {STEP_HEADLINE, write_headline},
        {STEP_WALK_STACK, walk_stack}, {STEP_TRACE, write_frames}, {STEP_REPORT, report},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(steps); i++) {
        if (step >= steps[i].step)
            continue;
        step = steps[i].step;
        steps[i].take();
    }
    step = STEP_END;
}

static void handle(int number, siginfo_t *info, void *context)
{
    pid_t first = 0;
    if (atomic_compare_exchange_strong(&crashed_thread, &first, gettid())) {
        crash_context = context;
        describe(number, info);
        finish();
        end_by(number, info->si_code > 0 && number != SIGABRT ? info : NULL);
    } else if (first != gettid()) {
        for (;;)
            (void)poll(NULL, 0, -1); // another thread was first, and ends the process
    } else {                         // it has crashed once more, in here
        if (step == STEP_WALK_STACK)
            say("  (the stack cannot be unwound)\n");
        if (step == STEP_END) {
            end_by(number, info);
            return;
        }
        finish();
        end_by(crash.signal, NULL);
    }
}

void crash_install(void)
{
    if (IS_SANITIZED)
        return;
    void *frame;
    (void)backtrace(&frame, 1); // loads the unwinder, which cannot be done while crashing
    (void)crash_stack_take();
    // A second fault while the first is being handled is seen, too.
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < ARRAY_LENGTH(signals); i++)
        (void)sigaction(signals[i], &action, NULL);
}

void crash_set_last_act(void (*act)(void))
{
    atomic_store(&last_act, act);
}

void crash_set_reporter(int fd, size_t offset)
{
    atomic_store(&reporter_fd, -1);
    atomic_store(&reporter_offset, offset);
    atomic_store(&reporter_fd, fd);
}
