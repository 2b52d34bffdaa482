#include "policy.h"

#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/base/hash.h"

// ---- the same error, again and again

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

// ---- what the server answers

// "60" or "2.5", nothing else than that up to `end`; -1: no number.
static int64_t parse_seconds(const char *text, size_t length)
{
    char number[24];
    char *end;
    if (length == 0 || length >= sizeof number || !isdigit((unsigned char)*text))
        return -1;
    memcpy(number, text, length);
    number[length] = '\0';
    errno = 0;
    double seconds = strtod(number, &end);
    if (*end != '\0' || errno != 0)
        return -1;
    if (seconds * NS_PER_S >= (double)SENTRY_LIMIT_MAX)
        return SENTRY_LIMIT_MAX;
    return (int64_t)(seconds * NS_PER_S);
}

int64_t sentry_retry_after(const char *value, int64_t wall)
{
    int64_t time = parse_seconds(value, strlen(value));
    if (time >= 0)
        return time;
    time_t date = curl_getdate(value, NULL);
    if (date < 0)
        return -1;
    time = (int64_t)date > wall / NS_PER_S ? ((int64_t)date - wall / NS_PER_S) : 0;
    return time >= SENTRY_LIMIT_MAX / NS_PER_S ? SENTRY_LIMIT_MAX : time * NS_PER_S;
}

// Whether the categories, separated by semicolons, are all of them or have errors among them.
static bool is_about_errors(const char *categories, size_t length)
{
    static const char wanted[] = "error";
    if (length == 0)
        return true;
    for (size_t at = 0; at < length;) {
        const char *semicolon = memchr(categories + at, ';', length - at);
        size_t end = semicolon == NULL ? length : (size_t)(semicolon - categories);
        if (end - at == sizeof wanted - 1 && memcmp(categories + at, wanted, end - at) == 0)
            return true;
        at = end + 1;
    }
    return false;
}

int64_t sentry_rate_limit(const char *value)
{
    int64_t longest = 0;
    // SECONDS:CATEGORIES[:SCOPE[:REASON[...]]], ...
    while (*value != '\0') {
        value += strspn(value, ", \t");
        size_t length = strcspn(value, ",");
        size_t number = strcspn(value, ":,");
        const char *categories = value[number] == ':' ? value + number + 1 : value + number;
        int64_t time = parse_seconds(value, number);
        if (number > 0 && time < 0)
            time = SENTRY_LIMIT_DEFAULT; // the server means something
        if (time > longest && is_about_errors(categories, strcspn(categories, ":, \t")))
            longest = time;
        value += length;
    }
    return longest;
}

static void bar(struct sentry_policy *policy, int64_t now, int64_t time)
{
    if (now + time > policy->limited_until)
        policy->limited_until = now + time;
}

enum sentry_verdict sentry_policy_judge(struct sentry_policy *policy, const struct sentry_answer *answer, int64_t now,
                                        int64_t wall)
{
    int64_t wait = *answer->retry_after == '\0' ? -1 : sentry_retry_after(answer->retry_after, wall);
    if (*answer->rate_limits != '\0') // with any answer; Retry-After is for those who don't know it
        bar(policy, now, sentry_rate_limit(answer->rate_limits));
    else if (answer->status == 429)
        bar(policy, now, wait >= 0 ? wait : SENTRY_LIMIT_DEFAULT);
    else if (answer->status >= 500 && wait > 0)
        bar(policy, now, wait);
    if (answer->status == 0 || answer->status >= 500) {
        policy->backoff = policy->backoff == 0 ? SENTRY_BACKOFF_MIN : policy->backoff * 2;
        if (policy->backoff > SENTRY_BACKOFF_MAX)
            policy->backoff = SENTRY_BACKOFF_MAX;
        policy->retry_at = now + policy->backoff;
        return SENTRY_TRY_AGAIN;
    }
    policy->backoff = 0;
    policy->retry_at = 0;
    if (answer->status >= 200 && answer->status < 300)
        return SENTRY_TAKEN;
    return answer->status == 429 ? SENTRY_LIMITED : SENTRY_REFUSED;
}
