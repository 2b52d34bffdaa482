// Much data both ways: by splice, by copying where splice or its pipes cannot be had, and in hundreds of relays that
// close in random orders.

#include "relay_peers.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

#define BULK UINT64_C(6000037)

static const struct {
    enum rig_kind client, target;
} pairings[] = {{RIG_TCP, RIG_TCP}, {RIG_TCP, RIG_UNIX}, {RIG_UNIX, RIG_TCP}, {RIG_UNIX, RIG_UNIX}};

// What the kernel of a relay's threads cannot do.
struct lack {
    unsigned call;
    int os_errno;
    unsigned argument;  // the call fails if this argument
    unsigned values[2]; // is one of these
};

// For this thread and those that it starts, for good.
static void forbid(const struct lack *lack)
{
    size_t argument = offsetof(struct seccomp_data, args) + lack->argument * sizeof(__u64);
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, lack->call, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned)argument), // its lower half, on a little-endian machine
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, lack->values[0], 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, lack->values[1], 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)lack->os_errno),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = ARRAY_LENGTH(filter), .filter = filter};
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

// Runs the relay on this thread, bulk both ways at once.
static void carry_bulk(struct rig *rig)
{
    struct peer peers[2] = {{.fd = &rig->client, .sends_stream = 1, .receives_stream = 2, .size = BULK, .random = 1},
                            {.fd = &rig->target, .sends_stream = 2, .receives_stream = 1, .size = BULK, .random = 2}};
    peer_start(&peers[0]);
    peer_start(&peers[1]);
    (void)rig_run(rig);
    peer_join(&peers[0]);
    peer_join(&peers[1]);
    MUST(rig->ran && rig->failure.reason == CLOSE_COMPLETED);
    for (int i = 0; i < 2; i++) {
        MUST(peers[i].received == BULK && peers[i].end == RIG_EOF);
        MUST(rig_bytes(rig, (enum relay_side)i) == BULK);
        rig_close_side(rig, (enum relay_side)i, false);
    }
    rig_release(rig);
}

static void carry_bulk_over_each_pairing(void)
{
    for (size_t i = 0; i < ARRAY_LENGTH(pairings); i++) {
        struct rig rig;
        rig_init(&rig, pairings[i].client, pairings[i].target, 0);
        carry_bulk(&rig);
    }
}

static void test_bulk_goes_through_pipes(void **state)
{
    (void)state;
    (void)pipe_pool_trim();
    carry_bulk_over_each_pairing();
    assert_int_equal(pipe_pool_count().taken, 0);
    assert_true(pipe_pool_count().idle > 0); // some were used
}

static void test_bulk_arrives_on_one_thread(void **state)
{
    (void)state;
    carry_bulk_over_each_pairing();
    (void)pipe_pool_trim(); // the direction that ended last may have had one
}

static void test_bulk_arrives_without_pipes(void **state)
{
    (void)state;
    static struct bulk_pipe hoard[PIPE_POOL_MAX];
    unsigned count = 0;
    while (pipe_pool_take(&hoard[count]))
        count++;
    assert_true(count > 0);
    carry_bulk_over_each_pairing();
    assert_int_equal(pipe_pool_count().taken, count);
    while (count > 0)
        pipe_pool_give(&hoard[--count]);
    (void)pipe_pool_trim();
}

static void *run_lacking(void *argument)
{
    struct lack lack = *(struct lack *)argument;
    for (size_t i = 0; i < ARRAY_LENGTH(pairings); i++) {
        struct rig rig;
        rig_init(&rig, pairings[i].client, pairings[i].target, 0);
        // The threads must be this thread's children, and there is one filter for each rig's descriptors.
        struct thread_pool_options options = {.parked_name = "parked", .stack_size = 65536, .idle_time = NS_PER_S};
        rig.relay.threads = thread_pool_create(&options, NULL);
        MUST(rig.relay.threads != NULL);
        if (lack.call == SYS_splice) {
            lack.values[0] = (unsigned)rig.relay.sockets[RELAY_CLIENT].fd;
            lack.values[1] = (unsigned)rig.relay.sockets[RELAY_TARGET].fd;
        }
        forbid(&lack);
        carry_bulk(&rig);
        MUST(thread_pool_drain(rig.relay.threads, clock_now() + PATIENCE));
        thread_pool_destroy(&rig.relay.threads);
    }
    return NULL;
}

static void bulk_lacking(struct lack lack)
{
    (void)pipe_pool_trim();
    pthread_t thread;
    MUST(thread_start(&thread, (size_t)256 * 1024, run_lacking, &lack, NULL));
    MUST(pthread_join(thread, NULL) == 0);
    assert_int_equal(pipe_pool_count().taken, 0);
    (void)pipe_pool_trim();
}

static void test_bulk_arrives_from_sockets_without_splice(void **state)
{
    (void)state;
    bulk_lacking((struct lack){.call = SYS_splice, .os_errno = EINVAL, .argument = 0});
}

static void test_bulk_arrives_at_sockets_without_splice(void **state)
{
    (void)state;
    bulk_lacking((struct lack){.call = SYS_splice, .os_errno = EINVAL, .argument = 2});
}

static void test_bulk_arrives_without_descriptors(void **state)
{
    (void)state;
    bulk_lacking((struct lack){.call = SYS_pipe2, .os_errno = EMFILE, .argument = 1, .values = {O_CLOEXEC, O_CLOEXEC}});
}

static void test_bulk_arrives_through_pipes_of_the_default_size(void **state)
{
    (void)state;
    bulk_lacking(
        (struct lack){.call = SYS_fcntl, .os_errno = EPERM, .argument = 1, .values = {F_SETPIPE_SZ, F_SETPIPE_SZ}});
}

// splice() stops at urgent data and returns 0, which is not the end of the stream. Here the byte itself is not relayed:
// that is up to the socket's owner (socket_keep_urgent_data()).
static void test_urgent_data_does_not_end_a_stream(void **state)
{
    (void)state;
    struct rig rig;
    rig_init(&rig, RIG_TCP, RIG_TCP, 0);
    rig_start(&rig);
    uint64_t first = rig_stuff(&rig, RELAY_CLIENT);
    struct peer reader = {.fd = &rig.target, .manner = PEER_ANSWERS, .receives_stream = 5, .random = 1};
    peer_start(&reader);
    unsigned char part[50000];
    for (int i = 0; i < 20; i++) {
        rig_fill(part, sizeof part, 5, first + (uint64_t)i * sizeof part);
        for (size_t done = 0; done < sizeof part;) {
            ssize_t n = send(rig.client, part + done, sizeof part - done, MSG_NOSIGNAL);
            MUST(n > 0);
            done += (size_t)n;
        }
        if (i == 10) // once: a second one would make the first an ordinary byte, unless that had been read
            MUST(send(rig.client, "!", 1, MSG_NOSIGNAL | MSG_OOB) == 1);
    }
    MUST(shutdown(rig.client, SHUT_WR) == 0);
    peer_join(&reader);
    rig_join(&rig);
    rig_assert_ended(&rig, CLOSE_COMPLETED, ENDED_BY_CLIENT);
    assert_int_equal(reader.received, first + 20 * sizeof part);
    rig_release(&rig);
}

// --- many at once ------------------------------------------------------------

#define BATCHES 8
#define BATCH 40

struct talk {
    struct rig rig;
    struct peer peers[2];
};

static void begin_talk(struct talk *talk, unsigned *seed)
{
    struct peer dice = {.random = *seed};
    size_t pairing = peer_random(&dice) % ARRAY_LENGTH(pairings);
    rig_init(&talk->rig, pairings[pairing].client, pairings[pairing].target, 0);
    for (unsigned i = 0; i < 2; i++) {
        unsigned size = peer_random(&dice) % 3 == 0 ? peer_random(&dice) * 16 : peer_random(&dice) % 5000;
        talk->peers[i] = (struct peer){
            .fd = i == 0 ? &talk->rig.client : &talk->rig.target,
            .manner = (enum peer_manner)(peer_random(&dice) % 4),
            .sends_stream = i,
            .receives_stream = 1 - i,
            .size = size,
            .reads = peer_random(&dice) % 1000,
            .random = peer_random(&dice),
        };
    }
    // Two that wait for each other would wait for ever; so would one that wants to read what is never sent.
    if (talk->peers[0].manner == PEER_ANSWERS && talk->peers[1].manner == PEER_ANSWERS)
        talk->peers[0].manner = PEER_FINISHES;
    for (unsigned i = 0; i < 2; i++)
        if (talk->peers[i].reads > talk->peers[1 - i].size)
            talk->peers[i].reads = talk->peers[1 - i].size;
    *seed = dice.random;
    rig_start(&talk->rig);
    peer_start(&talk->peers[0]);
    peer_start(&talk->peers[1]);
}

static bool is_gentle(const struct peer *peer)
{
    return peer->manner == PEER_FINISHES || peer->manner == PEER_ANSWERS;
}

static void end_talk(struct talk *talk)
{
    rig_join(&talk->rig);
    peer_join(&talk->peers[0]);
    peer_join(&talk->peers[1]);
    assert_true(talk->rig.ran);
    for (unsigned i = 0; i < 2; i++) {
        struct peer *sender = &talk->peers[i], *receiver = &talk->peers[1 - i];
        uint64_t relayed = rig_bytes(&talk->rig, (enum relay_side)i);
        assert_true(relayed <= sender->sent);
        assert_true(receiver->received <= relayed);
        // A stream whose end arrives in order has arrived whole.
        if (receiver->end == RIG_EOF && talk->rig.failure.reason == CLOSE_COMPLETED) {
            assert_int_equal(receiver->received, sender->sent);
            assert_int_equal(relayed, sender->sent);
        }
    }
    if (is_gentle(&talk->peers[0]) && is_gentle(&talk->peers[1])) {
        rig_assert_resets(&talk->rig, false, false);
        assert_int_equal(talk->rig.failure.reason, CLOSE_COMPLETED);
        assert_int_equal(talk->peers[0].end, RIG_EOF);
        assert_int_equal(talk->peers[1].end, RIG_EOF);
    }
    rig_release(&talk->rig);
}

static void test_hundreds_of_relays_account_for_every_byte(void **state)
{
    (void)state;
    static struct talk talks[BATCH];
    unsigned seed = 20241123;
    for (int batch = 0; batch < BATCHES; batch++) {
        for (int i = 0; i < BATCH; i++)
            begin_talk(&talks[i], &seed);
        for (int i = 0; i < BATCH; i++)
            end_talk(&talks[i]);
    }
    assert_int_equal(pipe_pool_count().taken, 0);
    (void)pipe_pool_trim();
}

int main(void)
{
    rig_prepare();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bulk_goes_through_pipes),
        cmocka_unit_test(test_bulk_arrives_without_pipes),
        cmocka_unit_test(test_bulk_arrives_from_sockets_without_splice),
        cmocka_unit_test(test_bulk_arrives_at_sockets_without_splice),
        cmocka_unit_test(test_bulk_arrives_without_descriptors),
        cmocka_unit_test(test_bulk_arrives_through_pipes_of_the_default_size),
        cmocka_unit_test(test_urgent_data_does_not_end_a_stream),
        cmocka_unit_test(test_hundreds_of_relays_account_for_every_byte),
    };
    const struct CMUnitTest without_threads[] = {
        cmocka_unit_test(test_bulk_arrives_on_one_thread),
        cmocka_unit_test(test_urgent_data_does_not_end_a_stream),
        cmocka_unit_test(test_hundreds_of_relays_account_for_every_byte),
    };
    int failed = cmocka_run_group_tests_name("with threads to be had", tests, NULL, NULL);
    rig_go_without_threads();
    rig_prepare();
    return failed + cmocka_run_group_tests_name("on one thread", without_threads, NULL, NULL);
}
