// Files that are watched: what counts as a change, when it is told, and what of it inotify does not tell.

#include <poll.h>
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

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/base/file_watch.h"
#include "bitflow/base/mutex.h"
#include "directory_rig.h"

#define LIMIT (20 * NS_PER_S)
#define SETTLE (100 * NS_PER_MS)
#define SETTLE_MAX (600 * NS_PER_MS)
#define NEVER (3600 * NS_PER_S)
#define QUIET (300 * NS_PER_MS) // more than a change takes to be taken and to settle
// What was told, and when.
struct told {
    struct mutex lock;
    struct condition changed;
    unsigned count GUARDED;
    unsigned kinds GUARDED; // of the last time
    unsigned again GUARDED; // what the next times answer
    int64_t at GUARDED;
};

static unsigned take(void *context, unsigned kinds)
{
    struct told *told = context;
    mutex_lock(&told->lock);
    told->count++;
    told->kinds = kinds;
    told->at = clock_now();
    unsigned again = told->again;
    condition_signal(&told->changed);
    mutex_unlock(&told->lock);
    return again;
}

static void told_init(struct told *told)
{
    *told = (struct told){.lock = MUTEX_INIT};
    mutex_init(&told->lock);
    condition_init(&told->changed);
}

static unsigned count_of(struct told *told)
{
    mutex_lock(&told->lock);
    unsigned count = told->count;
    mutex_unlock(&told->lock);
    return count;
}

static void answer(struct told *told, unsigned again)
{
    mutex_lock(&told->lock);
    told->again = again;
    mutex_unlock(&told->lock);
}

// Waits until it was told `count` times; returns the kinds of the last one, `at` (may be NULL) when.
static unsigned await_told(struct told *told, unsigned count, int64_t *at)
{
    int64_t deadline = deadline_after(LIMIT);
    mutex_lock(&told->lock);
    while (told->count < count && deadline_left(deadline) > 0)
        condition_wait(&told->changed, &told->lock, deadline);
    bool is_good = told->count == count;
    unsigned kinds = told->kinds;
    if (at != NULL)
        *at = told->at;
    mutex_unlock(&told->lock);
    assert_true(is_good);
    return kinds;
}

static void assert_quiet(struct told *told, unsigned count)
{
    int64_t deadline = deadline_after(QUIET);
    while (deadline_left(deadline) > 0) {
        assert_int_equal(count_of(told), count);
        (void)poll(NULL, 0, 10);
    }
}

static struct file_watch_options options_for(struct told *told)
{
    told_init(told);
    return (struct file_watch_options){.settle = SETTLE,
                                       .settle_max = SETTLE_MAX,
                                       .interval = NEVER,
                                       .retry = NEVER,
                                       .retry_max = NEVER,
                                       .max_watches = 100,
                                       .on_change = take,
                                       .context = told};
}

static struct file_watch *start(const struct file_watch_options *options)
{
    struct error error = ERROR_INIT;
    struct file_watch *watch = file_watch_create(options, &error);
    if (watch == NULL)
        fail_msg("%s", error.text);
    return watch;
}

// From now on: the files are taken for read a while ago. Returns once they are watched.
static void set(struct file_watch *watch, struct told *told, const struct watched_file *files, size_t count)
{
    unsigned before = count_of(told);
    struct watched_file all[8];
    struct error error = ERROR_INIT;
    memcpy(all, files, count * sizeof *files);
    // One that is not there is told of at once, and so tells that the set was taken.
    all[count] = (struct watched_file){.path = "/nowhere/at/all", .kinds = 1U << 31};
    assert_true(file_watch_set(watch, all, count + 1, clock_wall() + 60 * NS_PER_S, &error));
    assert_true((await_told(told, before + 1, NULL) & 1U << 31) != 0);
}

static void watch_one(struct file_watch **watch, struct told *told, const char *name)
{
    const struct file_watch_options options = options_for(told);
    *watch = start(&options);
    set(*watch, told, &(struct watched_file){.path = in(name), .kinds = 1}, 1);
}

static void test_what_counts_as_a_change(void **state)
{
    (void)state;
    struct told told;
    struct file_watch *watch;
    put_file("file", "a");
    watch_one(&watch, &told, "file");
    unsigned count = 1;
    put_file("file", "b"); // in place
    assert_int_equal(await_told(&told, ++count, NULL), 1);
    put_file("new", "c");
    assert_quiet(&told, count); // another file
    move_file("new", "file");
    assert_int_equal(await_told(&told, ++count, NULL), 1);
    move_file("file", "file~"); // an editor's backup
    put_file("file", "d");
    assert_int_equal(await_told(&told, ++count, NULL), 1);
    assert_int_equal(unlink(in("file")), 0);
    assert_int_equal(await_told(&told, ++count, NULL), 1);
    put_file("file", "e");
    assert_int_equal(await_told(&told, ++count, NULL), 1);
    assert_int_equal(chmod(in("file"), 0400), 0);
    assert_int_equal(await_told(&told, ++count, NULL), 1);
    assert_quiet(&told, count);
    file_watch_destroy(&watch);
}

static void swap_data(const char *target)
{
    link_to(target, "..data_tmp");
    move_file("..data_tmp", "..data");
}

static void test_a_secret_is_rotated(void **state)
{
    (void)state;
    struct told told;
    struct file_watch *watch;
    make_directory("..0");
    put_file("..0/tls.crt", "a");
    link_to("..0", "..data");
    link_to("..data/tls.crt", "tls.crt");
    watch_one(&watch, &told, "tls.crt");
    unsigned count = 1;
    for (unsigned i = 1; i <= 5; i++) {
        char name[TEXT_SIZE];
        char file[2 * TEXT_SIZE];
        (void)snprintf(name, sizeof name, "..%u", i);
        (void)snprintf(file, sizeof file, "%s/tls.crt", name);
        make_directory(name);
        put_file(file, "b");
        swap_data(name);
        (void)snprintf(name, sizeof name, "..%u", i - 1);
        remove_all(in(name));
        assert_int_equal(await_told(&told, ++count, NULL), 1);
    }
    put_file("..5/tls.crt", "the directory that it leads to now is watched, too");
    assert_int_equal(await_told(&told, ++count, NULL), 1);
    assert_quiet(&told, count);
    file_watch_destroy(&watch);
}

static void test_a_directory_goes_and_comes_back(void **state)
{
    (void)state;
    struct told told;
    struct file_watch *watch;
    make_directory("tls");
    put_file("tls/file", "a");
    watch_one(&watch, &told, "tls/file");
    unsigned count = 1;
    remove_all(in("tls"));
    assert_int_equal(await_told(&told, ++count, NULL), 1);
    make_directory("tls");
    assert_int_equal(await_told(&told, ++count, NULL), 1);
    put_file("tls/file", "b");
    assert_int_equal(await_told(&told, ++count, NULL), 1);
    make_directory("next");
    put_file("next/file", "c");
    move_file("tls", "before");
    move_file("next", "tls");
    assert_int_equal(await_told(&told, ++count, NULL), 1);
    put_file("before/file", "not it any more");
    assert_quiet(&told, count);
    put_file("tls/file", "d");
    assert_int_equal(await_told(&told, ++count, NULL), 1);
    file_watch_destroy(&watch);
}

static void test_changes_settle_and_are_told_once(void **state)
{
    (void)state;
    struct told told;
    struct file_watch *watch;
    put_file("file", "a");
    watch_one(&watch, &told, "file");
    int64_t last = 0, at;
    for (unsigned i = 0; i < 5; i++) {
        last = clock_now();
        put_file("file", "b");
        (void)poll(NULL, 0, 20);
    }
    (void)await_told(&told, 2, &at);
    assert_true(at - last >= SETTLE);
    assert_quiet(&told, 2);
    file_watch_destroy(&watch);
}

static void test_changes_without_end_are_told_all_the_same(void **state)
{
    (void)state;
    struct told told;
    struct file_watch *watch;
    put_file("file", "a");
    watch_one(&watch, &told, "file");
    int64_t first = clock_now(), at;
    for (int64_t deadline = deadline_after(LIMIT); count_of(&told) < 2 && deadline_left(deadline) > 0;) {
        put_file("file", "b");
        (void)poll(NULL, 0, 10);
    }
    (void)await_told(&told, 2, &at);
    assert_true(at - first >= SETTLE_MAX);
    file_watch_destroy(&watch);
}

static void test_files_are_looked_at_where_nothing_is_told(void **state)
{
    (void)state;
    struct told told;
    struct file_watch_options options = options_for(&told);
    options.max_watches = 0;
    put_file("file", "a");
    struct file_watch *watch = start(&options);
    set(watch, &told, &(struct watched_file){.path = in("file"), .kinds = 1}, 1);
    put_file("file", "b");
    assert_quiet(&told, 1); // it is not time yet
    file_watch_destroy(&watch);
    options = options_for(&told);
    options.max_watches = 0;
    options.interval = 50 * NS_PER_MS;
    watch = start(&options);
    set(watch, &told, &(struct watched_file){.path = in("file"), .kinds = 1}, 1);
    put_file("file", "c");
    assert_int_equal(await_told(&told, 2, NULL), 1);
    assert_quiet(&told, 2);
    file_watch_destroy(&watch);
}

static void test_a_directory_further_up_is_renamed(void **state)
{
    (void)state;
    struct told told;
    struct file_watch_options options = options_for(&told);
    options.interval = 50 * NS_PER_MS;
    make_directory("a");
    make_directory("a/b");
    put_file("a/b/file", "a");
    make_directory("c");
    make_directory("c/b");
    put_file("c/b/file", "c");
    struct file_watch *watch = start(&options);
    set(watch, &told, &(struct watched_file){.path = in("a/b/file"), .kinds = 1}, 1);
    move_file("a", "d");
    move_file("c", "a");
    assert_int_equal(await_told(&told, 2, NULL), 1);
    file_watch_destroy(&watch);
}

static void test_what_changed_before_it_was_watched(void **state)
{
    (void)state;
    struct told told;
    const struct file_watch_options options = options_for(&told);
    struct error error = ERROR_INIT;
    put_file("file", "a");
    struct file_watch *watch = start(&options);
    const struct watched_file file = {.path = in("file"), .kinds = 4};
    assert_true(file_watch_set(watch, &file, 1, clock_wall(), &error)); // it was written a moment ago
    assert_int_equal(await_told(&told, 1, NULL), 4);
    assert_true(file_watch_set(watch, &file, 1, clock_wall() + 60 * NS_PER_S, &error));
    assert_quiet(&told, 1);
    file_watch_destroy(&watch);
}

static void test_kinds_are_told_apart(void **state)
{
    (void)state;
    struct told told;
    const struct file_watch_options options = options_for(&told);
    put_file("one", "a");
    put_file("two", "a");
    struct file_watch *watch = start(&options);
    const struct watched_file files[] = {{.path = in("one"), .kinds = 1}, {.path = in("two"), .kinds = 2}};
    set(watch, &told, files, 2);
    put_file("two", "b");
    assert_int_equal(await_told(&told, 2, NULL), 2);
    put_file("one", "b");
    put_file("two", "c");
    assert_int_equal(await_told(&told, 3, NULL), 3);
    set(watch, &told, files, 1); // the other one is not watched any more
    put_file("two", "d");
    assert_quiet(&told, 4);
    put_file("one", "c");
    assert_int_equal(await_told(&told, 5, NULL), 1);
    file_watch_destroy(&watch);
}

static void test_what_is_wanted_again_is_told_again(void **state)
{
    (void)state;
    struct told told;
    struct file_watch_options options = options_for(&told);
    options.retry = 100 * NS_PER_MS;
    options.retry_max = 250 * NS_PER_MS;
    put_file("file", "a");
    struct file_watch *watch = start(&options);
    set(watch, &told, &(struct watched_file){.path = in("file"), .kinds = 3}, 1);
    answer(&told, 2);
    put_file("file", "b");
    int64_t at[5];
    assert_int_equal(await_told(&told, 2, &at[0]), 3);
    for (unsigned i = 1; i < ARRAY_LENGTH(at); i++)
        assert_int_equal(await_told(&told, 2 + i, &at[i]), 2);
    assert_true(at[1] - at[0] >= 100 * NS_PER_MS);
    assert_true(at[2] - at[1] >= 200 * NS_PER_MS);
    assert_true(at[3] - at[2] >= 250 * NS_PER_MS);
    assert_true(at[4] - at[3] >= 250 * NS_PER_MS);
    answer(&told, 0);
    (void)await_told(&told, 7, NULL);
    assert_quiet(&told, 7);
    file_watch_destroy(&watch);
}

static void test_more_events_than_the_kernel_keeps(void **state)
{
    (void)state;
    struct told told;
    struct file_watch *watch;
    put_file("file", "a");
    watch_one(&watch, &told, "file");
    // Of the same two in turn none is left out as a repeat; 16384 are kept, unless somebody wanted more.
    for (unsigned i = 0; i < 40000; i++)
        put_file(i % 2 == 0 ? "x" : "y", "");
    put_file("file", "b");
    assert_int_equal(await_told(&told, 2, NULL), 1);
    assert_quiet(&told, 2);
    file_watch_destroy(&watch);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, enter_directory, leave_directory)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_what_counts_as_a_change),
        TEST(test_a_secret_is_rotated),
        TEST(test_a_directory_goes_and_comes_back),
        TEST(test_changes_settle_and_are_told_once),
        TEST(test_changes_without_end_are_told_all_the_same),
        TEST(test_files_are_looked_at_where_nothing_is_told),
        TEST(test_a_directory_further_up_is_renamed),
        TEST(test_what_changed_before_it_was_watched),
        TEST(test_kinds_are_told_apart),
        TEST(test_what_is_wanted_again_is_told_again),
        TEST(test_more_events_than_the_kernel_keeps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
