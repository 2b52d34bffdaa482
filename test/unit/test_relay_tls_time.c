// A relay with TLS legs and time: timeouts and ends from outside. A stream that the relay cuts by itself must not look
// like a whole one.

#include "bitflow/base/compiler.h"
#include "relay_tls_rig.h"

#define MS(n) ((n) * NS_PER_MS)
#define TICK MS(10)
#define LATE MS(4000)

static void assert_cut(struct tls_rig *t)
{
    for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
        struct far *far = &t->fars[side];
        assert_int_equal(far_receive_end(t, far), far->is_tls ? FAR_CUT : FAR_CLOSED);
        assert_false(far->has_alert);
    }
}

// False: the message may have been late.
static bool fall_silent(const struct tls_case *of)
{
    const int64_t timeout = MS(1000);
    struct tls_rig t;
    tls_rig_init(&t, of);
    t.rig.relay.sockets[t.side].read_timeout = timeout;
    tls_rig_start(&t, t.way.in_bulk);
    int64_t last = clock_now();
    far_send(t.from, 100, 100);
    bool has_come = far_try_receive_all_sent(&t, t.to);
    if (!has_come && rig_is_excused(t.rig.began, timeout)) {
        tls_rig_abandon(&t);
        return false;
    }
    assert_true(has_come);
    rig_join(&t.rig);
    rig_assert_ended(&t.rig, tls_rig_reason(&t, CLOSE_CLIENT_READ_TIMEOUT, CLOSE_TARGET_READ_TIMEOUT), ENDED_BY_PROXY);
    rig_assert_resets(&t.rig, false, false);
    assert_true(t.rig.ended - last >= timeout - TICK);
    assert_within(last, t.rig.ended, LATE);
    assert_cut(&t);
    tls_rig_release(&t);
    return true;
}

static void test_a_read_timeout_cuts_both_streams(void **state)
{
    RIG_TRY(fall_silent(*state));
}

static bool has_ended(struct tls_rig *t)
{
    return atomic_load(&t->rig.reason) != CLOSE_NONE;
}

// One record takes much longer than the read timeout to come, byte by byte: who sends it is not silent. Nor is who
// sends what brings no data. False: the bytes may have been late.
static bool send_slowly(bool in_bulk)
{
    const int64_t timeout = MS(600);
    const struct tls_case of = {.way = {.is_tls = {true, false}, .in_bulk = in_bulk}, .side = RELAY_CLIENT};
    struct tls_rig t;
    tls_rig_init(&t, &of);
    struct far *client = &t.fars[RELAY_CLIENT];
    t.rig.relay.sockets[RELAY_CLIENT].read_timeout = timeout;
    tls_rig_start(&t, in_bulk);
    uint8_t out[300];
    size_t size = far_seal(client, 20, 20, out), at = 0;
    int64_t began = clock_now();
    for (; at < size - 1 && !has_ended(&t); at++) {
        far_write(client, out + at, 1);
        MUST(usleep(40000) == 0);
    }
    bool is_partial = !has_ended(&t) && clock_now() - began > 2 * timeout;
    if (is_partial)
        far_write(client, out + at, size - at);
    for (unsigned i = 0; i < 30 && !has_ended(&t); i++) {
        far_send_record(client, TLS_APPLICATION_DATA, NULL, 0);
        MUST(usleep(40000) == 0);
    }
    bool goes_on = is_partial && !has_ended(&t);
    if (!goes_on && rig_is_excused(t.rig.began, timeout)) {
        tls_rig_abandon(&t);
        return false;
    }
    assert_true(goes_on);
    far_receive_all_sent(&t, &t.fars[RELAY_TARGET]);
    tls_rig_finish(&t, RELAY_CLIENT);
    return true;
}

static void test_a_record_that_comes_slowly_is_no_silence(void **state)
{
    (void)state;
    RIG_TRY(send_slowly(false));
    RIG_TRY(send_slowly(true));
}

static const struct tls_case to_a_tls_target = {.way = {.is_tls = {false, true}}, .side = RELAY_CLIENT};

// The close_notify itself cannot be written: that too is bound by the write timeout.
static void test_a_close_notify_that_cannot_be_written_runs_into_the_write_timeout(void **state)
{
    (void)state;
    struct tls_rig t;
    tls_rig_init_on(&t, &to_a_tls_target, RIG_TCP, 8192);
    t.rig.relay.sockets[RELAY_TARGET].write_timeout = MS(400);
    tls_rig_start(&t, false);
    far_stuff(&t.fars[RELAY_CLIENT]);
    MUST(shutdown(t.rig.client, SHUT_WR) == 0);
    rig_join(&t.rig);
    rig_assert_ended(&t.rig, CLOSE_TARGET_WRITE_TIMEOUT, ENDED_BY_PROXY);
    assert_int_equal(far_receive_end(&t, &t.fars[RELAY_TARGET]), FAR_RESET);
    assert_false(t.fars[RELAY_TARGET].has_closed);
    tls_rig_release(&t);
}

// One message after another until one is not written at once; returns how many were.
static unsigned fill_with_messages(struct tls_rig *t, unsigned most)
{
    struct far *client = &t->fars[RELAY_CLIENT];
    for (unsigned written = 0; written < most; written++) {
        uint64_t before = client->sent;
        far_send(client, 1000, 1000);
        tls_rig_wait_read(t, RELAY_CLIENT);
        int64_t since = clock_now();
        while (rig_bytes(&t->rig, RELAY_CLIENT) == before) {
            if (!lateness_is_within(since, clock_now(), MS(100)))
                return written;
            MUST(usleep(1000) == 0);
        }
    }
    return most;
}

// The close_notify is the first that has to wait, in a queue that is as full as it was when a write waited long ago:
// its time begins now. False: what is read may have been read late.
static bool close_behind_messages(void)
{
    const int64_t timeout = MS(2000);
    struct tls_rig t;
    int room = 8192;
    tls_rig_init_on(&t, &to_a_tls_target, RIG_UNIX, 0);
    MUST(setsockopt(t.rig.relay.sockets[RELAY_TARGET].fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room) == 0);
    t.rig.relay.sockets[RELAY_TARGET].write_timeout = timeout;
    tls_rig_start(&t, false);
    unsigned fit = fill_with_messages(&t, 1000);
    MUST(usleep(400000) == 0); // it has been looked at
    bool goes_on = far_try_receive_all_sent(&t, &t.fars[RELAY_TARGET]) && fill_with_messages(&t, fit) == fit;
    if (goes_on) {
        MUST(usleep(2200000) == 0);
        far_finish(&t.fars[RELAY_CLIENT]);
        MUST(usleep(300000) == 0);
        goes_on = !has_ended(&t);
    }
    if (!goes_on && rig_is_excused(t.rig.began, timeout)) {
        tls_rig_abandon(&t);
        return false;
    }
    assert_true(goes_on);
    far_receive_all_sent(&t, &t.fars[RELAY_TARGET]);
    assert_int_equal(far_receive_end(&t, &t.fars[RELAY_TARGET]), FAR_CLOSED);
    far_finish(&t.fars[RELAY_TARGET]);
    rig_join(&t.rig);
    rig_assert_ended(&t.rig, CLOSE_COMPLETED, ENDED_BY_CLIENT);
    tls_rig_release(&t);
    return true;
}

static void test_a_close_notify_has_a_write_timeout_of_its_own(void **state)
{
    (void)state;
    RIG_TRY(close_behind_messages());
}

// Ended from outside, wherever it is: idle, or with sealed records that nobody takes.
static void test_an_end_from_outside_sends_no_close_notify(void **state)
{
    for (int stuck = -1; stuck <= RELAY_TARGET; stuck++) {
        struct tls_rig t;
        tls_rig_begin_on(&t, *state, RIG_TCP, 8192);
        if (stuck >= 0)
            far_stuff(&t.fars[!stuck]);
        int64_t asked = clock_now();
        rig_end(&t.rig, stuck < 0 ? CLOSE_LIFETIME : CLOSE_DRAIN);
        rig_join(&t.rig);
        rig_assert_ended(&t.rig, stuck < 0 ? CLOSE_LIFETIME : CLOSE_DRAIN, ENDED_BY_PROXY);
        rig_assert_resets(&t.rig, false, false);
        assert_within(asked, t.rig.ended, MS(900));
        assert_int_equal(t.rig.failure.error.code, ERROR_NONE);
        for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
            struct far *far = &t.fars[side];
            enum far_end end = far_receive_end(&t, far);
            // One whose bytes were not read gets a reset for them.
            if (stuck >= 0 && side != stuck && end == FAR_RESET)
                continue;
            assert_int_equal(end, far->is_tls ? FAR_CUT : FAR_CLOSED);
        }
        tls_rig_release(&t);
    }
}

int main(void)
{
    static const struct tls_rig_test tests[] = {
        TLS_RIG_TEST(test_a_read_timeout_cuts_both_streams, TLS_EACH_SIDE),
        TLS_RIG_TEST(test_a_record_that_comes_slowly_is_no_silence, TLS_ONCE),
        TLS_RIG_TEST(test_a_close_notify_that_cannot_be_written_runs_into_the_write_timeout, TLS_ONCE),
        TLS_RIG_TEST(test_a_close_notify_has_a_write_timeout_of_its_own, TLS_ONCE),
        TLS_RIG_TEST(test_an_end_from_outside_sends_no_close_notify, TLS_EACH_WAY),
    };
    return tls_rig_run(tests, ARRAY_LENGTH(tests));
}
