#include "bitflow/control/http_server.h"

#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/mutex.h"
#include "bitflow/base/thread.h"
#include "bitflow/net/socket.h"
#include "http_clients.h"

#define STACK_SIZE ((size_t)128 * 1024)
#define IDLE_TIME_S 10 // of a client that neither sends nor takes anything
#define ACCEPT_BATCH 16
#define SHORTAGE_PAUSE (100 * NS_PER_MS) // when there are no descriptors, or no memory, for another client
#define LAST_ANSWERS_TIME NS_PER_S
#define SPARES_MAX 4

struct http_server {
    struct http_actions actions;
    struct MHD_Daemon *daemon;
    int daemon_events; // its epoll instance
    int wake;          // eventfd
    pthread_t thread;

    struct mutex lock;
    struct condition taken;
    // Orders, guarded by the lock:
    bool is_listener_due GUARDED; // the one below is to take the place of the one in use
    struct listener due GUARDED;
    bool is_stopping GUARDED;

    // The thread's own:
    struct listener listener;
    struct http_clients clients;
    struct http_client *coming; // the one that libmicrohttpd is being given
    int64_t short_until;        // nobody is accepted before
    // Kept back for when others have taken all descriptors: that the process is alive must be known then, too.
    int spares[SPARES_MAX];
    size_t spare_count;
};

// ---- what libmicrohttpd calls

static void notify_connection(void *argument, struct MHD_Connection *connection, void **context,
                              enum MHD_ConnectionNotificationCode code)
{
    struct http_server *server = argument;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        server->coming->connection = connection;
        *context = server->coming;
    } else {
        http_clients_remove(*context);
    }
}

static void notify_completed(void *argument, struct MHD_Connection *connection, void **context,
                             enum MHD_RequestTerminationCode code)
{
    (void)argument;
    (void)connection;
    (void)code;
    struct http_client *client = *context;
    *context = NULL;
    if (client == NULL)
        return;
    client->is_busy = false;
    client->answer_length = 0;
    client->since = clock_now();
}

static const char *header_of(struct MHD_Connection *connection, const char *name)
{
    return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
}

// A zero byte (%00) would end the text where its sender did not; as this one it is in no path, number or name.
static size_t unescape(void *argument, struct MHD_Connection *connection, char *text)
{
    (void)argument;
    (void)connection;
    size_t length = MHD_http_unescape(text);
    for (size_t at = strlen(text); at < length; at = strlen(text))
        text[at] = '\x01';
    return length;
}

// Of an absolute-form (RFC 9112, 3.2.2), which a server must understand, what names something here.
static const char *path_of(const char *target)
{
    static const char scheme[] = "http://";
    if (strncasecmp(target, scheme, strlen(scheme)) != 0)
        return target;
    const char *path = strchr(target + strlen(scheme), '/');
    return path == NULL ? "/" : path;
}

size_t http_argument_count(const struct http_request *request)
{
    int count = MHD_get_connection_values(request->handle, MHD_GET_ARGUMENT_KIND, NULL, NULL);
    return count < 0 ? 0 : (size_t)count;
}

const char *http_argument(const struct http_request *request, const char *name)
{
    const char *value = NULL;
    if (MHD_lookup_connection_value_n(request->handle, MHD_GET_ARGUMENT_KIND, name, strlen(name), &value, NULL) !=
        MHD_YES)
        return NULL;
    return value == NULL ? "" : value;
}

// Takes the answer's body.
static enum MHD_Result send_answer(struct MHD_Connection *connection, const struct http_answer *answer)
{
    static char none[] = "";
    bool has_body = answer->body != NULL;
    unsigned status = has_body ? answer->status : MHD_HTTP_SERVICE_UNAVAILABLE;
    struct MHD_Response *response =
        MHD_create_response_from_buffer(has_body ? answer->length : 0, has_body ? answer->body : none,
                                        has_body ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (response == NULL) {
        free(answer->body);
        return MHD_NO;
    }
    bool is_good =
        (!has_body || MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, answer->type)) &&
        MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store") &&
        MHD_add_response_header(response, "X-Content-Type-Options", "nosniff") &&
        (answer->allow == NULL || MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, answer->allow)) &&
        (answer->retry == NULL || MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, answer->retry)) &&
        (!answer->is_last || MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close"));
    enum MHD_Result result = is_good ? MHD_queue_response(connection, status, response) : MHD_NO;
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result refuse(struct MHD_Connection *connection, unsigned status, const char *text)
{
    char *body = strdup(text);
    return send_answer(connection, &(struct http_answer){.status = status,
                                                         .type = "application/json",
                                                         .body = body,
                                                         .length = body == NULL ? 0 : strlen(body)});
}

// Whoever does not take what he has asked for must not keep others' memory.
static enum MHD_Result answer(struct http_server *server, struct MHD_Connection *connection, struct http_client *client,
                              const struct http_answer *given)
{
    if (!http_clients_may_answer(&server->clients, given->length)) {
        free(given->body);
        return refuse(connection, MHD_HTTP_SERVICE_UNAVAILABLE,
                      "{\"error\": \"other clients have not taken their answers yet\"}\n");
    }
    client->answer_length = given->length;
    return send_answer(connection, given);
}

// What no request needs is refused as soon as its headers say so.
static bool has_too_large_body(struct MHD_Connection *connection)
{
    const char *length = header_of(connection, MHD_HTTP_HEADER_CONTENT_LENGTH);
    return length != NULL && strtoull(length, NULL, 10) > HTTP_BODY_MAX;
}

static enum MHD_Result begin_request(struct MHD_Connection *connection, struct http_client *client, void **context)
{
    client->is_busy = client->has_asked = true;
    client->body = 0;
    *context = client;
    if (has_too_large_body(connection))
        return refuse(connection, MHD_HTTP_CONTENT_TOO_LARGE, "{\"error\": \"the request's body is too large\"}\n");
    return MHD_YES;
}

static enum MHD_Result serve(struct http_server *server, struct MHD_Connection *connection, struct http_client *client,
                             const char *path, const char *method)
{
    struct ucred peer = {.pid = 0};
    socklen_t size = sizeof peer;
    struct http_request request = {.method = strcmp(method, MHD_HTTP_METHOD_HEAD) == 0 ? MHD_HTTP_METHOD_GET : method,
                                   .path = path_of(path),
                                   .is_local = client->is_local,
                                   .is_left_behind = client->is_left_behind,
                                   .handle = connection};
    if (client->is_local && getsockopt(client->fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0) {
        request.pid = peer.pid;
        request.uid = peer.uid;
    }
    struct http_answer given = {.status = MHD_HTTP_SERVICE_UNAVAILABLE};
    client->wait = server->actions.serve(server->actions.subject, &request, &given);
    if (client->wait == NULL)
        return answer(server, connection, client, &given);
    MHD_suspend_connection(connection);
    return MHD_YES;
}

static enum MHD_Result handle(void *argument, struct MHD_Connection *connection, const char *path, const char *method,
                              const char *version, const char *data, size_t *size, void **context)
{
    (void)version;
    (void)data;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct http_client *client = info == NULL ? NULL : info->socket_context;
    if (client == NULL)
        return MHD_NO;
    if (*context == NULL)
        return begin_request(connection, client, context);
    if (*size > 0) {
        client->body += *size;
        *size = 0;
        return client->body > HTTP_BODY_MAX ? MHD_NO : MHD_YES; // of a length that it did not tell
    }
    if (!client->is_answered)
        return serve(argument, connection, client, path, method);
    client->is_answered = false;
    return answer(argument, connection, client, &client->answer);
}

// ---- the thread

static void refill_spares(struct http_server *server)
{
    while (server->spare_count < SPARES_MAX) {
        int spare = fcntl(server->wake, F_DUPFD_CLOEXEC, 0);
        if (spare < 0)
            return;
        server->spares[server->spare_count++] = spare;
    }
}

// -1: none is to be had now.
static int accept_client(struct http_server *server, int listening, struct endpoint *peer)
{
    // Whoever else holds an inherited socket may make it blocking.
    if (server->listener.is_inherited)
        socket_set_blocking(listening, false);
    for (;;) {
        peer->length = sizeof peer->address;
        int fd = accept4(listening, &peer->address.any, &peer->length, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0 || errno == EAGAIN)
            return fd;
        bool is_shortage = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS;
        if (!is_shortage && errno != ECONNABORTED && errno != EINTR)
            is_shortage = true; // whatever it is, it is not to be asked for again and again
        if (is_shortage && (server->spare_count == 0 || (errno != EMFILE && errno != ENFILE))) {
            server->short_until = deadline_after(SHORTAGE_PAUSE);
            return -1;
        }
        if (is_shortage)
            (void)close(server->spares[--server->spare_count]);
    }
}

// False: all have something that they wait for.
static bool make_room(struct http_server *server)
{
    for (size_t i = 0; i < HTTP_CLIENTS_MAX; i++)
        if (!server->clients.list[i].is_there)
            return true;
    struct http_client *victim = http_clients_victim(&server->clients, clock_now());
    if (victim == NULL)
        return false;
    (void)shutdown(victim->fd, SHUT_RDWR);
    (void)MHD_run(server->daemon); // notices, closes it, and tells us
    return !victim->is_there;
}

static void accept_from(struct http_server *server, int listening)
{
    for (int i = 0; i < ACCEPT_BATCH && make_room(server); i++) {
        struct endpoint peer = {.length = 0};
        int fd = accept_client(server, listening, &peer);
        if (fd < 0)
            return;
        server->coming = http_clients_add(&server->clients, fd, server->listener.is_local, clock_now());
        // An unnamed Unix socket has no address, and libmicrohttpd wants one.
        peer.length = peer.length < sizeof(sa_family_t) ? sizeof(sa_family_t) : peer.length;
        (void)MHD_add_connection(server->daemon, fd, &peer.address.any, peer.length);
        if (server->coming->connection == NULL) // it was refused, and closed
            http_clients_remove(server->coming);
        server->coming = NULL;
    }
}

static void take_listener(struct http_server *server) REQUIRES(server->lock)
{
    listener_close(&server->listener);
    http_clients_leave_behind(&server->clients);
    server->listener = server->due;
    server->is_listener_due = false;
    condition_broadcast(&server->taken);
}

// False: it is to end.
static bool take_orders(struct http_server *server)
{
    uint64_t count;
    ssize_t got = read(server->wake, &count, sizeof count); // non-blocking
    (void)got;
    mutex_lock(&server->lock);
    if (server->is_listener_due)
        take_listener(server);
    bool is_stopping = server->is_stopping;
    mutex_unlock(&server->lock);
    return !is_stopping;
}

// Returns when to look again.
static int64_t look_at_waits(struct http_server *server, int64_t now)
{
    int64_t next = DEADLINE_NONE;
    for (size_t i = 0; i < HTTP_CLIENTS_MAX; i++) {
        struct http_client *client = &server->clients.list[i];
        struct http_wait *wait = client->wait;
        if (wait == NULL)
            continue;
        client->answer = (struct http_answer){.status = MHD_HTTP_SERVICE_UNAVAILABLE};
        if (!wait->look(wait, now >= wait->deadline, &client->answer)) {
            next = deadline_sooner(next, wait->deadline);
            continue;
        }
        wait->drop(wait);
        client->wait = NULL;
        client->is_answered = true;
        client->since = now;
        MHD_resume_connection(client->connection);
        next = now; // libmicrohttpd is to be run for it, and does not say so
    }
    return next;
}

// Of libmicrohttpd's own.
static int64_t daemon_deadline(struct http_server *server, int64_t now)
{
    MHD_UNSIGNED_LONG_LONG timeout = 0;
    if (MHD_get_timeout(server->daemon, &timeout) != MHD_YES)
        return DEADLINE_NONE;
    return timeout > (unsigned long long)(DEADLINE_NONE / NS_PER_MS) / 2 ? DEADLINE_NONE
                                                                         : now + (int64_t)timeout * NS_PER_MS;
}

// Serves whoever is there, and returns when it is to be called next unless something happens before.
static int64_t serve_clients(struct http_server *server)
{
    int64_t now = clock_now();
    int64_t next = http_clients_end_late(&server->clients, now);
    next = deadline_sooner(next, look_at_waits(server, now));
    (void)MHD_run(server->daemon);
    // What was just asked may have been answered already.
    next = deadline_sooner(next, look_at_waits(server, clock_now()));
    refill_spares(server);
    return deadline_sooner(next, daemon_deadline(server, now));
}

static void wait_for_clients(struct http_server *server, bool is_accepting, int64_t deadline)
{
    struct pollfd pollers[2 + LISTENER_SOCKETS_MAX] = {{.fd = server->wake, .events = POLLIN},
                                                       {.fd = server->daemon_events, .events = POLLIN}};
    nfds_t count = 2;
    if (is_accepting && deadline_left(server->short_until) > 0)
        deadline = deadline_sooner(deadline, server->short_until);
    else if (is_accepting)
        for (size_t i = 0; i < server->listener.socket_count; i++)
            pollers[count++] = (struct pollfd){.fd = server->listener.sockets[i], .events = POLLIN};
    if (poll(pollers, count, deadline_poll_ms(deadline)) <= 0)
        return;
    for (nfds_t i = 2; i < count; i++)
        if (pollers[i].revents != 0)
            accept_from(server, pollers[i].fd);
}

static void *run(void *argument)
{
    struct http_server *server = argument;
    thread_set_name("control");
    while (take_orders(server))
        wait_for_clients(server, true, serve_clients(server));
    int64_t deadline = deadline_after(LAST_ANSWERS_TIME);
    int64_t until;
    while (deadline_left(until = deadline_sooner(deadline, http_clients_awaited(&server->clients))) > 0) {
        (void)take_orders(server);
        wait_for_clients(server, false, deadline_sooner(until, serve_clients(server)));
    }
    for (size_t i = 0; i < HTTP_CLIENTS_MAX; i++)
        if (server->clients.list[i].wait != NULL)
            MHD_resume_connection(server->clients.list[i].connection);
    MHD_stop_daemon(server->daemon);
    listener_close(&server->listener);
    return NULL;
}

// ---- what others call

static struct MHD_Daemon *start_daemon(struct http_server *server)
{
    return MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, handle,
                            server, MHD_OPTION_CONNECTION_LIMIT, (unsigned)HTTP_CLIENTS_MAX,
                            MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_TIME_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                            HTTP_HEAD_MAX, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_UNESCAPE_CALLBACK, unescape,
                            NULL, MHD_OPTION_NOTIFY_CONNECTION, notify_connection, server, MHD_OPTION_NOTIFY_COMPLETED,
                            notify_completed, server, MHD_OPTION_END);
}

static void free_server(struct http_server *server)
{
    while (server->spare_count > 0)
        (void)close(server->spares[--server->spare_count]);
    if (server->wake >= 0)
        (void)close(server->wake);
    condition_release(&server->taken);
    mutex_release(&server->lock);
    free(server);
}

// False: errno, or the error, says why.
static bool open_server(struct http_server *server, struct error *error)
{
    errno = 0;
    server->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (server->wake >= 0)
        server->daemon = start_daemon(server);
    const union MHD_DaemonInfo *info =
        server->daemon == NULL ? NULL : MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    if (info == NULL) {
        error_set_errno(error, errno != 0 ? errno : ENOMEM, "cannot start the control socket's server");
    } else {
        server->daemon_events = info->epoll_fd;
        refill_spares(server);
        if (thread_start(&server->thread, STACK_SIZE, run, server, error))
            return true;
    }
    if (server->daemon != NULL)
        MHD_stop_daemon(server->daemon);
    return false;
}

struct http_server *http_server_create(const struct http_actions *actions, struct error *error)
{
    struct http_server *server = calloc(1, sizeof *server);
    if (server == NULL) {
        error_set_errno(error, ENOMEM, "cannot start the control socket's server");
        return NULL;
    }
    server->actions = *actions;
    mutex_init(&server->lock);
    condition_init(&server->taken);
    if (open_server(server, error))
        return server;
    free_server(server);
    return NULL;
}

void http_server_wake(struct http_server *server)
{
    const uint64_t one = 1;
    ssize_t done = write(server->wake, &one, sizeof one); // cannot fail but where it is set already
    (void)done;
}

void http_server_listen(struct http_server *server, const struct listener *listener)
{
    mutex_lock(&server->lock);
    server->due = listener == NULL ? (struct listener){.socket_count = 0} : *listener;
    server->is_listener_due = true;
    mutex_unlock(&server->lock);
    http_server_wake(server);
    mutex_lock(&server->lock);
    while (server->is_listener_due)
        condition_wait(&server->taken, &server->lock, DEADLINE_NONE);
    mutex_unlock(&server->lock);
}

void http_server_destroy(struct http_server **server)
{
    struct http_server *destroyed = *server;
    *server = NULL;
    if (destroyed == NULL)
        return;
    mutex_lock(&destroyed->lock);
    destroyed->is_stopping = true;
    mutex_unlock(&destroyed->lock);
    http_server_wake(destroyed);
    (void)pthread_join(destroyed->thread, NULL);
    free_server(destroyed);
}
