// The names of this program's own functions, read from the symbol table of /proc/self/exe, which a release build has.
// One thread at a time; no locks.

#ifndef BITFLOW_SRC_SENTRY_SYMBOLS_H
#define BITFLOW_SRC_SENTRY_SYMBOLS_H

#include <stddef.h>
#include <stdint.h>

struct symbols {
    const unsigned char *image; // the file, mapped; NULL: it cannot be read
    size_t size;
    // Within the image; NULL: the file has none, as after strip(1).
    const void *table;
    size_t count;
    const char *names;
    size_t names_size;
    // The linker's id of the build, which debug files are found by; NULL: it has none.
    const unsigned char *build_id;
    size_t build_id_size;
    uint64_t memory_size; // that its segments take
};

void symbols_init(struct symbols *symbols);
void symbols_release(struct symbols *symbols);

// The function that holds an address, as an offset from where the program is loaded; NULL: unknown.
const char *symbols_find(const struct symbols *symbols, uint64_t offset);

#endif
