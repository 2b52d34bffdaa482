// A second thread that leaves a quiet relay while the target, which reads on only when it could answer, is sent more.

#include "relay_peers.h"

#define ECHOES 40
#define FLOOD 400000 // more than the relay can pass on without waiting

static bool has_second_thread(const struct rig *rig)
{
    char name[THREAD_NAME_SIZE + 1];
    return rig_read_thread(rig->relay.second_thread_name, "comm", name, (int)sizeof name);
}

// What one side has sent of its stream, which the other has received.
static void bulk_from(struct rig *rig, enum relay_side side)
{
    enum rig_end end;
    uint64_t sent = rig_stuff(rig, side);
    assert_true(has_second_thread(rig));
    assert_int_equal(rig_receive(side == RELAY_CLIENT ? rig->target : rig->client, 5, 0, sent, &end), sent);
}

// Reads on only when all it has read is sent back, until the end.
static void *echo(void *argument)
{
    int fd = *(const int *)argument;
    char buffer[16384];
    ssize_t received;
    while ((received = recv(fd, buffer, sizeof buffer, 0)) > 0)
        for (ssize_t sent = 0, n; sent < received; sent += n)
            MUST((n = send(fd, buffer + sent, (size_t)(received - sent), MSG_NOSIGNAL)) > 0);
    MUST(received == 0 && shutdown(fd, SHUT_WR) == 0);
    return NULL;
}

// A caller that blocks in a write to the target while nobody serves the other direction hangs: the target waits, too.
static void test_an_echo_goes_on_when_data_comes_while_the_thread_leaves(void **state)
{
    (void)state;
    static struct rig rigs[ECHOES];
    static struct peer clients[ECHOES];
    pthread_t targets[ECHOES];
    for (size_t i = 0; i < ECHOES; i++) {
        rig_init(&rigs[i], RIG_TCP, RIG_TCP, 8192);
        rig_start(&rigs[i]);
        bulk_from(&rigs[i], RELAY_CLIENT);
    }
    for (size_t i = 0; i < ECHOES; i++) {
        MUST(usleep(20000) == 0); // as the others came to rest 0.1 s apart, each finds another moment
        clients[i] = (struct peer){.fd = &rigs[i].client, .sends_stream = 1, .receives_stream = 1, .size = FLOOD};
        clients[i].random = (unsigned)i + 1;
        MUST(thread_start(&targets[i], (size_t)256 * 1024, echo, &rigs[i].target, NULL));
        peer_start(&clients[i]);
    }
    for (size_t i = 0; i < ECHOES; i++) {
        peer_join(&clients[i]);
        MUST(pthread_join(targets[i], NULL) == 0);
        rig_join(&rigs[i]);
        assert_int_equal(rigs[i].failure.reason, CLOSE_COMPLETED);
        assert_int_equal(clients[i].received, FLOOD);
        rig_release(&rigs[i]);
    }
}

int main(void)
{
    rig_prepare();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_echo_goes_on_when_data_comes_while_the_thread_leaves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
