// A side breaks TLS, or ends it by an alert: what came before is delivered, the one who broke it is told, and the other
// side's connection is reset.

#include "relay_tls_rig.h"

struct breach {
    const char *what; // as the log has it
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

static void assert_broken(struct tls_rig *t, int side)
{
    rig_assert_ended(&t->rig, side == RELAY_CLIENT ? CLOSE_CLIENT_TLS_ERROR : CLOSE_TARGET_TLS_ERROR,
                     side == RELAY_CLIENT ? ENDED_BY_CLIENT : ENDED_BY_TARGET);
    rig_assert_resets(&t->rig, side == RELAY_TARGET, side == RELAY_CLIENT);
    assert_int_equal(t->rig.failure.error.os_errno, 0);
}

static void assert_said(const struct tls_rig *t, int side, const char *did, const char *what)
{
    char text[sizeof t->rig.failure.error.text];
    (void)snprintf(text, sizeof text, "the %s %s %s", side == RELAY_CLIENT ? "client" : "target", did, what);
    assert_string_equal(t->rig.failure.error.text, text);
}

// `held`: records of data right before it, in the same segment.
static void breach(const struct way *way, int side, const struct breach *breach, unsigned held)
{
    struct tls_rig t;
    tls_rig_init(&t, way);
    struct far *from = &t.fars[side], *other = &t.fars[!side];
    tls_rig_start(&t, way->in_bulk);
    far_send(other, 4000, 1000);
    far_receive_all_sent(&t, from);
    uint8_t out[4096];
    size_t size = far_seal(from, (size_t)held * 20, 20, out);
    size += breach->forge(from, out + size);
    far_write(from, out, size);
    far_receive_all_sent(&t, other);
    rig_join(&t.rig);
    assert_broken(&t, side);
    assert_said(&t, side, "sent", breach->what);
    assert_int_equal(far_receive_end(&t, other), FAR_RESET);
    assert_false(other->has_closed);
    assert_int_equal(far_receive_end(&t, from), FAR_CUT);
    assert_true(from->has_alert);
    assert_int_equal(from->alert, breach->alert);
    assert_int_equal(from->alert_level, 2);
    tls_rig_assert_bytes(&t);
    tls_rig_release(&t);
}

static void who_breaks_tls_is_told_by_an_alert(void **state)
{
    (void)state;
    static const unsigned held[] = {0, 1, 15, 16, 17, 40};
    FOR_EACH_WAY(way)
    {
        for (size_t i = 0; i < ARRAY_LENGTH(breaches) * ARRAY_LENGTH(held); i++) {
            const struct breach *it = &breaches[i / ARRAY_LENGTH(held)];
            bool fits = it->version < 0 || it->version == (int)tls_suites[way->suite].keys.version;
            for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++)
                if (way->is_tls[side] && fits && (it->side < 0 || it->side == side))
                    breach(way, side, it, held[i % ARRAY_LENGTH(held)]);
        }
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

static void a_stream_to_who_breaks_tls_is_stopped(void **state)
{
    (void)state;
    FOR_EACH_WAY(way)
    {
        for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
            if (!way->is_tls[side])
                continue;
            struct tls_rig t;
            tls_rig_init_on(&t, way, RIG_TCP, 16384);
            struct far *from = &t.fars[side], *other = &t.fars[!side];
            struct stream stream = {.from = other};
            pthread_t sender;
            tls_rig_start(&t, way->in_bulk);
            MUST(thread_start(&sender, (size_t)512 * 1024, keep_sending, &stream, NULL));
            while (from->received < 100000)
                MUST(far_receive_some(&t, from, FAR_ROOM, PATIENCE));
            uint8_t out[64];
            far_write(from, out, damaged(from, out));
            int64_t broke = clock_now();
            // So slowly that there is always more.
            while (!from->has_alert && far_receive_some(&t, from, 4000, PATIENCE))
                MUST(usleep(1000) == 0);
            assert_true(from->has_alert);
            assert_int_equal(from->alert, TLS_ALERT_BAD_RECORD_MAC);
            assert_true(clock_now() - broke < 2 * NS_PER_S);
            rig_join(&t.rig);
            assert_broken(&t, side);
            assert_int_equal(far_receive_end(&t, from), FAR_CUT);
            atomic_store(&stream.is_over, true);
            MUST(pthread_join(sender, NULL) == 0);
            tls_rig_release(&t);
        }
    }
}

// What came before the breach still waits to be sent to a side that does not read: the alert does not wait for that.
static void the_alert_does_not_wait_for_the_other_side(void **state)
{
    (void)state;
    FOR_EACH_WAY(way)
    {
        for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
            if (!way->is_tls[side] || way->in_bulk)
                continue;
            struct tls_rig t;
            tls_rig_init(&t, way);
            struct far *from = &t.fars[side], *other = &t.fars[!side];
            int room = 32768;
            MUST(setsockopt(*other->fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room) == 0);
            tls_rig_start(&t, false);
            far_send(from, 100000, 10000);
            assert_true(rig_wait_bytes(&t.rig, (enum relay_side)side, 100000));
            uint8_t out[64];
            far_write(from, out, damaged(from, out));
            int64_t broke = clock_now();
            while (!from->has_alert)
                MUST(far_receive_some(&t, from, FAR_ROOM, PATIENCE));
            assert_true(clock_now() - broke < 2 * NS_PER_S);
            assert_int_equal(far_receive_end(&t, from), FAR_CUT);
            far_receive_all_sent(&t, other);
            rig_join(&t.rig);
            assert_broken(&t, side);
            assert_int_equal(far_receive_end(&t, other), FAR_RESET);
            tls_rig_release(&t);
        }
    }
}

// The peer ends TLS by an alert of its own: it gets none back.
static void a_fatal_alert_of_the_peer_ends_the_relay(void **state)
{
    (void)state;
    static const struct {
        uint8_t alert[2];
        const char *name;
    } alerts[] = {{{2, 48}, "unknown_ca"}, {{2, 20}, "bad_record_mac"}, {{2, 200}, "unknown_alert"}};
    FOR_EACH_WAY(way)
    {
        for (int i = 0; i < 2 * (int)ARRAY_LENGTH(alerts); i++) {
            int side = i % 2;
            if (!way->is_tls[side])
                continue;
            struct tls_rig t;
            tls_rig_init(&t, way);
            struct far *from = &t.fars[side], *other = &t.fars[!side];
            tls_rig_start(&t, way->in_bulk);
            uint8_t out[4096];
            size_t size = far_seal(from, 300, 10, out);
            size += forge(&from->sends, TLS_ALERT, alerts[i / 2].alert, 2, 0, out + size);
            far_write(from, out, size);
            far_receive_all_sent(&t, other);
            rig_join(&t.rig);
            assert_broken(&t, side);
            assert_said(&t, side, "ended TLS by the alert", alerts[i / 2].name);
            assert_int_equal(far_receive_end(&t, other), FAR_RESET);
            assert_int_equal(far_receive_end(&t, from), FAR_CUT);
            assert_false(from->has_alert);
            tls_rig_assert_bytes(&t);
            tls_rig_release(&t);
        }
    }
}

// An alert that is a warning is none of this.
static void warnings_are_passed_over(void **state)
{
    (void)state;
    FOR_EACH_WAY(way)
    {
        for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
            if (!way->is_tls[side])
                continue;
            struct tls_rig t;
            tls_rig_init(&t, way);
            tls_rig_start(&t, way->in_bulk);
            far_send_record(&t.fars[side], TLS_ALERT, "\1\x5a", 2); // user_canceled
            far_send(&t.fars[side], 1000, 100);
            far_receive_all_sent(&t, &t.fars[!side]);
            tls_rig_finish(&t, (enum relay_side)side);
        }
    }
}

// It has sent its close_notify, and then breaks TLS by what nobody reads any more.
static void what_comes_after_the_end_breaks_nothing(void **state)
{
    (void)state;
    FOR_EACH_WAY(way)
    {
        for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
            if (!way->is_tls[side])
                continue;
            struct tls_rig t;
            tls_rig_init(&t, way);
            struct far *from = &t.fars[side], *other = &t.fars[!side];
            tls_rig_start(&t, way->in_bulk);
            uint8_t out[64];
            far_write(from, out, far_forge_close(from, out));
            assert_int_equal(far_receive_end(&t, other), FAR_CLOSED);
            far_write(from, "\x17\3\3\0\x20garbage", 12);
            far_send(other, 5000, 1000);
            far_receive_all_sent(&t, from);
            far_finish(other);
            rig_join(&t.rig);
            rig_assert_ended(&t.rig, CLOSE_COMPLETED, side == RELAY_CLIENT ? ENDED_BY_CLIENT : ENDED_BY_TARGET);
            tls_rig_release(&t);
        }
    }
}

int main(void)
{
    if (!aead_prepare(NULL))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_breaks_tls_is_told_by_an_alert),
        cmocka_unit_test(a_stream_to_who_breaks_tls_is_stopped),
        cmocka_unit_test(the_alert_does_not_wait_for_the_other_side),
        cmocka_unit_test(a_fatal_alert_of_the_peer_ends_the_relay),
        cmocka_unit_test(warnings_are_passed_over),
        cmocka_unit_test(what_comes_after_the_end_breaks_nothing),
    };
    rig_prepare();
    int failed = cmocka_run_group_tests_name("with threads to be had", tests, NULL, NULL);
    rig_go_without_threads();
    rig_prepare();
    return failed + cmocka_run_group_tests_name("on one thread", tests, NULL, NULL);
}
