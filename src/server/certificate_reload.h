// Certificates, keys, authorities and revocation lists that are loaded anew by the configuration in force, when their
// files have changed. All or nothing, as a reload is; what the configuration's file says meanwhile does not count. The
// main thread's.

#ifndef BITFLOW_SRC_SERVER_CERTIFICATE_RELOAD_H
#define BITFLOW_SRC_SERVER_CERTIFICATE_RELOAD_H

#include "reload.h"

// Puts what the files hold now in force, and logs what that is, or why the old ones stay. `outcome` is set, and has no
// diagnostics.
void service_reload_certificates(struct service *service, struct reload_outcome *outcome);

// service_reload(), if the configuration's file says something else than what is in force.
void service_reload_if_changed(struct service *service, struct reload_outcome *outcome);

#endif
