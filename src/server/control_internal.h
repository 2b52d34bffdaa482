// How the control socket's routes answer. The server's thread's.

#ifndef BITFLOW_SRC_SERVER_CONTROL_INTERNAL_H
#define BITFLOW_SRC_SERVER_CONTROL_INTERNAL_H

#include <jansson.h>
#include <stdint.h>

#include "control.h"
#include "control_view.h"
#include "reload.h"

// Answers, or returns what it waits for. `id`: of the path, where it has one.
typedef struct http_wait *control_route(struct control *control, const struct http_request *request, uint64_t id,
                                        struct http_answer *answer);

// control_routes.c: `control` is the subject.
struct http_wait *control_serve(void *control, const struct http_request *request, struct http_answer *answer);

// Takes `root`; NULL: no memory, which is what is answered then.
void control_answer(struct http_answer *answer, unsigned status, json_t *root);
// {"status": ...}
void control_answer_status(struct http_answer *answer, unsigned status, const char *word);
// {"error": ...}
void control_answer_error(struct http_answer *answer, unsigned status, const char *format, ...) PRINTF_LIKE(3, 4);
// Takes the text, which is JSON already.
void control_answer_text(struct http_answer *answer, unsigned status, char *text, size_t length);

// A reference of the caller's; NULL after it has answered that nothing is in force yet.
struct control_view *control_hold_view(struct control *control, struct http_answer *answer);

// control_process.c
control_route control_process;
struct control_process control_process_of(struct control *control);
// It has taken over: this process drains from now on.
void control_set_successor(struct control *control, pid_t successor);
// The socket beside that of `former`, with the same access.
bool control_open_beside(const struct listener *former, const struct unix_access *access, struct listener *listener,
                         struct error *error);
// control_pages.c
control_route control_ready, control_connections, control_connection, control_proxies, control_config, control_metrics;
// control_orders.c
control_route control_health, control_reload, control_drain, control_reopen_logs, control_end_connection;

#endif
