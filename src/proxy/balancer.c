#include "balancer.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

void balancer_init(struct balancer *balancer, const struct proxy_config *settings, struct target_state *const *states,
                   uint64_t turn, size_t chosen)
{
    *balancer = (struct balancer){
        .policy = settings->balancer,
        .targets = settings->targets,
        .states = states,
        .target_count = settings->target_count,
        .turn = turn,
        .chosen = settings->balancer == BALANCER_NONE ? 0 : chosen,
        .last = BALANCER_NO_MORE,
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

static struct health_rule rule_of(const struct balancer *balancer, size_t index)
{
    const struct target_config *target = &balancer->targets[index];
    return (struct health_rule){.max_fails = has_choice(balancer) ? target->max_fails : 0,
                                .fail_timeout = target->fail_timeout};
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
    const struct target_state *state = balancer->states[index];
    if (balancer->tried != NULL && balancer->tried[index])
        return false;
    if (atomic_load_explicit(&state->place->active, memory_order_relaxed) > choice->active_most)
        return false;
    const struct health_rule rule = rule_of(balancer, index);
    return choice->is_last_resort || health_judge(&state->health, &rule, choice->now) != HEALTH_OUT;
}

// The first one from `start` on, around.
static size_t first_from(const struct choice *choice, size_t start)
{
    size_t count = choice->balancer->target_count;
    for (size_t i = 0; i < count; i++)
        if (is_eligible(choice, (start + i) % count))
            return (start + i) % count;
    return BALANCER_NO_MORE;
}

// It goes by turns among those that are eligible, so that none of them gets the share of one that is out.
static size_t by_turn(const struct choice *choice)
{
    size_t eligible = 0;
    for (size_t i = 0; i < choice->balancer->target_count; i++)
        eligible += is_eligible(choice, i);
    if (eligible == 0)
        return BALANCER_NO_MORE;
    size_t skipped = (size_t)(choice->balancer->turn % eligible);
    for (size_t i = 0; i < choice->balancer->target_count; i++)
        if (is_eligible(choice, i) && skipped-- == 0)
            return i;
    return first_from(choice, 0); // others' connections have come or gone meanwhile
}

static uint64_t fewest_connections(const struct choice *choice)
{
    uint64_t fewest = UINT64_MAX;
    for (size_t i = 0; i < choice->balancer->target_count; i++) {
        uint64_t active = atomic_load_explicit(&choice->balancer->states[i]->place->active, memory_order_relaxed);
        if (is_eligible(choice, i) && active < fewest)
            fewest = active;
    }
    return fewest;
}

// Others' connections come and go between the looks at their numbers. Where that leaves none with the fewest, whoever
// has the turn is as good.
static size_t by_connections(struct choice *choice)
{
    choice->active_most = fewest_connections(choice);
    size_t index = by_turn(choice);
    if (index != BALANCER_NO_MORE)
        return index;
    choice->active_most = UINT64_MAX;
    return by_turn(choice);
}

static size_t choose(const struct balancer *balancer, int64_t now, bool is_last_resort)
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
        return balancer->last == BALANCER_NO_MORE ? by_turn(&choice) : first_from(&choice, balancer->last + 1);
    case BALANCER_LEAST_CONNECTIONS:
        return by_connections(&choice);
    }
    return first_from(&choice, 0);
}

// The best of those that are not out. One that is due is another's as soon as that one has claimed it.
static size_t choose_in(const struct balancer *balancer, int64_t now)
{
    for (;;) {
        size_t index = choose(balancer, now, false);
        if (index == BALANCER_NO_MORE)
            return index;
        const struct health_rule rule = rule_of(balancer, index);
        struct health *health = &balancer->states[index]->health;
        if (health_judge(health, &rule, now) == HEALTH_GOOD || health_claim(health, &rule, now))
            return index;
    }
}

static bool mark_tried(struct balancer *balancer)
{
    if (balancer->tried == NULL)
        balancer->tried = calloc(balancer->target_count, sizeof *balancer->tried);
    if (balancer->tried != NULL)
        balancer->tried[balancer->last] = true;
    return balancer->tried != NULL;
}

size_t balancer_next(struct balancer *balancer, int64_t now)
{
    if (balancer->last != BALANCER_NO_MORE && !(has_choice(balancer) && mark_tried(balancer)))
        return BALANCER_NO_MORE;
    size_t index = choose_in(balancer, now);
    if (index == BALANCER_NO_MORE)
        index = choose(balancer, now, true);
    if (index != BALANCER_NO_MORE)
        balancer->last = index;
    return index;
}

bool balancer_note_failure(struct balancer *balancer, int64_t now)
{
    const struct health_rule rule = rule_of(balancer, balancer->last);
    return health_note_failure(&balancer->states[balancer->last]->health, &rule, now);
}

bool balancer_note_success(struct balancer *balancer, int64_t now)
{
    const struct health_rule rule = rule_of(balancer, balancer->last);
    return health_note_success(&balancer->states[balancer->last]->health, &rule, now);
}

enum fit { FITS_NOT, FITS_ALL, FITS_WILDCARD, FITS_EXACTLY };

static enum fit fit_of(const char *target_name, const char *server_name)
{
    if (strcmp(target_name, "*") == 0)
        return FITS_ALL;
    if (*server_name == '\0')
        return FITS_NOT;
    if (strcasecmp(target_name, server_name) == 0)
        return FITS_EXACTLY;
    const char *dot = strchr(server_name, '.');
    bool is_wildcard = target_name[0] == '*' && target_name[1] == '.';
    return is_wildcard && dot != NULL && dot != server_name && strcasecmp(target_name + 1, dot) == 0 ? FITS_WILDCARD
                                                                                                     : FITS_NOT;
}

size_t balancer_by_name(const struct target_config *targets, size_t target_count, const char *server_name)
{
    size_t best = BALANCER_NO_MORE;
    enum fit how = FITS_NOT;
    for (size_t i = 0; i < target_count; i++) {
        enum fit fit = fit_of(targets[i].name, server_name);
        if (fit > how) {
            best = i;
            how = fit;
        }
    }
    return best;
}
