#include "resolve_lookup.h"

#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/mutex.h"
#include "bitflow/base/thread.h"

// It is in `lookups` from the first asker's coming until it is answered, in the order of asking: with threads at it, or
// queued until one is free. Whoever has the last reference frees it: each asker has one, and the queue or each thread
// has one.
struct lookup {
    TAILQ_ENTRY(lookup) link GUARDED;
    unsigned references GUARDED; // by `lock`, as all that is GUARDED
    unsigned tries GUARDED;      // under way
    bool is_queued GUARDED;
    bool is_done GUARDED;   // from then on the answer is only read
    int64_t begun GUARDED;  // the first try
    int64_t newest GUARDED; // the last one's beginning
    int done_event;         // an eventfd that nobody reads: once written, it wakes every asker's poll()
    enum address_family family;
    char host[sizeof(((struct address *)NULL)->host)];
    struct resolution answer;
    struct error error; // ERROR_NONE: it worked
};

// What one try came to.
struct outcome {
    struct resolution answer;
    struct error error;
    bool is_temporary; // another try may do better
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

// One address as a resolution of its own. False: it is none of IP.
static bool resolution_of_addrinfo(const struct addrinfo *found, struct resolution *one)
{
    if (found->ai_family == AF_INET && found->ai_addrlen == sizeof one->ipv4[0]) {
        memcpy(&one->ipv4[0], found->ai_addr, sizeof one->ipv4[0]);
        one->first = RESOLVED_IPV4;
    } else if (found->ai_family == AF_INET6 && found->ai_addrlen == sizeof one->ipv6[0]) {
        memcpy(&one->ipv6[0], found->ai_addr, sizeof one->ipv6[0]);
        one->first = RESOLVED_IPV6;
    } else {
        return false;
    }
    one->counts[one->first] = 1;
    one->counts[1 - one->first] = 0;
    return true;
}

static void take_addresses(const struct addrinfo *found, struct resolution *answer)
{
    struct resolution one;
    for (const struct addrinfo *at = found; at != NULL; at = at->ai_next) {
        if (!resolution_of_addrinfo(at, &one))
            continue;
        if (resolution_count(answer) == 0)
            answer->first = one.first;
        resolution_add(answer, &one);
    }
}

static void set_resolver_error(const char *host, int result, int os_errno, struct error *error)
{
    if (result == EAI_SYSTEM)
        error_set_errno(error, os_errno, "cannot resolve %s", host);
    else
        error_set(error, result == EAI_MEMORY ? ERROR_NO_MEMORY : ERROR_RESOLVE, "cannot resolve %s: %s", host,
                  gai_strerror(result));
}

// No AI_ADDRCONFIG: it hides ::1 and 127.0.0.1 from machines that have no other address of that family.
static void look_up(const char *host, enum address_family family, struct outcome *outcome)
{
    static const int families[] = {[ADDRESS_ANY] = AF_UNSPEC, [ADDRESS_IPV4] = AF_INET, [ADDRESS_IPV6] = AF_INET6};
    struct addrinfo hints = {.ai_family = families[family], .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    outcome->error = ERROR_INIT;
    outcome->answer.counts[RESOLVED_IPV4] = outcome->answer.counts[RESOLVED_IPV6] = 0;
    int result = getaddrinfo(host, NULL, &hints, &found);
    outcome->is_temporary = result == EAI_AGAIN || result == EAI_SYSTEM || result == EAI_MEMORY;
    if (result != 0) {
        set_resolver_error(host, result, errno, &outcome->error);
        return;
    }
    take_addresses(found, &outcome->answer);
    freeaddrinfo(found);
    if (resolution_count(&outcome->answer) == 0)
        error_set(&outcome->error, ERROR_RESOLVE, "cannot resolve %s: it has no IP address", host);
}

// Gives a reference back.
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

// A try has ended. A good answer, or a failure that stands, is handed to everyone who waits; a passing failure only if
// no other try is under way. Who asks from then on asks anew.
static void finish(struct lookup *lookup, const struct outcome *outcome) EXCLUDES(lock)
{
    mutex_lock(&lock);
    lookup->tries--;
    bool counts = !lookup->is_done && (!outcome->is_temporary || lookup->tries == 0);
    if (counts) {
        TAILQ_REMOVE(&lookups, lookup, link);
        lookup->is_done = true;
        lookup->answer = outcome->answer;
        lookup->error = outcome->error;
    }
    mutex_unlock(&lock);
    if (counts) {
        uint64_t one = 1;
        ssize_t written = write(lookup->done_event, &one, sizeof one);
        (void)written; // cannot fail: the counter is far from full
    }
    drop(lookup);
}

static void note_begin(struct lookup *lookup) REQUIRES(lock)
{
    lookup->newest = clock_now();
    if (lookup->begun == 0)
        lookup->begun = lookup->newest;
    lookup->tries++;
}

// What a thread that has finished a look-up does next: the one queued longest. NULL: none, the thread is free.
static struct lookup *next_queued(void) EXCLUDES(lock)
{
    mutex_lock(&lock);
    struct lookup *next;
    TAILQ_FOREACH(next, &lookups, link)
    if (next->is_queued)
        break;
    if (next != NULL) {
        next->is_queued = false;
        note_begin(next);
    } else {
        busy_threads--;
    }
    mutex_unlock(&lock);
    return next;
}

static void run_lookups(void *argument)
{
    struct outcome outcome;
    thread_set_name("resolve");
    for (struct lookup *lookup = argument; lookup != NULL; lookup = next_queued()) {
        look_up(lookup->host, lookup->family, &outcome);
        finish(lookup, &outcome);
    }
}

// Starts a thread, which is counted as busy already. Where there is none to be had, that is how the try ended; those
// queued are tried too, as it may be that no other thread is left to take them.
static void start_thread(struct lookup *lookup) EXCLUDES(lock)
{
    for (; lookup != NULL; lookup = next_queued()) {
        struct error error = ERROR_INIT;
        struct thread_pool *threads = get_pool(&error);
        if (threads != NULL && thread_pool_run(threads, run_lookups, lookup, &error))
            return;
        struct outcome outcome = {.is_temporary = true};
        error_set(&outcome.error, error.code, "cannot resolve %s: %s", lookup->host, error.text);
        outcome.error.os_errno = error.os_errno;
        finish(lookup, &outcome);
    }
}

static struct lookup *find(const char *host, enum address_family family) REQUIRES(lock)
{
    struct lookup *lookup;
    TAILQ_FOREACH(lookup, &lookups, link)
    if (lookup->family == family && strcmp(lookup->host, host) == 0)
        break;
    return lookup;
}

static struct lookup *make(const char *host, enum address_family family, struct error *error)
{
    struct lookup *lookup = calloc(1, sizeof *lookup);
    if (lookup == NULL) {
        error_set_errno(error, ENOMEM, "cannot resolve %s", host);
        return NULL;
    }
    lookup->done_event = eventfd(0, EFD_CLOEXEC);
    if (lookup->done_event < 0) {
        error_set_errno(error, errno, "cannot resolve %s", host);
        free(lookup);
        return NULL;
    }
    lookup->family = family;
    memcpy(lookup->host, host, strnlen(host, sizeof lookup->host - 1));
    return lookup;
}

// A new look-up, in the list, with the reference of the queue or the thread. It is queued if every thread is busy;
// otherwise the caller shall start one. Made under the lock, so that two askers never make the same.
static struct lookup *add(const char *host, enum address_family family, struct error *error) REQUIRES(lock)
{
    struct lookup *lookup = make(host, family, error);
    if (lookup == NULL)
        return NULL;
    lookup->references = 1;
    lookup->is_queued = busy_threads == RESOLVE_THREADS_MAX;
    if (!lookup->is_queued) {
        busy_threads++;
        note_begin(lookup);
    }
    TAILQ_INSERT_TAIL(&lookups, lookup, link);
    return lookup;
}

// When another try may be made; DEADLINE_NONE: never. A look-up of both families has those of each for that.
static int64_t next_try(const struct lookup *lookup) REQUIRES(lock)
{
    if (lookup->is_done || lookup->family == ADDRESS_ANY || lookup->tries >= LOOKUP_TRIES_MAX)
        return DEADLINE_NONE;
    return lookup->is_queued ? clock_now() + LOOKUP_RETRY : lookup->newest + LOOKUP_RETRY;
}

// Counts another try, for which the caller shall start a thread, if it is time for one.
static bool add_try(struct lookup *lookup) REQUIRES(lock)
{
    bool is_due = busy_threads < RESOLVE_THREADS_MAX / 2 && next_try(lookup) <= clock_now();
    if (is_due) {
        busy_threads++;
        lookup->references++;
        note_begin(lookup);
    }
    return is_due;
}

struct lookup *lookup_join(const char *host, enum address_family family, struct error *error)
{
    mutex_lock(&lock);
    struct lookup *lookup = find(host, family);
    bool is_new = lookup == NULL;
    if (is_new)
        lookup = add(host, family, error);
    if (lookup != NULL)
        lookup->references++;
    bool needs_thread = lookup != NULL && is_new && !lookup->is_queued;
    mutex_unlock(&lock);
    if (needs_thread)
        start_thread(lookup);
    return lookup;
}

void lookup_drop(struct lookup **lookup)
{
    if (*lookup != NULL)
        drop(*lookup);
    *lookup = NULL;
}

int64_t lookup_retry(struct lookup *lookup)
{
    mutex_lock(&lock);
    bool needs_thread = add_try(lookup);
    int64_t next = next_try(lookup), now = clock_now();
    mutex_unlock(&lock);
    if (needs_thread)
        start_thread(lookup);
    return next > now ? next : now + LOOKUP_RETRY; // one that is due had no thread
}

int lookup_descriptor(const struct lookup *lookup)
{
    return lookup->done_event;
}

bool lookup_is_done(struct lookup *lookup, const struct resolution **answer, const struct error **error)
{
    mutex_lock(&lock);
    bool done = lookup->is_done;
    mutex_unlock(&lock);
    if (done) {
        *answer = &lookup->answer;
        *error = &lookup->error;
    }
    return done;
}

int64_t lookup_begun(struct lookup *lookup)
{
    mutex_lock(&lock);
    int64_t begun = lookup->begun;
    mutex_unlock(&lock);
    return begun;
}
