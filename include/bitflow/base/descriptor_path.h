// The path by which a descriptor of this process is opened, or looked at, once more.

#ifndef BITFLOW_BASE_DESCRIPTOR_PATH_H
#define BITFLOW_BASE_DESCRIPTOR_PATH_H

#include <stdio.h>

#define DESCRIPTOR_PATH_SIZE (sizeof "/proc/self/fd/-2147483648")

static inline void descriptor_path(int fd, char out[DESCRIPTOR_PATH_SIZE])
{
    (void)snprintf(out, DESCRIPTOR_PATH_SIZE, "/proc/self/fd/%d", fd);
}

#endif
