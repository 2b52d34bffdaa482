// Name resolution with a deadline. getaddrinfo() has none, so it runs on helper threads of a bounded pool; whoever
// asked gives up at the deadline, or when the client leaves, and the answer is freed whenever it comes. Any thread; a
// `struct resolver_query` is its asker's alone.
//
// A name is looked up for both families at once at first: what /etc/hosts or a quick name server knows costs one
// hand-over to a thread, comes in the system's order (RFC 6724, gai.conf), and a name that the hosts file has of one
// family is not looked for in DNS. That answer comes when both are there, though, and there are name servers that never
// answer for one. Where it takes longer than RESOLVER_SPLIT, each family is looked up by itself as well, and whichever
// answer is there first counts (RFC 8305, 3).
//
// Look-ups are shared (src/net/resolver_job.h); nothing is remembered once it is answered.

#ifndef BITFLOW_NET_RESOLVER_H
#define BITFLOW_NET_RESOLVER_H

#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/net/address.h"
#include "bitflow/net/client_watch.h"

#define RESOLVER_THREADS_MAX 64 // look-ups at once; any others wait for one of these to end
// ns that a look-up of both families has before they are looked up apart.
#define RESOLVER_SPLIT (INT64_C(25) * 1000 * 1000)
#define RESOLVER_DELAY (INT64_C(50) * 1000 * 1000) // ns; RFC 8305, 3: "Resolution Delay"
// ns that a preferred family has beyond the other one, where no resolve_timeout says it.
#define RESOLVER_PREFERRED_DELAY (INT64_C(300) * 1000 * 1000)
// ns, from the question, that a family's answer is waited for when all addresses of the other have failed.
#define RESOLVER_LATE (INT64_C(5000) * 1000 * 1000)

#define RESOLVED_ADDRESSES_MAX 32 // of each family; further ones are left out

// Families as indices.
enum { RESOLVED_IPV4, RESOLVED_IPV6, RESOLVED_FAMILIES };

// The addresses of a name; within a family in the system's order.
struct resolved_addresses {
    int first; // the family that comes first
    size_t counts[RESOLVED_FAMILIES];
    struct sockaddr_in ipv4[RESOLVED_ADDRESSES_MAX];
    struct sockaddr_in6 ipv6[RESOLVED_ADDRESSES_MAX];
};

size_t resolved_count(const struct resolved_addresses *resolved);

// An address, with a port: the `at`-th of a family.
void resolved_endpoint(const struct resolved_addresses *resolved, int family, size_t at, uint16_t port,
                       struct endpoint *endpoint);

// Adds the addresses that are not yet there, at the end; `first` stays.
void resolved_add(struct resolved_addresses *resolved, const struct resolved_addresses *more);

// All addresses of an ADDRESS_TCP address; a literal is answered without a thread. Waits for both families.
// ERROR_RESOLVE (there is no such name, or no address of the wanted family), ERROR_TIMEOUT (no answer, or no
// thread of the resolver, in time), ERROR_CANCELLED, ERROR_NO_*.
bool resolve(const struct address *address, struct client_watch *watch, int64_t deadline,
             struct resolved_addresses *resolved, struct error *error);

// A query, for callers that can begin with some of the addresses and takes others later. It is up to three look-ups.

// As indices: each family by itself (RESOLVED_*), and both in one, or the only family that is wanted.
enum { RESOLVER_WHOLE = RESOLVED_FAMILIES, RESOLVER_SUBQUERIES };

struct resolver_job;

enum resolver_subquery_state { SUBQUERY_UNASKED, SUBQUERY_PENDING, SUBQUERY_FAILED, SUBQUERY_ANSWERED };

struct resolver_subquery {
    struct resolver_job *job; // NULL: not asked
    enum resolver_subquery_state state;
};

struct resolver_query {
    const struct address *address;
    int preferred;      // the family whose answer is waited for, by default IPv6; RESOLVED_*
    int64_t deadline;   // for the answers
    int64_t delay;      // ns that the preferred family has beyond the other one
    int64_t hold_until; // once the other family is answered: when its addresses are taken alone
    int64_t retry_from; // while nothing is answered: when look-ups may be done once more
    struct resolver_subquery subqueries[RESOLVER_SUBQUERIES];
};

struct resolver_query_terms {
    enum address_family preferred; // who is waited for; ADDRESS_ANY: IPv6, for RESOLVER_DELAY, as RFC 8305 says
    int64_t resolve_timeout;       // ns; 0: none but the deadline. It is the wait for the preferred family then, too
};

// Begins to resolve a name: an ADDRESS_TCP address, no literal, which must outlive it. Released in any case.
bool resolver_query_begin(struct resolver_query *query, const struct address *address,
                          const struct resolver_query_terms *terms, int64_t deadline, struct error *error);

// Waits until it makes sense to begin connecting: the preferred family has addresses, or the other one has and the
// preferred one has had its time. Errors as of resolve(); also those of `resolve_timeout` are ERROR_TIMEOUT.
bool resolver_query_await(struct resolver_query *query, struct client_watch *watch, struct resolved_addresses *resolved,
                          struct error *error);

// For callers that wait for other things as well: adds what has come, and starts look-ups that are due. Returns when to
// call it again, or earlier when one of the descriptors is readable; DEADLINE_NONE once all is answered.
#define RESOLVER_DESCRIPTORS_MAX RESOLVER_SUBQUERIES
int64_t resolver_query_advance(struct resolver_query *query, struct resolved_addresses *resolved);
size_t resolver_query_descriptors(const struct resolver_query *query, struct pollfd *descriptors);

// Until when further addresses are worth a wait if nothing else is left to do; 0 if there will be none.
int64_t resolver_query_worth_until(const struct resolver_query *query);

void resolver_query_release(struct resolver_query *query);

#endif
