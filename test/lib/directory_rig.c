#include "directory_rig.h"

#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"

char directory[TEXT_SIZE];

const char *in(const char *name)
{
    static char paths[8][TEXT_SIZE];
    static unsigned next;
    char *path = paths[next++ % ARRAY_LENGTH(paths)];
    assert_true(snprintf(path, TEXT_SIZE, "%s/%s", directory, name) < TEXT_SIZE);
    return path;
}

void put_file(const char *name, const char *text)
{
    int fd = open(in(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(close(fd), 0);
}

void move_file(const char *from, const char *to)
{
    assert_int_equal(rename(in(from), in(to)), 0);
}

void link_to(const char *target, const char *name)
{
    assert_int_equal(symlink(target, in(name)), 0);
}

void make_directory(const char *name)
{
    assert_int_equal(mkdir(in(name), 0700), 0);
}

int enter_directory(void **state)
{
    (void)state;
    (void)snprintf(directory, sizeof directory, "/tmp/bitflow-watch-XXXXXX");
    if (mkdtemp(directory) == NULL)
        return 1;
    char real[PATH_MAX];
    if (realpath(directory, real) == NULL || strlen(real) >= sizeof directory)
        return 1;
    memcpy(directory, real, strlen(real) + 1);
    return 0;
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *where)
{
    (void)status;
    (void)kind;
    (void)where;
    return remove(path);
}

void remove_all(const char *path)
{
    assert_int_equal(nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
}

int leave_directory(void **state)
{
    (void)state;
    remove_all(directory);
    return 0;
}
