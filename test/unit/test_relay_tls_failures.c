// A side breaks TLS, or ends it by an alert: what came before is delivered, the one who broke it is told, and the other
// side's connection is reset.

#include "bitflow/base/compiler.h"
#include "relay_tls_rig.h"
#include "row.h"

struct breach {
    const char *name; // as the log has it
    unsigned alert;   // that is owed for it
    size_t (*forge)(struct far *far, uint8_t *out);
    int version; // of TLS, where it is a breach; -1: any
    int side;    // that it is a breach of; -1: either
};

static size_t damaged(struct far *far, uint8_t *out)
{
    size_t size = forge(&far->sends, TLS_APPLICATION_DATA, "damaged", 7, 0, out);
    out[size - 1] ^= 1;
    return size;
}

static size_t http(struct far *far, uint8_t *out)
{
    (void)far;
    memcpy(out, "GET / HTTP/1.1\r\n\r\n", 18);
    return 18;
}

static size_t overlong(struct far *far, uint8_t *out)
{
    (void)far;
    memcpy(out, "\x17\3\3\x50\0", 5);
    return 5;
}

static size_t ticket(struct far *far, uint8_t *out)
{
    static const uint8_t message[] = {TLS_NEW_SESSION_TICKET, 0, 0, 1, 0};
    return forge(&far->sends, TLS_HANDSHAKE, message, sizeof message, 0, out);
}

static size_t plain_alert(struct far *far, uint8_t *out)
{
    (void)far;
    memcpy(out, "\x15\3\3\0\2\2\x28", 7);
    return 7;
}

static const struct breach breaches[] = {
    {"a record that is forged or damaged", TLS_ALERT_BAD_RECORD_MAC, damaged, -1, -1},
    {"bytes that are not a TLS record", TLS_ALERT_UNEXPECTED_MESSAGE, http, -1, -1},
    {"a record longer than TLS allows", TLS_ALERT_RECORD_OVERFLOW, overlong, -1, -1},
    {"a handshake message that has no place after the handshake", TLS_ALERT_UNEXPECTED_MESSAGE, ticket, TLS_1_3,
     RELAY_CLIENT},
    {"a record that is not encrypted", TLS_ALERT_UNEXPECTED_MESSAGE, plain_alert, TLS_1_3, -1},
};

static void assert_broken(struct tls_rig *t)
{
    tls_rig_assert_failed(t, tls_rig_reason(t, CLOSE_CLIENT_TLS_ERROR, CLOSE_TARGET_TLS_ERROR));
    assert_int_equal(t->rig.failure.error.os_errno, 0);
}

static void assert_said(const struct tls_rig *t, const char *did, const char *what)
{
    char text[sizeof t->rig.failure.error.text];
    (void)snprintf(text, sizeof text, "the %s %s %s", t->side == RELAY_CLIENT ? "client" : "target", did, what);
    assert_string_equal(t->rig.failure.error.text, text);
}

// `held`: records of data right before it, in the same segment.
static void assert_answered(const struct tls_case *of, const struct breach *breach, unsigned held)
{
    struct tls_rig t;
    tls_rig_begin(&t, of);
    far_send(t.to, 4000, 1000);
    far_receive_all_sent(&t, t.from);
    uint8_t out[4096];
    size_t size = far_seal(t.from, (size_t)held * 20, 20, out);
    size += breach->forge(t.from, out + size);
    far_write(t.from, out, size);
    far_receive_all_sent(&t, t.to);
    assert_broken(&t);
    assert_said(&t, "sent", breach->name);
    assert_int_equal(far_receive_end(&t, t.to), FAR_RESET);
    assert_false(t.to->has_closed);
    assert_int_equal(far_receive_end(&t, t.from), FAR_CUT);
    assert_true(t.from->has_alert);
    assert_int_equal(t.from->alert, breach->alert);
    assert_int_equal(t.from->alert_level, 2);
    tls_rig_assert_bytes(&t);
    tls_rig_release(&t);
}

static void test_who_breaks_tls_gets_an_alert_and_the_other_side_a_reset(void **state)
{
    static const unsigned held[] = {0, 1, 15, 16, 17, 40};
    const struct tls_case *of = *state;
    FOR_EACH_ROW(row, breaches)
    {
        if (row->version >= 0 && row->version != (int)tls_suites[of->way.suite].keys.version)
            continue;
        if (row->side >= 0 && row->side != (int)of->side)
            continue;
        for (size_t i = 0; i < ARRAY_LENGTH(held); i++)
            assert_answered(of, row, held[i]);
    }
}

// The other side sends without a pause: what broke TLS is answered all the same, and at once.
struct stream {
    struct far *from;
    _Atomic bool is_over;
};

static void *keep_sending(void *argument)
{
    struct stream *stream = argument;
    uint8_t out[20000];
    while (!atomic_load(&stream->is_over)) {
        size_t size = far_seal(stream->from, 16000, 16000, out);
        for (size_t done = 0; done < size;) {
            ssize_t n = send(*stream->from->fd, out + done, size - done, MSG_NOSIGNAL);
            if (n < 0)
                return NULL;
            done += (size_t)n;
        }
    }
    return NULL;
}

static void test_the_alert_reaches_a_reader_of_an_endless_stream(void **state)
{
    struct tls_rig t;
    tls_rig_init_on(&t, *state, RIG_TCP, 16384);
    struct stream stream = {.from = t.to};
    pthread_t sender;
    tls_rig_start(&t, t.way.in_bulk);
    MUST(thread_start(&sender, (size_t)512 * 1024, keep_sending, &stream, NULL));
    while (t.from->received < 100000)
        MUST(far_receive_some(&t, t.from, FAR_ROOM, PATIENCE));
    uint8_t out[64];
    far_write(t.from, out, damaged(t.from, out));
    int64_t broke = clock_now();
    // So slowly that there is always more.
    while (!t.from->has_alert && far_receive_some(&t, t.from, 4000, PATIENCE))
        MUST(usleep(1000) == 0);
    assert_true(t.from->has_alert);
    assert_int_equal(t.from->alert, TLS_ALERT_BAD_RECORD_MAC);
    assert_within(broke, clock_now(), 2 * NS_PER_S);
    assert_broken(&t);
    assert_int_equal(far_receive_end(&t, t.from), FAR_CUT);
    atomic_store(&stream.is_over, true);
    MUST(pthread_join(sender, NULL) == 0);
    tls_rig_release(&t);
}

// What came before the breach still waits to be sent to a side that does not read.
static void test_the_alert_does_not_wait_for_the_other_side(void **state)
{
    struct tls_rig t;
    tls_rig_init(&t, *state);
    int room = 32768;
    MUST(setsockopt(*t.to->fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room) == 0);
    tls_rig_start(&t, false);
    far_send(t.from, 100000, 10000);
    assert_true(rig_wait_bytes(&t.rig, t.side, 100000));
    uint8_t out[64];
    far_write(t.from, out, damaged(t.from, out));
    int64_t broke = clock_now();
    while (!t.from->has_alert)
        MUST(far_receive_some(&t, t.from, FAR_ROOM, PATIENCE));
    assert_within(broke, clock_now(), 2 * NS_PER_S);
    assert_int_equal(far_receive_end(&t, t.from), FAR_CUT);
    far_receive_all_sent(&t, t.to);
    assert_broken(&t);
    assert_int_equal(far_receive_end(&t, t.to), FAR_RESET);
    tls_rig_release(&t);
}

static void test_a_fatal_alert_ends_the_relay_and_is_not_answered(void **state)
{
    static const struct {
        const char *name;
        uint8_t alert[2];
    } alerts[] = {{"unknown_ca", {2, 48}}, {"bad_record_mac", {2, 20}}, {"unknown_alert", {2, 200}}};
    FOR_EACH_ROW(row, alerts)
    {
        struct tls_rig t;
        tls_rig_begin(&t, *state);
        uint8_t out[4096];
        size_t size = far_seal(t.from, 300, 10, out);
        size += forge(&t.from->sends, TLS_ALERT, row->alert, 2, 0, out + size);
        far_write(t.from, out, size);
        far_receive_all_sent(&t, t.to);
        assert_broken(&t);
        assert_said(&t, "ended TLS by the alert", row->name);
        assert_int_equal(far_receive_end(&t, t.to), FAR_RESET);
        assert_int_equal(far_receive_end(&t, t.from), FAR_CUT);
        assert_false(t.from->has_alert);
        tls_rig_assert_bytes(&t);
        tls_rig_release(&t);
    }
}

static void test_a_warning_alert_ends_nothing(void **state)
{
    struct tls_rig t;
    tls_rig_begin(&t, *state);
    far_send_record(t.from, TLS_ALERT, "\1\x5a", 2); // user_canceled
    far_send(t.from, 1000, 100);
    far_receive_all_sent(&t, t.to);
    tls_rig_finish(&t, t.side);
}

// It breaks TLS by what nobody reads any more.
static void test_garbage_after_a_close_notify_breaks_nothing(void **state)
{
    struct tls_rig t;
    tls_rig_begin(&t, *state);
    uint8_t out[64];
    far_write(t.from, out, far_forge_close(t.from, out));
    assert_int_equal(far_receive_end(&t, t.to), FAR_CLOSED);
    far_write(t.from, "\x17\3\3\0\x20garbage", 12);
    far_send(t.to, 5000, 1000);
    far_receive_all_sent(&t, t.from);
    far_finish(t.to);
    rig_join(&t.rig);
    rig_assert_ended(&t.rig, CLOSE_COMPLETED, t.ended_by);
    tls_rig_release(&t);
}

int main(void)
{
    static const struct tls_rig_test tests[] = {
        TLS_RIG_TEST(test_who_breaks_tls_gets_an_alert_and_the_other_side_a_reset, TLS_EACH_SIDE | TLS_SIDE_HAS_TLS),
        TLS_RIG_TEST(test_the_alert_reaches_a_reader_of_an_endless_stream, TLS_EACH_SIDE | TLS_SIDE_HAS_TLS),
        TLS_RIG_TEST(test_the_alert_does_not_wait_for_the_other_side,
                     TLS_EACH_SIDE | TLS_SIDE_HAS_TLS | TLS_NOT_IN_BULK),
        TLS_RIG_TEST(test_a_fatal_alert_ends_the_relay_and_is_not_answered, TLS_EACH_SIDE | TLS_SIDE_HAS_TLS),
        TLS_RIG_TEST(test_a_warning_alert_ends_nothing, TLS_EACH_SIDE | TLS_SIDE_HAS_TLS),
        TLS_RIG_TEST(test_garbage_after_a_close_notify_breaks_nothing, TLS_EACH_SIDE | TLS_SIDE_HAS_TLS),
    };
    return tls_rig_run(tests, ARRAY_LENGTH(tests));
}
