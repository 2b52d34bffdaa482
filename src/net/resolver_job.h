// Look-ups of names, the inside of net/resolver.h. Any thread; one lock, held for moments.
//
// A name is looked up once at a time, for one family or for both: who asks meanwhile shares the answer, so that a name
// whose servers are dead takes few threads, however many wait for it. A packet may be lost, though, and getaddrinfo()
// asks again after 5 s only. So a look-up of one family that is not answered after a second can be done once more
// beside the first, up to RESOLVER_TRIES_MAX at once and only while half the threads are free; the first good answer is
// the answer. Where every thread is busy with other names, a look-up is queued, first come first served.

#ifndef BITFLOW_SRC_NET_RESOLVER_JOB_H
#define BITFLOW_SRC_NET_RESOLVER_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/net/address.h"
#include "bitflow/net/resolver.h"

#define RESOLVER_TRIES_MAX 4
#define RESOLVER_RETRY (INT64_C(1000) * 1000 * 1000) // ns

// The look-up of this name for these families (ADDRESS_ANY: both at once) that is under way, or a new one; a reference
// to it. ERROR_NO_MEMORY, ERROR_NO_DESCRIPTORS; other failures are answers.
struct resolver_job *resolver_job_join(const char *host, enum address_family family, struct error *error);

// Gives the reference back. One that is queued, and that nobody waits for any more, is not done at all.
void resolver_job_drop(struct resolver_job **job);

// Does it once more beside the others if it is time to. Returns when to call this again, DEADLINE_NONE: never.
int64_t resolver_job_retry(struct resolver_job *job);

int resolver_job_descriptor(const struct resolver_job *job); // readable once it is answered

// Whether it is answered; `*answer`, where it is, or the error, with the code ERROR_NONE if there is none. Both live as
// long as the reference.
bool resolver_job_is_done(struct resolver_job *job, const struct resolved_addresses **answer,
                          const struct error **error);

// When a thread first began with it; 0: it is queued.
int64_t resolver_job_begun(struct resolver_job *job);

#endif
