#include "bitflow/base/hash.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

// FNV-1a (draft-eastlake-fnv, 64 bits), but for the seed.
#define PRIME UINT64_C(0x100000001b3)

static uint64_t mix(uint64_t hash, const void *bytes, size_t length)
{
    const uint8_t *at = bytes;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ at[i]) * PRIME;
    return hash;
}

uint64_t hash_begin(void)
{
    static _Atomic uint64_t seed; // 0: there is none yet
    uint64_t known = atomic_load(&seed);
    if (known != 0)
        return known;
    uint64_t drawn;
    arc4random_buf(&drawn, sizeof drawn);
    drawn |= 1;
    // Another thread may have been faster, and `known` is then what it has drawn.
    return atomic_compare_exchange_strong(&seed, &known, drawn) ? drawn : known;
}

uint64_t hash_number(uint64_t hash, uint64_t number)
{
    return mix(hash, &number, sizeof number);
}

uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t length)
{
    return mix(hash_number(hash, length), bytes, length);
}

uint64_t hash_text(uint64_t hash, const char *text)
{
    return text == NULL ? hash_number(hash, UINT64_MAX) : hash_bytes(hash, text, strlen(text));
}
