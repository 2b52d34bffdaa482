// Lists of who is let in, where they could not keep anybody out, or would let nobody in: names of certificates that
// nobody looks at, users of sockets that have none. Errors, not warnings: whoever relies on such a list must not run
// without it. One thread at a time.

#ifndef BITFLOW_SRC_CONFIG_IDENTITY_CHECKS_H
#define BITFLOW_SRC_CONFIG_IDENTITY_CHECKS_H

#include "bitflow/config/config.h"
#include "config_path.h"

// `tls`: the path of a listener's or a target's tls_context, from which `config` (NULL: there is none) has been read.
void check_authorized_names(const struct config_path *tls, const struct tls_config *config, bool is_listener,
                            struct diagnostics *diagnostics);

void check_authorized_peers(const struct config_path *listener, const struct listener_config *config,
                            struct diagnostics *diagnostics);

#endif
