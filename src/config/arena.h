// Memory that is freed together: a configuration's structs and strings, or a YAML tree. What is freed is wiped first,
// since a configuration holds passwords. Each object is an allocation of its own, so that the address sanitizer sees a
// read past its end. One thread at a time.

#ifndef BITFLOW_SRC_CONFIG_ARENA_H
#define BITFLOW_SRC_CONFIG_ARENA_H

#include <stdbool.h>
#include <stddef.h>

struct arena_block;

struct arena {
    struct arena_block *newest;
    bool is_exhausted; // an allocation failed, whatever the caller made of it
};

void arena_init(struct arena *arena);
void arena_release(struct arena *arena);

// Zeroed; NULL if there is no memory.
void *arena_take(struct arena *arena, size_t size);
void *arena_take_array(struct arena *arena, size_t count, size_t size);

// A copy of the bytes with a zero after them.
char *arena_copy_text(struct arena *arena, const char *bytes, size_t length);

#endif
