// "Did you mean": what an unknown key or word is likely to have been meant as. Pure functions; any thread.

#ifndef BITFLOW_SRC_CONFIG_SUGGEST_H
#define BITFLOW_SRC_CONFIG_SUGGEST_H

#include <stddef.h>

#include "schema.h"

// How many characters to insert, delete, replace or swap with their neighbour to get from one to the other (the
// optimal string alignment distance); at least `limit` if it is more than that, or if a text is longer than any key.
size_t suggest_distance(const char *a, const char *b, size_t limit);

// The word nearest to `text`, in any case, or the one that other programs call so; NULL if none is near.
const char *suggest_word(const char *text, const struct schema_word *words);

#define SUGGESTION_SIZE 400
// What to say about a key that `object` does not have: "did you mean ...?", or where such a key belongs. "" if nothing
// is near.
void suggest_key(const char *key, const struct schema_object *object, char out[SUGGESTION_SIZE]);

#endif
