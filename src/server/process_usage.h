// What the process takes of the machine. Any thread.

#ifndef BITFLOW_SRC_SERVER_PROCESS_USAGE_H
#define BITFLOW_SRC_SERVER_PROCESS_USAGE_H

#include <stdint.h>

struct process_usage {
    uint64_t user_ms, system_ms; // CPU, since the start
    uint64_t resident;           // bytes of memory
    uint64_t descriptors;        // open ones
    uint64_t descriptor_limit;
    uint64_t threads;
};

// What cannot be found out (there is no /proc) is 0.
void process_usage(struct process_usage *usage);

#endif
