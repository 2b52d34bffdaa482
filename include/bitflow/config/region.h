// Memory that is freed together: a configuration's structs and strings, or a YAML tree. What is freed is wiped first,
// since a configuration holds passwords. Each object is an allocation of its own, so that the address sanitizer sees a
// read past its end. One thread at a time.

#ifndef BITFLOW_CONFIG_REGION_H
#define BITFLOW_CONFIG_REGION_H

#include <stdbool.h>
#include <stddef.h>

struct region_block;

struct region {
    struct region_block *newest;
    bool is_exhausted; // an allocation failed, whatever the caller made of it
};

void region_init(struct region *region);
void region_release(struct region *region);

// Zeroed; NULL if there is no memory.
void *region_take(struct region *region, size_t size);
void *region_take_array(struct region *region, size_t count, size_t size);

// A copy of the bytes with a zero after them.
char *region_copy_text(struct region *region, const char *bytes, size_t length);

#endif
