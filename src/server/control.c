#include "control.h"

#include "bitflow/base/clock.h"
#include "bitflow/base/log.h"
#include "bitflow/net/socket.h"
#include "control_internal.h"

// Whose file it is alone, unless the configuration says otherwise.
#define DEFAULT_MODE "0600"

static const char key[] = "application.control";

// Somebody may wait for it.
static void tell_of_order(void *subject)
{
    const struct control *control = subject;
    if (control->server != NULL)
        http_server_wake(control->server);
}

void control_init(struct control *control, struct service *service)
{
    *control = (struct control){.service = service};
    mutex_init(&control->lock);
    int64_t now = clock_now();
    mutex_lock(&control->lock);
    control->process = (struct control_process){.begin = now, .since = now};
    mutex_unlock(&control->lock);
    orders_tell(&service->orders, tell_of_order, control);
}

static bool find_access(const struct control_config *config, struct unix_access *access, struct error *error)
{
    return unix_access_of(config->mode == NULL ? DEFAULT_MODE : config->mode, config->user, config->group, access,
                          error);
}

// What the configuration cannot know of an inherited socket.
static bool check_inherited(const struct listener *listener, struct error *error)
{
    struct endpoint local;
    if (!listener->is_inherited)
        return true;
    if (listener->is_connected) {
        error_set(error, ERROR_INVALID, "the inherited socket is connected: it must listen");
        return false;
    }
    bool is_abstract =
        listener->is_local && socket_local(listener->sockets[0], &local) && local.address.local.sun_path[0] == '\0';
    if (is_abstract)
        error_set(error, ERROR_INVALID, "the inherited socket is abstract: it has no file to keep others out");
    return !is_abstract;
}

static bool open_listener(struct control *control, const struct control_config *config, struct error *error)
{
    const struct http_actions actions = {.serve = control_serve, .subject = control};
    struct unix_access access;
    if (control->server == NULL)
        control->server = http_server_create(&actions, error);
    if (control->server == NULL || !find_access(config, &access, error) ||
        !listener_open(&config->address, &access, &control->prepared, error))
        return false;
    control->is_new = check_inherited(&control->prepared, error);
    if (!control->is_new)
        listener_give_up(&control->prepared);
    return control->is_new;
}

static bool is_kept(const struct control *control, const struct control_config *config)
{
    return control->listener.socket_count > 0 && address_equal(&control->listener.address, &config->address) &&
           listener_is_intact(&control->listener);
}

bool control_prepare(struct control *control, const struct config *config, struct error *error)
{
    struct error cause = ERROR_INIT;
    struct unix_access access;
    control->is_new = control->is_access_changed = false;
    if (config->control == NULL) {
        control->prepared = (struct listener){.socket_count = 0};
        control->is_new = control->listener.socket_count > 0;
        return true;
    }
    bool is_good;
    if (is_kept(control, config->control))
        is_good = control->is_access_changed =
            find_access(config->control, &access, &cause) &&
            listener_set_access(&control->listener, &access, &control->access_before, &cause);
    else
        is_good = open_listener(control, config->control, &cause);
    if (!is_good)
        error_wrap(error, &cause, "%s", key);
    return is_good;
}

static void log_addresses(const struct listener *listener)
{
    for (size_t i = 0; i < listener->socket_count; i++) {
        struct endpoint local = {.length = 0};
        char text[ENDPOINT_TEXT_SIZE];
        (void)socket_local(listener->sockets[i], &local);
        endpoint_format(&local, text);
        log_info(NULL, "the control socket listens", "address", text, "may", listener->is_local ? "all" : "read", NULL);
    }
}

void control_commit(struct control *control)
{
    if (!control->is_new)
        return;
    bool is_on = control->prepared.socket_count > 0;
    http_server_listen(control->server, is_on ? &control->prepared : NULL);
    control->listener = control->prepared;
    control->is_new = false;
    if (is_on)
        log_addresses(&control->listener);
    else
        log_info(NULL, "the control socket is closed", NULL);
}

void control_abandon(struct control *control)
{
    struct unix_access changed;
    if (control->is_new)
        listener_give_up(&control->prepared);
    else if (control->is_access_changed)
        (void)listener_set_access(&control->listener, &control->access_before, &changed, NULL);
    control->is_new = false;
}

static void set_view(struct control *control, struct control_view *view)
{
    mutex_lock(&control->lock);
    struct control_view *before = control->view;
    control->view = view;
    mutex_unlock(&control->lock);
    control_view_drop(&before);
}

void control_publish(struct control *control)
{
    const struct service *service = control->service;
    if (service->config->control == NULL) {
        set_view(control, NULL); // nobody asks, and what it holds is another generation
        return;
    }
    struct control_view *view = control_view_create(service->config, &service->listeners);
    if (view != NULL)
        set_view(control, view);
}

struct control_view *control_hold_view(struct control *control, struct http_answer *answer)
{
    mutex_lock(&control->lock);
    struct control_view *view = control->view == NULL ? NULL : control_view_hold(control->view);
    mutex_unlock(&control->lock);
    if (view == NULL)
        control_answer_error(answer, 503, "no configuration is in force");
    return view;
}

void control_reclaim(struct control *control)
{
    const struct control_config *config = control->service->config->control;
    struct error error = ERROR_INIT;
    struct unix_access access, before;
    if (config != NULL && control->listener.socket_count > 0 &&
        !(find_access(config, &access, &error) && listener_set_access(&control->listener, &access, &before, &error)))
        log_error(NULL, "cannot give the control socket its access back", "error", error.text, NULL);
}

void control_leave(struct control *control, pid_t successor)
{
    const struct control_config *config = control->service->config->control;
    struct listener beside = {.socket_count = 0};
    struct error error = ERROR_INIT;
    struct unix_access access;
    if (config == NULL || control->listener.socket_count == 0) {
        control_set_successor(control, successor);
        return;
    }
    bool is_local = control->listener.is_local;
    bool is_open =
        find_access(config, &access, &error) && control_open_beside(&control->listener, &access, &beside, &error);
    // Whoever is connected by now came by the address that the successor answers at, and is not to hear that nobody is
    // ready there; whoever comes beside it asks for this process, which drains.
    http_server_listen(control->server, NULL);
    control_set_successor(control, successor);
    if (is_open)
        http_server_listen(control->server, &beside);
    control->listener = beside;
    if (is_open)
        log_addresses(&control->listener);
    else if (!is_local)
        log_info(NULL, "this process cannot be asked while it drains, its control socket is a TCP one", NULL);
    else
        log_warn(NULL, "this process cannot be asked while it drains", "because", error.text, NULL);
}

void control_release(struct control *control)
{
    http_server_destroy(&control->server);
    control->listener = (struct listener){.socket_count = 0};
    orders_leave(&control->service->orders, &control->question);
    set_view(control, NULL);
    mutex_release(&control->lock);
}
