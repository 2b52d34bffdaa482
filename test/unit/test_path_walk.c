// Paths, followed link by link: which directory entries one depends on, and what tells that its file has changed.

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/path_walk.h"
#include "bitflow/base/compiler.h"
#include "directory_rig.h"

struct visits {
    char text[2048];
};

static void note(void *context, const char *where, const char *name)
{
    struct visits *visits = context;
    size_t used = strlen(visits->text);
    const char *shown = strncmp(where, directory, strlen(directory)) == 0 ? where + strlen(directory) : where;
    (void)snprintf(visits->text + used, sizeof visits->text - used, "%s:%s ", shown, name);
}

static struct path_state assert_walk(const char *path, const char *visits)
{
    struct visits seen = {.text = ""};
    struct path_state state = path_walk(path, note, &seen);
    assert_string_equal(seen.text, visits);
    return state;
}

static void test_each_link_on_the_way_counts(void **state)
{
    (void)state;
    make_directory("..1");
    put_file("..1/tls.crt", "a");
    link_to("..1", "..data");
    link_to("..data/tls.crt", "tls.crt");
    assert_true(assert_walk(in("tls.crt"), ":tls.crt :..data /..1:tls.crt ").is_there);
    assert_true(assert_walk(in("./..1//./tls.crt"), "/..1:tls.crt ").is_there);
    assert_true(
        assert_walk(in("..data/../tls.crt"), ":..data /..1/..:tls.crt /..1/..:..data /..1/../..1:tls.crt ").is_there);
    link_to(in("..data"), "absolute");
    assert_true(assert_walk(in("absolute/tls.crt"), ":absolute :..data /..1:tls.crt ").is_there);
}

static void test_what_is_missing_is_waited_for_where_it_is_missing(void **state)
{
    (void)state;
    assert_false(assert_walk(in("a/b/c"), ":a ").is_there);
    make_directory("a");
    assert_false(assert_walk(in("a/b/c"), "/a:b ").is_there);
    put_file("a/b", "a file, not a directory");
    assert_false(assert_walk(in("a/b/c"), "/a:b ").is_there);
    link_to("nowhere", "broken");
    assert_false(assert_walk(in("broken"), ":broken :nowhere ").is_there);
}

static void test_a_path_without_end_has_one(void **state)
{
    (void)state;
    static char path[3 * PATH_MAX];
    link_to("loop", "loop");
    assert_false(path_walk(in("loop"), NULL, NULL).is_there);
    memset(path, 'x', sizeof path - 1);
    assert_false(path_walk(path, NULL, NULL).is_there);
    assert_false(path_walk("", NULL, NULL).is_there);
    (void)snprintf(path, sizeof path, "%s/%0*d", directory, NAME_MAX + 1, 0);
    assert_false(path_walk(path, NULL, NULL).is_there);
}

static void test_the_mark_is_another_one_after_each_change(void **state)
{
    (void)state;
    put_file("file", "a");
    uint64_t marks[6];
    marks[0] = path_walk(in("file"), NULL, NULL).mark;
    assert_int_equal(path_walk(in("file"), NULL, NULL).mark, marks[0]);
    put_file("file", "ab");
    marks[1] = path_walk(in("file"), NULL, NULL).mark;
    assert_int_equal(chmod(in("file"), 0640), 0);
    marks[2] = path_walk(in("file"), NULL, NULL).mark;
    assert_int_equal(unlink(in("file")), 0);
    marks[3] = path_walk(in("file"), NULL, NULL).mark;
    put_file("other", "ab");
    link_to("other", "file");
    marks[4] = path_walk(in("file"), NULL, NULL).mark;
    assert_int_equal(unlink(in("file")), 0);
    link_to("./other", "file");
    marks[5] = path_walk(in("file"), NULL, NULL).mark;
    for (size_t i = 0; i < ARRAY_LENGTH(marks); i++)
        for (size_t k = 0; k < i; k++)
            assert_true(marks[i] != marks[k]);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, enter_directory, leave_directory)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_each_link_on_the_way_counts),
        TEST(test_what_is_missing_is_waited_for_where_it_is_missing),
        TEST(test_a_path_without_end_has_one),
        TEST(test_the_mark_is_another_one_after_each_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
