// The half of upgrade.h of a process that takes over.

#include "bitflow/server/upgrade.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bitflow/base/log.h"
#include "bitflow/base/signals.h"
#include "program.h"
#include "upgrade_channel.h"

// How long the sockets may take: from a process that starts this one they have come already, a stand-in's main thread
// may be loading a configuration.
#define RECEIVE_TIME (30 * NS_PER_S)

static struct upgrade_origin origin = {.role = UPGRADE_FIRST, .channel = -1};

void upgrade_init(char *const *arguments)
{
    program_remember(arguments);
    origin = upgrade_origin_read();
}

bool upgrade_take_over(struct upgrade *upgrade, struct error *error)
{
    *upgrade = (struct upgrade){.time = UPGRADE_TIME,
                                .channel = -1,
                                .deadline = DEADLINE_NONE,
                                .role = origin.role,
                                .origin = origin.channel,
                                .former = origin.process};
    if (origin.role == UPGRADE_RETURNED)
        upgrade_channel_say(origin.channel, UPGRADE_WORD_GIVE);
    return origin.role == UPGRADE_FIRST || handover_receive(origin.channel, deadline_after(RECEIVE_TIME), error);
}

void upgrade_announce(struct upgrade *upgrade)
{
    char process[LOG_NUMBER_SIZE];
    if (upgrade->role == UPGRADE_FIRST)
        return;
    handover_close_rest();
    handover_confirm();
    upgrade_channel_say(upgrade->origin, UPGRADE_WORD_SERVE);
    upgrade_channel_watch(upgrade->origin);
    origin.role = UPGRADE_FIRST; // nobody else need be told
    log_info(NULL,
             upgrade->role == UPGRADE_STAND_IN ? "standing in for the process that is to come back" : "taken over",
             "from_process", log_number(process, upgrade->former), NULL);
}

void upgrade_decline(struct upgrade *upgrade)
{
    handover_close_rest();
    if (upgrade->role == UPGRADE_RETURNED) // others end, once they have told why
        upgrade_channel_say(upgrade->origin, UPGRADE_WORD_FAIL);
}

bool upgrade_is_echo(struct upgrade *upgrade, int number)
{
    bool is_told_by_former = upgrade->role == UPGRADE_STAND_IN || upgrade->role == UPGRADE_SUCCESSOR;
    if (!is_told_by_former || !signals_is_end(number))
        return false;
    bool is_passed_on = signals_sender() == upgrade->former;
    unsigned *told = is_passed_on ? &upgrade->ends_passed_on : &upgrade->ends_told;
    unsigned other = is_passed_on ? upgrade->ends_told : upgrade->ends_passed_on;
    return ++*told <= other;
}

bool upgrade_has_stand_in(void)
{
    return origin.role == UPGRADE_RETURNED;
}

bool upgrade_stand_by(bool is_told_to_end)
{
    struct service_manager manager;
    signals_init(); // where they have their default effects again
    service_manager_init(&manager, NULL, NULL);
    if (is_told_to_end) {
        service_manager_ending(&manager);
        (void)kill(origin.process, SIGTERM);
    } else {
        service_manager_upgrading(&manager);
        log_error(NULL, "the upgrade is not complete, the process that stands in goes on", NULL);
    }
    int status = upgrade_pass_on(origin.channel, origin.process, &manager);
    service_manager_release(&manager);
    return WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS;
}
