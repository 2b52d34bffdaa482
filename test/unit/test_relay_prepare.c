// A target's socket without TCP_NODELAY and keepalive: the relay gives it both when they begin to matter.

#include "relay_rig.h"

static bool is_set(const struct rig *rig, int level, int option)
{
    int value = -1;
    socklen_t size = sizeof value;
    MUST(getsockopt(rig->relay.sockets[RELAY_TARGET].fd, level, option, &value, &size) == 0);
    return value != 0;
}

static bool is_prepared(const struct rig *rig)
{
    return is_set(rig, IPPROTO_TCP, TCP_NODELAY) && is_set(rig, SOL_SOCKET, SO_KEEPALIVE);
}

static void start(struct rig *rig, int64_t rest_after)
{
    int off = 0;
    rig_init(rig, RIG_TCP, RIG_TCP, 0);
    struct relay_socket *target = &rig->relay.sockets[RELAY_TARGET];
    target->is_unprepared = true;
    MUST(setsockopt(target->fd, IPPROTO_TCP, TCP_NODELAY, &off, sizeof off) == 0);
    rig->relay.rest_after = rest_after;
    rig_start(rig);
    rig_wait_blocked(rig, RELAY_CLIENT, SYS_poll, 1, 2);
}

static void end(struct rig *rig)
{
    rig_close_far(&rig->client);
    assert_int_equal(rig_next(rig->target), RIG_EOF);
    rig_close_far(&rig->target);
    rig_join(rig);
    rig_assert_ended(rig, CLOSE_COMPLETED, ENDED_BY_CLIENT);
    rig_release(rig);
}

static void test_one_request_and_its_answer_need_neither(void **state)
{
    (void)state;
    struct rig rig;
    start(&rig, 0);
    rig_pass(rig.client, rig.target, "question");
    rig_pass(rig.target, rig.client, "answer");
    assert_false(is_prepared(&rig));
    end(&rig);
}

static void test_both_are_there_before_the_second_write(void **state)
{
    (void)state;
    struct rig rig;
    start(&rig, 0);
    rig_pass(rig.client, rig.target, "question");
    rig_pass(rig.client, rig.target, "another one");
    assert_true(is_prepared(&rig));
    end(&rig);
}

static void test_silence_is_watched_by_keepalive(void **state)
{
    (void)state;
    struct rig rig;
    start(&rig, 20 * NS_PER_MS);
    for (int64_t until = clock_now() + PATIENCE; !is_prepared(&rig) && clock_now() < until;)
        MUST(usleep(1000) == 0);
    assert_true(is_prepared(&rig));
    rig_pass(rig.target, rig.client, "goes on");
    end(&rig);
}

// So fast that its silence may not be noticed.
static void test_many_messages_of_the_target_are_no_short_connection(void **state)
{
    (void)state;
    struct rig rig;
    start(&rig, 0);
    for (int i = 0; i < 100; i++)
        rig_pass(rig.target, rig.client, "tick");
    assert_true(is_prepared(&rig));
    end(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_request_and_its_answer_need_neither),
        cmocka_unit_test(test_both_are_there_before_the_second_write),
        cmocka_unit_test(test_silence_is_watched_by_keepalive),
        cmocka_unit_test(test_many_messages_of_the_target_are_no_short_connection),
    };
    rig_prepare();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
