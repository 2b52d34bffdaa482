// What the steps of an attempt have by themselves, without a connect_timeout: bounds, in time that passes by itself.

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "fake_time.h"
#include "proxy/upstream/health.h"
#include "proxy/upstream/upstream.h"

struct scene {
    struct target_config target;
    struct proxy_config settings;
    struct upstream upstream;
    struct phases phases;
    struct failure failure;
    const struct proxy_header *header;
};

static void set_up(struct scene *scene, const char *address)
{
    *scene = (struct scene){.target = {.name = "a", .connect_attempts = 1}, .upstream = {.dialled.fd = -1}};
    scene->settings = (struct proxy_config){.name = "web", .target_count = 1};
    assert_true(address_parse(address, ADDRESS_TO_CONNECT, &scene->target.address, NULL));
}

// Returns how long the attempt took to fail.
static int64_t fail_to_connect(struct scene *scene)
{
    struct target_load load = {.active = 0};
    struct health health = {.state = 0};
    struct target target = {.settings = &scene->target, .load = &load, .health = &health};
    static struct metrics metrics; // they are off
    static struct proxy_metrics proxy_metrics = {.all = &metrics};
    struct proxy proxy = {.metrics = &proxy_metrics};
    const struct generation generation = {.proxy = &proxy, .settings = &scene->settings, .targets = &target};
    int client[2];
    struct client_watch watch;
    const struct log_context context = {.proxy = "web", .connection = 1};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, client), 0);
    client_watch_init(&watch, client[0]);
    const struct upstream_terms terms = {
        .generation = &generation, .header = scene->header, .watch = &watch, .context = &context};
    int64_t start = clock_now();
    scene->phases = (struct phases){.current = PHASE_DIALLING, .reached = PHASE_DIALLING, .started = 1, .since = 1};
    scene->failure = (struct failure){.reason = CLOSE_NONE};
    atomic_store(&fake_time_flies, true);
    assert_false(upstream_connect(&scene->upstream, &terms, &scene->phases, &scene->failure));
    atomic_store(&fake_time_flies, false);
    assert_int_equal(scene->failure.error.code, ERROR_TIMEOUT);
    (void)close(client[0]);
    (void)close(client[1]);
    return clock_now() - start;
}

static void assert_took(int64_t took, int64_t bound)
{
    assert_in_range(took, bound, bound + 5 * NS_PER_S);
}

// A server that takes connections, in the kernel's queue, and says nothing.
static void test_a_silent_socks_server_is_given_up_at_the_nearer_bound(void **state)
{
    (void)state;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    char server[64];
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(listening >= 0);
    assert_int_equal(bind(listening, (struct sockaddr *)&address, length), 0);
    assert_int_equal(listen(listening, 16), 0);
    assert_int_equal(getsockname(listening, (struct sockaddr *)&address, &length), 0);
    (void)snprintf(server, sizeof server, "127.0.0.1:%d", ntohs(address.sin_port));

    struct scene scene;
    set_up(&scene, "192.0.2.1:80");
    scene.target.socks_proxy = server;
    scene.target.proxy_timeout = 30 * NS_PER_S;
    assert_took(fail_to_connect(&scene), 30 * NS_PER_S);
    assert_int_equal(scene.phases.step, PHASE_SOCKS);
    assert_int_equal(scene.failure.reason, CLOSE_SOCKS_TIMEOUT);
    assert_non_null(strstr(scene.failure.error.text, "did not answer in time"));

    // The nearer one counts.
    scene.target.connect_timeout = 20 * NS_PER_S;
    assert_took(fail_to_connect(&scene), 20 * NS_PER_S);
    assert_int_equal(scene.phases.step, PHASE_SOCKS);
    assert_int_equal(scene.failure.reason, CLOSE_CONNECT_TIMEOUT);

    scene.target.proxy_timeout = 0;
    assert_took(fail_to_connect(&scene), 20 * NS_PER_S);
    assert_int_equal(scene.failure.reason, CLOSE_CONNECT_TIMEOUT);
    (void)close(listening);
}

// A target that is lent, and whose buffer is full already.
static int64_t fail_to_send_the_header(struct scene *scene, int64_t write_timeout, int64_t connect_timeout)
{
    static const struct proxy_header header = {.is_local = false};
    char address[32];
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    char bytes[4096] = "";
    while (send(ends[0], bytes, sizeof bytes, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
        ;
    while (send(ends[0], bytes, 1, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
        ;
    // A number of its own: one that has been spent stays so.
    static int number = 200;
    int lent = fcntl(ends[0], F_DUPFD_CLOEXEC, number);
    assert_true(lent >= 0);
    number = lent + 1;
    (void)close(ends[0]);
    (void)snprintf(address, sizeof address, "fd://%d", lent);
    set_up(scene, address);
    scene->header = &header;
    scene->target.write_timeout = write_timeout;
    scene->target.connect_timeout = connect_timeout;
    int64_t took = fail_to_connect(scene);
    assert_int_equal(scene->phases.step, PHASE_TARGET_HEADER);
    (void)close(ends[1]);
    return took;
}

static void test_a_header_that_is_not_taken_is_given_up(void **state)
{
    (void)state;
    struct scene scene;
    assert_took(fail_to_send_the_header(&scene, 0, 0), 10 * NS_PER_S);
    assert_int_equal(scene.failure.reason, CLOSE_TARGET_WRITE_TIMEOUT);
    assert_took(fail_to_send_the_header(&scene, 40 * NS_PER_S, 0), 40 * NS_PER_S);
    assert_int_equal(scene.failure.reason, CLOSE_TARGET_WRITE_TIMEOUT);
    assert_took(fail_to_send_the_header(&scene, 40 * NS_PER_S, 20 * NS_PER_S), 20 * NS_PER_S);
    assert_int_equal(scene.failure.reason, CLOSE_CONNECT_TIMEOUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_silent_socks_server_is_given_up_at_the_nearer_bound),
        cmocka_unit_test(test_a_header_that_is_not_taken_is_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
