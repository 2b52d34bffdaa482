// What the tests of configurations share: loading from text, and the text of a proxy that is right but for one part.

#ifndef BITFLOW_TEST_CONFIG_TEXT_H
#define BITFLOW_TEST_CONFIG_TEXT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/config/config.h"

const struct config *load(const char *text, struct diagnostics *diagnostics);

// The line that tells of the diagnostic at `index`; valid until the next call.
const char *line_of(const struct diagnostics *diagnostics, size_t index);

// `lines`: what must be reported, errors and warnings, each ended by a newline.
void assert_said(const char *text, bool is_good, const char *lines);

void assert_problems(const char *text, const char *lines);

void assert_warnings(const char *text, const char *lines);

// Most cases are about one part of a proxy that is right otherwise.
#define PROXY(name, listener, target, options) \
    "server:\n"                                \
    "  proxies:\n"                             \
    "  - name: " name "\n"                     \
    "    listener: {" listener "}\n"           \
    "    targets:\n"                           \
    "    - {" target "}\n"                     \
    "    options: {" options "}\n"

#define LISTENER "address: ':1'"
#define TARGET "name: t, address: 'h:1'"

#endif
