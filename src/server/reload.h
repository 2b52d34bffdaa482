// The configuration in force, and how another one takes its place: at the start, and by each reload. The main thread's.

#ifndef BITFLOW_SRC_SERVER_RELOAD_H
#define BITFLOW_SRC_SERVER_RELOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/config/config.h"
#include "bitflow/proxy/proxy.h"
#include "bitflow/server/loaded_config.h"
#include "control.h"
#include "listeners.h"
#include "metrics_report.h"
#include "orders.h"
#include "reload_outcome.h"
#include "service_manager.h"
#include "upgrade.h"
#include "watched_files.h"

// What the process runs by a configuration.
struct service {
    const char *path; // of the configuration
    const struct config *config;
    struct runtime runtime;
    struct listeners listeners;
    struct metrics_report metrics;
    struct orders orders; // from other threads
    struct watched_files watched_files;
    uint64_t sentry_authority; // as struct loaded_config has it
    struct upgrade upgrade;
    struct control control;
    struct service_manager manager;
    bool has_failed; // the sockets of some listener failed
};

// The application log, as a configuration wants it.
void service_set_up_log(const struct config *config);

// Tells of warnings, and of errors as what the configuration is refused for.
void service_log_diagnostics(const struct diagnostics *diagnostics);

// Puts it in force; what it takes, it takes out of `loaded`. False: nothing has changed.
bool service_change(struct service *service, struct loaded_config *loaded, struct error *error);

// Puts what the file says now in force, and logs how that went; on any error the old configuration stays. `outcome`
// (may be NULL) is set.
void service_reload(struct service *service, struct reload_outcome *outcome);

#endif
