#include "balancer.h"

#include <stdlib.h>
#include <string.h>

#include "bitflow/base/host_name.h"
#include "health.h"

void balancer_init(struct balancer *balancer, const struct proxy_config *settings, struct target *targets,
                   uint64_t rr_counter, struct target *chosen)
{
    *balancer = (struct balancer){
        .policy = settings->balancer,
        .targets = targets,
        .target_count = settings->target_count,
        .rr_counter = rr_counter,
        .chosen = settings->balancer == BALANCER_NONE ? &targets[0] : chosen,
    };
}

void balancer_release(struct balancer *balancer)
{
    free(balancer->tried);
    balancer->tried = NULL;
}

// Whether there is another target to go to.
static bool has_choice(const struct balancer *balancer)
{
    return balancer->target_count > 1 && balancer->policy != BALANCER_NONE && balancer->policy != BALANCER_SNI;
}

static struct health_rule rule_of(const struct balancer *balancer, const struct target *target)
{
    return (struct health_rule){.max_fails = has_choice(balancer) ? target->settings->max_fails : 0,
                                .fail_timeout = target->settings->fail_timeout};
}

static uint64_t active_of(const struct target *target)
{
    return atomic_load_explicit(&target->load->active, memory_order_relaxed);
}

// What is to be chosen from.
struct choice {
    const struct balancer *balancer;
    int64_t now;
    bool is_last_resort;  // those that are out, too
    uint64_t active_most; // connections that a target may have
};

static bool is_eligible(const struct choice *choice, size_t index)
{
    const struct balancer *balancer = choice->balancer;
    const struct target *target = &balancer->targets[index];
    if ((balancer->tried != NULL && balancer->tried[index]) || active_of(target) > choice->active_most)
        return false;
    const struct health_rule rule = rule_of(balancer, target);
    return choice->is_last_resort || health_judge(target->health, &rule, choice->now) != HEALTH_OUT;
}

// The first one from `start` on, around.
static struct target *first_from(const struct choice *choice, size_t start)
{
    size_t count = choice->balancer->target_count;
    for (size_t i = 0; i < count; i++)
        if (is_eligible(choice, (start + i) % count))
            return &choice->balancer->targets[(start + i) % count];
    return NULL;
}

// Round-robin goes around those that are eligible, so that none of them gets the share of one that is out.
static struct target *by_round_robin(const struct choice *choice)
{
    size_t eligible = 0;
    for (size_t i = 0; i < choice->balancer->target_count; i++)
        eligible += is_eligible(choice, i);
    if (eligible == 0)
        return NULL;
    size_t skipped = (size_t)(choice->balancer->rr_counter % eligible);
    for (size_t i = 0; i < choice->balancer->target_count; i++)
        if (is_eligible(choice, i) && skipped-- == 0)
            return &choice->balancer->targets[i];
    return first_from(choice, 0); // others' connections have come or gone meanwhile
}

static uint64_t fewest_connections(const struct choice *choice)
{
    uint64_t fewest = UINT64_MAX;
    for (size_t i = 0; i < choice->balancer->target_count; i++) {
        uint64_t active = active_of(&choice->balancer->targets[i]);
        if (is_eligible(choice, i) && active < fewest)
            fewest = active;
    }
    return fewest;
}

// Others' connections come and go between the looks at their numbers. Where that leaves none with the fewest,
// round-robin among all is as good.
static struct target *by_connections(struct choice *choice)
{
    choice->active_most = fewest_connections(choice);
    struct target *target = by_round_robin(choice);
    if (target != NULL)
        return target;
    choice->active_most = UINT64_MAX;
    return by_round_robin(choice);
}

static struct target *choose(const struct balancer *balancer, int64_t now, bool is_last_resort)
{
    struct choice choice = {
        .balancer = balancer, .now = now, .is_last_resort = is_last_resort, .active_most = UINT64_MAX};
    switch (balancer->policy) {
    case BALANCER_NONE:
    case BALANCER_SNI: // has chosen by name, and if that chose none, there is none
        return balancer->chosen;
    case BALANCER_FAILOVER:
        break;
    case BALANCER_ROUND_ROBIN:
        return balancer->last == NULL ? by_round_robin(&choice)
                                      : first_from(&choice, (size_t)(balancer->last - balancer->targets) + 1);
    case BALANCER_LEAST_CONNECTIONS:
        return by_connections(&choice);
    }
    return first_from(&choice, 0);
}

// The best of those that are not out. One that is due is another's as soon as that one has claimed it.
static struct target *choose_in(const struct balancer *balancer, int64_t now)
{
    for (;;) {
        struct target *target = choose(balancer, now, false);
        if (target == NULL)
            return NULL;
        const struct health_rule rule = rule_of(balancer, target);
        struct health *health = target->health;
        if (health_judge(health, &rule, now) == HEALTH_GOOD || health_claim(health, &rule, now))
            return target;
    }
}

static bool mark_tried(struct balancer *balancer)
{
    if (balancer->tried == NULL)
        balancer->tried = calloc(balancer->target_count, sizeof *balancer->tried);
    if (balancer->tried != NULL)
        balancer->tried[balancer->last - balancer->targets] = true;
    return balancer->tried != NULL;
}

struct target *balancer_next(struct balancer *balancer, int64_t now)
{
    if (balancer->last != NULL && !(has_choice(balancer) && mark_tried(balancer)))
        return NULL;
    struct target *target = choose_in(balancer, now);
    if (target == NULL)
        target = choose(balancer, now, true);
    if (target != NULL)
        balancer->last = target;
    return target;
}

bool balancer_note_failure(struct balancer *balancer, int64_t now)
{
    const struct health_rule rule = rule_of(balancer, balancer->last);
    return health_note_failure(balancer->last->health, &rule, now);
}

bool balancer_note_success(struct balancer *balancer, int64_t now)
{
    const struct health_rule rule = rule_of(balancer, balancer->last);
    return health_note_success(balancer->last->health, &rule, now);
}

struct target *balancer_by_name(struct target *targets, size_t target_count, const char *server_name)
{
    struct target *wildcard = NULL, *all = NULL; // the first of each
    for (size_t i = 0; i < target_count; i++) {
        const char *name = targets[i].settings->name;
        if (strcmp(name, "*") == 0) {
            all = all == NULL ? &targets[i] : all;
            continue;
        }
        enum name_match match = host_name_match(name, strlen(name), server_name);
        if (match == NAME_EXACT)
            return &targets[i];
        if (match == NAME_WILDCARD && wildcard == NULL)
            wildcard = &targets[i];
    }
    return wildcard != NULL ? wildcard : all;
}
