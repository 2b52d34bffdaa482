#include "bitflow/proxy/target_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void target_list_init(struct target_list *list)
{
    mutex_init(&list->lock);
    mutex_lock(&list->lock);
    LIST_INIT(&list->states);
    mutex_unlock(&list->lock);
}

void target_list_release(struct target_list *list)
{
    mutex_release(&list->lock);
}

static struct target_state *create(const struct target_config *target)
{
    struct target_state *state = calloc(1, sizeof *state);
    char *name = strdup(target->name);
    if (state == NULL || name == NULL) {
        free(state);
        free(name);
        return NULL;
    }
    state->name = name;
    state->address = target->address;
    return state;
}

static struct target_state *find(struct target_list *list, const struct target_config *target) REQUIRES(list->lock)
{
    struct target_state *state;
    LIST_FOREACH(state, &list->states, link)
    if (strcmp(state->name, target->name) == 0 && address_equal(&state->address, &target->address))
        break;
    return state;
}

static struct target_state *hold(struct target_list *list, const struct target_config *target) EXCLUDES(list->lock)
{
    mutex_lock(&list->lock);
    struct target_state *state = find(list, target);
    if (state == NULL) {
        state = create(target);
        if (state != NULL)
            LIST_INSERT_HEAD(&list->states, state, link);
    }
    if (state != NULL)
        state->references++;
    mutex_unlock(&list->lock);
    return state;
}

static void drop(struct target_list *list, struct target_state *state) EXCLUDES(list->lock)
{
    mutex_lock(&list->lock);
    bool is_last = --state->references == 0;
    if (is_last)
        LIST_REMOVE(state, link);
    mutex_unlock(&list->lock);
    if (!is_last)
        return;
    free(state->name);
    free(state);
}

struct target_state **target_list_hold(struct target_list *list, const struct target_config *targets, size_t count,
                                       struct error *error)
{
    struct target_state **states = calloc(count, sizeof(struct target_state *));
    size_t held = 0;
    while (states != NULL && held < count) {
        states[held] = hold(list, &targets[held]);
        if (states[held] == NULL)
            target_list_drop(list, &states, held);
        else
            held++;
    }
    if (states == NULL)
        error_set_errno(error, ENOMEM, "cannot watch %zu targets", count);
    return states;
}

void target_list_drop(struct target_list *list, struct target_state ***states, size_t count)
{
    for (size_t i = 0; *states != NULL && i < count; i++)
        drop(list, (*states)[i]);
    free(*states);
    *states = NULL;
}
