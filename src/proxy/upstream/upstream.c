#include "upstream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "balancer.h"
#include "bitflow/base/clock.h"
#include "bitflow/net/inherited.h"
#include "bitflow/net/socket.h"
#include "bitflow/net/socks.h"

// A header takes at most 1700 bytes, and the socket is new: who does not take them is stuck.
#define HEADER_TIMEOUT (10 * NS_PER_S)

// What the steps of an attempt share.
struct attempt {
    struct upstream *upstream;
    const struct upstream_terms *terms;
    const struct target_config *target;
    struct phases *phases;
    int64_t deadline;
    struct failure *failure;
};

// How a connection ends that fails in a step: where the step's own bound is over, where the other side refused our
// credentials, where it refused to serve, where anything else went wrong.
struct step_reasons {
    enum close_reason timeout, denied, refused, other;
};

static const struct step_reasons reasons_to_connect = {CLOSE_CONNECT_TIMEOUT, CLOSE_CONNECT_FAILED,
                                                       CLOSE_CONNECT_REFUSED, CLOSE_CONNECT_FAILED};
static const struct step_reasons reasons_of_socks = {CLOSE_SOCKS_TIMEOUT, CLOSE_SOCKS_AUTH_FAILED, CLOSE_SOCKS_REFUSED,
                                                     CLOSE_SOCKS_FAILED};
static const struct step_reasons reasons_of_header = {CLOSE_TARGET_WRITE_TIMEOUT, CLOSE_CONNECT_FAILED,
                                                      CLOSE_CONNECT_REFUSED, CLOSE_CONNECT_FAILED};
static const struct step_reasons reasons_of_tls = {CLOSE_TARGET_HANDSHAKE_TIMEOUT, CLOSE_TARGET_HANDSHAKE_FAILED,
                                                   CLOSE_TARGET_HANDSHAKE_FAILED, CLOSE_TARGET_HANDSHAKE_FAILED};

static enum close_reason reason_of(const struct step_reasons *reasons, enum error_code code, bool has_own_bound)
{
    enum close_reason shortage = close_reason_of_shortage(code);
    if (shortage != CLOSE_NONE)
        return shortage;
    switch (code) {
    case ERROR_CANCELLED:
        return CLOSE_CLIENT_LEFT;
    case ERROR_RESOLVE:
        return CLOSE_RESOLVE_FAILED;
    case ERROR_TIMEOUT:
        return has_own_bound ? reasons->timeout : CLOSE_CONNECT_TIMEOUT;
    case ERROR_DENIED:
        return reasons->denied;
    case ERROR_REFUSED:
        return reasons->refused;
    default:
        return reasons->other;
    }
}

// A step's deadline: its own bound (0: none), or the attempt's, whichever comes first.
static int64_t deadline_of_step(const struct attempt *attempt, int64_t bound, bool *has_own_bound)
{
    int64_t own = deadline_after(bound);
    *has_own_bound = own < attempt->deadline;
    return deadline_sooner(own, attempt->deadline);
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

// A lent target that has been spoken to is spent: it is of no use to anybody any more.
static void drop_socket(struct upstream *upstream)
{
    if (upstream->dialled.is_lent)
        inherited_return(upstream->dialled.fd, upstream->is_header_sent || upstream->tls != NULL);
    else
        (void)close(upstream->dialled.fd);
    upstream->dialled.fd = -1;
}

// Whether it is the relay that writes first, and by one call, which waits for no acknowledgement; and that nobody is
// looked at by keepalive before the relay has been silent for hours.
static bool can_relay_prepare(const struct attempt *attempt)
{
    const struct target_config *target = attempt->target;
    return target->socks_proxy == NULL && target->tls == NULL && target->keepalive_interval == 0 &&
           attempt->terms->header == NULL && attempt->terms->is_client_plain;
}

// Whatever is said from now on, header and handshake included, is not to wait for an acknowledgement.
static void prepare_socket(const struct attempt *attempt)
{
    struct upstream *upstream = attempt->upstream;
    const struct target_config *target = attempt->target;
    int fd = upstream->dialled.fd;
    upstream->is_unprepared = false;
    if (!endpoint_is_tcp(&upstream->dialled.remote))
        return;
    if (target->tcp_user_timeout > 0)
        socket_set_user_timeout(fd, target->tcp_user_timeout);
    if (upstream->dialled.is_lent) {
        socket_prepare_tcp(fd, target->keepalive_interval);
        return;
    }
    upstream->is_unprepared = can_relay_prepare(attempt);
    if (upstream->is_unprepared)
        return;
    socket_set_nodelay(fd); // dial() has seen to urgent data
    socket_set_keepalive(fd, target->keepalive_interval);
}

// Dials, which a shortage of descriptors delays at first.
static bool dial_address(const struct attempt *attempt, const struct address *address, const struct dial_terms *terms,
                         struct error *error)
{
    struct upstream *upstream = attempt->upstream;
    struct dial_result *dialled = &upstream->dialled;
    for (unsigned tried = 1;; tried++) {
        struct error why = ERROR_INIT;
        phases_enter(attempt->phases, PHASE_CONNECT);
        bool is_connected = dial(address, terms, attempt->terms->watch, dialled, &why);
        phases_add(attempt->phases, PHASE_RESOLVE, dialled->resolve_time);
        phases_add(attempt->phases, PHASE_CONNECT, dialled->connect_time);
        bool has_no_address = dialled->remote.length == 0 && dialled->resolve_time > 0; // the name was not resolved
        phases_leave_told_step(attempt->phases, has_no_address ? PHASE_RESOLVE : PHASE_CONNECT);
        if (is_connected)
            break;
        if (why.code != ERROR_NO_DESCRIPTORS || !wait_out_shortage(tried, attempt->terms->watch)) {
            error_pass(error, &why);
            return false;
        }
    }
    prepare_socket(attempt);
    return true;
}

static bool dial_directly(const struct attempt *attempt)
{
    const struct proxy_config *settings = attempt->terms->generation->settings;
    struct dial_terms terms = {.deadline = attempt->deadline};
    struct error *error = &attempt->failure->error;
    if (settings->enable_dual_stack) {
        terms.preferred = attempt->terms->preferred;
        terms.resolve_timeout = attempt->target->resolve_timeout;
    }
    return dial_address(attempt, &attempt->target->address, &terms, error) ||
           failed_with(attempt->failure, reason_of(&reasons_to_connect, error->code, false));
}

// Kept out of other frames: the credentials and the address take more than a kilobyte.
__attribute__((noinline)) static bool dial_by_socks(const struct attempt *attempt)
{
    struct socks_server server;
    const struct dial_terms terms = {.deadline = attempt->deadline};
    const struct step_reasons *reasons = &reasons_to_connect;
    struct error *error = &attempt->failure->error, why = ERROR_INIT;
    bool is_connected = false, has_own_bound = false;
    if (!socks_server_parse(attempt->target->socks_proxy, &server, error)) // the configuration has been checked for it
        return failed_with(attempt->failure, CLOSE_CONNECT_FAILED);
    if (!dial_address(attempt, &server.address, &terms, &why)) {
        error_wrap(error, &why, "the SOCKS5 server");
    } else {
        int64_t deadline = deadline_of_step(attempt, attempt->target->proxy_timeout, &has_own_bound);
        reasons = &reasons_of_socks;
        phases_enter(attempt->phases, PHASE_SOCKS);
        is_connected = socks_connect(attempt->upstream->dialled.fd, &server, &attempt->target->address,
                                     attempt->terms->watch, deadline, error);
        phases_leave_step(attempt->phases);
        if (!is_connected)
            drop_socket(attempt->upstream);
    }
    socks_server_wipe(&server);
    return is_connected || failed_with(attempt->failure, reason_of(reasons, error->code, has_own_bound));
}

// At once, and before the target's TLS. Kept out of other frames: the header takes 2.7 KB.
__attribute__((noinline)) static bool send_header(const struct attempt *attempt)
{
    struct upstream *upstream = attempt->upstream;
    struct error *error = &attempt->failure->error;
    uint8_t bytes[PROXY_HEADER_V2_MAX];
    size_t length = attempt->terms->generation->settings->proxy_header_version == PROXY_HEADER_VERSION_1
                        ? proxy_header_encode_v1(attempt->terms->header, bytes)
                        : proxy_header_encode_v2(attempt->terms->header, bytes);
    bool has_own_bound;
    int64_t bound = attempt->target->write_timeout;
    int64_t deadline = deadline_of_step(attempt, bound > 0 ? bound : HEADER_TIMEOUT, &has_own_bound);
    phases_enter(attempt->phases, PHASE_TARGET_HEADER);
    upstream->is_header_sent = true;
    switch (client_watch_send(attempt->terms->watch, upstream->dialled.fd, bytes, length, deadline)) {
    case CLIENT_WATCH_READY:
        return true;
    case CLIENT_WATCH_DEADLINE:
        error_set(error, ERROR_TIMEOUT, "the target did not take the PROXY protocol header in time");
        break;
    case CLIENT_WATCH_GONE:
        error_set(error, ERROR_CANCELLED, "sending the PROXY protocol header: the client has gone");
        break;
    case CLIENT_WATCH_FAILED:
        error_set_errno(error, errno, "cannot send the PROXY protocol header");
        break;
    }
    drop_socket(upstream);
    return failed_with(attempt->failure, reason_of(&reasons_of_header, error->code, has_own_bound));
}

static bool shake_hands(const struct attempt *attempt)
{
    struct upstream *upstream = attempt->upstream;
    struct error *error = &attempt->failure->error;
    const struct address *address = &attempt->target->address;
    const char *host = address->kind == ADDRESS_TCP ? address->host : NULL; // that the certificate is to be for
    bool has_own_bound, is_done = false;
    int64_t deadline = deadline_of_step(attempt, attempt->target->tls->handshake_timeout, &has_own_bound);
    phases_enter(attempt->phases, PHASE_TARGET_HANDSHAKE);
    upstream->tls = calloc(1, sizeof *upstream->tls);
    if (upstream->tls == NULL) {
        error_set_errno(error, ENOMEM, "cannot begin a TLS handshake");
    } else {
        is_done = tls_connect(upstream->target->tls, upstream->dialled.fd, host, attempt->terms->watch, deadline,
                              upstream->tls, error);
        phases_add(attempt->phases, PHASE_TARGET_HANDSHAKE, upstream->tls->info.handshake_time);
    }
    phases_leave_told_step(attempt->phases, PHASE_TARGET_HANDSHAKE);
    if (is_done)
        return true;
    drop_socket(upstream);
    return failed_with(attempt->failure, reason_of(&reasons_of_tls, error->code, has_own_bound));
}

// All steps to upstream->target, within its connect_timeout. On failure the socket is closed.
static bool make_attempt(struct upstream *upstream, const struct upstream_terms *terms, struct phases *phases,
                         struct failure *failure)
{
    const struct target_config *target = upstream->target->settings;
    const struct attempt attempt = {.upstream = upstream,
                                    .terms = terms,
                                    .target = target,
                                    .phases = phases,
                                    .deadline = deadline_after(target->connect_timeout),
                                    .failure = failure};
    upstream->attempts++;
    upstream->is_header_sent = false;
    bool is_connected = (target->socks_proxy == NULL ? dial_directly(&attempt) : dial_by_socks(&attempt)) &&
                        (terms->header == NULL || send_header(&attempt)) &&
                        (upstream->target->tls == NULL || shake_hands(&attempt));
    phases_leave_step(phases);
    // The last bytes may have been the SOCKS5 server's, or those of a target that speaks TLS 1.2.
    if (is_connected && (phases->step == PHASE_SOCKS || phases->step == PHASE_TARGET_HANDSHAKE))
        socket_acknowledge(upstream->dialled.fd);
    return is_connected;
}

#define JITTER_PERCENT 20

int64_t upstream_backoff(int64_t backoff, int64_t attempt, uint32_t random)
{
    if (backoff > INT64_MAX / 2)
        backoff = INT64_MAX / 2; // room for the variation; 146 years
    int64_t most = backoff > UPSTREAM_BACKOFF_MAX ? backoff : UPSTREAM_BACKOFF_MAX;
    int64_t wait = backoff;
    for (int64_t doubled = 2; doubled < attempt && wait < most; doubled++)
        wait = wait > most / 2 ? most : wait * 2;
    int64_t spread = wait / 100 * JITTER_PERCENT;
    // -spread .. +spread, in 2^16 steps
    return wait - spread + 2 * spread / UINT16_MAX * (int64_t)(random & UINT16_MAX);
}

static bool wait_before(const struct target_config *target, int64_t attempt, struct client_watch *watch,
                        struct failure *failure)
{
    if (attempt == 1)
        return true;
    // Without a backoff, the client is still looked at.
    int64_t wait = target->connect_backoff == 0 ? 0 : upstream_backoff(target->connect_backoff, attempt, arc4random());
    if (client_watch_poll(watch, NULL, 0, clock_now() + wait) != CLIENT_WATCH_GONE)
        return true;
    error_set(&failure->error, ERROR_CANCELLED, "the client left");
    return failed_with(failure, CLOSE_CLIENT_LEFT);
}

static void log_failure(const struct target_config *target, int64_t attempt, const struct error *error,
                        const struct log_context *context)
{
    char number[LOG_NUMBER_SIZE];
    log_warn(context, "cannot connect to the target", "target", target->name, "attempt", log_number(number, attempt),
             "error", error->text, NULL);
}

// Another attempt would only add to a shortage, and is of no use to a client that is gone.
static bool is_worth_another(const struct error *error)
{
    return error->code != ERROR_CANCELLED && close_reason_of_shortage(error->code) == CLOSE_NONE;
}

static void count_attempt(const struct upstream *upstream, const struct failure *failure, enum phase step)
{
    struct target_metrics *metrics = upstream->target->metrics;
    metric_add(&metrics->attempts, 1);
    if (failure->reason == CLOSE_NONE)
        return;
    metric_add(&metrics->failed[failure->reason], 1);
    if (step != PHASE_TARGET_HANDSHAKE)
        return;
    enum tls_failure why = upstream->tls != NULL ? upstream->tls->info.failure : TLS_FAILURE_OUT_OF_MEMORY;
    metric_add(&metrics->handshake_failed[why], 1);
}

// All attempts at upstream->target, with the backoff between them. `failure` is the last attempt's.
static bool try_target(struct upstream *upstream, const struct upstream_terms *terms, struct phases *phases,
                       struct failure *failure)
{
    const struct target_config *target = upstream->target->settings;
    for (int64_t number = 1; number <= target->connect_attempts; number++) {
        *failure = (struct failure){.reason = CLOSE_NONE};
        if (!wait_before(target, number, terms->watch, failure))
            return false;
        upstream_release(upstream);
        bool is_connected = make_attempt(upstream, terms, phases, failure);
        if (metrics_are_on(terms->generation->proxy->metrics))
            count_attempt(upstream, failure, phases->step);
        if (is_connected)
            return true;
        if (failure->error.code != ERROR_CANCELLED)
            log_failure(target, number, &failure->error, terms->context);
        if (!is_worth_another(&failure->error))
            return false;
    }
    return false;
}

static void enter_target(struct upstream *upstream, struct target *target)
{
    upstream_leave(upstream);
    target_enter(target);
    upstream->target = target;
    upstream->is_counted = true;
}

static void log_passed_over(const struct target_config *target, const struct log_context *context)
{
    char number[LOG_NUMBER_SIZE], time[LOG_NUMBER_SIZE];
    log_warn(context, "the target is passed over for now", "target", target->name, "failures",
             log_number(number, target->max_fails), "for_ms", log_number(time, target->fail_timeout / NS_PER_MS), NULL);
}

bool upstream_connect(struct upstream *upstream, const struct upstream_terms *terms, struct phases *phases,
                      struct failure *failure)
{
    const struct generation *generation = terms->generation;
    struct balancer balancer;
    struct target *target;
    struct failure last = {.reason = CLOSE_NONE};
    bool is_connected = false;
    size_t failed = 0;
    balancer_init(&balancer, generation->settings, generation->targets,
                  atomic_fetch_add_explicit(&generation->proxy->rr_counter, 1, memory_order_relaxed), terms->chosen);
    while ((target = balancer_next(&balancer, clock_now())) != NULL) {
        enter_target(upstream, target);
        is_connected = try_target(upstream, terms, phases, &last);
        if (is_connected) {
            if (balancer_note_success(&balancer, clock_now()))
                log_info(terms->context, "the target is back", "target", target->settings->name, NULL);
            break;
        }
        failed++;
        if (last.error.code == ERROR_NO_PORTS) // to another target there may be some
            continue;
        // What is our own trouble, or the client's, says nothing about the target.
        if (!is_worth_another(&last.error))
            break;
        if (balancer_note_failure(&balancer, clock_now()))
            log_passed_over(target->settings, terms->context);
    }
    balancer_release(&balancer);
    if (is_connected)
        return true;
    upstream_leave(upstream);
    if (failed > 1 && is_worth_another(&last.error))
        error_wrap(&failure->error, &last.error, "all %zu targets failed, the last", failed);
    else
        error_pass(&failure->error, &last.error);
    return failed_with(failure, last.reason != CLOSE_NONE ? last.reason : CLOSE_CONNECT_FAILED); // else none was tried
}

void upstream_leave(struct upstream *upstream)
{
    if (upstream->is_counted)
        target_leave(upstream->target);
    upstream->is_counted = false;
}

void upstream_release(struct upstream *upstream)
{
    if (upstream->tls != NULL)
        tls_session_release(upstream->tls);
    free(upstream->tls);
    upstream->tls = NULL;
}
