// Lines that say the same, many times a second: when a target is down, each connection has its lines about that. The
// first of a window are written, the others are counted.
//
// A kind of line is known by a hash of what makes lines the same; it keeps a copy of that, to say how many more there
// were. None of it is what a peer sent, so peers cannot make kinds: proxies, targets and reasons are the operator's. A
// kind whose window is over gives its place to another; when there are more than KINDS_MAX in one window, those beyond
// are all written.

#include <string.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/hash.h"
#include "bitflow/base/mutex.h"
#include "log_internal.h"

#define KINDS_MAX 128
#define KIND_TEXT_SIZE 512

struct kind {
    int64_t start;     // of its window; CLOCK_MONOTONIC
    uint64_t written;  // in this window
    uint64_t left_out; // likewise, and not told yet
    struct log_event event;
    struct log_field fields[LOG_FIELDS_MAX];
    size_t text_length;
    char text[KIND_TEXT_SIZE]; // what the event borrows
};

static struct mutex repeats_lock = MUTEX_INIT;
static uint64_t hashes[KINDS_MAX] GUARDED_BY(repeats_lock); // apart from the kinds, since all are looked at; 0: unused
static struct kind kinds[KINDS_MAX] GUARDED_BY(repeats_lock);
static bool is_pending GUARDED_BY(repeats_lock); // somebody is going to call log_flush_repeats()
static void (*pending_notice)(void);

void log_set_repeats_notice(void (*notice)(void))
{
    pending_notice = notice;
}

// Whether lines that differ in this field are of two kinds.
static bool is_telling(const struct log_event *event, const struct log_field *field)
{
    return event->connection == 0 || strcmp(field->key, "target") == 0 || strcmp(field->key, "reason") == 0;
}

static uint64_t hash_event(const struct log_event *event)
{
    uint64_t hash = hash_number(hash_begin(), event->level);
    hash = hash_text(hash, event->message);
    hash = hash_text(hash, event->proxy);
    for (size_t i = 0; i < event->field_count; i++)
        if (is_telling(event, &event->fields[i]))
            hash = hash_text(hash_text(hash, event->fields[i].key), event->fields[i].value);
    return hash == 0 ? 1 : hash;
}

// What doesn't fit is cut, or empty.
static const char *keep_text(struct kind *kind, const char *text)
{
    size_t room = sizeof kind->text - kind->text_length;
    size_t length = strnlen(text, room - 1);
    char *kept = memcpy(kind->text + kind->text_length, text, length);
    kept[length] = '\0';
    kind->text_length += room > length + 1 ? length + 1 : length;
    return kept;
}

static void kind_init(struct kind *kind, const struct log_event *event)
{
    kind->text_length = 0;
    kind->event = (struct log_event){.level = event->level, .fields = kind->fields};
    kind->event.message = keep_text(kind, event->message); // some are put together, and gone when this is told of
    if (event->proxy != NULL)
        kind->event.proxy = keep_text(kind, event->proxy);
    for (size_t i = 0; i < event->field_count && kind->event.field_count < LOG_FIELDS_MAX - 1; i++)
        if (is_telling(event, &event->fields[i]))
            kind->fields[kind->event.field_count++] =
                (struct log_field){.key = event->fields[i].key, .value = keep_text(kind, event->fields[i].value)};
}

static bool is_over(const struct kind *kind, int64_t now)
{
    return now - kind->start >= LOG_REPEATS_WINDOW;
}

static void tell_left_out(struct kind *kind) REQUIRES(repeats_lock)
{
    if (kind->left_out == 0)
        return;
    char number[LOG_NUMBER_SIZE];
    struct log_event event = kind->event;
    kind->fields[event.field_count++] =
        (struct log_field){.key = "more", .value = log_number(number, (int64_t)kind->left_out)};
    event.wall = clock_wall();
    if (log_is_written(event.level))
        log_output(&event);
    kind->left_out = 0;
}

// Its kind, with a window that has begun; NULL: the table is full.
static struct kind *find_kind(const struct log_event *event, uint64_t hash, int64_t now) REQUIRES(repeats_lock)
{
    size_t at = KINDS_MAX, place = KINDS_MAX;
    for (size_t i = 0; i < KINDS_MAX && at == KINDS_MAX; i++) {
        if (hashes[i] == hash)
            at = i;
        else if (place == KINDS_MAX && (hashes[i] == 0 || is_over(&kinds[i], now)))
            place = i;
    }
    bool is_new = at == KINDS_MAX;
    if (is_new)
        at = place;
    if (at == KINDS_MAX)
        return NULL;
    struct kind *kind = &kinds[at];
    if (!is_new && !is_over(kind, now))
        return kind;
    tell_left_out(kind);
    if (is_new)
        kind_init(kind, event);
    hashes[at] = hash;
    kind->start = now;
    kind->written = 0;
    return kind;
}

bool log_repeats_admit(const struct log_event *event)
{
    if (event->level < LOG_WARN)
        return true;
    uint64_t hash = hash_event(event);
    bool is_first_left_out = false;
    mutex_lock(&repeats_lock);
    struct kind *kind = find_kind(event, hash, clock_now_coarse());
    bool is_admitted = kind == NULL || kind->written < LOG_REPEATS_MAX;
    if (kind != NULL && is_admitted) {
        kind->written++;
    } else if (kind != NULL) {
        kind->left_out++;
        is_first_left_out = !is_pending;
        is_pending = true;
    }
    mutex_unlock(&repeats_lock);
    if (is_first_left_out && pending_notice != NULL)
        pending_notice();
    return is_admitted;
}

int64_t log_flush_repeats(bool now)
{
    int64_t next = DEADLINE_NONE;
    int64_t time = clock_now();
    mutex_lock(&repeats_lock);
    for (size_t i = 0; i < KINDS_MAX && is_pending; i++) {
        struct kind *kind = &kinds[i];
        if (kind->left_out == 0)
            continue;
        if (now || is_over(kind, time))
            tell_left_out(kind);
        else if (kind->start + LOG_REPEATS_WINDOW < next)
            next = kind->start + LOG_REPEATS_WINDOW;
    }
    is_pending = next != DEADLINE_NONE;
    mutex_unlock(&repeats_lock);
    return next;
}
