#include "bitflow/sentry/sentry.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bitflow/base/log.h"
#include "bitflow/base/mutex.h"
#include "bitflow/base/thread.h"
#include "crash_report.h"
#include "policy.h"
#include "sender.h"

// libcurl, TLS and the building of JSON live on it.
#define STACK_SIZE ((size_t)256 * 1024)
// How long after its deadline the thread may take to tell what is lost.
#define END_GRACE (500 * NS_PER_MS)

// Set by the main thread before the thread starts and the first line is observed; there until the process ends.
static struct sentry_recorder *recorder;
static int recorder_fd = -1;
static pthread_t thread;
static bool is_started;
static struct sentry_sender sender;
static struct condition changed;

static struct mutex lock = MUTEX_INIT;
static struct sentry_identity identity GUARDED_BY(lock);
static unsigned version GUARDED_BY(lock); // of the identity
static struct sentry_limiter limiter GUARDED_BY(lock);
static STAILQ_HEAD(, sentry_error) queue GUARDED_BY(lock) = STAILQ_HEAD_INITIALIZER(queue); // oldest first
static unsigned pending GUARDED_BY(lock);               // at most SENTRY_QUEUE_MAX: queued, being filled or being sent
static uint64_t losses[SENTRY_LOSSES] GUARDED_BY(lock); // not reported to Sentry yet
static int64_t end GUARDED_BY(lock) = DEADLINE_NONE;    // else it is to end, at that time at the latest
static bool has_ended GUARDED_BY(lock);
static bool is_given_up GUARDED_BY(lock); // nobody waits for its end any more
static _Atomic uint64_t lost;

static void count_loss(enum sentry_loss loss) REQUIRES(lock)
{
    losses[loss]++;
    (void)atomic_fetch_add_explicit(&lost, 1, memory_order_relaxed);
}

uint64_t sentry_lost(void)
{
    return atomic_load_explicit(&lost, memory_order_relaxed);
}

// ---- on the threads that log

static const char *field_of(const struct log_event *event, const char *key)
{
    for (size_t i = 0; i < event->field_count; i++)
        if (strcmp(event->fields[i].key, key) == 0)
            return event->fields[i].value;
    return NULL;
}

// Whether it is to be reported; it is then pending.
static bool admit(const struct log_event *event, uint64_t *repeated)
{
    const char *const parts[SENTRY_FINGERPRINT_PARTS] = {event->message, event->proxy, field_of(event, "target"),
                                                         field_of(event, "reason")};
    uint64_t fingerprint = sentry_fingerprint(parts, SENTRY_FINGERPRINT_PARTS);
    int64_t now = clock_now();
    mutex_lock(&lock);
    enum sentry_limit limit = sentry_limiter_pass(&limiter, fingerprint, now, repeated);
    bool is_admitted = limit == SENTRY_REPORT && pending < SENTRY_QUEUE_MAX;
    if (is_admitted)
        pending++;
    else if (limit != SENTRY_REPEATED)
        count_loss(SENTRY_LOST_QUEUE);
    mutex_unlock(&lock);
    return is_admitted;
}

// NULL: out of memory.
static struct sentry_error *copy_error(const struct log_event *event, uint64_t repeated)
{
    struct sentry_error *error = malloc(sizeof *error);
    if (error == NULL || !sentry_make_id(error->id)) {
        free(error);
        return NULL;
    }
    error->repeated = repeated;
    error->attempts = 0;
    sentry_line_pack(event, &error->line, error->text, sizeof error->text);
    error->breadcrumb_count = sentry_breadcrumbs_collect(&recorder->breadcrumbs, event->connection, error->breadcrumbs);
    return error;
}

static void take_error(const struct log_event *event)
{
    uint64_t repeated = 0;
    if (!admit(event, &repeated))
        return;
    struct sentry_error *error = copy_error(event, repeated);
    mutex_lock(&lock);
    if (error != NULL) {
        STAILQ_INSERT_TAIL(&queue, error, link);
        condition_signal(&changed);
    } else {
        pending--;
        count_loss(SENTRY_LOST_MEMORY);
    }
    mutex_unlock(&lock);
}

static void observe(const struct log_event *event)
{
    if (event->level >= LOG_ERROR)
        take_error(event);
    sentry_breadcrumbs_add(&recorder->breadcrumbs, event);
}

// ---- on the thread that sends

// What it remembers from one event to the next.
struct delivery {
    unsigned version; // of the identity that the rest is about
    struct sentry_policy policy;
    bool is_failing;      // the last event could not be sent, which was reported
    uint64_t lost_before; // sentry_lost() at its beginning
};

static struct sentry_error *take_oldest(void) REQUIRES(lock)
{
    struct sentry_error *error = STAILQ_FIRST(&queue);
    STAILQ_REMOVE_HEAD(&queue, link);
    return error;
}

static void drop(struct sentry_error *error) REQUIRES(lock)
{
    pending--;
    free(error);
}

// Nothing is sent before. At the end nobody waits for a server to come back; but one that wants nothing gets nothing.
static int64_t due(const struct sentry_policy *policy) REQUIRES(lock)
{
    if (end != DEADLINE_NONE || policy->limited_until > policy->retry_at)
        return policy->limited_until;
    return policy->retry_at;
}

static enum sentry_verdict send_error(struct delivery *delivery, const struct sentry_identity *to,
                                      const struct sentry_error *error, const uint64_t *reported,
                                      struct sentry_answer *answer)
{
    size_t length;
    char *envelope = sentry_error_envelope(to, error, reported, &length);
    *answer = (struct sentry_answer){.error = "out of memory"};
    if (envelope != NULL)
        sentry_sender_send(&sender, to, envelope, length, answer);
    free(envelope);
    return sentry_policy_judge(&delivery->policy, answer, clock_now(), clock_wall());
}

static void log_outcome(struct delivery *delivery, enum sentry_verdict verdict, const struct sentry_answer *answer)
{
    char number[LOG_NUMBER_SIZE];
    bool was_failing = delivery->is_failing;
    delivery->is_failing = verdict == SENTRY_TRY_AGAIN;
    if (verdict == SENTRY_TRY_AGAIN && !was_failing) {
        delivery->lost_before = sentry_lost();
        log_warn(NULL, "cannot send to Sentry, trying again", "error", answer->error, NULL);
    } else if (verdict == SENTRY_REFUSED) {
        log_warn(NULL, "Sentry refused an event", "error", answer->error, NULL);
    } else if (verdict == SENTRY_LIMITED) {
        log_warn(NULL, "Sentry accepts no events for now", "for_s",
                 log_number(number, deadline_left(delivery->policy.limited_until) / NS_PER_S), NULL);
    } else if (was_failing && verdict == SENTRY_TAKEN) {
        log_info(NULL, "Sentry can be reached again", "lost",
                 log_number(number, (int64_t)(sentry_lost() - delivery->lost_before)), NULL);
    }
}

// `reported`: the losses that its envelope told of.
static void settle(struct sentry_error *error, enum sentry_verdict verdict, const uint64_t *reported) REQUIRES(lock)
{
    if (verdict == SENTRY_TRY_AGAIN && ++error->attempts < SENTRY_ATTEMPTS_MAX) {
        STAILQ_INSERT_HEAD(&queue, error, link);
        return;
    }
    if (verdict == SENTRY_TRY_AGAIN)
        count_loss(SENTRY_LOST_NETWORK);
    else if (verdict == SENTRY_REFUSED)
        count_loss(SENTRY_LOST_REFUSED);
    else if (verdict == SENTRY_LIMITED)
        (void)atomic_fetch_add_explicit(&lost, 1, memory_order_relaxed); // Sentry counts those itself
    for (size_t i = 0; verdict == SENTRY_TAKEN && i < SENTRY_LOSSES; i++)
        losses[i] -= reported[i];
    drop(error);
}

// Sends the oldest. Returns whether it is worth going on.
static bool send_oldest(struct delivery *delivery) REQUIRES(lock)
{
    struct sentry_error *error = take_oldest();
    struct sentry_identity to = identity;
    struct sentry_answer answer;
    uint64_t reported[SENTRY_LOSSES];
    memcpy(reported, losses, sizeof reported);
    mutex_unlock(&lock);
    enum sentry_verdict verdict = send_error(delivery, &to, error, reported, &answer);
    explicit_bzero(&to, sizeof to);
    log_outcome(delivery, verdict, &answer);
    mutex_lock(&lock);
    settle(error, verdict, reported);
    return verdict != SENTRY_TRY_AGAIN || end == DEADLINE_NONE;
}

static uint64_t drop_all(void) REQUIRES(lock)
{
    uint64_t count = 0;
    for (; !STAILQ_EMPTY(&queue); count++) {
        count_loss(SENTRY_LOST_NETWORK);
        drop(take_oldest());
    }
    return count;
}

// Closing may take its time, as libcurl waits for a look-up to end.
static void close_unlocked(void) REQUIRES(lock)
{
    mutex_unlock(&lock);
    sentry_sender_close(&sender);
    mutex_lock(&lock);
}

// True: there is something to send, and the time for it has come. False: it is over.
static bool wait_for_work(struct delivery *delivery) REQUIRES(lock)
{
    for (;;) {
        if (delivery->version != version) {
            *delivery = (struct delivery){.version = version};
            close_unlocked();
        }
        if (*identity.dsn == '\0')
            (void)drop_all();
        int64_t now = clock_now();
        if (now >= end || (STAILQ_EMPTY(&queue) && end != DEADLINE_NONE))
            return false;
        int64_t at = STAILQ_EMPTY(&queue) ? DEADLINE_NONE : due(&delivery->policy);
        if (at <= now)
            return true;
        if (end != DEADLINE_NONE && at >= end)
            return false;
        if (sentry_sender_is_open(&sender))
            close_unlocked(); // no connection is held that is not needed now
        else
            condition_wait(&changed, &lock, at < end ? at : end);
    }
}

static void log_lost(uint64_t count)
{
    char number[LOG_NUMBER_SIZE];
    if (count > 0)
        log_warn(NULL, "events for Sentry were lost", "count", log_number(number, (int64_t)count), NULL);
}

static void *run_sentry(void *argument)
{
    (void)argument;
    thread_set_name("sentry");
    struct delivery delivery = {.version = 0};
    mutex_lock(&lock);
    while (wait_for_work(&delivery) && send_oldest(&delivery))
        continue;
    uint64_t left = is_given_up ? 0 : drop_all();
    close_unlocked();
    mutex_unlock(&lock);
    log_lost(left);
    mutex_lock(&lock);
    has_ended = true;
    condition_broadcast(&changed);
    mutex_unlock(&lock);
    return NULL;
}

// ---- on the main thread

bool sentry_prepare(struct error *error)
{
    if (is_started)
        return true;
    if (!sentry_sender_prepare(error))
        return false;
    if (recorder == NULL) {
        recorder = sentry_recorder_create(&recorder_fd, error);
        if (recorder == NULL)
            return false;
        condition_init(&changed);
        sentry_sender_init(&sender);
    }
    is_started = thread_start(&thread, STACK_SIZE, run_sentry, NULL, error);
    return is_started;
}

static void set_identity(const struct sentry_settings *settings)
{
    struct sentry_identity to = {.dsn = ""};
    if (settings->dsn != NULL) {
        (void)snprintf(to.dsn, sizeof to.dsn, "%s", settings->dsn);
        (void)snprintf(to.environment, sizeof to.environment, "%s",
                       settings->environment == NULL ? "production" : settings->environment);
        if (settings->authority != NULL)
            (void)snprintf(to.authority, sizeof to.authority, "%s", settings->authority);
        (void)gethostname(to.server_name, sizeof to.server_name - 1);
    }
    mutex_lock(&lock);
    if (memcmp(&identity, &to, sizeof to) != 0) {
        identity = to;
        recorder->identity = to;
        version++;
    }
    condition_signal(&changed);
    mutex_unlock(&lock);
    explicit_bzero(&to, sizeof to);
}

void sentry_configure(const struct sentry_settings *settings)
{
    if (!is_started)
        return;
    crash_set_reporter(-1, 0);
    if (settings->dsn == NULL)
        log_set_observer(LOG_OFF, NULL);
    set_identity(settings);
    if (settings->dsn == NULL)
        return;
    log_set_observer(LOG_INFO, observe);
    crash_set_reporter(recorder_fd, SENTRY_CRASH_OFFSET);
}

void sentry_end(int64_t deadline)
{
    if (!is_started)
        return;
    log_set_observer(LOG_OFF, NULL);
    atomic_store(&sender.deadline, deadline);
    mutex_lock(&lock);
    end = deadline;
    condition_broadcast(&changed);
    int64_t watch = deadline + END_GRACE;
    while (!has_ended && deadline_left(watch) > 0)
        condition_wait(&changed, &lock, watch);
    bool is_over = has_ended;
    unsigned left = is_over ? 0 : pending;
    is_given_up = !is_over;
    mutex_unlock(&lock);
    if (is_over)
        (void)pthread_join(thread, NULL);
    else
        (void)pthread_detach(thread); // libcurl may be waiting for a look-up, which cannot be cut short
    log_lost(left);
}
