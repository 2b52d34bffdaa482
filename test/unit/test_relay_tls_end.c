// How a relay with TLS legs ends by what its sides do: close_notify and half-close, streams that are cut, resets.

#include "bitflow/base/compiler.h"
#include "relay_tls_rig.h"
#include "row.h"

// The case's side ends its stream; the other direction goes on and carries much more before it ends too.
static void half_close(const struct tls_case *of, bool with_fin)
{
    struct tls_rig t;
    tls_rig_begin(&t, of);
    far_send(t.from, 5000, 700);
    if (with_fin) {
        far_finish(t.from);
    } else {
        uint8_t out[64];
        far_write(t.from, out, far_forge_close(t.from, out));
    }
    assert_int_equal(far_receive_end(&t, t.to), FAR_CLOSED);
    assert_int_equal(t.to->received, t.from->sent);
    for (unsigned i = 0; i < 20; i++) {
        far_send(t.to, 30000, 16384);
        far_receive_all_sent(&t, t.from);
    }
    assert_int_equal(atomic_load(&t.rig.reason), CLOSE_NONE);
    far_finish(t.to);
    assert_int_equal(far_receive_end(&t, t.from), FAR_CLOSED);
    tls_rig_assert_completed(&t);
    tls_rig_assert_bytes(&t);
    tls_rig_release(&t);
}

static void test_one_direction_goes_on_after_the_other_has_ended(void **state)
{
    half_close(*state, true);
}

static void test_a_close_notify_without_a_fin_ends_one_direction(void **state)
{
    half_close(*state, false);
}

// Data, close_notify and what is not allowed any more in one segment, to a reader who begins late.
static void test_what_follows_a_close_notify_in_its_segment_is_ignored(void **state)
{
    struct tls_rig t;
    tls_rig_init(&t, *state);
    uint8_t out[20000];
    if (t.way.in_bulk)
        tls_rig_start(&t, true);
    size_t size = far_seal(t.from, 12000, 300, out);
    size += far_forge_close(t.from, out + size);
    if (t.from->is_tls)
        size += forge(&t.from->sends, TLS_APPLICATION_DATA, "too late", 8, 0, out + size);
    far_write(t.from, out, size);
    MUST(shutdown(*t.from->fd, SHUT_WR) == 0);
    if (!t.way.in_bulk)
        tls_rig_start(&t, false);
    assert_int_equal(far_receive_end(&t, t.to), FAR_CLOSED);
    far_send(t.to, 1000, 1000);
    far_finish(t.to);
    assert_int_equal(far_receive_end(&t, t.from), FAR_CLOSED);
    rig_join(&t.rig);
    assert_int_equal(t.rig.failure.reason, CLOSE_COMPLETED);
    assert_int_equal(t.to->received, t.from->sent);
    assert_int_equal(t.from->received, t.to->sent);
    tls_rig_assert_bytes(&t);
    tls_rig_release(&t);
}

static void test_a_stream_without_a_close_notify_is_truncated(void **state)
{
    static const struct {
        const char *name;
        size_t part; // bytes of a record that go before the FIN
        bool other_has_ended;
    } rows[] = {
        {"between two records", 0, false},
        {"within a record's header", 3, false},
        {"within a record", 999, false},
        {"between two records, after the other side's end", 0, true},
        {"within a record, after the other side's end", 999, true},
    };
    FOR_EACH_ROW(row, rows)
    {
        struct tls_rig t;
        uint8_t out[2000];
        tls_rig_begin(&t, *state);
        if (row->other_has_ended) {
            far_finish(t.to);
            assert_int_equal(far_receive_end(&t, t.from), FAR_CLOSED);
        }
        far_send(t.from, 3000, 500);
        uint64_t whole = t.from->sent;
        (void)far_seal(t.from, 1000, 1000, out);
        far_write(t.from, out, row->part);
        MUST(shutdown(*t.from->fd, SHUT_WR) == 0);
        far_receive_up_to(&t, t.to, whole);
        tls_rig_assert_failed(&t, tls_rig_reason(&t, CLOSE_CLIENT_TRUNCATED, CLOSE_TARGET_TRUNCATED));
        assert_int_equal(far_receive_end(&t, t.to), FAR_RESET);
        assert_int_equal(t.to->received, whole);
        assert_false(t.to->has_closed);
        assert_int_equal(t.rig.failure.error.os_errno, 0);
        assert_string_equal(t.rig.failure.error.text, "the stream was cut: it ended without a close_notify");
        if (!row->other_has_ended)
            assert_int_equal(far_receive_end(&t, t.from), FAR_CUT);
        assert_false(t.from->has_alert);
        assert_true(atomic_load(&t.rig.relay.sockets[t.side].is_truncated));
        assert_int_equal(rig_bytes(&t.rig, t.side), whole);
        tls_rig_release(&t);
    }
}

static void begin_accepting(struct tls_rig *t, const struct tls_case *of)
{
    tls_rig_init(t, of);
    t->rig.relay.sockets[t->side].accepts_truncation = true;
    tls_rig_start(t, t->way.in_bulk);
}

// The operator accepts it of that side: its FIN is the end of one direction, as for a plain side.
static void test_an_accepted_fin_ends_one_direction(void **state)
{
    for (unsigned other_has_ended = 0; other_has_ended < 2; other_has_ended++) {
        struct tls_rig t;
        begin_accepting(&t, *state);
        if (other_has_ended) {
            far_finish(t.to);
            assert_int_equal(far_receive_end(&t, t.from), FAR_CLOSED);
        }
        far_send(t.from, 5000, 700);
        MUST(shutdown(*t.from->fd, SHUT_WR) == 0);
        assert_int_equal(far_receive_end(&t, t.to), FAR_CLOSED);
        assert_int_equal(t.to->received, t.from->sent);
        if (!other_has_ended) {
            for (unsigned i = 0; i < 20; i++) {
                far_send(t.to, 30000, 16384);
                far_receive_all_sent(&t, t.from);
            }
            assert_int_equal(atomic_load(&t.rig.reason), CLOSE_NONE);
            far_finish(t.to);
            assert_int_equal(far_receive_end(&t, t.from), FAR_CLOSED);
        }
        rig_join(&t.rig);
        assert_int_equal(t.rig.failure.reason, CLOSE_COMPLETED);
        assert_int_equal(t.rig.result.ended_by, other_has_ended ? !t.ended_by : t.ended_by);
        assert_true(atomic_load(&t.rig.relay.sockets[t.side].is_truncated));
        assert_false(atomic_load(&t.rig.relay.sockets[!t.side].is_truncated));
        tls_rig_assert_bytes(&t);
        tls_rig_release(&t);
    }
}

// It sends all and closes, before the relay has begun to read, as a server does whose client says no more.
static void test_an_accepted_close_delivers_all(void **state)
{
    struct tls_rig t;
    tls_rig_init(&t, *state);
    t.rig.relay.sockets[t.side].accepts_truncation = true;
    far_send(t.from, 100000, 16384);
    rig_close_far(t.from->fd);
    tls_rig_start(&t, false);
    assert_int_equal(far_receive_end(&t, t.to), FAR_CLOSED);
    assert_int_equal(t.to->received, t.from->sent);
    far_finish(t.to);
    tls_rig_assert_completed(&t);
    tls_rig_release(&t);
}

static void test_what_is_cut_within_a_record_is_never_accepted(void **state)
{
    static const size_t parts[] = {1, 4, 5, 999};
    for (size_t i = 0; i < ARRAY_LENGTH(parts); i++) {
        struct tls_rig t;
        uint8_t out[2000];
        begin_accepting(&t, *state);
        far_send(t.from, 3000, 500);
        uint64_t whole = t.from->sent;
        (void)far_seal(t.from, 1000, 1000, out);
        far_write(t.from, out, parts[i]);
        MUST(shutdown(*t.from->fd, SHUT_WR) == 0);
        far_receive_up_to(&t, t.to, whole);
        tls_rig_assert_failed(&t, tls_rig_reason(&t, CLOSE_CLIENT_TRUNCATED, CLOSE_TARGET_TRUNCATED));
        assert_int_equal(far_receive_end(&t, t.to), FAR_RESET);
        assert_int_equal(t.to->received, whole);
        tls_rig_release(&t);
    }
}

static void test_a_reset_is_never_accepted(void **state)
{
    for (unsigned other_has_ended = 0; other_has_ended < 2; other_has_ended++) {
        struct tls_rig t;
        begin_accepting(&t, *state);
        far_send(t.from, 50000, 16384);
        far_receive_all_sent(&t, t.to);
        if (other_has_ended) {
            far_finish(t.to);
            assert_int_equal(far_receive_end(&t, t.from), FAR_CLOSED);
        }
        far_reset(t.from);
        tls_rig_assert_failed(&t, tls_rig_reason(&t, CLOSE_CLIENT_RESET,
                                                 other_has_ended ? CLOSE_TARGET_RESET_AT_END : CLOSE_TARGET_RESET));
        assert_int_equal(far_receive_end(&t, t.to), FAR_RESET);
        assert_false(atomic_load(&t.rig.relay.sockets[t.side].is_truncated));
        tls_rig_release(&t);
    }
}

// All at once is there for the relay to be read.
static void test_a_stream_that_was_cut_before_the_relay_began_is_truncated(void **state)
{
    struct tls_rig t;
    tls_rig_init(&t, *state);
    far_send(t.from, 100000, 16384);
    rig_close_far(t.from->fd);
    tls_rig_start(&t, false);
    far_receive_all_sent(&t, t.to);
    tls_rig_assert_failed(&t, tls_rig_reason(&t, CLOSE_CLIENT_TRUNCATED, CLOSE_TARGET_TRUNCATED));
    assert_int_equal(far_receive_end(&t, t.to), FAR_RESET);
    tls_rig_release(&t);
}

static void test_a_reset_resets_the_other_side(void **state)
{
    struct tls_rig t;
    tls_rig_begin(&t, *state);
    far_send(t.from, 50000, 16384);
    far_receive_all_sent(&t, t.to);
    far_reset(t.from);
    tls_rig_assert_failed(&t, tls_rig_reason(&t, CLOSE_CLIENT_RESET, CLOSE_TARGET_RESET));
    assert_int_equal(far_receive_end(&t, t.to), FAR_RESET);
    assert_int_equal(t.rig.failure.error.os_errno, ECONNRESET);
    char text[256];
    (void)snprintf(text, sizeof text, "the %s reset the connection: Connection reset by peer",
                   t.side == RELAY_CLIENT ? "client" : "target");
    assert_string_equal(t.rig.failure.error.text, text);
    tls_rig_assert_bytes(&t);
    tls_rig_release(&t);
}

// A TLS target says its last word and closes at once, as servers do. Its kernel answers the close_notify that comes
// when the client has ended too by a reset: nothing is lost by that.
static void test_a_peer_that_closes_right_after_its_close_notify_has_completed(void **state)
{
    for (unsigned i = 0; i < 10; i++) {
        struct tls_rig t;
        tls_rig_begin(&t, *state);
        far_send(t.from, 10000, 16384);
        far_finish(t.from);
        rig_close_far(t.from->fd);
        assert_int_equal(far_receive_end(&t, t.to), FAR_CLOSED);
        assert_int_equal(t.to->received, t.from->sent);
        far_finish(t.to);
        tls_rig_assert_completed(&t);
        tls_rig_release(&t);
    }
}

// Both sides end and close without having heard of each other's end.
static void test_sides_that_close_at_the_same_time_have_completed(void **state)
{
    for (unsigned i = 0; i < 40; i++) {
        struct tls_rig t;
        tls_rig_begin(&t, *state);
        for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
            far_send(&t.fars[side], 1 + i * 10, 16384);
            if (t.way.in_bulk) // what would come while it closes is not TLS's concern
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

int main(void)
{
    static const struct tls_rig_test tests[] = {
        TLS_RIG_TEST(test_one_direction_goes_on_after_the_other_has_ended, TLS_EACH_SIDE),
        TLS_RIG_TEST(test_a_close_notify_without_a_fin_ends_one_direction, TLS_EACH_SIDE | TLS_SIDE_HAS_TLS),
        TLS_RIG_TEST(test_what_follows_a_close_notify_in_its_segment_is_ignored, TLS_EACH_SIDE),
        TLS_RIG_TEST(test_a_stream_without_a_close_notify_is_truncated, TLS_EACH_SIDE | TLS_SIDE_HAS_TLS),
        TLS_RIG_TEST(test_a_stream_that_was_cut_before_the_relay_began_is_truncated,
                     TLS_EACH_SIDE | TLS_SIDE_HAS_TLS | TLS_NOT_IN_BULK),
        TLS_RIG_TEST(test_an_accepted_fin_ends_one_direction, TLS_EACH_SIDE | TLS_SIDE_HAS_TLS),
        TLS_RIG_TEST(test_an_accepted_close_delivers_all, TLS_EACH_SIDE | TLS_SIDE_HAS_TLS | TLS_NOT_IN_BULK),
        TLS_RIG_TEST(test_what_is_cut_within_a_record_is_never_accepted, TLS_EACH_SIDE | TLS_SIDE_HAS_TLS),
        TLS_RIG_TEST(test_a_reset_is_never_accepted, TLS_EACH_SIDE | TLS_SIDE_HAS_TLS),
        TLS_RIG_TEST(test_a_reset_resets_the_other_side, TLS_EACH_SIDE),
        TLS_RIG_TEST(test_a_peer_that_closes_right_after_its_close_notify_has_completed,
                     TLS_EACH_SIDE | TLS_SIDE_HAS_TLS),
        TLS_RIG_TEST(test_sides_that_close_at_the_same_time_have_completed, TLS_EACH_WAY),
    };
    return tls_rig_run(tests, ARRAY_LENGTH(tests));
}
