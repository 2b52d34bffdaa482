#include "bitflow/net/tcp_facts.h"

#include <linux/tcp.h> // netinet/tcp.h has but the beginning of struct tcp_info
#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>

#include "bitflow/base/clock.h"

// Whether the kernel, which may be older than the header, has filled this field.
#define IS_TOLD(field) (offsetof(struct tcp_info, field) + sizeof((struct tcp_info *)0)->field <= length)
#define TOLD(field) (IS_TOLD(field) ? (int64_t)info.field : -1)

static int64_t ns_of(int64_t us)
{
    return us < 0 ? -1 : us * NS_PER_US;
}

bool tcp_facts_of(int fd, struct tcp_facts *facts)
{
    struct tcp_info info = {.tcpi_state = 0};
    socklen_t length = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0)
        return false;
    *facts = (struct tcp_facts){
        .rtt = ns_of(TOLD(tcpi_rtt)),
        .rttvar = ns_of(TOLD(tcpi_rttvar)),
        .min_rtt = ns_of(TOLD(tcpi_min_rtt)),
        .retransmits = TOLD(tcpi_total_retrans),
        .lost = TOLD(tcpi_lost),
        .unacked = TOLD(tcpi_unacked),
        .unsent = TOLD(tcpi_notsent_bytes),
        .bytes_acked = TOLD(tcpi_bytes_acked),
        .bytes_received = TOLD(tcpi_bytes_received),
        .delivery_rate = TOLD(tcpi_delivery_rate),
    };
    if (facts->min_rtt == ns_of(UINT32_MAX)) // no sample yet
        facts->min_rtt = -1;
    if (facts->delivery_rate == 0)
        facts->delivery_rate = -1;
    return true;
}
