// How many segments have come to a TCP socket. In a file of its own: <linux/tcp.h> and <netinet/tcp.h> exclude each
// other, and only the first one has this count.

#ifndef BITFLOW_TEST_TCP_SEGMENTS_H
#define BITFLOW_TEST_TCP_SEGMENTS_H

unsigned tcp_segments_in(int fd);

#endif
