#include "bitflow/proxy/client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../connection/phases.h"
#include "../upstream/balancer.h"
#include "bitflow/base/clock.h"
#include "bitflow/net/socket.h"
#include "client_hello_peek.h"
#include "proxy_protocol_in.h"

#define ALERT_UNRECOGNIZED_NAME 112 // RFC 6066 3

// What a handshake, or the look at what it begins with, has failed by.
static bool fail_handshake(struct failure *failure, const struct error *why)
{
    enum close_reason shortage = close_reason_of_shortage(why->code);
    error_pass(&failure->error, why);
    if (shortage != CLOSE_NONE)
        return failed_with(failure, shortage);
    if (why->code == ERROR_CANCELLED) // without a byte
        return failed_with(failure, CLOSE_CLIENT_LEFT);
    return failed_with(failure,
                       why->code == ERROR_TIMEOUT ? CLOSE_CLIENT_HANDSHAKE_TIMEOUT : CLOSE_CLIENT_HANDSHAKE_FAILED);
}

static bool read_header(struct client *client, const struct listener_config *listener, struct phases *phases,
                        struct failure *failure)
{
    phases_enter(phases, PHASE_CLIENT_HEADER);
    client->declared = proxy_protocol_in_read(client->fd, deadline_after(listener->proxy_protocol_timeout), failure);
    phases_leave_step(phases);
    return client->declared != NULL;
}

// Behind the PROXY protocol the acceptor could not know whose connection it is.
static bool admit_declared(struct client *client, const struct generation *generation, struct phases *phases,
                           struct failure *failure)
{
    const struct proxy_config *settings = generation->settings;
    struct source_limits limits = source_limits_of(settings);
    return read_header(client, &settings->listener, phases, failure) &&
           source_counts_enter(&generation->proxy->sources, client_address(client), &limits, &client->source, failure);
}

// Before the handshake an alert is not encrypted (RFC 8446 5.1).
static void send_unrecognized_name(int fd)
{
    static const uint8_t record[] = {21, 3, 3, 0, 2, 2, ALERT_UNRECOGNIZED_NAME};
    (void)send(fd, record, sizeof record, MSG_DONTWAIT | MSG_NOSIGNAL);
    socket_end_and_drain(fd);
}

static bool choose_target(struct client *client, const struct generation *generation, struct failure *failure)
{
    const struct tls_context *context = generation->tls; // NULL: passed through
    const char *name = client->server_name;
    bool has_name = *name != '\0';
    struct target *target = balancer_by_name(generation->targets, generation->settings->target_count, name);
    if (target != NULL && (context == NULL || tls_context_has_authority_for(context, name))) {
        client->target = target;
        return true;
    }
    if (target != NULL)
        error_set(&failure->error, ERROR_INVALID, "%s%s, and which authority is to judge the client depends on that",
                  has_name ? "no certificate is for the server name " : "the client sent no server name", name);
    else if (has_name)
        error_set(&failure->error, ERROR_INVALID, "no target is for the server name %s", name);
    else
        error_set(&failure->error, ERROR_INVALID, "the client sent no server name, and no target is named *");
    if (context == NULL)
        return failed_with(failure, CLOSE_SNI_UNMATCHED);
    send_unrecognized_name(client->fd);
    return failed_with(failure, CLOSE_UNRECOGNIZED_NAME);
}

// What is not a ClientHello is told by the handshake, where there is one.
static bool route(struct client *client, const struct generation *generation, int64_t deadline, struct phases *phases,
                  struct failure *failure)
{
    struct error why = ERROR_INIT;
    phases_enter(phases, PHASE_CLIENT_HELLO);
    struct client_hello *hello = malloc(sizeof *hello);
    if (hello == NULL) {
        phases_leave_step(phases);
        error_set_errno(&why, ENOMEM, "cannot look at the client's hello");
        return fail_handshake(failure, &why);
    }
    bool is_hello = client_hello_peek(client->fd, deadline, hello, &why);
    phases_leave_step(phases);
    if (is_hello)
        memcpy(client->server_name, hello->server_name, sizeof client->server_name);
    free(hello);
    if (is_hello)
        return choose_target(client, generation, failure);
    return (generation->tls != NULL && why.code == ERROR_INVALID) || fail_handshake(failure, &why);
}

// Our parser and mbedTLS must agree on who is asked for, or a client could be routed by one name and let in by
// another's authority. False: they do not, and the client is told.
static bool is_routed_as_agreed(const struct client *client, struct failure *failure)
{
    uint8_t record[TLS_ALERT_RECORD_MAX];
    if (client->target != NULL && strcmp(client->server_name, client->tls->info.server_name) == 0)
        return true;
    size_t size = tls_sender_alert(client->tls->sender, TLS_ALERT_ILLEGAL_PARAMETER, record, sizeof record);
    (void)send(client->fd, record, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    socket_end_and_drain(client->fd);
    error_set(&failure->error, ERROR_INVALID,
              "the client sent a ClientHello whose server name is malformed, or not always the same");
    return failed_with(failure, CLOSE_CLIENT_HANDSHAKE_FAILED);
}

static bool accept_tls(struct client *client, const struct tls_context *context, int64_t deadline,
                       struct phases *phases, struct failure *failure)
{
    struct error why = ERROR_INIT;
    phases_enter(phases, PHASE_CLIENT_HANDSHAKE);
    client->tls = calloc(1, sizeof *client->tls);
    if (client->tls == NULL) {
        phases_leave_told_step(phases, PHASE_CLIENT_HANDSHAKE);
        error_set_errno(&why, ENOMEM, "cannot begin a TLS handshake");
        return fail_handshake(failure, &why);
    }
    bool is_accepted = tls_accept(context, client->fd, deadline, client->tls, &why);
    phases_add(phases, PHASE_CLIENT_HANDSHAKE, client->tls->info.handshake_time);
    phases_leave_told_step(phases, PHASE_CLIENT_HANDSHAKE);
    if (!is_accepted && client->tls->info.failure == TLS_FAILURE_CERTIFICATE_UNAUTHORIZED) {
        error_pass(&failure->error, &why);
        return failed_with(failure, CLOSE_NAME_NOT_AUTHORIZED);
    }
    if (!is_accepted)
        return fail_handshake(failure, &why);
    socket_acknowledge(client->fd); // in TLS 1.3 the last flight of the handshake is the client's
    return true;
}

bool client_admit(struct client *client, const struct generation *generation, struct phases *phases,
                  struct failure *failure)
{
    const struct proxy_config *settings = generation->settings;
    const struct tls_config *tls = settings->listener.tls;
    bool is_routed = settings->balancer == BALANCER_SNI;
    if (settings->listener.proxy_protocol && !admit_declared(client, generation, phases, failure))
        return false;
    if (tls == NULL && !is_routed)
        return true;
    int64_t deadline = deadline_after(tls != NULL ? tls->handshake_timeout : settings->listener.client_hello_timeout);
    if (is_routed && !route(client, generation, deadline, phases, failure))
        return false;
    if (tls == NULL)
        return true;
    bool is_accepted = accept_tls(client, generation->tls, deadline, phases, failure);
    if (!is_routed && client->tls != NULL)
        memcpy(client->server_name, client->tls->info.server_name, sizeof client->server_name);
    return is_accepted && (!is_routed || is_routed_as_agreed(client, failure));
}

static bool is_declared(const struct client *client)
{
    return client->declared != NULL && client->declared->client.length > 0;
}

const struct endpoint *client_address(const struct client *client)
{
    return is_declared(client) ? &client->declared->client : &client->peer;
}

void client_local_address(const struct client *client, struct endpoint *local)
{
    *local = (struct endpoint){.length = 0};
    if (is_declared(client))
        *local = client->declared->local;
    else if (client->local != NULL)
        *local = *client->local;
    else
        (void)socket_local(client->fd, local);
}

void client_close(const struct client *client, bool reset)
{
    if (client->is_inherited)
        socket_disconnect(client->fd, reset);
    else if (reset)
        socket_set_reset_on_close(client->fd);
    (void)close(client->fd);
}

void client_release(struct client *client)
{
    if (client->tls != NULL)
        tls_session_release(client->tls);
    free(client->tls);
    client->tls = NULL;
    proxy_protocol_in_free(&client->declared);
}
