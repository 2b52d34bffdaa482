// What two processes have to agree on, which may be of different versions. The inside of net/handover.h.

#ifndef BITFLOW_SRC_NET_HANDOVER_TABLE_H
#define BITFLOW_SRC_NET_HANDOVER_TABLE_H

#include <stdint.h>

// Another one where a process that knows only this would misunderstand.
#define HANDOVER_MAGIC UINT64_C(0x31726576646e6168) // "handver1"
#define HANDOVER_SOCKETS_MAX 65536
// The kernel's limit of descriptors in a message is 253.
#define HANDOVER_MESSAGE_SOCKETS 250

struct handover_record {
    uint32_t is_any_port;
    uint32_t is_taken; // set by the process that takes over
    uint64_t device;
    uint64_t inode;
};

struct handover_table {
    uint64_t magic;
    uint32_t record_size;
    uint32_t count;
    struct handover_record records[];
};

#endif
