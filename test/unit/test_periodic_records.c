// The records of live connections: when they come, and that nothing is looked at any more, or written any more, when
// the connection has been told so.

#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/proxy/periodic_records.h"

// What stands for a connection; `entry` is its first member.
struct fake {
    struct periodic_record entry;
    uint64_t fact; // set before it is added, and again when it is removed: a sanitizer sees who looks at it meanwhile
    _Atomic unsigned rendered, written;
    _Atomic bool is_rendered, is_written; // right now
    sem_t *render_gate;                   // NULL: open
    sem_t *write_gate;
    sem_t *has_begun; // posted when rendering, or writing, begins, if there is a gate
};

static void pass(sem_t *gate, sem_t *has_begun)
{
    if (gate == NULL)
        return;
    assert_int_equal(sem_post(has_begun), 0);
    assert_int_equal(sem_wait(gate), 0);
}

static void render(struct periodic_record *entry, struct json_line *line)
{
    struct fake *fake = (struct fake *)entry;
    atomic_store(&fake->is_rendered, true);
    pass(fake->render_gate, fake->has_begun);
    json_line_begin(line);
    json_line_integer(line, "id", (int64_t)fake->fact);
    json_line_end(line);
    atomic_fetch_add(&fake->rendered, 1);
    atomic_store(&fake->is_rendered, false);
}

static void write_line(struct periodic_record *entry, const struct json_line *line)
{
    struct fake *fake = (struct fake *)entry;
    atomic_store(&fake->is_written, true);
    pass(fake->write_gate, fake->has_begun);
    assert_non_null(line->text);
    atomic_fetch_add(&fake->written, 1);
    atomic_store(&fake->is_written, false);
}

static const struct periodic_actions actions = {.render = render, .write = write_line};

static struct periodic_records *start(void)
{
    struct error error = ERROR_INIT;
    struct periodic_records *records = periodic_records_create(&actions, &error);
    assert_non_null(records);
    assert_true(periodic_records_start(records, &error));
    assert_true(periodic_records_start(records, &error)); // once more changes nothing
    return records;
}

static void wait_until(const _Atomic unsigned *count, unsigned least)
{
    int64_t deadline = deadline_after(60 * NS_PER_S); // only a test that fails waits so long
    while (atomic_load(count) < least) {
        assert_true(deadline_left(deadline) > 0);
        (void)usleep(500);
    }
}

static void test_records_end_with_nothing_to_report(void **state)
{
    (void)state;
    struct error error = ERROR_INIT;
    struct periodic_records *records = periodic_records_create(&actions, &error);
    struct periodic_record entry = {.queue = NULL};
    periodic_records_remove(records, &entry); // not added: nothing to do, and nothing to wait for
    periodic_records_settle(records, &entry);
    periodic_records_destroy(&records); // without a thread
    assert_null(records);
    periodic_records_destroy(&records);
    records = start();
    periodic_records_destroy(&records);
}

static void test_an_entry_is_reported_again_and_again(void **state)
{
    (void)state;
    struct periodic_records *records = start();
    struct periodic_queue queue = {.interval = 20 * NS_PER_MS};
    struct fake fake = {.fact = 7};
    int64_t begin = clock_now();
    periodic_records_add(records, &queue, &fake.entry);
    wait_until(&fake.written, 5);
    assert_true(clock_now() - begin >= 5 * queue.interval);
    periodic_records_remove(records, &fake.entry);
    periodic_records_settle(records, &fake.entry);
    assert_int_equal(atomic_load(&fake.written), atomic_load(&fake.rendered));
    assert_null(queue.first);
    periodic_records_destroy(&records);
}

// Queues wait for one another as little as entries do: whoever is due is served.
static void test_each_queue_has_its_own_interval(void **state)
{
    (void)state;
    struct periodic_records *records = start();
    struct periodic_queue never = {.interval = 3600 * NS_PER_S}, slow = {.interval = 100 * NS_PER_MS},
                          fast = {.interval = 5 * NS_PER_MS};
    struct fake idle[3] = {{.fact = 1}}, slows[2] = {{.fact = 1}}, fasts[2] = {{.fact = 1}};
    for (size_t i = 0; i < ARRAY_LENGTH(idle); i++)
        periodic_records_add(records, &never, &idle[i].entry);
    for (size_t i = 0; i < 2; i++) {
        periodic_records_add(records, &slow, &slows[i].entry);
        periodic_records_add(records, &fast, &fasts[i].entry); // earlier than what the thread waits for
    }
    for (size_t i = 0; i < 2; i++) {
        wait_until(&fasts[i].written, 10);
        wait_until(&slows[i].written, 2);
    }
    // Out of the middle, the end and the beginning.
    static const size_t order[] = {1, 2, 0};
    for (size_t i = 0; i < ARRAY_LENGTH(idle); i++) {
        periodic_records_remove(records, &idle[order[i]].entry);
        periodic_records_settle(records, &idle[order[i]].entry);
        assert_int_equal(atomic_load(&idle[order[i]].rendered), 0);
    }
    for (size_t i = 0; i < 2; i++) {
        periodic_records_remove(records, &slows[i].entry);
        periodic_records_settle(records, &slows[i].entry);
        unsigned before = atomic_load(&fasts[i].written);
        wait_until(&fasts[i].written, before + 2); // the others go on
        periodic_records_remove(records, &fasts[i].entry);
        periodic_records_settle(records, &fasts[i].entry);
    }
    assert_null(never.first);
    assert_null(slow.last);
    assert_null(fast.first);
    periodic_records_destroy(&records);
}

struct leaving {
    struct periodic_records *records;
    struct fake *fake;
    bool was_rendered, was_written; // when the call returned
    pthread_t thread;
};

static void *leave(void *argument)
{
    struct leaving *leaving = argument;
    periodic_records_remove(leaving->records, &leaving->fake->entry);
    leaving->was_rendered = atomic_load(&leaving->fake->is_rendered);
    leaving->fake->fact = 0; // it is the connection's own again
    periodic_records_settle(leaving->records, &leaving->fake->entry);
    leaving->was_written = atomic_load(&leaving->fake->is_written);
    return NULL;
}

// A connection that ends while its report is under way waits for just that.
static void leave_during(bool during_write)
{
    struct periodic_records *records = start();
    struct periodic_queue queue = {.interval = NS_PER_MS};
    sem_t gate, has_begun;
    assert_int_equal(sem_init(&gate, 0, 0), 0);
    assert_int_equal(sem_init(&has_begun, 0, 0), 0);
    struct fake fake = {.fact = 1, .has_begun = &has_begun};
    *(during_write ? &fake.write_gate : &fake.render_gate) = &gate;
    struct leaving leaving = {.records = records, .fake = &fake};
    periodic_records_add(records, &queue, &fake.entry);
    assert_int_equal(sem_wait(&has_begun), 0);
    assert_int_equal(pthread_create(&leaving.thread, NULL, leave, &leaving), 0);
    (void)usleep(20000); // time for a call that does not wait to return; a late thread only proves less
    assert_int_equal(sem_post(&gate), 0);
    assert_int_equal(pthread_join(leaving.thread, NULL), 0);
    assert_false(leaving.was_rendered);
    assert_false(leaving.was_written);
    assert_int_equal(atomic_load(&fake.rendered), 1);
    assert_int_equal(atomic_load(&fake.written), 1);
    periodic_records_destroy(&records);
    (void)sem_destroy(&gate);
    (void)sem_destroy(&has_begun);
}

static void test_the_end_waits_for_rendering(void **state)
{
    (void)state;
    leave_during(false);
}

static void test_the_record_of_the_end_comes_last(void **state)
{
    (void)state;
    leave_during(true);
}

// periodic_records_remove() does not wait for a write: sockets are closed in time, whatever the disk does.
static void test_closing_does_not_wait_for_the_disk(void **state)
{
    (void)state;
    struct periodic_records *records = start();
    struct periodic_queue queue = {.interval = NS_PER_MS};
    sem_t gate, has_begun;
    assert_int_equal(sem_init(&gate, 0, 0), 0);
    assert_int_equal(sem_init(&has_begun, 0, 0), 0);
    struct fake stuck = {.fact = 1, .write_gate = &gate, .has_begun = &has_begun}, other = {.fact = 2};
    periodic_records_add(records, &queue, &stuck.entry);
    assert_int_equal(sem_wait(&has_begun), 0);
    periodic_records_add(records, &queue, &other.entry);
    periodic_records_remove(records, &other.entry);
    periodic_records_settle(records, &other.entry);
    periodic_records_remove(records, &stuck.entry); // returns although the write is under way: else the test hangs
    assert_true(atomic_load(&stuck.is_written));
    assert_int_equal(sem_post(&gate), 0);
    periodic_records_settle(records, &stuck.entry);
    assert_int_equal(atomic_load(&stuck.written), 1);
    periodic_records_destroy(&records);
    (void)sem_destroy(&gate);
    (void)sem_destroy(&has_begun);
}

#define CROWD 4
#define ROUNDS 300

struct coming_and_going {
    struct periodic_records *records;
    struct periodic_queue *queues;
    pthread_t thread;
    unsigned reported;
};

static void *come_and_go(void *argument)
{
    struct coming_and_going *going = argument;
    unsigned seed = (unsigned)(uintptr_t)argument;
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct fake *fake = calloc(1, sizeof *fake);
        if (fake == NULL)
            return NULL;
        fake->fact = round;
        periodic_records_add(going->records, &going->queues[round % 2], &fake->entry);
        (void)usleep((useconds_t)rand_r(&seed) % 500);
        periodic_records_remove(going->records, &fake->entry);
        fake->fact = 0;
        periodic_records_settle(going->records, &fake->entry);
        going->reported += atomic_load(&fake->written);
        memset(fake, 0xff, sizeof *fake);
        free(fake);
    }
    return NULL;
}

static void test_entries_that_come_and_go_are_reported(void **state)
{
    (void)state;
    struct periodic_records *records = start();
    struct periodic_queue queues[2] = {{.interval = 50 * NS_PER_US}, {.interval = 200 * NS_PER_US}};
    struct coming_and_going crowd[CROWD] = {{.reported = 0}};
    unsigned reported = 0;
    for (size_t i = 0; i < CROWD; i++) {
        crowd[i] = (struct coming_and_going){.records = records, .queues = queues};
        assert_int_equal(pthread_create(&crowd[i].thread, NULL, come_and_go, &crowd[i]), 0);
    }
    for (size_t i = 0; i < CROWD; i++) {
        assert_int_equal(pthread_join(crowd[i].thread, NULL), 0);
        reported += crowd[i].reported;
    }
    assert_true(reported > ROUNDS / 10);
    assert_null(queues[0].first);
    assert_null(queues[1].first);
    periodic_records_destroy(&records);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records_end_with_nothing_to_report),
        cmocka_unit_test(test_an_entry_is_reported_again_and_again),
        cmocka_unit_test(test_each_queue_has_its_own_interval),
        cmocka_unit_test(test_the_end_waits_for_rendering),
        cmocka_unit_test(test_the_record_of_the_end_comes_last),
        cmocka_unit_test(test_closing_does_not_wait_for_the_disk),
        cmocka_unit_test(test_entries_that_come_and_go_are_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
