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

#include "bitflow/config/config_load.h"

static inline const struct config *load(const char *text, struct config_problems *problems)
{
    config_problems_init(problems);
    return config_load_text("f", text, strlen(text), problems);
}

// `lines`: what must be reported, each ended by a newline.
static inline void assert_problems(const char *text, const char *lines)
{
    struct config_problems problems;
    const struct config *config = load(text, &problems);
    char got[8192] = "";
    size_t used = 0;
    for (size_t i = 0; i < problems.kept; i++)
        used += (size_t)snprintf(got + used, sizeof got - used, "%s\n", problems.lines[i]);
    if (config != NULL || problems.kept == 0)
        fail_msg("this was accepted:\n%s", text);
    if (strcmp(got, lines) != 0)
        fail_msg("for\n%sgot\n%sin place of\n%s", text, got, lines);
    assert_int_equal(problems.count, problems.kept);
    config_problems_release(&problems);
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
