#include "config_text.h"

const struct config *load(const char *text, struct diagnostics *diagnostics)
{
    diagnostics_init(diagnostics, "f");
    return config_load_text(text, strlen(text), diagnostics);
}

const char *line_of(const struct diagnostics *diagnostics, size_t index)
{
    static char line[DIAGNOSTIC_LINE_SIZE];
    assert_true(index < diagnostics->kept);
    diagnostic_format(diagnostics, &diagnostics->list[index], line);
    return line;
}

void assert_said(const char *text, bool is_good, const char *lines)
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

void assert_problems(const char *text, const char *lines)
{
    assert_said(text, false, lines);
}

void assert_warnings(const char *text, const char *lines)
{
    assert_said(text, true, lines);
}
