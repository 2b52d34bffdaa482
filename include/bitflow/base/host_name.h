// Host names: which texts are one, and which names a pattern such as *.example.com is for. Pure functions; any thread.

#ifndef BITFLOW_BASE_HOST_NAME_H
#define BITFLOW_BASE_HOST_NAME_H

#include <stdbool.h>
#include <stddef.h>

#define HOST_NAME_MAX_LENGTH 253 // RFC 1035 2.3.4, without the trailing dot

// Labels of letters, digits, hyphens and underscores, up to 63 bytes each, with dots between them. An underscore is not
// part of a host name (RFC 1123 2.1), but names with one are in use (containers, SRV-style records). Nor may a label
// begin or end with a hyphen; clients ask for such names nevertheless, and `allows_outer_hyphens` says whether they are
// let through. A trailing dot is the caller's affair.
bool host_name_is_valid(const char *name, size_t length, bool allows_outer_hyphens);

enum name_match { NAME_DIFFERS, NAME_WILDCARD, NAME_EXACT };

// Whether `name` is the pattern's, without regard to case: the same, or, for *.example.com, example.com with one label
// before it (RFC 9525 6.3). An empty name is nobody's. The pattern need not end with a zero byte.
enum name_match host_name_match(const char *pattern, size_t pattern_length, const char *name);

#endif
