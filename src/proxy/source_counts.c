#include "bitflow/proxy/source_counts.h"

#include <errno.h>
#include <netinet/in.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/invariant.h"

#define MAPPED_BITS 96 // before the IPv4 address of a mapped one
// Whoever comes makes at most so many be forgotten that are not needed any more: more than it adds.
#define FORGOTTEN_AT_ONCE 2

struct key {
    // IPv4: as a mapped address, which no IPv6 one is then. Zeros behind the prefix.
    struct in6_addr address;
    // Its length: who was counted by another one, before a reload, is another source.
    uint32_t bits;
};

struct source {
    struct key key;
    uint64_t connections;
    // When it has all of its burst again, if it makes no more connections until then (the generic cell rate algorithm's
    // theoretical arrival time); CLOCK_MONOTONIC, ns.
    int64_t refilled;
    // The limits that this is reckoned with.
    int32_t rate;
    int32_t burst;
    bool is_resting; // in the list: it has no connection
    TAILQ_ENTRY(source) resting;
};

struct source_limits source_limits_of(const struct proxy_config *settings)
{
    int64_t burst = settings->source_connection_burst;
    return (struct source_limits){.connections = settings->source_connection_limit,
                                  .rate = settings->source_connection_rate,
                                  .burst = burst > 0 ? burst : settings->source_connection_rate,
                                  .ipv4_prefix = (unsigned)settings->source_ipv4_prefix,
                                  .ipv6_prefix = (unsigned)settings->source_ipv6_prefix};
}

void source_counts_init(struct source_counts *counts)
{
    *counts = (struct source_counts){.sources = NULL};
    mutex_init(&counts->lock);
    mutex_lock(&counts->lock);
    TAILQ_INIT(&counts->resting);
    mutex_unlock(&counts->lock);
}

static int compare(const void *a, const void *b)
{
    const struct source *one = a, *other = b;
    return memcmp(&one->key, &other->key, sizeof one->key);
}

static void wake(struct source_counts *counts, struct source *source) REQUIRES(counts->lock)
{
    if (!source->is_resting)
        return;
    TAILQ_REMOVE(&counts->resting, source, resting);
    source->is_resting = false;
    counts->resting_count--;
}

static void forget(struct source_counts *counts, struct source *source) REQUIRES(counts->lock)
{
    wake(counts, source);
    (void)tdelete(source, &counts->sources, compare);
    free(source);
}

// At the end of the list: it was seen now.
static void rest(struct source_counts *counts, struct source *source) REQUIRES(counts->lock)
{
    TAILQ_INSERT_TAIL(&counts->resting, source, resting);
    source->is_resting = true;
    if (++counts->resting_count > SOURCES_RESTING_MAX)
        forget(counts, TAILQ_FIRST(&counts->resting));
}

static void forget_refilled(struct source_counts *counts, int64_t now) REQUIRES(counts->lock)
{
    for (unsigned i = 0; i < FORGOTTEN_AT_ONCE; i++) {
        struct source *first = TAILQ_FIRST(&counts->resting);
        if (first == NULL || first->refilled > now)
            return;
        forget(counts, first);
    }
}

void source_counts_release(struct source_counts *counts)
{
    mutex_lock(&counts->lock);
    while (!TAILQ_EMPTY(&counts->resting))
        forget(counts, TAILQ_FIRST(&counts->resting));
    INVARIANT(counts->sources == NULL);
    mutex_unlock(&counts->lock);
    mutex_release(&counts->lock);
}

static void clear_behind(struct key *key)
{
    uint8_t *bytes = key->address.s6_addr;
    size_t whole = key->bits / 8;
    if (key->bits % 8 != 0) {
        bytes[whole] &= (uint8_t)(0xff00 >> key->bits % 8);
        whole++;
    }
    memset(bytes + whole, 0, sizeof key->address - whole);
}

// False: it has none.
static bool key_of(const struct endpoint *client, const struct source_limits *limits, struct key *key)
{
    sa_family_t family = endpoint_family(client);
    if (family == AF_INET) {
        struct sockaddr_in inet;
        memcpy(&inet, &client->address, sizeof inet);
        *key = (struct key){.address.s6_addr = {[10] = 0xff, [11] = 0xff}};
        memcpy(key->address.s6_addr + MAPPED_BITS / 8, &inet.sin_addr, sizeof inet.sin_addr);
    } else if (family == AF_INET6) {
        struct sockaddr_in6 inet;
        memcpy(&inet, &client->address, sizeof inet);
        *key = (struct key){.address = inet.sin6_addr};
    } else {
        return false;
    }
    bool is_ipv4 = IN6_IS_ADDR_V4MAPPED(&key->address);
    key->bits = is_ipv4 ? MAPPED_BITS + limits->ipv4_prefix : limits->ipv6_prefix;
    clear_behind(key);
    return true;
}

// NULL: no memory.
static struct source *find_or_add(struct source_counts *counts, const struct key *key) REQUIRES(counts->lock)
{
    struct source wanted = {.key = *key, .refilled = INT64_MIN};
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

// After a reload: it has as many tokens as before, as far as the new burst goes.
static void adopt_limits(struct source *source, const struct source_limits *limits, int64_t now)
{
    if (source->rate == limits->rate && source->burst == limits->burst)
        return;
    if (source->rate > 0 && source->refilled > now) {
        int64_t interval = NS_PER_S / source->rate;
        int64_t left = source->burst - (source->refilled - now + interval - 1) / interval;
        int64_t missing = limits->burst - (left > 0 ? left : 0);
        source->refilled = now + (missing > 0 ? missing : 0) * (NS_PER_S / limits->rate);
    }
    source->rate = (int32_t)limits->rate;
    source->burst = (int32_t)limits->burst;
}

// A token bucket: `burst` tokens, which come back at `rate` a second. False: there is none.
static bool take_token(struct source *source, const struct source_limits *limits, int64_t now)
{
    adopt_limits(source, limits, now);
    int64_t interval = NS_PER_S / limits->rate;
    int64_t refilled = source->refilled > now ? source->refilled : now;
    if (refilled - now > (limits->burst - 1) * interval)
        return false;
    source->refilled = refilled + interval;
    return true;
}

static enum close_reason count(struct source_counts *counts, const struct key *key, const struct source_limits *limits,
                               struct source **source) REQUIRES(counts->lock)
{
    bool is_timed = limits->rate > 0 || counts->resting_count > 0; // or was, before a reload
    int64_t now = is_timed ? clock_now() : 0;
    if (is_timed)
        forget_refilled(counts, now);
    struct source *found = find_or_add(counts, key);
    if (found == NULL)
        return CLOSE_OUT_OF_MEMORY;
    if (limits->connections > 0 && found->connections >= (uint64_t)limits->connections)
        return CLOSE_SOURCE_CONNECTION_LIMIT;
    wake(counts, found);
    // One that was just added has all of its burst.
    if (limits->rate > 0 && !take_token(found, limits, now)) {
        if (found->connections == 0)
            rest(counts, found);
        return CLOSE_SOURCE_CONNECTION_RATE;
    }
    found->connections++;
    *source = found;
    return CLOSE_NONE;
}

bool source_counts_enter(struct source_counts *counts, const struct endpoint *client,
                         const struct source_limits *limits, struct source **source, struct failure *failure)
{
    struct key key;
    if ((limits->connections == 0 && limits->rate == 0) || !key_of(client, limits, &key)) {
        *source = NULL;
        return true;
    }
    mutex_lock(&counts->lock);
    enum close_reason reason = count(counts, &key, limits, source);
    mutex_unlock(&counts->lock);
    if (reason == CLOSE_NONE)
        return true;
    if (reason == CLOSE_OUT_OF_MEMORY)
        error_set_errno(&failure->error, ENOMEM, "cannot count the client's connections");
    return failed_with(failure, reason);
}

static void leave(struct source_counts *counts, struct source **source, int64_t tokens_time)
{
    struct source *left = *source;
    *source = NULL;
    if (left == NULL)
        return;
    mutex_lock(&counts->lock);
    INVARIANT(left->connections > 0);
    if (left->refilled != INT64_MIN)
        left->refilled -= tokens_time;
    if (--left->connections == 0) {
        bool has_all = left->refilled == INT64_MIN || left->refilled <= clock_now(); // without a rate it always has
        if (has_all)
            forget(counts, left);
        else
            rest(counts, left);
    }
    mutex_unlock(&counts->lock);
}

void source_counts_leave(struct source_counts *counts, struct source **source)
{
    leave(counts, source, 0);
}

void source_counts_cancel(struct source_counts *counts, struct source **source, const struct source_limits *limits)
{
    leave(counts, source, limits->rate > 0 ? NS_PER_S / limits->rate : 0);
}
