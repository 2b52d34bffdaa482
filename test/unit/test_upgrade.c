// The half of an upgrade that hands over, with programs that do not behave; and how a new process learns its role.

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/base/signals.h"
#include "net_rig.h"
#include "server/program.h"
#include "server/upgrade.h"
#include "server/upgrade_channel.h"

static char directory[] = "/tmp/bitflow-upgrade-XXXXXX";
static char program[64];
static char option[] = "--config", file[] = "x";

static struct upgrade new_upgrade(void)
{
    return (struct upgrade){
        .time = UPGRADE_TIME, .channel = -1, .origin = -1, .deadline = DEADLINE_NONE, .role = UPGRADE_FIRST};
}

static void write_program(const char *text)
{
    FILE *stream = fopen(program, "w");
    if (stream == NULL)
        abort();
    assert_true(fputs(text, stream) >= 0);
    assert_int_equal(fclose(stream), 0);
    assert_int_equal(chmod(program, 0755), 0);
}

static enum upgrade_news wait_news(struct upgrade *upgrade)
{
    enum upgrade_news news;
    int64_t limit = rig_limit();
    while ((news = upgrade_look(upgrade)) == UPGRADE_NO_NEWS && deadline_left(limit) > 0)
        (void)signals_wait(deadline_sooner(limit, upgrade_deadline(upgrade)));
    return news;
}

static bool is_running(pid_t process)
{
    return kill(process, 0) == 0;
}

static void test_a_program_that_hangs_is_ended_at_the_bound(void **state)
{
    (void)state;
    struct upgrade upgrade = new_upgrade();
    upgrade.time = 100 * NS_PER_MS;
    write_program("#!/bin/sh\nexec sleep 600\n");
    int64_t begin = clock_now();
    upgrade_begin(&upgrade, false);
    assert_true(upgrade_is_under_way(&upgrade));
    pid_t process = upgrade.successor;
    assert_true(is_running(process));
    assert_int_equal(wait_news(&upgrade), UPGRADE_FAILED);
    assert_true(clock_now() - begin >= 100 * NS_PER_MS);
    assert_false(is_running(process));
    assert_false(upgrade_is_under_way(&upgrade));
    assert_true(upgrade.channel == -1 && upgrade.deadline == DEADLINE_NONE);
}

static void test_the_end_of_a_program_is_noticed_at_once(void **state)
{
    (void)state;
    struct upgrade upgrade = new_upgrade();
    write_program("#!/bin/sh\nexit 7\n");
    upgrade_begin(&upgrade, false);
    int64_t begin = clock_now();
    assert_int_equal(wait_news(&upgrade), UPGRADE_FAILED);
    assert_true(clock_now() - begin < UPGRADE_TIME);
}

static void test_a_reload_meanwhile_is_remembered(void **state)
{
    (void)state;
    struct upgrade upgrade = new_upgrade();
    assert_false(upgrade_postpones_reload(&upgrade));
    write_program("#!/bin/sh\nexec sleep 600\n");
    upgrade_begin(&upgrade, false);
    assert_true(upgrade_postpones_reload(&upgrade));
    upgrade_give_up(&upgrade);
    assert_false(upgrade_is_under_way(&upgrade));
    assert_true(upgrade.is_reload_due);
}

static void test_only_one_is_under_way(void **state)
{
    (void)state;
    struct upgrade upgrade = new_upgrade();
    write_program("#!/bin/sh\nexec sleep 600\n");
    upgrade_begin(&upgrade, false);
    pid_t process = upgrade.successor;
    upgrade_begin(&upgrade, false);
    assert_int_equal(upgrade.successor, process);
    upgrade_give_up(&upgrade);
    assert_false(is_running(process));
}

// A stand-in is asked for the sockets, and hears how it went.
static void test_a_stand_in_gives_the_sockets_back(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    struct upgrade upgrade = new_upgrade();
    upgrade.role = UPGRADE_STAND_IN;
    upgrade.origin = ends[0];
    upgrade.former = getpid();
    upgrade_begin(&upgrade, false); // refused
    assert_false(upgrade_is_under_way(&upgrade));
    for (int round = 0; round < 2; round++) {
        struct error error = ERROR_INIT;
        upgrade_channel_say(ends[1], UPGRADE_WORD_GIVE);
        assert_int_equal(upgrade_look(&upgrade), UPGRADE_NO_NEWS);
        assert_true(upgrade_is_under_way(&upgrade));
        assert_true(handover_receive(ends[1], rig_limit(), &error));
        upgrade_channel_say(ends[1], round == 0 ? UPGRADE_WORD_FAIL : UPGRADE_WORD_SERVE);
        assert_int_equal(upgrade_look(&upgrade), round == 0 ? UPGRADE_FAILED : UPGRADE_SERVES);
        handover_close_rest();
    }
    assert_int_equal(upgrade.state, UPGRADE_DONE);
    (void)close(ends[0]);
    (void)close(ends[1]);
}

static void test_signals_during_the_drain(void **state)
{
    (void)state;
    struct upgrade upgrade = new_upgrade();
    assert_string_equal(upgrade_hear_in_drain(&upgrade, SIGTERM), "of a second signal");
    assert_null(upgrade_hear_in_drain(&upgrade, SIGHUP));
    upgrade.state = UPGRADE_DONE;
    assert_null(upgrade_hear_in_drain(&upgrade, SIGUSR2));
    assert_null(upgrade_hear_in_drain(&upgrade, SIGTERM));
    assert_string_equal(upgrade_hear_in_drain(&upgrade, SIGINT), "of a second signal");
}

// Sends this process SIGTERM, itself or from a child, and takes it.
static void be_told_to_end(bool is_by_child)
{
    pid_t sender = getpid();
    if (!is_by_child) {
        assert_int_equal(kill(getpid(), SIGTERM), 0);
    } else {
        sender = fork();
        if (sender == 0)
            _exit(kill(getppid(), SIGTERM) == 0 ? 0 : 1);
        assert_true(sender > 0);
        assert_int_equal(waitpid(sender, NULL, 0), sender);
    }
    assert_int_equal(signals_wait(rig_limit()), SIGTERM);
    assert_int_equal(signals_sender(), sender);
}

// Each time by the process that this one stands in for, and by somebody else, in either order.
static void test_an_end_that_comes_both_ways_is_one(void **state)
{
    (void)state;
    struct upgrade upgrade = new_upgrade();
    upgrade.role = UPGRADE_STAND_IN;
    upgrade.former = getpid();
    static const struct {
        bool is_by_child, is_echo;
    } rounds[] = {{true, false}, {false, true}, {false, false}, {true, true}, {true, false}, {true, false}};
    for (size_t i = 0; i < ARRAY_LENGTH(rounds); i++) {
        be_told_to_end(rounds[i].is_by_child);
        assert_false(upgrade_is_echo(&upgrade, SIGHUP));
        assert_int_equal(upgrade_is_echo(&upgrade, SIGTERM), rounds[i].is_echo);
    }
    upgrade = new_upgrade(); // nobody passes anything on to it
    be_told_to_end(true);
    assert_false(upgrade_is_echo(&upgrade, SIGTERM));
    be_told_to_end(false);
    assert_false(upgrade_is_echo(&upgrade, SIGTERM));
}

static void set_variable(const struct upgrade_origin *origin)
{
    char text[UPGRADE_VARIABLE_SIZE];
    upgrade_origin_write(origin, text);
    assert_int_equal(strncmp(text, UPGRADE_VARIABLE "=", strlen(UPGRADE_VARIABLE "=")), 0);
    assert_int_equal(setenv(UPGRADE_VARIABLE, text + strlen(UPGRADE_VARIABLE "="), 1), 0);
}

static void test_a_role_is_read_once(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    const struct upgrade_origin told = {.role = UPGRADE_STAND_IN, .channel = ends[1], .process = getpid()};
    set_variable(&told);
    struct upgrade_origin read = upgrade_origin_read();
    assert_int_equal(read.role, UPGRADE_STAND_IN);
    assert_int_equal(read.channel, ends[1]);
    assert_int_equal(read.process, getpid());
    assert_null(getenv(UPGRADE_VARIABLE));
    assert_int_equal(upgrade_origin_read().role, UPGRADE_FIRST);

    // Not of that process; not a channel; of no child of ours.
    const struct upgrade_origin wrong[] = {
        {.role = UPGRADE_SUCCESSOR, .channel = ends[1], .process = getpid() + 1},
        {.role = UPGRADE_SUCCESSOR, .channel = STDERR_FILENO, .process = getpid()},
        {.role = UPGRADE_RETURNED, .channel = ends[1], .process = 1},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++) {
        set_variable(&wrong[i]);
        assert_int_equal(upgrade_origin_read().role, UPGRADE_FIRST);
    }
    (void)close(ends[0]);
    (void)close(ends[1]);
}

static void test_the_program_is_found_by_name_and_by_path(void **state)
{
    (void)state;
    char own[256], *arguments[] = {own, NULL};
    ssize_t length = readlink("/proc/self/exe", own, sizeof own - 1);
    assert_true(length > 0);
    own[length] = '\0';
    char *name = strrchr(own, '/') + 1;
    program_remember(arguments);
    assert_string_equal(program_path(), own);

    char expected[256], path[512];
    memcpy(expected, own, sizeof own);
    (void)snprintf(path, sizeof path, "/nowhere:%.*s", (int)(name - own - 1), own);
    assert_int_equal(setenv("PATH", path, 1), 0);
    arguments[0] = name;
    program_remember(arguments);
    assert_string_equal(program_path(), expected);

    char other[] = "/bin/sh"; // a name that is not the program's
    arguments[0] = other;
    program_remember(arguments);
    assert_string_equal(program_path(), expected);
}

static int set_up(void **state)
{
    (void)state;
    static char *arguments[] = {program, option, file, NULL};
    signals_init();
    // The tests' own program is what this process runs: the copy stands for it, and is replaced then.
    if (mkdtemp(directory) == NULL)
        return -1;
    (void)snprintf(program, sizeof program, "%s/program", directory);
    if (symlink("/proc/self/exe", program) != 0)
        return -1;
    program_remember(arguments);
    return strcmp(program_path(), program) == 0 ? unlink(program) : -1;
}

static int tear_down(void **state)
{
    (void)state;
    (void)unlink(program);
    return rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_program_that_hangs_is_ended_at_the_bound),
        cmocka_unit_test(test_the_end_of_a_program_is_noticed_at_once),
        cmocka_unit_test(test_a_reload_meanwhile_is_remembered),
        cmocka_unit_test(test_only_one_is_under_way),
        cmocka_unit_test(test_a_stand_in_gives_the_sockets_back),
        cmocka_unit_test(test_signals_during_the_drain),
        cmocka_unit_test(test_an_end_that_comes_both_ways_is_one),
        cmocka_unit_test(test_a_role_is_read_once),
        cmocka_unit_test(test_the_program_is_found_by_name_and_by_path),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
