#include "bitflow/net/resolver.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "bitflow/base/clock.h"
#include "resolver_job.h"

// The addresses of a name.

size_t resolved_count(const struct resolved_addresses *resolved)
{
    return resolved->counts[RESOLVED_IPV4] + resolved->counts[RESOLVED_IPV6];
}

void resolved_endpoint(const struct resolved_addresses *resolved, int family, size_t at, uint16_t port,
                       struct endpoint *endpoint)
{
    if (family == RESOLVED_IPV4) {
        struct sockaddr_in inet = resolved->ipv4[at];
        inet.sin_port = htons(port);
        *endpoint = (struct endpoint){.length = sizeof inet};
        memcpy(&endpoint->address, &inet, sizeof inet);
    } else {
        struct sockaddr_in6 inet = resolved->ipv6[at];
        inet.sin6_port = htons(port);
        *endpoint = (struct endpoint){.length = sizeof inet};
        memcpy(&endpoint->address, &inet, sizeof inet);
    }
}

static void add_ipv4(struct resolved_addresses *resolved, const struct sockaddr_in *inet)
{
    size_t count = resolved->counts[RESOLVED_IPV4];
    for (size_t i = 0; i < count; i++)
        if (resolved->ipv4[i].sin_addr.s_addr == inet->sin_addr.s_addr)
            return;
    if (count < RESOLVED_ADDRESSES_MAX)
        resolved->ipv4[resolved->counts[RESOLVED_IPV4]++] = *inet;
}

static void add_ipv6(struct resolved_addresses *resolved, const struct sockaddr_in6 *inet)
{
    size_t count = resolved->counts[RESOLVED_IPV6];
    for (size_t i = 0; i < count; i++)
        if (memcmp(&resolved->ipv6[i].sin6_addr, &inet->sin6_addr, sizeof inet->sin6_addr) == 0 &&
            resolved->ipv6[i].sin6_scope_id == inet->sin6_scope_id)
            return;
    if (count < RESOLVED_ADDRESSES_MAX)
        resolved->ipv6[resolved->counts[RESOLVED_IPV6]++] = *inet;
}

void resolved_add(struct resolved_addresses *resolved, const struct resolved_addresses *more)
{
    for (size_t i = 0; i < more->counts[RESOLVED_IPV4]; i++)
        add_ipv4(resolved, &more->ipv4[i]);
    for (size_t i = 0; i < more->counts[RESOLVED_IPV6]; i++)
        add_ipv6(resolved, &more->ipv6[i]);
}

static void clear(struct resolved_addresses *resolved)
{
    resolved->first = RESOLVED_IPV6;
    resolved->counts[RESOLVED_IPV4] = resolved->counts[RESOLVED_IPV6] = 0;
}

// A query: one look-up or three.

static bool ask(struct resolver_subquery *subquery, const char *host, enum address_family family, struct error *error)
{
    subquery->job = resolver_job_join(host, family, error);
    subquery->state = subquery->job != NULL ? SUBQUERY_PENDING : SUBQUERY_FAILED;
    return subquery->job != NULL;
}

static bool is_pending(const struct resolver_subquery *subquery)
{
    return subquery->state == SUBQUERY_PENDING;
}

bool resolver_query_begin(struct resolver_query *query, const struct address *address,
                          const struct resolver_query_terms *terms, int64_t deadline, struct error *error)
{
    bool is_preferred = terms->preferred != ADDRESS_ANY;
    int64_t own = deadline_after(terms->resolve_timeout);
    *query = (struct resolver_query){
        .address = address,
        .preferred = terms->preferred == ADDRESS_IPV4 ? RESOLVED_IPV4 : RESOLVED_IPV6,
        .deadline = deadline_sooner(own, deadline),
        .delay = is_preferred ? RESOLVER_PREFERRED_DELAY : RESOLVER_DELAY,
        .hold_until = is_preferred && own != DEADLINE_NONE ? own : 0,
        .retry_from = deadline_after(RESOLVER_DELAY),
    };
    if (deadline_left(query->deadline) > 0)
        return ask(&query->subqueries[RESOLVER_WHOLE], address->host, address->family, error);
    error_set(error, ERROR_TIMEOUT, "cannot resolve %s: no time is left", address->host);
    return false;
}

// Nothing more will come, or nothing new.
static bool is_over(const struct resolver_query *query)
{
    const struct resolver_subquery *whole = &query->subqueries[RESOLVER_WHOLE];
    const struct resolver_subquery *ipv4 = &query->subqueries[RESOLVED_IPV4];
    const struct resolver_subquery *ipv6 = &query->subqueries[RESOLVED_IPV6];
    if (whole->state == SUBQUERY_ANSWERED)
        return true;
    bool has_any = ipv4->state == SUBQUERY_ANSWERED || ipv6->state == SUBQUERY_ANSWERED;
    return !is_pending(ipv4) && !is_pending(ipv6) && (has_any || !is_pending(whole));
}

// Whether the preferred family is not answered yet.
static bool is_awaited(const struct resolver_query *query)
{
    const struct resolver_subquery *preferred = &query->subqueries[query->preferred];
    return !is_over(query) && preferred->state != SUBQUERY_FAILED && preferred->state != SUBQUERY_ANSWERED;
}

// The other family has come. The preferred one has as long as that took, and then `delay`: where it was asked for long
// before, by others, that is over already.
static int64_t hold_until(const struct resolver_query *query, int64_t now)
{
    const struct resolver_subquery *preferred = &query->subqueries[query->preferred];
    const struct resolver_subquery *other = &query->subqueries[1 - query->preferred];
    int64_t preferred_begun = preferred->job != NULL ? resolver_job_begun(preferred->job) : 0;
    int64_t other_begun = other->job != NULL ? resolver_job_begun(other->job) : 0;
    if (preferred_begun == 0 || other_begun == 0)
        return now + query->delay;
    return preferred_begun + (now - other_begun) + query->delay;
}

static void take_answer(struct resolver_subquery *subquery, struct resolved_addresses *resolved)
{
    const struct resolved_addresses *answer;
    const struct error *error;
    if (!is_pending(subquery) || !resolver_job_is_done(subquery->job, &answer, &error))
        return;
    subquery->state = error->code == ERROR_NONE ? SUBQUERY_ANSWERED : SUBQUERY_FAILED;
    if (subquery->state == SUBQUERY_FAILED)
        return;
    resolved->first = answer->first;
    resolved_add(resolved, answer);
}

// Looks the families up apart once the look-up of both has had its time. Returns when that is. What cannot be asked is
// left to the look-up of both.
static int64_t split(struct resolver_query *query)
{
    bool is_choice = query->address->family == ADDRESS_ANY;
    if (!is_choice || query->subqueries[RESOLVED_IPV6].state != SUBQUERY_UNASKED)
        return DEADLINE_NONE;
    int64_t now = clock_now(), begun = resolver_job_begun(query->subqueries[RESOLVER_WHOLE].job);
    if (begun == 0)
        return now + RESOLVER_RETRY; // it waits for a thread, which these would only wait for, too
    if (now < begun + RESOLVER_SPLIT)
        return begun + RESOLVER_SPLIT;
    const char *host = query->address->host;
    (void)ask(&query->subqueries[RESOLVED_IPV6], host, ADDRESS_IPV6, NULL);
    (void)ask(&query->subqueries[RESOLVED_IPV4], host, ADDRESS_IPV4, NULL);
    query->retry_from = now + RESOLVER_DELAY;
    return DEADLINE_NONE;
}

// A look-up that has been under way for long, begun by others perhaps, may have lost its packets. Where one family is
// answered, though, it is more likely that the other never is: to ask again would only take threads. Returns when to
// call it again.
static int64_t retry(struct resolver_query *query, const struct resolved_addresses *resolved)
{
    int64_t next = DEADLINE_NONE;
    if (resolved_count(resolved) > 0)
        return DEADLINE_NONE;
    if (clock_now() < query->retry_from)
        return query->retry_from;
    for (size_t i = 0; i < RESOLVER_SUBQUERIES; i++)
        if (is_pending(&query->subqueries[i]))
            next = deadline_sooner(next, resolver_job_retry(query->subqueries[i].job));
    return next;
}

int64_t resolver_query_advance(struct resolver_query *query, struct resolved_addresses *resolved)
{
    // The last one says which family comes first: the system knows best, and where it has not said so, it is the
    // preferred one.
    take_answer(&query->subqueries[1 - query->preferred], resolved);
    take_answer(&query->subqueries[query->preferred], resolved);
    take_answer(&query->subqueries[RESOLVER_WHOLE], resolved);
    if (is_over(query))
        return DEADLINE_NONE;
    int64_t next = split(query);
    return deadline_sooner(next, retry(query, resolved));
}

size_t resolver_query_descriptors(const struct resolver_query *query, struct pollfd *descriptors)
{
    size_t count = 0;
    if (is_over(query))
        return 0;
    for (size_t i = 0; i < RESOLVER_SUBQUERIES; i++)
        if (is_pending(&query->subqueries[i]))
            descriptors[count++] =
                (struct pollfd){.fd = resolver_job_descriptor(query->subqueries[i].job), .events = POLLIN};
    return count;
}

int64_t resolver_query_worth_until(const struct resolver_query *query)
{
    int64_t until = 0;
    if (is_over(query))
        return 0;
    for (size_t i = 0; i < RESOLVER_SUBQUERIES; i++) {
        const struct resolver_subquery *subquery = &query->subqueries[i];
        int64_t begun = is_pending(subquery) ? resolver_job_begun(subquery->job) : 0;
        if (begun + RESOLVER_LATE > until)
            until = begun + RESOLVER_LATE;
    }
    return deadline_sooner(until, query->deadline);
}

void resolver_query_release(struct resolver_query *query)
{
    for (size_t i = 0; i < RESOLVER_SUBQUERIES; i++)
        resolver_job_drop(&query->subqueries[i].job);
}

static void set_wait_error(const char *host, struct resolver_job *job, enum client_watch_result result, int os_errno,
                           struct error *error)
{
    if (result == CLIENT_WATCH_DEADLINE && resolver_job_begun(job) == 0)
        error_set(error, ERROR_TIMEOUT,
                  "cannot resolve %s: waited for the resolver, all %d of its threads are busy with other names", host,
                  RESOLVER_THREADS_MAX);
    else if (result == CLIENT_WATCH_DEADLINE)
        error_set(error, ERROR_TIMEOUT, "cannot resolve %s: no answer in time", host);
    else if (result == CLIENT_WATCH_GONE)
        error_set(error, ERROR_CANCELLED, "cannot resolve %s: the client has gone", host);
    else
        error_set_errno(error, os_errno, "cannot resolve %s: poll", host);
}

// Why there is no address. The look-up of both families knows best.
static void set_failure(const struct resolver_query *query, struct error *error)
{
    const struct resolved_addresses *answer;
    const struct error *why;
    const int order[RESOLVER_SUBQUERIES] = {RESOLVER_WHOLE, query->preferred, 1 - query->preferred};
    for (size_t i = 0; i < RESOLVER_SUBQUERIES; i++) {
        struct resolver_job *job = query->subqueries[order[i]].job;
        if (job != NULL && resolver_job_is_done(job, &answer, &why))
            error_pass(error, why);
    }
}

static bool may_begin(struct resolver_query *query, const struct resolved_addresses *resolved, int64_t now)
{
    if (resolved_count(resolved) == 0)
        return false;
    if (resolved->counts[query->preferred] > 0 || !is_awaited(query))
        return true;
    if (query->hold_until == 0)
        query->hold_until = hold_until(query, now);
    return now >= query->hold_until;
}

bool resolver_query_await(struct resolver_query *query, struct client_watch *watch, struct resolved_addresses *resolved,
                          struct error *error)
{
    clear(resolved);
    for (;;) {
        int64_t next = resolver_query_advance(query, resolved);
        if (may_begin(query, resolved, clock_now()))
            return true;
        if (is_over(query)) {
            set_failure(query, error);
            return false;
        }
        if (resolved_count(resolved) > 0)
            next = deadline_sooner(next, query->hold_until);
        struct pollfd descriptors[RESOLVER_DESCRIPTORS_MAX];
        size_t count = resolver_query_descriptors(query, descriptors);
        enum client_watch_result result =
            client_watch_poll(watch, descriptors, count, deadline_sooner(next, query->deadline));
        bool is_late = result == CLIENT_WATCH_DEADLINE && deadline_left(query->deadline) == 0;
        if (is_late && resolved_count(resolved) > 0)
            return true;
        if (is_late || result == CLIENT_WATCH_GONE || result == CLIENT_WATCH_FAILED) {
            set_wait_error(query->address->host, query->subqueries[RESOLVER_WHOLE].job, result, errno, error);
            return false;
        }
    }
}

// Waiting for all of the answer.

static bool resolve_name(const struct address *address, struct client_watch *watch, int64_t deadline,
                         struct resolved_addresses *resolved, struct error *error)
{
    struct resolver_job *job = resolver_job_join(address->host, address->family, error);
    if (job == NULL)
        return false;
    const struct resolved_addresses *answer;
    const struct error *why;
    struct pollfd done = {.fd = resolver_job_descriptor(job), .events = POLLIN};
    enum client_watch_result result = client_watch_poll(watch, &done, 1, deadline);
    bool is_done = result == CLIENT_WATCH_READY && resolver_job_is_done(job, &answer, &why);
    bool is_good = is_done && why->code == ERROR_NONE;
    if (is_good)
        *resolved = *answer;
    else if (is_done)
        error_pass(error, why);
    else
        set_wait_error(address->host, job, result, errno, error);
    resolver_job_drop(&job);
    return is_good;
}

static bool resolve_literal(const struct address *address, struct resolved_addresses *resolved, struct error *error)
{
    struct endpoint endpoint;
    if (!endpoint_of_address(address, &endpoint)) {
        error_set(error, ERROR_RESOLVE, "cannot resolve %s: there is no such network interface", address->host);
        return false;
    }
    clear(resolved);
    if (endpoint.address.any.sa_family == AF_INET) {
        memcpy(&resolved->ipv4[0], &endpoint.address, sizeof resolved->ipv4[0]);
        resolved->first = RESOLVED_IPV4;
    } else {
        memcpy(&resolved->ipv6[0], &endpoint.address, sizeof resolved->ipv6[0]);
        resolved->first = RESOLVED_IPV6;
    }
    resolved->counts[resolved->first] = 1;
    return true;
}

bool resolve(const struct address *address, struct client_watch *watch, int64_t deadline,
             struct resolved_addresses *resolved, struct error *error)
{
    if (address->kind != ADDRESS_TCP) {
        error_set(error, ERROR_INVALID, "only names and IP addresses are resolved");
        return false;
    }
    if (address->is_literal)
        return resolve_literal(address, resolved, error);
    if (deadline_left(deadline) == 0) {
        error_set(error, ERROR_TIMEOUT, "cannot resolve %s: no time is left", address->host);
        return false;
    }
    return resolve_name(address, watch, deadline, resolved, error);
}
