#include "crash_report.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bitflow/base/json_builder.h"
#include "bitflow/sentry/sentry.h"
#include "sender.h"
#include "symbols.h"

// Less than CRASH_REPORT_TIME, so that a failure is told.
#define REPORT_TIME (4 * NS_PER_S)

static struct sentry_recorder *map(int fd, int flags)
{
    void *memory = mmap(NULL, sizeof(struct sentry_recorder), PROT_READ | PROT_WRITE, flags, fd, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

struct sentry_recorder *sentry_recorder_create(int *fd, struct error *error)
{
    int memory = memfd_create("bitflow-recorder", MFD_CLOEXEC);
    if (memory < 0) {
        error_set_errno(error, errno, "cannot prepare for Sentry");
        return NULL;
    }
    struct sentry_recorder *recorder = NULL;
    if (ftruncate(memory, SENTRY_CRASH_OFFSET + sizeof(struct crash)) == 0)
        recorder = map(memory, MAP_SHARED);
    if (recorder == NULL) {
        error_set_errno(error, errno, "cannot prepare for Sentry");
        (void)close(memory);
        return NULL;
    }
    *fd = memory;
    return recorder;
}

// ---- in the reporter: the event

static json_t *json_of_frame(const struct crash_frame *frame, bool is_innermost, const struct symbols *symbols)
{
    bool is_ours = frame->base != 0 && *frame->module == '\0';
    struct json_builder json = json_builder_object();
    json_builder_set(&json, "instruction_addr", sentry_event_hex(frame->address));
    if (frame->base != 0) {
        json_builder_set(&json, "image_addr", sentry_event_hex(frame->base));
        json_builder_set_text(&json, "package", is_ours ? "bitflow" : frame->module);
    }
    json_builder_set(&json, "in_app", json_boolean(is_ours));
    // Where a function returns to may be beyond its end.
    uint64_t offset = frame->address - frame->base - (is_innermost ? 0 : 1);
    json_builder_set_text(&json, "function", is_ours ? symbols_find(symbols, offset) : NULL);
    return json_builder_finish(&json);
}

// Outermost first.
static json_t *json_of_stack(const struct crash *crash, const struct symbols *symbols)
{
    struct json_builder frames = json_builder_array();
    for (uint32_t i = crash->frame_count; i-- > 0;)
        json_builder_append(&frames, json_of_frame(&crash->frames[i], i == 0, symbols));
    struct json_builder json = json_builder_object();
    json_builder_set(&json, "frames", json_builder_finish(&frames));
    return json_builder_finish(&json);
}

static json_t *json_of_mechanism(const struct crash *crash)
{
    struct json_builder number = json_builder_object();
    json_builder_set(&number, "number", json_integer(crash->signal));
    json_builder_set_text(&number, "name", crash_signal_name(crash->signal));
    json_builder_set(&number, "code", json_integer(crash->code));
    json_builder_set_text(&number, "code_name", crash_code_name(crash->signal, crash->code));
    struct json_builder meta = json_builder_object();
    json_builder_set(&meta, "signal", json_builder_finish(&number));
    struct json_builder json = json_builder_object();
    json_builder_set_text(&json, "type", "signalhandler");
    json_builder_set(&json, "handled", json_false());
    json_builder_set(&json, "meta", json_builder_finish(&meta));
    return json_builder_finish(&json);
}

static json_t *json_of_exception(const struct crash *crash, const struct symbols *symbols)
{
    char text[96];
    const char *code = crash_code_name(crash->signal, crash->code);
    if (crash->has_address)
        (void)snprintf(text, sizeof text, "%s at address 0x%" PRIx64, code == NULL ? "fault" : code, crash->address);
    else
        (void)snprintf(text, sizeof text, "%s", code == NULL ? "fault" : code);
    struct json_builder json = json_builder_object();
    json_builder_set_text(&json, "type", crash_signal_name(crash->signal));
    json_builder_set_text(&json, "value", text);
    json_builder_set(&json, "thread_id", json_integer(crash->thread));
    json_builder_set(&json, "mechanism", json_of_mechanism(crash));
    json_builder_set(&json, "stacktrace", json_of_stack(crash, symbols));
    return json_builder_finish(&json);
}

static json_t *json_of_thread(const struct crash *crash)
{
    struct json_builder json = json_builder_object();
    json_builder_set(&json, "id", json_integer(crash->thread));
    json_builder_set_text(&json, "name", crash->thread_name);
    json_builder_set(&json, "crashed", json_true());
    return json_builder_finish(&json);
}

// The 16 bytes that Sentry finds debug files by: the id's first, read as a little-endian UUID.
static void format_debug_id(const unsigned char *build_id, char out[40])
{
    static const unsigned char order[] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
    for (size_t i = 0; i < sizeof order; i++) {
        (void)snprintf(out, 4, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", build_id[order[i]]);
        out += strlen(out);
    }
}

static json_t *json_of_image(const struct crash *crash, const struct symbols *symbols)
{
    char code_id[2 * 64 + 1];
    char debug_id[40];
    uint64_t base = 0;
    for (uint32_t i = 0; i < crash->frame_count; i++)
        if (crash->frames[i].base != 0 && *crash->frames[i].module == '\0')
            base = crash->frames[i].base;
    for (size_t i = 0; i < symbols->build_id_size; i++)
        (void)snprintf(code_id + 2 * i, 3, "%02x", symbols->build_id[i]);
    format_debug_id(symbols->build_id, debug_id);
    struct json_builder json = json_builder_object();
    json_builder_set_text(&json, "type", "elf");
    json_builder_set_text(&json, "code_file", "bitflow");
    json_builder_set_text(&json, "code_id", code_id);
    json_builder_set_text(&json, "debug_id", debug_id);
    json_builder_set(&json, "image_addr", sentry_event_hex(base));
    json_builder_set(&json, "image_size", json_integer((json_int_t)symbols->memory_size));
    return json_builder_finish(&json);
}

// An object with a list of one.
static json_t *list_of(const char *key, json_t *value)
{
    struct json_builder list = json_builder_array();
    json_builder_append(&list, value);
    struct json_builder json = json_builder_object();
    json_builder_set(&json, key, json_builder_finish(&list));
    return json_builder_finish(&json);
}

uint64_t sentry_crashed_connection(const struct crash *crash)
{
    char name[THREAD_NAME_SIZE];
    (void)snprintf(name, sizeof name, "%s", crash->thread_name);
    const char *mark = strrchr(name, '#'); // web#42>
    return mark == NULL ? 0 : strtoull(mark + 1, NULL, 10);
}

static json_t *describe_tags(const struct crash *crash)
{
    char number[LOG_NUMBER_SIZE];
    uint64_t connection = sentry_crashed_connection(crash);
    struct json_builder tags = json_builder_object();
    if (connection != 0)
        json_builder_set_text(&tags, "connection", log_number(number, (int64_t)connection));
    json_builder_set_text(&tags, "signal", crash_signal_name(crash->signal));
    json_builder_set_text(&tags, "thread", crash->thread_name);
    return json_builder_finish(&tags);
}

char *sentry_crash_envelope(const struct sentry_identity *identity, const char *id, const struct crash *crash,
                            const struct sentry_breadcrumb *breadcrumbs, size_t breadcrumb_count, size_t *length)
{
    struct symbols symbols;
    symbols_init(&symbols);
    // No fingerprint: Sentry groups crashes by their stack.
    struct json_builder event = sentry_event_begin(identity, id, clock_wall(), "fatal");
    json_builder_set(&event, "exception", list_of("values", json_of_exception(crash, &symbols)));
    json_builder_set(&event, "threads", list_of("values", json_of_thread(crash)));
    json_builder_set(&event, "tags", describe_tags(crash));
    if (symbols.build_id_size >= 16 && symbols.build_id_size <= 64)
        json_builder_set(&event, "debug_meta", list_of("images", json_of_image(crash, &symbols)));
    sentry_event_set_breadcrumbs(&event, breadcrumbs, breadcrumb_count);
    symbols_release(&symbols);
    return sentry_envelope(json_builder_finish(&event), id, NULL, length);
}

// ---- in the reporter: all of it

static bool send_crash(struct sentry_recorder *recorder, const struct crash *crash, const char *id, struct error *error)
{
    static struct sentry_breadcrumb breadcrumbs[SENTRY_BREADCRUMBS_MAX];
    size_t count = sentry_breadcrumbs_collect(&recorder->breadcrumbs, sentry_crashed_connection(crash), breadcrumbs);
    size_t length;
    char *envelope = sentry_crash_envelope(&recorder->identity, id, crash, breadcrumbs, count, &length);
    if (envelope == NULL) {
        error_set_errno(error, ENOMEM, "cannot describe the crash");
        return false;
    }
    struct sentry_sender sender;
    struct sentry_answer answer;
    sentry_sender_init(&sender);
    atomic_store(&sender.deadline, deadline_after(REPORT_TIME));
    sentry_sender_send(&sender, &recorder->identity, envelope, length, &answer);
    sentry_sender_close(&sender);
    free(envelope);
    bool is_taken = answer.status >= 200 && answer.status < 300;
    if (!is_taken)
        error_set(error, ERROR_SYSTEM, "%s", answer.error);
    return is_taken;
}

bool sentry_report_crash(int fd, char id[SENTRY_ID_SIZE], struct error *error)
{
    struct crash crash;
    struct stat status;
    if (fstat(fd, &status) != 0 || (size_t)status.st_size != SENTRY_CRASH_OFFSET + sizeof crash ||
        pread(fd, &crash, sizeof crash, SENTRY_CRASH_OFFSET) != (ssize_t)sizeof crash ||
        crash_signal_name(crash.signal) == NULL || crash.frame_count > CRASH_FRAMES_MAX) {
        error_set(error, ERROR_INVALID, "descriptor %d does not hold a crash", fd);
        return false;
    }
    struct sentry_recorder *recorder = map(fd, MAP_PRIVATE); // slots are taken by being written to
    if (recorder == NULL) {
        error_set_errno(error, errno, "cannot read the crash");
        return false;
    }
    if (!sentry_make_id(id)) {
        error_set(error, ERROR_SYSTEM, "cannot get random numbers from the system");
        return false;
    }
    return sentry_sender_prepare(error) && send_crash(recorder, &crash, id, error);
}
