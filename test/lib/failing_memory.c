#include "failing_memory.h"

#include <stdlib.h>

bool is_counting;

long live;

static long left_before_failure; // -1: none fails

bool has_failed;

static bool is_lasting;

#ifndef HAS_THREAD_SANITIZER

void *__libc_malloc(size_t size);

void *__libc_calloc(size_t count, size_t size);

void *__libc_realloc(void *block, size_t size);

void __libc_free(void *block);

void *__interceptor_malloc(size_t size) __attribute__((weak));

void *__interceptor_calloc(size_t count, size_t size) __attribute__((weak));

void *__interceptor_realloc(void *block, size_t size) __attribute__((weak));

void __interceptor_free(void *block) __attribute__((weak));

static bool fails_now(void)
{
    if (!is_counting || left_before_failure < 0)
        return false;
    if (left_before_failure > 0) {
        left_before_failure--;
        return false;
    }
    if (!is_lasting)
        left_before_failure = -1;
    has_failed = true;
    errno = ENOMEM;
    return true;
}

void *malloc(size_t size)
{
    if (fails_now())
        return NULL;
    live += is_counting;
    return __interceptor_malloc != NULL ? __interceptor_malloc(size) : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    if (fails_now())
        return NULL;
    live += is_counting;
    return __interceptor_calloc != NULL ? __interceptor_calloc(count, size) : __libc_calloc(count, size);
}

void *realloc(void *block, size_t size)
{
    if (fails_now())
        return NULL;
    live += is_counting && block == NULL;
    return __interceptor_realloc != NULL ? __interceptor_realloc(block, size) : __libc_realloc(block, size);
}

void free(void *block)
{
    live -= is_counting && block != NULL;
    if (__interceptor_free != NULL)
        __interceptor_free(block);
    else
        __libc_free(block);
}

// The sanitizer has its own, which would not come by here.
char *strdup(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = malloc(size);
    return copy != NULL ? memcpy(copy, text, size) : NULL;
}

#endif

void memory_fail_lastingly(bool lasting)
{
    is_lasting = lasting;
}

void memory_count_begin(long failing)
{
    left_before_failure = failing;
    has_failed = false;
    live = 0;
    is_counting = true;
}

long memory_count_end(void)
{
    is_counting = false;
    return live;
}
