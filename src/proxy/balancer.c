#include "bitflow/proxy/balancer.h"

#include <string.h>
#include <strings.h>

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

enum fit { FITS_NOT, FITS_ALL, FITS_WILDCARD, FITS_EXACTLY };

static enum fit fit_of(const char *target_name, const char *server_name)
{
    if (strcmp(target_name, "*") == 0)
        return FITS_ALL;
    if (*server_name == '\0')
        return FITS_NOT;
    if (strcasecmp(target_name, server_name) == 0)
        return FITS_EXACTLY;
    const char *dot = strchr(server_name, '.');
    bool is_wildcard = target_name[0] == '*' && target_name[1] == '.';
    return is_wildcard && dot != NULL && dot != server_name && strcasecmp(target_name + 1, dot) == 0 ? FITS_WILDCARD
                                                                                                     : FITS_NOT;
}

size_t balancer_by_name(const struct target_config *targets, size_t target_count, const char *server_name)
{
    size_t best = BALANCER_NO_MORE;
    enum fit how = FITS_NOT;
    for (size_t i = 0; i < target_count; i++) {
        enum fit fit = fit_of(targets[i].name, server_name);
        if (fit > how) {
            best = i;
            how = fit;
        }
    }
    return best;
}
