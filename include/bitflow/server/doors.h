// The open doors of the process: one acceptor for each proxy of the configuration in force. Changing them is all or
// nothing: doors_change() first prepares everything that can fail, then switches over, which cannot. Doors whose
// address stays are kept open. Used by the server's thread only.

#ifndef BITFLOW_SERVER_DOORS_H
#define BITFLOW_SERVER_DOORS_H

#include <stdbool.h>
#include <stddef.h>

#include "bitflow/base/error.h"
#include "bitflow/config/config.h"
#include "bitflow/proxy/proxy.h"
#include "bitflow/server/acceptor.h"

struct doors {
    struct engine *engine;
    void (*on_end)(void); // see acceptor_create()
    struct acceptor **acceptors;
    size_t count;
};

void doors_init(struct doors *doors, struct engine *engine, void (*on_end)(void));

// Puts `config` in force, with its `credentials` (by the proxy's index), of which each proxy that could be prepared
// takes its own. False: nothing has changed, and the error says which proxy could not be prepared and why.
bool doors_change(struct doors *doors, const struct config *config, struct credentials *credentials,
                  struct error *error);

// Closes doors whose sockets failed, and sets `any_failed` if there is one. Returns how many doors can still let a
// client in.
size_t doors_close_failed(struct doors *doors, bool *any_failed);

// Lets nobody new in, and lets each door serve its queue: see acceptor_stop(), acceptor_hurry().
void doors_stop(struct doors *doors);
bool doors_have_ended(const struct doors *doors);
void doors_hurry(struct doors *doors);

// Closes all of them.
void doors_release(struct doors *doors);

#endif
