#include "thread_list.h"

#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "bitflow/base/mutex.h"

static struct mutex list_lock = MUTEX_INIT;
// src/gdb knows it by name.
static TAILQ_HEAD(, listed_thread) all_threads GUARDED_BY(list_lock) = TAILQ_HEAD_INITIALIZER(all_threads);
static _Thread_local struct listed_thread *own;

void thread_list_enter(struct listed_thread *self)
{
    self->id = gettid();
    mutex_lock(&list_lock);
    TAILQ_INSERT_TAIL(&all_threads, self, link);
    mutex_unlock(&list_lock);
    own = self;
}

void thread_list_leave(struct listed_thread *self)
{
    own = NULL;
    mutex_lock(&list_lock);
    TAILQ_REMOVE(&all_threads, self, link);
    mutex_unlock(&list_lock);
}

void thread_list_set_name(const char name[THREAD_NAME_SIZE])
{
    if (own != NULL)
        memcpy(own->name, name, THREAD_NAME_SIZE);
}
