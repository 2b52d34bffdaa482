#include "limiter.h"

#include <stddef.h>

#include "bitflow/base/hash.h"

// The entry of that fingerprint, else a free one, else the one that has been silent for longest.
static struct sentry_limiter_entry *find(struct sentry_limiter *limiter, uint64_t fingerprint)
{
    struct sentry_limiter_entry *best = &limiter->entries[0];
    for (size_t i = 0; i < SENTRY_LIMITER_SIZE; i++) {
        struct sentry_limiter_entry *entry = &limiter->entries[i];
        if (entry->fingerprint == fingerprint)
            return entry;
        if (best->fingerprint != 0 && (entry->fingerprint == 0 || entry->reported < best->reported))
            best = entry;
    }
    return best;
}

enum sentry_limit sentry_limiter_pass(struct sentry_limiter *limiter, uint64_t fingerprint, int64_t now,
                                      uint64_t *repeated)
{
    struct sentry_limiter_entry *entry = find(limiter, fingerprint);
    bool is_recent = entry->fingerprint != 0 && now - entry->reported < SENTRY_LIMITER_INTERVAL;
    if (is_recent && entry->fingerprint != fingerprint)
        return SENTRY_TOO_MANY;
    if (is_recent) {
        entry->repeated++;
        return SENTRY_REPEATED;
    }
    *repeated = entry->fingerprint == fingerprint ? entry->repeated : 0;
    *entry = (struct sentry_limiter_entry){.fingerprint = fingerprint, .reported = now};
    return SENTRY_REPORT;
}

uint64_t sentry_fingerprint(const char *const *parts, unsigned count)
{
    uint64_t hash = hash_begin();
    for (unsigned i = 0; i < count; i++)
        hash = hash_text(hash, parts[i] == NULL ? "" : parts[i]);
    return hash == 0 ? 1 : hash;
}
