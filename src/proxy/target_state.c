#include "bitflow/proxy/target_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/base/hash.h"

void target_list_init(struct target_list *list)
{
    mutex_init(&list->lock);
    mutex_lock(&list->lock);
    SLIST_INIT(&list->places);
    LIST_INIT(&list->states);
    mutex_unlock(&list->lock);
}

void target_list_release(struct target_list *list)
{
    mutex_release(&list->lock);
}

// A password in the SOCKS5 server's address goes in, too, and is kept nowhere.
static uint64_t way_to(const struct proxy_config *settings, const struct target_config *target,
                       const struct tls_context *tls)
{
    uint64_t hash = hash_text(hash_begin(), target->socks_proxy);
    hash = hash_number(hash, tls == NULL ? 0 : tls_context_fingerprint(tls));
    return hash_number(hash, settings->enable_proxy_header ? 1 + (uint64_t)settings->proxy_header_version : 0);
}

static struct target_place *find_place(struct target_list *list, const struct target_config *target)
    REQUIRES(list->lock)
{
    struct target_place *place;
    SLIST_FOREACH(place, &list->places, link)
    if (strcmp(place->name, target->name) == 0 && address_equal(&place->address, &target->address))
        break;
    return place;
}

static struct target_place *hold_place(struct target_list *list, const struct target_config *target)
    REQUIRES(list->lock)
{
    struct target_place *place = find_place(list, target);
    if (place == NULL) {
        place = calloc(1, sizeof *place);
        char *name = strdup(target->name);
        if (place == NULL || name == NULL) {
            free(place);
            free(name);
            return NULL;
        }
        place->name = name;
        place->address = target->address;
        SLIST_INSERT_HEAD(&list->places, place, link);
    }
    place->references++;
    return place;
}

static void drop_place(struct target_list *list, struct target_place *place) REQUIRES(list->lock)
{
    if (--place->references > 0)
        return;
    SLIST_REMOVE(&list->places, place, target_place, link);
    free(place->name);
    free(place);
}

static struct target_state *find_state(struct target_list *list, const struct target_place *place, uint64_t way)
    REQUIRES(list->lock)
{
    struct target_state *state;
    LIST_FOREACH(state, &list->states, link)
    if (state->place == place && state->way == way)
        break;
    return state;
}

static struct target_state *hold_state(struct target_list *list, const struct target_config *target, uint64_t way)
    REQUIRES(list->lock)
{
    struct target_place *place = hold_place(list, target);
    if (place == NULL)
        return NULL;
    struct target_state *state = find_state(list, place, way);
    if (state != NULL) {
        drop_place(list, place); // the state has a reference to it already
    } else {
        state = calloc(1, sizeof *state);
        if (state == NULL) {
            drop_place(list, place);
            return NULL;
        }
        state->place = place;
        state->way = way;
        LIST_INSERT_HEAD(&list->states, state, link);
    }
    state->references++;
    return state;
}

struct target_state *target_state_hold(struct target_list *list, const struct proxy_config *settings,
                                       const struct target_config *target, const struct tls_context *tls,
                                       struct error *error)
{
    uint64_t way = way_to(settings, target, tls);
    mutex_lock(&list->lock);
    struct target_state *state = hold_state(list, target, way);
    mutex_unlock(&list->lock);
    if (state == NULL)
        error_set_errno(error, ENOMEM, "cannot watch the target %s", target->name);
    return state;
}

void target_state_drop(struct target_list *list, struct target_state **state)
{
    struct target_state *dropped = *state;
    *state = NULL;
    if (dropped == NULL)
        return;
    mutex_lock(&list->lock);
    if (--dropped->references == 0) {
        LIST_REMOVE(dropped, link);
        drop_place(list, dropped->place);
        free(dropped);
    }
    mutex_unlock(&list->lock);
}
