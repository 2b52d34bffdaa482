// Clients that come and go without a byte have left, however they close; those that have said or been told something
// have not.

#include "relay_rig.h"

static void begin(struct rig *rig, enum rig_kind client)
{
    rig_init(rig, client, RIG_TCP, 0);
    rig_start(rig);
}

static void end(struct rig *rig, enum close_reason reason, enum ended_by by)
{
    rig_join(rig);
    rig_assert_ended(rig, reason, by);
    rig_release(rig);
}

static void test_a_client_that_closes_has_left(void **state)
{
    (void)state;
    static const enum rig_kind kinds[] = {RIG_TCP, RIG_UNIX};
    for (size_t i = 0; i < ARRAY_LENGTH(kinds); i++) {
        struct rig rig;
        begin(&rig, kinds[i]);
        rig_close_far(&rig.client);
        assert_int_equal(rig_next(rig.target), RIG_EOF);
        rig_close_far(&rig.target);
        end(&rig, CLOSE_CLIENT_LEFT, ENDED_BY_CLIENT);
        assert_int_equal(rig.failure.error.code, ERROR_NONE);
    }
}

static void test_a_client_that_resets_has_left(void **state)
{
    (void)state;
    struct rig rig;
    begin(&rig, RIG_TCP);
    rig_reset_far(&rig.client);
    rig_join(&rig);
    rig_assert_ended(&rig, CLOSE_CLIENT_LEFT, ENDED_BY_CLIENT);
    rig_assert_resets(&rig, false, true);
    assert_int_equal(rig_next(rig.target), RIG_RESET);
    rig_release(&rig);
}

// The target takes the end as a reason to reset; it had nothing to answer.
static void test_a_target_that_resets_at_the_end_of_a_probe_has_not_failed(void **state)
{
    (void)state;
    struct rig rig;
    begin(&rig, RIG_TCP);
    rig_close_far(&rig.client);
    assert_int_equal(rig_next(rig.target), RIG_EOF);
    rig_reset_far(&rig.target);
    end(&rig, CLOSE_CLIENT_LEFT, ENDED_BY_CLIENT);
}

// It is greeted when it has gone.
static void test_a_greeting_comes_too_late_for_a_client_that_closed(void **state)
{
    (void)state;
    struct rig rig;
    begin(&rig, RIG_TCP);
    rig_close_far(&rig.client);
    assert_int_equal(rig_next(rig.target), RIG_EOF);
    // The first one makes its kernel reset, at the second one that is known.
    while (atomic_load(&rig.reason) == CLOSE_NONE && send(rig.target, "hello\n", 6, MSG_NOSIGNAL) == 6)
        (void)poll(NULL, 0, 5);
    end(&rig, CLOSE_CLIENT_LEFT, ENDED_BY_CLIENT);
}

static void test_a_client_that_ends_and_reads_on_completes(void **state)
{
    (void)state;
    struct rig rig;
    begin(&rig, RIG_TCP);
    MUST(shutdown(rig.client, SHUT_WR) == 0);
    assert_int_equal(rig_next(rig.target), RIG_EOF);
    rig_pass(rig.target, rig.client, "the time is now");
    rig_close_far(&rig.target);
    assert_int_equal(rig_next(rig.client), RIG_EOF);
    end(&rig, CLOSE_COMPLETED, ENDED_BY_CLIENT);
}

// One that only listens, as those of a feed do.
static void test_a_client_that_was_told_something_is_no_probe(void **state)
{
    (void)state;
    for (unsigned resets = 0; resets < 2; resets++) {
        struct rig rig;
        begin(&rig, RIG_TCP);
        rig_pass(rig.target, rig.client, "news");
        if (resets) {
            rig_reset_far(&rig.client);
            end(&rig, CLOSE_CLIENT_RESET, ENDED_BY_CLIENT);
            continue;
        }
        rig_close_far(&rig.client);
        assert_int_equal(rig_next(rig.target), RIG_EOF);
        rig_close_far(&rig.target);
        end(&rig, CLOSE_COMPLETED, ENDED_BY_CLIENT);
    }
}

static void test_a_client_that_said_something_is_no_probe(void **state)
{
    (void)state;
    struct rig rig;
    begin(&rig, RIG_TCP);
    rig_pass(rig.client, rig.target, "x");
    rig_reset_far(&rig.client);
    end(&rig, CLOSE_CLIENT_RESET, ENDED_BY_CLIENT);
    // What it has said may still be there to be read when its reset is noticed.
    rig_init(&rig, RIG_TCP, RIG_TCP, 0);
    MUST(send(rig.client, "x", 1, 0) == 1);
    rig_reset_far(&rig.client);
    rig_start(&rig);
    end(&rig, CLOSE_CLIENT_RESET, ENDED_BY_CLIENT);
}

static void test_a_target_that_ends_first_completes(void **state)
{
    (void)state;
    struct rig rig;
    begin(&rig, RIG_TCP);
    rig_close_far(&rig.target);
    assert_int_equal(rig_next(rig.client), RIG_EOF);
    rig_close_far(&rig.client);
    end(&rig, CLOSE_COMPLETED, ENDED_BY_TARGET);
}

int main(void)
{
    rig_prepare();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_client_that_closes_has_left),
        cmocka_unit_test(test_a_client_that_resets_has_left),
        cmocka_unit_test(test_a_target_that_resets_at_the_end_of_a_probe_has_not_failed),
        cmocka_unit_test(test_a_greeting_comes_too_late_for_a_client_that_closed),
        cmocka_unit_test(test_a_client_that_ends_and_reads_on_completes),
        cmocka_unit_test(test_a_client_that_was_told_something_is_no_probe),
        cmocka_unit_test(test_a_client_that_said_something_is_no_probe),
        cmocka_unit_test(test_a_target_that_ends_first_completes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
