#include "service_manager.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/base/log.h"
#include "bitflow/base/signals.h"

#define STATUS_INTERVAL (5 * NS_PER_S)
#define RETRY_INTERVAL (1 * NS_PER_S)
// Messages in the time within which one is wanted: a listener's thread may be late with its answer, or the main thread
// busy, and there is still one in time.
#define WATCHDOG_MESSAGES 4
#define WATCHDOG_INTERVAL_MIN (10 * NS_PER_MS)
// While a reload, or a process that comes back in an upgrade, loads files, or waits for the names of listeners, nobody
// else can tell that the main thread goes on.
#define START_WATCHDOG_TIME (300 * NS_PER_S)
// What a process that ends asks for with each status, six times before it is over: more than what comes after the drain
// takes, and little enough for one that hangs.
#define END_EXTENSION "\nEXTEND_TIMEOUT_USEC=30000000"

// --- sending

// False: it was not taken; nothing waits.
static bool send_message(struct service_manager *manager, const char *message)
{
    ssize_t sent = sendto(manager->fd, message, strlen(message), MSG_DONTWAIT | MSG_NOSIGNAL,
                          &manager->endpoint.address.any, manager->endpoint.length);
    if (sent < 0 && !manager->is_failing) {
        struct error error = ERROR_INIT;
        char text[ENDPOINT_TEXT_SIZE];
        endpoint_format(&manager->endpoint, text);
        error_set_errno(&error, errno, "sendto");
        log_warn(NULL, "the service manager cannot be notified", "address", text, "error", error.text, NULL);
    }
    manager->is_failing = sent < 0;
    return sent >= 0;
}

static void drop_oldest(struct service_manager *manager)
{
    manager->message_count--;
    memmove(manager->messages[0], manager->messages[1], manager->message_count * sizeof manager->messages[0]);
}

// Whether nothing is left to be sent.
static bool flush(struct service_manager *manager)
{
    while (manager->message_count > 0) {
        if (!send_message(manager, manager->messages[0]))
            return false;
        drop_oldest(manager);
    }
    return true;
}

static bool is_heard(const struct service_manager *manager)
{
    return manager->endpoint.length > 0 && !manager->has_successor;
}

PRINTF_LIKE(2, 3) static void notify(struct service_manager *manager, const char *format, ...)
{
    if (!is_heard(manager))
        return;
    if (manager->message_count == SERVICE_MANAGER_MESSAGES_MAX)
        drop_oldest(manager);
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(manager->messages[manager->message_count++], SERVICE_MANAGER_MESSAGE_SIZE, format, arguments);
    va_end(arguments);
    (void)flush(manager);
}

// --- the status

static const char *plural(size_t count)
{
    return count == 1 ? "" : "s";
}

// What is left in this process, or in the one that stands in for it.
static void describe_rest(bool is_ending, bool is_serving, size_t connections, char out[SERVICE_MANAGER_STATUS_SIZE])
{
    if (is_serving)
        (void)snprintf(out, SERVICE_MANAGER_STATUS_SIZE, "%s, %zu connection%s left",
                       is_ending ? "ending" : "upgrading, another process serves", connections, plural(connections));
    else
        (void)snprintf(out, SERVICE_MANAGER_STATUS_SIZE, "%s",
                       is_ending ? "ending, another process drains"
                                 : "the upgrade is not complete, another process serves");
}

static void describe(const struct service_manager *manager, char out[SERVICE_MANAGER_STATUS_SIZE])
{
    bool is_serving = manager->runtime != NULL && manager->runtime->registry != NULL;
    size_t connections = is_serving ? registry_count(manager->runtime->registry) : 0;
    size_t proxies = is_serving ? manager->listeners->count : 0;
    switch (manager->phase) {
    case SERVICE_STARTING:
        (void)snprintf(out, SERVICE_MANAGER_STATUS_SIZE, "starting");
        break;
    case SERVICE_RUNNING:
        (void)snprintf(out, SERVICE_MANAGER_STATUS_SIZE, "%zu connection%s on %zu prox%s%s", connections,
                       plural(connections), proxies, proxies == 1 ? "y" : "ies",
                       manager->is_reload_refused ? "; the last reload failed, the old configuration is in force" : "");
        break;
    case SERVICE_RELOADING:
        (void)snprintf(out, SERVICE_MANAGER_STATUS_SIZE, "reloading");
        break;
    case SERVICE_UPGRADING:
    case SERVICE_ENDING:
        describe_rest(manager->phase == SERVICE_ENDING, is_serving, connections, out);
        break;
    }
}

// The status of a new phase, which a message with another assignment carries.
static const char *enter(struct service_manager *manager, enum service_phase phase)
{
    manager->phase = phase;
    if (!is_heard(manager))
        return "";
    manager->status_due = clock_now() + STATUS_INTERVAL;
    describe(manager, manager->status);
    return manager->status;
}

static void attend_status(struct service_manager *manager, int64_t now)
{
    char status[SERVICE_MANAGER_STATUS_SIZE], message[SERVICE_MANAGER_MESSAGE_SIZE];
    if (now < manager->status_due)
        return;
    manager->status_due = now + STATUS_INTERVAL;
    describe(manager, status);
    bool is_ending = manager->phase == SERVICE_ENDING;
    if (!is_ending && strcmp(status, manager->status) == 0)
        return;
    (void)snprintf(message, sizeof message, "STATUS=%s%s", status, is_ending ? END_EXTENSION : "");
    if (send_message(manager, message))
        memcpy(manager->status, status, sizeof status);
}

// --- the watchdog

// The assignment that changes the time within which the manager wants to hear of us, to go behind others in a message.
#define WATCHDOG_CHANGE_SIZE sizeof "\nWATCHDOG_USEC=9223372036854775807"
static const char *watchdog_change(const struct service_manager *manager, int64_t time, char out[WATCHDOG_CHANGE_SIZE])
{
    out[0] = '\0';
    if (manager->watchdog_time > 0 && manager->watchdog_time < START_WATCHDOG_TIME)
        (void)snprintf(out, WATCHDOG_CHANGE_SIZE, "\nWATCHDOG_USEC=%" PRId64, time / NS_PER_US);
    return out;
}

static int64_t next_watchdog(const struct service_manager *manager, int64_t now)
{
    int64_t interval = manager->watchdog_time / WATCHDOG_MESSAGES;
    return now + (interval > WATCHDOG_INTERVAL_MIN ? interval : WATCHDOG_INTERVAL_MIN);
}

// That we are here says that the main thread goes on. The listeners' threads were asked the last time, and are asked
// again; at the end nobody asks them, as it is bounded, and they wait for other things.
static void attend_watchdog(struct service_manager *manager, int64_t now)
{
    if (now < manager->watchdog_due)
        return;
    manager->watchdog_due = next_watchdog(manager, now);
    const char *silent = manager->phase == SERVICE_RUNNING ? listeners_find_silent(manager->listeners) : NULL;
    if (silent != NULL && !manager->is_unanswered) {
        struct log_context context = {.proxy = silent};
        log_error(&context, "the listener's thread does not answer, the watchdog is told no more", NULL);
    }
    manager->is_unanswered = silent != NULL;
    if (silent == NULL)
        (void)send_message(manager, "WATCHDOG=1");
    if (manager->phase == SERVICE_RUNNING)
        listeners_ping(manager->listeners);
}

int64_t service_manager_attend(struct service_manager *manager)
{
    if (manager->endpoint.length == 0)
        return DEADLINE_NONE;
    int64_t now = clock_now();
    if (manager->message_count > 0 && !flush(manager))
        return now + RETRY_INTERVAL;
    if (manager->has_successor)
        return DEADLINE_NONE;
    attend_status(manager, now);
    if (manager->watchdog_time == 0)
        return manager->status_due;
    attend_watchdog(manager, now);
    return deadline_sooner(manager->status_due, manager->watchdog_due);
}

int service_manager_wait(struct service_manager *manager, int64_t deadline)
{
    for (;;) {
        int64_t due = deadline_sooner(log_flush_repeats(false), service_manager_attend(manager));
        int number = signals_wait(deadline_sooner(due, deadline));
        if (signals_is_end(number))
            service_manager_ending(manager);
        if (number > 0 || deadline_left(deadline) == 0)
            return number;
    }
}

// --- phases

void service_manager_ready(struct service_manager *manager, bool is_successor)
{
    const char *status = enter(manager, SERVICE_RUNNING);
    manager->watchdog_due = next_watchdog(manager, clock_now());
    if (!is_successor)
        notify(manager, "READY=1\nSTATUS=%s", status);
}

void service_manager_reloading(struct service_manager *manager)
{
    char change[WATCHDOG_CHANGE_SIZE];
    int64_t now = clock_now();
    notify(manager, "RELOADING=1\nMONOTONIC_USEC=%" PRId64 "\nSTATUS=%s%s", now / NS_PER_US,
           enter(manager, SERVICE_RELOADING), watchdog_change(manager, START_WATCHDOG_TIME, change));
}

void service_manager_reloaded(struct service_manager *manager, bool is_refused)
{
    char change[WATCHDOG_CHANGE_SIZE];
    manager->is_reload_refused = is_refused;
    notify(manager, "READY=1\nSTATUS=%s%s", enter(manager, SERVICE_RUNNING),
           watchdog_change(manager, manager->watchdog_time, change));
}

void service_manager_upgrading(struct service_manager *manager)
{
    char change[WATCHDOG_CHANGE_SIZE];
    notify(manager, "STATUS=%s%s", enter(manager, SERVICE_UPGRADING),
           watchdog_change(manager, manager->watchdog_time, change));
}

void service_manager_returning(struct service_manager *manager)
{
    char change[WATCHDOG_CHANGE_SIZE];
    notify(manager, "STATUS=%s%s", enter(manager, SERVICE_STARTING),
           watchdog_change(manager, START_WATCHDOG_TIME, change));
}

void service_manager_returned(struct service_manager *manager)
{
    manager->watchdog_due = next_watchdog(manager, clock_now());
    service_manager_reloaded(manager, false);
}

void service_manager_ending(struct service_manager *manager)
{
    if (manager->phase != SERVICE_ENDING)
        notify(manager, "STOPPING=1\nSTATUS=%s" END_EXTENSION, enter(manager, SERVICE_ENDING));
}

void service_manager_hand_over(struct service_manager *manager, pid_t successor)
{
    notify(manager, "MAINPID=%" PRIdMAX "\nREADY=1", (intmax_t)successor);
    manager->has_successor = true;
}

// --- the environment

static void find_socket(struct service_manager *manager, const char *name)
{
    struct address address;
    struct error error = ERROR_INIT;
    char text[sizeof address.path + sizeof "unix://@"];
    int length = snprintf(text, sizeof text, "unix://%s", name);
    if (length >= (int)sizeof text)
        error_set(&error, ERROR_INVALID, "the name is too long");
    else if (address_parse(text, ADDRESS_TO_CONNECT, &address, &error)) {
        manager->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (manager->fd >= 0 && endpoint_of_address(&address, &manager->endpoint))
            return;
        error_set_errno(&error, errno, "socket");
    }
    log_warn(NULL, "the service manager cannot be notified", "NOTIFY_SOCKET", name, "error", error.text, NULL);
}

// 0: there is no such number, or it is no good.
static int64_t read_number(const char *name, int64_t maximum)
{
    const char *text = getenv(name);
    char *end;
    if (text == NULL || *text < '0' || *text > '9')
        return 0;
    errno = 0;
    intmax_t number = strtoimax(text, &end, 10);
    return errno == 0 && *end == '\0' && number <= maximum ? number : 0;
}

static int64_t find_watchdog_time(void)
{
    bool is_for_us = getenv("WATCHDOG_PID") == NULL || read_number("WATCHDOG_PID", INT32_MAX) == getpid();
    (void)unsetenv("WATCHDOG_PID");
    if (!is_for_us)
        (void)unsetenv("WATCHDOG_USEC");
    return read_number("WATCHDOG_USEC", INT64_MAX / NS_PER_US / 2) * NS_PER_US;
}

void service_manager_init(struct service_manager *manager, const struct runtime *runtime, struct listeners *listeners)
{
    *manager = (struct service_manager){.runtime = runtime, .listeners = listeners, .fd = -1};
    manager->watchdog_time = find_watchdog_time();
    const char *name = getenv("NOTIFY_SOCKET");
    if (name != NULL && *name != '\0')
        find_socket(manager, name);
}

void service_manager_release(struct service_manager *manager)
{
    if (manager->fd >= 0)
        (void)close(manager->fd);
    manager->endpoint.length = 0;
    manager->fd = -1;
}
