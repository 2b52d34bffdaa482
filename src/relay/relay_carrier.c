#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/base/mutex.h"
#include "relay_internal.h"

#define CARRIERS_MAX 64
#define EVENTS_MAX 64 // taken from epoll by one call

// A relay's place with its carrier. Who holds `lock` has the relay.
//
// epoll's events point to a seat, and some that were taken already may be older than the relay that sits there now.
// They are false alarms then: it is read from without waiting, or sent back to its thread. So a seat stays as long as
// its carrier runs, and is used again.
struct seat {
    struct carrier *carrier;
    struct mutex lock;
    struct condition changed;
    struct poll_engine *engine GUARDED; // by `lock`; NULL: the relay is its own thread's again
    struct seat *next_free GUARDED;     // these two by carriers_lock
    struct seat *next GUARDED;          // of all that the carrier has
};

// Guarded by carriers_lock, but for the descriptors: they change only while nobody is carried.
struct carrier {
    bool runs; // on a thread
    int epoll;
    int bell; // eventfd: rung when the last one has left
    unsigned carried;
    struct seat *seats;
    struct seat *free_seats;
};

static struct mutex carriers_lock = MUTEX_INIT;
static struct carrier carriers[CARRIERS_MAX] GUARDED_BY(carriers_lock);

static _Atomic unsigned busy_relays;
static _Atomic unsigned processors_known; // 0: nobody has asked yet
static _Atomic bool carriers_are_allowed = true;

// That this process may use; it is not followed when that changes.
static unsigned processors(void)
{
    unsigned count = atomic_load_explicit(&processors_known, memory_order_relaxed);
    cpu_set_t allowed;
    if (count > 0)
        return count;
    count = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? (unsigned)CPU_COUNT(&allowed) : CARRIERS_MAX;
    atomic_store_explicit(&processors_known, count, memory_order_relaxed);
    return count;
}

void relay_carrier_note_busy(bool is_busy)
{
    if (is_busy)
        (void)atomic_fetch_add_explicit(&busy_relays, 1, memory_order_relaxed);
    else
        (void)atomic_fetch_sub_explicit(&busy_relays, 1, memory_order_relaxed);
}

void relay_allow_carriers(bool are_allowed)
{
    atomic_store_explicit(&carriers_are_allowed, are_allowed, memory_order_relaxed);
}

bool relay_carrier_is_worthwhile(void)
{
    return atomic_load_explicit(&carriers_are_allowed, memory_order_relaxed) &&
           atomic_load_explicit(&busy_relays, memory_order_relaxed) > processors();
}

// --- the carrier's thread --------------------------------------------------------------------------------------------

static void unwatch(const struct carrier *carrier, const struct poll_engine *engine)
{
    const struct relay_socket *sockets = engine->shared->relay->sockets;
    (void)epoll_ctl(carrier->epoll, EPOLL_CTL_DEL, sockets[RELAY_CLIENT].fd, NULL);
    (void)epoll_ctl(carrier->epoll, EPOLL_CTL_DEL, sockets[RELAY_TARGET].fd, NULL);
}

// The lowest bit of an event's data tells the side.
static void serve(uint64_t data, uint32_t events)
{
    struct seat *seat = (struct seat *)(uintptr_t)(data & ~UINT64_C(1)); // NOLINT(performance-no-int-to-ptr)
    mutex_lock(&seat->lock);
    struct poll_engine *engine = seat->engine;
    // Anything but data its own thread looks at, which knows all that poll() can say.
    if (engine != NULL && !(events == EPOLLIN && relay_poll_carry(engine, (enum relay_side)(data & 1)))) {
        unwatch(seat->carrier, engine);
        seat->engine = NULL;
        condition_signal(&seat->changed);
    }
    mutex_unlock(&seat->lock);
}

static void free_seats(struct carrier *carrier) REQUIRES(carriers_lock)
{
    struct seat *seat = carrier->seats;
    while (seat != NULL) {
        struct seat *next = seat->next;
        condition_release(&seat->changed);
        mutex_release(&seat->lock);
        free(seat);
        seat = next;
    }
    carrier->seats = carrier->free_seats = NULL;
}

// The bell has rung. Whether the carrier has ended: others may have come since.
static bool ends(struct carrier *carrier)
{
    eventfd_t rings;
    mutex_lock(&carriers_lock);
    (void)eventfd_read(carrier->bell, &rings);
    carrier->runs = carrier->carried > 0;
    bool has_ended = !carrier->runs;
    if (has_ended) {
        free_seats(carrier);
        (void)close(carrier->bell);
        (void)close(carrier->epoll);
    }
    mutex_unlock(&carriers_lock);
    return has_ended;
}

static void run_carrier(void *argument)
{
    struct carrier *carrier = argument;
    thread_set_name("carrier");
    for (;;) {
        struct epoll_event events[EVENTS_MAX];
        bool has_rung = false;
        int count = epoll_wait(carrier->epoll, events, EVENTS_MAX, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.u64 == 0)
                has_rung = true;
            else
                serve(events[i].data.u64, events[i].events);
        }
        if (has_rung && ends(carrier))
            return;
    }
}

// --- the relay's own thread ------------------------------------------------------------------------------------------

static bool open_carrier(struct carrier *carrier) REQUIRES(carriers_lock)
{
    struct epoll_event of_bell = {.events = EPOLLIN, .data.u64 = 0};
    carrier->epoll = epoll_create1(EPOLL_CLOEXEC);
    carrier->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (carrier->epoll >= 0 && carrier->bell >= 0 &&
        epoll_ctl(carrier->epoll, EPOLL_CTL_ADD, carrier->bell, &of_bell) == 0)
        return true;
    if (carrier->bell >= 0)
        (void)close(carrier->bell);
    if (carrier->epoll >= 0)
        (void)close(carrier->epoll);
    return false;
}

static bool start(struct carrier *carrier, struct thread_pool *threads) REQUIRES(carriers_lock)
{
    if (carrier->runs)
        return true;
    if (!open_carrier(carrier))
        return false;
    if (thread_pool_run(threads, run_carrier, carrier, NULL)) {
        carrier->runs = true;
        return true;
    }
    (void)close(carrier->bell);
    (void)close(carrier->epoll);
    return false;
}

static struct seat *take_seat(struct carrier *carrier) REQUIRES(carriers_lock)
{
    struct seat *seat = carrier->free_seats;
    if (seat != NULL) {
        carrier->free_seats = seat->next_free;
        return seat;
    }
    seat = calloc(1, sizeof *seat);
    if (seat == NULL)
        return NULL;
    mutex_init(&seat->lock);
    condition_init(&seat->changed);
    seat->carrier = carrier;
    seat->next = carrier->seats;
    carrier->seats = seat;
    return seat;
}

// With the carrier that has the fewest. NULL: there is none to be had.
static struct seat *find_seat(struct thread_pool *threads) EXCLUDES(carriers_lock)
{
    unsigned count = processors() < CARRIERS_MAX ? processors() : CARRIERS_MAX;
    struct seat *seat = NULL;
    mutex_lock(&carriers_lock);
    struct carrier *best = &carriers[0];
    for (unsigned i = 1; i < count; i++)
        if (carriers[i].carried < best->carried)
            best = &carriers[i];
    if (start(best, threads))
        seat = take_seat(best);
    if (seat != NULL)
        best->carried++;
    else if (best->runs && best->carried == 0)
        (void)eventfd_write(best->bell, 1);
    mutex_unlock(&carriers_lock);
    return seat;
}

static void leave_seat(struct seat *seat) EXCLUDES(carriers_lock)
{
    struct carrier *carrier = seat->carrier;
    mutex_lock(&carriers_lock);
    seat->next_free = carrier->free_seats;
    carrier->free_seats = seat;
    if (--carrier->carried == 0)
        (void)eventfd_write(carrier->bell, 1);
    mutex_unlock(&carriers_lock);
}

static bool watch(const struct seat *seat, const struct poll_engine *engine)
{
    const struct relay_socket *sockets = engine->shared->relay->sockets;
    for (unsigned side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.u64 = (uintptr_t)seat | side};
        if (epoll_ctl(seat->carrier->epoll, EPOLL_CTL_ADD, sockets[side].fd, &event) != 0)
            return false;
    }
    return true;
}

// Waits while the relay is carried.
static void await_carrier(struct seat *seat) REQUIRES(seat->lock)
{
    while (seat->engine != NULL) {
        int64_t until = relay_poll_next_look(seat->engine);
        while (seat->engine != NULL && deadline_left(until) > 0)
            condition_wait(&seat->changed, &seat->lock, until);
        if (seat->engine != NULL && !relay_poll_look(seat->engine)) {
            unwatch(seat->carrier, seat->engine);
            seat->engine = NULL;
        }
    }
}

bool relay_carrier_carry(struct poll_engine *engine)
{
    struct seat *seat = find_seat(engine->shared->relay->threads);
    if (seat == NULL)
        return false;
    mutex_lock(&seat->lock);
    bool is_carried = watch(seat, engine);
    if (is_carried) {
        seat->engine = engine;
        await_carrier(seat);
    } else {
        unwatch(seat->carrier, engine);
    }
    mutex_unlock(&seat->lock);
    leave_seat(seat);
    return is_carried;
}
