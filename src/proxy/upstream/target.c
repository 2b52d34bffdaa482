#include "bitflow/proxy/target.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/hash.h"
#include "bitflow/base/invariant.h"
#include "bitflow/proxy/proxy.h"
#include "health.h"

// A name and an address, which is the same however its host is spelt, and however it is reached.
static uint64_t fingerprint_endpoint(const struct target_config *target)
{
    char address[ADDRESS_TEXT_SIZE];
    address_format(&target->address, address);
    for (char *at = address; target->address.kind == ADDRESS_TCP && *at != '\0'; at++)
        *at = (char)tolower((unsigned char)*at);
    return hash_text(hash_text(hash_begin(), target->name), address);
}

// How it is reached. A password in the SOCKS5 server's address goes in, too, and is kept nowhere.
static uint64_t add_route(uint64_t hash, const struct proxy_config *settings, const struct target_config *target,
                          const struct tls_context *tls)
{
    hash = hash_text(hash, target->socks_proxy);
    hash = hash_number(hash, tls == NULL ? 0 : tls_context_fingerprint(tls));
    if (!settings->enable_proxy_header)
        return hash_number(hash, 0);
    hash = hash_number(hash, 1 + (uint64_t)settings->proxy_header_version);
    return hash_number(hash_number(hash, settings->proxy_header_tlvs), settings->proxy_header_pass_tlvs);
}

static void *hold(struct shared_list *list, uint64_t fingerprint, size_t size)
{
    char name[sizeof "0123456789abcdef"];
    (void)snprintf(name, sizeof name, "%016" PRIx64, fingerprint);
    return shared_hold(list, name, size);
}

bool target_init(struct target *target, struct proxy *proxy, const struct proxy_config *settings,
                 const struct target_config *target_settings, const struct tls_context *tls, struct error *error)
{
    uint64_t endpoint = fingerprint_endpoint(target_settings);
    uint64_t route = add_route(endpoint, settings, target_settings, tls);
    *target = (struct target){.settings = target_settings};
    mutex_lock(&proxy->lock);
    target->load = hold(&proxy->loads, endpoint, sizeof *target->load);
    target->health = hold(&proxy->healths, route, sizeof *target->health);
    mutex_unlock(&proxy->lock);
    target->metrics = target_metrics_hold(proxy->metrics, target_settings->name);
    if (target->load != NULL && target->health != NULL && target->metrics != NULL)
        return true;
    error_set_errno(error, ENOMEM, "cannot watch the target %s", target_settings->name);
    return false;
}

void target_release(struct target *target, struct proxy *proxy)
{
    mutex_lock(&proxy->lock);
    if (target->load != NULL && shared_drop(target->load)) {
        INVARIANT(atomic_load_explicit(&target->load->active, memory_order_relaxed) == 0);
        shared_free(target->load);
    }
    if (target->health != NULL && shared_drop(target->health))
        shared_free(target->health);
    mutex_unlock(&proxy->lock);
    target_metrics_drop(proxy->metrics, &target->metrics);
    tls_context_destroy(&target->tls);
    *target = (struct target){.settings = NULL};
}

const char *target_state(const struct target *target)
{
    static const char *const words[] = {[HEALTH_GOOD] = "up", [HEALTH_DUE] = "due", [HEALTH_OUT] = "out"};
    const struct health_rule rule = {.max_fails = target->settings->max_fails,
                                     .fail_timeout = target->settings->fail_timeout};
    return rule.max_fails == 0 ? NULL : words[health_judge(target->health, &rule, clock_now())];
}

void target_enter(struct target *target)
{
    atomic_fetch_add_explicit(&target->load->active, 1, memory_order_relaxed);
}

void target_leave(struct target *target)
{
    uint64_t before = atomic_fetch_sub_explicit(&target->load->active, 1, memory_order_relaxed);
    INVARIANT(before > 0);
}
