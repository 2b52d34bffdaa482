// A relay that rests: it goes on on another thread, as if nothing had been.

#include "bitflow/tls/aead.h"
#include "relay_tls_rig.h"

#define MS(n) ((n) * NS_PER_MS)
#define REST_AFTER MS(40)
#define LATE MS(2000)

static void await_rests(struct rig *rig, unsigned count)
{
    int64_t limit = deadline_after(PATIENCE);
    while (atomic_load(&rig->rests) < count) {
        if (deadline_left(limit) == 0)
            fail_msg("%u rests, not %u", atomic_load(&rig->rests), count);
        (void)poll(NULL, 0, 2);
    }
}

static void start(struct rig *rig, enum rig_kind kind)
{
    rig_init(rig, kind, kind, 0);
    rig->relay.rest_after = REST_AFTER;
    rig_start(rig);
}

// It may rest once more between the two ends.
static void finish(struct rig *rig, unsigned rests)
{
    assert_int_equal(atomic_load(&rig->rests), rests);
    MUST(shutdown(rig->client, SHUT_WR) == 0);
    assert_int_equal(rig_next(rig->target), RIG_EOF);
    MUST(shutdown(rig->target, SHUT_WR) == 0);
    rig_join(rig);
    rig_assert_ended(rig, CLOSE_COMPLETED, ENDED_BY_CLIENT);
    rig_release(rig);
}

static void test_it_goes_on_after_each_rest(void **state)
{
    (void)state;
    struct rig rig;
    start(&rig, RIG_TCP);
    await_rests(&rig, 1);
    rig_pass(rig.client, rig.target, "question");
    rig_pass(rig.target, rig.client, "answer");
    await_rests(&rig, 2);
    rig_pass(rig.target, rig.client, "news");
    await_rests(&rig, 3); // what was passed on is counted by then
    assert_int_equal(rig_bytes(&rig, RELAY_CLIENT), strlen("question"));
    assert_int_equal(rig_bytes(&rig, RELAY_TARGET), strlen("answernews"));
    finish(&rig, 3);
}

// Nothing but what comes ends a rest: it takes no thread after the other.
static void test_a_silence_has_one_rest(void **state)
{
    (void)state;
    struct rig rig;
    start(&rig, RIG_UNIX);
    await_rests(&rig, 1);
    (void)poll(NULL, 0, (int)(8 * REST_AFTER / NS_PER_MS));
    assert_int_equal(atomic_load(&rig.rests), 1);
    rig_pass(rig.client, rig.target, "news");
    finish(&rig, 1);
}

static void test_rests_that_are_short_come_later(void **state)
{
    (void)state;
    struct rig rig;
    start(&rig, RIG_TCP);
    for (unsigned i = 1; i <= 3; i++) {
        await_rests(&rig, i);
        rig_pass(rig.client, rig.target, "heartbeat");
    }
    int64_t last = clock_now();
    await_rests(&rig, 4);
    assert_true(clock_now() - last >= 8 * REST_AFTER - MS(10));
    finish(&rig, 4);
}

// What was read in a burst has its room on the heap, and a flow in bulk a pipe and a second thread: all is given back
// before the rest.
static void test_it_rests_after_bulk(void **state)
{
    (void)state;
    struct rig rig;
    enum rig_end end;
    uint64_t size = (uint64_t)4 << 20;
    start(&rig, RIG_TCP);
    MUST(rig_send(rig.client, 1, 0, 1000) == 1000);
    assert_int_equal(rig_receive(rig.target, 1, 0, 1000, &end), 1000);
    for (uint64_t at = 1000; at < size; at += 64000) {
        MUST(rig_send(rig.client, 1, at, 64000) == 64000);
        assert_int_equal(rig_receive(rig.target, 1, at, 64000, &end), 64000);
    }
    await_rests(&rig, 1);
    rig_pass(rig.target, rig.client, "thanks");
    finish(&rig, atomic_load(&rig.rests));
}

static void test_a_half_closed_one_rests(void **state)
{
    (void)state;
    struct rig rig;
    start(&rig, RIG_TCP);
    rig_pass(rig.client, rig.target, "question");
    MUST(shutdown(rig.client, SHUT_WR) == 0);
    assert_int_equal(rig_next(rig.target), RIG_EOF);
    await_rests(&rig, 1);
    rig_pass(rig.target, rig.client, "answer");
    MUST(shutdown(rig.target, SHUT_WR) == 0);
    rig_join(&rig);
    rig_assert_ended(&rig, CLOSE_COMPLETED, ENDED_BY_CLIENT);
    rig_release(&rig);
}

static void test_a_reset_ends_a_rest(void **state)
{
    (void)state;
    struct rig rig;
    start(&rig, RIG_TCP);
    rig_pass(rig.client, rig.target, "question");
    await_rests(&rig, 1);
    rig_reset_far(&rig.client);
    rig_join(&rig);
    rig_assert_ended(&rig, CLOSE_CLIENT_RESET, ENDED_BY_CLIENT);
    rig_assert_resets(&rig, false, true);
    rig_release(&rig);
}

static void test_it_is_ended_from_outside(void **state)
{
    (void)state;
    struct rig rig;
    start(&rig, RIG_TCP);
    await_rests(&rig, 1);
    rig_end(&rig, CLOSE_LIFETIME);
    rig_join(&rig);
    rig_assert_ended(&rig, CLOSE_LIFETIME, ENDED_BY_PROXY);
    rig_release(&rig);
}

// It counts from the last byte, over the rest.
static void test_the_read_timeout_goes_on_over_it(void **state)
{
    (void)state;
    struct rig rig;
    const int64_t timeout = 8 * REST_AFTER;
    rig_init(&rig, RIG_TCP, RIG_TCP, 0);
    rig.relay.rest_after = REST_AFTER;
    rig.relay.sockets[RELAY_TARGET].read_timeout = timeout;
    rig_start(&rig);
    int64_t last = clock_now();
    rig_pass(rig.target, rig.client, "hello");
    rig_join(&rig);
    rig_assert_ended(&rig, CLOSE_TARGET_READ_TIMEOUT, ENDED_BY_PROXY);
    assert_true(rig.ended - last >= timeout - MS(10));
    assert_within(last, rig.ended, timeout + LATE);
    assert_int_equal(rig.rests, 1);
    rig_release(&rig);
}

// While a write waits there is no rest, and none while a part of a record has come: it lies on the stack.
static void test_it_does_not_rest_while_a_record_is_under_way(void **state)
{
    (void)state;
    for (size_t i = 0; i < TLS_WAYS; i++) {
        struct tls_case of = {.way = tls_ways[i],
                              .side = tls_ways[i].is_tls[RELAY_CLIENT] ? RELAY_CLIENT : RELAY_TARGET};
        struct tls_rig t;
        uint8_t out[1000];
        if (of.way.in_bulk)
            continue;
        tls_rig_init(&t, &of);
        t.rig.relay.rest_after = REST_AFTER;
        size_t size = far_seal(t.from, 500, 500, out);
        far_write(t.from, out, size - 1);
        rig_start(&t.rig);
        (void)poll(NULL, 0, (int)(5 * REST_AFTER / NS_PER_MS));
        assert_int_equal(atomic_load(&t.rig.rests), 0);
        far_write(t.from, out + size - 1, 1);
        far_receive_all_sent(&t, t.to);
        await_rests(&t.rig, 1);
        far_send(t.to, 20000, 16384);
        far_receive_all_sent(&t, t.from);
        far_send(t.from, 20000, 16384);
        far_receive_all_sent(&t, t.to);
        far_finish(t.from);
        assert_int_equal(far_receive_end(&t, t.to), FAR_CLOSED);
        far_finish(t.to);
        rig_join(&t.rig);
        rig_assert_ended(&t.rig, CLOSE_COMPLETED, t.ended_by);
        tls_rig_release(&t);
    }
}

static int prepare(void **state)
{
    (void)state;
    rig_prepare();
    MUST(aead_prepare(NULL));
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_goes_on_after_each_rest),
        cmocka_unit_test(test_a_silence_has_one_rest),
        cmocka_unit_test(test_rests_that_are_short_come_later),
        cmocka_unit_test(test_it_rests_after_bulk),
        cmocka_unit_test(test_a_half_closed_one_rests),
        cmocka_unit_test(test_a_reset_ends_a_rest),
        cmocka_unit_test(test_it_is_ended_from_outside),
        cmocka_unit_test(test_the_read_timeout_goes_on_over_it),
        cmocka_unit_test(test_it_does_not_rest_while_a_record_is_under_way),
    };
    return cmocka_run_group_tests(tests, prepare, NULL);
}
