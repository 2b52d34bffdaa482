// How a reload went, for whoever has asked for it.

#ifndef BITFLOW_SRC_SERVER_RELOAD_OUTCOME_H
#define BITFLOW_SRC_SERVER_RELOAD_OUTCOME_H

#include <stdbool.h>

#include "bitflow/base/error.h"
#include "bitflow/config/diagnostics.h"

enum reload_status {
    RELOAD_NOT_DONE, // the process ended before
    RELOAD_DONE,
    RELOAD_REFUSED,   // the old configuration stays in force
    RELOAD_POSTPONED, // so it does: an upgrade is under way, whose process reads what is new
    RELOAD_GIVEN_UP,  // so it does, since the process is told to end
};

// What there is to say of a reload. To be released.
struct reload_outcome {
    enum reload_status status;
    bool has_diagnostics;
    struct diagnostics diagnostics; // errors and warnings of the file, with their positions
    struct error error;             // why it was refused; none: the diagnostics say it
};

void reload_outcome_release(struct reload_outcome *outcome);

#endif
