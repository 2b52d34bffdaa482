// Where listeners and targets meet: two listeners that cannot both be opened, and targets that lead back to where their
// connections came from. Only what can be known for sure without asking a name server. One thread at a time.

#ifndef BITFLOW_SRC_CONFIG_LISTENER_CHECKS_H
#define BITFLOW_SRC_CONFIG_LISTENER_CHECKS_H

#include "bitflow/config/config.h"
#include "config_path.h"

// `proxies`: the path of the list that `config` has been read from, perhaps with errors.
void check_where_listeners_meet(const struct config_path *proxies, const struct config *config,
                                struct diagnostics *diagnostics);

// Whether two sockets on these addresses would want the same one of this host's.
bool listener_addresses_overlap(const struct address *a, const struct address *b);

// Whether only this host reaches it. False for a name other than localhost.
bool listener_address_is_loopback(const struct address *address);

#endif
