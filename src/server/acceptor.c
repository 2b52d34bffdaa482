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
#include "bitflow/proxy/admission.h"
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
    char name[THREAD_NAME_SIZE]; // the thread's
    int wake;                    // eventfd: there are orders, or no worker waits for clients any more
    // Descriptors kept back, so that a client can be accepted, and told no, when there are no others. Several, because
    // another thread may be faster to one that was given up for it.
    int spares[SPARES_MAX];
    int spare_count;
    // An inherited queue may have clients that came before the listening socket got the options that they would
    // inherit: those that a service manager starts us for.
    bool may_have_older_clients;
    struct admission *admission;
    _Atomic bool has_ended;
    _Atomic bool is_hurried;    // whoever still queues is not served
    _Atomic unsigned last_ping; // the number of the last one
    _Atomic unsigned answered;  // of the last one that the thread has answered

    struct mutex lock;
    // Orders, guarded by the lock:
    bool is_open GUARDED;
    bool stopping GUARDED;
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
    struct generation *generation = admission_generation(acceptor->admission);
    connection_reject(connection_next_id(), generation, client, &failure);
    generation_drop(&generation);
    int spare = dup3(acceptor->wake, client->fd, O_CLOEXEC);
    if (spare >= 0)
        acceptor->spares[acceptor->spare_count++] = spare;
}

enum accept_result { ACCEPT_TOOK_ONE, ACCEPT_NOBODY, ACCEPT_SHORTAGE, ACCEPT_FAILED /* errno says why */ };

// Out of descriptors: idle pipes are given up for the client at the head of the queue. When there are none, it is
// turned away with the help of a spare one. accept4() says so, too, where nobody queues.
static enum accept_result shed_client(struct acceptor *acceptor, int listening)
{
    bool is_empty = false;
    if (pipe_pool_trim() > 0)
        return ACCEPT_SHORTAGE; // accept4() is tried again
    while (acceptor->spare_count > 0 && !is_empty) {
        struct client client;
        (void)close(acceptor->spares[--acceptor->spare_count]);
        if (accept_client(acceptor, listening, &client)) {
            turn_away_with_spare(acceptor, &client);
            return ACCEPT_SHORTAGE;
        }
        is_empty = errno == EAGAIN;
    }
    refill_spares(acceptor);
    if (is_empty)
        return ACCEPT_NOBODY;
    if (acceptor->spare_count == 0)
        pause_for_orders(acceptor, SHORTAGE_PAUSE);
    return ACCEPT_SHORTAGE;
}

// What accept4() failed with.
static enum accept_result survive(struct acceptor *acceptor, int listening, int os_errno)
{
    switch (os_errno) {
    case EAGAIN:
        return ACCEPT_NOBODY;
    case EMFILE:
    case ENFILE:
        return shed_client(acceptor, listening);
    case ENOMEM:
    case ENOBUFS:
        pause_for_orders(acceptor, SHORTAGE_PAUSE);
        return ACCEPT_SHORTAGE;
    case EBADF:
    case EFAULT:
    case EINVAL:
    case ENOTSOCK:
    case EOPNOTSUPP:
        errno = os_errno;
        return ACCEPT_FAILED; // the socket is of no more use
    default:
        return ACCEPT_SHORTAGE; // the fault of a client, or of its network: accept(2), "Error handling"
    }
}

// A reload may have brought a proxy of another name.
static void set_thread_name(struct acceptor *acceptor)
{
    char name[THREAD_NAME_SIZE];
    struct generation *generation = admission_generation(acceptor->admission);
    thread_name(name, generation->proxy->name, ":accept");
    generation_drop(&generation);
    if (strcmp(name, acceptor->name) == 0)
        return;
    memcpy(acceptor->name, name, sizeof name);
    thread_set_name(name);
}

// What a listening socket of our own has given it already.
static void watch_over(const struct acceptor *acceptor, const struct client *client)
{
    if (!acceptor->listener.is_inherited)
        return;
    struct generation *generation = admission_generation(acceptor->admission);
    const struct listener_config *settings = &generation->settings->listener;
    listener_watch_client(&acceptor->listener, client->fd, settings->keepalive_interval, settings->tcp_user_timeout);
    generation_drop(&generation);
}

// The thread does not hang.
static void answer(struct acceptor *acceptor)
{
    unsigned ping = atomic_load_explicit(&acceptor->last_ping, memory_order_relaxed);
    atomic_store_explicit(&acceptor->answered, ping, memory_order_relaxed);
}

// `is_last`: the listener ends, and gets no other generation.
static enum accept_result accept_one(struct acceptor *acceptor, int listening, bool is_last)
{
    struct client client;
    if (accept_client(acceptor, listening, &client)) {
        if (is_last)
            listener_clear_filter(client.fd);
        refill_spares(acceptor);
        if (acceptor->may_have_older_clients)
            socket_prepare_tcp(client.fd, 0);
        watch_over(acceptor, &client);
        admission_let_in(acceptor->admission, &client);
        return ACCEPT_TOOK_ONE;
    }
    return survive(acceptor, listening, errno);
}

static bool accept_batch(struct acceptor *acceptor, int listening)
{
    // A worker that waits is served the next client without a thread being looked for, of which there may be no more.
    for (int i = 0; i < ACCEPT_BATCH && !admission_is_awaited(acceptor->admission); i++) {
        enum accept_result result = accept_one(acceptor, listening, false);
        answer(acceptor); // each client may take long, where threads are short
        if (result == ACCEPT_NOBODY) {
            acceptor->may_have_older_clients = false;
            return true;
        }
        if (result == ACCEPT_FAILED) {
            struct error error = ERROR_INIT;
            error_set_errno(&error, errno, "accept");
            struct generation *generation = admission_generation(acceptor->admission);
            struct log_context context = {.proxy = generation->proxy->name};
            log_error(&context, "the listener failed and is closed", "error", error.text, NULL);
            generation_drop(&generation);
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
// comes after us. The queue of a socket that another process has taken over is that one's.
static void serve_queues(struct acceptor *acceptor, int64_t handshakes_until)
{
    struct listener own = acceptor->listener;
    const struct listener *listener = &own;
    listener_leave_given(&own);
    if (own.is_inherited || own.socket_count == 0)
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

static void reset_bell(const struct acceptor *acceptor)
{
    uint64_t count;
    ssize_t got = read(acceptor->wake, &count, sizeof count); // non-blocking
    (void)got;
}

// Returns false when the acceptor shall stop.
static bool take_orders(struct acceptor *acceptor, bool *is_open)
{
    reset_bell(acceptor);
    answer(acceptor);
    mutex_lock(&acceptor->lock);
    *is_open = acceptor->is_open;
    bool stopping = acceptor->stopping;
    mutex_unlock(&acceptor->lock);
    set_thread_name(acceptor);
    return !stopping;
}

static void accept_clients(struct acceptor *acceptor)
{
    struct pollfd pollers[1 + LISTENER_SOCKETS_MAX] = {{.fd = acceptor->wake, .events = POLLIN}};
    nfds_t count = 1 + acceptor->listener.socket_count;
    for (size_t i = 0; i < acceptor->listener.socket_count; i++)
        pollers[1 + i] = (struct pollfd){.fd = acceptor->listener.sockets[i], .events = POLLIN};
    bool is_open = false;
    // Others hold an inherited socket, too: only the acceptor accepts there, and never waits in doing so.
    if (!acceptor->listener.is_inherited)
        admission_share(acceptor->admission, &acceptor->listener, acceptor->wake);
    for (;;) {
        // Before it is opened, and while workers wait for clients, only orders, or the bell, are waited for.
        bool is_alone = is_open && !admission_is_awaited(acceptor->admission);
        if (poll(pollers, is_alone ? count : 1, -1) < 0)
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
    admission_end_sharing(acceptor->admission);
    reset_bell(acceptor); // or no pause would be one any more
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
    watch_over(acceptor, &client);
    acceptor->listener.socket_count = 0; // it is the connection's now
    admission_let_in(acceptor->admission, &client);
}

static void *run_acceptor(void *argument)
{
    struct acceptor *acceptor = argument;
    set_thread_name(acceptor);
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
    if (acceptor->admission != NULL)
        admission_close(acceptor->admission);
    admission_drop(&acceptor->admission);
    mutex_release(&acceptor->lock);
    free(acceptor);
}

// Before clients come by the generation that is in force.
static void watch_clients(const struct acceptor *acceptor, const struct generation *generation)
{
    const struct listener_config *settings = &generation->settings->listener;
    listener_watch_clients(&acceptor->listener, settings->keepalive_interval, settings->tcp_user_timeout);
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
    watch_clients(acceptor, generation);
    acceptor->on_end = on_end;
    acceptor->may_have_older_clients = listener->is_inherited && !listener->is_connected && !listener->is_local;
    acceptor->wake = -1;
    mutex_init(&acceptor->lock);
    acceptor->admission = admission_create(runtime, generation, error);
    if (acceptor->admission == NULL) {
        free_acceptor(acceptor);
        return NULL;
    }
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

void acceptor_renew(struct acceptor *acceptor, struct generation *generation)
{
    admission_update(acceptor->admission, generation);
    ring(acceptor);
}

void acceptor_update(struct acceptor *acceptor, struct generation *generation)
{
    watch_clients(acceptor, generation);
    acceptor_renew(acceptor, generation);
}

void acceptor_reclaim(const struct acceptor *acceptor)
{
    struct generation *generation = admission_generation(acceptor->admission);
    watch_clients(acceptor, generation);
    generation_drop(&generation);
}

const struct address *acceptor_address(const struct acceptor *acceptor)
{
    return &acceptor->listener.address;
}

struct generation *acceptor_generation(const struct acceptor *acceptor)
{
    return admission_generation(acceptor->admission);
}

struct proxy *acceptor_proxy(const struct acceptor *acceptor)
{
    struct generation *generation = admission_generation(acceptor->admission);
    struct proxy *proxy = generation->proxy; // kept by the generation in force, which only the caller's thread changes
    generation_drop(&generation);
    return proxy;
}

const struct listener *acceptor_listener(const struct acceptor *acceptor)
{
    return &acceptor->listener;
}

bool acceptor_has_ended(const struct acceptor *acceptor)
{
    return atomic_load(&acceptor->has_ended);
}

void acceptor_ping(struct acceptor *acceptor)
{
    atomic_fetch_add_explicit(&acceptor->last_ping, 1, memory_order_relaxed);
    ring(acceptor);
}

bool acceptor_has_answered(const struct acceptor *acceptor)
{
    return acceptor_has_ended(acceptor) || atomic_load_explicit(&acceptor->answered, memory_order_relaxed) ==
                                               atomic_load_explicit(&acceptor->last_ping, memory_order_relaxed);
}

bool acceptor_is_intact(const struct acceptor *acceptor)
{
    return listener_is_intact(&acceptor->listener);
}

bool acceptor_set_access(const struct acceptor *acceptor, const struct unix_access *access, struct unix_access *before,
                         struct error *error)
{
    return listener_set_access(&acceptor->listener, access, before, error);
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
