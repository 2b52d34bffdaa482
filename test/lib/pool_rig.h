// Pools of threads for the tests of them.

#ifndef BITFLOW_TEST_POOL_RIG_H
#define BITFLOW_TEST_POOL_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/thread.h"

#define LIMIT (20 * NS_PER_S)
#define STACK_SIZE ((size_t)16 * 1024)

// The name and the stack's size are the rig's.
struct thread_pool *make_pool(const struct thread_pool_options *options);

// It has become idle in time.
void end_pool(struct thread_pool *pool);

#endif
