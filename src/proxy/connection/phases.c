#include "phases.h"

#include <string.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/invariant.h"

#define PHASE_ROW(constant, row_kind, row_name, row_step, row_key, row_timer) \
    [constant] = {                                                            \
        .kind = PHASE_KIND_##row_kind, .name = row_name, .step = row_step, .key = row_key, .timer = row_timer},

const struct phase_row phase_rows[PHASE_COUNT] = {CONNECTION_PHASES(PHASE_ROW)};

// At least 1: what was come to is told from what was not, however coarse the clock is.
static int64_t between(int64_t begin, int64_t end)
{
    return end > begin ? end - begin : 1;
}

// The connection's own thread writes both, and others only look: nothing is ordered by them.
static enum phase step_of(const struct phases *phases)
{
    return atomic_load_explicit(&phases->step, memory_order_relaxed);
}

static int64_t since_of(const struct phases *phases)
{
    return atomic_load_explicit(&phases->since, memory_order_relaxed);
}

static void stop_step(struct phases *phases, int64_t now)
{
    if (phases->step_since != 0)
        phases->spent[step_of(phases)] += between(phases->step_since, now);
    phases->step_since = 0;
}

void phases_begin(struct phases *phases)
{
    phases->started = clock_now();
    atomic_store_explicit(&phases->since, phases->started, memory_order_relaxed);
}

void phases_enter(struct phases *phases, enum phase phase)
{
    int64_t now = clock_now();
    enum phase current = atomic_load_explicit(&phases->current, memory_order_relaxed);
    INVARIANT(phase > current && phase_rows[phase].kind != PHASE_KIND_TOLD);
    stop_step(phases, now);
    if (phase_rows[phase].kind == PHASE_KIND_STEP) {
        INVARIANT(strcmp(phase_rows[phase].name, phase_rows[current].name) == 0);
        atomic_store_explicit(&phases->step, phase, memory_order_relaxed);
        phases->step_since = now;
        return;
    }
    phases->spent[current] = between(since_of(phases), now);
    if (phase == PHASE_CLOSING) {
        phases->ended = now;
    } else {
        phases->reached = phase;
        atomic_store_explicit(&phases->since, now, memory_order_relaxed);
    }
    atomic_store_explicit(&phases->current, phase, memory_order_release); // what came of those before is set
}

void phases_leave_step(struct phases *phases)
{
    if (phases->step_since != 0)
        stop_step(phases, clock_now());
}

void phases_leave_told_step(struct phases *phases, enum phase step)
{
    atomic_store_explicit(&phases->step, step, memory_order_relaxed);
    phases->step_since = 0;
}

void phases_add(struct phases *phases, enum phase step, int64_t duration)
{
    phases->spent[step] += duration;
}

int64_t phases_durations(const struct phases *phases, int64_t first_byte, int64_t now, int64_t durations[PHASE_COUNT])
{
    memcpy(durations, phases->spent, sizeof phases->spent);
    if (first_byte != 0)
        durations[PHASE_FIRST_BYTE] = between(since_of(phases), first_byte);
    if (phases->started == 0)
        return 0;
    if (phases->ended == 0)
        durations[phases->reached] = between(since_of(phases), now);
    return between(phases->started, phases->ended != 0 ? phases->ended : now);
}
