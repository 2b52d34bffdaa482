#include "at_once.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

// Enough for what waits, and few enough for those that compute after all.
#define PROCESSES_MAX 8

struct job {
    pid_t pid; // 0: none
    int output;
    const char *name;
};

static void require(bool condition, const char *what)
{
    if (condition)
        return;
    (void)fprintf(stderr, "tests at once: %s: %s\n", what, strerror(errno));
    exit(EXIT_FAILURE);
}

static void run_here(const struct at_once_group *group, const struct CMUnitTest *test, pid_t parent, int output)
{
    require(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent, "the test's program is gone");
    require(dup2(output, STDOUT_FILENO) >= 0 && dup2(output, STDERR_FILENO) >= 0, "dup2");
    if (group->prepare != NULL)
        group->prepare();
    exit(_cmocka_run_group_tests(group->name, test, 1, NULL, NULL) == 0 ? EXIT_SUCCESS : EXIT_FAILURE);
}

static void start(struct job *job, const struct at_once_group *group, const struct CMUnitTest *test)
{
    int output = memfd_create("output", MFD_CLOEXEC);
    pid_t parent = getpid();
    require(output >= 0 && fflush(NULL) == 0, "its output");
    pid_t child = fork();
    require(child >= 0, "fork");
    if (child == 0)
        run_here(group, test, parent, output);
    *job = (struct job){.pid = child, .output = output, .name = test->name};
}

static void print_output(int output)
{
    char buffer[4096];
    ssize_t n;
    require(lseek(output, 0, SEEK_SET) == 0, "its output");
    while ((n = read(output, buffer, sizeof buffer)) > 0)
        (void)fwrite(buffer, 1, (size_t)n, stdout);
    (void)fflush(stdout);
    (void)close(output);
}

// Waits for one to end. Returns whether it failed.
static bool finish_one(struct job jobs[PROCESSES_MAX])
{
    int status;
    pid_t pid = waitpid(-1, &status, 0);
    require(pid > 0, "waitpid");
    for (size_t i = 0; i < PROCESSES_MAX; i++) {
        if (jobs[i].pid != pid)
            continue;
        print_output(jobs[i].output);
        if (WIFSIGNALED(status))
            (void)printf("[  FAILED  ] %s: %s\n", jobs[i].name, strsignal(WTERMSIG(status)));
        jobs[i].pid = 0;
    }
    return status != 0;
}

static struct job *free_place(struct job jobs[PROCESSES_MAX])
{
    for (size_t i = 0; i < PROCESSES_MAX; i++)
        if (jobs[i].pid == 0)
            return &jobs[i];
    return NULL;
}

static bool is_idle(const struct job jobs[PROCESSES_MAX])
{
    for (size_t i = 0; i < PROCESSES_MAX; i++)
        if (jobs[i].pid != 0)
            return false;
    return true;
}

int at_once_run(const struct at_once_group *groups, size_t count)
{
    struct job jobs[PROCESSES_MAX] = {{0}};
    int failed = 0;
    for (size_t i = 0; i < count; i++) {
        for (size_t test = 0; test < groups[i].count; test++) {
            struct job *place;
            while ((place = free_place(jobs)) == NULL)
                failed += finish_one(jobs);
            start(place, &groups[i], &groups[i].tests[test]);
        }
    }
    while (!is_idle(jobs))
        failed += finish_one(jobs);
    return failed;
}
