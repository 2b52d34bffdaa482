#include "watched_files.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/log.h"
#include "bitflow/tls/tls_context.h"

enum watched_kind { WATCHED_CERTIFICATES = 1 << 0, WATCHED_CONFIGURATION = 1 << 1 };

#define ORDER_TIME (600 * NS_PER_S)

// ---- on the thread `files`

// Whether it is worth another attempt without a change: the certificates may have failed for want of memory or
// descriptors, and an old one goes on ageing. Of the configuration someone is told, who is to mend it.
static bool give_order(struct orders *orders, enum order_kind kind)
{
    struct error error = ERROR_INIT;
    struct order *order = orders_give(orders, kind, &error);
    if (order == NULL) {
        if (error.code == ERROR_REFUSED) // the process ends
            return false;
        log_warn(NULL, "a file has changed, and is not reloaded yet", "error", error.text, NULL);
        return true;
    }
    bool is_done = orders_wait(orders, order, deadline_after(ORDER_TIME));
    bool is_refused = is_done && order->outcome.status == RELOAD_REFUSED;
    orders_leave(orders, &order);
    return is_refused && kind == ORDER_RELOAD_CERTIFICATES;
}

static unsigned order_reload(void *context, unsigned kinds)
{
    const struct watched_files *files = context;
    unsigned again = 0;
    if ((kinds & WATCHED_CONFIGURATION) != 0 && give_order(files->orders, ORDER_RELOAD_IF_CHANGED))
        again |= WATCHED_CONFIGURATION;
    // Also after that: what it refuses for another reason does not hold up the certificates.
    if ((kinds & WATCHED_CERTIFICATES) != 0 && give_order(files->orders, ORDER_RELOAD_CERTIFICATES))
        again |= WATCHED_CERTIFICATES;
    return again;
}

// ---- which files

// Names them one by one; the same one may come several times. `list` NULL: they are only counted.
struct collection {
    struct watched_file *list;
    size_t count;
};

static void collect(struct collection *files, const char *path, enum watched_kind kind)
{
    if (path == NULL)
        return;
    if (files->list != NULL)
        files->list[files->count] = (struct watched_file){.path = path, .kinds = (unsigned)kind};
    files->count++;
}

static void collect_tls(struct collection *files, const struct tls_config *tls, bool is_target)
{
    if (tls == NULL)
        return;
    bool has_authority = false;
    for (size_t i = 0; i < tls->certificate_count; i++) {
        const struct certificate_config *certificate = &tls->certificates[i];
        collect(files, certificate->certificate.path, WATCHED_CERTIFICATES);
        collect(files, certificate->key.path, WATCHED_CERTIFICATES);
        collect(files, certificate->authority.path, WATCHED_CERTIFICATES);
        collect(files, certificate->revocation_list.path, WATCHED_CERTIFICATES);
        has_authority = has_authority || certificate->authority.path != NULL;
    }
    if (is_target && !has_authority && tls->verify_mode != VERIFY_NONE)
        collect(files, tls_system_authorities(), WATCHED_CERTIFICATES);
}

// A pipe was read to its end, and will say nothing else.
static bool is_regular(const char *path)
{
    struct stat status;
    if (stat(path, &status) == 0 && S_ISREG(status.st_mode))
        return true;
    log_warn(NULL, "the configuration is not watched: it is not a regular file", "file", path, NULL);
    return false;
}

static void collect_all(struct collection *files, const struct config *config, const char *configuration)
{
    collect(files, configuration, WATCHED_CONFIGURATION);
    if (!config->watch_files)
        return;
    if (config->sentry_dsn != NULL)
        collect(files, config->sentry_authority.path, WATCHED_CERTIFICATES);
    for (size_t i = 0; i < config->proxy_count; i++) {
        const struct proxy_config *proxy = &config->proxies[i];
        collect_tls(files, proxy->listener.tls, false);
        for (size_t n = 0; n < proxy->target_count; n++)
            collect_tls(files, proxy->targets[n].tls, true);
    }
}

static int compare_paths(const void *a, const void *b)
{
    const struct watched_file *one = a;
    const struct watched_file *other = b;
    return strcmp(one->path, other->path);
}

static void merge_same(struct collection *files)
{
    size_t kept = 0;
    qsort(files->list, files->count, sizeof *files->list, compare_paths);
    for (size_t i = 0; i < files->count; i++) {
        if (kept > 0 && compare_paths(&files->list[kept - 1], &files->list[i]) == 0)
            files->list[kept - 1].kinds |= files->list[i].kinds;
        else
            files->list[kept++] = files->list[i];
    }
    files->count = kept;
}

static bool start(struct watched_files *files, struct error *error)
{
    const struct file_watch_options options = {
        .settle = 1 * NS_PER_S,
        .settle_max = 5 * NS_PER_S,
        .interval = 10 * NS_PER_S,
        .retry = 60 * NS_PER_S,
        .retry_max = 3600 * NS_PER_S,
        .max_watches = 1024,
        .on_change = order_reload,
        .context = files,
    };
    if (files->watch == NULL)
        files->watch = file_watch_create(&options, error);
    return files->watch != NULL;
}

void watched_files_init(struct watched_files *files, struct orders *orders)
{
    *files = (struct watched_files){.orders = orders};
}

void watched_files_apply(struct watched_files *files, const char *path, const struct config *config, int64_t since)
{
    const char *configuration = config->watch_configuration && is_regular(path) ? path : NULL;
    struct collection found = {.list = NULL};
    struct error error = ERROR_INIT;
    collect_all(&found, config, configuration);
    if (found.count == 0 && files->watch == NULL)
        return; // no thread is needed
    found = (struct collection){.list = calloc(found.count + 1, sizeof *found.list)};
    bool is_good = found.list != NULL;
    if (is_good) {
        collect_all(&found, config, configuration);
        merge_same(&found);
        is_good = start(files, &error) && file_watch_set(files->watch, found.list, found.count, since, &error);
    } else {
        error_set(&error, ERROR_NO_MEMORY, "out of memory");
    }
    if (!is_good)
        log_warn(NULL, "changes of files are not noticed: only a reload (SIGHUP) reads them again", "error", error.text,
                 NULL);
    free(found.list);
}

void watched_files_release(struct watched_files *files)
{
    file_watch_destroy(&files->watch);
}
