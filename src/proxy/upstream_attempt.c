#include "upstream_attempt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/net/inherited.h"
#include "bitflow/net/socket.h"
#include "bitflow/net/socks.h"

// A header takes at most 1700 bytes, and the socket is new: who does not take them is stuck.
#define HEADER_PATIENCE (10 * NS_PER_S)

// What the steps of an attempt share.
struct attempt {
    struct upstream *upstream;
    const struct upstream_plan *plan;
    const struct target_config *target;
    const struct tls_context *tls; // NULL: plain
    struct client_watch *watch;
    int64_t deadline;
    struct error *error;
};

// A step's deadline: its own bound (0: none), or the attempt's, whichever comes first.
static int64_t deadline_of_step(const struct attempt *attempt, int64_t bound)
{
    int64_t own = deadline_after(bound);
    attempt->upstream->has_own_bound = own < attempt->deadline;
    return attempt->upstream->has_own_bound ? own : attempt->deadline;
}

// In a rush of clients, each has a descriptor and none is left for their targets. As some give up, others go on, so
// each waits a little and not equally long.
#define SHORTAGE_TRIES 5
#define SHORTAGE_WAIT_MIN (10 * NS_PER_MS)
#define SHORTAGE_WAIT_SPREAD 50 // ms

static bool wait_out_shortage(unsigned tried, struct client_watch *watch)
{
    int64_t wait = SHORTAGE_WAIT_MIN + (int64_t)arc4random_uniform(SHORTAGE_WAIT_SPREAD) * NS_PER_MS;
    return tried < SHORTAGE_TRIES && client_watch_poll(watch, NULL, 0, deadline_after(wait)) == CLIENT_WATCH_DEADLINE;
}

// A borrowed target that has been spoken to is spent: it is of no use to anybody any more.
static void drop_socket(struct upstream *upstream)
{
    if (upstream->dialled.is_borrowed)
        inherited_return(upstream->dialled.fd, upstream->is_header_sent || upstream->tls != NULL);
    else
        (void)close(upstream->dialled.fd);
    upstream->dialled.fd = -1;
}

// Whatever is said from now on, header and handshake included, is not to wait for an acknowledgement.
static void prepare_socket(const struct upstream *upstream, int64_t keepalive_interval)
{
    if (!endpoint_is_tcp(&upstream->dialled.remote))
        return;
    if (upstream->dialled.is_borrowed) {
        socket_prepare_tcp(upstream->dialled.fd, keepalive_interval);
        return;
    }
    socket_set_nodelay(upstream->dialled.fd); // dial() has seen to urgent data
    socket_set_keepalive(upstream->dialled.fd, keepalive_interval);
}

// Connects, which a shortage of descriptors delays at first.
static bool connect_to(const struct attempt *attempt, const struct address *address, const struct dial_terms *terms)
{
    struct upstream *upstream = attempt->upstream;
    for (unsigned tried = 1;; tried++) {
        struct error why = ERROR_INIT;
        bool connected = dial(address, terms, attempt->watch, &upstream->dialled, &why);
        upstream->resolve_time += upstream->dialled.resolve_time;
        upstream->connect_time += upstream->dialled.connect_time;
        if (connected)
            break;
        if (why.code != ERROR_NO_DESCRIPTORS || !wait_out_shortage(tried, attempt->watch)) {
            error_pass(attempt->error, &why);
            return false;
        }
    }
    prepare_socket(upstream, attempt->target->keepalive_interval);
    return true;
}

static bool connect_directly(const struct attempt *attempt)
{
    const struct proxy_config *settings = attempt->plan->settings;
    struct dial_terms terms = {.deadline = attempt->deadline};
    if (settings->enable_dual_stack) {
        terms.preferred = attempt->plan->preferred;
        terms.resolve_timeout = attempt->target->resolve_timeout;
    }
    return connect_to(attempt, &attempt->target->address, &terms);
}

// Kept out of other frames: the credentials and the address take more than a kilobyte.
__attribute__((noinline)) static bool connect_by_socks(const struct attempt *attempt)
{
    struct socks_server server;
    const struct dial_terms terms = {.deadline = attempt->deadline};
    if (!socks_server_parse(attempt->target->socks_proxy, &server, attempt->error))
        return false; // the configuration has been checked for it
    struct error why = ERROR_INIT;
    struct attempt to_server = *attempt;
    to_server.error = &why;
    bool connected = connect_to(&to_server, &server.address, &terms);
    if (connected) {
        int64_t begin = clock_now();
        attempt->upstream->step = UPSTREAM_SOCKS;
        connected = socks_connect(attempt->upstream->dialled.fd, &server, &attempt->target->address, attempt->watch,
                                  deadline_of_step(attempt, attempt->target->proxy_timeout), attempt->error);
        attempt->upstream->socks_time += clock_now() - begin;
        if (!connected)
            drop_socket(attempt->upstream);
    } else {
        error_set(attempt->error, why.code, "the SOCKS5 server: %s", why.text);
        if (attempt->error != NULL)
            attempt->error->os_errno = why.os_errno;
    }
    socks_server_wipe(&server);
    return connected;
}

// At once, and before the target's TLS.
static bool send_header(const struct attempt *attempt)
{
    struct upstream *upstream = attempt->upstream;
    uint8_t bytes[PROXY_HEADER_V2_MAX];
    if (attempt->plan->header == NULL)
        return true;
    size_t length = attempt->plan->settings->proxy_header_version == PROXY_HEADER_VERSION_1
                        ? proxy_header_encode_v1(attempt->plan->header, bytes)
                        : proxy_header_encode_v2(attempt->plan->header, bytes);
    upstream->step = UPSTREAM_HEADER;
    upstream->is_header_sent = true;
    int64_t bound = attempt->target->write_timeout;
    int64_t deadline = deadline_of_step(attempt, bound > 0 ? bound : HEADER_PATIENCE);
    switch (client_watch_send(attempt->watch, upstream->dialled.fd, bytes, length, deadline)) {
    case CLIENT_WATCH_READY:
        return true;
    case CLIENT_WATCH_DEADLINE:
        error_set(attempt->error, ERROR_TIMEOUT, "the target did not take the PROXY protocol header in time");
        break;
    case CLIENT_WATCH_GONE:
        error_set(attempt->error, ERROR_CANCELLED, "sending the PROXY protocol header: the client has gone");
        break;
    case CLIENT_WATCH_FAILED:
        error_set_errno(attempt->error, errno, "cannot send the PROXY protocol header");
        break;
    }
    drop_socket(upstream);
    return false;
}

// The name that a target's certificate is to be for. NULL: its address has none.
static const char *host_of(const struct target_config *target)
{
    return target->address.kind == ADDRESS_TCP ? target->address.host : NULL;
}

static bool connect_tls(const struct attempt *attempt)
{
    struct upstream *upstream = attempt->upstream;
    int64_t deadline = deadline_of_step(attempt, attempt->target->tls->handshake_timeout);
    upstream->step = UPSTREAM_TLS;
    upstream->tls = calloc(1, sizeof *upstream->tls);
    bool is_done = false;
    if (upstream->tls == NULL) {
        error_set_errno(attempt->error, ENOMEM, "cannot begin a TLS handshake");
    } else {
        is_done = tls_connect(attempt->tls, upstream->dialled.fd, host_of(attempt->target), attempt->watch, deadline,
                              upstream->tls, attempt->error);
        upstream->handshake_time += upstream->tls->info.handshake_time;
    }
    if (!is_done)
        drop_socket(upstream);
    return is_done;
}

bool upstream_attempt(struct upstream *upstream, const struct upstream_plan *plan, struct client_watch *watch,
                      struct error *error)
{
    const struct target_config *target = upstream->target->settings;
    const struct attempt attempt = {.upstream = upstream,
                                    .plan = plan,
                                    .target = target,
                                    .tls = upstream->target->tls,
                                    .watch = watch,
                                    .deadline = deadline_after(target->connect_timeout),
                                    .error = error};
    upstream->attempts++;
    upstream->step = UPSTREAM_DIAL;
    upstream->has_own_bound = false;
    upstream->is_header_sent = false;
    bool is_connected = (target->socks_proxy == NULL ? connect_directly(&attempt) : connect_by_socks(&attempt)) &&
                        send_header(&attempt) && (attempt.tls == NULL || connect_tls(&attempt));
    // The SOCKS5 server, or a target that speaks TLS 1.2, may have had the last word.
    if (is_connected && (upstream->step == UPSTREAM_SOCKS || upstream->step == UPSTREAM_TLS))
        socket_acknowledge(upstream->dialled.fd);
    return is_connected;
}
