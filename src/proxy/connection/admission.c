#include "bitflow/proxy/admission.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/invariant.h"
#include "bitflow/base/mutex.h"
#include "bitflow/net/socket.h"
#include "connection_internal.h"

// How long a worker waits for a client at most: for no longer than this it has its last connection's name, and when the
// last one stops waiting, the acceptor has to be woken up.
#define WAIT_MS 100
// More would not be faster, and each has a stack that grows cold.
#define WAITING_MAX 8
// So many must be left for another place to have one.
#define DESCRIPTORS_LEFT 64

struct admission {
    _Atomic unsigned references;
    struct runtime *runtime;
    // For the workers; written by admission_share().
    size_t socket_count;
    int sockets[LISTENER_SOCKETS_MAX];
    struct endpoint locals[LISTENER_SOCKETS_MAX]; // what each is bound to; length 0: more than one address
    int bell;                                     // the acceptor's
    // Each worker that waits has a place, the first that is free, and each place an epoll instance, which has all
    // sockets (EPOLLEXCLUSIVE). Thus a client wakes one worker, in the first place where one waits: no more of them are
    // at work than are needed, and their stacks and caches are warm. -1: the place was not needed yet.
    int epolls[WAITING_MAX];
    struct mutex lock;
    struct condition nobody_waits;
    // Guarded by the lock:
    struct generation *generation GUARDED;
    bool is_shared GUARDED;
    unsigned waiting GUARDED;
    unsigned places GUARDED; // that are taken: bits
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
    admission->bell = -1;
    for (size_t i = 0; i < WAITING_MAX; i++)
        admission->epolls[i] = -1;
    mutex_init(&admission->lock);
    condition_init(&admission->nobody_waits);
    mutex_lock(&admission->lock);
    admission->generation = generation_hold(generation);
    mutex_unlock(&admission->lock);
    return admission;
}

// Those of the places from `first` on. Nobody waits in them.
static void close_epolls(struct admission *admission, size_t first)
{
    for (size_t i = first; i < WAITING_MAX; i++) {
        if (admission->epolls[i] >= 0)
            (void)close(admission->epolls[i]);
        admission->epolls[i] = -1;
    }
}

void admission_close(struct admission *admission)
{
    mutex_lock(&admission->lock);
    INVARIANT(!admission->is_shared && admission->waiting == 0);
    struct generation *generation = admission->generation;
    admission->generation = NULL;
    close_epolls(admission, 0);
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

// Among the events of a place, beside the indexes of the sockets.
#define BELL UINT32_MAX

// An epoll instance with all sockets; -1: the system refuses it.
static int watch_sockets(const struct admission *admission)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    for (uint32_t i = 0; epoll >= 0 && i < admission->socket_count; i++) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.u32 = i};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, admission->sockets[i], &event) != 0) {
            (void)close(epoll);
            epoll = -1;
        }
    }
    return epoll;
}

// Not the first place's, which is there all the time. -1 also if few descriptors are left: they are for clients first.
static int open_another(const struct admission *admission)
{
    struct rlimit limit;
    int epoll = watch_sockets(admission);
    if (epoll < 0 || (getrlimit(RLIMIT_NOFILE, &limit) == 0 && (rlim_t)epoll + DESCRIPTORS_LEFT <= limit.rlim_cur))
        return epoll;
    (void)close(epoll);
    return -1;
}

// Returns the place; -1: there is none, as sharing has ended or there is no epoll instance to be had for it.
static int take_place(struct admission *admission) REQUIRES(admission->lock)
{
    int place = 0;
    while ((admission->places >> place & 1U) != 0)
        place++;
    INVARIANT(place < WAITING_MAX);
    if (!admission->is_shared)
        return -1;
    if (admission->epolls[place] < 0)
        admission->epolls[place] = open_another(admission);
    if (admission->epolls[place] < 0)
        return -1;
    admission->places |= 1U << place;
    return place;
}

static void copy_sockets(struct admission *admission, const struct listener *listener)
{
    admission->socket_count = listener->socket_count;
    for (size_t i = 0; i < listener->socket_count; i++) {
        struct endpoint *local = &admission->locals[i];
        admission->sockets[i] = listener->sockets[i];
        if (!socket_local(listener->sockets[i], local) || !endpoint_is_tcp(local) || endpoint_is_wildcard(local))
            local->length = 0;
    }
}

void admission_share(struct admission *admission, const struct listener *listener, int bell)
{
    mutex_lock(&admission->lock);
    INVARIANT(!admission->is_shared && admission->waiting == 0);
    close_epolls(admission, 0);
    copy_sockets(admission, listener);
    admission->bell = bell;
    admission->epolls[0] = watch_sockets(admission);
    admission->is_shared = admission->epolls[0] >= 0;
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
    struct epoll_event end = {.events = EPOLLIN, .data.u32 = BELL};
    mutex_lock(&admission->lock);
    admission->is_shared = false;
    // Level-triggered, and nobody resets it: it wakes every worker.
    if (admission->waiting > 0 && ring(admission))
        for (size_t i = 0; i < WAITING_MAX; i++)
            if (admission->epolls[i] >= 0)
                (void)epoll_ctl(admission->epolls[i], EPOLL_CTL_ADD, admission->bell, &end);
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

// Returns the place; -1: it is not to wait.
static int begin_waiting(struct admission *admission)
{
    int place = -1;
    mutex_lock(&admission->lock);
    if (admission->waiting < WAITING_MAX && !thread_pool_is_short(admission->runtime->threads))
        place = take_place(admission);
    if (place >= 0)
        admission->waiting++;
    mutex_unlock(&admission->lock);
    return place;
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

// `is_taken`: it waits no more because it has a client. `place`: -1 if it had none.
static void end_waiting(struct admission *admission, int place, bool is_taken)
{
    mutex_lock(&admission->lock);
    if (place >= 0)
        admission->places &= ~(1U << place);
    bool wants_another = is_taken && admission->is_shared && admission->waiting == 1;
    if (!wants_another)
        stop_waiting(admission);
    if (!is_taken && admission->waiting == 0) // for a while nobody has come
        close_epolls(admission, 1);
    mutex_unlock(&admission->lock);
    if (!wants_another || send_another(admission))
        return;
    mutex_lock(&admission->lock);
    stop_waiting(admission);
    mutex_unlock(&admission->lock);
}

enum await_result { AWAIT_CLIENT, AWAIT_NOBODY, AWAIT_AGAIN };

static enum await_result await_client(const struct admission *admission, int place, struct client *client)
{
    struct epoll_event event;
    if (epoll_wait(admission->epolls[place], &event, 1, WAIT_MS) <= 0 || event.data.u32 == BELL)
        return AWAIT_NOBODY;
    const struct endpoint *local = &admission->locals[event.data.u32];
    *client = (struct client){.peer.length = sizeof client->peer.address, .local = local->length > 0 ? local : NULL};
    client->fd =
        accept4(admission->sockets[event.data.u32], &client->peer.address.any, &client->peer.length, SOCK_CLOEXEC);
    int os_errno = client->fd < 0 ? errno : 0;
    switch (os_errno) {
    case 0:
        return AWAIT_CLIENT;
    case EAGAIN:       // the acceptor was faster
    case ECONNABORTED: // the client was
    case EINTR:
        return AWAIT_AGAIN;
    default: // the acceptor finds out why, and knows what to do about it; at the latest when others have waited in vain
        return AWAIT_NOBODY;
    }
}

// For one that counts among those who wait. Kept out of other frames, which connection_serve() would stand on: a client
// takes half a kilobyte.
__attribute__((noinline)) static struct connection *take_client(struct admission *admission, int place)
{
    struct connection *connection = NULL;
    struct client client;
    enum await_result result = AWAIT_NOBODY;
    do
        if (place >= 0)
            result = await_client(admission, place, &client);
    while (result == AWAIT_AGAIN);
    if (result == AWAIT_CLIENT)
        connection = admit(admission, &client);
    // Not before: who has seen all workers stop finds their clients in the registry.
    end_waiting(admission, place, connection != NULL);
    return connection;
}

// A thread pool's task: for a worker that is to wait, and counts among those who do already.
static void serve_next(void *argument)
{
    struct admission *admission = argument;
    thread_pool_rest(admission->runtime->threads);
    mutex_lock(&admission->lock);
    int place = take_place(admission);
    mutex_unlock(&admission->lock);
    struct connection *connection = take_client(admission, place);
    if (connection != NULL) {
        thread_pool_begin_task(admission->runtime->threads, connection_serve, connection);
        connection_serve(connection);
    }
    admission_drop(&admission);
}

struct connection *admission_await(struct admission *admission)
{
    int place = begin_waiting(admission);
    return place >= 0 ? take_client(admission, place) : NULL;
}
