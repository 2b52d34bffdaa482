/*
 * One end of a connection, plain or TLS by libssl. TLS is one version with one suite, TLS_AES_128_GCM_SHA256 or its
 * likeness in 1.2, so that all contenders have the same work; every handshake is a full one unless the options have it
 * otherwise, and nobody looks at whom a certificate is for.
 */

#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#define SUITE_1_3 "TLS_AES_128_GCM_SHA256"
#define SUITES_1_2 "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"

/* Several records come by one system call, which leaves more of the processor to the proxy. */
#define READ_AHEAD ((size_t)128 * 1024)

static SSL_CTX *context; /* NULL: legs are plain */
static bool is_server;
static SSL_SESSION *last_session; /* the client's, to be resumed */
static uint64_t resumed;

static bool load_certificate(const char *path)
{
    return SSL_CTX_use_certificate_chain_file(context, path) == 1 &&
           SSL_CTX_use_PrivateKey_file(context, path, SSL_FILETYPE_PEM) == 1;
}

static int keep_session(SSL *ssl, SSL_SESSION *session)
{
    (void)ssl;
    SSL_SESSION_free(last_session);
    last_session = session;
    return 1;
}

static void set_up_sessions(bool resumes)
{
    (void)SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    if (!resumes) {
        (void)SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
        (void)SSL_CTX_set_num_tickets(context, 0);
    } else if (!is_server) {
        (void)SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(context, keep_session);
    }
}

static bool set_up(const struct options *options)
{
    int version = options->tls == TLS_1_2 ? TLS1_2_VERSION : TLS1_3_VERSION;

    context = SSL_CTX_new(is_server ? TLS_server_method() : TLS_client_method());
    if (context == NULL || SSL_CTX_set_min_proto_version(context, version) != 1 ||
        SSL_CTX_set_max_proto_version(context, version) != 1 || SSL_CTX_set_ciphersuites(context, SUITE_1_3) != 1 ||
        SSL_CTX_set_cipher_list(context, SUITES_1_2) != 1 || (is_server && !load_certificate(options->certificate))) {
        return false;
    }
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    set_up_sessions(options->resumes);
    (void)SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                        SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, READ_AHEAD);
    return true;
}

bool leg_prepare(const struct options *options, bool accepts)
{
    is_server = accepts;
    if (options->tls == TLS_OFF || set_up(options)) {
        return true;
    }
    ERR_print_errors_fp(stderr);
    return false;
}

bool leg_open(struct leg *leg, int fd)
{
    *leg = (struct leg){.fd = fd};
    if (context == NULL) {
        return true;
    }
    leg->ssl = SSL_new(context);
    if (leg->ssl == NULL || SSL_set_fd(leg->ssl, fd) != 1) {
        SSL_free(leg->ssl);
        leg->ssl = NULL;
        errno = ENOMEM;
        return false;
    }
    if (is_server) {
        SSL_set_accept_state(leg->ssl);
    } else {
        SSL_set_connect_state(leg->ssl);
        (void)(last_session == NULL || SSL_set_session(leg->ssl, last_session) == 1);
    }
    return true;
}

uint64_t leg_resumed(void)
{
    return resumed;
}

void leg_close(struct leg *leg)
{
    resumed += leg->ssl != NULL && SSL_session_reused(leg->ssl) == 1;
    SSL_free(leg->ssl);
    (void)close(leg->fd);
    *leg = (struct leg){.fd = -1};
}

const char *leg_error(void)
{
    const char *reason = errno == EPROTO ? ERR_reason_error_string(ERR_peek_error()) : NULL;

    return reason != NULL ? reason : strerror(errno);
}

/* After a call that did not do it: errno as a socket's call would have set it; 0: it is at the end of the data. */
static void explain(const struct leg *leg, int result)
{
    int os_errno = errno;

    switch (SSL_get_error(leg->ssl, result)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        errno = EAGAIN;
        break;
    case SSL_ERROR_ZERO_RETURN:
        errno = 0;
        break;
    case SSL_ERROR_SYSCALL:
        errno = os_errno != 0 ? os_errno : ECONNABORTED;
        break;
    default:
        errno = EPROTO;
        break;
    }
}

static void begin_call(void)
{
    ERR_clear_error();
    errno = 0;
}

bool leg_shake_hands(struct leg *leg)
{
    int result = 0;

    if (leg->ssl == NULL) {
        return true;
    }
    begin_call();
    result = SSL_do_handshake(leg->ssl);
    if (result == 1) {
        return true;
    }
    explain(leg, result);
    return false;
}

static ssize_t send_record(struct leg *leg, const char *data, size_t size)
{
    int result = 0;

    begin_call();
    result = SSL_write(leg->ssl, data, (int)size);
    if (result > 0) {
        leg->unsent = 0;
        return result;
    }
    explain(leg, result);
    if (errno == EAGAIN && SSL_is_init_finished(leg->ssl)) {
        leg->unsent = size < SSL3_RT_MAX_PLAIN_LENGTH ? size : SSL3_RT_MAX_PLAIN_LENGTH;
    }
    return -1;
}

ssize_t leg_send(struct leg *leg, const char *data, size_t size)
{
    size_t sent = 0;

    if (leg->ssl == NULL) {
        return send(leg->fd, data, size, MSG_NOSIGNAL);
    }
    while (sent < size) {
        ssize_t bytes = send_record(leg, data + sent, size - sent);

        if (bytes < 0) {
            return sent > 0 && errno == EAGAIN ? (ssize_t)sent : -1;
        }
        sent += (size_t)bytes;
    }
    return (ssize_t)sent;
}

ssize_t leg_flush(struct leg *leg, const char *data)
{
    return leg->unsent > 0 ? send_record(leg, data, leg->unsent) : 0;
}

/* The end of the data is that of the socket's stream too, or who closes first would keep it in TIME_WAIT. A client
   answers the other's close_notify, for which some proxies wait; one that has closed already resets then, by which
   nothing is lost. */
static ssize_t receive_nothing(struct leg *leg, int result)
{
    char ignored[256];
    ssize_t bytes = 0;

    explain(leg, result);
    if (errno != 0) {
        return -1;
    }
    if (!is_server && (SSL_get_shutdown(leg->ssl) & SSL_SENT_SHUTDOWN) == 0) {
        (void)SSL_shutdown(leg->ssl);
    }
    bytes = recv(leg->fd, ignored, sizeof ignored, 0);
    return bytes < 0 && errno == ECONNRESET && !is_server ? 0 : bytes;
}

ssize_t leg_receive(struct leg *leg, char *data, size_t size, bool is_discarded)
{
    ssize_t bytes = 0;

    if (leg->ssl == NULL) {
        return recv(leg->fd, data, size, is_discarded ? MSG_TRUNC : 0);
    }
    begin_call();
    bytes = SSL_read(leg->ssl, data, (int)size);
    bytes = bytes > 0 ? bytes : receive_nothing(leg, (int)bytes);
    leg->has_more = bytes > 0 && SSL_has_pending(leg->ssl) == 1;
    return bytes;
}

bool leg_shutdown(struct leg *leg)
{
    if (leg->ssl != NULL) {
        int result = 0;

        begin_call();
        result = SSL_shutdown(leg->ssl);
        if (result < 0) {
            explain(leg, result);
            return false;
        }
    }
    return shutdown(leg->fd, SHUT_WR) == 0;
}
