// What main() has to do with upgrades (src/server/upgrade.h). The main thread's.

#ifndef BITFLOW_SERVER_UPGRADE_H
#define BITFLOW_SERVER_UPGRADE_H

#include <stdbool.h>

// Before anything else opens a descriptor: remembers how the program was started, and whether by a process that is to
// be taken over from.
void upgrade_init(char *const *arguments);

// This process could not start, and another one serves meanwhile in its place.
bool upgrade_has_stand_in(void);

// Passes signals on to that one until it ends; SIGUSR2 tries once more to take its place. `is_told_to_end`: it is told,
// too. Whether it has ended in order.
bool upgrade_stand_by(bool is_told_to_end);

#endif
