// The configuration's keys: one row each, with where its value goes, and what it may be. The rows drive the reading
// (bind.h) and the unknown keys' suggestions. The table in docs/configuration.md, which says what the keys mean, is
// held to them by a test. Constant data; any thread.

#ifndef BITFLOW_SRC_CONFIG_SCHEMA_H
#define BITFLOW_SRC_CONFIG_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/error.h"

enum schema_type {
    SCHEMA_OBJECT,          // a mapping whose fields are in the same struct, from `offset` on
    SCHEMA_OPTIONAL_OBJECT, // a mapping with a struct of its own, pointed to, that begins with its key's mark
    SCHEMA_OBJECTS,         // a list of mappings: an array of structs and its length
    SCHEMA_STRING,
    SCHEMA_PATH,
    SCHEMA_NAMED_FILE, // a path, with its mark
    SCHEMA_STRINGS,    // a list: an array of pointers and its length
    SCHEMA_BOOL,
    SCHEMA_INTEGER,
    SCHEMA_DURATION,
    SCHEMA_DURATION_OR_OFF, // -1 too: KEEPALIVE_OFF
    SCHEMA_LISTEN_ADDRESS,
    SCHEMA_TARGET_ADDRESS,
    SCHEMA_CIDRS, // a list: an array of struct cidr and its length
    SCHEMA_PEERS, // likewise, of struct unix_peer
    SCHEMA_ENUM,
    SCHEMA_WORDS, // a list: the bits of its words
};

struct schema_word {
    const char *word; // NULL ends a list
    unsigned value;
};

struct schema_object;

struct schema_row {
    const char *key;
    enum schema_type type;
    bool is_required;
    bool needs_value; // a key without a value is a mistake here, since leaving it out means less safety
    bool is_secret;   // its value never gets into a message
    size_t offset;    // in the object's struct
    size_t count_offset;
    int64_t min; // of a number or a duration; of a list, how many items
    int64_t max; // 0: INT64_MAX, SCHEMA_DURATION_MAX
    int64_t fallback;
    const char *unit; // of an integer
    const struct schema_word *words;
    bool (*check)(const char *text, struct error *error); // of a string or each of a list's
    const struct schema_object *object;
    const char *fallback_text; // what leaving it out means, where `fallback` does not say it
    const char *syntax;        // what a string looks like, for people
};

// The bound of a duration without one of its own: more than any use needs, and added to the clock it cannot overflow.
#define SCHEMA_DURATION_MAX (INT64_C(876000) * 3600 * NS_PER_S)

#define SCHEMA_ROWS_MAX 24 // of one object

struct schema_object {
    const struct schema_row *rows;
    size_t row_count;
    size_t size; // of its struct
};

extern const struct schema_object schema_root;

const struct schema_row *schema_find(const struct schema_object *object, const char *key);

#define SCHEMA_PATH_SIZE 128
// Calls `visit` for every row, depth first, with its path: server.proxies[].listener.address.
void schema_walk(void (*visit)(void *context, const char *path, const struct schema_row *row), void *context);

#endif
