// Sends metrics to a statsd server, from a thread of its own ("statsd"): once a second it asks for what there is to
// report, and sends it in as few datagrams as hold it. Nobody else ever waits for it, and nothing is queued: what is
// counted stays where it is counted until it could be sent. A receiver that is not there, or that comes back, is said
// once in the application log.
//
// The functions are for the server's thread. One lock, held for moments.

#ifndef BITFLOW_TELEMETRY_STATSD_H
#define BITFLOW_TELEMETRY_STATSD_H

#include "bitflow/base/error.h"
#include "bitflow/telemetry/statsd_batch.h"

struct statsd_settings {
    const char *address; // see telemetry/statsd_socket.h
    const char *prefix;  // NULL: none
    enum statsd_format format;
};

// Reports everything to the batch. Called by the thread.
typedef void statsd_collect(struct statsd_batch *batch, void *argument);

struct statsd;

// Starts the thread, which does nothing before statsd_configure(). It counts in `losses`, the caller's, what does not
// arrive. ERROR_NO_THREADS, ERROR_NO_MEMORY.
struct statsd *statsd_create(statsd_collect *collect, void *argument, struct statsd_losses *losses,
                             struct error *error);

// From now on, at once. The settings are copied; where memory for that is lacking the old ones stay.
void statsd_configure(struct statsd *statsd, const struct statsd_settings *settings);

// Reports for the last time and ends the thread; takes at most a few seconds, and usually none. Accepts NULL.
void statsd_destroy(struct statsd **statsd);

#endif
