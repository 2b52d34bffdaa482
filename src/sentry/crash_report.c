#include "crash_report.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bitflow/sentry/sentry.h"
#include "sender.h"

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

// ---- in the reporter

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
