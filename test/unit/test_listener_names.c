// Listeners on host names: what the resolver answers, and one that doesn't.

#include "bitflow/net/listener.h"
#include "fake_resolver.h"
#include "fake_time.h"

static bool open_listener(const char *text, struct listener *listener, struct error *error)
{
    struct address address = rig_address(text, ADDRESS_TO_LISTEN);
    return listener_open(&address, NULL, listener, error);
}

static void test_every_address_of_the_name_is_listened_on(void **state)
{
    (void)state;
    static const char *const list[] = {"127.0.0.1:9", "127.0.0.2:9"};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        struct address address = rig_address(list[i], ADDRESS_TO_CONNECT);
        struct endpoint endpoint;
        assert_true(endpoint_of_address(&address, &endpoint));
        fake_add(&endpoint);
    }
    struct listener listener;
    struct error error = ERROR_INIT;
    if (!open_listener("list.test:0", &listener, &error))
        fail_msg("%s", error.text);
    assert_int_equal(listener.socket_count, 2);
    listener_close(&listener);
}

static void test_a_name_that_does_not_resolve_is_an_error(void **state)
{
    (void)state;
    struct listener listener;
    struct error error = ERROR_INIT;
    assert_false(open_listener("no-name.test:0", &listener, &error));
    assert_int_equal(error.code, ERROR_RESOLVE);
    assert_string_equal(error.text, "cannot resolve no-name.test: Name or service not known");
}

static void test_a_silent_resolver_is_given_up_after_ten_seconds(void **state)
{
    (void)state;
    struct listener listener;
    struct error error = ERROR_INIT;
    int64_t start = clock_now();
    atomic_store(&fake_time_flies, true);
    bool opened = open_listener("slow.test:0", &listener, &error);
    atomic_store(&fake_time_flies, false);
    assert_false(opened);
    assert_int_equal(error.code, ERROR_TIMEOUT);
    assert_string_equal(error.text, "cannot listen on slow.test: the name was not resolved within 10 s");
    assert_true(clock_now() - start >= 10 * NS_PER_S);
    fake_release();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_address_of_the_name_is_listened_on),
        cmocka_unit_test(test_a_name_that_does_not_resolve_is_an_error),
        cmocka_unit_test(test_a_silent_resolver_is_given_up_after_ten_seconds),
    };
    return cmocka_run_group_tests(tests, fake_begin, NULL);
}
