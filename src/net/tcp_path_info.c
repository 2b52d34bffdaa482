#include "bitflow/net/tcp_path_info.h"

#include <linux/tcp.h> // netinet/tcp.h has but the beginning of struct tcp_info
#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>

#include "bitflow/base/clock.h"

// Whether the kernel, which may be older than the header, has filled this field.
#define IS_TOLD(field) (offsetof(struct tcp_info, field) + sizeof((struct tcp_info *)0)->field <= length)
#define TOLD(field) (IS_TOLD(field) ? (int64_t)told.field : -1)

static int64_t ns_of(int64_t us)
{
    return us < 0 ? -1 : us * NS_PER_US;
}

bool tcp_path_info_of(int fd, struct tcp_path_info *info)
{
    struct tcp_info told = {.tcpi_state = 0};
    socklen_t length = sizeof told;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &told, &length) != 0)
        return false;
    *info = (struct tcp_path_info){
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
    if (info->min_rtt == ns_of(UINT32_MAX)) // no sample yet
        info->min_rtt = -1;
    if (info->delivery_rate == 0)
        info->delivery_rate = -1;
    return true;
}
