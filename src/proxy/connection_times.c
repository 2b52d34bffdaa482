// How long the phases of a connection took, for the connection log and the metrics.

#include <stdatomic.h>

#include "connection_parts.h"

// From one point to the next that was reached; `now` if none was yet.
static int64_t lasted(int64_t begin, int64_t end, int64_t now)
{
    if (begin == 0)
        return 0;
    return (end != 0 ? end : now) - begin;
}

static int64_t first_of(int64_t one, int64_t other)
{
    return one != 0 ? one : other;
}

void connection_times_of(const struct connection *connection, int64_t now, struct connection_times *times)
{
    const int64_t ended = connection->ended;
    int64_t first_byte = atomic_load_explicit(&connection->relay.first_byte, memory_order_relaxed);
    *times = (struct connection_times){
        .wait = lasted(connection->start, first_of(connection->served, ended), now),
        .admit = lasted(connection->served, first_of(connection->admitted, ended), now),
        .dial = lasted(connection->admitted, first_of(connection->relay_start, ended), now),
        .relay = lasted(connection->relay_start, ended, now),
        .first_byte = first_byte == 0 ? 0 : first_byte - connection->relay_start,
        .total = lasted(connection->start, ended, now),
    };
}
