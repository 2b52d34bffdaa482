#include "upgrade_channel.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bitflow/base/log.h"
#include "bitflow/base/signals.h"
#include "bitflow/net/inherited.h"
#include "program.h"

void upgrade_channel_watch(int channel)
{
    (void)fcntl(channel, F_SETOWN, getpid());
    (void)fcntl(channel, F_SETSIG, signals_notice());
    (void)fcntl(channel, F_SETFL, O_ASYNC | O_NONBLOCK);
    signals_send_notice(); // something may have come before
}

enum upgrade_word upgrade_channel_hear(int channel)
{
    char word;
    ssize_t got = recv(channel, &word, 1, MSG_DONTWAIT);
    if (got == 1)
        return (enum upgrade_word)word;
    return got < 0 && (errno == EAGAIN || errno == EINTR) ? UPGRADE_WORD_NONE : UPGRADE_WORD_END;
}

// It has room, but for UPGRADE_WORD_REOPEN where the other process reads none: one more would tell it nothing new.
void upgrade_channel_say(int channel, enum upgrade_word word)
{
    char byte = (char)word;
    (void)send(channel, &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

// ---- the environment

static const char roles[] = {
    [UPGRADE_FIRST] = '-', [UPGRADE_SUCCESSOR] = 's', [UPGRADE_STAND_IN] = 'i', [UPGRADE_RETURNED] = 'r'};

void upgrade_origin_write(const struct upgrade_origin *origin, char out[UPGRADE_VARIABLE_SIZE])
{
    (void)snprintf(out, UPGRADE_VARIABLE_SIZE, UPGRADE_VARIABLE "=%c:%d:%d", roles[origin->role], origin->channel,
                   (int)origin->process);
}

static bool parse_number(const char **at, int *number)
{
    char *end;
    if (**at != ':' || (*at)[1] < '0' || (*at)[1] > '9')
        return false;
    errno = 0;
    long parsed = strtol(*at + 1, &end, 10);
    *at = end;
    *number = (int)parsed;
    return errno == 0 && parsed <= INT_MAX;
}

static bool parse(const char *text, struct upgrade_origin *origin)
{
    const char *role = text == NULL || *text == '\0' ? NULL : memchr(roles, *text, sizeof roles);
    if (role == NULL || role == roles)
        return false;
    const char *at = text + 1;
    int process;
    origin->role = (enum upgrade_role)(role - roles);
    if (!parse_number(&at, &origin->channel) || !parse_number(&at, &process) || *at != '\0')
        return false;
    origin->process = process;
    return true;
}

// Not one that has ended and was waited for: its number may be another's by now.
static bool is_child(pid_t process)
{
    siginfo_t info;
    return process > 0 && waitid(P_PID, (id_t)process, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

// The kernel knows who has made a pair of sockets.
static bool is_channel(const struct upgrade_origin *origin)
{
    bool is_back = origin->role == UPGRADE_RETURNED;
    struct ucred maker;
    socklen_t size = sizeof maker;
    int type = 0;
    socklen_t type_size = sizeof type;
    return getsockopt(origin->channel, SOL_SOCKET, SO_TYPE, &type, &type_size) == 0 && type == SOCK_SEQPACKET &&
           getsockopt(origin->channel, SOL_SOCKET, SO_PEERCRED, &maker, &size) == 0 && size == sizeof maker &&
           maker.pid == (is_back ? getpid() : origin->process) && (!is_back || is_child(origin->process));
}

struct upgrade_origin upgrade_origin_read(void)
{
    struct upgrade_origin origin = {.role = UPGRADE_FIRST, .channel = -1};
    bool is_meant = parse(getenv(UPGRADE_VARIABLE), &origin) && is_channel(&origin);
    (void)unsetenv(UPGRADE_VARIABLE);
    if (!is_meant)
        return (struct upgrade_origin){.role = UPGRADE_FIRST, .channel = -1};
    (void)fcntl(origin.channel, F_SETFD, FD_CLOEXEC);
    return origin;
}

// ---- the process that comes back

static void become(int channel, pid_t child, struct error *error)
{
    char variable[UPGRADE_VARIABLE_SIZE];
    const struct upgrade_origin origin = {.role = UPGRADE_RETURNED, .channel = channel, .process = child};
    struct program_gifts gifts = {.variable = variable, .channel = channel};
    upgrade_origin_write(&origin, variable);
    if (inherited_for_successor(&gifts.sockets, error)) {
        program_become(&gifts, error);
        inherited_sockets_release(&gifts.sockets);
    }
}

void upgrade_become(int channel, pid_t child, struct service_manager *manager)
{
    struct error error = ERROR_INIT;
    service_manager_returning(manager);
    become(channel, child, &error);
    service_manager_upgrading(manager);
    log_error(NULL, "the upgrade is not complete, the process that stands in goes on", "error", error.text, NULL);
}

// Its descriptors are closed before it can be waited for.
static bool has_ended(int channel, pid_t child, int *status)
{
    bool is_ending = upgrade_channel_hear(channel) == UPGRADE_WORD_END;
    pid_t ended;
    do
        ended = waitpid(child, status, is_ending ? 0 : WNOHANG);
    while (ended < 0 && errno == EINTR);
    return ended != 0;
}

int upgrade_pass_on(int channel, pid_t child, struct service_manager *manager)
{
    int status = 0;
    upgrade_channel_watch(channel);
    while (!has_ended(channel, child, &status)) {
        int number = service_manager_wait(manager, DEADLINE_NONE);
        if (number == SIGUSR2 && manager->phase == SERVICE_ENDING)
            log_warn(NULL, "upgrade refused", "because", "this process ends", NULL);
        else if (number == SIGUSR2)
            upgrade_become(channel, child, manager);
        else if (number != signals_notice())
            (void)kill(child, number);
    }
    return status;
}

void upgrade_describe_end(int status, char *out, size_t size)
{
    if (WIFSIGNALED(status))
        (void)snprintf(out, size, "it was ended by SIG%s", sigabbrev_np(WTERMSIG(status)));
    else
        (void)snprintf(out, size, "it ended with status %d", WEXITSTATUS(status));
}
