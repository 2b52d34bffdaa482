#include "bitflow/net/resolve.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/mutex.h"
#include "bitflow/base/thread.h"

// One look-up of one name, shared by everyone who asks for it meanwhile. It is in `lookups` from the first asker's
// coming until it is answered, in the order of asking: with a thread at it, or queued until one is free. Whoever
// has the last reference frees it: each asker has one, and the queue or the thread has one.
struct lookup {
    TAILQ_ENTRY(lookup) link GUARDED;
    unsigned references GUARDED; // by `lock`, as all that is GUARDED
    bool is_queued GUARDED;
    bool is_done GUARDED;     // from then on the answer is only read
    int done_event;           // an eventfd that nobody reads: once written, it wakes every asker's poll()
    struct address wanted;    // its port means nothing
    struct resolution answer; // without ports
    struct error error;       // ERROR_NONE: it worked
};

static struct mutex lock = MUTEX_INIT;
static struct thread_pool *pool GUARDED_BY(lock); // made at the first look-up; lives as long as the process
static TAILQ_HEAD(lookup_list, lookup) lookups GUARDED_BY(lock) = TAILQ_HEAD_INITIALIZER(lookups);
static unsigned busy_threads GUARDED_BY(lock);

static struct thread_pool *get_pool(struct error *error) EXCLUDES(lock)
{
    static const struct thread_pool_options options = {
        .parked_name = "resolver",
        .stack_size = (size_t)256 * 1024, // name service modules are other people's code
        .max_threads = 0,                 // `busy_threads` bounds them
        .max_parked = 8,
        .idle_time = 30 * NS_PER_S,
    };
    mutex_lock(&lock);
    if (pool == NULL)
        pool = thread_pool_create(&options, error);
    struct thread_pool *got = pool;
    mutex_unlock(&lock);
    return got;
}

static bool endpoint_of_addrinfo(const struct addrinfo *found, struct endpoint *endpoint)
{
    *endpoint = (struct endpoint){.length = found->ai_addrlen};
    if (found->ai_family == AF_INET && found->ai_addrlen == sizeof(struct sockaddr_in)) {
        struct sockaddr_in inet;
        memcpy(&inet, found->ai_addr, sizeof inet);
        inet.sin_port = 0;
        memcpy(&endpoint->address, &inet, sizeof inet);
        return true;
    }
    if (found->ai_family == AF_INET6 && found->ai_addrlen == sizeof(struct sockaddr_in6)) {
        struct sockaddr_in6 inet;
        memcpy(&inet, found->ai_addr, sizeof inet);
        inet.sin6_port = 0;
        memcpy(&endpoint->address, &inet, sizeof inet);
        return true;
    }
    return false;
}

static void add_endpoint(struct resolution *answer, const struct addrinfo *found)
{
    struct endpoint endpoint;
    if (answer->count == RESOLVE_ADDRESSES_MAX || !endpoint_of_addrinfo(found, &endpoint))
        return;
    for (size_t i = 0; i < answer->count; i++)
        if (endpoint_equal(&answer->endpoints[i], &endpoint))
            return; // /etc/hosts may name an address twice
    answer->endpoints[answer->count++] = endpoint;
}

static void set_resolver_error(const struct address *address, int result, int os_errno, struct error *error)
{
    if (result == EAI_SYSTEM)
        error_set_errno(error, os_errno, "cannot resolve %s", address->host);
    else
        error_set(error, result == EAI_MEMORY ? ERROR_NO_MEMORY : ERROR_RESOLVE, "cannot resolve %s: %s", address->host,
                  gai_strerror(result));
}

// No AI_ADDRCONFIG: it hides ::1 and 127.0.0.1 from machines that have no other address of that family.
static void look_up(const struct address *address, struct resolution *answer, struct error *error)
{
    static const int families[] = {[ADDRESS_ANY] = AF_UNSPEC, [ADDRESS_IPV4] = AF_INET, [ADDRESS_IPV6] = AF_INET6};
    struct addrinfo hints = {.ai_family = families[address->family], .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    int result = getaddrinfo(address->host, NULL, &hints, &found);
    if (result != 0) {
        set_resolver_error(address, result, errno, error);
        return;
    }
    for (const struct addrinfo *at = found; at != NULL; at = at->ai_next)
        add_endpoint(answer, at);
    freeaddrinfo(found);
    if (answer->count == 0)
        error_set(error, ERROR_RESOLVE, "cannot resolve %s: it has no IP address", address->host);
}

// Gives a reference back. A queued look-up that nobody waits for any more is not done at all.
static void drop(struct lookup *lookup) EXCLUDES(lock)
{
    mutex_lock(&lock);
    lookup->references--;
    if (lookup->is_queued && lookup->references == 1) {
        TAILQ_REMOVE(&lookups, lookup, link);
        lookup->references = 0;
    }
    bool is_last = lookup->references == 0;
    mutex_unlock(&lock);
    if (!is_last)
        return;
    (void)close(lookup->done_event);
    free(lookup);
}

// Hands the answer to everyone who waits for it; who asks from now on asks anew.
static void finish(struct lookup *lookup) EXCLUDES(lock)
{
    mutex_lock(&lock);
    TAILQ_REMOVE(&lookups, lookup, link);
    lookup->is_done = true;
    mutex_unlock(&lock);
    uint64_t one = 1;
    ssize_t written = write(lookup->done_event, &one, sizeof one);
    (void)written; // cannot fail: the counter is far from full
    drop(lookup);
}

// What a thread that has finished a look-up does next: the one queued longest. NULL: none, the thread is free.
static struct lookup *next_queued(void) EXCLUDES(lock)
{
    mutex_lock(&lock);
    struct lookup *next;
    TAILQ_FOREACH(next, &lookups, link)
    if (next->is_queued)
        break;
    if (next != NULL)
        next->is_queued = false;
    else
        busy_threads--;
    mutex_unlock(&lock);
    return next;
}

static void run_lookups(void *argument)
{
    thread_set_name("resolve");
    for (struct lookup *lookup = argument; lookup != NULL; lookup = next_queued()) {
        look_up(&lookup->wanted, &lookup->answer, &lookup->error);
        finish(lookup);
    }
}

// Starts a thread, which is counted as busy already. Where there is none to be had, that is the answer; those queued
// are tried too, as it may be that no other thread is left to take them.
static void start_thread(struct lookup *lookup) EXCLUDES(lock)
{
    for (; lookup != NULL; lookup = next_queued()) {
        struct error error = ERROR_INIT;
        struct thread_pool *threads = get_pool(&error);
        if (threads != NULL && thread_pool_run(threads, run_lookups, lookup, &error))
            return;
        error_set(&lookup->error, error.code, "cannot resolve %s: %s", lookup->wanted.host, error.text);
        lookup->error.os_errno = error.os_errno;
        finish(lookup);
    }
}

static struct lookup *find(const struct address *wanted) REQUIRES(lock)
{
    struct lookup *lookup;
    TAILQ_FOREACH(lookup, &lookups, link)
    if (lookup->wanted.family == wanted->family && strcmp(lookup->wanted.host, wanted->host) == 0)
        break;
    return lookup;
}

// A new look-up, in the list, with the reference of the queue or the thread. It is queued if every thread is busy;
// otherwise the caller shall start one. Made under the lock, so that two askers never make the same.
static struct lookup *add(const struct address *wanted, struct error *error) REQUIRES(lock)
{
    struct lookup *lookup = calloc(1, sizeof *lookup);
    if (lookup == NULL) {
        error_set_errno(error, ENOMEM, "cannot resolve %s", wanted->host);
        return NULL;
    }
    lookup->done_event = eventfd(0, EFD_CLOEXEC);
    if (lookup->done_event < 0) {
        error_set_errno(error, errno, "cannot resolve %s", wanted->host);
        free(lookup);
        return NULL;
    }
    lookup->wanted = *wanted;
    lookup->references = 1;
    lookup->is_queued = busy_threads == RESOLVE_THREADS_MAX;
    if (!lookup->is_queued)
        busy_threads++;
    TAILQ_INSERT_TAIL(&lookups, lookup, link);
    return lookup;
}

// The look-up of this name that is under way, else a new one; with a reference for the caller.
static struct lookup *join(const struct address *wanted, struct error *error) EXCLUDES(lock)
{
    mutex_lock(&lock);
    struct lookup *lookup = find(wanted);
    bool is_new = lookup == NULL;
    if (is_new)
        lookup = add(wanted, error);
    if (lookup != NULL)
        lookup->references++;
    bool needs_thread = lookup != NULL && is_new && !lookup->is_queued;
    mutex_unlock(&lock);
    if (needs_thread)
        start_thread(lookup);
    return lookup;
}

static bool is_queued(struct lookup *lookup) EXCLUDES(lock)
{
    mutex_lock(&lock);
    bool queued = lookup->is_queued;
    mutex_unlock(&lock);
    return queued;
}

static bool is_done(struct lookup *lookup) EXCLUDES(lock)
{
    mutex_lock(&lock);
    bool done = lookup->is_done;
    mutex_unlock(&lock);
    return done;
}

static void set_late_error(struct lookup *lookup, struct error *error)
{
    const char *host = lookup->wanted.host;
    if (is_queued(lookup))
        error_set(error, ERROR_TIMEOUT,
                  "cannot resolve %s: waited for the resolver, all %d of its threads are busy with other names", host,
                  RESOLVE_THREADS_MAX);
    else
        error_set(error, ERROR_TIMEOUT, "cannot resolve %s: no answer in time", host);
}

static void set_wait_error(struct lookup *lookup, enum patience_result result, int os_errno, struct error *error)
{
    const char *host = lookup->wanted.host;
    if (result == PATIENCE_DEADLINE)
        set_late_error(lookup, error);
    else if (result == PATIENCE_GONE)
        error_set(error, ERROR_CANCELLED, "cannot resolve %s: the client has gone", host);
    else
        error_set_errno(error, os_errno, "cannot resolve %s: poll", host);
}

_Static_assert(offsetof(struct sockaddr_in, sin_port) == offsetof(struct sockaddr_in6, sin6_port), "one set_port()");

static void set_port(struct endpoint *endpoint, uint16_t port)
{
    const in_port_t in_network_order = htons(port);
    memcpy((char *)&endpoint->address + offsetof(struct sockaddr_in, sin_port), &in_network_order,
           sizeof in_network_order);
}

static void append(struct resolution *resolution, const struct resolution *answer, uint16_t port)
{
    for (size_t i = 0; i < answer->count && resolution->count < RESOLVE_ADDRESSES_MAX; i++) {
        resolution->endpoints[resolution->count] = answer->endpoints[i];
        set_port(&resolution->endpoints[resolution->count++], port);
    }
}

static bool has_time(const struct address *address, int64_t deadline, struct error *error)
{
    if (deadline_left(deadline) > 0)
        return true;
    error_set(error, ERROR_TIMEOUT, "cannot resolve %s: no time is left", address->host);
    return false;
}

static bool resolve_name(const struct address *address, struct patience *patience, int64_t deadline,
                         struct resolution *resolution, struct error *error)
{
    struct lookup *lookup = has_time(address, deadline, error) ? join(address, error) : NULL;
    if (lookup == NULL)
        return false;
    struct pollfd done = {.fd = lookup->done_event, .events = POLLIN};
    enum patience_result result = patience_poll(patience, &done, 1, deadline);
    bool answered = result == PATIENCE_READY && is_done(lookup);
    bool good = answered && lookup->error.code == ERROR_NONE;
    if (good) {
        resolution->count = 0;
        append(resolution, &lookup->answer, address->port);
    } else if (answered) {
        error_pass(error, &lookup->error);
    } else {
        set_wait_error(lookup, result, errno, error);
    }
    drop(lookup);
    return good;
}

// Both families of a name; the preferred one is the first.
struct families {
    struct lookup *lookups[2];
    bool are_done[2];
};

static bool has_addresses(const struct families *families, size_t which)
{
    return families->are_done[which] && families->lookups[which]->error.code == ERROR_NONE;
}

static void note_done(struct families *families)
{
    for (size_t i = 0; i < 2; i++)
        families->are_done[i] = families->are_done[i] || is_done(families->lookups[i]);
}

// Waits until both are answered, or as long as the one that is not may take.
static enum patience_result await_families(struct families *families, struct patience *patience, int64_t deadline)
{
    int64_t until = deadline;
    bool is_delay = false;
    while (!families->are_done[0] || !families->are_done[1]) {
        struct pollfd done[2];
        for (size_t i = 0; i < 2; i++)
            done[i] =
                (struct pollfd){.fd = families->are_done[i] ? -1 : families->lookups[i]->done_event, .events = POLLIN};
        enum patience_result result = patience_poll(patience, done, 2, until);
        if (result != PATIENCE_READY)
            return result;
        note_done(families);
        if (has_addresses(families, 0) && !is_delay) {
            int64_t delayed = deadline_after(RESOLVE_DELAY);
            until = delayed < deadline ? delayed : deadline;
            is_delay = true;
        }
    }
    return PATIENCE_READY;
}

static bool take_answers(struct families *families, enum patience_result result, int os_errno, uint16_t port,
                         struct resolution *resolution, struct error *error)
{
    bool is_over = result == PATIENCE_READY || result == PATIENCE_DEADLINE;
    if (is_over && (has_addresses(families, 0) || has_addresses(families, 1))) {
        resolution->count = 0;
        for (size_t i = 0; i < 2; i++)
            if (has_addresses(families, i))
                append(resolution, &families->lookups[i]->answer, port);
        return true;
    }
    if (is_over && families->are_done[0] && families->are_done[1])
        error_pass(error, &families->lookups[0]->error);
    else
        set_wait_error(families->lookups[families->are_done[0] ? 1 : 0], result, os_errno, error);
    return false;
}

static bool begin_families(const struct address *address, enum address_family preferred, struct families *families,
                           struct error *error)
{
    struct address wanted = *address;
    wanted.family = preferred;
    families->lookups[0] = join(&wanted, error);
    if (families->lookups[0] == NULL)
        return false;
    wanted.family = preferred == ADDRESS_IPV4 ? ADDRESS_IPV6 : ADDRESS_IPV4;
    families->lookups[1] = join(&wanted, error);
    if (families->lookups[1] == NULL)
        drop(families->lookups[0]);
    return families->lookups[1] != NULL;
}

bool resolve_preferring(const struct address *address, enum address_family preferred, struct patience *patience,
                        int64_t deadline, struct resolution *resolution, struct error *error)
{
    bool is_choice = address->kind == ADDRESS_TCP && !address->is_literal && address->family == ADDRESS_ANY;
    if (!is_choice || preferred == ADDRESS_ANY)
        return resolve(address, patience, deadline, resolution, error);
    struct families families = {.are_done = {false}};
    if (!has_time(address, deadline, error) || !begin_families(address, preferred, &families, error))
        return false;
    enum patience_result result = await_families(&families, patience, deadline);
    bool good = take_answers(&families, result, errno, address->port, resolution, error);
    drop(families.lookups[0]);
    drop(families.lookups[1]);
    return good;
}

bool resolve(const struct address *address, struct patience *patience, int64_t deadline, struct resolution *resolution,
             struct error *error)
{
    if (address->kind == ADDRESS_TCP && !address->is_literal)
        return resolve_name(address, patience, deadline, resolution, error);
    struct endpoint endpoint;
    if (address->kind == ADDRESS_FD) {
        error_set(error, ERROR_INVALID, "an inherited descriptor has no address");
        return false;
    }
    if (!endpoint_of_address(address, &endpoint)) {
        error_set(error, ERROR_RESOLVE, "cannot resolve %s: there is no such network interface", address->host);
        return false;
    }
    resolution->count = 1;
    resolution->endpoints[0] = endpoint;
    return true;
}
