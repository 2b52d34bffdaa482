// The dialogue with a SOCKS5 server. Its answers mostly wait in the socket before they are asked for: what is read of
// them, what was said, and what is left for the target can then be looked at without a second thread.

#include <pthread.h>
#include <stdlib.h>

#include "bitflow/net/socks.h"
#include "hex.h"
#include "net_rig.h"

struct scene {
    int pair[2]; // ours, the server's
    struct socks_server server;
    struct address target;
    struct client_watch watch;
    struct error error;
};

static void set_up(struct scene *scene, const char *server, const char *target)
{
    memset(scene, 0, sizeof *scene);
    rig_unix_pair(scene->pair);
    assert_true(socks_server_parse(server, &scene->server, NULL));
    scene->target = rig_address(target, ADDRESS_TO_CONNECT);
    client_watch_init(&scene->watch, -1);
}

static void tear_down(struct scene *scene)
{
    (void)close(scene->pair[0]);
    (void)close(scene->pair[1]);
}

static void answer(struct scene *scene, const char *hex)
{
    uint8_t bytes[256];
    size_t length = from_hex(hex, bytes, sizeof bytes);
    assert_int_equal(write(scene->pair[1], bytes, length), length);
}

static bool run(struct scene *scene, int64_t deadline)
{
    return socks_connect(scene->pair[0], &scene->server, &scene->target, &scene->watch, deadline, &scene->error);
}

// All that has come to `fd`, and no more.
static void assert_came(int fd, const char *hex)
{
    uint8_t wanted[600], got[600];
    size_t length = from_hex(hex, wanted, sizeof wanted);
    ssize_t came = recv(fd, got, sizeof got, MSG_DONTWAIT);
    assert_int_equal(came < 0 ? 0 : came, length);
    if (length > 0)
        assert_memory_equal(got, wanted, length);
}

static void assert_fails(struct scene *scene, enum error_code code, const char *reason)
{
    assert_false(run(scene, rig_limit()));
    if (scene->error.code != code || strstr(scene->error.text, reason) == NULL)
        fail_msg("code %d: %s", (int)scene->error.code, scene->error.text);
    if (strstr(scene->error.text, "s3cret") != NULL || strstr(scene->error.text, "user7") != NULL)
        fail_msg("credentials: %s", scene->error.text);
    tear_down(scene);
}

static void test_a_server_without_credentials_is_asked_for_the_target(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        // target, request, reply
        {"example.com:443", "05010003 0b 6578616d706c652e636f6d 01bb", "05000001 00000000 0000"},
        {"192.0.2.1:80", "05010001 c0000201 0050", "05000003 05 70726f7879 0050"},
        {"[2001:db8::1]:1", "05010004 20010db8000000000000000000000001 0001",
         "05000004 00000000000000000000000000000000 0000"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct scene scene;
        char said[200];
        set_up(&scene, "127.0.0.1:1080", cases[i][0]);
        answer(&scene, "0500");
        answer(&scene, cases[i][2]);
        answer(&scene, "6869"); // the target speaks at once: that is not for us
        assert_true(run(&scene, rig_limit()));
        (void)snprintf(said, sizeof said, "050100 %s", cases[i][1]);
        assert_came(scene.pair[1], said);
        assert_came(scene.pair[0], "6869");
        tear_down(&scene);
    }
}

static void test_credentials_go_to_a_server_that_wants_them(void **state)
{
    (void)state;
    struct scene scene;
    set_up(&scene, "socks5://user7:s3cret@127.0.0.1:1080", "h:1");
    answer(&scene, "0502 0100 05000001000000000000");
    assert_true(run(&scene, rig_limit()));
    assert_came(scene.pair[1], "05020002 01 05 7573657237 06 733363726574 05010003 01 68 0001");
    tear_down(&scene);

    // A user alone has an empty password.
    set_up(&scene, "socks5://user7@127.0.0.1:1080", "h:1");
    answer(&scene, "0502 0100 05000001000000000000");
    assert_true(run(&scene, rig_limit()));
    assert_came(scene.pair[1], "05020002 01 05 7573657237 00 05010003 01 68 0001");
    tear_down(&scene);

    // A server that does not want them does not get them.
    set_up(&scene, "socks5://user7:s3cret@127.0.0.1:1080", "h:1");
    answer(&scene, "0500 05000001000000000000");
    assert_true(run(&scene, rig_limit()));
    assert_came(scene.pair[1], "05020002 05010003 01 68 0001");
    tear_down(&scene);
}

static void test_each_refusal_has_its_words(void **state)
{
    (void)state;
    static const struct {
        const char *server;
        const char *answers;
        enum error_code code;
        const char *reason;
    } cases[] = {
        {"h:1080", "05ff", ERROR_DENIED,
         "cannot connect to tcp://t.example:443: the SOCKS5 server tcp://h:1080 demands"},
        {"h:1080", "0502", ERROR_DENIED, "demands a user and a password"},
        {"socks5://user7:s3cret@h:1080", "0502 0101", ERROR_DENIED, "rejected the user or the password"},
        {"socks5://user7:s3cret@h:1080", "0501", ERROR_DENIED, "GSSAPI"},
        {"h:1080", "0500 0505", ERROR_REFUSED, "answered: connection refused"},
        {"h:1080", "0500 0501 0001 00000000 0000", ERROR_REFUSED, "answered: general failure"},
        {"h:1080", "0500 0502", ERROR_REFUSED, "not allowed by its rules"},
        {"h:1080", "485454502f312e31", ERROR_INVALID, "speaks HTTP, not SOCKS5"},
        {"h:1080", "0500 ff", ERROR_INVALID, "answered the request with something else"},
        {"h:1080", "0500 05000009ff", ERROR_INVALID, "an address of an unknown type"},
        {"socks5://user7:s3cret@h:1080", "0502 4854", ERROR_INVALID, "answered the credentials with something else"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct scene scene;
        set_up(&scene, cases[i].server, "t.example:443");
        answer(&scene, cases[i].answers);
        assert_fails(&scene, cases[i].code, cases[i].reason);
    }
}

static void test_a_server_that_closes_early_is_an_error(void **state)
{
    (void)state;
    // Before each answer, and within each.
    static const char *const said[] = {
        "", "05", "0502", "0502 01", "0502 0100", "0502 0100 05", "0502 0100 05000001 7f0000"};
    for (size_t i = 0; i < ARRAY_LENGTH(said); i++) {
        struct scene scene;
        set_up(&scene, "socks5://user7:s3cret@h:1080", "t:443");
        answer(&scene, said[i]);
        assert_int_equal(shutdown(scene.pair[1], SHUT_WR), 0);
        assert_fails(&scene, ERROR_INVALID, "closed the connection instead of answering");
    }
}

static void test_a_server_that_resets_is_an_error(void **state)
{
    (void)state;
    struct scene scene;
    set_up(&scene, "h:1080", "t:443");
    tear_down(&scene);
    rig_pair(scene.pair);
    socket_reset(scene.pair[1]);
    scene.pair[1] = -1;
    assert_fails(&scene, ERROR_SYSTEM, "cannot connect to tcp://t:443: the SOCKS5 server tcp://h:1080: ");
}

static void test_a_silent_server_times_out(void **state)
{
    (void)state;
    static const char *const said[] = {"", "05", "0500", "0500 05000001 00"};
    for (size_t i = 0; i < ARRAY_LENGTH(said); i++) {
        struct scene scene;
        set_up(&scene, "h:1080", "t:443");
        answer(&scene, said[i]);
        int64_t start = clock_now();
        assert_false(run(&scene, deadline_after(50 * NS_PER_MS)));
        assert_in_range(clock_now() - start, 50 * NS_PER_MS, RIG_LIMIT);
        assert_int_equal(scene.error.code, ERROR_TIMEOUT);
        assert_non_null(strstr(scene.error.text, "did not answer in time"));
        tear_down(&scene);
    }
}

static void test_a_client_that_leaves_cancels_the_request(void **state)
{
    (void)state;
    struct scene scene;
    int client[2];
    set_up(&scene, "h:1080", "t:443");
    rig_pair(client);
    client_watch_init(&scene.watch, client[0]);
    socket_reset(client[1]);
    assert_fails(&scene, ERROR_CANCELLED, "the client has gone");
    (void)close(client[0]);
}

static void test_a_unix_target_is_not_asked_for(void **state)
{
    (void)state;
    struct scene scene;
    set_up(&scene, "h:1080", "unix:///run/s");
    assert_false(run(&scene, rig_limit()));
    assert_int_equal(scene.error.code, ERROR_INVALID);
    assert_came(scene.pair[1], "");
    tear_down(&scene);
}

// Byte by byte: the next one comes when the one before it was taken.
static void *answer_slowly(void *argument)
{
    const struct scene *scene = argument;
    uint8_t bytes[64];
    size_t length = from_hex("0502 0100 05000003 03 616263 0000", bytes, sizeof bytes);
    for (size_t i = 0; i < length; i++) {
        if (write(scene->pair[1], &bytes[i], 1) != 1)
            return NULL;
        int64_t limit = rig_limit();
        while (socket_has_data(scene->pair[0]) && deadline_left(limit) > 0)
            (void)poll(NULL, 0, 1);
    }
    return NULL;
}

static void test_answers_may_come_byte_by_byte(void **state)
{
    (void)state;
    struct scene scene;
    pthread_t thread;
    for (int blocking = 0; blocking < 2; blocking++) {
        set_up(&scene, "socks5://user7:s3cret@h:1080", "t:443");
        socket_set_blocking(scene.pair[0], blocking != 0);
        assert_int_equal(pthread_create(&thread, NULL, answer_slowly, &scene), 0);
        bool connected = run(&scene, rig_limit());
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_true(connected);
        tear_down(&scene);
    }
}

// A server that reads nothing: what we say waits, too, within the bound.
static void test_a_server_that_takes_nothing_times_out(void **state)
{
    (void)state;
    struct scene scene;
    char filler[4096] = "";
    set_up(&scene, "h:1080", "t:443");
    socket_set_blocking(scene.pair[0], false);
    while (write(scene.pair[0], filler, sizeof filler) > 0)
        continue;
    assert_false(run(&scene, deadline_after(50 * NS_PER_MS)));
    assert_int_equal(scene.error.code, ERROR_TIMEOUT);
    tear_down(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_server_without_credentials_is_asked_for_the_target),
        cmocka_unit_test(test_credentials_go_to_a_server_that_wants_them),
        cmocka_unit_test(test_each_refusal_has_its_words),
        cmocka_unit_test(test_a_server_that_closes_early_is_an_error),
        cmocka_unit_test(test_a_server_that_resets_is_an_error),
        cmocka_unit_test(test_a_silent_server_times_out),
        cmocka_unit_test(test_a_client_that_leaves_cancels_the_request),
        cmocka_unit_test(test_a_unix_target_is_not_asked_for),
        cmocka_unit_test(test_answers_may_come_byte_by_byte),
        cmocka_unit_test(test_a_server_that_takes_nothing_times_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
