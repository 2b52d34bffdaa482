// Addresses as the configuration writes them, and endpoints as the kernel knows them.
//
// An address is text that has been understood but not looked up: tcp://HOST:PORT (also tcp4://, tcp6://,
// HOST:PORT, :PORT, [::1]:80), unix:///path, unix://@abstract-name, fd://N, fd://NAME. An endpoint is one
// socket address. Plain values, no allocation, no locks; any thread.

#ifndef BITFLOW_NET_ADDRESS_H
#define BITFLOW_NET_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "bitflow/base/error.h"
#include "bitflow/base/host_name.h"

enum address_kind { ADDRESS_TCP, ADDRESS_UNIX, ADDRESS_FD };

enum address_family { ADDRESS_ANY, ADDRESS_IPV4, ADDRESS_IPV6 };

#define ADDRESS_HOST_MAX HOST_NAME_MAX_LENGTH // without the trailing dot
#define ADDRESS_FD_NAME_MAX 255               // sd_listen_fds_with_names(3)

struct address {
    enum address_kind kind;
    // ADDRESS_TCP
    enum address_family family; // what the scheme or a literal restricts it to
    bool is_literal;            // host is an IP address (or empty), no look-up is needed
    char host[ADDRESS_HOST_MAX +
              2];  // a literal in its shortest form, without brackets; a name with its trailing dot, if
                   // it has one; empty: every address of this host
    uint16_t port; // host byte order
    // ADDRESS_UNIX
    bool is_abstract;
    char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)]; // zero-terminated; without the @ if abstract
    // ADDRESS_FD
    int fd;                                // -1: look fd_name up
    char fd_name[ADDRESS_FD_NAME_MAX + 1]; // empty if the number was given
};

// What it takes to be a listener or a target differs a little: a target needs a host and a port that isn't 0.
enum address_use { ADDRESS_TO_LISTEN, ADDRESS_TO_CONNECT };

// ERROR_INVALID with a text that says what is wrong with it, without repeating the whole.
bool address_parse(const char *text, enum address_use use, struct address *address, struct error *error);

bool address_equal(const struct address *a, const struct address *b);

#define ADDRESS_TEXT_SIZE 288
// The canonical form, with its scheme: tcp://[::1]:80, unix:///path, fd://3.
void address_format(const struct address *address, char out[ADDRESS_TEXT_SIZE]);

struct endpoint {
    socklen_t length; // 0: none
    union {
        struct sockaddr any;
        struct sockaddr_storage storage;
        struct sockaddr_un local;
    } address;
};

// Only for addresses that need no look-up: literals and Unix sockets. Without a host it is the wildcard
// address, of IPv6 unless the address is restricted to IPv4. False for any other address, and for a zone
// (%eth0) that doesn't exist.
bool endpoint_of_address(const struct address *address, struct endpoint *endpoint);

// AF_UNSPEC where there is none.
sa_family_t endpoint_family(const struct endpoint *endpoint);

bool endpoint_is_tcp(const struct endpoint *endpoint);

// Any address of its IP family: 0.0.0.0 or ::.
bool endpoint_is_wildcard(const struct endpoint *endpoint);

bool endpoint_equal(const struct endpoint *a, const struct endpoint *b);

#define ENDPOINT_TEXT_SIZE 160
// For people and logs: 192.0.2.1:80, [2001:db8::1]:80 (an IPv4-mapped address as IPv4), unix:///path,
// unix://@name, "unix:" for an unnamed one, "none" where there is none. Bytes that aren't printable ASCII are
// escaped as \xNN: the name comes from the peer. What doesn't fit is cut.
void endpoint_format(const struct endpoint *endpoint, char out[ENDPOINT_TEXT_SIZE]);

#endif
