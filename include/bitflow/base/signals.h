// The process's signals. They are blocked from the first moment, in every thread, and taken by the main thread one
// after the other, so none comes at a bad time, and none is lost: what is sent during the start is done after it.
//
// SIGTERM, SIGINT and SIGQUIT tell the process to end, SIGHUP to reload, SIGUSR1 to re-open logs, SIGUSR2 to have a new
// process take over. SIGRTMIN is sent by other threads to say that there is news for the main thread. What else would
// kill and may come astray is ignored, among it all that a platform may send everyone (SIGPWR). Not touched: what stops
// and continues (SIGTSTP, SIGTTIN), a debugger's SIGTRAP, the limit on CPU time (SIGXCPU), faults (base/crash.h).

#ifndef BITFLOW_BASE_SIGNALS_H
#define BITFLOW_BASE_SIGNALS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

// By main(), before anything else. Whatever mask and dispositions the parent left us; only a handler that a preloaded
// library has installed stays.
void signals_init(void);

// For what only prints and ends (--check, --help): signals have the meaning again that they had at the start, and ^C
// interrupts, for process 1 of a container, too. May be called twice.
void signals_restore(void);

// Ends the process by this signal, so that its parent sees which it was. Async-signal-safe.
_Noreturn void signals_end_by(int number);

// Takes the next signal; 0: the deadline (base/clock.h) has passed. Those that tell the process to end come first.
// The main thread only.
int signals_wait(int64_t deadline);

// The process that has sent the signal that signals_wait() returned last; 0: it is not known, or was the kernel. One
// signal that was sent several times before it was taken has the first sender. The main thread only.
pid_t signals_sender(void);

// What signals_send_notice() sends. Any thread.
int signals_notice(void);
void signals_send_notice(void);

// Whether `number` tells the process to end.
bool signals_is_end(int number);

// Whether a signal has come that tells the process to end, and was not taken yet.
bool signals_told_to_end(void);

// poll() says it can be read as long as signals_told_to_end(): for waits that are not for signals. Nobody reads it.
// -1: there are no descriptors left. The main thread only.
int signals_end_descriptor(void);

#endif
