// An allocator whose failures a test chooses, in front of the C library's; under the address sanitizer it goes to its
// own. The thread sanitizer allocates before it is ready for that, and has nothing to find here: the test is to be
// skipped then. One thread.

#ifndef BITFLOW_TEST_FAILING_MEMORY_H
#define BITFLOW_TEST_FAILING_MEMORY_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#if defined(__SANITIZE_THREAD__)
#define HAS_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HAS_THREAD_SANITIZER 1
#endif
#endif

extern bool is_counting;
extern long live; // blocks taken and not given back, while counting
extern bool has_failed;

// Whether all allocations that come after the one that fails do so, too.
void memory_fail_lastingly(bool lasting);

// Counts from here to memory_count_end(), and lets the allocation after that many fail.
void memory_count_begin(long failing);

// How many blocks were not given back.
long memory_count_end(void);

#endif
