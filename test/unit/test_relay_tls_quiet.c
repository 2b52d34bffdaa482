// What a relay with TLS legs was about when it gives its second thread back, and the one that is left goes on with.

#include "bitflow/base/compiler.h"
#include "relay_tls_rig.h"

static void wait_tls_given_back(const struct tls_rig *t)
{
    int64_t deadline = clock_now() + PATIENCE;
    while (tls_rig_has_second_thread(t))
        MUST(clock_now() < deadline && usleep(1000) == 0);
}

static void test_the_part_of_a_record_is_handed_back(void **state)
{
    struct tls_rig t;
    uint8_t out[300];
    tls_rig_init(&t, *state);
    tls_rig_start(&t, true);
    uint64_t before = t.to->received;
    size_t size = far_seal(t.from, 40, 40, out);
    far_write(t.from, out, size / 2);
    tls_rig_wait_read(&t, t.side);
    wait_tls_given_back(&t);
    assert_int_equal(t.to->received, before);
    far_write(t.from, out + size / 2, size - size / 2);
    far_receive_all_sent(&t, t.to);
    far_send(t.to, 20000, 16384);
    far_receive_all_sent(&t, t.from);
    assert_false(tls_rig_has_second_thread(&t));
    tls_rig_finish(&t, t.side);
}

// The peer asks for a key update while there are two threads, and is answered as soon as there is one.
static void test_an_answer_that_is_due_is_handed_back(void **state)
{
    struct tls_case of = *(const struct tls_case *)*state;
    of.way.suite %= 3;
    assert_int_equal(tls_suites[of.way.suite].keys.version, TLS_1_3);
    struct tls_rig t;
    tls_rig_init(&t, &of);
    tls_rig_start(&t, true);
    unsigned before = t.from->key_updates;
    far_update_key(t.from, true);
    tls_rig_wait_read(&t, t.side);
    wait_tls_given_back(&t);
    while (t.from->key_updates == before)
        MUST(far_receive_some(&t, t.from, FAR_ROOM, PATIENCE));
    far_send(t.from, 100, 100);
    far_receive_all_sent(&t, t.to);
    far_send(t.to, 100, 100);
    far_receive_all_sent(&t, t.from);
    assert_int_equal(t.from->key_updates, before + 1);
    tls_rig_finish(&t, t.side == RELAY_CLIENT ? RELAY_TARGET : RELAY_CLIENT);
}

int main(void)
{
    static const struct tls_rig_test tests[] = {
        TLS_RIG_TEST(test_the_part_of_a_record_is_handed_back,
                     TLS_EACH_WAY | TLS_SIDE_HAS_TLS | TLS_NOT_IN_BULK | TLS_WITH_THREADS),
        TLS_RIG_TEST(test_an_answer_that_is_due_is_handed_back,
                     TLS_EACH_WAY | TLS_SIDE_HAS_TLS | TLS_NOT_IN_BULK | TLS_WITH_THREADS),
    };
    return tls_rig_run(tests, ARRAY_LENGTH(tests));
}
