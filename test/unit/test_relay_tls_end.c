// How a relay with TLS legs ends by what its sides do: close_notify and half-close, streams that are cut, resets.

#include "relay_tls_rig.h"

// The side `first` ends its stream; the other direction goes on and carries much more before it ends too.
static void half_close(const struct way *way, enum relay_side first, bool with_fin)
{
    struct tls_rig t;
    tls_rig_init(&t, way);
    struct far *one = &t.fars[first], *other = &t.fars[!first];
    tls_rig_start(&t, way->in_bulk);
    far_send(one, 5000, 700);
    if (with_fin) {
        far_finish(one);
    } else {
        uint8_t out[64];
        far_write(one, out, far_forge_close(one, out));
    }
    assert_int_equal(far_receive_end(&t, other), FAR_CLOSED);
    assert_int_equal(other->received, one->sent);
    for (unsigned i = 0; i < 20; i++) {
        far_send(other, 30000, 16384);
        far_receive_all_sent(&t, one);
    }
    assert_int_equal(atomic_load(&t.rig.reason), CLOSE_NONE);
    far_finish(other);
    assert_int_equal(far_receive_end(&t, one), FAR_CLOSED);
    rig_join(&t.rig);
    rig_assert_ended(&t.rig, CLOSE_COMPLETED, first == RELAY_CLIENT ? ENDED_BY_CLIENT : ENDED_BY_TARGET);
    rig_assert_resets(&t.rig, false, false);
    tls_rig_assert_bytes(&t);
    tls_rig_release(&t);
}

static void one_side_ends_and_the_other_goes_on(void **state)
{
    (void)state;
    FOR_EACH_WAY(way)
    {
        for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
            half_close(way, (enum relay_side)side, true);
            if (way->is_tls[side])
                half_close(way, (enum relay_side)side, false);
        }
    }
}

// Data, close_notify and what is not allowed any more in one segment, to a reader who begins late.
static void everything_in_one_segment(void **state)
{
    (void)state;
    FOR_EACH_WAY(way)
    {
        for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
            struct tls_rig t;
            tls_rig_init(&t, way);
            struct far *from = &t.fars[side], *other = &t.fars[!side];
            uint8_t out[20000];
            if (way->in_bulk)
                tls_rig_start(&t, true);
            size_t size = far_seal(from, 12000, 300, out);
            size += far_forge_close(from, out + size);
            if (from->is_tls)
                size += forge(&from->sends, TLS_APPLICATION_DATA, "too late", 8, 0, out + size);
            far_write(from, out, size);
            MUST(shutdown(*from->fd, SHUT_WR) == 0);
            if (!way->in_bulk)
                tls_rig_start(&t, false);
            assert_int_equal(far_receive_end(&t, other), FAR_CLOSED);
            far_send(other, 1000, 1000);
            far_finish(other);
            assert_int_equal(far_receive_end(&t, from), FAR_CLOSED);
            rig_join(&t.rig);
            assert_int_equal(t.rig.failure.reason, CLOSE_COMPLETED);
            assert_int_equal(other->received, from->sent);
            assert_int_equal(from->received, other->sent);
            tls_rig_assert_bytes(&t);
            tls_rig_release(&t);
        }
    }
}

static enum close_reason reason_of(int side, enum close_reason client, enum close_reason target)
{
    return side == RELAY_CLIENT ? client : target;
}

static void assert_failed(struct tls_rig *t, int side, enum close_reason reason)
{
    rig_join(&t->rig);
    rig_assert_ended(&t->rig, reason, side == RELAY_CLIENT ? ENDED_BY_CLIENT : ENDED_BY_TARGET);
    rig_assert_resets(&t->rig, side == RELAY_TARGET, side == RELAY_CLIENT);
}

// FIN without a close_notify: what came before is delivered, and then it is a reset. `part`: bytes of a record that go
// before it. `other_has_ended`: whose end does not make it any better.
static void cut(const struct way *way, int side, size_t part, bool other_has_ended)
{
    struct tls_rig t;
    tls_rig_init(&t, way);
    struct far *from = &t.fars[side], *other = &t.fars[!side];
    uint8_t out[2000];
    tls_rig_start(&t, way->in_bulk);
    if (other_has_ended) {
        far_finish(other);
        assert_int_equal(far_receive_end(&t, from), FAR_CLOSED);
    }
    far_send(from, 3000, 500);
    uint64_t whole = from->sent;
    (void)far_seal(from, 1000, 1000, out);
    far_write(from, out, part);
    MUST(shutdown(*from->fd, SHUT_WR) == 0);
    far_receive_up_to(&t, other, whole);
    assert_failed(&t, side, reason_of(side, CLOSE_CLIENT_TRUNCATED, CLOSE_TARGET_TRUNCATED));
    assert_int_equal(far_receive_end(&t, other), FAR_RESET);
    assert_int_equal(other->received, whole);
    assert_false(other->has_closed);
    assert_int_equal(t.rig.failure.error.os_errno, 0);
    assert_string_equal(t.rig.failure.error.text, "the stream was cut: it ended without a close_notify");
    if (!other_has_ended)
        assert_int_equal(far_receive_end(&t, from), from->is_tls ? FAR_CUT : FAR_CLOSED);
    assert_false(from->has_alert);
    assert_int_equal(rig_bytes(&t.rig, (enum relay_side)side), whole);
    tls_rig_release(&t);
}

static void a_stream_that_is_cut_is_no_end(void **state)
{
    (void)state;
    FOR_EACH_WAY(way)
    {
        for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
            if (!way->is_tls[side])
                continue;
            cut(way, side, 0, false);
            cut(way, side, 3, false);
            cut(way, side, 999, false);
            cut(way, side, 0, true);
            cut(way, side, 999, true);
        }
    }
}

// A side is cut before the relay has begun: all at once is there for it to be read.
static void cut_from_the_beginning(void **state)
{
    (void)state;
    FOR_EACH_WAY(way)
    {
        for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
            if (!way->is_tls[side] || way->in_bulk)
                continue;
            struct tls_rig t;
            tls_rig_init(&t, way);
            far_send(&t.fars[side], 100000, 16384);
            rig_close_far(t.fars[side].fd);
            tls_rig_start(&t, false);
            far_receive_all_sent(&t, &t.fars[!side]);
            assert_failed(&t, side, reason_of(side, CLOSE_CLIENT_TRUNCATED, CLOSE_TARGET_TRUNCATED));
            assert_int_equal(far_receive_end(&t, &t.fars[!side]), FAR_RESET);
            tls_rig_release(&t);
        }
    }
}

static void a_reset_resets_the_other_side(void **state)
{
    (void)state;
    FOR_EACH_WAY(way)
    {
        for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
            struct tls_rig t;
            tls_rig_init(&t, way);
            tls_rig_start(&t, way->in_bulk);
            far_send(&t.fars[side], 50000, 16384);
            far_receive_all_sent(&t, &t.fars[!side]);
            far_reset(&t.fars[side]);
            assert_failed(&t, side, reason_of(side, CLOSE_CLIENT_RESET, CLOSE_TARGET_RESET));
            assert_int_equal(far_receive_end(&t, &t.fars[!side]), FAR_RESET);
            assert_int_equal(t.rig.failure.error.os_errno, ECONNRESET);
            char text[256];
            (void)snprintf(text, sizeof text, "the %s reset the connection: Connection reset by peer",
                           side == RELAY_CLIENT ? "client" : "target");
            assert_string_equal(t.rig.failure.error.text, text);
            tls_rig_assert_bytes(&t);
            tls_rig_release(&t);
        }
    }
}

// A TLS target says its last word and closes at once, as servers do. Its kernel answers the close_notify that comes
// when the client has ended too by a reset: nothing is lost by that.
static void a_peer_that_closes_after_its_close_notify(void **state)
{
    (void)state;
    FOR_EACH_WAY(way)
    {
        for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
            for (unsigned i = 0; way->is_tls[side] && i < 10; i++) {
                struct tls_rig t;
                tls_rig_init(&t, way);
                struct far *from = &t.fars[side], *other = &t.fars[!side];
                tls_rig_start(&t, way->in_bulk);
                far_send(from, 10000, 16384);
                far_finish(from);
                rig_close_far(from->fd);
                assert_int_equal(far_receive_end(&t, other), FAR_CLOSED);
                assert_int_equal(other->received, from->sent);
                far_finish(other);
                rig_join(&t.rig);
                rig_assert_ended(&t.rig, CLOSE_COMPLETED, side == RELAY_CLIENT ? ENDED_BY_CLIENT : ENDED_BY_TARGET);
                rig_assert_resets(&t.rig, false, false);
                tls_rig_release(&t);
            }
        }
    }
}

// The same at the same time: both sides end and close without having heard of each other's end.
static void both_sides_close_at_once(void **state)
{
    (void)state;
    FOR_EACH_WAY(way)
    {
        for (unsigned i = 0; i < 40; i++) {
            struct tls_rig t;
            tls_rig_init(&t, way);
            tls_rig_start(&t, way->in_bulk);
            for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
                far_send(&t.fars[side], i * 10, 16384);
                if (way->in_bulk) // what would come while it closes is no matter of TLS
                    far_receive_all_sent(&t, &t.fars[!side]);
            }
            far_receive_all_sent(&t, &t.fars[RELAY_CLIENT]);
            far_receive_all_sent(&t, &t.fars[RELAY_TARGET]);
            for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
                far_finish(&t.fars[side ^ (int)(i % 2)]);
                rig_close_far(t.fars[side ^ (int)(i % 2)].fd);
            }
            rig_join(&t.rig);
            assert_string_equal(close_reason_name(t.rig.failure.reason), "completed");
            tls_rig_assert_bytes(&t);
            tls_rig_release(&t);
        }
    }
}

int main(void)
{
    if (!aead_prepare(NULL))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_side_ends_and_the_other_goes_on),
        cmocka_unit_test(everything_in_one_segment),
        cmocka_unit_test(a_stream_that_is_cut_is_no_end),
        cmocka_unit_test(cut_from_the_beginning),
        cmocka_unit_test(a_reset_resets_the_other_side),
        cmocka_unit_test(a_peer_that_closes_after_its_close_notify),
        cmocka_unit_test(both_sides_close_at_once),
    };
    rig_prepare();
    int failed = cmocka_run_group_tests_name("with threads to be had", tests, NULL, NULL);
    rig_go_without_threads();
    rig_prepare();
    return failed + cmocka_run_group_tests_name("on one thread", tests, NULL, NULL);
}
