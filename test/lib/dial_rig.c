#include "dial_rig.h"

// The endpoint that the error names is told apart, too; none where it never came to one.
static void assert_last_tried(const struct dialled *dialled)
{
    char text[ENDPOINT_TEXT_SIZE];
    endpoint_format(&dialled->result.remote, text);
    bool was_tried =
        dialled->error.code != ERROR_RESOLVE && (strstr(dialled->error.text, "cannot connect to ") != NULL ||
                                                 strstr(dialled->error.text, "connecting to ") != NULL);
    if (was_tried && strstr(dialled->error.text, text) == NULL)
        fail_msg("\"%s\" does not name %s", dialled->error.text, text);
    if (!was_tried)
        assert_int_equal(dialled->result.remote.length, 0);
}

static struct dialled dial_on(const struct address *address, struct client_watch *watch, const struct dial_terms *terms)
{
    int64_t deadline = terms->deadline;
    struct dialled dialled = {.result.fd = -7};
    int64_t start = clock_now();
    dialled.good = dial(address, terms, watch, &dialled.result, &dialled.error);
    dialled.took = clock_now() - start;
    if (!dialled.good) {
        assert_int_equal(dialled.result.fd, -1);
        assert_int_not_equal(dialled.error.code, ERROR_NONE);
        if (dialled.error.code == ERROR_TIMEOUT && deadline != DEADLINE_NONE)
            assert_true(clock_now() >= deadline); // never before its time
        assert_last_tried(&dialled);
    }
    return dialled;
}

struct dialled dial_for(const struct address *address, struct client_watch *watch, int64_t deadline)
{
    const struct dial_terms terms = {.deadline = deadline};
    return dial_on(address, watch, &terms);
}

struct dialled dial_text_on(const char *text, const struct dial_terms *terms)
{
    struct address address = rig_address(text, ADDRESS_TO_CONNECT);
    struct client_watch watch;
    client_watch_init(&watch, -1);
    return dial_on(&address, &watch, terms);
}

struct dialled dial_text(const char *text, int64_t deadline)
{
    const struct dial_terms terms = {.deadline = deadline};
    return dial_text_on(text, &terms);
}

struct dialled dial_endpoint(const struct endpoint *endpoint, int64_t deadline)
{
    char text[ENDPOINT_TEXT_SIZE];
    endpoint_format(endpoint, text);
    return dial_text(text, deadline);
}

void assert_failure(const struct dialled *dialled, enum error_code code, const char *fragment)
{
    assert_false(dialled->good);
    if (dialled->error.code != code || strstr(dialled->error.text, fragment) == NULL)
        fail_msg("%s: \"%s\" does not say \"%s\"", error_code_name(dialled->error.code), dialled->error.text, fragment);
}

void assert_connected(const struct dialled *dialled, int listener, const struct endpoint *endpoint)
{
    if (!dialled->good)
        fail_msg("%s", dialled->error.text);
    int fd = dialled->result.fd, served = rig_accept(listener);
    assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
    assert_false(dialled->result.is_lent);
    assert_true(endpoint_equal(&dialled->result.remote, endpoint));
    char byte = 0;
    rig_write(fd, "x");
    assert_int_equal(read(served, &byte, 1), 1);
    assert_int_equal(byte, 'x');
    (void)close(served);
    (void)close(fd);
}

void set_list(const char *const *hosts, size_t count, uint16_t port)
{
    fake_clear();
    for (size_t i = 0; i < count; i++) {
        struct endpoint endpoint = rig_endpoint(rig_on_port(hosts[i], port));
        fake_add(&endpoint);
    }
}

void test_no_descriptor_leaks(void **state)
{
    (void)state;
    fake_release_to_end(0);
}
