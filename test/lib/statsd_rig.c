#include "statsd_rig.h"

int rig_receiver(const char *address, char text[ENDPOINT_TEXT_SIZE])
{
    struct address parsed = rig_address(address, ADDRESS_TO_LISTEN);
    struct endpoint endpoint, bound;
    assert_true(endpoint_of_address(&parsed, &endpoint));
    int fd = socket(endpoint.address.any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, &endpoint.address.any, endpoint.length), 0);
    assert_true(socket_local(fd, &bound));
    endpoint_format(&bound, text);
    return fd;
}

const char *rig_datagram(int fd)
{
    static char text[65536];
    ssize_t length;
    do {
        rig_await(fd, POLLIN);
        length = recv(fd, text, sizeof text - 1, 0);
        assert_true(length > 0);
        text[length] = '\0';
    } while (strcmp(text, "\n") == 0);
    return text;
}

bool rig_is_silent(int fd)
{
    char byte;
    return recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0;
}
