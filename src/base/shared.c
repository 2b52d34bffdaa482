#include "bitflow/base/shared.h"

#include <stdlib.h>
#include <string.h>

#include "bitflow/base/invariant.h"

void *shared_hold(struct shared_list *list, const char *name, size_t size)
{
    struct shared *shared;
    LIST_FOREACH(shared, list, link)
        if (strcmp(shared->name, name) == 0)
            break;
    if (shared == NULL) {
        size_t name_size = strlen(name) + 1;
        shared = calloc(1, size + name_size);
        if (shared == NULL)
            return NULL;
        shared->name = memcpy((char *)shared + size, name, name_size);
        LIST_INSERT_HEAD(list, shared, link);
    }
    shared->references++;
    return shared;
}

bool shared_drop(void *object)
{
    struct shared *shared = object;
    INVARIANT(shared->references > 0);
    return --shared->references == 0;
}

void shared_unlink(void *object)
{
    struct shared *shared = object;
    INVARIANT(shared->references == 0);
    LIST_REMOVE(shared, link);
}

void shared_free(void *object)
{
    shared_unlink(object);
    free(object);
}
