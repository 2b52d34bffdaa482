#include "control_view.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "bitflow/base/json_builder.h"
#include "bitflow/net/socket.h"

// NULL: the listener of that proxy has failed.
static const struct acceptor *find_acceptor(const struct listeners *listeners, const struct proxy_config *settings,
                                            struct generation **generation)
{
    for (size_t i = 0; i < listeners->count; i++) {
        *generation = acceptor_generation(listeners->acceptors[i]);
        if ((*generation)->settings == settings)
            return listeners->acceptors[i];
        generation_drop(generation);
    }
    return NULL;
}

static json_t *addresses_of(const struct acceptor *acceptor)
{
    struct json_builder list = json_builder_array();
    const struct listener *listener =
        acceptor == NULL || acceptor_is_connected(acceptor) ? NULL : acceptor_listener(acceptor);
    for (size_t i = 0; listener != NULL && i < listener->socket_count; i++) {
        struct endpoint local = {.length = 0};
        char text[ENDPOINT_TEXT_SIZE];
        (void)socket_local(listener->sockets[i], &local);
        endpoint_format(&local, text);
        json_builder_append(&list, json_builder_text(text));
    }
    return json_builder_finish(&list);
}

struct control_view *control_view_create(const struct config *config, const struct listeners *listeners)
{
    struct control_view *view = calloc(1, sizeof *view);
    if (view == NULL)
        return NULL;
    atomic_init(&view->references, 1);
    view->config = config_hold(config);
    view->proxies = calloc(config->proxy_count, sizeof *view->proxies);
    bool is_good = view->proxies != NULL;
    for (size_t i = 0; is_good && i < config->proxy_count; i++) {
        struct control_view_proxy *proxy = &view->proxies[i];
        const struct acceptor *acceptor = find_acceptor(listeners, &config->proxies[i], &proxy->generation);
        proxy->sockets = addresses_of(acceptor);
        is_good = proxy->sockets != NULL;
    }
    if (!is_good)
        control_view_drop(&view);
    return view;
}

struct control_view *control_view_hold(struct control_view *view)
{
    (void)atomic_fetch_add_explicit(&view->references, 1, memory_order_relaxed);
    return view;
}

void control_view_drop(struct control_view **view)
{
    struct control_view *dropped = *view;
    *view = NULL;
    if (dropped == NULL || atomic_fetch_sub_explicit(&dropped->references, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; dropped->proxies != NULL && i < dropped->config->proxy_count; i++) {
        generation_drop(&dropped->proxies[i].generation);
        json_decref(dropped->proxies[i].sockets);
    }
    free(dropped->proxies);
    config_drop(&dropped->config);
    free(dropped);
}
