// The half of the process that hands over.

#include "upgrade.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bitflow/base/log.h"
#include "bitflow/base/signals.h"
#include "bitflow/net/inherited.h"
#include "program.h"
#include "upgrade_channel.h"

// ---- the beginning

static bool start_program(struct upgrade *upgrade, int channel, struct error *error)
{
    char variable[UPGRADE_VARIABLE_SIZE];
    const struct upgrade_origin origin = {
        .role = upgrade->is_in_place ? UPGRADE_STAND_IN : UPGRADE_SUCCESSOR, .channel = channel, .process = getpid()};
    struct program_gifts gifts = {.variable = variable, .channel = channel};
    upgrade_origin_write(&origin, variable);
    if (!inherited_for_successor(&gifts.sockets, error))
        return false;
    bool is_started = program_start(&gifts, &upgrade->successor, error);
    inherited_sockets_release(&gifts.sockets);
    return is_started;
}

static bool start(struct upgrade *upgrade, struct error *error)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
        error_set_errno(error, errno, "cannot start the new program");
        return false;
    }
    bool is_started = handover_send(ends[0], &upgrade->offer, error) && start_program(upgrade, ends[1], error);
    (void)close(ends[1]);
    if (!is_started) {
        (void)close(ends[0]);
        handover_settle(&upgrade->offer, false);
        return false;
    }
    upgrade->channel = ends[0];
    return true;
}

static const char *why_not(const struct upgrade *upgrade)
{
    if (upgrade->state != UPGRADE_NONE)
        return "one is under way";
    if (upgrade->origin >= 0 && upgrade->role == UPGRADE_STAND_IN)
        return "this process only stands in for the one that comes back";
    if (upgrade->origin >= 0 && upgrade->role == UPGRADE_RETURNED)
        return "the process that stood in has not ended yet";
    return NULL;
}

static void log_failure(const char *reason)
{
    log_error(NULL, "upgrade failed, this process goes on", "program", program_path(), "error", reason, NULL);
}

void upgrade_begin(struct upgrade *upgrade, bool is_in_place)
{
    struct error error = ERROR_INIT;
    char process[LOG_NUMBER_SIZE];
    const char *obstacle = why_not(upgrade);
    if (obstacle != NULL) {
        log_warn(NULL, "upgrade refused", "because", obstacle, NULL);
        return;
    }
    upgrade->is_in_place = is_in_place;
    if (!start(upgrade, &error)) {
        log_failure(error.text);
        return;
    }
    upgrade->state = UPGRADE_UNDER_WAY;
    upgrade->is_child = true;
    upgrade->is_reload_due = upgrade->is_reopen_due = false;
    upgrade->deadline = deadline_after(upgrade->time);
    log_info(NULL, "upgrade begun", "program", program_path(), "process", log_number(process, upgrade->successor),
             NULL);
    upgrade_channel_watch(upgrade->channel);
}

// The process that we stand in for is back, and asks for the sockets.
static void begin_return(struct upgrade *upgrade)
{
    struct error error = ERROR_INIT;
    if (!handover_send(upgrade->origin, &upgrade->offer, &error)) {
        log_error(NULL, "cannot hand the listening sockets back", "error", error.text, NULL);
        return; // it waits in vain, and says so
    }
    upgrade->state = UPGRADE_UNDER_WAY;
    upgrade->channel = upgrade->origin;
    upgrade->successor = upgrade->former;
    upgrade->is_child = false;
    upgrade->is_reload_due = upgrade->is_reopen_due = false;
    upgrade->deadline = deadline_after(upgrade->time);
}

// ---- how it goes

int64_t upgrade_deadline(const struct upgrade *upgrade)
{
    return upgrade->deadline;
}

bool upgrade_is_under_way(const struct upgrade *upgrade)
{
    return upgrade->state == UPGRADE_UNDER_WAY;
}

bool upgrade_postpones_reload(struct upgrade *upgrade)
{
    upgrade->is_reload_due = upgrade->state == UPGRADE_UNDER_WAY;
    return upgrade->is_reload_due;
}

void upgrade_pass_reopening_on(struct upgrade *upgrade)
{
    upgrade->is_reopen_due = upgrade->state == UPGRADE_UNDER_WAY;
    // The process that everyone knows gets the signal itself, and has passed it on to its stand-in.
    if (upgrade->origin >= 0 && upgrade->role != UPGRADE_STAND_IN)
        upgrade_channel_say(upgrade->origin, UPGRADE_WORD_REOPEN);
}

bool upgrade_is_to_reopen(const struct upgrade *upgrade, int number)
{
    bool is_asked = false;
    if (number != signals_notice() || upgrade->state != UPGRADE_DONE || upgrade->is_in_place)
        return false;
    while (upgrade_channel_hear(upgrade->channel) == UPGRADE_WORD_REOPEN)
        is_asked = true;
    return is_asked;
}

static void succeed(struct upgrade *upgrade)
{
    char process[LOG_NUMBER_SIZE];
    upgrade->state = UPGRADE_DONE;
    upgrade->deadline = DEADLINE_NONE;
    handover_settle(&upgrade->offer, true);
    inherited_hand_down();
    signals_send_notice(); // another word may be behind this one
    log_info(NULL, "upgraded, the new process serves, this one drains", "process",
             log_number(process, upgrade->successor), NULL);
    if (upgrade->is_reload_due)
        (void)kill(upgrade->successor, SIGHUP);
    else if (upgrade->is_reopen_due)
        (void)kill(upgrade->successor, SIGUSR1);
}

// Whatever it is doing: it serves nobody. One that has ended keeps its status.
static int end_child(const struct upgrade *upgrade)
{
    int status = 0;
    (void)kill(upgrade->successor, SIGKILL);
    while (waitpid(upgrade->successor, &status, 0) < 0 && errno == EINTR)
        continue;
    return status;
}

static void back_to_normal(struct upgrade *upgrade)
{
    handover_settle(&upgrade->offer, false);
    if (upgrade->is_child)
        (void)close(upgrade->channel); // the other one is the origin's
    upgrade->channel = -1;
    upgrade->successor = 0;
    upgrade->is_in_place = false;
    upgrade->state = UPGRADE_NONE;
    upgrade->deadline = DEADLINE_NONE;
}

static void fail(struct upgrade *upgrade, enum upgrade_word word)
{
    char reason[64];
    int status = upgrade->is_child ? end_child(upgrade) : 0;
    if (word == UPGRADE_WORD_NONE)
        (void)snprintf(reason, sizeof reason, "it did not serve within %lld s", (long long)(upgrade->time / NS_PER_S));
    else if (upgrade->is_child && word == UPGRADE_WORD_END)
        upgrade_describe_end(status, reason, sizeof reason);
    else
        (void)snprintf(reason, sizeof reason, "it could not start");
    back_to_normal(upgrade);
    log_failure(reason);
}

static void look_at_origin(struct upgrade *upgrade)
{
    if (upgrade->origin < 0 || upgrade->state != UPGRADE_NONE)
        return;
    enum upgrade_word word = upgrade_channel_hear(upgrade->origin);
    if (word == UPGRADE_WORD_GIVE && upgrade->role == UPGRADE_STAND_IN)
        begin_return(upgrade);
    if (word != UPGRADE_WORD_END)
        return;
    if (upgrade->role == UPGRADE_RETURNED) // our child
        while (waitpid(upgrade->former, NULL, 0) < 0 && errno == EINTR)
            continue;
    (void)close(upgrade->origin);
    upgrade->origin = -1;
}

enum upgrade_news upgrade_look(struct upgrade *upgrade)
{
    look_at_origin(upgrade);
    if (upgrade->state != UPGRADE_UNDER_WAY)
        return UPGRADE_NO_NEWS;
    enum upgrade_word word = upgrade_channel_hear(upgrade->channel);
    if (word == UPGRADE_WORD_NONE && deadline_left(upgrade->deadline) > 0)
        return UPGRADE_NO_NEWS;
    if (word != UPGRADE_WORD_SERVE) {
        fail(upgrade, word);
        return UPGRADE_FAILED;
    }
    succeed(upgrade);
    return UPGRADE_SERVES;
}

// ---- the end

void upgrade_give_up(struct upgrade *upgrade)
{
    if (upgrade->state != UPGRADE_UNDER_WAY)
        return;
    upgrade->is_told_to_end = true;
    if (upgrade_channel_hear(upgrade->channel) == UPGRADE_WORD_SERVE) {
        succeed(upgrade);
        (void)kill(upgrade->successor, SIGTERM);
        return;
    }
    if (upgrade->is_child)
        (void)end_child(upgrade);
    back_to_normal(upgrade);
    log_warn(NULL, "upgrade given up, this process ends", NULL);
}

// Only where we are its parent for good.
static bool is_lost(struct upgrade *upgrade)
{
    if (!upgrade->is_in_place || upgrade->is_successor_lost)
        return false;
    if (upgrade_channel_hear(upgrade->channel) != UPGRADE_WORD_END)
        return false;
    upgrade->successor_status = end_child(upgrade); // its descriptors are closed before it can be waited for
    upgrade->is_successor_lost = true;
    return true;
}

const char *upgrade_hear_in_drain(struct upgrade *upgrade, int number)
{
    if (number == SIGUSR2)
        log_warn(NULL, "upgrade refused", "because", "this process drains", NULL);
    if (upgrade->state != UPGRADE_DONE)
        return signals_is_end(number) ? "of a second signal" : NULL;
    if (number != SIGUSR2 && upgrade->is_in_place && number > 0 && number != signals_notice() &&
        !upgrade->is_successor_lost)
        (void)kill(upgrade->successor, number); // everyone knows this process only
    if (number == signals_notice() && is_lost(upgrade))
        return "the process that took over has ended";
    if (!signals_is_end(number))
        return NULL;
    bool is_second = upgrade->is_told_to_end; // it drains already, and not because it was told to
    upgrade->is_told_to_end = true;
    return is_second ? "of a second signal" : NULL;
}

static bool is_good_end(int status, struct error *error)
{
    char reason[64];
    if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS)
        return true;
    upgrade_describe_end(status, reason, sizeof reason);
    error_set(error, ERROR_SYSTEM, "the process that took over: %s", reason);
    return false;
}

static bool end_in_place(struct upgrade *upgrade, struct service_manager *manager, struct error *error)
{
    if (upgrade->is_successor_lost)
        return is_good_end(upgrade->successor_status, error);
    if (!upgrade->is_told_to_end)
        upgrade_become(upgrade->channel, upgrade->successor, manager);
    return is_good_end(upgrade_pass_on(upgrade->channel, upgrade->successor, manager), error);
}

bool upgrade_end(struct upgrade *upgrade, struct service_manager *manager, struct error *error)
{
    if (upgrade->state == UPGRADE_DONE && upgrade->is_in_place)
        return end_in_place(upgrade, manager, error);
    // Where this process's end is everybody's, the one that stood in may have connections that drain.
    if (upgrade->origin >= 0 && upgrade->role == UPGRADE_RETURNED)
        (void)upgrade_pass_on(upgrade->origin, upgrade->former, manager);
    return true;
}
