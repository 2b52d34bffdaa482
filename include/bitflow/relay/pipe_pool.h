// Pipes for moving bytes between sockets with splice(): made when first wanted, kept for reuse. One pool for the
// process, because what it is bounded by (descriptors, the kernel's allowance of pipe pages) belongs to the process.
// Any thread; one mutex, held for a few instructions and never across a system call.
//
// The pool never holds more than an eighth of the descriptors that RLIMIT_NOFILE allows, and keeps few idle pipes. A
// pipe belongs to the thread that took it until that thread gives it back or discards it.

#ifndef BITFLOW_RELAY_PIPE_POOL_H
#define BITFLOW_RELAY_PIPE_POOL_H

#include <stdbool.h>

#define PIPE_POOL_MAX 1024   // pipes in existence, where RLIMIT_NOFILE allows as many
#define PIPE_POOL_MAX_IDLE 8 // pipes kept for the next taker, for good; making one takes a hundredth of a millisecond

struct bulk_pipe {
    int read_end;
    int write_end;
};

// False: there is none to be had now (the bound, EMFILE, no memory, or the kernel gives only tiny ones).
bool pipe_pool_take(struct bulk_pipe *bulk_pipe);

// The pipe must be empty.
void pipe_pool_give(struct bulk_pipe *bulk_pipe);

// For a pipe that may have bytes left in it: closes it.
void pipe_pool_discard(struct bulk_pipe *bulk_pipe);

// Closes the idle pipes, for whoever has run out of descriptors. Returns how many descriptors that freed.
unsigned pipe_pool_trim(void);

struct pipe_pool_count {
    unsigned taken;
    unsigned idle;
};
struct pipe_pool_count pipe_pool_count(void);

#endif
