#include "bitflow/base/crash.h"

#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/queue.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "bitflow/base/compiler.h"
#include "bitflow/base/mutex.h"
#include "bitflow/base/signals.h"
#include "bitflow/version.h"

// How long a reader of stderr that does not read may hold up the end.
#define STDERR_TIMEOUT_MS 500

// The thread that crashed first, by its id; 0: none.
static _Atomic(pid_t) crashed_thread;
static _Atomic(int) reporter_fd = -1;
static _Atomic(size_t) reporter_offset;
// Not on the stack: only the first thread that crashes uses them.
static struct crash crash;
static volatile sig_atomic_t is_walking_stack; // which may be what fails

// Alternate stacks, many to a mapping: a process may not have one for each thread. A stack must hold what the kernel
// keeps there (the registers, up to 11 KiB), the unwinder and our own.
#define STACK_SIZE ((size_t)32 * 1024)
#define CHUNK_STACKS ((size_t)64)
struct chunk {
    SLIST_ENTRY(chunk) link;
    char *stacks;
    uint64_t taken; // a bit for each
};
static struct mutex chunks_lock = MUTEX_INIT;
static SLIST_HEAD(, chunk) chunks
    GUARDED_BY(chunks_lock) = SLIST_HEAD_INITIALIZER(chunks); // kept until the process ends

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

static void describe(int number, const siginfo_t *info, const ucontext_t *context)
{
    crash.signal = number;
    crash.code = info->si_code;
    crash.has_address = info->si_code > 0 && info->si_code != SI_KERNEL && number != SIGABRT;
    crash.address = crash.has_address ? (uint64_t)(uintptr_t)info->si_addr : 0;
    crash.process = getpid();
    crash.thread = gettid();
    (void)prctl(PR_GET_NAME, crash.thread_name);
    write_headline();
    describe_frame(&crash.frames[0], program_counter(context));
    crash.frame_count = 1;
    is_walking_stack = 1;
    describe_stack(program_counter(context));
    is_walking_stack = 0;
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

static void tell(void)
{
    for (uint32_t i = 0; i < crash.frame_count; i++)
        write_frame(i);
    report();
}

// The thread has crashed once more, in here.
static void handle_again(int number, siginfo_t *info)
{
    if (!is_walking_stack) {
        end_by(number, info);
        return;
    }
    is_walking_stack = 0;
    say("  (the stack cannot be unwound)\n");
    tell();
    end_by(crash.signal, NULL);
}

static void handle(int number, siginfo_t *info, void *context)
{
    pid_t first = 0;
    if (atomic_compare_exchange_strong(&crashed_thread, &first, gettid())) {
        describe(number, info, context);
        tell();
        end_by(number, info->si_code > 0 && number != SIGABRT ? info : NULL);
    } else if (first == gettid()) {
        handle_again(number, info);
    } else {
        for (;;)
            (void)poll(NULL, 0, -1); // another thread was first, and ends the process
    }
}

// ---- alternate stacks

static struct chunk *add_chunk(void) REQUIRES(chunks_lock)
{
    struct chunk *chunk = calloc(1, sizeof *chunk);
    if (chunk == NULL)
        return NULL;
    void *memory = mmap(NULL, CHUNK_STACKS * STACK_SIZE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        free(chunk);
        return NULL;
    }
    chunk->stacks = memory;
    SLIST_INSERT_HEAD(&chunks, chunk, link);
    return chunk;
}

void *crash_stack_take(void)
{
    if (IS_SANITIZED)
        return NULL;
    char *stack = NULL;
    mutex_lock(&chunks_lock);
    struct chunk *chunk = SLIST_FIRST(&chunks);
    while (chunk != NULL && chunk->taken == UINT64_MAX)
        chunk = SLIST_NEXT(chunk, link);
    if (chunk == NULL)
        chunk = add_chunk();
    if (chunk != NULL) {
        int number = __builtin_ctzll(~chunk->taken);
        chunk->taken |= UINT64_C(1) << number;
        stack = chunk->stacks + (size_t)number * STACK_SIZE;
    }
    mutex_unlock(&chunks_lock);
    const stack_t alternate = {.ss_sp = stack, .ss_size = STACK_SIZE};
    if (stack != NULL)
        (void)sigaltstack(&alternate, NULL);
    return stack;
}

void crash_stack_give_back(void *stack)
{
    if (stack == NULL)
        return;
    const stack_t none = {.ss_flags = SS_DISABLE};
    (void)sigaltstack(&none, NULL);
    mutex_lock(&chunks_lock);
    struct chunk *chunk;
    SLIST_FOREACH(chunk, &chunks, link) {
        uintptr_t offset = (uintptr_t)stack - (uintptr_t)chunk->stacks;
        if (offset < CHUNK_STACKS * STACK_SIZE)
            chunk->taken &= ~(UINT64_C(1) << (offset / STACK_SIZE));
    }
    mutex_unlock(&chunks_lock);
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

void crash_set_reporter(int fd, size_t offset)
{
    atomic_store(&reporter_fd, -1);
    atomic_store(&reporter_offset, offset);
    atomic_store(&reporter_fd, fd);
}
