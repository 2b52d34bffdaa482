#include "bitflow/proxy/admission.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/invariant.h"
#include "bitflow/base/mutex.h"
#include "connection_internal.h"

// How long a worker waits for a client at most: for no longer than this it has its last connection's name, and when the
// last one stops waiting, the acceptor has to be woken up.
#define WAIT_MS 100
// More would not be faster, and each has a stack that grows cold.
#define WAITING_MAX 8

struct admission {
    _Atomic unsigned references;
    struct runtime *runtime;
    // For the workers: the listener's sockets, each of them silent from the moment that one worker is told of a client
    // until that worker has accepted it. Thus each client wakes one worker; the one that waited last, whose stack and
    // caches are the warmest. -1: workers do not accept.
    int epoll;
    int bell; // the acceptor's
    struct mutex lock;
    struct condition nobody_waits;
    // Guarded by the lock:
    struct generation *generation GUARDED;
    bool is_shared GUARDED;
    unsigned waiting GUARDED;
};

struct admission *admission_create(struct runtime *runtime, struct generation *generation, struct error *error)
{
    struct admission *admission = calloc(1, sizeof *admission);
    if (admission == NULL) {
        error_set_errno(error, ENOMEM, "cannot create an acceptor");
        return NULL;
    }
    atomic_init(&admission->references, 1);
    admission->runtime = runtime;
    admission->epoll = admission->bell = -1;
    mutex_init(&admission->lock);
    condition_init(&admission->nobody_waits);
    mutex_lock(&admission->lock);
    admission->generation = generation_hold(generation);
    mutex_unlock(&admission->lock);
    return admission;
}

void admission_close(struct admission *admission)
{
    mutex_lock(&admission->lock);
    INVARIANT(!admission->is_shared && admission->waiting == 0);
    struct generation *generation = admission->generation;
    admission->generation = NULL;
    if (admission->epoll >= 0)
        (void)close(admission->epoll);
    admission->epoll = -1;
    mutex_unlock(&admission->lock);
    generation_drop(&generation);
}

struct admission *admission_hold(struct admission *admission)
{
    atomic_fetch_add_explicit(&admission->references, 1, memory_order_relaxed);
    return admission;
}

void admission_drop(struct admission **admission)
{
    struct admission *dropped = *admission;
    *admission = NULL;
    if (dropped == NULL || atomic_fetch_sub_explicit(&dropped->references, 1, memory_order_acq_rel) > 1)
        return;
    admission_close(dropped);
    condition_release(&dropped->nobody_waits);
    mutex_release(&dropped->lock);
    free(dropped);
}

void admission_update(struct admission *admission, struct generation *generation)
{
    mutex_lock(&admission->lock);
    struct generation *before = admission->generation;
    admission->generation = generation_hold(generation);
    mutex_unlock(&admission->lock);
    generation_drop(&before);
}

struct generation *admission_generation(struct admission *admission)
{
    mutex_lock(&admission->lock);
    struct generation *generation = generation_hold(admission->generation);
    mutex_unlock(&admission->lock);
    return generation;
}

static bool is_among(const struct endpoint *peer, const struct cidr *blocks, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (cidr_contains(&blocks[i], &peer->address.any))
            return true;
    return count == 0;
}

static bool is_authorized_peer(const struct listener_config *listener, struct client *client, struct failure *failure)
{
    if (listener->authorized_peer_count == 0)
        return true;
    client->credentials = unix_credentials_of(client->fd);
    const struct unix_credentials *credentials = &client->credentials;
    if (unix_peer_is_among(client->fd, credentials, listener->authorized_peers, listener->authorized_peer_count))
        return true;
    if (credentials->is_known)
        error_set(&failure->error, ERROR_INVALID, "the client is uid:%" PRIu32 " with gid:%" PRIu32, credentials->user,
                  credentials->group);
    return failed_with(failure, CLOSE_PEER_NOT_AUTHORIZED);
}

// By the socket's own other end, before anything is read.
static bool is_welcome(const struct listener_config *listener, struct client *client, struct failure *failure)
{
    const struct endpoint *peer = &client->peer;
    if (!is_authorized_peer(listener, client, failure))
        return false;
    if (!is_among(peer, listener->authorized_sources, listener->authorized_source_count))
        return failed_with(failure, CLOSE_SOURCE_NOT_AUTHORIZED);
    if (!is_among(peer, listener->proxy_protocol_sources, listener->proxy_protocol_source_count))
        return failed_with(failure, CLOSE_PROXY_SOURCE_NOT_TRUSTED);
    return true;
}

static void give_back_places(const struct generation *generation, const struct client *client)
{
    struct source *source = client->source;
    proxy_leave(generation->proxy);
    source_counts_leave(&generation->proxy->sources, &source);
}

// Takes a place within its source's limits, then one below the proxy's, which a source that has had its share thus
// never touches.
static bool take_places(const struct generation *generation, struct client *client, struct failure *failure)
{
    const struct proxy_config *settings = generation->settings;
    // Behind the PROXY protocol it is not the peer that counts, but whom it declares.
    struct source_limits limits = {.connections = 0};
    if (!settings->listener.proxy_protocol)
        limits = source_limits_of(settings);
    if (!source_counts_enter(&generation->proxy->sources, &client->peer, &limits, &client->source, failure))
        return false;
    if (proxy_enter(generation->proxy, settings->connection_limit))
        return true;
    source_counts_cancel(&generation->proxy->sources, &client->source, &limits);
    return failed_with(failure, CLOSE_CONNECTION_LIMIT);
}

static void turn_away(struct generation *generation, const struct client *client, const struct failure *failure)
{
    connection_reject(connection_next_id(), generation, client, failure);
    client_close(client, false);
}

// NULL: it was turned away.
static struct connection *admit(struct admission *admission, struct client *client)
{
    struct failure failure = {.reason = CLOSE_NONE};
    struct connection *connection = NULL;
    struct generation *generation = admission_generation(admission);
    if (is_welcome(&generation->settings->listener, client, &failure) && take_places(generation, client, &failure)) {
        connection = connection_create(connection_next_id(), admission->runtime, generation, client, &failure.error);
        if (connection != NULL) {
            connection->admission = admission_hold(admission);
        } else {
            give_back_places(generation, client);
            (void)failed_with(&failure, CLOSE_OUT_OF_MEMORY);
        }
    }
    if (connection == NULL)
        turn_away(generation, client, &failure);
    generation_drop(&generation);
    return connection;
}

void admission_let_in(struct admission *admission, struct client *client)
{
    struct connection *connection = admit(admission, client);
    struct failure failure = {.reason = CLOSE_NONE};
    // Where there are no more threads, those that wait for clients, here or at another listener, come back soon.
    if (connection == NULL || thread_pool_run_patiently(admission->runtime->threads, connection_serve, connection,
                                                        2 * NS_PER_MS * WAIT_MS, &failure.error))
        return;
    struct generation *generation = generation_hold(connection->generation);
    connection_abandon(&connection);
    give_back_places(generation, client);
    (void)failed_with(&failure, failure.error.code == ERROR_NO_THREADS ? CLOSE_OUT_OF_THREADS : CLOSE_OUT_OF_MEMORY);
    turn_away(generation, client, &failure);
    generation_drop(&generation);
}

// --- workers that wait

static struct epoll_event next_client_of(int listening)
{
    return (struct epoll_event){.events = EPOLLIN | EPOLLONESHOT, .data.fd = listening};
}

void admission_share(struct admission *admission, const struct listener *listener, int bell)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    for (size_t i = 0; epoll >= 0 && i < listener->socket_count; i++) {
        struct epoll_event event = next_client_of(listener->sockets[i]);
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, listener->sockets[i], &event) != 0) {
            (void)close(epoll);
            epoll = -1;
        }
    }
    if (epoll < 0)
        return;
    mutex_lock(&admission->lock);
    INVARIANT(!admission->is_shared);
    admission->epoll = epoll;
    admission->bell = bell;
    admission->is_shared = true;
    mutex_unlock(&admission->lock);
}

// Fails only if it has rung already.
static bool ring(const struct admission *admission)
{
    uint64_t one = 1;
    return write(admission->bell, &one, sizeof one) > 0;
}

void admission_end_sharing(struct admission *admission)
{
    struct epoll_event end = {.events = EPOLLIN, .data.fd = admission->bell};
    mutex_lock(&admission->lock);
    admission->is_shared = false;
    // Level-triggered, and nobody resets it: it wakes one worker after the other.
    if (admission->waiting > 0 && ring(admission))
        (void)epoll_ctl(admission->epoll, EPOLL_CTL_ADD, admission->bell, &end);
    while (admission->waiting > 0)
        condition_wait(&admission->nobody_waits, &admission->lock, DEADLINE_NONE);
    mutex_unlock(&admission->lock);
}

bool admission_is_awaited(struct admission *admission)
{
    mutex_lock(&admission->lock);
    bool is_awaited = admission->waiting > 0;
    mutex_unlock(&admission->lock);
    return is_awaited;
}

static bool begin_waiting(struct admission *admission)
{
    mutex_lock(&admission->lock);
    bool may_wait =
        admission->is_shared && admission->waiting < WAITING_MAX && !thread_pool_is_short(admission->runtime->threads);
    if (may_wait)
        admission->waiting++;
    mutex_unlock(&admission->lock);
    return may_wait;
}

static void serve_next(void *argument);

// The one that waited last has taken a client, and another one is to wait in its place, which costs a wake-up, but then
// it is there for a while. True: it will.
static bool send_another(struct admission *admission)
{
    if (thread_pool_run(admission->runtime->threads, serve_next, admission_hold(admission), NULL))
        return true;
    atomic_fetch_sub_explicit(&admission->references, 1, memory_order_relaxed); // not the last one: the caller has one
    return false;
}

// One waits less. With the lock: the bell is there as long as somebody waits.
static void stop_waiting(struct admission *admission) REQUIRES(admission->lock)
{
    if (--admission->waiting > 0)
        return;
    if (admission->is_shared)
        (void)ring(admission);
    else
        condition_broadcast(&admission->nobody_waits);
}

// `is_taken`: it waits no more because it has a client.
static void end_waiting(struct admission *admission, bool is_taken)
{
    mutex_lock(&admission->lock);
    bool wants_another = is_taken && admission->is_shared && admission->waiting == 1;
    if (!wants_another)
        stop_waiting(admission);
    mutex_unlock(&admission->lock);
    if (!wants_another || send_another(admission))
        return;
    mutex_lock(&admission->lock);
    stop_waiting(admission);
    mutex_unlock(&admission->lock);
}

enum await_result { AWAIT_CLIENT, AWAIT_NOBODY, AWAIT_AGAIN };

static enum await_result await_client(const struct admission *admission, struct client *client)
{
    struct epoll_event event;
    if (epoll_wait(admission->epoll, &event, 1, WAIT_MS) <= 0 || event.data.fd == admission->bell)
        return AWAIT_NOBODY;
    int listening = event.data.fd;
    *client = (struct client){.peer.length = sizeof client->peer.address};
    client->fd = accept4(listening, &client->peer.address.any, &client->peer.length, SOCK_CLOEXEC);
    int os_errno = client->fd < 0 ? errno : 0;
    event = next_client_of(listening);
    (void)epoll_ctl(admission->epoll, EPOLL_CTL_MOD, listening, &event); // a registration that is there: cannot fail
    switch (os_errno) {
    case 0:
        return AWAIT_CLIENT;
    case EAGAIN:       // the acceptor was faster
    case ECONNABORTED: // the client was
    case EINTR:
        return AWAIT_AGAIN;
    default: // the acceptor finds out why, and knows what to do about it
        return AWAIT_NOBODY;
    }
}

// For one that counts among those who wait. Kept out of other frames, which connection_serve() would stand on: a client
// takes half a kilobyte.
__attribute__((noinline)) static struct connection *take_client(struct admission *admission)
{
    struct connection *connection = NULL;
    struct client client;
    enum await_result result;
    do
        result = await_client(admission, &client);
    while (result == AWAIT_AGAIN);
    if (result == AWAIT_CLIENT)
        connection = admit(admission, &client);
    // Not before: who has seen all workers stop finds their clients in the registry.
    end_waiting(admission, connection != NULL);
    return connection;
}

// A thread pool's task: for a worker that is to wait, and counts among those who do already.
static void serve_next(void *argument)
{
    struct admission *admission = argument;
    thread_pool_rest(admission->runtime->threads);
    struct connection *connection = take_client(admission);
    if (connection != NULL) {
        thread_pool_begin_task(admission->runtime->threads, connection_serve, connection);
        connection_serve(connection);
    }
    admission_drop(&admission);
}

struct connection *admission_await(struct admission *admission)
{
    return begin_waiting(admission) ? take_client(admission) : NULL;
}
