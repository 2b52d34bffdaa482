#include "resolver_job.h"

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

// It is in `jobs` from when it is first asked for until it is answered, in the order of asking: being looked up, or
// queued until a thread is free. Whoever has the last reference frees it: each asker has one, and the queue or each
// thread has one.
struct resolver_job {
    TAILQ_ENTRY(resolver_job) link GUARDED;
    unsigned references GUARDED; // by `lock`, as all that is GUARDED
    unsigned tries GUARDED;      // under way
    bool is_queued GUARDED;
    bool is_done GUARDED;   // from then on the answer is only read
    int64_t begun GUARDED;  // the first try
    int64_t newest GUARDED; // the last one's beginning
    int done_event;         // an eventfd that nobody reads: once written, it wakes every asker's poll()
    enum address_family family;
    char host[sizeof(((struct address *)NULL)->host)];
    struct resolved_addresses answer;
    struct error error; // ERROR_NONE: it worked
};

// What one try came to.
struct outcome {
    struct resolved_addresses answer;
    struct error error;
    bool is_temporary; // another try may do better
};

static struct mutex lock = MUTEX_INIT;
static struct thread_pool *pool GUARDED_BY(lock); // made at the first look-up; lives as long as the process
static TAILQ_HEAD(job_list, resolver_job) jobs GUARDED_BY(lock) = TAILQ_HEAD_INITIALIZER(jobs);
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

// One address by itself. False: it is not an IP address.
static bool resolved_of_addrinfo(const struct addrinfo *found, struct resolved_addresses *one)
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

static void take_addresses(const struct addrinfo *found, struct resolved_addresses *answer)
{
    struct resolved_addresses one;
    for (const struct addrinfo *at = found; at != NULL; at = at->ai_next) {
        if (!resolved_of_addrinfo(at, &one))
            continue;
        if (resolved_count(answer) == 0)
            answer->first = one.first;
        resolved_add(answer, &one);
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
    if (resolved_count(&outcome->answer) == 0)
        error_set(&outcome->error, ERROR_RESOLVE, "cannot resolve %s: it has no IP address", host);
}

// Gives a reference back.
static void drop(struct resolver_job *job) EXCLUDES(lock)
{
    mutex_lock(&lock);
    job->references--;
    if (job->is_queued && job->references == 1) {
        TAILQ_REMOVE(&jobs, job, link);
        job->references = 0;
    }
    bool is_last = job->references == 0;
    mutex_unlock(&lock);
    if (!is_last)
        return;
    (void)close(job->done_event);
    free(job);
}

// A try has ended. A good answer, or a failure that stands, is handed to everyone who waits; a passing failure only if
// no other try is under way. Who asks from then on asks anew.
static void finish(struct resolver_job *job, const struct outcome *outcome) EXCLUDES(lock)
{
    mutex_lock(&lock);
    job->tries--;
    bool counts = !job->is_done && (!outcome->is_temporary || job->tries == 0);
    if (counts) {
        TAILQ_REMOVE(&jobs, job, link);
        job->is_done = true;
        job->answer = outcome->answer;
        job->error = outcome->error;
    }
    mutex_unlock(&lock);
    if (counts) {
        uint64_t one = 1;
        ssize_t written = write(job->done_event, &one, sizeof one);
        (void)written; // cannot fail: the counter is far from full
    }
    drop(job);
}

static void note_begin(struct resolver_job *job) REQUIRES(lock)
{
    job->newest = clock_now();
    if (job->begun == 0)
        job->begun = job->newest;
    job->tries++;
}

// What a thread that has finished a look-up does next: the one queued longest. NULL: none, the thread is free.
static struct resolver_job *next_queued(void) EXCLUDES(lock)
{
    mutex_lock(&lock);
    struct resolver_job *next;
    TAILQ_FOREACH(next, &jobs, link)
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

static void run_resolver_jobs(void *argument)
{
    struct outcome outcome;
    thread_set_name("resolve");
    for (struct resolver_job *job = argument; job != NULL; job = next_queued()) {
        look_up(job->host, job->family, &outcome);
        finish(job, &outcome);
    }
}

// Starts a thread, which is counted as busy already. Where there is none to be had, that is how the try ended; those
// queued are tried too, as it may be that no other thread is left to take them.
static void start_thread(struct resolver_job *job) EXCLUDES(lock)
{
    for (; job != NULL; job = next_queued()) {
        struct error error = ERROR_INIT;
        struct thread_pool *threads = get_pool(&error);
        if (threads != NULL && thread_pool_run(threads, run_resolver_jobs, job, &error))
            return;
        struct outcome outcome = {.is_temporary = true};
        error_wrap(&outcome.error, &error, "cannot resolve %s", job->host);
        finish(job, &outcome);
    }
}

static struct resolver_job *find(const char *host, enum address_family family) REQUIRES(lock)
{
    struct resolver_job *job;
    TAILQ_FOREACH(job, &jobs, link)
    if (job->family == family && strcmp(job->host, host) == 0)
        break;
    return job;
}

static struct resolver_job *make(const char *host, enum address_family family, struct error *error)
{
    struct resolver_job *job = calloc(1, sizeof *job);
    if (job == NULL) {
        error_set_errno(error, ENOMEM, "cannot resolve %s", host);
        return NULL;
    }
    job->done_event = eventfd(0, EFD_CLOEXEC);
    if (job->done_event < 0) {
        error_set_errno(error, errno, "cannot resolve %s", host);
        free(job);
        return NULL;
    }
    job->family = family;
    memcpy(job->host, host, strnlen(host, sizeof job->host - 1));
    return job;
}

// A new look-up, in the list, with the reference of the queue or the thread. It is queued if every thread is busy;
// otherwise the caller shall start one. Made under the lock, so that two askers never make the same.
static struct resolver_job *add(const char *host, enum address_family family, struct error *error) REQUIRES(lock)
{
    struct resolver_job *job = make(host, family, error);
    if (job == NULL)
        return NULL;
    job->references = 1;
    job->is_queued = busy_threads == RESOLVER_THREADS_MAX;
    if (!job->is_queued) {
        busy_threads++;
        note_begin(job);
    }
    TAILQ_INSERT_TAIL(&jobs, job, link);
    return job;
}

// When another try may be made; DEADLINE_NONE: never. A look-up of both families has those of each for that.
static int64_t next_try(const struct resolver_job *job) REQUIRES(lock)
{
    if (job->is_done || job->family == ADDRESS_ANY || job->tries >= RESOLVER_TRIES_MAX)
        return DEADLINE_NONE;
    return job->is_queued ? clock_now() + RESOLVER_RETRY : job->newest + RESOLVER_RETRY;
}

// Counts another try, for which the caller shall start a thread, if it is time for one.
static bool add_try(struct resolver_job *job) REQUIRES(lock)
{
    bool is_due = busy_threads < RESOLVER_THREADS_MAX / 2 && next_try(job) <= clock_now();
    if (is_due) {
        busy_threads++;
        job->references++;
        note_begin(job);
    }
    return is_due;
}

struct resolver_job *resolver_job_join(const char *host, enum address_family family, struct error *error)
{
    mutex_lock(&lock);
    struct resolver_job *job = find(host, family);
    bool is_new = job == NULL;
    if (is_new)
        job = add(host, family, error);
    if (job != NULL)
        job->references++;
    bool needs_thread = job != NULL && is_new && !job->is_queued;
    mutex_unlock(&lock);
    if (needs_thread)
        start_thread(job);
    return job;
}

void resolver_job_drop(struct resolver_job **job)
{
    if (*job != NULL)
        drop(*job);
    *job = NULL;
}

int64_t resolver_job_retry(struct resolver_job *job)
{
    mutex_lock(&lock);
    bool needs_thread = add_try(job);
    int64_t next = next_try(job), now = clock_now();
    mutex_unlock(&lock);
    if (needs_thread)
        start_thread(job);
    return next > now ? next : now + RESOLVER_RETRY; // one that is due had no thread
}

int resolver_job_descriptor(const struct resolver_job *job)
{
    return job->done_event;
}

bool resolver_job_is_done(struct resolver_job *job, const struct resolved_addresses **answer,
                          const struct error **error)
{
    mutex_lock(&lock);
    bool done = job->is_done;
    mutex_unlock(&lock);
    if (done) {
        *answer = &job->answer;
        *error = &job->error;
    }
    return done;
}

int64_t resolver_job_begun(struct resolver_job *job)
{
    mutex_lock(&lock);
    int64_t begun = job->begun;
    mutex_unlock(&lock);
    return begun;
}
