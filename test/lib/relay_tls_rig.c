#include "relay_tls_rig.h"

#include "row.h"

const struct way tls_ways[TLS_WAYS] = {
    {"a client with TLS", {true, false}, false, 0},
    {"a target with TLS", {false, true}, false, 3},
    {"both with TLS", {true, true}, false, 1},
    {"a client with TLS, in bulk", {true, false}, true, 4},
    {"a target with TLS, in bulk", {false, true}, true, 2},
    {"both with TLS, in bulk", {true, true}, true, 5},
};

static void far_init(struct far *far, int *fd, unsigned stream, const struct tls_keys *sends,
                     const struct tls_keys *receives)
{
    *far = (struct far){.fd = fd, .stream = stream, .is_tls = sends != NULL};
    far->out = malloc(FAR_SEALED_MAX);
    far->expected = malloc(FAR_ROOM);
    far->in = malloc(FAR_ROOM);
    MUST(far->out != NULL && far->expected != NULL && far->in != NULL);
    if (far->is_tls)
        MUST(record_key_init(&far->sends, sends, NULL) && record_key_init(&far->receives, receives, NULL));
}

void tls_rig_init_on(struct tls_rig *t, const struct tls_case *of, enum rig_kind kind, int buffer)
{
    const struct way *way = &of->way;
    *t = (struct tls_rig){.way = *way, .side = of->side};
    t->from = &t->fars[of->side];
    t->to = &t->fars[!of->side];
    t->ended_by = of->side == RELAY_CLIENT ? ENDED_BY_CLIENT : ENDED_BY_TARGET;
    rig_init(&t->rig, kind, kind, buffer);
    int *fds[2] = {&t->rig.client, &t->rig.target};
    for (unsigned i = 0; i < 2; i++) {
        if (!way->is_tls[i]) {
            far_init(&t->fars[i], fds[i], 1 + i, NULL, NULL);
            continue;
        }
        struct tls_keys from_far = tls_suites[way->suite].keys, to_far = from_far;
        from_far.secret[40] = from_far.key[10] = (uint8_t)(10 + i);
        to_far.secret[40] = to_far.key[10] = (uint8_t)(20 + i);
        from_far.secret[20] = (uint8_t)(10 + i);
        to_far.secret[20] = (uint8_t)(20 + i);
        far_init(&t->fars[i], fds[i], 1 + i, &from_far, &to_far);
        struct tls_session *session = &t->sessions[i];
        session->sender = tls_sender_create(&to_far, NULL);
        session->receiver = tls_receiver_create(&from_far, i == RELAY_TARGET, NULL);
        session->record_limit = TLS_PLAIN_MAX;
        MUST(session->sender != NULL && session->receiver != NULL);
        t->rig.relay.sockets[i].tls = session;
    }
}

void tls_rig_init(struct tls_rig *t, const struct tls_case *of)
{
    tls_rig_init_on(t, of, RIG_TCP, 0);
}

void tls_rig_begin_on(struct tls_rig *t, const struct tls_case *of, enum rig_kind kind, int buffer)
{
    tls_rig_init_on(t, of, kind, buffer);
    tls_rig_start(t, of->way.in_bulk);
}

void tls_rig_begin(struct tls_rig *t, const struct tls_case *of)
{
    tls_rig_begin_on(t, of, RIG_TCP, 0);
}

void tls_rig_release(struct tls_rig *t)
{
    rig_release(&t->rig);
    for (unsigned i = 0; i < 2; i++) {
        if (t->fars[i].is_tls) {
            record_key_release(&t->fars[i].sends);
            record_key_release(&t->fars[i].receives);
        }
        free(t->fars[i].out);
        free(t->fars[i].expected);
        free(t->fars[i].in);
        tls_session_release(&t->sessions[i]);
    }
}

void tls_rig_abandon(struct tls_rig *t)
{
    rig_abandon(&t->rig);
    tls_rig_release(t);
}

void far_write(struct far *far, const void *bytes, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = send(*far->fd, (const uint8_t *)bytes + done, size - done, MSG_NOSIGNAL);
        MUST(n > 0);
        done += (size_t)n;
    }
}

size_t far_seal(struct far *far, size_t size, size_t record, uint8_t *out)
{
    uint8_t plain[TLS_PLAIN_MAX];
    size_t written = 0;
    while (size > 0) {
        size_t part = size < record ? size : record;
        part = part < sizeof plain ? part : sizeof plain;
        rig_fill(plain, part, far->stream, far->sent);
        if (far->is_tls)
            written += forge(&far->sends, TLS_APPLICATION_DATA, plain, part, 0, out + written);
        else {
            memcpy(out + written, plain, part);
            written += part;
        }
        far->sent += part;
        size -= part;
    }
    return written;
}

void far_send(struct far *far, uint64_t size, size_t record)
{
    while (size > 0) {
        // 40 bytes are more than a record adds.
        size_t most = FAR_SEALED_MAX / (record + 40) * record;
        size_t part = size < most ? (size_t)size : most;
        far_write(far, far->out, far_seal(far, part, record, far->out));
        size -= part;
    }
}

// Sends on a thread of its own what may be more than there is room for.
struct far_sender {
    struct far *far;
    uint64_t size;
    size_t record;
    pthread_t thread;
};

static void *far_run_sender(void *argument)
{
    const struct far_sender *sender = argument;
    far_send(sender->far, sender->size, sender->record);
    return NULL;
}

static void far_start_sending(struct far_sender *sender)
{
    MUST(thread_start(&sender->thread, (size_t)512 * 1024, far_run_sender, sender, NULL));
}

static void far_join_sending(const struct far_sender *sender)
{
    MUST(pthread_join(sender->thread, NULL) == 0);
}

void far_stuff(struct far *far)
{
    struct pollfd poller = {.fd = *far->fd, .events = POLLOUT};
    size_t size = 0, done = 0;
    for (;;) {
        if (done == size) {
            size = far_seal(far, 3000, 1000, far->out);
            done = 0;
        }
        ssize_t n = send(*far->fd, far->out + done, size - done, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && (errno != EAGAIN || !lateness_poll(&poller, 100 * NS_PER_MS)))
            break;
        done += n > 0 ? (size_t)n : 0;
    }
    far->left = size - done;
    memmove(far->out, far->out + done, far->left);
}

void *far_send_left(void *argument)
{
    struct far *far = argument;
    far_write(far, far->out, far->left);
    far->left = 0;
    return NULL;
}

void far_send_record(struct far *far, unsigned content, const void *bytes, size_t size)
{
    far_write(far, far->out, forge(&far->sends, content, bytes, size, 0, far->out));
}

size_t far_forge_close(struct far *far, uint8_t *out)
{
    return far->is_tls ? forge(&far->sends, TLS_ALERT, "\1\0", 2, 0, out) : 0;
}

void far_finish(struct far *far)
{
    uint8_t out[64];
    far_write(far, out, far_forge_close(far, out));
    MUST(shutdown(*far->fd, SHUT_WR) == 0);
}

size_t far_forge_key_update(struct far *far, bool is_requested, uint8_t *out)
{
    const uint8_t message[] = {TLS_HANDSHAKE_KEY_UPDATE, 0, 0, 1, is_requested};
    size_t size = forge(&far->sends, TLS_HANDSHAKE, message, sizeof message, 0, out);
    MUST(record_key_update(&far->sends, NULL));
    return size;
}

void far_update_key(struct far *far, bool is_requested)
{
    uint8_t out[64];
    far_write(far, out, far_forge_key_update(far, is_requested, out));
}

static const struct far *far_other(const struct tls_rig *t, const struct far *far)
{
    return far == &t->fars[0] ? &t->fars[1] : &t->fars[0];
}

static void far_check(struct far *far, unsigned stream, const uint8_t *data, size_t length)
{
    rig_fill(far->expected, length, stream, far->received);
    MUST(memcmp(data, far->expected, length) == 0);
    far->received += length;
}

static void far_take_record(struct far *far, unsigned stream, const struct unforged *record)
{
    MUST(!far->has_closed && (!far->has_alert || far->alert_level == 1)); // nothing comes behind them
    if (record->content == TLS_APPLICATION_DATA) {
        far->records++;
        if (record->length > far->largest)
            far->largest = record->length;
        far_check(far, stream, record->data, record->length);
    } else if (record->content == TLS_ALERT) {
        MUST(record->length == 2);
        if (record->data[1] == 0) {
            MUST(record->data[0] == 1);
            far->has_closed = true;
            return;
        }
        far->has_alert = true;
        far->alert_level = record->data[0];
        far->alert = record->data[1];
    } else {
        static const uint8_t key_update[] = {TLS_HANDSHAKE_KEY_UPDATE, 0, 0, 1, 0};
        MUST(record->content == TLS_HANDSHAKE && record->length == sizeof key_update);
        MUST(memcmp(record->data, key_update, sizeof key_update) == 0);
        far->key_updates++;
        MUST(record_key_update(&far->receives, NULL));
    }
}

static void far_open(struct far *far, unsigned stream)
{
    struct unforged record;
    size_t used = 0;
    if (!far->is_tls) {
        far_check(far, stream, far->in, far->have);
        far->have = 0;
        return;
    }
    while (unforge(&far->receives, far->in + used, far->have - used, &record)) {
        far_take_record(far, stream, &record);
        used += record.consumed;
    }
    far->have -= used;
    memmove(far->in, far->in + used, far->have);
}

bool far_receive_some(struct tls_rig *t, struct far *far, size_t most, int64_t watch)
{
    struct pollfd poller = {.fd = *far->fd, .events = POLLIN};
    if (far->end != FAR_MORE || poll(&poller, 1, (int)(watch / NS_PER_MS)) != 1)
        return false;
    size_t room = FAR_ROOM - far->have;
    ssize_t n = recv(*far->fd, far->in + far->have, room < most ? room : most, 0);
    MUST(n >= 0 || errno == ECONNRESET);
    if (n < 0)
        far->end = FAR_RESET;
    else if (n == 0)
        far->end = far->has_closed || !far->is_tls ? FAR_CLOSED : FAR_CUT;
    if (n <= 0)
        return false;
    far->have += (size_t)n;
    far_open(far, far_other(t, far)->stream);
    return true;
}

void far_receive_up_to(struct tls_rig *t, struct far *far, uint64_t total)
{
    while (far->received < total)
        MUST(far_receive_some(t, far, FAR_ROOM, PATIENCE));
    assert_int_equal(far->received, total);
}

void far_receive_all_sent(struct tls_rig *t, struct far *far)
{
    far_receive_up_to(t, far, far_other(t, far)->sent);
}

bool far_try_receive_all_sent(struct tls_rig *t, struct far *far)
{
    uint64_t total = far_other(t, far)->sent;
    while (far->received < total && far_receive_some(t, far, FAR_ROOM, PATIENCE))
        ;
    return far->received == total;
}

enum far_end far_receive_end(struct tls_rig *t, struct far *far)
{
    while (far_receive_some(t, far, FAR_ROOM, PATIENCE))
        ;
    MUST(far->end != FAR_MORE);
    return far->end;
}

void far_reset(struct far *far)
{
    rig_reset_far(far->fd);
}

bool tls_rig_has_second_thread(const struct tls_rig *t)
{
    char name[THREAD_NAME_SIZE + 1];
    return rig_read_thread(t->rig.relay.second_thread_name, "comm", name, (int)sizeof name);
}

void tls_rig_start(struct tls_rig *t, bool in_bulk)
{
    struct far *from = &t->fars[RELAY_CLIENT], *to = &t->fars[RELAY_TARGET];
    int64_t deadline = clock_now() + PATIENCE;
    rig_start(&t->rig);
    for (unsigned round = 0; in_bulk; round++) {
        struct far_sender sender = {.far = from, .size = 60000, .record = 15000};
        uint64_t total = to->received + sender.size;
        far_start_sending(&sender);
        far_receive_up_to(t, to, total);
        far_join_sending(&sender);
        bool is_enough = *rig_only_threads() != NULL ? round == 3 : tls_rig_has_second_thread(t);
        if (is_enough)
            return;
        MUST(clock_now() < deadline);
    }
}

void tls_rig_wait_read(const struct tls_rig *t, enum relay_side side)
{
    int64_t deadline = clock_now() + PATIENCE;
    char byte;
    while (recv(t->rig.relay.sockets[side].fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0)
        MUST(clock_now() < deadline && usleep(100) == 0);
}

void tls_rig_wait_reason(struct tls_rig *t)
{
    int64_t deadline = clock_now() + PATIENCE;
    while (atomic_load(&t->rig.reason) == CLOSE_NONE)
        MUST(clock_now() < deadline && usleep(500) == 0);
}

void tls_rig_assert_bytes(struct tls_rig *t)
{
    assert_int_equal(rig_bytes(&t->rig, RELAY_CLIENT), t->fars[RELAY_CLIENT].sent);
    assert_int_equal(rig_bytes(&t->rig, RELAY_TARGET), t->fars[RELAY_TARGET].sent);
}

enum close_reason tls_rig_reason(const struct tls_rig *t, enum close_reason client, enum close_reason target)
{
    return t->side == RELAY_CLIENT ? client : target;
}

void tls_rig_assert_completed(struct tls_rig *t)
{
    rig_join(&t->rig);
    rig_assert_ended(&t->rig, CLOSE_COMPLETED, t->ended_by);
    rig_assert_resets(&t->rig, false, false);
}

void tls_rig_assert_failed(struct tls_rig *t, enum close_reason reason)
{
    rig_join(&t->rig);
    rig_assert_ended(&t->rig, reason, t->ended_by);
    rig_assert_resets(&t->rig, t->side == RELAY_TARGET, t->side == RELAY_CLIENT);
}

void tls_rig_finish(struct tls_rig *t, enum relay_side first)
{
    struct far *one = &t->fars[first], *other = &t->fars[first == RELAY_CLIENT ? RELAY_TARGET : RELAY_CLIENT];
    far_finish(one);
    assert_int_equal(far_receive_end(t, other), FAR_CLOSED);
    far_finish(other);
    assert_int_equal(far_receive_end(t, one), FAR_CLOSED);
    rig_join(&t->rig);
    rig_assert_ended(&t->rig, CLOSE_COMPLETED, first == RELAY_CLIENT ? ENDED_BY_CLIENT : ENDED_BY_TARGET);
    rig_assert_resets(&t->rig, false, false);
    assert_int_equal(one->received, other->sent);
    assert_int_equal(other->received, one->sent);
    tls_rig_assert_bytes(t);
    assert_int_equal(t->rig.failure.error.code, ERROR_NONE);
    tls_rig_release(t);
}

// A case of a test, as a test of its own.
struct tls_named_case {
    struct tls_case of;
    char name[160];
};

static bool tls_is_case(const struct tls_rig_test *test, size_t way, enum relay_side side)
{
    const struct way *legs = &tls_ways[way];
    if ((test->cases & TLS_EACH_WAY) != 0 && (int)side != (legs->is_tls[RELAY_CLIENT] ? RELAY_CLIENT : RELAY_TARGET))
        return false;
    if ((test->cases & TLS_ALTERNATE) != 0 && way % 2 != side)
        return false;
    if ((test->cases & TLS_TARGET) != 0 && side != RELAY_TARGET)
        return false;
    if ((test->cases & TLS_SIDE_HAS_TLS) != 0 && !legs->is_tls[side])
        return false;
    return (test->cases & TLS_NOT_IN_BULK) == 0 || !legs->in_bulk;
}

// Adds the test's cases to `out`; returns how many.
static size_t tls_add_cases(const struct tls_rig_test *test, struct tls_named_case *cases, struct CMUnitTest *out)
{
    size_t count = 0;
    if ((test->cases & (TLS_EACH_WAY | TLS_EACH_SIDE | TLS_ALTERNATE | TLS_TARGET)) == 0) {
        out[0] = (struct CMUnitTest){test->name, test->function, NULL, row_tell, NULL};
        return 1;
    }
    for (size_t i = 0; i < 2 * TLS_WAYS; i++) {
        enum relay_side side = i % 2 == 0 ? RELAY_CLIENT : RELAY_TARGET;
        if (!tls_is_case(test, i / 2, side))
            continue;
        struct tls_named_case *it = &cases[count];
        it->of = (struct tls_case){tls_ways[i / 2], side};
        (void)snprintf(it->name, sizeof it->name, "%s: %s, the %s", test->name, tls_ways[i / 2].name,
                       side == RELAY_CLIENT ? "client" : "target");
        out[count++] = (struct CMUnitTest){it->name, test->function, NULL, row_tell, &it->of};
    }
    return count;
}

#define TLS_TESTS_MAX ((size_t)32)

static struct at_once_group tls_group(const struct tls_rig_test *tests, size_t count, bool with_threads)
{
    static struct tls_named_case cases[2][TLS_TESTS_MAX][2 * TLS_WAYS];
    static struct CMUnitTest all[2][TLS_TESTS_MAX * 2 * TLS_WAYS];
    size_t length = 0;
    MUST(count <= TLS_TESTS_MAX);
    for (size_t i = 0; i < count; i++)
        if (with_threads || (tests[i].cases & TLS_WITH_THREADS) == 0)
            length += tls_add_cases(&tests[i], cases[with_threads][i], all[with_threads] + length);
    return (struct at_once_group){.name = with_threads ? "with threads to be had" : "on one thread",
                                  .tests = all[with_threads],
                                  .count = length,
                                  .prepare = with_threads ? rig_prepare : rig_prepare_one_thread};
}

int tls_rig_run(const struct tls_rig_test *tests, size_t count)
{
    if (!aead_prepare(NULL))
        return 1;
    const struct at_once_group groups[] = {tls_group(tests, count, true), tls_group(tests, count, false)};
    return at_once_run(groups, ARRAY_LENGTH(groups));
}
