// What can be asked of the control socket, in one table, and who may: over TCP there is nobody to tell from another, so
// everything can be read and nothing ordered.

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/base/compiler.h"
#include "bitflow/base/json_builder.h"
#include "control_internal.h"

#define TYPE_JSON "application/json"
#define ID "ID" // in a path: a connection's

struct route {
    const char *path;
    const char *allow;   // the methods
    control_route *get;  // HEAD, too
    control_route *post; // what changes something
    control_route *remove;
};

static control_route list_routes;

static const struct route routes[] = {
    {"/", "GET, HEAD", .get = list_routes},
    {"/health", "GET, HEAD", .get = control_health},
    {"/ready", "GET, HEAD", .get = control_ready},
    {"/process", "GET, HEAD", .get = control_process},
    {"/connections", "GET, HEAD", .get = control_connections},
    {"/connections/" ID, "GET, HEAD, DELETE", .get = control_connection, .remove = control_end_connection},
    {"/connections/" ID "/end", "POST", .post = control_end_connection},
    {"/proxies", "GET, HEAD", .get = control_proxies},
    {"/config", "GET, HEAD", .get = control_config},
    {"/metrics", "GET, HEAD", .get = control_metrics},
    {"/reload", "POST", .post = control_reload},
    {"/reopen-logs", "POST", .post = control_reopen_logs},
    {"/drain", "POST", .post = control_drain},
};

void control_answer_text(struct http_answer *answer, unsigned status, char *text, size_t length)
{
    answer->status = status;
    answer->type = TYPE_JSON;
    answer->body = text;
    answer->length = length;
}

void control_answer(struct http_answer *answer, unsigned status, json_t *root)
{
    char *text = root == NULL ? NULL : json_dumps(root, JSON_INDENT(2) | JSON_ENSURE_ASCII);
    json_decref(root);
    size_t length = text == NULL ? 0 : strlen(text);
    if (text != NULL)
        text[length++] = '\n'; // in place of the zero byte, which nobody needs
    control_answer_text(answer, status, text, length);
}

void control_answer_status(struct http_answer *answer, unsigned status, const char *word)
{
    struct json_builder root = json_builder_object();
    json_builder_set_text(&root, "status", word);
    control_answer(answer, status, json_builder_finish(&root));
}

void control_answer_error(struct http_answer *answer, unsigned status, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    struct json_builder root = json_builder_object();
    json_builder_set_text(&root, "error", text);
    control_answer(answer, status, json_builder_finish(&root));
}

// The routes' list, beside an error where there is one.
static void answer_routes(struct http_answer *answer, unsigned status, const char *error)
{
    struct json_builder root = json_builder_object(), list = json_builder_array();
    for (size_t i = 0; i < ARRAY_LENGTH(routes); i++) {
        struct json_builder row = json_builder_object();
        json_builder_set_text(&row, "path", routes[i].path);
        json_builder_set_text(&row, "methods", routes[i].allow);
        json_builder_append(&list, json_builder_finish(&row));
    }
    json_builder_set_text(&root, "error", error);
    json_builder_set(&root, "paths", json_builder_finish(&list));
    control_answer(answer, status, json_builder_finish(&root));
}

static struct http_wait *list_routes(struct control *control, const struct http_request *request, uint64_t id,
                                     struct http_answer *answer)
{
    (void)control;
    (void)request;
    (void)id;
    answer_routes(answer, 200, NULL);
    return NULL;
}

// Decimal digits, as many as an id can have; moves `at` behind them.
static bool read_id(const char **at, uint64_t *id)
{
    size_t length = strspn(*at, "0123456789");
    if (length == 0 || length > 18)
        return false;
    *id = strtoull(*at, NULL, 10);
    *at += length;
    return true;
}

static bool matches(const struct route *route, const char *path, uint64_t *id)
{
    const char *hole = strstr(route->path, ID);
    if (hole == NULL)
        return strcmp(route->path, path) == 0;
    size_t before = (size_t)(hole - route->path);
    if (strncmp(route->path, path, before) != 0)
        return false;
    path += before;
    return read_id(&path, id) && strcmp(path, hole + strlen(ID)) == 0;
}

static control_route *method_of(const struct route *route, const char *method)
{
    return strcmp(method, "GET") == 0      ? route->get
           : strcmp(method, "POST") == 0   ? route->post
           : strcmp(method, "DELETE") == 0 ? route->remove
                                           : NULL;
}

struct http_wait *control_serve(void *control, const struct http_request *request, struct http_answer *answer)
{
    uint64_t id = 0;
    const struct route *route = routes;
    while (route < routes + ARRAY_LENGTH(routes) && !matches(route, request->path, &id))
        route++;
    if (route == routes + ARRAY_LENGTH(routes)) {
        answer_routes(answer, 404, "there is no such path");
        return NULL;
    }
    control_route *serve = method_of(route, request->method);
    if (serve == NULL) {
        control_answer_error(answer, 405, "%s is asked for by %s", route->path, route->allow);
        answer->allow = route->allow;
        return NULL;
    }
    if (serve != route->get && !request->is_local) {
        control_answer_error(
            answer, 403,
            "over TCP everything can be read and nothing ordered; for that, application.control.address "
            "is to be unix:///path");
        return NULL;
    }
    return serve(control, request, id, answer);
}
