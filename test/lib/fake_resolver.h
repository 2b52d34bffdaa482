// A getaddrinfo() that the test commands. The program's own definition comes before the C library's, so that the net
// floor calls this one. Names it doesn't know go to the C library, which answers "localhost" from /etc/hosts:
//   list.test   what fake_add() has added; for one family alone it fails for now, so that on a busy machine, too, the
//       order is that of both
//   one.test    the same, for one family alone as well
//   slow.test, slow1.test, slow2.test ...   waits until fake_release(), then 127.0.0.1
//   late4.test, late6.test   what fake_add() has added; that family's look-up, and that of both, waits until
//       fake_release()
//   whole.test   the same, where only the look-up of both families waits
//   lost.test    the same, where the first fake_lose() look-ups of one family wait, and all those of both; the others
//       end with fake_lost_code, if that is set
//   again.test, fail.test, memory.test, no-name.test, system.test   the error of that name

#ifndef BITFLOW_TEST_FAKE_RESOLVER_H
#define BITFLOW_TEST_FAKE_RESOLVER_H

#include <dlfcn.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "net_rig.h"

#define FAKE_MAX 40
extern sem_t fake_slow; // posted once for each slow look-up that is to end
extern atomic_int fake_slow_calls;
extern atomic_int fake_list_calls; // look-ups that got what fake_add() has added, or are to get it
extern atomic_int fake_waiting;    // of the slow look-ups, those under way
extern atomic_int fake_lost_code;
extern atomic_int fake_slow_number; // of the slow name looked up last

void fake_clear(void);

void fake_add(const struct endpoint *endpoint);

void fake_release(void);

void fake_lose(int count);

// Waits until there were so many of a kind of call, and no more.
void fake_await(const atomic_int *calls, int count);

// A group's setup.
int fake_begin(void **state);

// The process's descriptors at that time.
unsigned fake_descriptors_at_start(void);

// Releases all of them until each look-up that nobody waits for any more is over: its event is closed then, and the
// process has the descriptors that it had at the start, and `more`.
void fake_release_to_end(unsigned more);

#endif
