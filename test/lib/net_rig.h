// Loopback sockets for the tests of the net floor. Every function fails the running test where it cannot deliver.

#ifndef BITFLOW_TEST_NET_RIG_H
#define BITFLOW_TEST_NET_RIG_H

#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/net/address.h"
#include "bitflow/net/client_watch.h"
#include "bitflow/net/socket.h"

// How long anything may take that is to happen; far more than it takes.
#define RIG_LIMIT (20 * NS_PER_S)

// Waits for nobody else's sake.
struct client_watch *rig_nobody(void);

int64_t rig_limit(void);

struct address rig_address(const char *text, enum address_use use);

// The endpoint that a literal to connect to stands for.
struct endpoint rig_endpoint(const char *text);

// "host:port", until the thread's next call.
const char *rig_on_port(const char *host, uint16_t port);

// The address of an endpoint, as configured text would give it.
struct address rig_address_of(const struct endpoint *endpoint);

uint16_t rig_port(const struct endpoint *endpoint);

// Binds a TCP socket to a literal (port 0: any), without listening; `bound` is where.
int rig_bind(const char *text, struct endpoint *bound);

int rig_listen(const char *text, struct endpoint *bound);

int rig_connect(const struct endpoint *endpoint);

int rig_accept(int listener);

// Two ends of one TCP connection.
void rig_pair(int pair[2]);

void rig_unix_pair(int pair[2]);

// A listener that never answers again: its accept queue is full, so that the kernel drops what arrives.
struct black_hole {
    struct endpoint endpoint;
    int fd, filler; // that holds the queue's one place
};

struct black_hole rig_black_hole(const char *text);

void rig_drop_black_hole(const struct black_hole *hole);

void rig_write(int fd, const char *text);

// Waits for poll() events of a socket.
void rig_await(int fd, short events);

unsigned rig_descriptors(void);

// Waits until the process has so many: another thread may be about to close its own.
void rig_await_descriptors(unsigned count);

#endif
