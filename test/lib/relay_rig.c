#include "relay_rig.h"

#include "row.h"

void must(bool condition, const char *what)
{
    if (!condition) {
        (void)fprintf(stderr, "cannot go on: %s: %s\n", what, strerror(errno));
        (void)row_tell(NULL);
        abort();
    }
}

void rig_connect_pair(enum rig_kind kind, int buffer, int *near, int *far)
{
    if (kind == RIG_UNIX) {
        int pair[2];
        MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        *near = pair[0];
        *far = pair[1];
        return;
    }
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof address;
    MUST(listener >= 0);
    if (buffer > 0)
        MUST(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer) == 0 &&
             setsockopt(listener, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer) == 0);
    MUST(bind(listener, (struct sockaddr *)&address, sizeof address) == 0);
    MUST(listen(listener, 1) == 0);
    MUST(getsockname(listener, (struct sockaddr *)&address, &size) == 0);
    *far = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(*far >= 0);
    if (buffer > 0)
        MUST(setsockopt(*far, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer) == 0 &&
             setsockopt(*far, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer) == 0);
    MUST(connect(*far, (struct sockaddr *)&address, sizeof address) == 0);
    *near = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    MUST(*near >= 0);
    MUST(close(listener) == 0);
    socket_set_nodelay(*near);
    socket_set_nodelay(*far);
}

struct thread_pool *rig_threads(void)
{
    static struct thread_pool *threads;
    if (threads == NULL) {
        struct thread_pool_options options = {
            .parked_name = "parked", .stack_size = 64 * 1024, .max_parked = 1000, .idle_time = NS_PER_S};
        threads = thread_pool_create(&options, NULL);
        MUST(threads != NULL);
    }
    return threads;
}

static _Atomic unsigned busy_threads; // that have been begun by:

static void rig_be_busy(void *argument)
{
    sem_t *until = (sem_t *)argument;
    atomic_fetch_add(&busy_threads, 1);
    while (sem_wait(until) != 0)
        MUST(errno == EINTR);
}

struct thread_pool *rig_exhausted_threads(sem_t *until)
{
    struct thread_pool_options options = {
        .parked_name = "parked", .stack_size = 64 * 1024, .max_threads = 1, .max_parked = 1, .idle_time = NS_PER_S};
    struct thread_pool *threads = thread_pool_create(&options, NULL);
    MUST(threads != NULL && sem_init(until, 0, 0) == 0);
    unsigned before = atomic_load(&busy_threads);
    MUST(thread_pool_run(threads, rig_be_busy, until, NULL));
    while (atomic_load(&busy_threads) == before) // what it frees at first is not for the test to count
        MUST(usleep(200) == 0);
    return threads;
}

struct thread_pool **rig_only_threads(void)
{
    static struct thread_pool *threads;
    return &threads;
}

void rig_go_without_threads(void)
{
    static sem_t never;
    *rig_only_threads() = rig_exhausted_threads(&never);
}

void rig_init(struct rig *rig, enum rig_kind client, enum rig_kind target, int buffer)
{
    *rig = (struct rig){.relay = {.threads = *rig_only_threads() != NULL ? *rig_only_threads() : rig_threads()}};
    rig->relay.settled_reason = &rig->reason;
    const char *rest = getenv("BITFLOW_TEST_REST"); // ms: every relay of the program rests after so long
    if (rest != NULL)
        rig->relay.rest_after = strtol(rest, NULL, 10) * NS_PER_MS;
    rig->relay.is_always_carried = getenv("BITFLOW_TEST_CARRY") != NULL;
    rig_connect_pair(client, buffer, &rig->relay.sockets[RELAY_CLIENT].fd, &rig->client);
    rig_connect_pair(target, buffer, &rig->relay.sockets[RELAY_TARGET].fd, &rig->target);
    rig->relay.sockets[RELAY_CLIENT].is_own_tcp = client == RIG_TCP;
    rig->relay.sockets[RELAY_TARGET].is_own_tcp = target == RIG_TCP;
    static _Atomic unsigned number;
    unsigned id = atomic_fetch_add(&number, 1) % 1000000;
    (void)snprintf(rig->runner_name, THREAD_NAME_SIZE, "rig#%u>", id);
    (void)snprintf(rig->relay.second_thread_name, THREAD_NAME_SIZE, "rig#%u<", id);
}

void *rig_run(void *argument)
{
    struct rig *rig = argument;
    thread_set_name(rig->runner_name);
    if (!relay_run(&rig->relay, &rig->result, &rig->failure)) {
        pthread_t next;
        (void)atomic_fetch_add(&rig->rests, 1);
        MUST(thread_start(&next, RELAY_STACK_SIZE, rig_run, rig, NULL) && pthread_join(next, NULL) == 0);
        return NULL;
    }
    rig->ran = true;
    rig->ended = clock_now();
    return NULL;
}

void rig_start(struct rig *rig)
{
    rig->began = clock_now();
    rig->started = thread_start(&rig->runner, RELAY_STACK_SIZE, rig_run, rig, NULL);
    MUST(rig->started);
}

void rig_close_side(struct rig *rig, enum relay_side side, bool reset)
{
    if (reset)
        socket_reset(rig->relay.sockets[side].fd);
    else
        MUST(close(rig->relay.sockets[side].fd) == 0);
}

void rig_join(struct rig *rig)
{
    MUST(pthread_join(rig->runner, NULL) == 0);
    rig_close_side(rig, RELAY_CLIENT, rig->ran && rig->result.reset[RELAY_CLIENT]);
    rig_close_side(rig, RELAY_TARGET, rig->ran && rig->result.reset[RELAY_TARGET]);
}

void rig_prepare(void)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    MUST(sigaction(SIGPIPE, &ignore, NULL) == 0);
    (void)alarm(120);
    lateness_begin();
}

void rig_prepare_one_thread(void)
{
    rig_prepare();
    rig_go_without_threads();
}

void rig_close_far(int *fd)
{
    if (*fd >= 0)
        MUST(close(*fd) == 0);
    *fd = -1;
}

void rig_release(struct rig *rig)
{
    rig_close_far(&rig->client);
    rig_close_far(&rig->target);
}

void rig_end(struct rig *rig, enum close_reason reason)
{
    enum close_reason none = CLOSE_NONE;
    if (!atomic_compare_exchange_strong(&rig->reason, &none, reason))
        return;
    (void)shutdown(rig->relay.sockets[RELAY_CLIENT].fd, SHUT_RDWR);
    (void)shutdown(rig->relay.sockets[RELAY_TARGET].fd, SHUT_RDWR);
}

void rig_reset_far(int *fd)
{
    socket_reset(*fd);
    *fd = -1;
}

// Eight bytes of the stream `stream`, from number 8 * `index`: tells lost, doubled and reordered bytes.
static uint64_t rig_word(unsigned stream, uint64_t index)
{
    uint64_t x = (index + (uint64_t)stream * UINT64_C(0x9E3779B97F4A7C15)) * UINT64_C(0xBF58476D1CE4E5B9);
    return x ^ (x >> 29);
}

void rig_fill(unsigned char *out, size_t size, unsigned stream, uint64_t at)
{
    for (size_t done = 0; done < size;) {
        uint64_t word = rig_word(stream, (at + done) / 8);
        size_t skip = (size_t)((at + done) % 8);
        size_t part = size - done < 8 - skip ? size - done : 8 - skip;
        memcpy(out + done, (const unsigned char *)&word + skip, part);
        done += part;
    }
}

uint64_t rig_send(int fd, unsigned stream, uint64_t from, uint64_t size)
{
    unsigned char buffer[65536];
    uint64_t sent = 0;
    while (sent < size) {
        size_t part = size - sent < sizeof buffer ? (size_t)(size - sent) : sizeof buffer;
        rig_fill(buffer, part, stream, from + sent);
        size_t done = 0;
        while (done < part) {
            ssize_t n = send(fd, buffer + done, part - done, MSG_NOSIGNAL);
            if (n < 0)
                return sent + done;
            done += (size_t)n;
        }
        sent += part;
    }
    return sent;
}

uint64_t rig_receive(int fd, unsigned stream, uint64_t from, uint64_t size, enum rig_end *end)
{
    unsigned char buffer[65536], expected[65536];
    uint64_t received = 0;
    *end = RIG_MORE;
    while (received < size) {
        size_t part = size - received < sizeof buffer ? (size_t)(size - received) : sizeof buffer;
        struct pollfd poller = {.fd = fd, .events = POLLIN};
        MUST(poll(&poller, 1, (int)(PATIENCE / NS_PER_MS)) == 1);
        ssize_t n = recv(fd, buffer, part, 0);
        if (n == 0) {
            *end = RIG_EOF;
            break;
        }
        if (n < 0) {
            MUST(errno == ECONNRESET);
            *end = RIG_RESET;
            break;
        }
        rig_fill(expected, (size_t)n, stream, from + received);
        MUST(memcmp(buffer, expected, (size_t)n) == 0); // not an assertion: this may not be the test's thread
        received += (uint64_t)n;
    }
    return received;
}

bool rig_try_pass(int from, int to, const char *text)
{
    char buffer[256];
    size_t size = strlen(text);
    if (send(from, text, size, MSG_NOSIGNAL) != (ssize_t)size || recv(to, buffer, size, MSG_WAITALL) != (ssize_t)size)
        return false;
    assert_true(memcmp(buffer, text, size) == 0);
    return true;
}

void rig_pass(int from, int to, const char *text)
{
    MUST(rig_try_pass(from, to, text));
}

enum rig_end rig_next(int fd)
{
    enum rig_end end;
    uint64_t got = rig_receive(fd, 0, 0, 1, &end);
    assert_int_equal(got, 0);
    return end;
}

uint64_t rig_bytes(struct rig *rig, enum relay_side side)
{
    return atomic_load(&rig->relay.sockets[side].bytes);
}

void rig_assert_ended(const struct rig *rig, enum close_reason reason, enum ended_by by)
{
    assert_true(rig->ran);
    assert_string_equal(close_reason_name(rig->failure.reason), close_reason_name(reason));
    assert_string_equal(ended_by_name(rig->result.ended_by), ended_by_name(by));
    assert_int_equal(atomic_load(&rig->reason), reason);
}

void rig_assert_resets(const struct rig *rig, bool client, bool target)
{
    assert_int_equal(rig->result.reset[RELAY_CLIENT], client);
    assert_int_equal(rig->result.reset[RELAY_TARGET], target);
}

bool rig_wait_bytes(struct rig *rig, enum relay_side side, uint64_t at_least)
{
    int64_t deadline = clock_now() + PATIENCE;
    while (rig_bytes(rig, side) < at_least && clock_now() < deadline)
        MUST(usleep(200) == 0);
    return rig_bytes(rig, side) >= at_least;
}

uint64_t rig_stuff(struct rig *rig, enum relay_side side)
{
    int fd = side == RELAY_CLIENT ? rig->client : rig->target;
    unsigned char buffer[16384];
    uint64_t sent = 0;
    struct pollfd poller = {.fd = fd, .events = POLLOUT};
    while (lateness_poll(&poller, 100 * NS_PER_MS)) {
        rig_fill(buffer, sizeof buffer, 5, sent);
        ssize_t n = send(fd, buffer, sizeof buffer, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
            break; // the relay has ended
        MUST(n > 0 || errno == EAGAIN);
        if (n > 0)
            sent += (uint64_t)n;
    }
    return sent;
}

void rig_stuff_until_ended(struct rig *rig, enum relay_side side)
{
    int64_t deadline = clock_now() + PATIENCE;
    do { // on a busy machine the relay may only seem to be stuck
        (void)rig_stuff(rig, side);
        MUST(clock_now() < deadline);
    } while (atomic_load(&rig->reason) == CLOSE_NONE);
}

bool rig_is_excused(int64_t since, int64_t step)
{
    return lateness_between(since, clock_now()) > step / 8;
}

void rig_abandon(struct rig *rig)
{
    rig_end(rig, CLOSE_DRAIN);
    rig_join(rig);
    rig_release(rig);
}

// The first line of /proc/self/task/TASK/FILE. False: that thread is no more.
static bool rig_read_task(const char *task, const char *file, char *out, int size)
{
    char path[300];
    (void)snprintf(path, sizeof path, "/proc/self/task/%s/%s", task, file);
    FILE *stream = fopen(path, "re");
    if (stream == NULL)
        return false;
    bool read = fgets(out, size, stream) != NULL;
    MUST(fclose(stream) == 0);
    if (read)
        out[strcspn(out, "\n")] = '\0';
    return read;
}

bool rig_read_thread(const char *thread, const char *file, char *out, int size)
{
    DIR *tasks = opendir("/proc/self/task");
    MUST(tasks != NULL);
    bool found = false;
    struct dirent *task;
    while (!found && (task = readdir(tasks)) != NULL)
        found = rig_read_task(task->d_name, "comm", out, size) && strcmp(out, thread) == 0 &&
                rig_read_task(task->d_name, file, out, size);
    MUST(closedir(tasks) == 0);
    return found;
}

bool rig_blocks(const struct rig *rig, enum relay_side thread, long call, int argument, int fd, int64_t watch)
{
    const char *name = thread == RELAY_CLIENT ? rig->runner_name : rig->relay.second_thread_name;
    int64_t deadline = clock_now() + watch;
    for (unsigned in_a_row = 0; in_a_row < 3;) {
        if (clock_now() > deadline)
            return false;
        char line[256];
        long number = -1;
        unsigned long arguments[3] = {0};
        bool there = rig_read_thread(name, "syscall", line, (int)sizeof line) &&
                     sscanf(line, "%ld %lx %lx %lx", &number, &arguments[0], &arguments[1], &arguments[2]) == 4 &&
                     number == call && arguments[argument] == (unsigned long)fd;
        in_a_row = there ? in_a_row + 1 : 0;
        MUST(usleep(2000) == 0);
    }
    return true;
}

void rig_wait_blocked(const struct rig *rig, enum relay_side thread, long call, int argument, int fd)
{
    MUST(rig_blocks(rig, thread, call, argument, fd, PATIENCE));
}

void rig_wait_polling(const struct rig *rig, enum relay_side thread)
{
    int64_t deadline = clock_now() + PATIENCE;
    for (int sockets = 1; !rig_blocks(rig, thread, SYS_poll, 1, sockets, 100 * NS_PER_MS); sockets = 3 - sockets)
        MUST(clock_now() < deadline);
}
