#include "pool_rig.h"

struct thread_pool *make_pool(const struct thread_pool_options *options)
{
    struct thread_pool_options complete = *options;
    complete.parked_name = "parked";
    complete.stack_size = STACK_SIZE;
    struct thread_pool *pool = thread_pool_create(&complete, NULL);
    assert_non_null(pool);
    return pool;
}

void end_pool(struct thread_pool *pool)
{
    assert_true(thread_pool_drain(pool, deadline_after(LIMIT)));
    thread_pool_destroy(&pool);
    assert_null(pool);
}
