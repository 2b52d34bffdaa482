#include "arena.h"

#include <stdlib.h>
#include <string.h>

struct arena_block {
    struct arena_block *older;
    size_t size;
    max_align_t data[];
};

void arena_init(struct arena *arena)
{
    *arena = (struct arena){.newest = NULL};
}

void arena_release(struct arena *arena)
{
    struct arena_block *block = arena->newest;
    while (block != NULL) {
        struct arena_block *older = block->older;
        explicit_bzero(block->data, block->size);
        free(block);
        block = older;
    }
    arena_init(arena);
}

void *arena_take(struct arena *arena, size_t size)
{
    size_t total;
    struct arena_block *block = NULL;
    if (!__builtin_add_overflow(sizeof *block, size, &total))
        block = calloc(1, total);
    if (block == NULL) {
        arena->is_exhausted = true;
        return NULL;
    }
    block->size = size;
    block->older = arena->newest;
    arena->newest = block;
    return block->data;
}

void *arena_take_array(struct arena *arena, size_t count, size_t size)
{
    size_t total;
    if (__builtin_mul_overflow(count, size, &total)) {
        arena->is_exhausted = true;
        return NULL;
    }
    return arena_take(arena, total);
}

char *arena_copy_text(struct arena *arena, const char *bytes, size_t length)
{
    char *copy = arena_take(arena, length + 1);
    if (copy != NULL && length > 0)
        memcpy(copy, bytes, length);
    return copy;
}
