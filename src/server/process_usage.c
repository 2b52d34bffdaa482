#include "process_usage.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static uint64_t milliseconds(const struct timeval *time)
{
    return (uint64_t)time->tv_sec * 1000 + (uint64_t)time->tv_usec / 1000;
}

// Field `number` (from 0) of a line of numbers; 0: there is none.
static uint64_t read_number(const char *path, unsigned number)
{
    char line[512];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, line, sizeof line - 1);
    if (fd >= 0)
        (void)close(fd);
    if (length <= 0)
        return 0;
    line[length] = '\0';
    char *at = line;
    for (; number > 0 && at != NULL; number--) {
        at = strchr(at, ' ');
        at = at == NULL ? NULL : at + 1;
    }
    return at == NULL ? 0 : strtoull(at, NULL, 10);
}

static uint64_t count_entries(const char *path)
{
    uint64_t count = 0;
    DIR *directory = opendir(path);
    if (directory == NULL)
        return 0;
    const struct dirent *entry;
    while ((entry = readdir(directory)) != NULL)
        count += *entry->d_name != '.';
    (void)closedir(directory);
    return count;
}

// Since Linux 6.2 the directory's size tells it, which saves looking at each of what may be many thousands.
static uint64_t count_descriptors(void)
{
    struct stat status;
    if (stat("/proc/self/fd", &status) == 0 && status.st_size > 0)
        return (uint64_t)status.st_size;
    uint64_t count = count_entries("/proc/self/fd");
    return count > 0 ? count - 1 : 0; // without the one that it took to look
}

void process_usage(struct process_usage *usage)
{
    struct rusage rusage;
    struct rlimit limit = {.rlim_cur = 0};
    struct stat tasks = {.st_nlink = 2};
    (void)getrusage(RUSAGE_SELF, &rusage);
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    (void)stat("/proc/self/task", &tasks); // a link for each thread, beside . and ..
    *usage = (struct process_usage){
        .user_ms = milliseconds(&rusage.ru_utime),
        .system_ms = milliseconds(&rusage.ru_stime),
        .resident = read_number("/proc/self/statm", 1) * (uint64_t)sysconf(_SC_PAGESIZE),
        .descriptors = count_descriptors(),
        .descriptor_limit = limit.rlim_cur,
        .threads = tasks.st_nlink > 2 ? tasks.st_nlink - 2 : 0,
    };
}
