#include "bitflow/relay/close_reason.h"

#include <stddef.h>

#include "bitflow/base/compiler.h"

struct row {
    const char *name;
    const char *text;
    enum ended_by by;
    enum log_level level;
};

#define ROW(constant, row_name, row_by, row_level, row_text) \
    [constant] = {.name = row_name, .text = row_text, .by = row_by, .level = row_level},

static const struct row rows[CLOSE_REASON_COUNT] = {
    [CLOSE_NONE] = {.name = "none", .text = "still open", .level = LOG_INFO}, CLOSE_REASONS(ROW)};

bool close_reason_settle(_Atomic(enum close_reason) *settled, enum close_reason reason)
{
    enum close_reason none = CLOSE_NONE;
    return atomic_compare_exchange_strong(settled, &none, reason);
}

enum close_reason close_reason_of_shortage(enum error_code code)
{
    switch (code) {
    case ERROR_NO_DESCRIPTORS:
        return CLOSE_OUT_OF_DESCRIPTORS;
    case ERROR_NO_PORTS:
        return CLOSE_OUT_OF_PORTS;
    case ERROR_NO_THREADS:
        return CLOSE_OUT_OF_THREADS;
    case ERROR_NO_MEMORY:
        return CLOSE_OUT_OF_MEMORY;
    default:
        return CLOSE_NONE;
    }
}

const char *close_reason_name(enum close_reason reason)
{
    return rows[reason].name;
}

const char *close_reason_text(enum close_reason reason)
{
    return rows[reason].text;
}

enum ended_by close_reason_ended_by(enum close_reason reason)
{
    return rows[reason].by;
}

enum log_level close_reason_level(enum close_reason reason)
{
    return rows[reason].level;
}

const char *ended_by_name(enum ended_by by)
{
    static const char *const names[] = {"client", "target", "proxy"};
    return names[by];
}
