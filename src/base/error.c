#include "bitflow/base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

PRINTF_LIKE(2, 0)
static void set_text(struct error *error, const char *format, va_list arguments)
{
    // A longer text is cut, which is fine for people; vsnprintf always terminates it.
    (void)vsnprintf(error->text, sizeof error->text, format, arguments);
}

void error_set(struct error *error, enum error_code code, const char *format, ...)
{
    if (error == NULL || error->code != ERROR_NONE)
        return;
    error->code = code;
    error->os_errno = 0;
    va_list arguments;
    va_start(arguments, format);
    set_text(error, format, arguments);
    va_end(arguments);
}

PRINTF_LIKE(2, 3)
static void append(struct error *error, const char *format, ...)
{
    size_t length = strlen(error->text);
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(error->text + length, sizeof error->text - length, format, arguments);
    va_end(arguments);
}

void error_set_errno(struct error *error, int os_errno, const char *format, ...)
{
    if (error == NULL || error->code != ERROR_NONE)
        return;
    error->code = error_code_of_errno(os_errno);
    error->os_errno = os_errno;
    va_list arguments;
    va_start(arguments, format);
    set_text(error, format, arguments);
    va_end(arguments);

    char reason[96];
    // The GNU strerror_r returns the text, which need not be in our buffer.
    append(error, ": %s", strerror_r(os_errno, reason, sizeof reason));
}

void error_pass(struct error *error, const struct error *cause)
{
    if (error != NULL && error->code == ERROR_NONE)
        *error = *cause;
}

void error_wrap(struct error *error, const struct error *cause, const char *format, ...)
{
    if (error == NULL || error->code != ERROR_NONE)
        return;
    error->code = cause->code;
    error->os_errno = cause->os_errno;
    va_list arguments;
    va_start(arguments, format);
    set_text(error, format, arguments);
    va_end(arguments);
    append(error, ": %s", cause->text);
}

enum error_code error_code_of_errno(int os_errno)
{
    switch (os_errno) {
    case ENOMEM:
    case ENOBUFS:
        return ERROR_NO_MEMORY;
    case EMFILE:
    case ENFILE:
        return ERROR_NO_DESCRIPTORS;
    case ETIMEDOUT:
        return ERROR_TIMEOUT;
    case ECONNREFUSED:
        return ERROR_REFUSED;
    case ECANCELED:
        return ERROR_CANCELLED;
    case EINVAL:
        return ERROR_INVALID;
    default:
        return ERROR_SYSTEM;
    }
}

const char *error_code_name(enum error_code code)
{
    switch (code) {
    case ERROR_NONE:
        return "none";
    case ERROR_INVALID:
        return "invalid";
    case ERROR_SYSTEM:
        return "system";
    case ERROR_NO_MEMORY:
        return "no_memory";
    case ERROR_NO_DESCRIPTORS:
        return "no_descriptors";
    case ERROR_NO_PORTS:
        return "no_ports";
    case ERROR_NO_THREADS:
        return "no_threads";
    case ERROR_TIMEOUT:
        return "timeout";
    case ERROR_RESOLVE:
        return "resolve";
    case ERROR_REFUSED:
        return "refused";
    case ERROR_CANCELLED:
        return "cancelled";
    case ERROR_DENIED:
        return "denied";
    }
    return "unknown";
}
