#include "bitflow/config/diagnostics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Stands for texts that there was no memory for.
static const char out_of_memory[] = "out of memory";

void diagnostics_init(struct diagnostics *diagnostics, const char *file)
{
    *diagnostics = (struct diagnostics){.file = file};
}

static void free_texts(struct diagnostic *diagnostic)
{
    const char *const texts[] = {diagnostic->path, diagnostic->text, diagnostic->file, diagnostic->proxy};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i] != out_of_memory)
            free((char *)texts[i]);
}

void diagnostics_release(struct diagnostics *diagnostics)
{
    for (size_t i = 0; i < diagnostics->kept; i++)
        free_texts(&diagnostics->list[i]);
    diagnostics_init(diagnostics, diagnostics->file);
}

static bool is_before(struct yaml_mark a, struct yaml_mark b)
{
    return a.line < b.line || (a.line == b.line && a.column < b.column);
}

size_t diagnostics_left_out(const struct diagnostics *diagnostics, enum diagnostic_severity severity)
{
    size_t all = severity == DIAGNOSTIC_ERROR ? diagnostics->errors : diagnostics->warnings;
    return all > DIAGNOSTICS_MAX ? all - DIAGNOSTICS_MAX : 0;
}

static const char *copy(const char *text)
{
    if (text == NULL)
        return NULL;
    char *copied = strdup(text);
    return copied != NULL ? copied : out_of_memory;
}

// Makes room below the bound of the severity. False: what is at `mark` comes behind all of it.
static bool make_room(struct diagnostics *diagnostics, enum diagnostic_severity severity, struct yaml_mark mark)
{
    if (diagnostics_left_out(diagnostics, severity) == 0)
        return true;
    size_t last = diagnostics->kept - 1;
    while (diagnostics->list[last].severity != severity)
        last--;
    if (!is_before(mark, diagnostics->list[last].mark))
        return false;
    free_texts(&diagnostics->list[last]);
    diagnostics->kept--;
    memmove(&diagnostics->list[last], &diagnostics->list[last + 1],
            (diagnostics->kept - last) * sizeof diagnostics->list[0]);
    return true;
}

void diagnostics_add(struct diagnostics *diagnostics, const struct diagnostic *diagnostic)
{
    *(diagnostic->severity == DIAGNOSTIC_ERROR ? &diagnostics->errors : &diagnostics->warnings) += 1;
    if (!make_room(diagnostics, diagnostic->severity, diagnostic->mark))
        return;
    size_t at = diagnostics->kept;
    while (at > 0 && is_before(diagnostic->mark, diagnostics->list[at - 1].mark))
        at--;
    memmove(&diagnostics->list[at + 1], &diagnostics->list[at], (diagnostics->kept - at) * sizeof diagnostics->list[0]);
    diagnostics->kept++;
    struct diagnostic *kept = &diagnostics->list[at];
    *kept = *diagnostic;
    kept->path = copy(diagnostic->path);
    kept->text = copy(diagnostic->text);
    kept->file = copy(diagnostic->file);
    kept->proxy = copy(diagnostic->proxy);
}

void diagnostics_add_general(struct diagnostics *diagnostics, const char *text)
{
    diagnostics_add(diagnostics, &(struct diagnostic){.severity = DIAGNOSTIC_ERROR, .text = text});
}

bool diagnostics_has_error_at(const struct diagnostics *diagnostics, struct yaml_mark mark)
{
    for (size_t i = 0; i < diagnostics->kept; i++) {
        const struct diagnostic *diagnostic = &diagnostics->list[i];
        if (diagnostic->severity == DIAGNOSTIC_ERROR && diagnostic->mark.line == mark.line &&
            diagnostic->mark.column == mark.column)
            return true;
    }
    return false;
}

void diagnostic_format_place(const struct diagnostics *diagnostics, const struct diagnostic *diagnostic,
                             char out[DIAGNOSTIC_PLACE_SIZE])
{
    if (diagnostic->mark.line > 0)
        (void)snprintf(out, DIAGNOSTIC_PLACE_SIZE, "%.*s:%zu:%zu", PATH_MAX, diagnostics->file, diagnostic->mark.line,
                       diagnostic->mark.column);
    else
        (void)snprintf(out, DIAGNOSTIC_PLACE_SIZE, "%.*s", PATH_MAX, diagnostics->file);
}

void diagnostic_format(const struct diagnostics *diagnostics, const struct diagnostic *diagnostic,
                       char out[DIAGNOSTIC_LINE_SIZE])
{
    const char *severity = diagnostic->severity == DIAGNOSTIC_WARNING ? "warning: " : "";
    const char *path = diagnostic->path != NULL ? diagnostic->path : "";
    char place[DIAGNOSTIC_PLACE_SIZE];
    diagnostic_format_place(diagnostics, diagnostic, place);
    if (diagnostic->file != NULL)
        (void)snprintf(out, DIAGNOSTIC_LINE_SIZE, "%s: %sproxy %s: %.*s: %s", place, severity, diagnostic->proxy,
                       PATH_MAX, diagnostic->file, diagnostic->text);
    else
        (void)snprintf(out, DIAGNOSTIC_LINE_SIZE, "%s: %s%s%s%s", place, severity, path, *path != '\0' ? ": " : "",
                       diagnostic->text);
}
