// A number of 64 bits that tells whether something has changed. Each process has its own (the seed is random), so it
// is of no use outside; of a secret that went into it, it tells less than whoever can read our memory knows anyway. Not
// for what peers send: whoever chooses the bytes can make two that are alike. No errors, no locks; any thread.

#ifndef BITFLOW_BASE_HASH_H
#define BITFLOW_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t hash_begin(void);

// Goes on from `hash` with one more item; where one item ends and the next begins counts.
uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t length);
uint64_t hash_text(uint64_t hash, const char *text); // NULL is not the same as an empty one
uint64_t hash_number(uint64_t hash, uint64_t number);

#endif
