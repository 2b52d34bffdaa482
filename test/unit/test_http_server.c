// The HTTP server of the control socket, with actions of the test's own: answers at once and later, listeners that
// change, and the end.

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/control/http_server.h"

struct late_answer {
    struct http_wait wait;
};

static struct {
    struct http_server *server;
    char directory[64];
    _Atomic bool is_due;
    _Atomic int dropped, looked;
    char query[64];
} world;

static void put(struct http_answer *answer, unsigned status, const char *text)
{
    answer->status = status;
    answer->type = "text/plain";
    answer->body = strdup(text);
    answer->length = strlen(text);
}

static bool look(struct http_wait *wait, bool is_late, struct http_answer *answer)
{
    (void)wait;
    atomic_fetch_add(&world.looked, 1);
    if (is_late || atomic_load(&world.is_due))
        put(answer, is_late ? 504 : 200, is_late ? "too late" : "at last");
    return is_late || atomic_load(&world.is_due);
}

static void drop(struct http_wait *wait)
{
    atomic_fetch_add(&world.dropped, 1);
    free(wait);
}

static struct http_wait *serve(void *subject, const struct http_request *request, struct http_answer *answer)
{
    assert_ptr_equal(subject, &world);
    if (strcmp(request->path, "/nothing") == 0)
        return NULL; // as where there is no memory
    if (strcmp(request->path, "/late") != 0 && strcmp(request->path, "/soon") != 0) {
        const char *value = http_argument(request, "a");
        (void)snprintf(world.query, sizeof world.query, "%s %s %s", request->method, request->path,
                       value == NULL ? "(none)" : value);
        put(answer, 200, world.query);
        return NULL;
    }
    struct late_answer *late = calloc(1, sizeof *late);
    bool is_soon = strcmp(request->path, "/soon") == 0; // its time is over before it begins
    late->wait = (struct http_wait){
        .deadline = is_soon ? clock_now() : deadline_after(60 * NS_PER_S), .look = look, .drop = drop};
    return &late->wait;
}

static struct listener open_at(const char *name)
{
    struct address address = {.kind = ADDRESS_UNIX};
    struct listener listener;
    (void)snprintf(address.path, sizeof address.path, "%s/%s", world.directory, name);
    assert_true(listener_open(&address, NULL, &listener, NULL));
    return listener;
}

static int begin(void **state)
{
    (void)state;
    const struct http_actions actions = {.serve = serve, .subject = &world};
    (void)snprintf(world.directory, sizeof world.directory, "/tmp/bitflow-http-XXXXXX");
    assert_non_null(mkdtemp(world.directory));
    atomic_store(&world.is_due, false);
    atomic_store(&world.dropped, 0);
    atomic_store(&world.looked, 0);
    world.server = http_server_create(&actions, NULL);
    assert_non_null(world.server);
    const struct listener listener = open_at("one");
    http_server_listen(world.server, &listener);
    return 0;
}

static int end(void **state)
{
    (void)state;
    http_server_destroy(&world.server);
    assert_int_equal(rmdir(world.directory), 0); // no socket's file is left
    return 0;
}

static int connect_to(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s/%s", world.directory, name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    const struct timeval limit = {.tv_sec = 20};
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), 0);
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    (void)close(fd);
    return -1;
}

static void ask(int fd, const char *request)
{
    assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), (ssize_t)strlen(request));
}

// What comes up to the answer's end, which says how long it is.
static const char *answer_of(int fd)
{
    static char text[4096];
    size_t length = 0, due = SIZE_MAX;
    while (length < due && length < sizeof text - 1) {
        ssize_t got = recv(fd, text + length, sizeof text - 1 - length, 0);
        assert_true(got > 0);
        length += (size_t)got;
        text[length] = '\0';
        const char *body = strstr(text, "\r\n\r\n"), *told = strstr(text, "Content-Length: ");
        if (body != NULL && told != NULL)
            due = (size_t)(body + 4 - text) + strtoul(told + sizeof "Content-Length: " - 1, NULL, 10);
    }
    return text;
}

#define REQUEST(line) line " HTTP/1.1\r\nHost: x\r\n\r\n"

static void assert_answered(int fd, const char *status, const char *body)
{
    const char *text = answer_of(fd);
    if (strncmp(text, status, strlen(status)) != 0 || strcmp(strstr(text, "\r\n\r\n") + 4, body) != 0)
        fail_msg("not %s and \"%s\", but: %s", status, body, text);
}

static void test_requests_are_answered_one_after_the_other(void **state)
{
    (void)state;
    int fd = connect_to("one");
    ask(fd, REQUEST("GET /some/path?a=1%202&b=3"));
    assert_answered(fd, "HTTP/1.1 200", "GET /some/path 1 2");
    ask(fd, REQUEST("DELETE /"));
    assert_answered(fd, "HTTP/1.1 200", "DELETE / (none)");
    ask(fd, "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
    assert_answered(fd, "HTTP/1.1 200", "POST /x (none)");
    ask(fd, REQUEST("GET /nothing"));
    assert_answered(fd, "HTTP/1.1 503", "");
    (void)close(fd);
}

static void test_an_answer_may_come_later_and_nobody_else_waits(void **state)
{
    (void)state;
    int waiting = connect_to("one"), other = connect_to("one");
    ask(waiting, REQUEST("POST /late"));
    ask(other, REQUEST("GET /now"));
    assert_answered(other, "HTTP/1.1 200", "GET /now (none)");
    atomic_store(&world.is_due, true);
    http_server_wake(world.server);
    assert_answered(waiting, "HTTP/1.1 200", "at last");
    assert_int_equal(atomic_load(&world.dropped), 1);
    (void)close(waiting);
    (void)close(other);
}

static void test_an_answer_whose_time_is_over_comes_at_once(void **state)
{
    (void)state;
    int fd = connect_to("one");
    for (int i = 0; i < 3; i++) {
        ask(fd, REQUEST("GET /soon"));
        assert_answered(fd, "HTTP/1.1 504", "too late");
    }
    assert_int_equal(atomic_load(&world.dropped), 3);
    (void)close(fd);
}

static void test_another_listener_takes_its_place_and_clients_stay(void **state)
{
    (void)state;
    int fd = connect_to("one");
    ask(fd, REQUEST("GET /a"));
    assert_answered(fd, "HTTP/1.1 200", "GET /a (none)");
    const struct listener two = open_at("two");
    http_server_listen(world.server, &two);
    assert_int_equal(connect_to("one"), -1);
    assert_int_equal(errno, ENOENT);
    ask(fd, REQUEST("GET /b"));
    assert_answered(fd, "HTTP/1.1 200", "GET /b (none)");
    int other = connect_to("two");
    ask(other, REQUEST("GET /c"));
    assert_answered(other, "HTTP/1.1 200", "GET /c (none)");
    http_server_listen(world.server, NULL);
    assert_int_equal(connect_to("two"), -1);
    ask(other, REQUEST("GET /d"));
    assert_answered(other, "HTTP/1.1 200", "GET /d (none)");
    (void)close(fd);
    (void)close(other);
}

static void test_the_end_drops_what_is_waited_for(void **state)
{
    (void)state;
    int fds[5];
    for (int i = 0; i < 5; i++) {
        fds[i] = connect_to("one");
        ask(fds[i], REQUEST("POST /late"));
    }
    while (atomic_load(&world.looked) < 5) // each has been looked at once it is asked
        http_server_wake(world.server);
    int64_t before = clock_now();
    http_server_destroy(&world.server);
    assert_true(clock_now() - before < 10 * NS_PER_S);
    assert_int_equal(atomic_load(&world.dropped), 5);
    for (int i = 0; i < 5; i++)
        (void)close(fds[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_requests_are_answered_one_after_the_other, begin, end),
        cmocka_unit_test_setup_teardown(test_an_answer_may_come_later_and_nobody_else_waits, begin, end),
        cmocka_unit_test_setup_teardown(test_an_answer_whose_time_is_over_comes_at_once, begin, end),
        cmocka_unit_test_setup_teardown(test_another_listener_takes_its_place_and_clients_stay, begin, end),
        cmocka_unit_test_setup_teardown(test_the_end_drops_what_is_waited_for, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
