// What happens when the process crashes (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT): a stack trace goes to stderr, a
// reporter is told, if there is one, and the process ends by that same signal, so that its exit status and its core
// dump are as if nobody had caught it.
//
// The handler runs on whichever thread crashed, on an alternate stack, as the thread's own may be what has run out. It
// calls nothing but what is async-signal-safe. Before it writes the trace, the last act is done, the other threads are
// stopped and the listening sockets closed: what may be spoilt serves nobody while stderr or Sentry takes its time. A
// second thread that crashes waits for the first one to end the process. With a sanitizer nothing is installed: it has
// handlers of its own. A lock guards which alternate stacks are free.
//
// The reporter is this program once more, started by fork and exec with CRASH_REPORT_OPTION and the number of a
// descriptor, which it inherits: what it has to know is in there, and not in its arguments or its environment. The
// crashed process waits for it, at most CRASH_REPORT_TIME: where it is process 1 of a container, its end is everyone's.

#ifndef BITFLOW_BASE_CRASH_H
#define BITFLOW_BASE_CRASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/thread.h"

#define CRASH_REPORT_OPTION "--report-crash"
#define CRASH_REPORT_TIME (5 * NS_PER_S)

#define CRASH_FRAMES_MAX 48
#define CRASH_MODULE_SIZE 128

struct crash_frame {
    uint64_t address;               // where it goes on; of the innermost frame, where it crashed
    uint64_t base;                  // of its module in memory; 0: unknown
    char module[CRASH_MODULE_SIZE]; // path; empty: this program
};

// What the reporter is given; only valid where `signal` is not 0.
struct crash {
    int32_t signal;
    int32_t code;     // si_code
    uint64_t address; // si_addr
    bool has_address; // it is a fault, not a signal that somebody sent
    int32_t process;
    int32_t thread;
    char thread_name[THREAD_NAME_SIZE];
    uint32_t frame_count; // innermost first
    struct crash_frame frames[CRASH_FRAMES_MAX];
};

// By the main thread, before others are started; the calling thread gets its alternate stack.
void crash_install(void);

// Where the reporter finds what it needs: `fd` is handed down to it, and the struct crash is written at `offset` before
// it starts. -1: no reporter. Both stay the caller's. One thread at a time.
void crash_set_reporter(int fd, size_t offset);

// What is done before the other threads are stopped, and whatever lock they hold is never given back;
// async-signal-safe.
void crash_set_last_act(void (*act)(void));

// The calling thread's alternate stack. It takes no memory before it is needed, and shares its mapping with others.
// NULL: there is no memory for it; then an overflow of the thread's stack ends the process without a word.
void *crash_stack_take(void);
// Before the thread ends; accepts NULL.
void crash_stack_give_back(void *stack);

// SIGSEGV and the like; NULL: none of those that are caught.
const char *crash_signal_name(int number);
// SEGV_MAPERR and the like; NULL: it has no name here.
const char *crash_code_name(int number, int code);

#endif
