// What the control socket tells.

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/base/compiler.h"
#include "bitflow/base/json_builder.h"
#include "bitflow/config/config_json.h"
#include "bitflow/proxy/connection_view.h"
#include "control_internal.h"

// NULL: all listeners are open.
static const char *failed_listener(const struct control_view *view)
{
    for (size_t i = 0; i < view->config->proxy_count; i++)
        if (view->proxies[i].generation == NULL)
            return view->config->proxies[i].name;
    return NULL;
}

struct http_wait *control_ready(struct control *control, const struct http_request *request, uint64_t id,
                                struct http_answer *answer)
{
    (void)id;
    // Who came by the address that the successor has now asks for whoever serves there, and is to ask that one next.
    const struct control_process process = control_process_of(control);
    if (request->is_left_behind && process.successor != 0) {
        control_answer_status(answer, 200, "ready");
        answer->is_last = true;
        return NULL;
    }
    if (process.stage != CONTROL_SERVING) {
        control_answer_error(answer, 503, "the process was told to end, and drains");
        return NULL;
    }
    struct control_view *view = control_hold_view(control, answer);
    if (view == NULL)
        return NULL;
    const char *failed = failed_listener(view);
    if (failed == NULL)
        control_answer_status(answer, 200, "ready");
    else
        control_answer_error(answer, 503, "the listener of proxy %s has failed", failed);
    control_view_drop(&view);
    return NULL;
}

// False, after an answer: it is not a number in that range.
static bool read_number(const struct http_request *request, const char *name, uint64_t least, uint64_t most,
                        uint64_t *number, struct http_answer *answer)
{
    const char *text = http_argument(request, name);
    if (text == NULL)
        return true;
    size_t length = strlen(text);
    if (length > 0 && length <= 18 && strspn(text, "0123456789") == length) {
        *number = strtoull(text, NULL, 10);
        if (*number >= least && *number <= most)
            return true;
    }
    control_answer_error(answer, 400, "%s must be a number from %" PRIu64 " to %" PRIu64, name, least, most);
    return false;
}

static void answer_page(struct http_answer *answer, const struct connection_page *page, size_t live)
{
    char next[24] = "null", *text = NULL;
    if (page->next != 0)
        (void)snprintf(next, sizeof next, "%" PRIu64, page->next);
    int length = asprintf(&text, "{\"live\": %zu, \"count\": %zu, \"next\": %s, \"connections\": %s}\n", live,
                          page->count, next, page->text);
    control_answer_text(answer, 200, length < 0 ? NULL : text, length < 0 ? 0 : (size_t)length);
}

static size_t count_known(const struct http_request *request)
{
    static const char *const names[] = {"limit", "after", "proxy"};
    size_t count = 0;
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++)
        count += http_argument(request, names[i]) != NULL ? 1 : 0;
    return count;
}

struct http_wait *control_connections(struct control *control, const struct http_request *request, uint64_t id,
                                      struct http_answer *answer)
{
    (void)id;
    struct registry *registry = control->service->runtime.registry;
    struct connection_query query = {.proxy = http_argument(request, "proxy")};
    if (http_argument_count(request) != count_known(request)) { // a slip would tell of more than was asked for
        control_answer_error(answer, 400, "the query has limit, after and proxy, each once");
        return NULL;
    }
    struct connection_page page;
    uint64_t limit = CONNECTION_PAGE_MAX;
    if (!read_number(request, "after", 0, INT64_MAX, &query.after, answer) ||
        !read_number(request, "limit", 1, CONNECTION_PAGE_MAX, &limit, answer))
        return NULL;
    query.limit = limit;
    if (!connection_view_page(registry, &query, &page))
        return NULL; // the answer is that there is no memory
    answer_page(answer, &page, registry_count(registry));
    free(page.text);
    return NULL;
}

struct http_wait *control_connection(struct control *control, const struct http_request *request, uint64_t id,
                                     struct http_answer *answer)
{
    (void)request;
    char *text = NULL;
    size_t length = 0;
    switch (connection_view_one(control->service->runtime.registry, id, &text, &length)) {
    case CONNECTION_FOUND:
        control_answer_text(answer, 200, text, length);
        break;
    case CONNECTION_NOT_FOUND:
        control_answer_error(answer, 404, "no connection %" PRIu64 " is live", id);
        break;
    case CONNECTION_NO_MEMORY:
        break;
    }
    return NULL;
}

static json_t *json_of_limit(int64_t limit)
{
    return limit == 0 ? json_null() : json_integer(limit);
}

static json_t *json_of_target(const struct target *target)
{
    struct json_builder json = json_builder_object();
    char address[ADDRESS_TEXT_SIZE];
    address_format(&target->settings->address, address);
    json_builder_set_text(&json, "name", target->settings->name);
    json_builder_set_text(&json, "address", address);
    json_builder_set(&json, "health", json_builder_text(target_state(target)));
    json_builder_set(&json, "connections",
                     json_integer((json_int_t)atomic_load_explicit(&target->load->active, memory_order_relaxed)));
    return json_builder_finish(&json);
}

static json_t *json_of_targets(const struct proxy_config *settings, const struct generation *generation)
{
    struct json_builder list = json_builder_array();
    for (size_t i = 0; generation != NULL && i < settings->target_count; i++)
        json_builder_append(&list, json_of_target(&generation->targets[i]));
    return json_builder_finish(&list);
}

static json_t *json_of_proxy(const struct proxy_config *settings, const struct control_view_proxy *seen, bool is_closed)
{
    const struct proxy *proxy = seen->generation == NULL ? NULL : seen->generation->proxy;
    struct json_builder json = json_builder_object(), listener = json_builder_object();
    char address[ADDRESS_TEXT_SIZE];
    address_format(&settings->listener.address, address);
    json_builder_set_text(&listener, "address", address);
    json_builder_set_text(&listener, "state", proxy == NULL ? "failed" : is_closed ? "closed" : "open");
    json_builder_set(&listener, "sockets", json_deep_copy(seen->sockets));
    json_builder_set_text(&json, "name", settings->name);
    json_builder_set(&json, "listener", json_builder_finish(&listener));
    json_builder_set(&json, "live", json_integer(proxy == NULL ? 0 : (json_int_t)atomic_load(&proxy->active)));
    json_builder_set(&json, "accepted", json_integer(proxy == NULL ? 0 : (json_int_t)atomic_load(&proxy->accepted)));
    json_builder_set(&json, "connection_limit", json_of_limit(settings->connection_limit));
    json_builder_set(&json, "source_connection_limit", json_of_limit(settings->source_connection_limit));
    json_builder_set(&json, "source_connection_rate", json_of_limit(settings->source_connection_rate));
    json_builder_set(&json, "targets", json_of_targets(settings, seen->generation));
    return json_builder_finish(&json);
}

struct http_wait *control_proxies(struct control *control, const struct http_request *request, uint64_t id,
                                  struct http_answer *answer)
{
    (void)request;
    (void)id;
    struct control_view *view = control_hold_view(control, answer);
    if (view == NULL)
        return NULL;
    struct json_builder root = json_builder_object(), list = json_builder_array();
    bool is_closed = control_process_of(control).last_moment != 0;
    for (size_t i = 0; i < view->config->proxy_count; i++)
        json_builder_append(&list, json_of_proxy(&view->config->proxies[i], &view->proxies[i], is_closed));
    json_builder_set(&root, "proxies", json_builder_finish(&list));
    control_answer(answer, 200, json_builder_finish(&root));
    control_view_drop(&view);
    return NULL;
}

struct http_wait *control_config(struct control *control, const struct http_request *request, uint64_t id,
                                 struct http_answer *answer)
{
    (void)request;
    (void)id;
    struct control_view *view = control_hold_view(control, answer);
    if (view == NULL)
        return NULL;
    control_answer(answer, 200, config_json(view->config));
    control_view_drop(&view);
    return NULL;
}

struct http_wait *control_metrics(struct control *control, const struct http_request *request, uint64_t id,
                                  struct http_answer *answer)
{
    (void)request;
    (void)id;
    answer->status = 200;
    answer->type = PROMETHEUS_CONTENT_TYPE;
    if (!metrics_report_text(&control->service->metrics, &answer->body, &answer->length, NULL))
        answer->body = NULL; // the answer is that there is no memory
    return NULL;
}
