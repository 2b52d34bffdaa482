// What the processes of an upgrade say to each other, and how a new one is told its role. The inside of upgrade.h.

#ifndef BITFLOW_SRC_SERVER_UPGRADE_CHANNEL_H
#define BITFLOW_SRC_SERVER_UPGRADE_CHANNEL_H

#include <stdbool.h>
#include <sys/types.h>

#include "bitflow/base/error.h"
#include "upgrade.h"

enum upgrade_word {
    UPGRADE_WORD_NONE = 0,     // nothing has come
    UPGRADE_WORD_END = 'e',    // is not sent: the other process has ended
    UPGRADE_WORD_GIVE = 'g',   // the process that comes back asks its stand-in for the sockets
    UPGRADE_WORD_SERVE = 's',  // who takes over serves
    UPGRADE_WORD_FAIL = 'f',   // it could not start
    UPGRADE_WORD_REOPEN = 'l', // who has taken over asks the process that drains to open its logs anew
};

// From now on the main thread gets a notice when something has come; and one at once.
void upgrade_channel_watch(int channel);

enum upgrade_word upgrade_channel_hear(int channel);
void upgrade_channel_say(int channel, enum upgrade_word word);

// As the environment tells a new process: how it is to begin, over which channel, and with whom.
struct upgrade_origin {
    enum upgrade_role role;
    int channel;
    pid_t process;
};

#define UPGRADE_VARIABLE "BITFLOW_UPGRADE"
#define UPGRADE_VARIABLE_SIZE 64

void upgrade_origin_write(const struct upgrade_origin *origin, char out[UPGRADE_VARIABLE_SIZE]);

// Takes the variable out of the environment. One that has come astray means nothing: it must name a channel that the
// process it names has made.
struct upgrade_origin upgrade_origin_read(void);

// Becomes the program anew, to take over from `child`. Returns only if that fails, which is logged.
void upgrade_become(int channel, pid_t child, struct service_manager *manager);

// Passes signals on to `child` until it ends, and tells the manager meanwhile; returns the child's status, as waitpid()
// has it. SIGUSR2 is upgrade_become(), unless this process was told to end.
int upgrade_pass_on(int channel, pid_t child, struct service_manager *manager);

// "it ended with status 2"
void upgrade_describe_end(int status, char *out, size_t size);

#endif
