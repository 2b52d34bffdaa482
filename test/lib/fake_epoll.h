// An epoll that the test commands, for the workers that wait for clients: how long they do, and whether the system lets
// them. The program's own definitions come before the C library's, which they lead to.

#ifndef BITFLOW_TEST_FAKE_EPOLL_H
#define BITFLOW_TEST_FAKE_EPOLL_H

#include <stdatomic.h>

#define FAKE_EPOLL_PATIENCE_MS 20000 // only a test that fails waits so long

extern atomic_bool fake_epoll_is_patient;                      // epoll_wait() waits for so long, whatever it was told
extern atomic_int fake_epoll_waiting, fake_epoll_most_waiting; // threads in epoll_wait(): now, and at one time
extern atomic_int fake_epoll_refused_creation;                 // errno; 0: granted
extern atomic_int fake_epoll_refused_addition;                 // likewise

#endif
