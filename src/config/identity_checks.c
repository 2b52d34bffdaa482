#include "identity_checks.h"

void check_authorized_names(const struct config_path *tls, const struct tls_config *config, bool is_listener,
                            struct diagnostics *diagnostics)
{
    struct config_path names = path_key(tls, "authorized_names");
    struct config_path mode = path_key(tls, "verify_mode");
    if (config == NULL || names.node == NULL || path_is_refused(&mode, diagnostics))
        return;
    if (is_listener && config->verify_mode == VERIFY_NONE)
        report_error_at_key(diagnostics, &names,
                            "needs verify_mode: strict; without it clients show no certificate, and nobody would be "
                            "kept out");
    else if (is_listener && config->verify_mode == VERIFY_RELAXED)
        report_error_at_key(diagnostics, &names,
                            "needs verify_mode: strict; relaxed lets in clients that show no certificate, whatever "
                            "the names");
    else if (config->verify_mode == VERIFY_NONE)
        report_error_at_key(diagnostics, &names,
                            "needs verify_mode: strict or relaxed; with none any certificate is accepted, whatever "
                            "the names");
}

void check_authorized_peers(const struct config_path *listener, const struct listener_config *config,
                            struct diagnostics *diagnostics)
{
    struct config_path peers = path_key(listener, "authorized_peers");
    struct config_path address = path_key(listener, "address");
    if (peers.node == NULL || address.node == NULL || path_is_refused(&address, diagnostics))
        return;
    if (config->address.kind == ADDRESS_TCP)
        report_error_at_key(diagnostics, &peers,
                            "is for Unix sockets alone: nobody knows the users of clients that come by TCP; "
                            "authorized_sources lists addresses");
}
