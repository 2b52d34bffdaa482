#include "bitflow/relay/pipe_pool.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "bitflow/base/compiler.h"
#include "bitflow/base/mutex.h"

// Measured, the CPU time a byte with a pipe of 64 KiB being 1: 256 KiB 0.69, 512 KiB 0.50, 1 MiB 0.48. The kernel lets
// an unprivileged user's pipes have 64 MiB (pipe-user-pages-soft), so only as many pipes are large as half of that
// allows.
#define SIZE_LARGE (512 * 1024)
#define LARGE_PIPES 64
#define SIZE_OTHERS (128 * 1024)
// With less (beyond that allowance the kernel gives pipes of 8 KiB) a big buffer does better.
#define SIZE_MIN (64 * 1024)

// A pipe is two descriptors: a sixteenth as many pipes take an eighth of the descriptors.
#define DESCRIPTORS_PER_PIPE 16

static struct mutex lock = MUTEX_INIT;
static struct bulk_pipe idle[PIPE_POOL_MAX_IDLE] GUARDED_BY(lock);
static unsigned idle_count GUARDED_BY(lock);
static unsigned taken_count GUARDED_BY(lock);

static unsigned allowed_by_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 0;
    rlim_t pipes = limit.rlim_cur / DESCRIPTORS_PER_PIPE;
    return pipes < PIPE_POOL_MAX ? (unsigned)pipes : PIPE_POOL_MAX;
}

static void close_pipe(struct bulk_pipe *bulk_pipe)
{
    (void)close(bulk_pipe->read_end);
    (void)close(bulk_pipe->write_end);
    bulk_pipe->read_end = -1;
    bulk_pipe->write_end = -1;
}

static bool open_pipe(struct bulk_pipe *bulk_pipe, int size)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return false;
    struct bulk_pipe opened = {.read_end = ends[0], .write_end = ends[1]};
    // Fails when the user's pipes have many pages already (pipe-user-pages-soft): then what there is may still do.
    if (fcntl(opened.write_end, F_SETPIPE_SZ, size) < size && fcntl(opened.write_end, F_GETPIPE_SZ) < SIZE_MIN) {
        close_pipe(&opened);
        return false;
    }
    *bulk_pipe = opened;
    return true;
}

static void forget_taken(void) EXCLUDES(lock)
{
    mutex_lock(&lock);
    taken_count--;
    mutex_unlock(&lock);
}

bool pipe_pool_take(struct bulk_pipe *bulk_pipe)
{
    mutex_lock(&lock);
    bool found = idle_count > 0;
    if (found)
        *bulk_pipe = idle[--idle_count]; // the one used last: its ring is the warmest
    unsigned existing = ++taken_count + idle_count;
    mutex_unlock(&lock);
    if (found)
        return true;
    int size = existing <= LARGE_PIPES ? SIZE_LARGE : SIZE_OTHERS;
    if (existing <= allowed_by_descriptors() && open_pipe(bulk_pipe, size))
        return true;
    forget_taken();
    return false;
}

void pipe_pool_give(struct bulk_pipe *bulk_pipe)
{
    mutex_lock(&lock);
    bool keep = idle_count < PIPE_POOL_MAX_IDLE;
    if (keep)
        idle[idle_count++] = *bulk_pipe;
    taken_count--;
    mutex_unlock(&lock);
    if (!keep)
        close_pipe(bulk_pipe);
}

void pipe_pool_discard(struct bulk_pipe *bulk_pipe)
{
    close_pipe(bulk_pipe);
    forget_taken();
}

unsigned pipe_pool_trim(void)
{
    unsigned closed = 0;
    for (;;) {
        struct bulk_pipe trimmed;
        mutex_lock(&lock);
        bool found = idle_count > 0;
        if (found)
            trimmed = idle[--idle_count];
        mutex_unlock(&lock);
        if (!found)
            return closed;
        close_pipe(&trimmed);
        closed += 2;
    }
}

struct pipe_pool_count pipe_pool_count(void)
{
    mutex_lock(&lock);
    struct pipe_pool_count count = {.taken = taken_count, .idle = idle_count};
    mutex_unlock(&lock);
    return count;
}
