// The live connections as somebody outside sees them, in JSON, and the end of one of them. No connection's thread is
// asked or held up: what is told is atomic, or was set before the connection entered its phase, and the registry's
// lock, which is held for a few of them at a time, keeps memory and sockets from going. Any thread.

#ifndef BITFLOW_PROXY_CONNECTION_VIEW_H
#define BITFLOW_PROXY_CONNECTION_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/proxy/registry.h"

// Of one page: with names and certificates as long as may be, 3 MB.
#define CONNECTION_PAGE_MAX 1000

struct connection_query {
    uint64_t after;    // ids above this one
    size_t limit;      // 1 to CONNECTION_PAGE_MAX
    const char *proxy; // of this one alone; NULL: of all
};

struct connection_page {
    char *text; // an array of objects in the order of their ids; to be freed
    size_t length;
    size_t count;
    uint64_t next; // where the next page begins: its `after`; 0: this was the last one
};

// Connections that come or go meanwhile may be told or not. False: no memory.
bool connection_view_page(struct registry *registry, const struct connection_query *query,
                          struct connection_page *page);

enum connection_found { CONNECTION_FOUND, CONNECTION_NOT_FOUND, CONNECTION_NO_MEMORY };

// `text`: an object, to be freed.
enum connection_found connection_view_one(struct registry *registry, uint64_t id, char **text, size_t *length);

// False: there is none of that id, or it ends already.
bool connection_view_end(struct registry *registry, uint64_t id);

#endif
