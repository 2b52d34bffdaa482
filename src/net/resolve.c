#include "bitflow/net/resolve.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "resolve_lookup.h"

static int64_t sooner(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

// Resolutions.

size_t resolution_count(const struct resolution *resolution)
{
    return resolution->counts[RESOLVED_IPV4] + resolution->counts[RESOLVED_IPV6];
}

void resolution_endpoint(const struct resolution *resolution, int family, size_t at, uint16_t port,
                         struct endpoint *endpoint)
{
    if (family == RESOLVED_IPV4) {
        struct sockaddr_in inet = resolution->ipv4[at];
        inet.sin_port = htons(port);
        *endpoint = (struct endpoint){.length = sizeof inet};
        memcpy(&endpoint->address, &inet, sizeof inet);
    } else {
        struct sockaddr_in6 inet = resolution->ipv6[at];
        inet.sin6_port = htons(port);
        *endpoint = (struct endpoint){.length = sizeof inet};
        memcpy(&endpoint->address, &inet, sizeof inet);
    }
}

static void add_ipv4(struct resolution *resolution, const struct sockaddr_in *inet)
{
    size_t count = resolution->counts[RESOLVED_IPV4];
    for (size_t i = 0; i < count; i++)
        if (resolution->ipv4[i].sin_addr.s_addr == inet->sin_addr.s_addr)
            return;
    if (count < RESOLVE_ADDRESSES_MAX)
        resolution->ipv4[resolution->counts[RESOLVED_IPV4]++] = *inet;
}

static void add_ipv6(struct resolution *resolution, const struct sockaddr_in6 *inet)
{
    size_t count = resolution->counts[RESOLVED_IPV6];
    for (size_t i = 0; i < count; i++)
        if (memcmp(&resolution->ipv6[i].sin6_addr, &inet->sin6_addr, sizeof inet->sin6_addr) == 0 &&
            resolution->ipv6[i].sin6_scope_id == inet->sin6_scope_id)
            return;
    if (count < RESOLVE_ADDRESSES_MAX)
        resolution->ipv6[resolution->counts[RESOLVED_IPV6]++] = *inet;
}

void resolution_add(struct resolution *resolution, const struct resolution *more)
{
    for (size_t i = 0; i < more->counts[RESOLVED_IPV4]; i++)
        add_ipv4(resolution, &more->ipv4[i]);
    for (size_t i = 0; i < more->counts[RESOLVED_IPV6]; i++)
        add_ipv6(resolution, &more->ipv6[i]);
}

static void clear(struct resolution *resolution)
{
    resolution->first = RESOLVED_IPV6;
    resolution->counts[RESOLVED_IPV4] = resolution->counts[RESOLVED_IPV6] = 0;
}

// The look-ups of one asker.

static bool ask(struct question *question, const char *host, enum address_family family, struct error *error)
{
    question->lookup = lookup_join(host, family, error);
    question->state = question->lookup != NULL ? QUESTION_PENDING : QUESTION_FAILED;
    return question->lookup != NULL;
}

static bool is_pending(const struct question *question)
{
    return question->state == QUESTION_PENDING;
}

bool resolving_begin(struct resolving *resolving, const struct address *address, const struct resolving_terms *terms,
                     int64_t deadline, struct error *error)
{
    bool is_preferred = terms->preferred != ADDRESS_ANY;
    int64_t own = deadline_after(terms->resolve_timeout);
    *resolving = (struct resolving){
        .address = address,
        .first = terms->preferred == ADDRESS_IPV4 ? RESOLVED_IPV4 : RESOLVED_IPV6,
        .deadline = sooner(own, deadline),
        .delay = is_preferred ? RESOLVE_PREFERRED_DELAY : RESOLVE_DELAY,
        .hold_until = is_preferred && own != DEADLINE_NONE ? own : 0,
        .retry_from = deadline_after(RESOLVE_DELAY),
    };
    if (deadline_left(resolving->deadline) > 0)
        return ask(&resolving->whole, address->host, address->family, error);
    error_set(error, ERROR_TIMEOUT, "cannot resolve %s: no time is left", address->host);
    return false;
}

// Nothing more will come, or nothing new.
static bool is_over(const struct resolving *resolving)
{
    const struct question *families = resolving->families;
    bool are_pending = is_pending(&families[RESOLVED_IPV4]) || is_pending(&families[RESOLVED_IPV6]);
    bool has_any =
        families[RESOLVED_IPV4].state == QUESTION_ANSWERED || families[RESOLVED_IPV6].state == QUESTION_ANSWERED;
    return resolving->whole.state == QUESTION_ANSWERED || (!are_pending && (has_any || !is_pending(&resolving->whole)));
}

// The better family has not said yet whether it has addresses.
static bool is_awaited(const struct resolving *resolving)
{
    const struct question *better = &resolving->families[resolving->first];
    return !is_over(resolving) && better->state != QUESTION_FAILED && better->state != QUESTION_ANSWERED;
}

// The other family has come. The better one has as long as that took, and then `delay`: where it was asked for long
// before, by others, that is over already.
static int64_t hold_until(const struct resolving *resolving, int64_t now)
{
    const struct question *better = &resolving->families[resolving->first];
    const struct question *other = &resolving->families[1 - resolving->first];
    int64_t better_begun = better->lookup != NULL ? lookup_begun(better->lookup) : 0;
    int64_t other_begun = other->lookup != NULL ? lookup_begun(other->lookup) : 0;
    if (better_begun == 0 || other_begun == 0)
        return now + resolving->delay;
    return better_begun + (now - other_begun) + resolving->delay;
}

static void take_answer(struct question *question, struct resolution *resolution)
{
    const struct resolution *answer;
    const struct error *error;
    if (!is_pending(question) || !lookup_is_done(question->lookup, &answer, &error))
        return;
    question->state = error->code == ERROR_NONE ? QUESTION_ANSWERED : QUESTION_FAILED;
    if (question->state == QUESTION_FAILED)
        return;
    resolution->first = answer->first;
    resolution_add(resolution, answer);
}

// The system knows best which family comes first; where it has not said so, it is the better one.
static void take_answers(struct resolving *resolving, struct resolution *resolution)
{
    take_answer(&resolving->families[1 - resolving->first], resolution);
    take_answer(&resolving->families[resolving->first], resolution);
    take_answer(&resolving->whole, resolution);
}

// Looks the families up apart once the look-up of both has had its time. Returns when that is. What cannot be asked is
// left to the look-up of both.
static int64_t split(struct resolving *resolving)
{
    bool is_choice = resolving->address->family == ADDRESS_ANY;
    if (!is_choice || resolving->families[RESOLVED_IPV6].state != QUESTION_UNASKED)
        return DEADLINE_NONE;
    int64_t now = clock_now(), begun = lookup_begun(resolving->whole.lookup);
    if (begun == 0)
        return now + LOOKUP_RETRY; // it waits for a thread, which these would only wait for, too
    if (now < begun + RESOLVE_SPLIT)
        return begun + RESOLVE_SPLIT;
    const char *host = resolving->address->host;
    (void)ask(&resolving->families[RESOLVED_IPV6], host, ADDRESS_IPV6, NULL);
    (void)ask(&resolving->families[RESOLVED_IPV4], host, ADDRESS_IPV4, NULL);
    resolving->retry_from = now + RESOLVE_DELAY;
    return DEADLINE_NONE;
}

// A look-up that has been under way for long, begun by others perhaps, may have lost its packets. Where one family is
// answered, though, it is more likely that the other never is: to ask again would only take threads. Returns when to
// call it again.
static int64_t retry(struct resolving *resolving, const struct resolution *resolution)
{
    int64_t next = DEADLINE_NONE;
    if (resolution_count(resolution) > 0)
        return DEADLINE_NONE;
    if (clock_now() < resolving->retry_from)
        return resolving->retry_from;
    struct question *questions[] = {&resolving->whole, &resolving->families[RESOLVED_IPV4],
                                    &resolving->families[RESOLVED_IPV6]};
    for (size_t i = 0; i < ARRAY_LENGTH(questions); i++)
        if (is_pending(questions[i]))
            next = sooner(next, lookup_retry(questions[i]->lookup));
    return next;
}

int64_t resolving_advance(struct resolving *resolving, struct resolution *resolution)
{
    take_answers(resolving, resolution);
    if (is_over(resolving))
        return DEADLINE_NONE;
    int64_t next = split(resolving);
    return sooner(next, retry(resolving, resolution));
}

size_t resolving_descriptors(const struct resolving *resolving, struct pollfd *descriptors)
{
    const struct question *questions[] = {&resolving->whole, &resolving->families[RESOLVED_IPV4],
                                          &resolving->families[RESOLVED_IPV6]};
    size_t count = 0;
    if (is_over(resolving))
        return 0;
    for (size_t i = 0; i < ARRAY_LENGTH(questions); i++)
        if (is_pending(questions[i]))
            descriptors[count++] = (struct pollfd){.fd = lookup_descriptor(questions[i]->lookup), .events = POLLIN};
    return count;
}

int64_t resolving_worth_until(const struct resolving *resolving)
{
    int64_t until = 0;
    if (is_over(resolving))
        return 0;
    const struct question *questions[] = {&resolving->whole, &resolving->families[RESOLVED_IPV4],
                                          &resolving->families[RESOLVED_IPV6]};
    for (size_t i = 0; i < ARRAY_LENGTH(questions); i++) {
        int64_t begun = is_pending(questions[i]) ? lookup_begun(questions[i]->lookup) : 0;
        if (begun + RESOLVE_LATE > until)
            until = begun + RESOLVE_LATE;
    }
    return sooner(until, resolving->deadline);
}

void resolving_release(struct resolving *resolving)
{
    lookup_drop(&resolving->whole.lookup);
    lookup_drop(&resolving->families[RESOLVED_IPV4].lookup);
    lookup_drop(&resolving->families[RESOLVED_IPV6].lookup);
}

static void set_late_error(const char *host, struct lookup *lookup, struct error *error)
{
    if (lookup_begun(lookup) == 0)
        error_set(error, ERROR_TIMEOUT,
                  "cannot resolve %s: waited for the resolver, all %d of its threads are busy with other names", host,
                  RESOLVE_THREADS_MAX);
    else
        error_set(error, ERROR_TIMEOUT, "cannot resolve %s: no answer in time", host);
}

static void set_wait_error(const char *host, struct lookup *lookup, enum client_watch_result result, int os_errno,
                           struct error *error)
{
    if (result == CLIENT_WATCH_DEADLINE)
        set_late_error(host, lookup, error);
    else if (result == CLIENT_WATCH_GONE)
        error_set(error, ERROR_CANCELLED, "cannot resolve %s: the client has gone", host);
    else
        error_set_errno(error, os_errno, "cannot resolve %s: poll", host);
}

// Why there is no address. The look-up of both families can tell best.
static void set_failure(const struct resolving *resolving, struct error *error)
{
    const struct resolution *answer;
    const struct error *why;
    const struct question *questions[] = {&resolving->whole, &resolving->families[resolving->first],
                                          &resolving->families[1 - resolving->first]};
    for (size_t i = 0; i < ARRAY_LENGTH(questions); i++)
        if (questions[i]->lookup != NULL && lookup_is_done(questions[i]->lookup, &answer, &why))
            error_pass(error, why);
}

static bool may_begin(struct resolving *resolving, const struct resolution *resolution, int64_t now)
{
    if (resolution_count(resolution) == 0)
        return false;
    if (resolution->counts[resolving->first] > 0 || !is_awaited(resolving))
        return true;
    if (resolving->hold_until == 0)
        resolving->hold_until = hold_until(resolving, now);
    return now >= resolving->hold_until;
}

bool resolving_await(struct resolving *resolving, struct client_watch *watch, struct resolution *resolution,
                     struct error *error)
{
    clear(resolution);
    for (;;) {
        int64_t next = resolving_advance(resolving, resolution);
        if (may_begin(resolving, resolution, clock_now()))
            return true;
        if (is_over(resolving)) {
            set_failure(resolving, error);
            return false;
        }
        if (resolution_count(resolution) > 0)
            next = sooner(next, resolving->hold_until);
        struct pollfd descriptors[RESOLVING_DESCRIPTORS_MAX];
        size_t count = resolving_descriptors(resolving, descriptors);
        enum client_watch_result result =
            client_watch_poll(watch, descriptors, count, sooner(next, resolving->deadline));
        bool is_late = result == CLIENT_WATCH_DEADLINE && deadline_left(resolving->deadline) == 0;
        if (is_late && resolution_count(resolution) > 0)
            return true;
        if (is_late || result == CLIENT_WATCH_GONE || result == CLIENT_WATCH_FAILED) {
            set_wait_error(resolving->address->host, resolving->whole.lookup, result, errno, error);
            return false;
        }
    }
}

// Waiting for all of the answer.

static bool resolve_name(const struct address *address, struct client_watch *watch, int64_t deadline,
                         struct resolution *resolution, struct error *error)
{
    struct lookup *lookup = lookup_join(address->host, address->family, error);
    if (lookup == NULL)
        return false;
    const struct resolution *answer;
    const struct error *why;
    struct pollfd done = {.fd = lookup_descriptor(lookup), .events = POLLIN};
    enum client_watch_result result = client_watch_poll(watch, &done, 1, deadline);
    bool is_done = result == CLIENT_WATCH_READY && lookup_is_done(lookup, &answer, &why);
    bool is_good = is_done && why->code == ERROR_NONE;
    if (is_good)
        *resolution = *answer;
    else if (is_done)
        error_pass(error, why);
    else
        set_wait_error(address->host, lookup, result, errno, error);
    lookup_drop(&lookup);
    return is_good;
}

static bool resolve_literal(const struct address *address, struct resolution *resolution, struct error *error)
{
    struct endpoint endpoint;
    if (!endpoint_of_address(address, &endpoint)) {
        error_set(error, ERROR_RESOLVE, "cannot resolve %s: there is no such network interface", address->host);
        return false;
    }
    clear(resolution);
    if (endpoint.address.any.sa_family == AF_INET) {
        memcpy(&resolution->ipv4[0], &endpoint.address, sizeof resolution->ipv4[0]);
        resolution->first = RESOLVED_IPV4;
    } else {
        memcpy(&resolution->ipv6[0], &endpoint.address, sizeof resolution->ipv6[0]);
        resolution->first = RESOLVED_IPV6;
    }
    resolution->counts[resolution->first] = 1;
    return true;
}

bool resolve(const struct address *address, struct client_watch *watch, int64_t deadline, struct resolution *resolution,
             struct error *error)
{
    if (address->kind != ADDRESS_TCP) {
        error_set(error, ERROR_INVALID, "only names and IP addresses are resolved");
        return false;
    }
    if (address->is_literal)
        return resolve_literal(address, resolution, error);
    if (deadline_left(deadline) == 0) {
        error_set(error, ERROR_TIMEOUT, "cannot resolve %s: no time is left", address->host);
        return false;
    }
    return resolve_name(address, watch, deadline, resolution, error);
}
