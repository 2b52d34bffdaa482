#include "bitflow/proxy/balancer.h"

size_t balancer_candidate(enum balancer_policy policy, size_t target_count, uint64_t turn, size_t n)
{
    if (n >= target_count)
        return BALANCER_NO_MORE;
    switch (policy) {
    case BALANCER_FAILOVER:
        return n;
    case BALANCER_ROUND_ROBIN:
        return (size_t)((turn + n) % target_count);
    case BALANCER_NONE:
    case BALANCER_SNI: // chooses by name, before it comes to this
        break;
    }
    return n == 0 ? 0 : BALANCER_NO_MORE;
}
