#include "bitflow/base/host_name.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#define LABEL_MAX 63 // RFC 1035 2.3.4

bool host_name_is_valid(const char *name, size_t length, bool allows_outer_hyphens)
{
    size_t label = 0; // its length so far
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)name[i];
        if (c == '.') {
            if (label == 0)
                return false;
            label = 0;
            continue;
        }
        bool is_outer = label == 0 || i + 1 == length || name[i + 1] == '.';
        bool is_hyphen = c == '-' && (allows_outer_hyphens || !is_outer);
        if (c >= 0x80 || !(isalnum(c) || c == '_' || is_hyphen) || ++label > LABEL_MAX)
            return false;
    }
    return label > 0 && length <= HOST_NAME_MAX_LENGTH;
}

enum name_match host_name_match(const char *pattern, size_t pattern_length, const char *name)
{
    size_t length = strlen(name);
    if (length > 0 && pattern_length == length && strncasecmp(pattern, name, length) == 0)
        return NAME_EXACT;
    const char *rest = strchr(name, '.');
    if (rest == NULL || rest == name || pattern_length < sizeof "*.x" - 1 || pattern[0] != '*' || pattern[1] != '.')
        return NAME_DIFFERS;
    bool is_same = pattern_length - 1 == strlen(rest) && strncasecmp(pattern + 1, rest, pattern_length - 1) == 0;
    return is_same ? NAME_WILDCARD : NAME_DIFFERS;
}
