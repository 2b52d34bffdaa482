// Name resolution with a deadline. getaddrinfo() has none, so it runs on helper threads of a bounded pool; whoever
// asked gives up at the deadline, or when the client leaves, and the answer is freed whenever it comes. Any thread; a
// `struct resolving` is its asker's alone.
//
// A name is asked for both families in one look-up at first: what /etc/hosts or a quick name server knows costs one
// hand-over to a thread, stands in the system's order (RFC 6724, gai.conf), and a name that the hosts file has of one
// family is not looked for in DNS. That answer comes when both are there, though, and there are name servers that never
// answer for one. Where it takes longer than RESOLVE_SPLIT, the families are looked up apart, too, and whichever answer
// is there first counts (RFC 8305, 3).
//
// Look-ups are shared (src/net/resolve_lookup.h); nothing is remembered once it is answered.

#ifndef BITFLOW_NET_RESOLVE_H
#define BITFLOW_NET_RESOLVE_H

#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/net/address.h"
#include "bitflow/net/client_watch.h"

#define RESOLVE_THREADS_MAX 64 // look-ups at once; any others wait for one of these to end
// ns that a look-up of both families has before they are looked up apart.
#define RESOLVE_SPLIT (INT64_C(25) * 1000 * 1000)
#define RESOLVE_DELAY (INT64_C(50) * 1000 * 1000) // ns; RFC 8305, 3: "Resolution Delay"
// ns that a preferred family has beyond the other one, where no resolve_timeout says it.
#define RESOLVE_PREFERRED_DELAY (INT64_C(300) * 1000 * 1000)
// ns, from the question, that a family's answer is waited for when all addresses of the other have failed.
#define RESOLVE_LATE (INT64_C(5000) * 1000 * 1000)

#define RESOLVE_ADDRESSES_MAX 32 // of each family; further ones are left out

// Families as indices.
enum { RESOLVED_IPV4, RESOLVED_IPV6, RESOLVED_FAMILIES };

// The addresses of a name; within a family in the system's order.
struct resolution {
    int first; // the family that comes first
    size_t counts[RESOLVED_FAMILIES];
    struct sockaddr_in ipv4[RESOLVE_ADDRESSES_MAX];
    struct sockaddr_in6 ipv6[RESOLVE_ADDRESSES_MAX];
};

size_t resolution_count(const struct resolution *resolution);

// An address, with a port: the `at`-th of a family.
void resolution_endpoint(const struct resolution *resolution, int family, size_t at, uint16_t port,
                         struct endpoint *endpoint);

// Adds the addresses that are not yet there, at the end; `first` stays.
void resolution_add(struct resolution *resolution, const struct resolution *more);

// All addresses of an ADDRESS_TCP address; a literal is answered without a thread. Waits for both families.
// ERROR_RESOLVE (there is no such name, or no address of the wanted family), ERROR_TIMEOUT (no answer, or no
// thread of the resolver, in time), ERROR_CANCELLED, ERROR_NO_*.
bool resolve(const struct address *address, struct client_watch *watch, int64_t deadline, struct resolution *resolution,
             struct error *error);

// Resolving for who can begin with some of the addresses, and takes others later.

struct lookup;

enum question_state { QUESTION_UNASKED, QUESTION_PENDING, QUESTION_FAILED, QUESTION_ANSWERED };

struct question {
    struct lookup *lookup; // NULL: not asked
    enum question_state state;
};

struct resolving {
    const struct address *address;
    int first;                   // the family that is better waited for: the preferred one, else IPv6; RESOLVED_*
    int64_t deadline;            // for the answers
    int64_t delay;               // ns that the better family has beyond the other one
    int64_t hold_until;          // where the other one has come: when it is taken alone
    int64_t retry_from;          // while nothing has come: when look-ups may be done once more
    struct question whole;       // both families in one, or the only one
    struct question families[2]; // each by itself, by RESOLVED_*
};

struct resolving_terms {
    enum address_family preferred; // who is waited for; ADDRESS_ANY: IPv6, for RESOLVE_DELAY, as RFC 8305 says
    int64_t resolve_timeout;       // ns; 0: none but the deadline. It is the wait for the preferred family then, too
};

// Begins to resolve a name: an ADDRESS_TCP address, no literal, which must outlive it. Released in any case.
bool resolving_begin(struct resolving *resolving, const struct address *address, const struct resolving_terms *terms,
                     int64_t deadline, struct error *error);

// Waits until it makes sense to begin connecting: the better family has addresses, or the other one has and the better
// one has had its time. Errors as of resolve(); also those of `resolve_timeout` are ERROR_TIMEOUT.
bool resolving_await(struct resolving *resolving, struct client_watch *watch, struct resolution *resolution,
                     struct error *error);

// For who waits for other things as well: adds what has come, and starts look-ups that are due. Returns the time at
// which to call it again, or earlier when one of the descriptors is readable; DEADLINE_NONE once all is answered.
#define RESOLVING_DESCRIPTORS_MAX 3
int64_t resolving_advance(struct resolving *resolving, struct resolution *resolution);
size_t resolving_descriptors(const struct resolving *resolving, struct pollfd *descriptors);

// Until when further addresses are worth a wait if nothing else is left to do; 0 if there will be none.
int64_t resolving_worth_until(const struct resolving *resolving);

void resolving_release(struct resolving *resolving);

#endif
