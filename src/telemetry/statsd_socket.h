// The transport to a statsd server: a UDP or a Unix datagram socket that never blocks, and survives a receiver that
// comes and goes. It belongs to one thread, which may wait here for a moment.
//
// UDP tells of a receiver that is not there only afterwards (ICMP), if at all. So before the first datagram, and again
// after each failure, it is asked by one that says nothing (a newline). A name is looked up again every minute, and
// when all of its addresses have failed.

#ifndef BITFLOW_SRC_TELEMETRY_STATSD_SOCKET_H
#define BITFLOW_SRC_TELEMETRY_STATSD_SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/net/address.h"
#include "bitflow/telemetry/statsd_batch.h"

// Through any network with Ethernet's MTU and some tunnel's headers; what Datadog's clients use, too.
#define STATSD_UDP_DATAGRAM 1432

// Addresses of a name that are tried; further ones are left out.
#define STATSD_ADDRESSES_MAX 16

struct statsd_socket {
    struct address address;
    int fd;         // -1: not open
    bool is_proven; // nothing has come back since it was opened, or failed last
    struct endpoint endpoints[STATSD_ADDRESSES_MAX];
    size_t count;
    size_t next;           // the address to be tried next
    int64_t resolved;      // when, CLOCK_MONOTONIC; 0: never
    int64_t look_up_after; // not before
    int64_t waited;        // ns, of this batch's time for receivers that are slow to read
};

// `address`: HOST:PORT, udp://HOST:PORT, unix:///path or unix://@name, which the configuration has checked.
void statsd_socket_init(struct statsd_socket *socket, const char *address);
void statsd_socket_close(struct statsd_socket *socket);

// The most that a datagram may have.
size_t statsd_socket_limit(const struct statsd_socket *socket);

// Before each batch. Opens the socket if it isn't, looks the name up again when it is time, asks whether there is a
// receiver where that is in doubt. At most until `deadline`, for the look-up, and a tenth of a second more for each
// address. False: there is none, and the error says why.
bool statsd_socket_prepare(struct statsd_socket *socket, int64_t deadline, struct error *error);

enum statsd_outcome statsd_socket_send(struct statsd_socket *socket, const char *bytes, size_t length);

// Whether something has come back of what was sent: it was for nobody.
bool statsd_socket_was_refused(struct statsd_socket *socket);

#endif
