// What of targets says less than it seems to, beside keys that mean nothing without another (cross_checks.h): names
// that no client asks for, and bounds that another one is always before. One thread at a time.

#ifndef BITFLOW_SRC_CONFIG_TARGET_CHECKS_H
#define BITFLOW_SRC_CONFIG_TARGET_CHECKS_H

#include "bitflow/config/config.h"
#include "config_path.h"

// `targets`: the path of the list that `config` has been read from, perhaps with errors.
void check_what_targets_never_reach(const struct config_path *targets, const struct proxy_config *config,
                                    struct diagnostics *diagnostics);

// How many of the first targets connections are made to: without a balancer the others mean nothing.
static inline size_t used_targets(const struct proxy_config *proxy)
{
    return proxy->balancer == BALANCER_NONE && proxy->target_count > 1 ? 1 : proxy->target_count;
}

#endif
