// What the control socket orders, and whether the main thread takes orders at all. The server's thread never waits for
// the main thread: the answer is put off until the order is done.

#include <inttypes.h>
#include <stdlib.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/json_builder.h"
#include "bitflow/base/log.h"
#include "bitflow/proxy/connection_view.h"
#include "control_internal.h"

// A main thread that takes no order for so long is stuck. A reload may keep it busy for that long: by then it waits for
// a name server, or for a disk.
#define HEALTH_BOUND (5 * NS_PER_S)
// Longer than any reload takes that is not stuck.
#define ORDER_TIME (120 * NS_PER_S)
// Who waits for his order keeps his place for all that time. The other half is for those who ask whether the process is
// alive: what restarts it must get an answer.
#define ORDERS_WAITING_MAX (HTTP_CLIENTS_MAX / 2)

// ---- whether the main thread answers

struct health_wait {
    struct http_wait wait;
    struct control *control;
};

// Whether the open question has been answered.
static bool is_question_answered(struct control *control)
{
    struct orders *orders = &control->service->orders;
    if (control->question != NULL && orders_wait(orders, control->question, 0))
        orders_leave(orders, &control->question);
    return control->question == NULL;
}

static bool look_at_health(struct http_wait *wait, bool is_late, struct http_answer *answer)
{
    struct control *control = ((struct health_wait *)wait)->control;
    if (is_question_answered(control)) {
        control_answer_status(answer, 200, "healthy");
        return true;
    }
    if (!is_late)
        return false;
    control_answer_error(answer, 503, "the main thread has taken no order for %" PRId64 " s",
                         (clock_now() - control->asked) / NS_PER_S);
    return true;
}

static void drop_health(struct http_wait *wait)
{
    free((struct health_wait *)wait);
}

// All who ask wait for the same question: a main thread that is stuck is not asked over and over again.
struct http_wait *control_health(struct control *control, const struct http_request *request, uint64_t id,
                                 struct http_answer *answer)
{
    (void)request;
    (void)id;
    struct error error = ERROR_INIT;
    if (is_question_answered(control)) {
        control->question = orders_give(&control->service->orders, ORDER_ANSWER, &error);
        control->asked = clock_now();
        if (error.code == ERROR_REFUSED) { // it is draining, and answers to signals alone
            control_answer_status(answer, 200, "draining");
            return NULL;
        }
        if (control->question == NULL)
            return NULL; // which says that there is no memory
    }
    struct health_wait *health = malloc(sizeof *health);
    if (health == NULL)
        return NULL; // which says that there is no memory
    *health = (struct health_wait){
        .wait = {.deadline = control->asked + HEALTH_BOUND, .look = look_at_health, .drop = drop_health},
        .control = control,
    };
    return &health->wait;
}

// ---- orders

struct order_wait {
    struct http_wait wait;
    struct control *control;
    struct order *order;
};

static json_t *json_of_diagnostic(const struct diagnostics *diagnostics, const struct diagnostic *diagnostic)
{
    struct json_builder json = json_builder_object();
    bool has_mark = diagnostic->mark.line > 0;
    char line[DIAGNOSTIC_LINE_SIZE];
    diagnostic_format(diagnostics, diagnostic, line);
    json_builder_set_text(&json, "severity", diagnostic->severity == DIAGNOSTIC_ERROR ? "error" : "warning");
    json_builder_set_text(&json, "file", diagnostics->file);
    json_builder_set(&json, "line", has_mark ? json_integer((json_int_t)diagnostic->mark.line) : json_null());
    json_builder_set(&json, "column", has_mark ? json_integer((json_int_t)diagnostic->mark.column) : json_null());
    json_builder_set(&json, "path", json_builder_text(diagnostic->path));
    json_builder_set(&json, "text", json_builder_text(diagnostic->text));
    json_builder_set(&json, "message", json_builder_text(line));
    return json_builder_finish(&json);
}

static json_t *json_of_reload(const char *status, const struct reload_outcome *outcome, const char *error)
{
    struct json_builder root = json_builder_object(), problems = json_builder_array();
    const struct diagnostics *diagnostics = &outcome->diagnostics;
    size_t left_out = 0;
    for (size_t i = 0; outcome->has_diagnostics && i < diagnostics->kept; i++)
        json_builder_append(&problems, json_of_diagnostic(diagnostics, &diagnostics->list[i]));
    if (outcome->has_diagnostics)
        left_out =
            diagnostics_left_out(diagnostics, DIAGNOSTIC_ERROR) + diagnostics_left_out(diagnostics, DIAGNOSTIC_WARNING);
    json_builder_set_text(&root, "status", status);
    json_builder_set_text(&root, "error", error);
    json_builder_set(&root, "problems", json_builder_finish(&problems));
    json_builder_set(&root, "left_out", json_integer((json_int_t)left_out));
    return json_builder_finish(&root);
}

static const char refused_by_file[] = "the configuration has errors, the old one stays in force";

static void answer_reload(const struct reload_outcome *outcome, struct http_answer *answer)
{
    switch (outcome->status) {
    case RELOAD_DONE:
        control_answer(answer, 200, json_of_reload("reloaded", outcome, NULL));
        break;
    case RELOAD_REFUSED:
    case RELOAD_POSTPONED:
        control_answer(answer, 422,
                       json_of_reload("refused", outcome,
                                      outcome->error.code == ERROR_NONE ? refused_by_file : outcome->error.text));
        break;
    case RELOAD_GIVEN_UP:
    case RELOAD_NOT_DONE:
        control_answer(answer, 503, json_of_reload("given_up", outcome, "the process was told to end"));
        break;
    }
}

static void answer_drain(const struct control *control, struct http_answer *answer)
{
    struct json_builder json = json_builder_object();
    json_builder_set_text(&json, "status", "draining");
    json_builder_set(&json, "live", json_integer((json_int_t)registry_count(control->service->runtime.registry)));
    control_answer(answer, 202, json_builder_finish(&json));
}

static bool look_at_order(struct http_wait *wait, bool is_late, struct http_answer *answer)
{
    struct order_wait *waiting = (struct order_wait *)wait;
    const struct order *order = waiting->order;
    if (!orders_wait(&waiting->control->service->orders, waiting->order, 0)) {
        if (is_late)
            control_answer_error(answer, 504, "the main thread has not done it within %" PRId64 " s; it still may",
                                 ORDER_TIME / NS_PER_S);
        return is_late;
    }
    if (order->is_dropped)
        control_answer_error(answer, 503, "the process ends, or is replaced, and has not done it");
    else if (order->kind == ORDER_RELOAD)
        answer_reload(&order->outcome, answer);
    else if (order->kind == ORDER_DRAIN)
        answer_drain(waiting->control, answer);
    else if (order->has_failed)
        control_answer_error(answer, 500, "not every log could be opened again; the application log says why");
    else
        control_answer_status(answer, 200, "reopened");
    return true;
}

static void drop_order(struct http_wait *wait)
{
    struct order_wait *waiting = (struct order_wait *)wait;
    waiting->control->waiting--;
    orders_leave(&waiting->control->service->orders, &waiting->order);
    free(waiting);
}

static void log_order(const struct http_request *request, const char *order, uint64_t connection)
{
    struct log_context context = {.connection = connection};
    char pid[LOG_NUMBER_SIZE], uid[LOG_NUMBER_SIZE];
    log_info(&context, "ordered through the control socket", "order", order, "pid", log_number(pid, request->pid),
             "uid", log_number(uid, request->uid), NULL);
}

static struct http_wait *give_order(struct control *control, const struct http_request *request, enum order_kind kind,
                                    const char *name, struct http_answer *answer)
{
    struct error error = ERROR_INIT;
    if (control->waiting == ORDERS_WAITING_MAX) {
        control_answer_error(answer, 503, "%d clients wait for their orders already", ORDERS_WAITING_MAX);
        answer->retry = "1";
        return NULL;
    }
    struct order_wait *waiting = malloc(sizeof *waiting);
    if (waiting == NULL)
        return NULL; // which says that there is no memory
    *waiting = (struct order_wait){
        .wait = {.deadline = deadline_after(ORDER_TIME), .look = look_at_order, .drop = drop_order},
        .control = control,
    };
    log_order(request, name, 0);
    waiting->order = orders_give(&control->service->orders, kind, &error);
    if (waiting->order != NULL) {
        control->waiting++;
        return &waiting->wait;
    }
    free(waiting);
    control_answer_error(answer, 503, "%s", error.text);
    return NULL;
}

struct http_wait *control_reload(struct control *control, const struct http_request *request, uint64_t id,
                                 struct http_answer *answer)
{
    (void)id;
    return give_order(control, request, ORDER_RELOAD, "reload", answer);
}

struct http_wait *control_drain(struct control *control, const struct http_request *request, uint64_t id,
                                struct http_answer *answer)
{
    (void)id;
    return give_order(control, request, ORDER_DRAIN, "drain", answer);
}

struct http_wait *control_reopen_logs(struct control *control, const struct http_request *request, uint64_t id,
                                      struct http_answer *answer)
{
    (void)id;
    return give_order(control, request, ORDER_REOPEN_LOGS, "reopen-logs", answer);
}

struct http_wait *control_end_connection(struct control *control, const struct http_request *request, uint64_t id,
                                         struct http_answer *answer)
{
    if (!connection_view_end(control->service->runtime.registry, id)) {
        control_answer_error(answer, 404, "no connection %" PRIu64 " is live, or it ends already", id);
        return NULL;
    }
    log_order(request, "end", id);
    struct json_builder json = json_builder_object();
    json_builder_set_text(&json, "status", "ended");
    json_builder_set(&json, "id", json_integer((json_int_t)id));
    control_answer(answer, 200, json_builder_finish(&json));
    return NULL;
}
