#include "health.h"

#include "bitflow/base/clock.h"

#define FAILS_BITS 16
#define FAILS_MASK ((UINT64_C(1) << FAILS_BITS) - 1)

_Static_assert(HEALTH_MAX_FAILS <= FAILS_MASK, "the failures that matter can be counted");

static uint64_t fails_of(uint64_t state)
{
    return state & FAILS_MASK;
}

static uint64_t pack(uint64_t fails, int64_t now)
{
    return (uint64_t)(now / NS_PER_MS) << FAILS_BITS | fails;
}

static bool is_over(uint64_t state, const struct health_rule *rule, int64_t now)
{
    int64_t since = (int64_t)(state >> FAILS_BITS) * NS_PER_MS;
    return now - since >= rule->fail_timeout;
}

static bool is_out(uint64_t state, const struct health_rule *rule)
{
    return rule->max_fails > 0 && fails_of(state) >= (uint64_t)rule->max_fails;
}

enum health_verdict health_judge(const struct health *health, const struct health_rule *rule, int64_t now)
{
    uint64_t state = atomic_load_explicit(&health->state, memory_order_relaxed);
    if (!is_out(state, rule))
        return HEALTH_GOOD;
    return is_over(state, rule, now) ? HEALTH_DUE : HEALTH_OUT;
}

bool health_claim(struct health *health, const struct health_rule *rule, int64_t now)
{
    uint64_t state = atomic_load_explicit(&health->state, memory_order_relaxed);
    // A failed exchange means that another has just claimed it, or has found it good.
    return is_out(state, rule) && is_over(state, rule, now) &&
           atomic_compare_exchange_strong_explicit(&health->state, &state, pack(fails_of(state), now),
                                                   memory_order_relaxed, memory_order_relaxed);
}

bool health_note_failure(struct health *health, const struct health_rule *rule, int64_t now)
{
    if (rule->max_fails == 0)
        return false;
    uint64_t state = atomic_load_explicit(&health->state, memory_order_relaxed);
    uint64_t changed;
    bool was_out;
    do {
        was_out = is_out(state, rule);
        uint64_t fails = fails_of(state);
        if (was_out)
            changed = pack(fails, now);
        else if (fails == 0 || is_over(state, rule, now))
            changed = pack(1, now);
        else if (fails + 1 >= (uint64_t)rule->max_fails)
            changed = pack(fails + 1, now);
        else
            changed = state + 1;
    } while (!atomic_compare_exchange_weak_explicit(&health->state, &state, changed, memory_order_relaxed,
                                                    memory_order_relaxed));
    return !was_out && is_out(changed, rule);
}

bool health_note_success(struct health *health, const struct health_rule *rule, int64_t now)
{
    // Nearly always there is nothing to forget, and the word stays in every processor's cache.
    uint64_t state = atomic_load_explicit(&health->state, memory_order_relaxed);
    while (state != 0 && (rule->max_fails == 0 || is_out(state, rule) || is_over(state, rule, now)))
        if (atomic_compare_exchange_weak_explicit(&health->state, &state, 0, memory_order_relaxed,
                                                  memory_order_relaxed))
            return is_out(state, rule);
    return false;
}
