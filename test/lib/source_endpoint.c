#include "source_endpoint.h"

struct endpoint client_at(const char *text)
{
    struct address address;
    struct endpoint endpoint = {.length = 0};
    if (!address_parse(text, ADDRESS_TO_CONNECT, &address, NULL) || !endpoint_of_address(&address, &endpoint))
        (void)fprintf(stderr, "%s is no endpoint\n", text);
    return endpoint;
}

struct endpoint client_of(unsigned source, bool is_ipv6)
{
    char text[ADDRESS_TEXT_SIZE];
    if (is_ipv6)
        (void)snprintf(text, sizeof text, "[2001:db8:0:%x::1]:9", source & 0xffff);
    else
        (void)snprintf(text, sizeof text, "10.0.%u.%u:9", source >> 8 & 255, source & 255);
    return client_at(text);
}

enum close_reason enter_source(struct source_counts *counts, const struct endpoint *client, int64_t limit,
                               struct source **source, struct error *error)
{
    const struct source_limits limits = {.connections = limit, .ipv4_prefix = 32, .ipv6_prefix = 64};
    return enter_within(counts, client, &limits, source, error);
}

enum close_reason enter_within(struct source_counts *counts, const struct endpoint *client,
                               const struct source_limits *limits, struct source **source, struct error *error)
{
    struct failure failure = {.reason = CLOSE_NONE};
    bool has_entered = source_counts_enter(counts, client, limits, source, &failure);
    if (error != NULL)
        *error = failure.error;
    // CLOSE_REASON_COUNT: the answer and the failure disagree, which no test expects.
    return has_entered == (failure.reason == CLOSE_NONE) ? failure.reason : CLOSE_REASON_COUNT;
}
