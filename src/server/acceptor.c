#include "acceptor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/mutex.h"
#include "bitflow/net/socket.h"
#include "bitflow/proxy/connection.h"
#include "bitflow/relay/pipe_pool.h"

#define ACCEPTOR_STACK_SIZE ((size_t)64 * 1024)
#define ACCEPT_BATCH 64                  // clients taken from one socket before orders are looked at again
#define SHORTAGE_PAUSE (100 * NS_PER_MS) // when even turning clients away is impossible

// What bounds the serving of one socket's queue at the end, however many still come: who queues there, and as many
// whose handshakes were under way; and a time, for a machine that has run out of something.
#define LAST_CLIENTS_MAX (2 * (LISTENER_QUEUE_MAX + 1))
#define LAST_CLIENTS_TIME (5 * NS_PER_S)
// How long handshakes that are under way are waited for. Nearly every round trip is shorter, and those who only pretend
// to connect hold up the end by no more.
#define LAST_HANDSHAKES_TIME (500 * NS_PER_MS)
#define HANDSHAKES_INTERVAL (10 * NS_PER_MS)

#define SPARES_MAX 4

struct acceptor {
    struct runtime *runtime;
    struct listener listener;
    void (*on_end)(void);
    pthread_t thread;
    int wake; // eventfd: there are orders
    // Descriptors kept back, so that a client can be accepted, and told no, when there are no others. Several, because
    // another thread may be faster to one that was given up for it.
    int spares[SPARES_MAX];
    int spare_count;
    // An inherited queue may have clients that came before the listening socket got the options that they would
    // inherit: those that a service manager starts us for.
    bool may_have_older_clients;
    struct generation *current; // the acceptor's thread's own once it runs
    _Atomic bool has_ended;
    _Atomic bool is_hurried; // whoever still queues is not served

    struct mutex lock;
    // Orders, guarded by the lock:
    bool is_open GUARDED;
    bool stopping GUARDED;
    struct generation *next GUARDED; // NULL: no change
    struct proxy *proxy GUARDED;     // borrowed from the newest generation
};

static void refill_spares(struct acceptor *acceptor)
{
    while (acceptor->spare_count < SPARES_MAX) {
        int spare = fcntl(acceptor->wake, F_DUPFD_CLOEXEC, 0);
        if (spare < 0)
            return;
        acceptor->spares[acceptor->spare_count++] = spare;
    }
}

static void turn_away(struct acceptor *acceptor, const struct client *client, const struct failure *failure)
{
    connection_reject(connection_next_id(), acceptor->current, client, failure);
    client_close(client, false);
}

static bool is_among(const struct endpoint *peer, const struct cidr *blocks, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (cidr_contains(&blocks[i], &peer->address.any))
            return true;
    return count == 0;
}

// By the socket's own address, before anything is read. CLOSE_NONE: it may come in.
static enum close_reason judge_source(const struct listener_config *listener, const struct endpoint *peer)
{
    if (!is_among(peer, listener->authorized_sources, listener->authorized_source_count))
        return CLOSE_SOURCE_NOT_AUTHORIZED;
    if (!is_among(peer, listener->proxy_protocol_sources, listener->proxy_protocol_source_count))
        return CLOSE_PROXY_SOURCE_NOT_TRUSTED;
    return CLOSE_NONE;
}

static void give_back_places(const struct generation *generation, struct client *client)
{
    proxy_leave(generation->proxy);
    source_counts_leave(&generation->proxy->sources, &client->source);
}

// Takes a place below its source's limit, then one below the proxy's, which a source that has had its share thus never
// touches.
static bool take_places(const struct generation *generation, struct client *client, struct failure *failure)
{
    const struct proxy_config *settings = generation->settings;
    // Behind the PROXY protocol it is not the peer that counts, but whom it declares.
    int64_t source_limit = settings->listener.proxy_protocol ? 0 : settings->source_connection_limit;
    if (!source_counts_enter(&generation->proxy->sources, &client->peer, source_limit, &client->source, failure))
        return false;
    if (proxy_enter(generation->proxy, settings->connection_limit))
        return true;
    source_counts_leave(&generation->proxy->sources, &client->source);
    return failed_with(failure, CLOSE_CONNECTION_LIMIT);
}

// From a client's descriptor to a worker that owns it; or it is turned away, and closed.
static void start_connection(struct acceptor *acceptor, struct client *client)
{
    struct generation *generation = acceptor->current;
    struct failure failure = {.reason = judge_source(&generation->settings->listener, &client->peer)};
    struct error *error = &failure.error;
    if (failure.reason != CLOSE_NONE || !take_places(generation, client, &failure)) {
        turn_away(acceptor, client, &failure);
        return;
    }
    struct connection *connection =
        connection_create(connection_next_id(), acceptor->runtime, generation, client, error);
    if (connection != NULL && thread_pool_run(acceptor->runtime->threads, connection_serve, connection, error))
        return;
    connection_abandon(&connection);
    give_back_places(generation, client);
    (void)failed_with(&failure, error->code == ERROR_NO_THREADS ? CLOSE_OUT_OF_THREADS : CLOSE_OUT_OF_MEMORY);
    turn_away(acceptor, client, &failure);
}

// False: none was accepted, errno says why.
static bool accept_client(const struct acceptor *acceptor, int listening, struct client *client)
{
    // Whoever else holds an inherited socket may make it blocking for all of us, and this thread must not hang.
    if (acceptor->listener.is_inherited)
        socket_set_blocking(listening, false);
    *client = (struct client){.peer.length = sizeof client->peer.address};
    client->fd = accept4(listening, &client->peer.address.any, &client->peer.length, SOCK_CLOEXEC);
    return client->fd >= 0;
}

static void pause_for_orders(const struct acceptor *acceptor, int64_t time)
{
    struct pollfd poller = {.fd = acceptor->wake, .events = POLLIN};
    (void)poll(&poller, 1, (int)(time / NS_PER_MS));
}

// Turns a client away whose descriptor was a spare one. Its number becomes that again in one step: between a close()
// and a dup() another thread would take it.
static void turn_away_with_spare(struct acceptor *acceptor, const struct client *client)
{
    const struct failure failure = {.reason = CLOSE_OUT_OF_DESCRIPTORS};
    connection_reject(connection_next_id(), acceptor->current, client, &failure);
    int spare = dup3(acceptor->wake, client->fd, O_CLOEXEC);
    if (spare >= 0)
        acceptor->spares[acceptor->spare_count++] = spare;
}

// Out of descriptors: idle pipes are given up for the client at the head of the queue. When there are none, it is
// turned away with the help of a spare one.
static void shed_client(struct acceptor *acceptor, int listening)
{
    if (pipe_pool_trim() > 0)
        return; // accept4() is tried again
    while (acceptor->spare_count > 0) {
        struct client client;
        (void)close(acceptor->spares[--acceptor->spare_count]);
        if (accept_client(acceptor, listening, &client)) {
            turn_away_with_spare(acceptor, &client);
            return;
        }
        if (errno == EAGAIN)
            break;
    }
    refill_spares(acceptor);
    if (acceptor->spare_count == 0)
        pause_for_orders(acceptor, SHORTAGE_PAUSE);
}

// What accept4() failed with. False: the socket is of no more use.
static bool survive(struct acceptor *acceptor, int listening, int os_errno)
{
    switch (os_errno) {
    case EMFILE:
    case ENFILE:
        shed_client(acceptor, listening);
        return true;
    case ENOMEM:
    case ENOBUFS:
        pause_for_orders(acceptor, SHORTAGE_PAUSE);
        return true;
    case EBADF:
    case EFAULT:
    case EINVAL:
    case ENOTSOCK:
    case EOPNOTSUPP:
        return false;
    default:
        return true; // the fault of a client, or of its network: accept(2), "Error handling"
    }
}

static void set_thread_name(const struct generation *generation)
{
    char name[THREAD_NAME_SIZE];
    thread_name(name, generation->proxy->name, ":accept");
    thread_set_name(name);
}

static void take_generation(struct acceptor *acceptor)
{
    mutex_lock(&acceptor->lock);
    struct generation *next = acceptor->next;
    acceptor->next = NULL;
    mutex_unlock(&acceptor->lock);
    if (next == NULL)
        return;
    generation_drop(&acceptor->current);
    acceptor->current = next;
    set_thread_name(next);
}

enum accept_result { ACCEPT_TOOK_ONE, ACCEPT_NOBODY, ACCEPT_SHORTAGE, ACCEPT_FAILED /* errno says why */ };

// `is_last`: the listener ends, and gets no other generation.
static enum accept_result accept_one(struct acceptor *acceptor, int listening, bool is_last)
{
    struct client client;
    if (accept_client(acceptor, listening, &client)) {
        if (is_last)
            listener_clear_filter(client.fd);
        else
            take_generation(acceptor); // who comes after a reload is served by it, even in the middle of a batch
        refill_spares(acceptor);
        if (acceptor->may_have_older_clients)
            socket_prepare_tcp(client.fd, 0);
        start_connection(acceptor, &client);
        return ACCEPT_TOOK_ONE;
    }
    int os_errno = errno;
    if (os_errno == EAGAIN)
        return ACCEPT_NOBODY;
    if (survive(acceptor, listening, os_errno))
        return ACCEPT_SHORTAGE;
    errno = os_errno;
    return ACCEPT_FAILED;
}

static bool accept_batch(struct acceptor *acceptor, int listening)
{
    for (int i = 0; i < ACCEPT_BATCH; i++) {
        enum accept_result result = accept_one(acceptor, listening, false);
        if (result == ACCEPT_NOBODY) {
            acceptor->may_have_older_clients = false;
            return true;
        }
        if (result == ACCEPT_FAILED) {
            struct error error = ERROR_INIT;
            struct log_context context = {.proxy = acceptor->current->proxy->name};
            error_set_errno(&error, errno, "accept");
            log_error(&context, "the listener failed and is closed", "error", error.text, NULL);
            return false;
        }
    }
    return true;
}

static void serve_queue(struct acceptor *acceptor, int listening, int64_t deadline)
{
    for (int i = 0; i < LAST_CLIENTS_MAX; i++) {
        if (deadline_left(deadline) == 0 || atomic_load(&acceptor->is_hurried))
            return;
        enum accept_result result = accept_one(acceptor, listening, true);
        if (result == ACCEPT_NOBODY || result == ACCEPT_FAILED)
            return; // a Unix socket that is shut down and empty fails
    }
}

// Who is connected, as far as the system is concerned, is served: closing the socket would reset them. It would also
// reset those whose handshakes are under way, and who believe that they are connected once the kernel has answered;
// `handshakes_until`: how long they are waited for. An inherited socket stays open, and they may be meant for whoever
// comes after us.
static void serve_queues(struct acceptor *acceptor, int64_t handshakes_until)
{
    const struct listener *listener = &acceptor->listener;
    if (listener->is_inherited)
        return;
    bool is_closed = listener_stop_arrivals(listener); // where it cannot be done, the bounds do
    int64_t deadline = deadline_after(LAST_CLIENTS_TIME);
    for (;;) {
        bool is_over = !is_closed || deadline_left(handshakes_until) == 0 || !listener_has_handshakes(listener);
        for (size_t i = 0; i < listener->socket_count; i++)
            serve_queue(acceptor, listener->sockets[i], deadline);
        if (is_over || atomic_load(&acceptor->is_hurried))
            return;
        pause_for_orders(acceptor, HANDSHAKES_INTERVAL);
    }
}

// Returns false when the acceptor shall stop.
static bool take_orders(struct acceptor *acceptor, bool *is_open)
{
    uint64_t count;
    ssize_t got = read(acceptor->wake, &count, sizeof count); // non-blocking: resets it
    (void)got;
    mutex_lock(&acceptor->lock);
    *is_open = acceptor->is_open;
    bool stopping = acceptor->stopping;
    mutex_unlock(&acceptor->lock);
    take_generation(acceptor);
    return !stopping;
}

static void accept_clients(struct acceptor *acceptor)
{
    struct pollfd pollers[1 + LISTENER_SOCKETS_MAX] = {{.fd = acceptor->wake, .events = POLLIN}};
    nfds_t count = 1 + acceptor->listener.socket_count;
    for (size_t i = 0; i < acceptor->listener.socket_count; i++)
        pollers[1 + i] = (struct pollfd){.fd = acceptor->listener.sockets[i], .events = POLLIN};
    bool is_open = false;
    for (;;) {
        // Before it is opened, only orders are waited for.
        if (poll(pollers, is_open ? count : 1, -1) < 0)
            continue; // EINTR, or ENOMEM, which passes
        if (pollers[0].revents != 0) {
            if (take_orders(acceptor, &is_open))
                continue;
            break;
        }
        bool is_good = true;
        for (nfds_t i = 1; is_good && i < count; i++)
            is_good = pollers[i].revents == 0 || accept_batch(acceptor, pollers[i].fd);
        if (!is_good)
            break; // the other addresses have clients, too
    }
    if (is_open)
        serve_queues(acceptor, deadline_after(LAST_HANDSHAKES_TIME));
}

// An inherited connected socket is the one client there will be.
static void hand_on_connection(struct acceptor *acceptor)
{
    bool is_open = false;
    while (!is_open) {
        struct pollfd poller = {.fd = acceptor->wake, .events = POLLIN};
        if (poll(&poller, 1, -1) > 0 && !take_orders(acceptor, &is_open))
            return;
    }
    struct client client = {.fd = acceptor->listener.sockets[0], .is_inherited = true};
    (void)socket_peer(client.fd, &client.peer);
    socket_set_blocking(client.fd, true);
    acceptor->listener.socket_count = 0; // it is the connection's now
    start_connection(acceptor, &client);
}

static void *run_acceptor(void *argument)
{
    struct acceptor *acceptor = argument;
    set_thread_name(acceptor->current);
    if (acceptor->listener.is_connected)
        hand_on_connection(acceptor);
    else
        accept_clients(acceptor);
    atomic_store(&acceptor->has_ended, true);
    acceptor->on_end();
    return NULL;
}

static void free_acceptor(struct acceptor *acceptor)
{
    if (acceptor->wake >= 0)
        (void)close(acceptor->wake);
    while (acceptor->spare_count > 0)
        (void)close(acceptor->spares[--acceptor->spare_count]);
    mutex_lock(&acceptor->lock);
    generation_drop(&acceptor->next);
    mutex_unlock(&acceptor->lock);
    generation_drop(&acceptor->current);
    mutex_release(&acceptor->lock);
    free(acceptor);
}

struct acceptor *acceptor_create(struct runtime *runtime, struct generation *generation,
                                 const struct listener *listener, void (*on_end)(void), struct error *error)
{
    struct acceptor *acceptor = calloc(1, sizeof *acceptor);
    if (acceptor == NULL) {
        error_set_errno(error, ENOMEM, "cannot create an acceptor");
        return NULL;
    }
    acceptor->runtime = runtime;
    acceptor->listener = *listener;
    acceptor->on_end = on_end;
    acceptor->may_have_older_clients = listener->is_inherited && !listener->is_connected && !listener->is_local;
    acceptor->current = generation_hold(generation);
    mutex_init(&acceptor->lock);
    mutex_lock(&acceptor->lock);
    acceptor->proxy = generation->proxy;
    mutex_unlock(&acceptor->lock);
    acceptor->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (acceptor->wake >= 0)
        refill_spares(acceptor);
    if (acceptor->wake < 0 || acceptor->spare_count < SPARES_MAX) {
        error_set_errno(error, errno, "cannot create an acceptor");
        free_acceptor(acceptor);
        return NULL;
    }
    if (!thread_start(&acceptor->thread, ACCEPTOR_STACK_SIZE, run_acceptor, acceptor, error)) {
        free_acceptor(acceptor);
        return NULL;
    }
    return acceptor;
}

static void ring(const struct acceptor *acceptor)
{
    uint64_t one = 1;
    ssize_t written = write(acceptor->wake, &one, sizeof one); // fails only if it has rung already
    (void)written;
}

// The addresses really bound: a port 0 was chosen by the kernel, a name was resolved.
static void log_addresses(struct acceptor *acceptor, const char *message)
{
    struct log_context context = {.proxy = acceptor_proxy(acceptor)->name};
    for (size_t i = 0; i < acceptor->listener.socket_count; i++) {
        struct endpoint local = {.length = 0};
        char text[ENDPOINT_TEXT_SIZE];
        (void)socket_local(acceptor->listener.sockets[i], &local);
        endpoint_format(&local, text);
        log_info(&context, message, "address", text, NULL);
    }
}

void acceptor_open(struct acceptor *acceptor)
{
    log_addresses(acceptor, acceptor->listener.is_connected ? "serving an inherited connection" : "listening");
    mutex_lock(&acceptor->lock);
    acceptor->is_open = true;
    mutex_unlock(&acceptor->lock);
    ring(acceptor);
}

void acceptor_update(struct acceptor *acceptor, struct generation *generation)
{
    mutex_lock(&acceptor->lock);
    generation_drop(&acceptor->next);
    acceptor->next = generation_hold(generation);
    acceptor->proxy = generation->proxy;
    mutex_unlock(&acceptor->lock);
    ring(acceptor);
}

const struct address *acceptor_address(const struct acceptor *acceptor)
{
    return &acceptor->listener.address;
}

struct proxy *acceptor_proxy(struct acceptor *acceptor)
{
    mutex_lock(&acceptor->lock);
    struct proxy *proxy = acceptor->proxy;
    mutex_unlock(&acceptor->lock);
    return proxy;
}

bool acceptor_has_ended(const struct acceptor *acceptor)
{
    return atomic_load(&acceptor->has_ended);
}

bool acceptor_is_intact(const struct acceptor *acceptor)
{
    return listener_is_intact(&acceptor->listener);
}

bool acceptor_is_local(const struct acceptor *acceptor)
{
    return acceptor->listener.is_local;
}

bool acceptor_is_connected(const struct acceptor *acceptor)
{
    return acceptor->listener.is_connected;
}

void acceptor_stop(struct acceptor *acceptor)
{
    mutex_lock(&acceptor->lock);
    bool was_stopping = acceptor->stopping;
    acceptor->stopping = true;
    mutex_unlock(&acceptor->lock);
    if (!was_stopping) // or what it waits for at the end would be cut short
        ring(acceptor);
}

void acceptor_hurry(struct acceptor *acceptor)
{
    atomic_store(&acceptor->is_hurried, true);
    ring(acceptor); // it may be pausing
}

void acceptor_destroy(struct acceptor **acceptor)
{
    struct acceptor *destroyed = *acceptor;
    *acceptor = NULL;
    if (destroyed == NULL)
        return;
    acceptor_stop(destroyed);
    mutex_lock(&destroyed->lock);
    bool was_open = destroyed->is_open;
    mutex_unlock(&destroyed->lock);
    (void)pthread_join(destroyed->thread, NULL);
    if (was_open) {
        // Others may have taken their time to stop: whose handshakes have ended since then queue now.
        serve_queues(destroyed, clock_now());
        listener_close(&destroyed->listener);
    } else {
        listener_give_up(&destroyed->listener);
    }
    free_acceptor(destroyed);
}
