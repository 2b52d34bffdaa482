#include "duration.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "bitflow/base/clock.h"

struct unit {
    const char *name;
    int64_t ns;
};

// A name that another one begins with comes after it: "ms" before "m".
static const struct unit units[] = {
    {"ns", 1}, {"us", NS_PER_US}, {"ms", NS_PER_MS}, {"s", NS_PER_S}, {"m", 60 * NS_PER_S}, {"h", 3600 * NS_PER_S},
};

struct number {
    const char *digits; // before the point
    const char *digits_end;
    const char *fraction; // after it
    const char *fraction_end;
};

static const char *skip_digits(const char *at)
{
    while (*at >= '0' && *at <= '9')
        at++;
    return at;
}

static bool scan_number(const char **at, struct number *number)
{
    number->digits = *at;
    number->digits_end = skip_digits(*at);
    number->fraction = number->digits_end;
    number->fraction_end = number->digits_end;
    if (*number->digits_end == '.') {
        number->fraction = number->digits_end + 1;
        number->fraction_end = skip_digits(number->fraction);
    }
    if (number->digits == number->digits_end && number->fraction == number->fraction_end)
        return false;
    *at = number->fraction_end;
    return true;
}

static const struct unit *scan_unit(const char **at)
{
    for (size_t i = 0; i < ARRAY_LENGTH(units); i++) {
        size_t length = strlen(units[i].name);
        if (strncmp(*at, units[i].name, length) == 0) {
            *at += length;
            return &units[i];
        }
    }
    return NULL;
}

// False on overflow. `is_more_than_zero` is set if any digit is, even one that is too small to count.
static bool number_to_ns(const struct number *number, int64_t unit, int64_t *ns, bool *is_more_than_zero)
{
    int64_t value = 0;
    for (const char *at = number->digits; at < number->digits_end; at++) {
        *is_more_than_zero |= *at != '0';
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, *at - '0', &value))
            return false;
    }
    if (__builtin_mul_overflow(value, unit, &value))
        return false;
    for (const char *at = number->fraction; at < number->fraction_end; at++) {
        *is_more_than_zero |= *at != '0';
        unit /= 10;
        if (__builtin_add_overflow(value, (*at - '0') * unit, &value))
            return false;
    }
    *ns = value;
    return true;
}

bool duration_parse(const char *text, int64_t *duration, struct error *error)
{
    if (*text == '-') {
        error_set(error, ERROR_INVALID, "is negative");
        return false;
    }
    int64_t total = 0;
    bool is_more_than_zero = false;
    const char *at = text;
    do {
        struct number number;
        if (!scan_number(&at, &number)) {
            error_set(error, ERROR_INVALID, "is not a valid duration: expected one such as 30s, 250ms or 1h2m3.5s");
            return false;
        }
        const struct unit *unit = scan_unit(&at);
        // Only a number that stands alone may go without its unit.
        if (unit == NULL && (number.digits != text || *at != '\0')) {
            error_set(error, ERROR_INVALID, "has a number whose unit is not one of ns, us, ms, s, m and h");
            return false;
        }
        int64_t part;
        if (!number_to_ns(&number, unit != NULL ? unit->ns : NS_PER_S, &part, &is_more_than_zero) ||
            __builtin_add_overflow(total, part, &total)) {
            error_set(error, ERROR_INVALID, "is too long for a duration");
            return false;
        }
    } while (*at != '\0');
    if (total == 0 && is_more_than_zero) {
        error_set(error, ERROR_INVALID, "is too short for a duration: the shortest is 1ns, and 0 means none");
        return false;
    }
    *duration = total;
    return true;
}

// Appends `value` units of `per` ns, with up to `places` decimals and no zeros at their end.
static size_t append_decimal(char *out, size_t size, int64_t value, int64_t per, int places, const char *unit)
{
    int64_t whole = value / per;
    int64_t rest = value % per;
    if (rest == 0)
        return (size_t)snprintf(out, size, "%" PRId64 "%s", whole, unit);
    while (rest % 10 == 0) {
        rest /= 10;
        places--;
    }
    return (size_t)snprintf(out, size, "%" PRId64 ".%0*" PRId64 "%s", whole, places, rest, unit);
}

void duration_format(int64_t duration, char out[DURATION_TEXT_SIZE])
{
    const int64_t minute = 60 * NS_PER_S;
    const int64_t hour = 60 * minute;
    size_t used = 0;
    out[0] = '\0';
    if (duration >= hour)
        used += (size_t)snprintf(out + used, DURATION_TEXT_SIZE - used, "%" PRId64 "h", duration / hour);
    duration %= hour;
    if (duration >= minute)
        used += (size_t)snprintf(out + used, DURATION_TEXT_SIZE - used, "%" PRId64 "m", duration / minute);
    duration %= minute;
    char *rest = out + used;
    size_t left = DURATION_TEXT_SIZE - used;
    if (duration >= NS_PER_S)
        append_decimal(rest, left, duration, NS_PER_S, 9, "s");
    else if (duration >= NS_PER_MS)
        append_decimal(rest, left, duration, NS_PER_MS, 6, "ms");
    else if (duration >= NS_PER_US)
        append_decimal(rest, left, duration, NS_PER_US, 3, "us");
    else if (duration > 0)
        append_decimal(rest, left, duration, 1, 0, "ns");
    else if (used == 0)
        (void)snprintf(rest, left, "0");
}
