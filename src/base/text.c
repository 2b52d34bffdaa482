#include "bitflow/base/text.h"

size_t text_character_length(const char *at)
{
    const unsigned char *bytes = (const unsigned char *)at;
    if (bytes[0] < 0x80)
        return 1;
    if (bytes[0] < 0xc2 || bytes[0] > 0xf4 || !text_is_continuation(at[1]))
        return 0;
    if (bytes[0] < 0xe0)
        return 2;
    bool is_overlong = (bytes[0] == 0xe0 && bytes[1] < 0xa0) || (bytes[0] == 0xf0 && bytes[1] < 0x90);
    bool is_surrogate = bytes[0] == 0xed && bytes[1] > 0x9f;
    bool is_beyond_unicode = bytes[0] == 0xf4 && bytes[1] > 0x8f;
    if (is_overlong || is_surrogate || is_beyond_unicode || !text_is_continuation(at[2]))
        return 0;
    if (bytes[0] < 0xf0)
        return 3;
    return text_is_continuation(at[3]) ? 4 : 0;
}

unsigned text_code_point(const char *at, size_t length)
{
    const unsigned char *bytes = (const unsigned char *)at;
    unsigned point = length == 1 ? bytes[0] : bytes[0] & (0x7fU >> length);
    for (size_t i = 1; i < length; i++)
        point = point << 6 | (bytes[i] & 0x3fU);
    return point;
}

size_t text_cut(const char *text, size_t most)
{
    while (most > 0 && text_is_continuation(text[most]))
        most--;
    return most;
}

bool text_is_control(const char *text, size_t at, size_t length)
{
    const unsigned char *byte = (const unsigned char *)text + at;
    if (*byte < ' ' || *byte == 0x7f)
        return true;
    bool ends_c1 = *byte >= 0x80 && *byte <= 0x9f && at > 0 && byte[-1] == 0xc2;
    return ends_c1 || (*byte == 0xc2 && at + 1 < length && byte[1] >= 0x80 && byte[1] <= 0x9f);
}

static char *put_pair(char *end, size_t number)
{
    static const char pairs[] = "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
                                "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
                                "8081828384858687888990919293949596979899";
    end[-1] = pairs[2 * number + 1];
    end[-2] = pairs[2 * number];
    return end - 2;
}

// Two digits a division.
char *text_decimal(char *end, uint64_t number, unsigned digits)
{
    const char *latest = end - digits;
    for (; number >= 100; number /= 100)
        end = put_pair(end, number % 100);
    if (number >= 10)
        end = put_pair(end, number);
    else if (number > 0)
        *--end = (char)('0' + number);
    while (end > latest)
        *--end = '0';
    return end;
}
