#include "http_clients.h"

#include <stdlib.h>
#include <sys/socket.h>

#include "bitflow/base/clock.h"

// A client that is idle for less long is ended by libmicrohttpd. This is for those that send, or take, a byte now and
// then.
#define REQUEST_TIME (30 * NS_PER_S)
#define NEW_TIME (1 * NS_PER_S)

struct http_client *http_clients_add(struct http_clients *clients, int fd, bool is_local, int64_t now)
{
    for (size_t i = 0; i < HTTP_CLIENTS_MAX; i++) {
        struct http_client *client = &clients->list[i];
        if (client->is_there)
            continue;
        *client = (struct http_client){.is_there = true, .fd = fd, .is_local = is_local, .since = now};
        return client;
    }
    return NULL;
}

void http_clients_remove(struct http_client *client)
{
    if (client->wait != NULL)
        client->wait->drop(client->wait);
    if (client->is_answered)
        free(client->answer.body);
    *client = (struct http_client){.is_there = false};
}

// Who has just come is about to ask: those who hold requests open must not have him sent away.
static bool is_new(const struct http_client *client, int64_t now)
{
    return now - client->since < NEW_TIME;
}

static bool is_better_victim(const struct http_client *client, const struct http_client *than, int64_t now)
{
    if (!client->is_there || client->wait != NULL)
        return false;
    if (than == NULL)
        return true;
    if (is_new(client, now) != is_new(than, now))
        return !is_new(client, now);
    if (client->is_busy != than->is_busy)
        return !client->is_busy;
    return client->since < than->since;
}

struct http_client *http_clients_victim(struct http_clients *clients, int64_t now)
{
    struct http_client *victim = NULL;
    for (size_t i = 0; i < HTTP_CLIENTS_MAX; i++)
        if (is_better_victim(&clients->list[i], victim, now))
            victim = &clients->list[i];
    return victim;
}

int64_t http_clients_end_late(struct http_clients *clients, int64_t now)
{
    int64_t next = DEADLINE_NONE;
    for (size_t i = 0; i < HTTP_CLIENTS_MAX; i++) {
        struct http_client *client = &clients->list[i];
        if (!client->is_there || client->wait != NULL)
            continue;
        if (now - client->since >= REQUEST_TIME)
            (void)shutdown(client->fd, SHUT_RDWR);
        else
            next = deadline_sooner(next, client->since + REQUEST_TIME);
    }
    return next;
}

bool http_clients_may_answer(const struct http_clients *clients, size_t length)
{
    size_t total = 0;
    for (size_t i = 0; i < HTTP_CLIENTS_MAX; i++)
        total += clients->list[i].answer_length;
    return total == 0 || (length <= HTTP_ANSWERS_MAX && total <= HTTP_ANSWERS_MAX - length);
}

void http_clients_leave_behind(struct http_clients *clients)
{
    for (size_t i = 0; i < HTTP_CLIENTS_MAX; i++)
        clients->list[i].is_left_behind = clients->list[i].is_there;
}

int64_t http_clients_awaited(const struct http_clients *clients)
{
    int64_t until = 0;
    for (size_t i = 0; i < HTTP_CLIENTS_MAX; i++) {
        const struct http_client *client = &clients->list[i];
        if (client->is_busy)
            return DEADLINE_NONE;
        if (client->is_there && !client->has_asked && client->since + NEW_TIME > until)
            until = client->since + NEW_TIME;
    }
    return until;
}
