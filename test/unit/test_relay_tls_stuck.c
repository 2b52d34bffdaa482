// A relay with TLS legs whose one side takes nothing, for a while or for good, with sealed records that wait for it.

#include "bitflow/base/compiler.h"
#include "relay_tls_rig.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>

#define MS(n) ((n) * NS_PER_MS)

// Begins with a side that has sent as much as goes to one that does not read.
static void begin_stuck(struct tls_rig *t, const struct tls_case *of)
{
    tls_rig_begin_on(t, of, RIG_TCP, 8192);
    far_stuff(t->from);
}

// It takes nothing for some time, and then all of it.
static void test_a_stuck_reader_gets_every_byte(void **state)
{
    struct tls_rig t;
    begin_stuck(&t, *state);
    // The other direction goes on meanwhile.
    far_send(t.to, 10000, 700);
    far_receive_all_sent(&t, t.from);
    MUST(usleep(600000) == 0); // a slice and more
    assert_int_equal(atomic_load(&t.rig.reason), CLOSE_NONE);
    pthread_t sender;
    MUST(thread_start(&sender, (size_t)512 * 1024, far_send_left, t.from, NULL));
    far_receive_all_sent(&t, t.to);
    MUST(pthread_join(sender, NULL) == 0);
    tls_rig_finish(&t, t.side);
}

static void test_a_stuck_reader_runs_into_the_write_timeout(void **state)
{
    struct tls_rig t;
    tls_rig_init_on(&t, *state, RIG_TCP, 8192);
    t.rig.relay.sockets[!t.side].write_timeout = MS(300);
    tls_rig_start(&t, t.way.in_bulk);
    far_stuff(t.from);
    rig_join(&t.rig);
    rig_assert_ended(&t.rig, tls_rig_reason(&t, CLOSE_TARGET_WRITE_TIMEOUT, CLOSE_CLIENT_WRITE_TIMEOUT),
                     ENDED_BY_PROXY);
    rig_assert_resets(&t.rig, true, true);
    assert_int_equal(far_receive_end(&t, t.to), FAR_RESET);
    assert_false(t.to->has_closed);
    // Whole records only are counted; some of the last ones were not delivered.
    assert_true(t.to->received <= t.from->sent);
    tls_rig_release(&t);
}

// While what it had sent waits to be written, a side is gone: what the relay has is delivered, or given up in time.
static void test_a_reset_behind_a_stuck_write_ends_the_relay(void **state)
{
    struct tls_rig t;
    begin_stuck(&t, *state);
    far_reset(t.from);
    tls_rig_wait_reason(&t);
    while (!t.rig.ran && far_receive_some(&t, t.to, FAR_ROOM, MS(50)))
        ;
    rig_join(&t.rig);
    rig_assert_ended(&t.rig, tls_rig_reason(&t, CLOSE_CLIENT_RESET, CLOSE_TARGET_RESET), t.ended_by);
    assert_int_equal(far_receive_end(&t, t.to), FAR_RESET);
    assert_int_equal(t.to->received, rig_bytes(&t.rig, t.side));
    tls_rig_release(&t);
}

static void wait_acknowledged(const struct far *far)
{
    int64_t deadline = clock_now() + PATIENCE;
    int queued = 1;
    while (ioctl(*far->fd, SIOCOUTQ, &queued) == 0 && queued > 0)
        MUST(clock_now() < deadline && usleep(200) == 0);
}

// Until the relay cannot write any more: it leaves unread what has come since.
static void send_until_stuck(struct tls_rig *t)
{
    int unread = 0;
    for (unsigned same = 0; same < 50;) {
        int before = unread;
        if (before == 0)
            far_send(t->from, 500, 500);
        wait_acknowledged(t->from);
        MUST(usleep(2000) == 0 && ioctl(t->rig.relay.sockets[t->side].fd, SIOCINQ, &unread) == 0);
        same = unread > 0 && unread == before ? same + 1 : 0;
    }
}

// A TLS peer has sent all, its close_notify too, and is gone when the other side's end is told to it: its kernel
// answers that by a reset, while what it had sent still waits to be written. That does not reset what it had sent.
static void test_a_whole_stream_behind_a_stuck_write_is_delivered(void **state)
{
    struct tls_rig t;
    tls_rig_begin_on(&t, *state, RIG_TCP, 8192);
    send_until_stuck(&t);
    far_finish(t.from);
    wait_acknowledged(t.from);
    rig_close_far(t.from->fd);
    far_finish(t.to); // its close_notify or FIN goes to one that is gone
    MUST(usleep(800000) == 0);
    assert_int_equal(far_receive_end(&t, t.to), FAR_CLOSED);
    assert_int_equal(t.to->received, t.from->sent);
    rig_join(&t.rig);
    assert_string_equal(close_reason_name(t.rig.failure.reason), "completed");
    rig_assert_resets(&t.rig, false, false);
    tls_rig_release(&t);
}

int main(void)
{
    static const struct tls_rig_test tests[] = {
        TLS_RIG_TEST(test_a_stuck_reader_gets_every_byte, TLS_ALTERNATE),
        TLS_RIG_TEST(test_a_stuck_reader_runs_into_the_write_timeout, TLS_ALTERNATE),
        TLS_RIG_TEST(test_a_reset_behind_a_stuck_write_ends_the_relay, TLS_ALTERNATE),
        TLS_RIG_TEST(test_a_whole_stream_behind_a_stuck_write_is_delivered, TLS_ALTERNATE | TLS_SIDE_HAS_TLS),
    };
    return tls_rig_run(tests, ARRAY_LENGTH(tests));
}
