#include "control_processes.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control_client.h"

// More of them drain at a time only where upgrades follow each other by the minute.
#define BESIDE_MAX 64

struct pids {
    int64_t list[BESIDE_MAX];
    size_t count;
};

bool control_process_address(struct address *address, int64_t pid, struct error *error)
{
    char suffix[24];
    if (address->kind != ADDRESS_UNIX || address->is_abstract) {
        error_set(error, ERROR_INVALID, "a process that drains is asked beside a control socket that is unix:///path");
        return false;
    }
    int length = snprintf(suffix, sizeof suffix, ".%" PRId64, pid);
    size_t used = strlen(address->path);
    if (used + (size_t)length >= sizeof address->path) {
        error_set(error, ERROR_INVALID, "%s: its path leaves no room for %s", address->path, suffix);
        return false;
    }
    memcpy(address->path + used, suffix, (size_t)length + 1);
    return true;
}

// Of a file's name: PREFIX.PID. 0: it is another one.
static int64_t pid_of_name(const char *name, const char *prefix)
{
    size_t length = strlen(prefix);
    if (strncmp(name, prefix, length) != 0 || name[length] != '.')
        return 0;
    const char *digits = name + length + 1;
    size_t count = strlen(digits);
    return count > 0 && count <= 10 && strspn(digits, "0123456789") == count ? strtoll(digits, NULL, 10) : 0;
}

static int compare_pids(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

static void find_beside(const struct address *address, struct pids *found)
{
    char directory[sizeof address->path];
    const char *slash = address->kind == ADDRESS_UNIX && !address->is_abstract ? strrchr(address->path, '/') : NULL;
    found->count = 0;
    if (slash == NULL)
        return;
    (void)snprintf(directory, sizeof directory, "%.*s", (int)(slash - address->path) + 1, address->path);
    DIR *stream = opendir(directory);
    const struct dirent *entry;
    while (stream != NULL && found->count < BESIDE_MAX && (entry = readdir(stream)) != NULL) {
        int64_t pid = pid_of_name(entry->d_name, slash + 1);
        if (pid > 0)
            found->list[found->count++] = pid;
    }
    if (stream != NULL)
        (void)closedir(stream);
    qsort(found->list, found->count, sizeof found->list[0], compare_pids);
}

// What the process at `address` says of itself. NULL: the error says why not.
static json_t *ask_process(const struct address *address, int64_t timeout, struct error *error)
{
    char where[ADDRESS_TEXT_SIZE];
    struct control_answer answer;
    address_format(address, where);
    if (!control_ask(address, "GET", "/process", timeout, &answer, error))
        return NULL;
    json_t *process = answer.status == 200 ? json_loadb(answer.body, answer.length, 0, NULL) : NULL;
    free(answer.body);
    if (process != NULL && json_object_set_new(process, "socket", json_string(where)) == 0)
        return process;
    json_decref(process);
    error_set(error, ERROR_SYSTEM, "%s says nothing of its process: HTTP status %ld", where, answer.status);
    return NULL;
}

// A process that is there, and does not say what it is doing.
static json_t *unknown_process(const struct address *address, int64_t pid, const struct error *error)
{
    char where[ADDRESS_TEXT_SIZE];
    address_format(address, where);
    return json_pack("{s:I s:s s:s s:s}", "pid", (json_int_t)pid, "state", "unknown", "error", error->text, "socket",
                     where);
}

static void add_beside(json_t *list, const struct address *address, int64_t timeout)
{
    struct pids beside;
    find_beside(address, &beside);
    for (size_t i = 0; i < beside.count; i++) {
        struct address one = *address;
        struct error error = ERROR_INIT;
        if (!control_process_address(&one, beside.list[i], &error))
            continue; // no socket has such a path
        json_t *process = ask_process(&one, timeout, &error);
        if (process == NULL && error.code != ERROR_REFUSED) // otherwise its file is all that is left of it
            process = unknown_process(&one, beside.list[i], &error);
        if (process != NULL)
            (void)json_array_append_new(list, process);
    }
}

json_t *control_list_processes(const struct address *address, int64_t timeout, struct error *error)
{
    json_t *list = json_array();
    json_t *serving = ask_process(address, timeout, error);
    if (serving != NULL)
        (void)json_array_append_new(list, serving);
    add_beside(list, address, timeout);
    if (json_array_size(list) > 0)
        return json_pack("{s:o}", "processes", list);
    json_decref(list);
    return NULL;
}
