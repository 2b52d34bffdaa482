// A stream that goes one way, on two threads: the silent direction's thread sleeps, and wakes up for what matters.

#include "bitflow/base/compiler.h"
#include "relay_rig.h"

#define MS(n) ((n) * NS_PER_MS)
// The silent direction looks at the busy one 1, 2, 4, 8 and 16 s after its own last data, or half a second, or one,
// later. What happens to the relay is done well within the last of these times.
#define COUNT_FROM MS(4500)
#define COUNT_UNTIL MS(11000)
#define CALLS_MAX 4 // looking once a second takes 6 at least
#define AT_ONCE MS(1000)
#define QUIET_AFTER MS(1000)
#define HUNG_UP_WITHIN MS(2500) // a second until the other thread is found gone
#define GIVEN_BACK_WITHIN MS(4500)
#define FDS 256
#define CHUNK 60000

static _Atomic unsigned calls[FDS]; // that have waited for a socket, by its number

// Both in place of the C library's.
int poll(struct pollfd *pollers, nfds_t count, int timeout)
{
    struct timespec left = clock_timespec(timeout * NS_PER_MS);
    int ready = ppoll(pollers, count, timeout < 0 ? NULL : &left, NULL);
    int os_errno = errno;
    if (pollers[0].fd >= 0 && pollers[0].fd < FDS)
        atomic_fetch_add(&calls[pollers[0].fd], 1);
    errno = os_errno;
    return ready;
}

ssize_t recv(int fd, void *buffer, size_t size, int flags)
{
    ssize_t received = recvfrom(fd, buffer, size, flags, NULL, NULL);
    int os_errno = errno;
    if (fd >= 0 && fd < FDS)
        atomic_fetch_add(&calls[fd], 1);
    errno = os_errno;
    return received;
}

struct stream {
    struct rig rig;
    enum relay_side busy, silent;
    int *source, *sink; // the test's ends
    unsigned calls;     // for the silent side when counting began
};

static bool has_second_thread(const struct rig *rig)
{
    char name[THREAD_NAME_SIZE + 1];
    return rig_read_thread(rig->relay.second_thread_name, "comm", name, (int)sizeof name);
}

static void begin(struct stream *s, enum relay_side busy)
{
    rig_init(&s->rig, RIG_TCP, RIG_TCP, 0);
    rig_start(&s->rig);
    s->busy = busy;
    s->silent = busy == RELAY_CLIENT ? RELAY_TARGET : RELAY_CLIENT;
    s->source = busy == RELAY_CLIENT ? &s->rig.client : &s->rig.target;
    s->sink = busy == RELAY_CLIENT ? &s->rig.target : &s->rig.client;
    enum rig_end end;
    for (uint64_t sent = 0; !has_second_thread(&s->rig); sent += CHUNK) { // full reads in a row
        MUST(clock_now() - s->rig.began < PATIENCE);
        assert_int_equal(rig_send(*s->source, 1, sent, CHUNK), CHUNK);
        assert_int_equal(rig_receive(*s->sink, 1, sent, CHUNK, &end), CHUNK);
    }
}

static unsigned silent_calls(const struct stream *s)
{
    return atomic_load(&calls[s->rig.relay.sockets[s->silent].fd]);
}

static void assert_ended(struct stream *s, enum close_reason reason, enum ended_by by, int64_t since, int64_t within)
{
    rig_join(&s->rig);
    rig_assert_ended(&s->rig, reason, by);
    assert_within(since, s->rig.ended, within);
    rig_release(&s->rig);
}

static enum ended_by ended_by(enum relay_side side)
{
    return side == RELAY_CLIENT ? ENDED_BY_CLIENT : ENDED_BY_TARGET;
}

// --- what happens to the relay while its silent direction sleeps -----------------------------------------------------

static enum close_reason reset_by(enum relay_side side)
{
    return side == RELAY_CLIENT ? CLOSE_CLIENT_RESET : CLOSE_TARGET_RESET;
}

// The silent direction's thread is the only one left, and nothing else looks at the source.
static void end_and_reset_source(struct stream *s)
{
    MUST(shutdown(*s->source, SHUT_WR) == 0);
    assert_int_equal(rig_next(*s->sink), RIG_EOF);
    int64_t since = clock_now();
    rig_reset_far(s->source);
    assert_ended(s, reset_by(s->busy), ended_by(s->busy), since, HUNG_UP_WITHIN);
}

static void reset_source(struct stream *s)
{
    int64_t since = clock_now();
    rig_reset_far(s->source);
    assert_ended(s, reset_by(s->busy), ended_by(s->busy), since, AT_ONCE);
}

static void reset_sink(struct stream *s)
{
    int64_t since = clock_now();
    rig_reset_far(s->sink);
    assert_ended(s, reset_by(s->silent), ended_by(s->silent), since, AT_ONCE);
}

static void end_both(struct stream *s)
{
    int64_t since = clock_now();
    MUST(shutdown(*s->sink, SHUT_WR) == 0);
    assert_int_equal(rig_next(*s->source), RIG_EOF);
    rig_close_far(s->source);
    assert_int_equal(rig_next(*s->sink), RIG_EOF);
    assert_ended(s, CLOSE_COMPLETED, ended_by(s->silent), since, AT_ONCE);
}

static void drain(struct stream *s)
{
    int64_t since = clock_now();
    rig_end(&s->rig, CLOSE_LIFETIME);
    assert_ended(s, CLOSE_LIFETIME, ENDED_BY_PROXY, since, AT_ONCE);
}

static void assert_given_back(struct stream *s, int64_t within)
{
    int64_t since = clock_now();
    while (has_second_thread(&s->rig))
        MUST(clock_now() - since < PATIENCE && usleep(1000) == 0);
    assert_within(since, clock_now(), within);
    rig_pass(*s->sink, *s->source, "still there");
    rig_pass(*s->source, *s->sink, "still there");
    end_both(s);
}

// It has moved data itself, so it looks as soon as at first.
static void answer_and_fall_quiet(struct stream *s)
{
    int64_t since = clock_now();
    rig_pass(*s->sink, *s->source, "an answer");
    assert_within(since, clock_now(), AT_ONCE);
    assert_given_back(s, GIVEN_BACK_WITHIN);
}

// Some 5 s are left of the 8 that the silent direction waits.
static void fall_quiet(struct stream *s)
{
    assert_given_back(s, MS(8000) + GIVEN_BACK_WITHIN);
}

static void (*const events[])(struct stream *) = {
    end_and_reset_source, reset_source, reset_sink, end_both, drain, answer_and_fall_quiet, fall_quiet,
};

#define STREAMS (2 * ARRAY_LENGTH(events))

// False: it says nothing, for a busy direction may have been quiet for once.
static bool watch_busy_streams(struct stream streams[])
{
    int64_t began = clock_now();
    bool is_counting = false;
    while (clock_now() - began < COUNT_UNTIL) {
        bool begins = !is_counting && clock_now() - began >= COUNT_FROM;
        for (size_t i = 0; i < STREAMS; i++) {
            struct stream *s = &streams[i];
            rig_pass(*s->source, *s->sink, "a message");
            if (begins)
                s->calls = silent_calls(s);
        }
        is_counting = is_counting || begins;
        MUST(usleep(20000) == 0);
    }
    bool are_kept = true, have_slept = true;
    for (size_t i = 0; i < STREAMS; i++) {
        unsigned found = silent_calls(&streams[i]) - streams[i].calls;
        are_kept = are_kept && has_second_thread(&streams[i].rig);
        have_slept = have_slept && found >= 1 && found <= CALLS_MAX;
    }
    if (!(are_kept && have_slept) && rig_is_excused(began, QUIET_AFTER))
        return false;
    assert_true(are_kept && have_slept);
    return true;
}

static bool begin_busy_streams(struct stream streams[])
{
    for (size_t i = 0; i < STREAMS; i++)
        begin(&streams[i], i % 2 == 0 ? RELAY_CLIENT : RELAY_TARGET);
    if (watch_busy_streams(streams))
        return true;
    for (size_t i = 0; i < STREAMS; i++)
        rig_abandon(&streams[i].rig);
    return false;
}

static void test_the_silent_direction_sleeps_longer_and_longer(void **state)
{
    (void)state;
    static struct stream streams[STREAMS];
    RIG_TRY(begin_busy_streams(streams));
    for (size_t i = 0; i < STREAMS; i++)
        events[i / 2](&streams[i]);
}

int main(void)
{
    rig_prepare();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_silent_direction_sleeps_longer_and_longer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
