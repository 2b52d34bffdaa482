// Data through a relay with TLS legs: intact both ways, however it is cut into records and segments; and what TLS says
// besides.

#include "relay_tls_rig.h"

static void messages_pass_both_ways(void **state)
{
    (void)state;
    for (size_t i = 0; i < TLS_SUITES * ARRAY_LENGTH(ways); i++) {
        struct way way = ways[i % ARRAY_LENGTH(ways)];
        way.suite = i / ARRAY_LENGTH(ways);
        struct tls_rig t;
        tls_rig_init(&t, &way);
        tls_rig_start(&t, way.in_bulk);
        for (unsigned round = 0; round < 60; round++) {
            far_send(&t.fars[RELAY_CLIENT], 1 + round * 7, 100);
            far_receive_all_sent(&t, &t.fars[RELAY_TARGET]);
            far_send(&t.fars[RELAY_TARGET], 1 + round * 311, 16384);
            far_receive_all_sent(&t, &t.fars[RELAY_CLIENT]);
        }
        tls_rig_finish(&t, i % 2 == 0 ? RELAY_CLIENT : RELAY_TARGET);
    }
}

static void messages_take_one_thread(void **state)
{
    (void)state;
    FOR_EACH_WAY(way)
    {
        struct tls_rig t;
        tls_rig_init(&t, way);
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
}

// A record that comes in two parts, for each place of the cut, with the relay having read the first one.
static void a_record_split_at_every_place(void **state)
{
    (void)state;
    FOR_EACH_WAY(way)
    {
        enum relay_side side = way->is_tls[RELAY_CLIENT] ? RELAY_CLIENT : RELAY_TARGET;
        struct tls_rig t;
        tls_rig_init(&t, way);
        tls_rig_start(&t, way->in_bulk);
        struct far *from = &t.fars[side], *to = &t.fars[!side];
        size_t size = SIZE_MAX;
        for (size_t cut = 1; cut < size; cut++) {
            uint8_t out[300];
            uint64_t before = from->sent;
            size = far_seal(from, 40, 40, out);
            far_write(from, out, cut);
            tls_rig_wait_read(&t, side);
            assert_int_equal(to->received, before);
            far_write(from, out + cut, size - cut);
            far_receive_all_sent(&t, to);
        }
        tls_rig_finish(&t, RELAY_CLIENT);
    }
}

// The rest of one record, and the beginning of the next one, in one segment, over and over.
static void segments_and_records_out_of_step(void **state)
{
    (void)state;
    static const size_t segments[] = {1, 100, 1448, 17000, 17408, 40000};
    static uint8_t out[FAR_SEALED_MAX];
    FOR_EACH_WAY(way)
    {
        enum relay_side side = way->is_tls[RELAY_CLIENT] ? RELAY_CLIENT : RELAY_TARGET;
        struct tls_rig t;
        tls_rig_init(&t, way);
        tls_rig_start(&t, way->in_bulk);
        struct far *from = &t.fars[side], *to = &t.fars[!side];
        for (size_t i = 0; i < ARRAY_LENGTH(segments); i++) {
            size_t size = far_seal(from, segments[i] == 1 ? 500 : 100000, segments[i] == 1 ? 30 : 16384, out);
            for (size_t at = 0; at < size; at += segments[i]) {
                far_write(from, out + at, size - at < segments[i] ? size - at : segments[i]);
                tls_rig_wait_read(&t, side);
                if (at % 3 == 0)
                    while (far_receive_some(&t, to, FAR_ROOM, 0))
                        ;
            }
            far_receive_all_sent(&t, to);
        }
        tls_rig_finish(&t, RELAY_TARGET);
    }
}

// More records in one segment than the relay writes by one call, small and with things between them that bring no data.
static void many_small_records_in_one_segment(void **state)
{
    (void)state;
    static uint8_t out[FAR_SEALED_MAX];
    FOR_EACH_WAY(way)
    {
        enum relay_side side = way->is_tls[RELAY_CLIENT] ? RELAY_CLIENT : RELAY_TARGET;
        struct tls_rig t;
        tls_rig_init(&t, way);
        tls_rig_start(&t, way->in_bulk);
        struct far *from = &t.fars[side], *to = &t.fars[!side];
        for (unsigned records = 1; records < 70; records++) {
            size_t size = 0;
            for (unsigned i = 0; i < records; i++) {
                size += far_seal(from, 1 + i % 5, 16384, out + size);
                if (i % 7 == 3)
                    size += forge(&from->sends, TLS_APPLICATION_DATA, NULL, 0, i, out + size); // empty
                if (i % 11 == 5 && from->sends.version == TLS_1_3)
                    size += far_forge_key_update(from, false, out + size);
            }
            far_write(from, out, size);
            far_receive_all_sent(&t, to);
        }
        tls_rig_finish(&t, RELAY_CLIENT);
    }
}

// A record of all that TLS allows, data and padding, fits into the buffers that a relay begins with.
static void records_of_every_size(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 1000, 16000, 16383, 16384};
    static uint8_t out[TLS_RECORD_MAX], plain[TLS_PLAIN_MAX];
    FOR_EACH_WAY(way)
    {
        enum relay_side side = way->is_tls[RELAY_CLIENT] ? RELAY_CLIENT : RELAY_TARGET;
        struct tls_rig t;
        tls_rig_init(&t, way);
        tls_rig_start(&t, way->in_bulk);
        struct far *from = &t.fars[side], *to = &t.fars[!side];
        for (size_t i = 0; i < 4 * ARRAY_LENGTH(sizes); i++) {
            size_t size = sizes[i / 4];
            // With the type's byte, padding counts as plaintext.
            size_t padding = from->sends.version == TLS_1_3 && i % 4 != 0 ? TLS_PLAIN_MAX - size : 0;
            rig_fill(plain, size, from->stream, from->sent);
            size_t length = forge(&from->sends, TLS_APPLICATION_DATA, plain, size, padding, out);
            from->sent += size;
            far_write(from, out, length - (i % 4 == 2));
            if (i % 4 == 2) {
                tls_rig_wait_read(&t, side);
                far_write(from, out + length - 1, 1);
            }
            if (i % 4 != 3)
                far_receive_all_sent(&t, to);
        }
        far_receive_all_sent(&t, to);
        tls_rig_finish(&t, RELAY_TARGET);
    }
}

// A peer with little memory has asked for small records.
static void no_record_is_longer_than_the_peer_takes(void **state)
{
    (void)state;
    static const size_t limits[] = {512, 1024, 4096, 16383};
    FOR_EACH_WAY(way)
    {
        enum relay_side side = way->is_tls[RELAY_CLIENT] ? RELAY_TARGET : RELAY_CLIENT; // that sends
        for (size_t i = 0; i < ARRAY_LENGTH(limits); i++) {
            struct tls_rig t;
            tls_rig_init(&t, way);
            struct far *from = &t.fars[side], *to = &t.fars[!side];
            t.sessions[!side].record_limit = limits[i];
            tls_rig_start(&t, way->in_bulk);
            static const size_t sizes[] = {1, 511, 512, 513, 1024, 5000, 16384, 40000};
            for (size_t n = 0; n < ARRAY_LENGTH(sizes); n++) {
                far_send(from, sizes[n], 16384);
                far_receive_all_sent(&t, to);
            }
            assert_int_equal(to->largest, limits[i]);
            tls_rig_finish(&t, RELAY_CLIENT);
        }
    }
}

// --- what TLS says besides -------------------------------------------------------------------------------------------

// The peer's KeyUpdates, between data and split over reads. A requested one is answered at once by a relay on one
// thread, and before the next data by one on two.
static void key_updates_are_followed_and_answered(enum relay_side side, const struct way *way)
{
    struct tls_rig t;
    tls_rig_init(&t, way);
    struct far *from = &t.fars[side], *other = &t.fars[!side];
    tls_rig_start(&t, way->in_bulk);
    for (unsigned round = 1; round <= 5; round++) {
        far_send(from, 100, 30);
        far_update_key(from, false);
        far_send(from, 100, 30);
        far_receive_all_sent(&t, other);
        assert_int_equal(from->key_updates, round - 1);
        far_update_key(from, true);
        if (way->in_bulk) {
            tls_rig_wait_read(&t, side);
            far_send(from, 10, 10); // when this has arrived, it was looked at
            far_receive_all_sent(&t, other);
        } else {
            while (from->key_updates < round)
                MUST(far_receive_some(&t, from, FAR_ROOM, PATIENCE));
        }
        far_send(other, 50, 50);
        far_receive_all_sent(&t, from);
        assert_int_equal(from->key_updates, round);
    }
    uint8_t out[64];
    size_t size = far_forge_key_update(from, true, out);
    for (size_t i = 0; i < size; i++) {
        far_write(from, out + i, 1);
        tls_rig_wait_read(&t, side);
    }
    far_send(from, 10, 10);
    far_receive_all_sent(&t, other);
    tls_rig_finish(&t, side);
}

static void key_updates(void **state)
{
    (void)state;
    FOR_EACH_WAY(way)
    {
        struct way with_1_3 = *way;
        with_1_3.suite %= 3;
        assert_int_equal(tls_suites[with_1_3.suite].keys.version, TLS_1_3);
        for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++)
            if (way->is_tls[side])
                key_updates_are_followed_and_answered((enum relay_side)side, &with_1_3);
    }
}

// The answer to a KeyUpdate is for the one who asked: what waits to be written to it goes first.
static void a_key_update_behind_waiting_data(void **state)
{
    (void)state;
    static const struct way way = {{true, false}, false, 0};
    struct tls_rig t;
    tls_rig_init_on(&t, &way, RIG_TCP, 4096);
    struct far *client = &t.fars[RELAY_CLIENT], *target = &t.fars[RELAY_TARGET];
    tls_rig_start(&t, false);
    uint64_t pieces = 0;
    struct pollfd poller = {.fd = t.rig.target, .events = POLLOUT};
    while (poll(&poller, 1, 100) == 1) { // until the relay is stuck in the write to the client
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
static void renegotiation_is_refused(void **state)
{
    (void)state;
    static const uint8_t hello_request[] = {TLS_HELLO_REQUEST, 0, 0, 0};
    static const uint8_t client_hello[50] = {TLS_CLIENT_HELLO, 0, 0, 46, 3, 3};
    for (size_t i = 0; i < 2 * ARRAY_LENGTH(ways); i++) {
        struct way way = ways[i % ARRAY_LENGTH(ways)];
        enum relay_side side = i < ARRAY_LENGTH(ways) ? RELAY_CLIENT : RELAY_TARGET;
        way.suite = 3 + way.suite % 3;
        assert_int_equal(tls_suites[way.suite].keys.version, TLS_1_2);
        if (!way.is_tls[side])
            continue;
        struct tls_rig t;
        tls_rig_init(&t, &way);
        struct far *from = &t.fars[side], *other = &t.fars[!side];
        tls_rig_start(&t, way.in_bulk);
        if (side == RELAY_CLIENT)
            far_send_record(from, TLS_HANDSHAKE, client_hello, sizeof client_hello);
        else
            far_send_record(from, TLS_HANDSHAKE, hello_request, sizeof hello_request);
        if (way.in_bulk) {
            far_send(from, 10, 10);
            far_receive_all_sent(&t, other);
            far_send(other, 10, 10);
        }
        while (!from->has_alert)
            MUST(far_receive_some(&t, from, FAR_ROOM, PATIENCE));
        assert_int_equal(from->alert, TLS_ALERT_NO_RENEGOTIATION);
        assert_int_equal(from->alert_level, 1);
        far_send(from, 1000, 100);
        far_send(other, 1000, 100);
        far_receive_all_sent(&t, other);
        far_receive_all_sent(&t, from);
        tls_rig_finish(&t, side);
    }
}

// A 1.3 server's tickets come whenever it likes.
static void tickets_are_skipped(void **state)
{
    (void)state;
    static const uint8_t ticket[204] = {TLS_NEW_SESSION_TICKET, 0, 0, 200};
    FOR_EACH_WAY(way)
    {
        struct way with_1_3 = *way;
        with_1_3.suite %= 3;
        if (!way->is_tls[RELAY_TARGET])
            continue;
        struct tls_rig t;
        tls_rig_init(&t, &with_1_3);
        struct far *target = &t.fars[RELAY_TARGET];
        far_send_record(target, TLS_HANDSHAKE, ticket, sizeof ticket);
        tls_rig_start(&t, way->in_bulk);
        far_send(target, 100, 100);
        far_send_record(target, TLS_HANDSHAKE, ticket, 100); // in two parts
        far_send_record(target, TLS_HANDSHAKE, ticket + 100, sizeof ticket - 100);
        far_send(target, 100, 100);
        far_receive_all_sent(&t, &t.fars[RELAY_CLIENT]);
        far_send_record(target, TLS_HANDSHAKE, ticket, sizeof ticket);
        tls_rig_finish(&t, RELAY_TARGET);
    }
}

int main(void)
{
    if (!aead_prepare(NULL))
        return 1;
    const struct CMUnitTest with_threads[] = {
        cmocka_unit_test(messages_pass_both_ways),
        cmocka_unit_test(messages_take_one_thread),
        cmocka_unit_test(a_record_split_at_every_place),
        cmocka_unit_test(segments_and_records_out_of_step),
        cmocka_unit_test(many_small_records_in_one_segment),
        cmocka_unit_test(records_of_every_size),
        cmocka_unit_test(no_record_is_longer_than_the_peer_takes),
        cmocka_unit_test(key_updates),
        cmocka_unit_test(a_key_update_behind_waiting_data),
        cmocka_unit_test(renegotiation_is_refused),
        cmocka_unit_test(tickets_are_skipped),
    };
    const struct CMUnitTest without_threads[] = {
        cmocka_unit_test(messages_pass_both_ways),
        cmocka_unit_test(a_record_split_at_every_place),
        cmocka_unit_test(segments_and_records_out_of_step),
        cmocka_unit_test(many_small_records_in_one_segment),
        cmocka_unit_test(records_of_every_size),
        cmocka_unit_test(no_record_is_longer_than_the_peer_takes),
        cmocka_unit_test(a_key_update_behind_waiting_data),
    };
    rig_prepare();
    int failed = cmocka_run_group_tests_name("with threads to be had", with_threads, NULL, NULL);
    rig_go_without_threads();
    rig_prepare();
    return failed + cmocka_run_group_tests_name("on one thread", without_threads, NULL, NULL);
}
