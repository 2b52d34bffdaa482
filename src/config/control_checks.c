#include "control_checks.h"

#include "bitflow/base/compiler.h"
#include "file_checks.h"
#include "listener_checks.h"

// More than a warning: whoever relies on it to keep others out must not run without it.
static void check_access(const struct config_path *control, const struct address *address,
                         struct diagnostics *diagnostics)
{
    static const char *const keys[] = {"mode", "user", "group"};
    for (size_t i = 0; address->kind != ADDRESS_UNIX && i < ARRAY_LENGTH(keys); i++) {
        struct config_path path = path_key(control, keys[i]);
        if (path.node != NULL)
            report_error_at_key(diagnostics, &path, "is for unix:///path alone: this address makes no file");
    }
}

static void check_neighbours(const struct config_path *path, const struct config *config,
                             struct diagnostics *diagnostics)
{
    const struct address *address = &config->control->address;
    for (size_t i = 0; i < config->proxy_count; i++) {
        const struct address *listener = &config->proxies[i].listener.address;
        bool is_free_port = address->kind == ADDRESS_TCP && address->port == 0;
        if (!is_free_port && address_equal(address, listener)) {
            report_error_at_value(diagnostics, path, "server.proxies[%zu] already listens there", i);
            return;
        }
        if (listener_addresses_overlap(address, listener)) {
            report_warning_at_value(diagnostics, path,
                                    "overlaps with that of server.proxies[%zu]: only one of them can be opened, and "
                                    "the start will fail",
                                    i);
            return;
        }
    }
}

void check_control(const struct config_path *root, const struct config *config, struct diagnostics *diagnostics)
{
    if (config->control == NULL)
        return;
    const struct address *address = &config->control->address;
    struct config_path application = path_key(root, "application");
    struct config_path control = path_key(&application, "control");
    struct config_path path = path_key(&control, "address");
    if (path.node == NULL || diagnostics_has_error_at(diagnostics, path.node->mark))
        return;
    check_access(&control, address, diagnostics);
    check_neighbours(&path, config, diagnostics);
    if (address->kind == ADDRESS_UNIX && address->is_abstract)
        report_error_at_value(diagnostics, &path,
                              "would give control to everyone on this host: an abstract socket has no file whose mode "
                              "keeps others out; use unix:///path");
    else if (address->kind == ADDRESS_UNIX)
        check_socket_to_make(&path, address, diagnostics);
    else if (address->kind == ADDRESS_TCP && !listener_address_is_loopback(address))
        report_warning_at_value(diagnostics, &path,
                                "can be read by whoever can connect to it, without a password: clients' addresses, "
                                "targets, the configuration without its secrets; 127.0.0.1 and [::1] are reached from "
                                "this host alone, unix:///path by whom its mode lets in");
}
