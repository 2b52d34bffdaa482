#include "net_rig.h"

struct client_watch *rig_nobody(void)
{
    static _Thread_local struct client_watch nobody;
    client_watch_init(&nobody, -1);
    return &nobody;
}

int64_t rig_limit(void)
{
    return deadline_after(RIG_LIMIT);
}

struct address rig_address(const char *text, enum address_use use)
{
    struct address address;
    struct error error = ERROR_INIT;
    if (!address_parse(text, use, &address, &error))
        fail_msg("%s: %s", text, error.text);
    return address;
}

struct endpoint rig_endpoint(const char *text)
{
    struct address address = rig_address(text, ADDRESS_TO_CONNECT);
    struct endpoint endpoint;
    assert_true(endpoint_of_address(&address, &endpoint));
    return endpoint;
}

const char *rig_on_port(const char *host, uint16_t port)
{
    static _Thread_local char text[64];
    (void)snprintf(text, sizeof text, "%s:%u", host, (unsigned)port);
    return text;
}

struct address rig_address_of(const struct endpoint *endpoint)
{
    char text[ENDPOINT_TEXT_SIZE];
    endpoint_format(endpoint, text);
    return rig_address(text, ADDRESS_TO_CONNECT);
}

uint16_t rig_port(const struct endpoint *endpoint)
{
    return rig_address_of(endpoint).port;
}

int rig_bind(const char *text, struct endpoint *bound)
{
    struct address address = rig_address(text, ADDRESS_TO_LISTEN);
    struct endpoint endpoint;
    assert_true(endpoint_of_address(&address, &endpoint));
    int fd = socket(endpoint.address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), 0);
    assert_int_equal(bind(fd, &endpoint.address.any, endpoint.length), 0);
    assert_true(socket_local(fd, bound));
    return fd;
}

int rig_listen(const char *text, struct endpoint *bound)
{
    int fd = rig_bind(text, bound);
    assert_int_equal(listen(fd, 16), 0);
    return fd;
}

int rig_connect(const struct endpoint *endpoint)
{
    int fd = socket(endpoint->address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, &endpoint->address.any, endpoint->length), 0);
    return fd;
}

int rig_accept(int listener)
{
    struct pollfd poller = {.fd = listener, .events = POLLIN};
    assert_int_equal(poll(&poller, 1, deadline_poll_ms(rig_limit())), 1);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

void rig_pair(int pair[2])
{
    struct endpoint bound;
    int listener = rig_listen("127.0.0.1:0", &bound);
    pair[0] = rig_connect(&bound);
    pair[1] = rig_accept(listener);
    (void)close(listener);
}

void rig_unix_pair(int pair[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
}

struct black_hole rig_black_hole(const char *text)
{
    struct black_hole hole;
    hole.fd = rig_bind(text, &hole.endpoint);
    assert_int_equal(listen(hole.fd, 0), 0);
    hole.filler = rig_connect(&hole.endpoint);
    rig_await(hole.fd, POLLIN); // it is in the queue once accept() would find it
    return hole;
}

void rig_drop_black_hole(const struct black_hole *hole)
{
    (void)close(hole->filler);
    (void)close(hole->fd);
}

void rig_write(int fd, const char *text)
{
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

void rig_await(int fd, short events)
{
    struct pollfd poller = {.fd = fd, .events = events};
    assert_int_equal(poll(&poller, 1, deadline_poll_ms(rig_limit())), 1);
}

unsigned rig_descriptors(void)
{
    unsigned count = 0;
    DIR *directory = opendir("/proc/self/fd");
    assert_non_null(directory);
    while (readdir(directory) != NULL)
        count++;
    (void)closedir(directory);
    return count;
}

void rig_await_descriptors(unsigned count)
{
    int64_t limit = rig_limit();
    while (rig_descriptors() != count && deadline_left(limit) > 0)
        (void)poll(NULL, 0, 1);
    assert_int_equal(rig_descriptors(), count);
}
