// Which process it is that answers: what it does, since when, and where it is asked when another one has taken its
// control socket over.

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/json_builder.h"
#include "bitflow/base/log.h"
#include "bitflow/net/socket.h"
#include "bitflow/version.h"
#include "control_internal.h"

void control_set_stage(struct control *control, enum control_stage stage)
{
    mutex_lock(&control->lock);
    if (control->process.stage != stage) {
        control->process.stage = stage;
        control->process.since = clock_now();
    }
    mutex_unlock(&control->lock);
}

void control_set_last_moment(struct control *control, int64_t deadline)
{
    mutex_lock(&control->lock);
    control->process.last_moment = deadline;
    mutex_unlock(&control->lock);
}

void control_set_successor(struct control *control, pid_t successor)
{
    mutex_lock(&control->lock);
    control->process.successor = successor;
    control->process.stage = CONTROL_DRAINING;
    control->process.since = clock_now();
    mutex_unlock(&control->lock);
}

struct control_process control_process_of(struct control *control)
{
    mutex_lock(&control->lock);
    struct control_process process = control->process;
    mutex_unlock(&control->lock);
    return process;
}

static json_t *json_of_ms(int64_t time)
{
    return json_integer((json_int_t)(time / NS_PER_MS));
}

struct http_wait *control_process(struct control *control, const struct http_request *request, uint64_t id,
                                  struct http_answer *answer)
{
    static const char *const stages[] = {
        [CONTROL_STARTING] = "starting", [CONTROL_SERVING] = "serving", [CONTROL_DRAINING] = "draining"};
    (void)request;
    (void)id;
    const struct control_process process = control_process_of(control);
    struct json_builder json = json_builder_object();
    int64_t now = clock_now();
    json_builder_set(&json, "pid", json_integer((json_int_t)getpid()));
    json_builder_set_text(&json, "version", BITFLOW_VERSION);
    json_builder_set_text(&json, "state", stages[process.stage]);
    json_builder_set(&json, "state_ms", json_of_ms(now - process.since));
    json_builder_set(&json, "total_ms", json_of_ms(now - process.begin));
    json_builder_set(&json, "drain_left_ms",
                     process.last_moment == 0 || process.last_moment == DEADLINE_NONE
                         ? json_null()
                         : json_of_ms(deadline_left(process.last_moment)));
    json_builder_set(&json, "live", json_integer((json_int_t)registry_count(control->service->runtime.registry)));
    json_builder_set(&json, "successor",
                     process.successor == 0 ? json_null() : json_integer((json_int_t)process.successor));
    control_answer(answer, 200, json_builder_finish(&json));
    return NULL;
}

// False: it has no file.
static bool find_path(const struct listener *listener, struct endpoint *local)
{
    if (listener->socket_count == 0 || !listener->is_local || !socket_local(listener->sockets[0], local))
        return false;
    return local->length > sizeof(sa_family_t) && local->address.local.sun_path[0] == '/';
}

bool control_open_beside(const struct listener *former, const struct unix_access *access, struct listener *listener,
                         struct error *error)
{
    struct endpoint local = {.length = 0};
    struct address beside = {.kind = ADDRESS_UNIX};
    if (!find_path(former, &local)) {
        error_set(error, ERROR_INVALID,
                  "the control socket that was handed over is no file that another can be beside");
        return false;
    }
    int length = snprintf(beside.path, sizeof beside.path, "%s.%d", local.address.local.sun_path, (int)getpid());
    if (length < 0 || (size_t)length >= sizeof beside.path) {
        error_set(error, ERROR_INVALID, "the path of the control socket leaves no room for .%d", (int)getpid());
        return false;
    }
    return listener_open(&beside, access, listener, error);
}
