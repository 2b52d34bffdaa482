// What there is to say about a configuration, in one list: errors, for which it is refused, and warnings of what has no
// effect or will soon be wrong. YAML, keys, the rules between them, and the files of certificates and keys all add to
// it. Two things are not in it: what holds for every configuration, which has a list of its own
// (server/loaded_config.h), and what only the open sockets tell, which server/listeners.c logs when it has opened them.
//
// It is kept in the file's order and bounded: of each severity the first DIAGNOSTICS_MAX by position are kept, the
// others are only counted. Whoever adds sees to it that no password or key is in a text. One thread at a time.

#ifndef BITFLOW_CONFIG_DIAGNOSTICS_H
#define BITFLOW_CONFIG_DIAGNOSTICS_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

// A position in a configuration file.
struct yaml_mark {
    size_t line;   // from 1; 0: none
    size_t column; // from 1, in characters
};

enum diagnostic_severity { DIAGNOSTIC_ERROR, DIAGNOSTIC_WARNING };
#define DIAGNOSTIC_SEVERITIES 2

struct diagnostic {
    enum diagnostic_severity severity;
    struct yaml_mark mark; // line 0: about no place in the file
    const char *path;      // of the key: server.proxies[0].name; NULL: none
    const char *text;
    // Of a warning about what another file holds: NULL otherwise.
    const char *file;  // a path that the configuration names
    const char *proxy; // the name of the one that uses it
};

#define DIAGNOSTICS_MAX 100 // of each severity

struct diagnostics {
    const char *file; // the configuration's, borrowed
    size_t errors;    // all of them, kept or not
    size_t warnings;
    size_t kept;
    struct diagnostic list[DIAGNOSTIC_SEVERITIES * DIAGNOSTICS_MAX]; // its texts are owned
};

void diagnostics_init(struct diagnostics *diagnostics, const char *file);
void diagnostics_release(struct diagnostics *diagnostics);

// Copies the texts. If there is no memory for that, it says so in place of them.
void diagnostics_add(struct diagnostics *diagnostics, const struct diagnostic *diagnostic);

// Adds an error with no position and no path: about the configuration as a whole.
void diagnostics_add_general(struct diagnostics *diagnostics, const char *text);

// Whether an error at exactly this position is kept.
bool diagnostics_has_error_at(const struct diagnostics *diagnostics, struct yaml_mark mark);

// How many of a severity have been left out.
size_t diagnostics_left_out(const struct diagnostics *diagnostics, enum diagnostic_severity severity);

#define DIAGNOSTIC_PLACE_SIZE (PATH_MAX + 64)
// Where it is: FILE:LINE:COL, or the file alone.
void diagnostic_format_place(const struct diagnostics *diagnostics, const struct diagnostic *diagnostic,
                             char out[DIAGNOSTIC_PLACE_SIZE]);

#define DIAGNOSTIC_LINE_SIZE (2 * PATH_MAX + 1024)
// The line that tells of it, without what there is not:
//   FILE:LINE:COL: key.path: text
//   FILE:LINE:COL: warning: key.path: text
//   FILE:LINE:COL: warning: proxy NAME: OTHER-FILE: text
void diagnostic_format(const struct diagnostics *diagnostics, const struct diagnostic *diagnostic,
                       char out[DIAGNOSTIC_LINE_SIZE]);

#endif
