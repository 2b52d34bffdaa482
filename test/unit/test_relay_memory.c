// What a relay keeps its bytes in: messages that outgrow the first buffers, memory that cannot be had, and what a relay
// that has fallen silent has given back.

#include "bitflow/base/compiler.h"
#include "bitflow/tls/aead.h"
#include "failing_memory.h"
#include "relay_tls_rig.h"

#define MS(n) ((n) * NS_PER_MS)
#define RELEASED_WITHIN MS(3500)
#define RELEASE_AFTER MS(3000)
#define LATE MS(1000)

// Around what the first buffer holds, and what the one from the heap does.
static const size_t sizes[] = {1,     2,     447,  448,   449, 1,     1023,  1024,   1025,
                               2048,  4095,  4096, 4097,  1,   15871, 15872, 15873,  16383,
                               16384, 16385, 448,  16896, 1,   40000, 448,   100000, 3};

static const struct {
    enum rig_kind client, target;
} pairings[] = {{RIG_TCP, RIG_TCP}, {RIG_TCP, RIG_UNIX}, {RIG_UNIX, RIG_TCP}, {RIG_UNIX, RIG_UNIX}};

static int far_of(const struct rig *rig, enum relay_side side)
{
    return side == RELAY_CLIENT ? rig->client : rig->target;
}

static void pass_bytes(const struct rig *rig, enum relay_side from, uint64_t *sent, uint64_t size)
{
    enum rig_end end;
    assert_int_equal(rig_send(far_of(rig, from), (unsigned)from, *sent, size), size);
    assert_int_equal(
        rig_receive(far_of(rig, from == RELAY_CLIENT ? RELAY_TARGET : RELAY_CLIENT), (unsigned)from, *sent, size, &end),
        size);
    *sent += size;
}

static void finish(struct rig *rig)
{
    MUST(shutdown(rig->client, SHUT_WR) == 0);
    assert_int_equal(rig_next(rig->target), RIG_EOF);
    MUST(shutdown(rig->target, SHUT_WR) == 0);
    assert_int_equal(rig_next(rig->client), RIG_EOF);
    rig_join(rig);
    rig_assert_ended(rig, CLOSE_COMPLETED, ENDED_BY_CLIENT);
    rig_assert_resets(rig, false, false);
    rig_release(rig);
}

static void test_messages_of_all_sizes_arrive_both_ways(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(pairings); i++) {
        for (size_t first = 0; first < ARRAY_LENGTH(sizes); first++) { // which is the one that outgrows it
            struct rig rig;
            uint64_t sent[2] = {0};
            rig_init(&rig, pairings[i].client, pairings[i].target, 0);
            rig_start(&rig);
            for (size_t next = 0; next < ARRAY_LENGTH(sizes); next++) {
                pass_bytes(&rig, RELAY_CLIENT, &sent[RELAY_CLIENT], sizes[(first + next) % ARRAY_LENGTH(sizes)]);
                pass_bytes(&rig, RELAY_TARGET, &sent[RELAY_TARGET], sizes[(first + 2 * next) % ARRAY_LENGTH(sizes)]);
            }
            finish(&rig);
            assert_int_equal(rig_bytes(&rig, RELAY_CLIENT), sent[RELAY_CLIENT]);
            assert_int_equal(rig_bytes(&rig, RELAY_TARGET), sent[RELAY_TARGET]);
        }
    }
}

// What is there when a read has filled the first buffer goes on with it, in one piece.
static void test_a_message_that_outgrows_the_first_buffer_stays_whole(void **state)
{
    (void)state;
    struct rig rig;
    unsigned char buffer[20000];
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0); // which keeps pieces apart
    rig_init(&rig, RIG_TCP, RIG_UNIX, 0);
    MUST(dup3(pair[0], rig.relay.sockets[RELAY_TARGET].fd, O_CLOEXEC) >= 0 &&
         dup3(pair[1], rig.target, O_CLOEXEC) >= 0);
    MUST(close(pair[0]) == 0 && close(pair[1]) == 0);
    assert_int_equal(rig_send(rig.client, 0, 0, 10000), 10000); // before the relay reads
    rig_start(&rig);
    assert_int_equal(recv(rig.target, buffer, sizeof buffer, 0), 10000);
    rig_end(&rig, CLOSE_DRAIN);
    rig_join(&rig);
    rig_release(&rig);
}

// The reset is found by the read behind the one that has filled the first buffer.
static void test_what_came_before_a_reset_is_delivered(void **state)
{
    (void)state;
    static const uint64_t before[] = {447, 448, 449, 1024, 16384};
    for (size_t i = 0; i < ARRAY_LENGTH(before); i++) {
        struct rig rig;
        enum rig_end end;
        rig_init(&rig, RIG_TCP, RIG_TCP, 0);
        assert_int_equal(rig_send(rig.client, 3, 0, before[i]), before[i]);
        rig_reset_far(&rig.client);
        rig_start(&rig);
        assert_int_equal(rig_receive(rig.target, 3, 0, before[i], &end), before[i]);
        rig_join(&rig);
        assert_int_equal(rig_next(rig.target), RIG_RESET);
        rig_assert_ended(&rig, CLOSE_CLIENT_RESET, ENDED_BY_CLIENT);
        rig_assert_resets(&rig, false, true);
        rig_release(&rig);
    }
}

// Neither side reads: both writes wait, each with what its direction has read, on one thread or on two.
static void test_both_ways_may_stall_at_once(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(pairings); i++) {
        struct rig rig;
        enum rig_end end;
        rig_init(&rig, pairings[i].client, pairings[i].target, 4096);
        rig_start(&rig);
        rig_pass(rig.client, rig.target, "small");
        uint64_t down = rig_stuff(&rig, RELAY_TARGET), up = rig_stuff(&rig, RELAY_CLIENT);
        assert_int_equal(rig_receive(rig.client, 5, 0, down, &end), down);
        assert_int_equal(rig_receive(rig.target, 5, 0, up, &end), up);
        rig_pass(rig.target, rig.client, "small again");
        finish(&rig);
    }
}

// --- without memory --------------------------------------------------------------------------------------------------

#ifndef HAS_THREAD_SANITIZER

// The relay runs on this thread, on what was sent before, and no allocation succeeds.
static void test_without_memory_bytes_still_arrive(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(pairings); i++) {
        struct rig rig;
        enum rig_end end;
        rig_init(&rig, pairings[i].client, pairings[i].target, 0);
        assert_int_equal(rig_send(rig.client, 1, 0, 20000), 20000);
        assert_int_equal(rig_send(rig.target, 2, 0, 448), 448);
        MUST(shutdown(rig.client, SHUT_WR) == 0 && shutdown(rig.target, SHUT_WR) == 0);
        memory_fail_lastingly(true);
        memory_count_begin(0);
        (void)rig_run(&rig);
        assert_int_equal(memory_count_end(), 0);
        assert_true(has_failed);
        assert_int_equal(rig_receive(rig.target, 1, 0, 30000, &end), 20000);
        assert_int_equal(end, RIG_EOF);
        assert_int_equal(rig_receive(rig.client, 2, 0, 30000, &end), 448);
        assert_int_equal(end, RIG_EOF);
        assert_int_equal(rig.failure.reason, CLOSE_COMPLETED);
        rig_close_side(&rig, RELAY_CLIENT, false);
        rig_close_side(&rig, RELAY_TARGET, false);
        rig_release(&rig);
    }
}

// Also where the bytes are the relay's last.
static void test_what_was_allocated_is_freed(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(pairings); i++) {
        struct rig rig;
        rig_init(&rig, pairings[i].client, pairings[i].target, 0);
        assert_int_equal(rig_send(rig.client, 1, 0, 5000), 5000);
        assert_int_equal(rig_send(rig.target, 2, 0, 5000), 5000);
        MUST(shutdown(rig.client, SHUT_WR) == 0 && shutdown(rig.target, SHUT_WR) == 0);
        memory_fail_lastingly(false);
        memory_count_begin(2); // of which there are two
        (void)rig_run(&rig);
        assert_int_equal(memory_count_end(), 0);
        assert_false(has_failed);
        assert_int_equal(rig.failure.reason, CLOSE_COMPLETED);
        rig_close_side(&rig, RELAY_CLIENT, false);
        rig_close_side(&rig, RELAY_TARGET, false);
        rig_release(&rig);
    }
}

#endif

// --- silence ---------------------------------------------------------------------------------------------------------

// How often the relay's thread has waited.
static unsigned long waits(const struct rig *rig)
{
    char schedstat[200];
    MUST(rig_read_thread(rig->runner_name, "schedstat", schedstat, (int)sizeof schedstat));
    const char *last = strrchr(schedstat, ' ');
    MUST(last != NULL);
    return strtoul(last, NULL, 10); // how often it was put on a processor
}

static void wait_for(int64_t duration)
{
    (void)poll(NULL, 0, (int)(duration / NS_PER_MS));
}

static void wait_idle(const struct rig *rig)
{
    rig_wait_blocked(rig, RELAY_CLIENT, SYS_poll, 1, 2);
}

enum { SILENT, SMALL, LARGE, RELAYS };

// Waits for what is silence, and tells how often each relay's thread has run meanwhile.
static void count_waits(const struct rig rigs[RELAYS], unsigned long found[RELAYS])
{
    for (unsigned i = 0; i < RELAYS; i++) {
        wait_idle(&rigs[i]);
        found[i] = waits(&rigs[i]);
    }
    wait_for(RELEASED_WITHIN);
    for (unsigned i = 0; i < RELAYS; i++) {
        wait_idle(&rigs[i]);
        found[i] = waits(&rigs[i]) - found[i];
    }
}

// None that passes small messages: a limit on its poll() would cost each of them a timer. Those that have outgrown a
// buffer, once.
static void test_a_silent_relay_is_woken_up_once(void **state)
{
    (void)state;
    struct rig rigs[RELAYS];
    unsigned long found[RELAYS];
    uint64_t sent = 0;
    for (unsigned i = 0; i < RELAYS; i++) {
        rig_init(&rigs[i], RIG_TCP, RIG_TCP, 0);
        rig_start(&rigs[i]);
        rig_pass(rigs[i].client, rigs[i].target, "question");
    }
    count_waits(rigs, found);
    assert_true(found[SILENT] == 0 && found[SMALL] == 0 && found[LARGE] == 0);
    rig_pass(rigs[SMALL].target, rigs[SMALL].client, "answer");
    pass_bytes(&rigs[LARGE], RELAY_TARGET, &sent, 8000);
    count_waits(rigs, found);
    assert_true(found[SILENT] == 0 && found[SMALL] == 0 && found[LARGE] >= 1);
    count_waits(rigs, found);
    assert_true(found[SILENT] == 0 && found[SMALL] == 0 && found[LARGE] == 0);
    for (unsigned i = 0; i < RELAYS; i++)
        finish(&rigs[i]);
}

// Its read timeout is longer than the silence after which memory is given back, and is as exact as ever.
static void test_the_read_timeout_goes_on_over_it(void **state)
{
    (void)state;
    const int64_t timeout = RELEASE_AFTER + MS(700);
    struct rig rig;
    uint64_t sent = 0;
    rig_init(&rig, RIG_TCP, RIG_TCP, 0);
    rig.relay.sockets[RELAY_CLIENT].read_timeout = timeout;
    rig_start(&rig);
    wait_for(MS(1000));
    int64_t last = clock_now();
    pass_bytes(&rig, RELAY_TARGET, &sent, 8000);
    rig_join(&rig);
    rig_assert_ended(&rig, CLOSE_CLIENT_READ_TIMEOUT, ENDED_BY_PROXY);
    assert_true(rig.ended - last >= timeout - MS(10));
    assert_within(last, rig.ended, timeout + LATE);
    rig_release(&rig);
}

// A round trip of more than a record, and silence: with nothing received after it, or with the most of a record, which
// counts when it is whole.
static void pass_around_silence(struct tls_rig rigs[], size_t count, bool with_part)
{
    static uint8_t out[TLS_WAYS][2][FAR_SEALED_MAX];
    size_t sealed[TLS_WAYS][2], part[TLS_WAYS][2];
    for (size_t i = 0; i < count; i++) {
        for (unsigned side = 0; side < 2; side++) {
            struct far *far = &rigs[i].fars[side];
            far_send(far, 20000, 16384);
            far_receive_all_sent(&rigs[i], &rigs[i].fars[1 - side]);
            sealed[i][side] = far_seal(far, 16384, 16384, out[i][side]);
            part[i][side] = with_part && far->is_tls ? sealed[i][side] - 30 : 0;
            far_write(far, out[i][side], part[i][side]);
        }
    }
    wait_for(RELEASED_WITHIN);
    for (size_t i = 0; i < count; i++) {
        for (unsigned side = 0; side < 2; side++) {
            far_write(&rigs[i].fars[side], out[i][side] + part[i][side], sealed[i][side] - part[i][side]);
            far_receive_all_sent(&rigs[i], &rigs[i].fars[1 - side]);
        }
    }
}

static void test_tls_goes_on_after_silence(void **state)
{
    (void)state;
    static struct tls_rig rigs[TLS_WAYS];
    for (size_t i = 0; i < TLS_WAYS; i++) {
        struct tls_case of = {.way = tls_ways[i], .side = RELAY_CLIENT};
        tls_rig_begin(&rigs[i], &of);
    }
    pass_around_silence(rigs, TLS_WAYS, false);
    pass_around_silence(rigs, TLS_WAYS, true);
    for (size_t i = 0; i < TLS_WAYS; i++)
        tls_rig_finish(&rigs[i], RELAY_CLIENT);
}

static void test_plain_goes_on_after_silence(void **state)
{
    (void)state;
    struct rig rig;
    uint64_t sent[2] = {0};
    rig_init(&rig, RIG_TCP, RIG_TCP, 0);
    rig_start(&rig);
    for (unsigned round = 0; round < 2; round++) {
        for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
            pass_bytes(&rig, RELAY_CLIENT, &sent[RELAY_CLIENT], sizes[i]);
            pass_bytes(&rig, RELAY_TARGET, &sent[RELAY_TARGET], sizes[i] / 2);
        }
        if (round == 0)
            wait_for(RELEASED_WITHIN);
    }
    finish(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages_of_all_sizes_arrive_both_ways),
        cmocka_unit_test(test_a_message_that_outgrows_the_first_buffer_stays_whole),
        cmocka_unit_test(test_what_came_before_a_reset_is_delivered),
        cmocka_unit_test(test_both_ways_may_stall_at_once),
        cmocka_unit_test(test_a_silent_relay_is_woken_up_once),
        cmocka_unit_test(test_the_read_timeout_goes_on_over_it),
        cmocka_unit_test(test_plain_goes_on_after_silence),
        cmocka_unit_test(test_tls_goes_on_after_silence),
    };
    const struct CMUnitTest without_threads[] = {
        cmocka_unit_test(test_messages_of_all_sizes_arrive_both_ways),
        cmocka_unit_test(test_what_came_before_a_reset_is_delivered),
        cmocka_unit_test(test_both_ways_may_stall_at_once),
        cmocka_unit_test(test_plain_goes_on_after_silence),
#ifndef HAS_THREAD_SANITIZER
        cmocka_unit_test(test_without_memory_bytes_still_arrive),
        cmocka_unit_test(test_what_was_allocated_is_freed),
#endif
    };
    MUST(aead_prepare(NULL));
    const struct at_once_group groups[] = {
        AT_ONCE_GROUP("with threads to be had", tests, rig_prepare),
        AT_ONCE_GROUP("on one thread", without_threads, rig_prepare_one_thread),
    };
    return at_once_run(groups, ARRAY_LENGTH(groups));
}
