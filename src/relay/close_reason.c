#include "bitflow/relay/close_reason.h"

#include <stddef.h>

#include "bitflow/base/compiler.h"

struct row {
    const char *name;
    const char *text;
    enum ended_by by;
    bool is_error;
};

#define ROW(constant, row_name, row_by, row_is_error, row_text) \
    [constant] = {.name = row_name, .text = row_text, .by = row_by, .is_error = row_is_error},

static const struct row rows[CLOSE_REASON_COUNT] = {[CLOSE_NONE] = {.name = "none", .text = "still open"},
                                                    CLOSE_REASONS(ROW)};

bool close_reason_settle(_Atomic(enum close_reason) *settled, enum close_reason reason)
{
    enum close_reason none = CLOSE_NONE;
    return atomic_compare_exchange_strong(settled, &none, reason);
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

bool close_reason_is_error(enum close_reason reason)
{
    return rows[reason].is_error;
}

const char *ended_by_name(enum ended_by by)
{
    static const char *const names[] = {"client", "target", "proxy"};
    return names[by];
}
