// Errors are values. A function that can fail takes a `struct error *` last (NULL: the caller does not care), returns
// false, and leaves its outputs alone; the first error set wins, so cleaning up never hides the cause.
// The text is for people: what was tried, on what, and why it failed. No allocation, no locks; any thread.

#ifndef BITFLOW_BASE_ERROR_H
#define BITFLOW_BASE_ERROR_H

#include "bitflow/base/compiler.h"

enum error_code {
    ERROR_NONE = 0,
    ERROR_INVALID,        // the input is wrong: configuration, address, arguments
    ERROR_SYSTEM,         // a system call failed in a way that has no code of its own; see os_errno
    ERROR_NO_MEMORY,      // ENOMEM, ENOBUFS
    ERROR_NO_DESCRIPTORS, // EMFILE, ENFILE
    ERROR_NO_PORTS,       // no local port is left for a connection to that address
    ERROR_NO_THREADS,     // pthread_create said EAGAIN, or a bound of ours on threads is reached
    ERROR_TIMEOUT,        // a deadline passed
    ERROR_RESOLVE,        // a name has no address
    ERROR_REFUSED,        // ECONNREFUSED, or a Unix socket that isn't there
    ERROR_CANCELLED,      // whoever asked for it has gone
    ERROR_DENIED,         // our credentials were not accepted
};

struct error {
    enum error_code code;
    int os_errno; // 0 if no system call is to blame
    char text[256];
};

#define ERROR_INIT ((struct error){.code = ERROR_NONE})

void error_set(struct error *error, enum error_code code, const char *format, ...) PRINTF_LIKE(3, 4);

// The code follows from `os_errno`, and ": strerror" is appended to the text.
void error_set_errno(struct error *error, int os_errno, const char *format, ...) PRINTF_LIKE(3, 4);

// Passes on an error that is at hand as a whole, by the same rule: the first one set wins, NULL takes none.
void error_pass(struct error *error, const struct error *cause);

// Says with its own words on what occasion `cause` came about: its code and errno, and ": " and its text behind the
// text. By the same rule.
void error_wrap(struct error *error, const struct error *cause, const char *format, ...) PRINTF_LIKE(3, 4);

enum error_code error_code_of_errno(int os_errno);

// A lower-case name for logs: "refused", "timeout", ...
const char *error_code_name(enum error_code code);

#endif
