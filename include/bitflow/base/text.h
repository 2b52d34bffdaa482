// Characters in text that comes from anywhere: UTF-8, and what must not reach a terminal or a line of a log as it is.
// Pure functions; any thread.

#ifndef BITFLOW_BASE_TEXT_H
#define BITFLOW_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Whether the byte goes on with a character of UTF-8 that began before it.
static inline bool text_is_continuation(char byte)
{
    return ((unsigned char)byte & 0xc0) == 0x80;
}

// A printable character of ASCII other than the space.
static inline bool text_is_visible_ascii(char byte)
{
    return byte > ' ' && byte < 0x7f;
}

// The length of the character at `at`, by the table of well-formed UTF-8 (Unicode, 3.9), 0: it is not well-formed. The
// text ends with a zero byte, which has the length 1.
size_t text_character_length(const char *at);

// The Unicode code point of a well-formed character of that length.
unsigned text_code_point(const char *at, size_t length);

// The most bytes, at most `most`, that a text can be cut to without cutting a character. `text[most]` can be read.
size_t text_cut(const char *text, size_t most);

// Whether the byte text[at] is part of a control character: C0, DEL, or C1 in UTF-8 (two bytes).
bool text_is_control(const char *text, size_t at, size_t length);

#define TEXT_DECIMAL_MAX (sizeof "18446744073709551615" - 1)

// Writes a number with at least `digits` digits (TEXT_DECIMAL_MAX at most) so that it ends before `end`, where there is
// room for as many as it takes, and returns where it begins. No zero behind it. Async-signal-safe.
char *text_decimal(char *end, uint64_t number, unsigned digits);

#endif
