// Data through a relay with TLS legs: intact both ways, however it is cut into records and segments; and what TLS says
// besides.

#include "bitflow/base/compiler.h"
#include "relay_tls_rig.h"

// With every suite.
static void test_messages_pass_both_ways(void **state)
{
    struct tls_case of = *(const struct tls_case *)*state;
    for (of.way.suite = 0; of.way.suite < TLS_SUITES; of.way.suite++) {
        struct tls_rig t;
        tls_rig_begin(&t, &of);
        for (unsigned round = 0; round < 60; round++) {
            far_send(&t.fars[RELAY_CLIENT], 1 + round * 7, 100);
            far_receive_all_sent(&t, &t.fars[RELAY_TARGET]);
            far_send(&t.fars[RELAY_TARGET], 1 + round * 311, 16384);
            far_receive_all_sent(&t, &t.fars[RELAY_CLIENT]);
        }
        tls_rig_finish(&t, t.side);
    }
}

static void test_messages_take_one_thread(void **state)
{
    struct tls_rig t;
    tls_rig_init(&t, *state);
    tls_rig_start(&t, false);
    for (unsigned round = 0; round < 20; round++) {
        far_send(&t.fars[RELAY_CLIENT], 20000, 16384);
        far_receive_all_sent(&t, &t.fars[RELAY_TARGET]);
        far_send(&t.fars[RELAY_TARGET], 6, 6);
        far_receive_all_sent(&t, &t.fars[RELAY_CLIENT]);
        rig_wait_blocked(&t.rig, RELAY_CLIENT, SYS_poll, 1, 2);
    }
    assert_false(tls_rig_has_second_thread(&t));
    tls_rig_finish(&t, RELAY_TARGET);
}

// A record that comes in two parts, for each place of the cut, with the relay having read the first one.
static void test_a_record_split_at_any_place_arrives(void **state)
{
    struct tls_rig t;
    tls_rig_begin(&t, *state);
    size_t size = SIZE_MAX;
    for (size_t cut = 1; cut < size; cut++) {
        uint8_t out[300];
        uint64_t before = t.from->sent;
        size = far_seal(t.from, 40, 40, out);
        far_write(t.from, out, cut);
        tls_rig_wait_read(&t, t.side);
        assert_int_equal(t.to->received, before);
        far_write(t.from, out + cut, size - cut);
        far_receive_all_sent(&t, t.to);
    }
    tls_rig_finish(&t, RELAY_CLIENT);
}

// The rest of one record, and the beginning of the next one, in one segment, over and over.
static void test_records_that_cross_segments_arrive(void **state)
{
    static const size_t segments[] = {1, 100, 1448, 17000, 17408, 40000};
    static uint8_t out[FAR_SEALED_MAX];
    struct tls_rig t;
    tls_rig_begin(&t, *state);
    for (size_t i = 0; i < ARRAY_LENGTH(segments); i++) {
        size_t size = far_seal(t.from, segments[i] == 1 ? 500 : 100000, segments[i] == 1 ? 30 : 16384, out);
        for (size_t at = 0; at < size; at += segments[i]) {
            far_write(t.from, out + at, size - at < segments[i] ? size - at : segments[i]);
            tls_rig_wait_read(&t, t.side);
            if (at % 3 == 0)
                while (far_receive_some(&t, t.to, FAR_ROOM, 0))
                    ;
        }
        far_receive_all_sent(&t, t.to);
    }
    tls_rig_finish(&t, RELAY_TARGET);
}

// More records in one segment than the relay writes by one call, small and with things between them that bring no data.
static void test_small_records_of_one_segment_all_arrive(void **state)
{
    static uint8_t out[FAR_SEALED_MAX];
    struct tls_rig t;
    tls_rig_begin(&t, *state);
    for (unsigned records = 1; records < 70; records++) {
        size_t size = 0;
        for (unsigned i = 0; i < records; i++) {
            size += far_seal(t.from, 1 + i % 5, 16384, out + size);
            if (i % 7 == 3)
                size += forge(&t.from->sends, TLS_APPLICATION_DATA, NULL, 0, i, out + size); // empty
            if (i % 11 == 5 && t.from->sends.version == TLS_1_3)
                size += far_forge_key_update(t.from, false, out + size);
        }
        far_write(t.from, out, size);
        far_receive_all_sent(&t, t.to);
    }
    tls_rig_finish(&t, RELAY_CLIENT);
}

// A record of all that TLS allows, data and padding, fits into the buffers that a relay begins with.
static void test_records_of_every_size_arrive(void **state)
{
    static const size_t sizes[] = {1, 2, 1000, 16000, 16383, 16384};
    static uint8_t out[TLS_RECORD_MAX], plain[TLS_PLAIN_MAX];
    struct tls_rig t;
    tls_rig_begin(&t, *state);
    for (size_t i = 0; i < 4 * ARRAY_LENGTH(sizes); i++) {
        size_t size = sizes[i / 4];
        // With the type's byte, padding counts as plaintext.
        size_t padding = t.from->sends.version == TLS_1_3 && i % 4 != 0 ? TLS_PLAIN_MAX - size : 0;
        rig_fill(plain, size, t.from->stream, t.from->sent);
        size_t length = forge(&t.from->sends, TLS_APPLICATION_DATA, plain, size, padding, out);
        t.from->sent += size;
        far_write(t.from, out, length - (i % 4 == 2));
        if (i % 4 == 2) {
            tls_rig_wait_read(&t, t.side);
            far_write(t.from, out + length - 1, 1);
        }
        if (i % 4 != 3)
            far_receive_all_sent(&t, t.to);
    }
    far_receive_all_sent(&t, t.to);
    tls_rig_finish(&t, RELAY_TARGET);
}

// A peer with little memory has asked for small records.
static void test_no_record_is_longer_than_the_peer_takes(void **state)
{
    static const size_t limits[] = {512, 1024, 4096, 16383}, sizes[] = {1, 511, 512, 513, 1024, 5000, 16384, 40000};
    for (size_t i = 0; i < ARRAY_LENGTH(limits); i++) {
        struct tls_rig t;
        tls_rig_init(&t, *state);
        t.sessions[t.side].record_limit = limits[i];
        tls_rig_start(&t, t.way.in_bulk);
        for (size_t n = 0; n < ARRAY_LENGTH(sizes); n++) {
            far_send(t.to, sizes[n], 16384);
            far_receive_all_sent(&t, t.from);
        }
        assert_int_equal(t.from->largest, limits[i]);
        tls_rig_finish(&t, RELAY_CLIENT);
    }
}

// --- what TLS says besides -------------------------------------------------------------------------------------------

// The peer's KeyUpdates, between data and split over reads. A requested one is answered at once by a relay on one
// thread, and before the next data by one on two.
static void test_key_updates_are_followed_and_answered(void **state)
{
    struct tls_case of = *(const struct tls_case *)*state;
    of.way.suite %= 3;
    assert_int_equal(tls_suites[of.way.suite].keys.version, TLS_1_3);
    struct tls_rig t;
    tls_rig_begin(&t, &of);
    for (unsigned round = 1; round <= 5; round++) {
        far_send(t.from, 100, 30);
        far_update_key(t.from, false);
        far_send(t.from, 100, 30);
        far_receive_all_sent(&t, t.to);
        assert_int_equal(t.from->key_updates, round - 1);
        far_update_key(t.from, true);
        if (t.way.in_bulk) {
            tls_rig_wait_read(&t, t.side);
            far_send(t.from, 10, 10); // when this has arrived, it was looked at
            far_receive_all_sent(&t, t.to);
        } else {
            while (t.from->key_updates < round)
                MUST(far_receive_some(&t, t.from, FAR_ROOM, PATIENCE));
        }
        far_send(t.to, 50, 50);
        far_receive_all_sent(&t, t.from);
        assert_int_equal(t.from->key_updates, round);
    }
    uint8_t out[64];
    size_t size = far_forge_key_update(t.from, true, out);
    for (size_t i = 0; i < size; i++) {
        far_write(t.from, out + i, 1);
        tls_rig_wait_read(&t, t.side);
    }
    far_send(t.from, 10, 10);
    far_receive_all_sent(&t, t.to);
    tls_rig_finish(&t, t.side);
}

// The answer to a KeyUpdate is for the one who asked: what waits to be written to it goes first.
static void test_the_answer_to_a_key_update_goes_behind_waiting_data(void **state)
{
    (void)state;
    static const struct tls_case of = {.way = {.is_tls = {true, false}}, .side = RELAY_CLIENT};
    struct tls_rig t;
    tls_rig_init_on(&t, &of, RIG_TCP, 4096);
    struct far *client = &t.fars[RELAY_CLIENT], *target = &t.fars[RELAY_TARGET];
    tls_rig_start(&t, false);
    uint64_t pieces = 0;
    struct pollfd poller = {.fd = t.rig.target, .events = POLLOUT};
    while (lateness_poll(&poller, 100 * NS_PER_MS)) { // until the relay is stuck in the write to the client
        far_send(target, 1000, 1000);
        pieces++;
    }
    assert_true(pieces > 1);
    far_update_key(client, true);
    far_send(client, 10, 10);
    far_receive_all_sent(&t, target);
    far_receive_all_sent(&t, client);
    far_send(target, 10, 10);
    far_receive_all_sent(&t, client);
    assert_int_equal(client->key_updates, 1);
    tls_rig_finish(&t, RELAY_CLIENT);
}

// A 1.2 server may ask for a renegotiation by a HelloRequest, a client by a ClientHello.
static void test_renegotiation_is_refused_by_a_warning(void **state)
{
    static const uint8_t hello_request[] = {TLS_HELLO_REQUEST, 0, 0, 0};
    static const uint8_t client_hello[50] = {TLS_CLIENT_HELLO, 0, 0, 46, 3, 3};
    struct tls_case of = *(const struct tls_case *)*state;
    of.way.suite = 3 + of.way.suite % 3;
    assert_int_equal(tls_suites[of.way.suite].keys.version, TLS_1_2);
    struct tls_rig t;
    tls_rig_begin(&t, &of);
    if (t.side == RELAY_CLIENT)
        far_send_record(t.from, TLS_HANDSHAKE, client_hello, sizeof client_hello);
    else
        far_send_record(t.from, TLS_HANDSHAKE, hello_request, sizeof hello_request);
    if (t.way.in_bulk) {
        far_send(t.from, 10, 10);
        far_receive_all_sent(&t, t.to);
        far_send(t.to, 10, 10);
    }
    while (!t.from->has_alert)
        MUST(far_receive_some(&t, t.from, FAR_ROOM, PATIENCE));
    assert_int_equal(t.from->alert, TLS_ALERT_NO_RENEGOTIATION);
    assert_int_equal(t.from->alert_level, 1);
    far_send(t.from, 1000, 100);
    far_send(t.to, 1000, 100);
    far_receive_all_sent(&t, t.to);
    far_receive_all_sent(&t, t.from);
    tls_rig_finish(&t, t.side);
}

// A 1.3 server's tickets come whenever it likes.
static void test_tickets_are_skipped(void **state)
{
    static const uint8_t ticket[204] = {TLS_NEW_SESSION_TICKET, 0, 0, 200};
    struct tls_case of = *(const struct tls_case *)*state;
    of.way.suite %= 3;
    struct tls_rig t;
    tls_rig_init(&t, &of);
    far_send_record(t.from, TLS_HANDSHAKE, ticket, sizeof ticket);
    tls_rig_start(&t, t.way.in_bulk);
    far_send(t.from, 100, 100);
    far_send_record(t.from, TLS_HANDSHAKE, ticket, 100); // in two parts
    far_send_record(t.from, TLS_HANDSHAKE, ticket + 100, sizeof ticket - 100);
    far_send(t.from, 100, 100);
    far_receive_all_sent(&t, t.to);
    far_send_record(t.from, TLS_HANDSHAKE, ticket, sizeof ticket);
    tls_rig_finish(&t, RELAY_TARGET);
}

int main(void)
{
    static const struct tls_rig_test tests[] = {
        TLS_RIG_TEST(test_messages_pass_both_ways, TLS_ALTERNATE),
        TLS_RIG_TEST(test_messages_take_one_thread, TLS_EACH_WAY | TLS_WITH_THREADS),
        TLS_RIG_TEST(test_a_record_split_at_any_place_arrives, TLS_EACH_WAY),
        TLS_RIG_TEST(test_records_that_cross_segments_arrive, TLS_EACH_WAY),
        TLS_RIG_TEST(test_small_records_of_one_segment_all_arrive, TLS_EACH_WAY),
        TLS_RIG_TEST(test_records_of_every_size_arrive, TLS_EACH_WAY),
        TLS_RIG_TEST(test_no_record_is_longer_than_the_peer_takes, TLS_EACH_WAY),
        TLS_RIG_TEST(test_key_updates_are_followed_and_answered, TLS_EACH_SIDE | TLS_SIDE_HAS_TLS | TLS_WITH_THREADS),
        TLS_RIG_TEST(test_the_answer_to_a_key_update_goes_behind_waiting_data, TLS_ONCE),
        TLS_RIG_TEST(test_renegotiation_is_refused_by_a_warning, TLS_EACH_SIDE | TLS_SIDE_HAS_TLS | TLS_WITH_THREADS),
        TLS_RIG_TEST(test_tickets_are_skipped, TLS_TARGET | TLS_SIDE_HAS_TLS | TLS_WITH_THREADS),
    };
    return tls_rig_run(tests, ARRAY_LENGTH(tests));
}
