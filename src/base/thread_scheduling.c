#include "thread_scheduling.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "bitflow/base/log.h"

static _Thread_local bool is_ours;
static _Thread_local enum thread_scheduling asked_for; // also where it was refused

bool thread_scheduling_is_ours(void)
{
    return is_ours;
}

void thread_scheduling_inherit(bool creator_is_ours)
{
    is_ours = creator_is_ours;
    asked_for = creator_is_ours ? THREAD_SCHEDULING_BATCH : THREAD_SCHEDULING_NORMAL;
}

// Returns 0, or what the system refused it with.
static int change_policy(int from, int to)
{
    int policy = sched_getscheduler(0);
    if (policy < 0)
        return errno;
    // To take that flag away would need a privilege.
    int kept = policy & SCHED_RESET_ON_FORK;
    if ((policy & ~SCHED_RESET_ON_FORK) != from)
        return 0;
    const struct sched_param no_priority = {.sched_priority = 0};
    if (sched_setscheduler(0, to | kept, &no_priority) != 0)
        return errno;
    is_ours = to == SCHED_BATCH;
    return 0;
}

void thread_scheduling_undo(void)
{
    if (is_ours)
        (void)change_policy(SCHED_BATCH, SCHED_OTHER);
}

void thread_scheduling_settle(enum thread_scheduling wanted)
{
    static _Atomic bool is_said;
    if (wanted == asked_for)
        return;
    asked_for = wanted;
    if (wanted == THREAD_SCHEDULING_NORMAL) {
        thread_scheduling_undo();
        return;
    }
    int os_errno = change_policy(SCHED_OTHER, SCHED_BATCH);
    if (os_errno != 0 && !atomic_exchange_explicit(&is_said, true, memory_order_relaxed))
        log_debug(NULL, "threads keep the scheduling policy of the process", "error", strerrordesc_np(os_errno), NULL);
}
