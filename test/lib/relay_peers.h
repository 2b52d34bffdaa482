// Two peers that talk through a relay, each on a thread of its own, and account for every byte.

#ifndef BITFLOW_TEST_RELAY_PEERS_H
#define BITFLOW_TEST_RELAY_PEERS_H

#include "relay_rig.h"

enum peer_manner {
    PEER_FINISHES,     // sends all, ends its stream, reads to the end
    PEER_ANSWERS,      // ends its stream only when the other's has ended
    PEER_RESETS,       // sends all and resets, whatever is under way to it
    PEER_STOPS_READING // sends all, reads `reads` bytes and closes with the rest unread
};

struct peer {
    int *fd; // -1 after a reset
    enum peer_manner manner;
    unsigned sends_stream, receives_stream;
    uint64_t size; // to send
    uint64_t reads;
    uint64_t sent, received;
    enum rig_end end;
    pthread_t thread;
    unsigned random;
};

unsigned peer_random(struct peer *peer);

void *peer_run(void *argument);

void peer_start(struct peer *peer);

void peer_join(struct peer *peer);

#endif
