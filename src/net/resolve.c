#include "bitflow/net/resolve.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/mutex.h"
#include "bitflow/base/thread.h"

// One look-up, shared by who asked and the helper thread, freed by the last of the two. The helper writes the
// answer before it sets is_done, and whoever asked reads it after it has seen that.
struct lookup {
    atomic_int references;
    atomic_bool is_done;
    int done_event; // an eventfd: wakes the asker's poll()
    struct address address;
    struct resolution answer;
    struct error error; // ERROR_NONE: it worked
};

static struct mutex pool_lock = MUTEX_INIT;
static struct thread_pool *pool GUARDED_BY(pool_lock); // made at the first look-up; lives as long as the process

static struct thread_pool *get_pool(struct error *error) EXCLUDES(pool_lock)
{
    static const struct thread_pool_options options = {
        .parked_name = "resolver",
        .stack_size = (size_t)256 * 1024, // name service modules are other people's code
        .max_threads = RESOLVE_THREADS_MAX,
        .max_parked = 8,
        .idle_time = 30 * NS_PER_S,
    };
    mutex_lock(&pool_lock);
    if (pool == NULL)
        pool = thread_pool_create(&options, error);
    struct thread_pool *got = pool;
    mutex_unlock(&pool_lock);
    return got;
}

static struct lookup *lookup_create(const struct address *address, struct error *error)
{
    struct lookup *lookup = calloc(1, sizeof *lookup);
    if (lookup == NULL) {
        error_set_errno(error, ENOMEM, "cannot resolve %s", address->host);
        return NULL;
    }
    lookup->done_event = eventfd(0, EFD_CLOEXEC);
    if (lookup->done_event < 0) {
        error_set_errno(error, errno, "cannot resolve %s", address->host);
        free(lookup);
        return NULL;
    }
    lookup->address = *address;
    atomic_init(&lookup->references, 2);
    atomic_init(&lookup->is_done, false);
    return lookup;
}

static void lookup_drop(struct lookup *lookup, int references)
{
    if (atomic_fetch_sub_explicit(&lookup->references, references, memory_order_acq_rel) != references)
        return;
    (void)close(lookup->done_event);
    free(lookup);
}

static bool endpoint_of_addrinfo(const struct addrinfo *found, uint16_t port, struct endpoint *endpoint)
{
    *endpoint = (struct endpoint){.length = found->ai_addrlen};
    if (found->ai_family == AF_INET && found->ai_addrlen == sizeof(struct sockaddr_in)) {
        struct sockaddr_in inet;
        memcpy(&inet, found->ai_addr, sizeof inet);
        inet.sin_port = htons(port);
        memcpy(&endpoint->address, &inet, sizeof inet);
        return true;
    }
    if (found->ai_family == AF_INET6 && found->ai_addrlen == sizeof(struct sockaddr_in6)) {
        struct sockaddr_in6 inet;
        memcpy(&inet, found->ai_addr, sizeof inet);
        inet.sin6_port = htons(port);
        memcpy(&endpoint->address, &inet, sizeof inet);
        return true;
    }
    return false;
}

static void add_endpoint(struct resolution *answer, const struct addrinfo *found, uint16_t port)
{
    struct endpoint endpoint;
    if (answer->count == RESOLVE_ADDRESSES_MAX || !endpoint_of_addrinfo(found, port, &endpoint))
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
        add_endpoint(answer, at, address->port);
    freeaddrinfo(found);
    if (answer->count == 0)
        error_set(error, ERROR_RESOLVE, "cannot resolve %s: it has no IP address", address->host);
}

static void run_lookup(void *argument)
{
    struct lookup *lookup = argument;
    thread_set_name("resolve");
    look_up(&lookup->address, &lookup->answer, &lookup->error);
    atomic_store_explicit(&lookup->is_done, true, memory_order_release);
    uint64_t one = 1;
    ssize_t written = write(lookup->done_event, &one, sizeof one);
    (void)written; // cannot fail: the counter is far from full
    lookup_drop(lookup, 1);
}

static bool await(struct lookup *lookup, struct patience *patience, int64_t deadline, struct error *error)
{
    struct pollfd done = {.fd = lookup->done_event, .events = POLLIN};
    switch (patience_poll(patience, &done, 1, deadline)) {
    case PATIENCE_READY:
        return atomic_load_explicit(&lookup->is_done, memory_order_acquire);
    case PATIENCE_DEADLINE:
        error_set(error, ERROR_TIMEOUT, "cannot resolve %s: no answer in time", lookup->address.host);
        return false;
    case PATIENCE_GONE:
        error_set(error, ERROR_CANCELLED, "cannot resolve %s: the client has gone", lookup->address.host);
        return false;
    case PATIENCE_FAILED:
        error_set_errno(error, errno, "cannot resolve %s: poll", lookup->address.host);
        return false;
    }
    return false;
}

static bool resolve_name(const struct address *address, struct patience *patience, int64_t deadline,
                         struct resolution *resolution, struct error *error)
{
    if (deadline_left(deadline) == 0) {
        error_set(error, ERROR_TIMEOUT, "cannot resolve %s: no time is left", address->host);
        return false;
    }
    struct thread_pool *threads = get_pool(error);
    struct lookup *lookup = threads != NULL ? lookup_create(address, error) : NULL;
    if (lookup == NULL)
        return false;
    struct error start_error = ERROR_INIT;
    if (!thread_pool_run(threads, run_lookup, lookup, &start_error)) {
        error_set(error, start_error.code, "cannot resolve %s: %s", address->host, start_error.text);
        lookup_drop(lookup, 2); // the helper's reference too
        return false;
    }
    bool answered = await(lookup, patience, deadline, error);
    bool good = answered && lookup->error.code == ERROR_NONE;
    if (good)
        *resolution = lookup->answer;
    else if (answered && error != NULL && error->code == ERROR_NONE)
        *error = lookup->error;
    lookup_drop(lookup, 1);
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
