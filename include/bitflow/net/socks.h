// Connecting through a SOCKS5 server: its address and our credentials as the configuration writes them, and the
// dialogue (wire/socks5.h) on a socket that is connected to it. Any thread; blocks, but only in client_watch_poll().

#ifndef BITFLOW_NET_SOCKS_H
#define BITFLOW_NET_SOCKS_H

#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/net/address.h"
#include "bitflow/net/client_watch.h"

#define SOCKS_CREDENTIAL_MAX 255 // RFC 1929

// It holds a password: whoever has one wipes it after use.
struct socks_server {
    struct address address;  // TCP or Unix
    uint8_t user_length;     // 0: no credentials
    uint8_t password_length; // 0: an empty one, if there is a user
    uint8_t user[SOCKS_CREDENTIAL_MAX];
    uint8_t password[SOCKS_CREDENTIAL_MAX];
};

// socks5://[USER[:PASS]@]HOST:PORT or HOST:PORT; by a Unix socket socks5+unix://[USER[:PASS]@]/path or unix:///path.
// socks5h is the same as socks5: names are the server's to resolve. In USER and PASS, %XX is a byte, as in a URL.
// ERROR_INVALID; its text repeats nothing of the text.
bool socks_server_parse(const char *text, struct socks_server *server, struct error *error);

void socks_server_wipe(struct socks_server *server);

// What it can connect to: TCP addresses, but for IPv6 ones with a zone, which is this host's own. ERROR_INVALID.
bool socks_can_reach(const struct address *target, struct error *error);

// On a socket connected to the server, blocking or not: asks it to connect to `target`. What the socket says from then
// on is the target's; none of it is read. ERROR_REFUSED (the server says no), ERROR_DENIED (not with these
// credentials), ERROR_INVALID (what it says is not SOCKS5, or it closed the connection), ERROR_TIMEOUT,
// ERROR_CANCELLED, ERROR_SYSTEM. The texts have no credentials in them.
bool socks_connect(int fd, const struct socks_server *server, const struct address *target, struct client_watch *watch,
                   int64_t deadline, struct error *error);

#endif
