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

static inline const struct config *load(const char *text, struct diagnostics *diagnostics)
{
    diagnostics_init(diagnostics, "f");
    return config_load_text(text, strlen(text), diagnostics);
}

// The line that tells of the diagnostic at `index`; valid until the next call.
static inline const char *line_of(const struct diagnostics *diagnostics, size_t index)
{
    static char line[DIAGNOSTIC_LINE_SIZE];
    assert_true(index < diagnostics->kept);
    diagnostic_format(diagnostics, &diagnostics->list[index], line);
    return line;
}

// `lines`: what must be reported, errors and warnings, each ended by a newline.
static inline void assert_said(const char *text, bool is_good, const char *lines)
{
    struct diagnostics diagnostics;
    const struct config *config = load(text, &diagnostics);
    char got[8192] = "";
    size_t used = 0;
    for (size_t i = 0; i < diagnostics.kept; i++)
        used += (size_t)snprintf(got + used, sizeof got - used, "%s\n", line_of(&diagnostics, i));
    if ((config != NULL) != is_good || (diagnostics.errors == 0) != is_good)
        fail_msg("this was %s:\n%sbecause of\n%s", is_good ? "refused" : "accepted", text, got);
    if (strcmp(got, lines) != 0)
        fail_msg("for\n%sgot\n%sin place of\n%s", text, got, lines);
    assert_int_equal(diagnostics.errors + diagnostics.warnings, diagnostics.kept);
    config_drop(&config);
    diagnostics_release(&diagnostics);
}

static inline void assert_problems(const char *text, const char *lines)
{
    assert_said(text, false, lines);
}

static inline void assert_warnings(const char *text, const char *lines)
{
    assert_said(text, true, lines);
}

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
