#include "bitflow/config/diagnostics.h"

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

// A line's pieces, one after another, and the format that joins them in one call: stderr is written to unbuffered.
#define PIECES 9
#define PIECES_FORMAT "%s%s%s%s%s%s%s%s%s"
#define PIECES_OF(p) p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8]
#define POSITION_SIZE 64

static void take_apart(const struct diagnostics *diagnostics, const struct diagnostic *diagnostic,
                       char position[POSITION_SIZE], const char *pieces[PIECES])
{
    bool is_about_file = diagnostic->file != NULL;
    const char *subject = is_about_file ? diagnostic->file : diagnostic->path != NULL ? diagnostic->path : "";
    position[0] = '\0';
    if (diagnostic->mark.line > 0 && !is_about_file)
        (void)snprintf(position, POSITION_SIZE, ":%zu:%zu", diagnostic->mark.line, diagnostic->mark.column);
    pieces[0] = diagnostics->file;
    pieces[1] = position;
    pieces[2] = diagnostic->severity == DIAGNOSTIC_WARNING ? ": warning: " : ": ";
    pieces[3] = is_about_file ? "proxy " : "";
    pieces[4] = is_about_file ? diagnostic->proxy : "";
    pieces[5] = is_about_file ? ": " : "";
    pieces[6] = subject;
    pieces[7] = *subject != '\0' ? ": " : "";
    pieces[8] = diagnostic->text;
}

void diagnostic_format(const struct diagnostics *diagnostics, const struct diagnostic *diagnostic, char *out,
                       size_t size)
{
    char position[POSITION_SIZE];
    const char *pieces[PIECES];
    take_apart(diagnostics, diagnostic, position, pieces);
    (void)snprintf(out, size, PIECES_FORMAT, PIECES_OF(pieces));
}

static void print_left_out(const struct diagnostics *diagnostics, enum diagnostic_severity severity, const char *what,
                           FILE *to)
{
    size_t more = diagnostics_left_out(diagnostics, severity);
    if (more > 0)
        (void)fprintf(to, "%s: and %zu more %s\n", diagnostics->file, more, what);
}

void diagnostics_print(const struct diagnostics *diagnostics, FILE *to)
{
    for (size_t i = 0; i < diagnostics->kept; i++) {
        char position[POSITION_SIZE];
        const char *pieces[PIECES];
        take_apart(diagnostics, &diagnostics->list[i], position, pieces);
        (void)fprintf(to, PIECES_FORMAT "\n", PIECES_OF(pieces));
    }
    print_left_out(diagnostics, DIAGNOSTIC_ERROR, "problems", to);
    print_left_out(diagnostics, DIAGNOSTIC_WARNING, "warnings", to);
}
