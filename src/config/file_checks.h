// Files that the start is to make, and cannot, as things are. --check makes nothing, and what is not there yet may come
// before the start does: so these are warnings. One thread at a time.

#ifndef BITFLOW_SRC_CONFIG_FILE_CHECKS_H
#define BITFLOW_SRC_CONFIG_FILE_CHECKS_H

#include "bitflow/config/config.h"
#include "config_path.h"

// Of the proxy at that path, perhaps read with errors: the socket that it listens at, and its connection log.
void check_files_to_make(const struct config_path *proxy, const struct proxy_config *config,
                         struct diagnostics *diagnostics);

// Of the Unix socket that is written at that path.
void check_socket_to_make(const struct config_path *at, const struct address *address, struct diagnostics *diagnostics);

#endif
