// Who of the HTTP server's clients makes room for others, who is ended, and how much may be on its way to all of them.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "control/http_clients.h"

#define MINUTE (60 * NS_PER_S)

static struct http_clients clients;

static int clear(void **state)
{
    (void)state;
    clients = (struct http_clients){.list = {{.is_there = false}}};
    return 0;
}

static struct http_client *add(int64_t since)
{
    struct http_client *client = http_clients_add(&clients, -1, true, since);
    assert_non_null(client);
    return client;
}

#define LATER (60 * NS_PER_S)

static void test_there_is_room_for_so_many(void **state)
{
    (void)state;
    struct http_client *first = add(1);
    for (int i = 1; i < HTTP_CLIENTS_MAX; i++)
        (void)add(1);
    assert_null(http_clients_add(&clients, -1, true, 1));
    http_clients_remove(first);
    assert_ptr_equal(add(2), first);
}

// A probe is not sent away, before it could ask, by those who hold requests open.
static void test_who_has_just_come_is_the_last_to_make_room(void **state)
{
    (void)state;
    struct http_client *probe = add(LATER - NS_PER_MS), *busy = add(LATER - 2 * NS_PER_S);
    busy->is_busy = true;
    assert_ptr_equal(http_clients_victim(&clients, LATER), busy);
    http_clients_remove(busy);
    assert_ptr_equal(http_clients_victim(&clients, LATER), probe);
    http_clients_remove(probe);
}

static void test_who_asks_for_nothing_makes_room_and_the_oldest_first(void **state)
{
    (void)state;
    struct http_wait wait = {.deadline = 0};
    assert_null(http_clients_victim(&clients, LATER));
    struct http_client *waiting = add(1), *served = add(2), *older = add(3), *newer = add(4);
    waiting->wait = &wait;
    served->is_busy = true;
    assert_ptr_equal(http_clients_victim(&clients, LATER), older);
    http_clients_remove(older);
    assert_ptr_equal(http_clients_victim(&clients, LATER), newer);
    http_clients_remove(newer);
    assert_ptr_equal(http_clients_victim(&clients, LATER), served);
    http_clients_remove(served);
    assert_null(http_clients_victim(&clients, LATER));
}

// Who has come in the last moment is not closed before he could ask; who asks nothing does not hold the end up.
static void test_who_asks_or_is_about_to_is_awaited(void **state)
{
    (void)state;
    assert_int_equal(http_clients_awaited(&clients), 0);
    struct http_client *idle = add(3 * MINUTE), *older = add(MINUTE), *newer = add(2 * MINUTE);
    idle->has_asked = true;
    assert_int_equal(http_clients_awaited(&clients), 2 * MINUTE + NS_PER_S);
    http_clients_remove(newer);
    assert_int_equal(http_clients_awaited(&clients), MINUTE + NS_PER_S);
    older->is_busy = older->has_asked = true;
    assert_int_equal(http_clients_awaited(&clients), DEADLINE_NONE);
    older->is_busy = false;
    assert_int_equal(http_clients_awaited(&clients), 0);
}

static void test_who_has_come_before_is_left_behind(void **state)
{
    (void)state;
    struct http_client *before = add(1);
    http_clients_leave_behind(&clients);
    struct http_client *after = add(2);
    assert_true(before->is_left_behind);
    assert_false(after->is_left_behind);
    http_clients_remove(before);
    assert_false(add(3)->is_left_behind);
}

static unsigned drops;

static void count_drop(struct http_wait *wait)
{
    (void)wait;
    drops++;
}

static void test_what_a_client_leaves_is_freed(void **state)
{
    (void)state;
    struct http_wait wait = {.drop = count_drop};
    struct http_client *client = add(1);
    client->wait = &wait;
    client->is_answered = true;
    client->answer.body = malloc(100);
    drops = 0;
    http_clients_remove(client);
    assert_int_equal(drops, 1);
    assert_false(client->is_there);
}

static void test_who_takes_too_long_is_shut_down(void **state)
{
    (void)state;
    int pair[2];
    char byte;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    assert_int_equal(http_clients_end_late(&clients, 0), DEADLINE_NONE);
    struct http_client *client = http_clients_add(&clients, pair[0], true, MINUTE);
    int64_t due = http_clients_end_late(&clients, MINUTE);
    assert_true(due > MINUTE && due <= 2 * MINUTE);
    assert_int_equal(read(pair[1], &byte, 1), -1);
    client->wait = &(struct http_wait){.deadline = 0}; // it is we who are slow
    assert_int_equal(http_clients_end_late(&clients, due), DEADLINE_NONE);
    assert_int_equal(read(pair[1], &byte, 1), -1);
    client->wait = NULL;
    (void)http_clients_end_late(&clients, due);
    assert_int_equal(read(pair[1], &byte, 1), 0);
    (void)close(pair[0]);
    (void)close(pair[1]);
}

static void test_answers_on_their_way_are_bounded_together(void **state)
{
    (void)state;
    assert_true(http_clients_may_answer(&clients, 10 * HTTP_ANSWERS_MAX)); // a single one
    struct http_client *client = add(1);
    client->answer_length = HTTP_ANSWERS_MAX - 10;
    assert_true(http_clients_may_answer(&clients, 10));
    assert_false(http_clients_may_answer(&clients, 11));
    assert_false(http_clients_may_answer(&clients, SIZE_MAX));
    http_clients_remove(client);
    assert_true(http_clients_may_answer(&clients, 11));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_there_is_room_for_so_many, clear),
        cmocka_unit_test_setup(test_who_has_just_come_is_the_last_to_make_room, clear),
        cmocka_unit_test_setup(test_who_asks_for_nothing_makes_room_and_the_oldest_first, clear),
        cmocka_unit_test_setup(test_who_asks_or_is_about_to_is_awaited, clear),
        cmocka_unit_test_setup(test_who_has_come_before_is_left_behind, clear),
        cmocka_unit_test_setup(test_what_a_client_leaves_is_freed, clear),
        cmocka_unit_test_setup(test_who_takes_too_long_is_shut_down, clear),
        cmocka_unit_test_setup(test_answers_on_their_way_are_bounded_together, clear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
