#include "thread_list.h"

#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "bitflow/base/mutex.h"

static struct mutex list_lock = MUTEX_INIT;
// A circular list around this head, which src/gdb knows by name.
static struct listed_thread all_threads GUARDED_BY(list_lock) = {.previous = &all_threads, .next = &all_threads};
static _Thread_local struct listed_thread *own;

void thread_list_enter(struct listed_thread *self)
{
    self->id = gettid();
    mutex_lock(&list_lock);
    self->previous = all_threads.previous;
    self->next = &all_threads;
    all_threads.previous->next = self;
    all_threads.previous = self;
    mutex_unlock(&list_lock);
    own = self;
}

void thread_list_leave(struct listed_thread *self)
{
    own = NULL;
    mutex_lock(&list_lock);
    self->previous->next = self->next;
    self->next->previous = self->previous;
    mutex_unlock(&list_lock);
}

void thread_list_set_name(const char name[THREAD_NAME_SIZE])
{
    if (own != NULL)
        memcpy(own->name, name, THREAD_NAME_SIZE);
}
