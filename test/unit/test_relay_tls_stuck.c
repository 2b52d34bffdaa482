// A relay with TLS legs whose one side takes nothing, for a while or for good, with sealed records that wait for it.

#include "relay_tls_rig.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>

#define MS(n) ((n) * NS_PER_MS)

// Which side sends: these take seconds, so each way of it is tried from one side.
static int one_side(const struct way *way)
{
    return (int)((way - ways) % 2);
}

// A reader that takes nothing for some seconds, and then all of it.
static void a_stuck_reader_gets_every_byte(void **state)
{
    (void)state;
    FOR_EACH_WAY(way)
    {
        int side = one_side(way);
        struct tls_rig t;
        tls_rig_init_on(&t, way, RIG_TCP, 8192);
        struct far *from = &t.fars[side], *to = &t.fars[!side];
        tls_rig_start(&t, way->in_bulk);
        far_stuff(from);
        // The other direction goes on meanwhile.
        far_send(to, 10000, 700);
        far_receive_all_sent(&t, from);
        MUST(usleep(600000) == 0); // a slice and more
        assert_int_equal(atomic_load(&t.rig.reason), CLOSE_NONE);
        pthread_t sender;
        MUST(thread_start(&sender, (size_t)512 * 1024, far_send_left, from, NULL));
        far_receive_all_sent(&t, to);
        MUST(pthread_join(sender, NULL) == 0);
        tls_rig_finish(&t, (enum relay_side)side);
    }
}

static void a_stuck_reader_runs_into_the_write_timeout(void **state)
{
    (void)state;
    FOR_EACH_WAY(way)
    {
        int side = one_side(way);
        struct tls_rig t;
        tls_rig_init_on(&t, way, RIG_TCP, 8192);
        struct far *from = &t.fars[side], *to = &t.fars[!side];
        t.rig.relay.sockets[!side].write_timeout = MS(300);
        tls_rig_start(&t, way->in_bulk);
        far_stuff(from);
        rig_join(&t.rig);
        rig_assert_ended(&t.rig, side == RELAY_CLIENT ? CLOSE_TARGET_WRITE_TIMEOUT : CLOSE_CLIENT_WRITE_TIMEOUT,
                         ENDED_BY_PROXY);
        rig_assert_resets(&t.rig, true, true);
        assert_int_equal(far_receive_end(&t, to), FAR_RESET);
        assert_false(to->has_closed);
        // Whole records only are counted; some of the last ones were not delivered.
        assert_true(to->received <= from->sent);
        tls_rig_release(&t);
    }
}

// While what it had sent waits to be written, a side is gone: what the relay has is delivered, or given up in time.
static void a_reset_behind_a_stuck_write(void **state)
{
    (void)state;
    FOR_EACH_WAY(way)
    {
        int side = one_side(way);
        struct tls_rig t;
        tls_rig_init_on(&t, way, RIG_TCP, 8192);
        struct far *from = &t.fars[side], *to = &t.fars[!side];
        tls_rig_start(&t, way->in_bulk);
        far_stuff(from);
        far_reset(from);
        tls_rig_wait_reason(&t);
        while (!t.rig.ran && far_receive_some(&t, to, FAR_ROOM, MS(50)))
            ;
        rig_join(&t.rig);
        rig_assert_ended(&t.rig, side == RELAY_CLIENT ? CLOSE_CLIENT_RESET : CLOSE_TARGET_RESET,
                         side == RELAY_CLIENT ? ENDED_BY_CLIENT : ENDED_BY_TARGET);
        assert_int_equal(far_receive_end(&t, to), FAR_RESET);
        assert_int_equal(to->received, rig_bytes(&t.rig, (enum relay_side)side));
        tls_rig_release(&t);
    }
}

static void wait_acknowledged(const struct far *far)
{
    int64_t deadline = clock_now() + PATIENCE;
    int queued = 1;
    while (ioctl(*far->fd, SIOCOUTQ, &queued) == 0 && queued > 0)
        MUST(clock_now() < deadline && usleep(200) == 0);
}

// Until the relay cannot write any more: it leaves unread what has come since.
static void send_until_stuck(struct tls_rig *t, enum relay_side side)
{
    int unread = 0;
    for (unsigned same = 0; same < 50;) {
        int before = unread;
        if (before == 0)
            far_send(&t->fars[side], 500, 500);
        wait_acknowledged(&t->fars[side]);
        MUST(usleep(2000) == 0 && ioctl(t->rig.relay.sockets[side].fd, SIOCINQ, &unread) == 0);
        same = unread > 0 && unread == before ? same + 1 : 0;
    }
}

// A TLS peer has sent all, its close_notify too, and is gone when the other side's end is told to it: its kernel
// answers that by a reset, while what it had sent still waits to be written. That is no reset of what it had sent.
static void a_whole_stream_behind_a_stuck_write(void **state)
{
    (void)state;
    FOR_EACH_WAY(way)
    {
        int side = one_side(way);
        if (!way->is_tls[side])
            continue;
        struct tls_rig t;
        tls_rig_init_on(&t, way, RIG_TCP, 8192);
        struct far *from = &t.fars[side], *to = &t.fars[!side];
        tls_rig_start(&t, way->in_bulk);
        send_until_stuck(&t, (enum relay_side)side);
        far_finish(from);
        wait_acknowledged(from);
        rig_close_far(from->fd);
        far_finish(to); // its close_notify or FIN goes to one that is gone
        MUST(usleep(800000) == 0);
        assert_int_equal(far_receive_end(&t, to), FAR_CLOSED);
        assert_int_equal(to->received, from->sent);
        rig_join(&t.rig);
        assert_string_equal(close_reason_name(t.rig.failure.reason), "completed");
        rig_assert_resets(&t.rig, false, false);
        tls_rig_release(&t);
    }
}

int main(void)
{
    if (!aead_prepare(NULL))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stuck_reader_gets_every_byte),
        cmocka_unit_test(a_stuck_reader_runs_into_the_write_timeout),
        cmocka_unit_test(a_reset_behind_a_stuck_write),
        cmocka_unit_test(a_whole_stream_behind_a_stuck_write),
    };
    rig_prepare();
    int failed = cmocka_run_group_tests_name("with threads to be had", tests, NULL, NULL);
    rig_go_without_threads();
    rig_prepare();
    return failed + cmocka_run_group_tests_name("on one thread", tests, NULL, NULL);
}
