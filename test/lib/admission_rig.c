#include "admission_rig.h"

#include <sys/eventfd.h>

#include "bitflow/relay/relay.h"
#include "config_text.h"

#define PARKED_MAX 16

struct runtime door_runtime;

static unsigned open_doors; // more than none after a test: it has failed

static int begin_process(unsigned max_threads)
{
    const struct thread_pool_options options = {.parked_name = "parked",
                                                .stack_size = RELAY_STACK_SIZE,
                                                .max_threads = max_threads,
                                                .max_parked = PARKED_MAX,
                                                .idle_time = 3 * RIG_LIMIT};
    struct error error = ERROR_INIT;
    if (open_doors > 0)
        return 1; // those of the test that failed are still there, and so are its threads
    atomic_store(&fake_epoll_is_patient, true);
    atomic_store(&fake_epoll_most_waiting, 0);
    metrics_init(&door_runtime.metrics);
    metrics_set_on(&door_runtime.metrics, true, true);
    door_runtime.threads = thread_pool_create(&options, &error);
    door_runtime.registry = registry_create(NULL, &error);
    return door_runtime.threads == NULL || door_runtime.registry == NULL;
}

int door_setup(void **state)
{
    (void)state;
    return begin_process(0);
}

int door_setup_one_thread(void **state)
{
    (void)state;
    return begin_process(1);
}

int door_teardown(void **state)
{
    (void)state;
    if (open_doors > 0)
        return 1;
    assert_true(thread_pool_drain(door_runtime.threads, rig_limit()));
    assert_int_equal(registry_count(door_runtime.registry), 0);
    registry_destroy(&door_runtime.registry);
    thread_pool_destroy(&door_runtime.threads);
    metrics_release(&door_runtime.metrics);
    return 0;
}

// Of a proxy whose listener and options have these keys; it leads to `target`.
static struct generation *make_generation(struct proxy *proxy, const struct endpoint *target, const char *listener,
                                          const char *options)
{
    char text[1024], address[ENDPOINT_TEXT_SIZE];
    struct error error = ERROR_INIT;
    struct diagnostics diagnostics;
    endpoint_format(target, address);
    (void)snprintf(text, sizeof text, PROXY("web", "address: '127.0.0.1:0', %s", "name: t, address: '%s'", "%s"),
                   listener, address, options);
    const struct config *config = load(text, &diagnostics);
    if (config == NULL)
        fail_msg("%s", line_of(&diagnostics, 0));
    struct tls_contexts *tls = tls_contexts_load(config, &diagnostics);
    assert_non_null(tls);
    struct generation *generation = generation_create(proxy, config, &config->proxies[0], &tls[0], &error);
    assert_non_null(generation);
    tls_contexts_free(&tls, config->proxy_count);
    config_drop(&config);
    diagnostics_release(&diagnostics);
    return generation;
}

void door_update(const struct door *door, const struct endpoint *target, const char *listener, const char *options)
{
    struct generation *generation = make_generation(door->proxy, target, listener, options);
    admission_update(door->admission, generation);
    generation_drop(&generation);
}

void door_open(struct door *door)
{
    struct error error = ERROR_INIT;
    open_doors++;
    door->is_shared = false;
    door->listener = rig_listener("127.0.0.1:0");
    assert_true(socket_local(door->listener.sockets[0], &door->address));
    door->target = rig_listen("127.0.0.1:0", &door->target_address);
    door->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    assert_true(door->bell >= 0);
    door->proxy = proxy_create("web", &door_runtime.metrics, &error);
    assert_non_null(door->proxy);
    struct generation *generation = make_generation(door->proxy, &door->target_address, "", ROOM_FOR_TWO);
    door->admission = admission_create(&door_runtime, generation, &error);
    assert_non_null(door->admission);
    generation_drop(&generation);
}

void door_open_shared(struct door *door)
{
    door_open(door);
    door->is_shared = true;
    admission_share(door->admission, &door->listener, door->bell);
    assert_false(admission_is_awaited(door->admission));
}

void door_await_waiting(int count)
{
    int64_t limit = rig_limit();
    while (atomic_load(&fake_epoll_waiting) != count && deadline_left(limit) > 0)
        (void)poll(NULL, 0, 1);
    assert_int_equal(atomic_load(&fake_epoll_waiting), count);
}

// Threads that serve or wait for a client.
unsigned door_occupied(void)
{
    struct thread_pool_count count = thread_pool_count(door_runtime.threads);
    return count.busy + count.resting;
}

void door_await_occupied(unsigned count)
{
    int64_t limit = rig_limit();
    while (door_occupied() != count && deadline_left(limit) > 0)
        (void)poll(NULL, 0, 1);
    assert_int_equal(door_occupied(), count);
}

void door_close(struct door *door)
{
    admission_end_sharing(door->admission);
    assert_false(admission_is_awaited(door->admission));
    unsigned descriptors = rig_descriptors();
    admission_close(door->admission);
    assert_in_range(descriptors - rig_descriptors(), door->is_shared, door->is_shared ? WAITING_MAX : 0);
    admission_drop(&door->admission);
    assert_null(door->admission);
    listener_close(&door->listener);
    (void)close(door->target);
    (void)close(door->bell);
    proxy_drop(&door->proxy);
    open_doors--;
}

void door_close_last(struct door *door)
{
    admission_end_sharing(door->admission);
    door_await_occupied(0);
    assert_int_equal(atomic_load(&door->proxy->active), 0);
    door_close(door);
}

bool door_has_rung(const struct door *door)
{
    uint64_t count;
    return read(door->bell, &count, sizeof count) == sizeof count;
}

bool door_has_queue(const struct door *door)
{
    struct pollfd poller = {.fd = door->listener.sockets[0], .events = POLLIN};
    return poll(&poller, 1, 0) == 1;
}

bool door_accept(const struct door *door)
{
    struct client client = {.peer.length = sizeof client.peer.address};
    client.fd = accept4(door->listener.sockets[0], &client.peer.address.any, &client.peer.length, SOCK_CLOEXEC);
    if (client.fd < 0)
        return false;
    admission_let_in(door->admission, &client);
    return true;
}

void door_let_in(const struct door *door)
{
    rig_await(door->listener.sockets[0], POLLIN);
    assert_true(door_accept(door));
}

void pair_pass(int from, int to)
{
    char byte = 0;
    rig_write(from, "x");
    rig_await(to, POLLIN);
    assert_int_equal(read(to, &byte, 1), 1);
    assert_int_equal(byte, 'x');
}

struct pair pair_of(int client, int target)
{
    struct pair pair = {.client = client, .target = rig_accept(target)};
    pair_pass(pair.client, pair.target);
    pair_pass(pair.target, pair.client);
    return pair;
}

struct pair door_begin(const struct door *door)
{
    int client = rig_connect(&door->address);
    door_let_in(door);
    return pair_of(client, door->target);
}

struct pair door_begin_awaited(const struct door *door)
{
    return pair_of(rig_connect(&door->address), door->target);
}

void pair_end(const struct pair *pair)
{
    (void)close(pair->client);
    (void)close(pair->target);
}

void door_bring_worker(const struct door *door)
{
    int before = atomic_load(&fake_epoll_waiting);
    struct pair pair = door_begin(door);
    pair_end(&pair);
    door_await_waiting(before + 1);
    assert_true(admission_is_awaited(door->admission));
}

uint64_t door_turned_away(const struct door *door, enum close_reason reason)
{
    return atomic_load(&door->proxy->metrics->rejected[reason].value);
}

void door_assert_turned_away(const struct door *door, int client, enum close_reason reason, uint64_t times)
{
    char byte;
    rig_await(client, POLLIN);
    assert_int_equal(read(client, &byte, 1), 0);
    (void)close(client);
    assert_int_equal(door_turned_away(door, reason), times);
}
