#include "hex.h"

size_t from_hex(const char *hex, uint8_t *out, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    size_t nibbles = 0;
    for (; *hex != '\0'; hex++) {
        const char *digit = strchr(digits, *hex);
        if (digit == NULL || nibbles / 2 == size)
            continue;
        uint8_t value = (uint8_t)(digit - digits);
        out[nibbles / 2] = (uint8_t)(nibbles % 2 == 0 ? value << 4 : out[nibbles / 2] | value);
        nibbles++;
    }
    return nibbles / 2;
}
