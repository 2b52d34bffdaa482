#include "bitflow/tls/tls_context.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <mbedtls/oid.h>
#include <mbedtls/psa_util.h>

#include "bitflow/base/hash.h"
#include "bitflow/tls/aead.h"
#include "bitflow/tls/tls_arithmetic.h"
#include "certificate.h"
#include "context_internal.h"
#include "pem.h"

#define SYSTEM_BUNDLE_VARIABLE "SSL_CERT_FILE" // as OpenSSL has it

static bool out_of_memory(struct error *error)
{
    error_set(error, ERROR_NO_MEMORY, "out of memory for a TLS context");
    return false;
}

static bool read_file(struct tls_context *context, const char *path, struct pem_text *text, struct error *error)
{
    if (!pem_text_read(path, text, error))
        return false;
    context->fingerprint = hash_bytes(context->fingerprint, text->bytes, text->length);
    return true;
}

static bool copy_text(const char *from, char **to, struct error *error)
{
    if (from == NULL)
        return true;
    *to = strdup(from);
    return *to != NULL || out_of_memory(error);
}

// Whether mbedTLS will use it as a server's: it passes over certificates that are for something else.
static bool is_for_servers(const char *path, const mbedtls_x509_crt *certificate, struct error *error)
{
    char shown[PEM_PATH_SIZE];
    if (mbedtls_x509_crt_check_extended_key_usage(certificate, MBEDTLS_OID_SERVER_AUTH,
                                                  MBEDTLS_OID_SIZE(MBEDTLS_OID_SERVER_AUTH)) != 0)
        error_set(error, ERROR_INVALID, "%s: the certificate is not for servers (extended key usage)",
                  pem_path(path, shown));
    else if (mbedtls_x509_crt_check_key_usage(certificate, MBEDTLS_X509_KU_DIGITAL_SIGNATURE) != 0)
        error_set(error, ERROR_INVALID, "%s: the certificate's key is not for signatures (key usage)",
                  pem_path(path, shown));
    else
        return true;
    return false;
}

static int compare_pair(const mbedtls_x509_crt *certificate, const mbedtls_pk_context *key)
{
    return mbedtls_pk_check_pair(&certificate->pk, key, mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE);
}

static bool check_pair(const struct tls_entry *entry, struct error *error)
{
    char key[PEM_PATH_SIZE];
    char certificate[PEM_PATH_SIZE];
    int status = compare_pair(&entry->chain, &entry->key);
    if (status == 0)
        return true;
    if (tls_is_memory_error(status))
        return out_of_memory(error);
    unsigned position = 2;
    for (const mbedtls_x509_crt *other = entry->chain.next; other != NULL; other = other->next, position++) {
        if (compare_pair(other, &entry->key) != 0)
            continue;
        error_set(error, ERROR_INVALID, "%s: the key's certificate must be the first, not number %u, of %s",
                  pem_path(entry->key_path, key), position, pem_path(entry->certificate_path, certificate));
        return false;
    }
    // Each path may take up the room of a whole text; the end is cut then.
    error_set(error, ERROR_INVALID, "the key does not belong to the certificate: %s, %s",
              pem_path(entry->key_path, key), pem_path(entry->certificate_path, certificate));
    return false;
}

// A certificate that mbedTLS cannot send would only be found out by its peers.
static bool check_size(const struct tls_entry *entry, struct error *error)
{
    char shown[PEM_PATH_SIZE];
    size_t size = certificate_message_size(&entry->chain);
    if (size <= CERTIFICATE_MESSAGE_MAX)
        return true;
    error_set(error, ERROR_INVALID,
              "%s: the certificate%s would take %zu bytes in a handshake, more than the %zu that mbedTLS can send",
              pem_path(entry->certificate_path, shown), entry->chain.next != NULL ? " and its chain" : "", size,
              CERTIFICATE_MESSAGE_MAX);
    return false;
}

// Loads one file after another of one entry; `key` names the one at hand, for the report.
struct entry_loader {
    struct tls_context *context;
    const struct certificate_config *config;
    struct tls_entry *entry;
    const char *key;               // NULL: none yet
    const struct named_file *file; // of that key
    struct error *error;
};

static void begin_file(struct entry_loader *loader, const char *key, const struct named_file *file)
{
    loader->key = key;
    loader->file = file;
}

static bool load_pair(struct entry_loader *loader)
{
    struct tls_entry *entry = loader->entry;
    struct error *error = loader->error;
    struct pem_text text = {.bytes = NULL};
    begin_file(loader, "certificate", &loader->config->certificate);
    bool is_good = read_file(loader->context, entry->certificate_path, &text, error) &&
                   pem_parse_certificates(entry->certificate_path, &text, &entry->chain, error);
    pem_text_release(&text);
    if (!is_good)
        return false;
    begin_file(loader, "key", &loader->config->key);
    is_good = read_file(loader->context, entry->key_path, &text, error) &&
              pem_parse_key(entry->key_path, &text, &entry->key, error);
    entry->others_may_read_key = text.others_may_read;
    pem_text_release(&text);
    if (!is_good || !check_pair(entry, error) || !key_twin_create(&entry->key, &entry->key_twin, error))
        return false;
    begin_file(loader, "certificate", &loader->config->certificate);
    if (!check_size(entry, error))
        return false;
    return loader->context->role == TLS_CLIENT || is_for_servers(entry->certificate_path, &entry->chain, error);
}

static bool load_authority(struct entry_loader *loader)
{
    struct tls_entry *entry = loader->entry;
    struct error *error = loader->error;
    struct pem_text authorities = {.bytes = NULL};
    struct pem_text lists = {.bytes = NULL};
    bool is_of_lists = false;
    begin_file(loader, "authority", &loader->config->authority);
    bool is_good = read_file(loader->context, entry->authority_path, &authorities, error);
    if (is_good && entry->revocation_list_path != NULL) {
        begin_file(loader, "revocation_list", &loader->config->revocation_list);
        is_good = read_file(loader->context, entry->revocation_list_path, &lists, error);
    }
    if (is_good) {
        const struct trust_file of_authorities = {.path = entry->authority_path, .text = &authorities};
        const struct trust_file of_lists = {.path = entry->revocation_list_path, .text = &lists};
        entry->trust = trust_hold_files(&of_authorities, of_lists.path != NULL ? &of_lists : NULL, &is_of_lists, error);
        is_good = entry->trust != NULL;
        if (!is_of_lists)
            begin_file(loader, "authority", &loader->config->authority);
    }
    pem_text_release(&authorities);
    pem_text_release(&lists);
    return is_good;
}

static bool load_entry(struct entry_loader *loader)
{
    const struct certificate_config *config = loader->config;
    struct tls_entry *entry = loader->entry;
    struct error *error = loader->error;
    if (!copy_text(config->certificate.path, &entry->certificate_path, error) ||
        !copy_text(config->key.path, &entry->key_path, error) ||
        !copy_text(config->authority.path, &entry->authority_path, error) ||
        !copy_text(config->revocation_list.path, &entry->revocation_list_path, error))
        return false;
    if (entry->certificate_path != NULL && !load_pair(loader))
        return false;
    return entry->authority_path == NULL || load_authority(loader);
}

// Who is told of what is wrong: either may be NULL.
struct report {
    const char *path;
    struct diagnostics *diagnostics;
    struct error *first;
};

static void report_problem(const struct report *report, struct yaml_mark mark, const char *path,
                           const struct error *problem)
{
    error_pass(report->first, problem);
    if (report->diagnostics != NULL)
        diagnostics_add(
            report->diagnostics,
            &(struct diagnostic){.severity = DIAGNOSTIC_ERROR, .mark = mark, .path = path, .text = problem->text});
}

static void report_entry(const struct report *report, const struct entry_loader *loader, size_t index,
                         struct yaml_mark context_mark)
{
    char path[192];
    if (loader->key == NULL) {
        report_problem(report, context_mark, report->path, loader->error);
        return;
    }
    (void)snprintf(path, sizeof path, "%s.certificates[%zu].%s", report->path, index, loader->key);
    report_problem(report, loader->file->mark, path, loader->error);
}

// Each entry is tried, so that all that is wrong can be mended at once.
static bool load_entries(struct tls_context *context, const struct tls_config *config, const struct report *report)
{
    struct error error = ERROR_INIT;
    bool is_good = true;
    context->entries = calloc(config->certificate_count + 1, sizeof *context->entries);
    if (context->entries == NULL) {
        (void)out_of_memory(&error);
        report_problem(report, config->mark, report->path, &error);
        return false;
    }
    for (size_t i = 0; i < config->certificate_count; i++) {
        struct tls_entry *entry = &context->entries[i];
        mbedtls_x509_crt_init(&entry->chain);
        mbedtls_pk_init(&entry->key);
        context->entry_count++;
        error = ERROR_INIT;
        struct entry_loader loader = {
            .context = context, .config = &config->certificates[i], .entry = entry, .error = &error};
        if (!load_entry(&loader)) {
            report_entry(report, &loader, i, config->mark);
            is_good = false;
        }
    }
    return is_good;
}

const char *tls_system_authorities(void)
{
    // Where Debian and Alpine, Fedora, SUSE, and others have it.
    static const char *const bundles[] = {"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
                                          "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"};
    const char *path = getenv(SYSTEM_BUNDLE_VARIABLE);
    for (size_t i = 0; i < ARRAY_LENGTH(bundles) && (path == NULL || *path == '\0'); i++)
        path = access(bundles[i], R_OK) == 0 ? bundles[i] : NULL;
    return path != NULL ? path : bundles[0]; // whose absence is then told
}

// A target whose configuration names no authority is held to the public ones.
static bool load_system_authorities(struct tls_context *context, struct error *error)
{
    const char *path = tls_system_authorities();
    struct pem_text text = {.bytes = NULL};
    struct error why = ERROR_INIT;
    bool is_of_lists;
    if (read_file(context, path, &text, &why)) // what libcrypto cannot use of a public bundle is nobody's mistake
        context->trust = trust_hold_files(&(struct trust_file){.path = path, .text = &text}, NULL, &is_of_lists, &why);
    pem_text_release(&text);
    if (context->trust == NULL)
        error_set(error, why.code, "no authority is configured, and the system's do not load: %s", why.text);
    return context->trust != NULL;
}

// A client or target that none of the entries' own authorities is for is judged by all of them.
static bool join_authorities(struct tls_context *context, struct error *error)
{
    struct trust **parts = calloc(context->entry_count + 1, sizeof *parts);
    size_t count = 0;
    for (size_t i = 0; parts != NULL && i < context->entry_count; i++)
        if (context->entries[i].trust != NULL)
            parts[count++] = context->entries[i].trust;
    bool is_good = parts != NULL || out_of_memory(error);
    if (count > 0) {
        context->trust = trust_hold_several(parts, count, error);
        is_good = context->trust != NULL;
    }
    free(parts);
    return is_good;
}

static bool has_pair(const struct tls_context *context)
{
    for (size_t i = 0; i < context->entry_count; i++)
        if (context->entries[i].certificate_path != NULL)
            return true;
    return false;
}

static bool check_authorities(struct tls_context *context, struct error *error)
{
    if (!join_authorities(context, error))
        return false;
    if (context->verify_mode == VERIFY_NONE || context->trust != NULL)
        return true;
    if (context->role == TLS_CLIENT)
        return load_system_authorities(context, error);
    error_set(error, ERROR_INVALID, "verify_mode %s needs an authority that clients' certificates are held to",
              context->verify_mode == VERIFY_STRICT ? "strict" : "relaxed");
    return false;
}

static bool copy_protocols(struct tls_context *context, const struct tls_config *config, struct error *error)
{
    if (config->application_protocol_count == 0)
        return true;
    context->protocols = calloc(config->application_protocol_count + 1, sizeof *context->protocols);
    if (context->protocols == NULL)
        return out_of_memory(error);
    for (size_t i = 0; i < config->application_protocol_count; i++)
        if (!copy_text(config->application_protocols[i], &context->protocols[i], error))
            return false;
    return true;
}

// An array of pointers, and behind it what they point to.
static bool copy_authorized_names(struct tls_context *context, const struct tls_config *config, struct error *error)
{
    size_t count = config->authorized_name_count;
    size_t size = (count + 1) * sizeof *context->authorized_names;
    if (count == 0)
        return true;
    for (size_t i = 0; i < count; i++)
        size += strlen(config->authorized_names[i]) + 1;
    context->authorized_names = calloc(1, size);
    if (context->authorized_names == NULL)
        return out_of_memory(error);
    char *at = (char *)(context->authorized_names + count + 1);
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(config->authorized_names[i]) + 1;
        memcpy(at, config->authorized_names[i], length);
        context->authorized_names[i] = at;
        at += length;
    }
    return true;
}

static bool finish(struct tls_context *context, const struct tls_config *config, struct error *error)
{
    if (context->role == TLS_SERVER && !has_pair(context)) {
        error_set(error, ERROR_INVALID, "a listener with TLS needs a certificate and its key");
        return false;
    }
    if (!check_authorities(context, error))
        return false;
    if (context->role == TLS_SERVER)
        tls_sni_prepare(context);
    return copy_protocols(context, config, error) && copy_authorized_names(context, config, error) &&
           copy_text(config->server_name, &context->server_name, error) &&
           tls_ssl_configure(context, config->minimum_version, error);
}

static uint64_t fingerprint_of(const struct tls_config *config)
{
    uint64_t hash = hash_number(hash_begin(), config->verify_mode);
    hash = hash_number(hash, config->minimum_version);
    hash = hash_number(hash, (uint64_t)config->handshake_timeout);
    hash = hash_text(hash, config->server_name);
    hash = hash_number(hash, config->application_protocol_count);
    for (size_t i = 0; i < config->application_protocol_count; i++)
        hash = hash_text(hash, config->application_protocols[i]);
    hash = hash_number(hash, config->authorized_name_count);
    for (size_t i = 0; i < config->authorized_name_count; i++)
        hash = hash_text(hash, config->authorized_names[i]);
    for (size_t i = 0; i < config->certificate_count; i++) {
        hash = hash_text(hash, config->certificates[i].certificate.path);
        hash = hash_text(hash, config->certificates[i].key.path);
        hash = hash_text(hash, config->certificates[i].authority.path);
        hash = hash_text(hash, config->certificates[i].revocation_list.path);
    }
    return hash;
}

static struct tls_context *load(const struct tls_config *config, enum tls_role role, const struct report *report)
{
    struct error error = ERROR_INIT;
    struct tls_context *context = calloc(1, sizeof *context);
    if (context == NULL) {
        (void)out_of_memory(&error);
        report_problem(report, config->mark, report->path, &error);
        return NULL;
    }
    context->role = role;
    context->verify_mode = config->verify_mode;
    context->fingerprint = fingerprint_of(config);
    mbedtls_ssl_config_init(&context->config);
    if (!load_entries(context, config, report)) {
        tls_context_destroy(&context);
    } else if (!finish(context, config, &error)) {
        report_problem(report, config->mark, report->path, &error);
        tls_context_destroy(&context);
    }
    return context;
}

struct tls_context *tls_context_load(const struct tls_config *config, enum tls_role role, const char *path,
                                     struct diagnostics *diagnostics)
{
    const struct report report = {.path = path, .diagnostics = diagnostics};
    return load(config, role, &report);
}

struct tls_context *tls_context_create(const struct tls_config *config, enum tls_role role, struct error *error)
{
    const struct report report = {.path = "", .first = error};
    return load(config, role, &report);
}

uint64_t tls_context_fingerprint(const struct tls_context *context)
{
    return context->fingerprint;
}

static void release_entry(struct tls_entry *entry)
{
    key_twin_destroy(&entry->key_twin);
    mbedtls_pk_free(&entry->key); // wipes it
    mbedtls_x509_crt_free(&entry->chain);
    trust_drop(&entry->trust);
    free(entry->certificate_path);
    free(entry->key_path);
    free(entry->authority_path);
    free(entry->revocation_list_path);
}

void tls_context_destroy(struct tls_context **context)
{
    struct tls_context *gone = *context;
    *context = NULL;
    if (gone == NULL)
        return;
    mbedtls_ssl_config_free(&gone->config);
    for (size_t i = 0; i < gone->entry_count; i++)
        release_entry(&gone->entries[i]);
    free(gone->entries);
    trust_drop(&gone->trust);
    for (char **protocol = gone->protocols; protocol != NULL && *protocol != NULL; protocol++)
        free(*protocol);
    free(gone->protocols);
    free(gone->server_name);
    free(gone->authorized_names);
    free(gone);
}
