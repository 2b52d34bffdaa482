#include "bitflow/proxy/source_counts.h"

#include <errno.h>
#include <netinet/in.h>
#include <search.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/base/invariant.h"

#define NETWORK_SIZE 8 // bytes of an IPv6 address that tell sources apart

struct source {
    // IPv4: as a mapped address. IPv6: the network; its second half is zeros, which that of a mapped address never is.
    struct in6_addr key;
    uint64_t connections;
};

void source_counts_init(struct source_counts *counts)
{
    *counts = (struct source_counts){.sources = NULL};
    mutex_init(&counts->lock);
}

void source_counts_release(struct source_counts *counts)
{
    mutex_lock(&counts->lock);
    INVARIANT(counts->sources == NULL);
    mutex_unlock(&counts->lock);
    mutex_release(&counts->lock);
}

// False: it has none.
static bool key_of(const struct endpoint *client, struct in6_addr *key)
{
    sa_family_t family = endpoint_family(client);
    if (family == AF_INET) {
        struct sockaddr_in inet;
        memcpy(&inet, &client->address, sizeof inet);
        *key = (struct in6_addr){.s6_addr = {[10] = 0xff, [11] = 0xff}};
        memcpy(key->s6_addr + 12, &inet.sin_addr, sizeof inet.sin_addr);
        return true;
    }
    if (family != AF_INET6)
        return false;
    struct sockaddr_in6 inet;
    memcpy(&inet, &client->address, sizeof inet);
    *key = inet.sin6_addr;
    if (!IN6_IS_ADDR_V4MAPPED(key))
        memset(key->s6_addr + NETWORK_SIZE, 0, sizeof key->s6_addr - NETWORK_SIZE);
    return true;
}

static int compare(const void *a, const void *b)
{
    const struct source *one = a, *other = b;
    return memcmp(&one->key, &other->key, sizeof one->key);
}

// NULL: no memory.
static struct source *find_or_add(struct source_counts *counts, const struct in6_addr *key) REQUIRES(counts->lock)
{
    struct source wanted = {.key = *key};
    struct source **found = tfind(&wanted, &counts->sources, compare);
    if (found != NULL)
        return *found;
    struct source *source = malloc(sizeof *source);
    if (source == NULL)
        return NULL;
    *source = wanted;
    if (tsearch(source, &counts->sources, compare) != NULL)
        return source;
    free(source);
    return NULL;
}

bool source_counts_enter(struct source_counts *counts, const struct endpoint *client, int64_t limit,
                         struct source **source, struct failure *failure)
{
    struct in6_addr key;
    if (limit == 0 || !key_of(client, &key)) {
        *source = NULL;
        return true;
    }
    mutex_lock(&counts->lock);
    struct source *found = find_or_add(counts, &key);
    // One that was just added has none, and the limit is at least one.
    bool is_below = found != NULL && found->connections < (uint64_t)limit;
    if (is_below)
        found->connections++;
    mutex_unlock(&counts->lock);
    if (is_below) {
        *source = found;
        return true;
    }
    if (found != NULL)
        return failed_with(failure, CLOSE_SOURCE_CONNECTION_LIMIT);
    error_set_errno(&failure->error, ENOMEM, "cannot count the client's connections");
    return failed_with(failure, CLOSE_OUT_OF_MEMORY);
}

void source_counts_leave(struct source_counts *counts, struct source **source)
{
    struct source *left = *source;
    *source = NULL;
    if (left == NULL)
        return;
    mutex_lock(&counts->lock);
    INVARIANT(left->connections > 0);
    bool is_last = --left->connections == 0;
    if (is_last)
        (void)tdelete(left, &counts->sources, compare);
    mutex_unlock(&counts->lock);
    if (is_last)
        free(left);
}
