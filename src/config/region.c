#include "bitflow/config/region.h"

#include <stdlib.h>
#include <string.h>

struct region_block {
    struct region_block *older;
    size_t size;
    max_align_t data[];
};

void region_init(struct region *region)
{
    *region = (struct region){.newest = NULL};
}

void region_release(struct region *region)
{
    struct region_block *block = region->newest;
    while (block != NULL) {
        struct region_block *older = block->older;
        explicit_bzero(block->data, block->size);
        free(block);
        block = older;
    }
    region_init(region);
}

void *region_take(struct region *region, size_t size)
{
    size_t total;
    struct region_block *block = NULL;
    if (!__builtin_add_overflow(sizeof *block, size, &total))
        block = calloc(1, total);
    if (block == NULL) {
        region->is_exhausted = true;
        return NULL;
    }
    block->size = size;
    block->older = region->newest;
    region->newest = block;
    return block->data;
}

void *region_take_array(struct region *region, size_t count, size_t size)
{
    size_t total;
    if (__builtin_mul_overflow(count, size, &total)) {
        region->is_exhausted = true;
        return NULL;
    }
    return region_take(region, total);
}

char *region_copy_text(struct region *region, const char *bytes, size_t length)
{
    char *copy = region_take(region, length + 1);
    if (copy != NULL && length > 0)
        memcpy(copy, bytes, length);
    return copy;
}
