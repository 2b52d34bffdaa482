#include "file_checks.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "bitflow/base/output.h"
#include "value_hints.h"

// Whether the path's last part could be made. What cannot be looked at is not known.
static void check_directory(const struct config_path *at, const char *path, struct diagnostics *diagnostics)
{
    const char *slash = strrchr(path, '/');
    char directory[PATH_MAX];
    struct stat status;
    if (slash == NULL || slash == path || hint_has_variable(path)) // of a variable it has been told
        return;
    int length = snprintf(directory, sizeof directory, "%.*s", (int)(slash - path), path);
    if (length < 0 || (size_t)length >= sizeof directory)
        return;
    char quoted[QUOTED_TEXT_SIZE];
    bool is_there = stat(directory, &status) == 0;
    if (is_there ? !S_ISDIR(status.st_mode) : errno == ENOTDIR)
        report_warning_at_value(diagnostics, at, "%s is not a directory: the start will fail",
                                quote_text(directory, strlen(directory), quoted));
    else if (!is_there && errno == ENOENT)
        report_warning_at_value(diagnostics, at,
                                "the directory %s does not exist: unless it does by then, the start will fail",
                                quote_text(directory, strlen(directory), quoted));
}

void check_socket_to_make(const struct config_path *at, const struct address *address, struct diagnostics *diagnostics)
{
    struct stat status;
    if (address->kind != ADDRESS_UNIX || address->is_abstract)
        return;
    if (lstat(address->path, &status) != 0)
        check_directory(at, address->path, diagnostics);
    else if (!S_ISSOCK(status.st_mode))
        report_warning_at_value(diagnostics, at,
                                "what is there is not a socket, and is not replaced: the start will fail");
}

static void check_log(const struct config_path *at, const char *path, struct diagnostics *diagnostics)
{
    struct stat status;
    if (path == NULL || output_standard(path) >= 0)
        return;
    if (stat(path, &status) != 0)
        check_directory(at, path, diagnostics);
    else if (S_ISDIR(status.st_mode))
        report_warning_at_value(diagnostics, at, "is a directory, not a file: the start will fail");
}

void check_files_to_make(const struct config_path *proxy, const struct proxy_config *config,
                         struct diagnostics *diagnostics)
{
    struct config_path listener = path_key(proxy, "listener");
    struct config_path address = path_key(&listener, "address");
    struct config_path options = path_key(proxy, "options");
    struct config_path log = path_key(&options, "connection_log");
    check_socket_to_make(&address, &config->listener.address, diagnostics);
    check_log(&log, config->connection_log, diagnostics);
}
