#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/queue.h>

#include "bitflow/base/compiler.h"
#include "bitflow/base/crash.h"
#include "bitflow/base/mutex.h"

// Alternate stacks, many to a mapping: a process may not have one for each thread. A stack must hold what the kernel
// keeps there (the registers, up to 11 KiB), the unwinder and our own.
#define STACK_SIZE ((size_t)32 * 1024)
#define CHUNK_STACKS ((size_t)64)
struct chunk {
    SLIST_ENTRY(chunk) link;
    char *stacks;
    uint64_t taken; // a bit for each
};
static struct mutex chunks_lock = MUTEX_INIT;
static SLIST_HEAD(, chunk) chunks
    GUARDED_BY(chunks_lock) = SLIST_HEAD_INITIALIZER(chunks); // kept until the process ends

static struct chunk *add_chunk(void) REQUIRES(chunks_lock)
{
    struct chunk *chunk = calloc(1, sizeof *chunk);
    if (chunk == NULL)
        return NULL;
    void *memory = mmap(NULL, CHUNK_STACKS * STACK_SIZE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        free(chunk);
        return NULL;
    }
    chunk->stacks = memory;
    SLIST_INSERT_HEAD(&chunks, chunk, link);
    return chunk;
}

void *crash_stack_take(void)
{
    if (IS_SANITIZED)
        return NULL;
    char *stack = NULL;
    mutex_lock(&chunks_lock);
    struct chunk *chunk = SLIST_FIRST(&chunks);
    while (chunk != NULL && chunk->taken == UINT64_MAX)
        chunk = SLIST_NEXT(chunk, link);
    if (chunk == NULL)
        chunk = add_chunk();
    if (chunk != NULL) {
        int number = __builtin_ctzll(~chunk->taken);
        chunk->taken |= UINT64_C(1) << number;
        stack = chunk->stacks + (size_t)number * STACK_SIZE;
    }
    mutex_unlock(&chunks_lock);
    const stack_t alternate = {.ss_sp = stack, .ss_size = STACK_SIZE};
    if (stack != NULL)
        (void)sigaltstack(&alternate, NULL);
    return stack;
}

void crash_stack_give_back(void *stack)
{
    if (stack == NULL)
        return;
    const stack_t none = {.ss_flags = SS_DISABLE};
    (void)sigaltstack(&none, NULL);
    mutex_lock(&chunks_lock);
    struct chunk *chunk;
    SLIST_FOREACH(chunk, &chunks, link) {
        uintptr_t offset = (uintptr_t)stack - (uintptr_t)chunk->stacks;
        if (offset < CHUNK_STACKS * STACK_SIZE)
            chunk->taken &= ~(UINT64_C(1) << (offset / STACK_SIZE));
    }
    mutex_unlock(&chunks_lock);
}
