#include "ingress.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "balancer.h"
#include "bitflow/base/clock.h"
#include "bitflow/net/socket.h"
#include "hello_peek.h"

#define ALERT_UNRECOGNIZED_NAME 112 // RFC 6066 3

static enum close_reason reason_of(const struct error *error)
{
    switch (error->code) {
    case ERROR_TIMEOUT:
        return CLOSE_CLIENT_HANDSHAKE_TIMEOUT;
    case ERROR_NO_MEMORY:
        return CLOSE_OUT_OF_MEMORY;
    case ERROR_NO_DESCRIPTORS:
        return CLOSE_OUT_OF_DESCRIPTORS;
    default:
        return CLOSE_CLIENT_HANDSHAKE_FAILED;
    }
}

// Before the handshake an alert is not encrypted (RFC 8446 5.1).
static void send_unrecognized_name(int client)
{
    static const uint8_t record[] = {21, 3, 3, 0, 2, 2, ALERT_UNRECOGNIZED_NAME};
    (void)send(client, record, sizeof record, MSG_DONTWAIT | MSG_NOSIGNAL);
    socket_end_and_drain(client);
}

static bool choose_target(struct ingress *ingress, const struct generation *generation, int client,
                          enum close_reason *reason, struct error *error)
{
    const struct proxy_config *settings = generation->settings;
    const struct tls_context *context = generation->tls; // NULL: passed through
    const char *name = ingress->server_name;
    bool has_name = *name != '\0';
    struct target *target = balancer_by_name(generation->targets, settings->target_count, name);
    if (target != NULL && (context == NULL || tls_context_has_authority_for(context, name))) {
        ingress->target = target;
        return true;
    }
    if (target != NULL)
        error_set(error, ERROR_INVALID, "%s%s, and which authority is to judge the client depends on that",
                  has_name ? "no certificate is for the server name " : "the client sent no server name", name);
    else if (has_name)
        error_set(error, ERROR_INVALID, "no target is for the server name %s", name);
    else
        error_set(error, ERROR_INVALID, "the client sent no server name, and no target is named *");
    *reason = context != NULL ? CLOSE_UNRECOGNIZED_NAME : CLOSE_SNI_UNMATCHED;
    if (context != NULL)
        send_unrecognized_name(client);
    return false;
}

// Our parser and mbedTLS must agree on who is asked for, or a client could be routed by one name and let in by
// another's authority. False: they do not, and the client is told.
static bool is_routed_as_agreed(const struct ingress *ingress, int client, struct error *error)
{
    uint8_t record[TLS_ALERT_RECORD_MAX];
    if (ingress->target != NULL && strcmp(ingress->server_name, ingress->tls->info.server_name) == 0)
        return true;
    size_t size = tls_sender_alert(ingress->tls->sender, TLS_ALERT_ILLEGAL_PARAMETER, record, sizeof record);
    (void)send(client, record, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    socket_end_and_drain(client);
    error_set(error, ERROR_INVALID,
              "the client sent a ClientHello whose server name is malformed, or not always the same");
    return false;
}

// What is no ClientHello is told by the handshake, where there is one.
static bool route(struct ingress *ingress, const struct generation *generation, int client, int64_t deadline,
                  enum close_reason *reason, struct error *error)
{
    const struct proxy_config *settings = generation->settings;
    struct client_hello *hello = malloc(sizeof *hello);
    if (hello == NULL) {
        error_set_errno(error, ENOMEM, "cannot look at the client's hello");
        *reason = CLOSE_OUT_OF_MEMORY;
        return false;
    }
    struct error why = ERROR_INIT;
    int64_t begin = clock_now();
    ingress->step = INGRESS_CLIENT_HELLO;
    bool is_hello = hello_peek(client, deadline, hello, &why);
    ingress->client_hello_time = clock_now() - begin;
    if (is_hello)
        memcpy(ingress->server_name, hello->server_name, sizeof ingress->server_name);
    free(hello);
    if (is_hello)
        return choose_target(ingress, generation, client, reason, error);
    if (settings->listener.tls != NULL && why.code == ERROR_INVALID)
        return true;
    *reason = reason_of(&why);
    error_pass(error, &why);
    return false;
}

static bool accept_tls(struct ingress *ingress, const struct generation *generation, int client, int64_t deadline,
                       enum close_reason *reason, struct error *error)
{
    struct error why = ERROR_INIT;
    ingress->step = INGRESS_TLS;
    ingress->tls = calloc(1, sizeof *ingress->tls);
    if (ingress->tls == NULL) {
        error_set_errno(&why, ENOMEM, "cannot begin a TLS handshake");
    } else if (tls_accept(generation->tls, client, deadline, ingress->tls, &why)) {
        socket_acknowledge(client); // in TLS 1.3 the client has the last word
        return true;
    }
    *reason = reason_of(&why);
    error_pass(error, &why);
    return false;
}

bool ingress_declare(struct ingress *ingress, const struct listener_config *listener, int client,
                     enum close_reason *reason, struct error *error)
{
    *ingress = (struct ingress){.target = NULL};
    if (!listener->proxy_protocol)
        return true;
    int64_t begin = clock_now(), until = deadline_after(listener->proxy_protocol_timeout);
    ingress->step = INGRESS_PROXY_HEADER;
    ingress->declared = declaration_read(client, until, reason, error);
    ingress->proxy_header_time = clock_now() - begin;
    return ingress->declared != NULL;
}

bool ingress_admit(struct ingress *ingress, const struct generation *generation, int client, enum close_reason *reason,
                   struct error *error)
{
    const struct proxy_config *settings = generation->settings;
    const struct tls_config *tls = settings->listener.tls;
    if (tls == NULL && settings->balancer != BALANCER_SNI)
        return true;
    int64_t deadline = deadline_after(tls != NULL ? tls->handshake_timeout : settings->listener.client_hello_timeout);
    if (settings->balancer == BALANCER_SNI && !route(ingress, generation, client, deadline, reason, error))
        return false;
    if (tls == NULL)
        return true;
    bool is_accepted = accept_tls(ingress, generation, client, deadline, reason, error);
    bool is_routed = settings->balancer == BALANCER_SNI;
    if (!is_routed && ingress->tls != NULL)
        memcpy(ingress->server_name, ingress->tls->info.server_name, sizeof ingress->server_name);
    if (!is_accepted || !is_routed)
        return is_accepted;
    *reason = CLOSE_CLIENT_HANDSHAKE_FAILED;
    return is_routed_as_agreed(ingress, client, error);
}

void ingress_release(struct ingress *ingress)
{
    if (ingress->tls != NULL)
        tls_session_release(ingress->tls);
    free(ingress->tls);
    ingress->tls = NULL;
    declaration_free(&ingress->declared);
}
