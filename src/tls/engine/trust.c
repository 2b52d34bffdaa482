#include "trust.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/objects.h>
#include <openssl/x509v3.h>

#include "bitflow/base/mutex.h"
#include "libcrypto.h"

static struct mutex lock = MUTEX_INIT;
static struct shared_list all GUARDED_BY(lock) = LIST_HEAD_INITIALIZER(all);

static bool out_of_memory(struct error *error)
{
    error_set(error, ERROR_NO_MEMORY, "out of memory for a TLS context");
    return false;
}

// ---- what files hold

// mbedTLS's error, which is what the words for files are made of.
static int failed(void)
{
    return libcrypto_failed_for_memory() ? MBEDTLS_ERR_X509_ALLOC_FAILED : MBEDTLS_ERR_X509_INVALID_FORMAT;
}

static int take_authority(void *into, const unsigned char *der, size_t length)
{
    struct trust *trust = into;
    const unsigned char *at = der;
    X509 *certificate = d2i_X509_AUX(NULL, &at, (long)length); // libcrypto heeds a TRUSTED CERTIFICATE's settings
    // Its extensions are read, and its key, so that no connection has to.
    bool is_good = certificate != NULL && at == der + length && X509_check_purpose(certificate, -1, 0) == 1 &&
                   X509_get0_pubkey(certificate) != NULL;
    if (is_good && sk_X509_push(trust->authorities, certificate) > 0)
        return 0;
    int status = failed();
    X509_free(certificate);
    return status;
}

// libcrypto makes no demands on a list's signature, as it does on a certificate's, and takes one that does not say
// until when it holds for current.
static bool is_believed(const X509_CRL *list)
{
    return libcrypto_has_strong_hash(list) && X509_CRL_get0_nextUpdate(list) != NULL;
}

static bool is_indirect(const X509_CRL *list)
{
    ISSUING_DIST_POINT *scope = X509_CRL_get_ext_d2i(list, NID_issuing_distribution_point, NULL, NULL);
    bool is_found = scope != NULL && scope->indirectCRL != 0;
    ISSUING_DIST_POINT_free(scope);
    return is_found;
}

static bool push_list(STACK_OF(X509_CRL) *lists, X509_CRL *list)
{
    if (X509_CRL_up_ref(list) != 1)
        return false;
    if (sk_X509_CRL_push(lists, list) > 0)
        return true;
    X509_CRL_free(list);
    return false;
}

static int take_list(void *into, const unsigned char *der, size_t length)
{
    struct trust *trust = into;
    const unsigned char *at = der;
    X509_CRL *list = d2i_X509_CRL(NULL, &at, (long)length);
    bool is_good = list != NULL && at == der + length &&
                   push_list(is_believed(list) ? trust->lists : trust->unbelieved, list) &&
                   (!is_believed(list) || !is_indirect(list) || push_list(trust->indirect, list));
    int status = is_good ? 0 : failed();
    X509_CRL_free(list);
    return status;
}

// ---- the store

// The lists of a name. Where several CAs have the same name, or one has changed its key, libcrypto tells their lists
// apart by key identifiers, which not all have: without one, what the certificate's own issuer has not signed is left
// out, if there is anything else.
static STACK_OF(X509_CRL) *find_lists(const X509_STORE_CTX *verification, const X509_NAME *name)
{
    STACK_OF(X509_CRL) *found = X509_STORE_CTX_get1_crls(verification, name);
    if (found == NULL || sk_X509_CRL_num(found) < 2)
        return found;
    const STACK_OF(X509) *chain = X509_STORE_CTX_get0_chain(verification);
    int depth = X509_STORE_CTX_get_error_depth(verification);
    int above = depth + 1 < sk_X509_num(chain) ? depth + 1 : depth;
    EVP_PKEY *key = depth >= 0 ? X509_get0_pubkey(sk_X509_value(chain, above)) : NULL;
    STACK_OF(X509_CRL) *fitting = sk_X509_CRL_new_null();
    for (int i = 0; key != NULL && i < sk_X509_CRL_num(found); i++) {
        X509_CRL *list = sk_X509_CRL_value(found, i);
        ERR_set_mark();
        if (X509_CRL_get_ext_by_NID(list, NID_authority_key_identifier, -1) >= 0 || X509_CRL_verify(list, key) == 1)
            (void)push_list(fitting, list); // one that is missing fails the verification
        ERR_pop_to_mark();
    }
    bool has_fitting = sk_X509_CRL_num(fitting) > 0;
    sk_X509_CRL_pop_free(has_fitting ? found : fitting, X509_CRL_free);
    return has_fitting ? fitting : found;
}

static bool fill_store(struct trust *trust)
{
    trust->store = X509_STORE_new();
    if (trust->store == NULL)
        return false;
    X509_STORE_set_lookup_crls(trust->store, find_lists);
    for (int i = 0; i < sk_X509_num(trust->authorities); i++)
        if (X509_STORE_add_cert(trust->store, sk_X509_value(trust->authorities, i)) != 1)
            return false;
    for (int i = 0; i < sk_X509_CRL_num(trust->lists); i++)
        if (X509_STORE_add_crl(trust->store, sk_X509_CRL_value(trust->lists, i)) != 1)
            return false;
    return true;
}

// What a listener tells clients of whom it trusts.
static bool fill_names(struct trust *trust)
{
    int count = sk_X509_num(trust->authorities);
    trust->names = calloc((size_t)count + 1, sizeof *trust->names);
    for (int i = 0; trust->names != NULL && i < count; i++) {
        mbedtls_x509_crt *entry = &trust->names[i];
        const unsigned char *der;
        if (X509_NAME_get0_der(X509_get_subject_name(sk_X509_value(trust->authorities, i)), &der,
                               &entry->subject_raw.len) != 1)
            return false;
        entry->subject_raw.p = (unsigned char *)der; // never written to
        entry->version = 3;                          // 0 is the end of a list
        entry->next = i + 1 < count ? entry + 1 : NULL;
    }
    return trust->names != NULL;
}

static bool begin(struct trust *trust)
{
    trust->authorities = sk_X509_new_null();
    trust->listed = sk_X509_new_null();
    trust->lists = sk_X509_CRL_new_null();
    trust->indirect = sk_X509_CRL_new_null();
    trust->unbelieved = sk_X509_CRL_new_null();
    return trust->authorities != NULL && trust->listed != NULL && trust->lists != NULL && trust->indirect != NULL &&
           trust->unbelieved != NULL;
}

static bool finish(struct trust *trust)
{
    return fill_store(trust) && fill_names(trust);
}

static void destroy(struct trust *trust)
{
    free(trust->names);
    X509_STORE_free(trust->store);
    sk_X509_pop_free(trust->authorities, X509_free);
    sk_X509_pop_free(trust->listed, X509_free);
    sk_X509_CRL_pop_free(trust->lists, X509_CRL_free);
    sk_X509_CRL_pop_free(trust->indirect, X509_CRL_free);
    sk_X509_CRL_pop_free(trust->unbelieved, X509_CRL_free);
    free(trust);
}

static bool add_certificates(STACK_OF(X509) *to, const STACK_OF(X509) *from)
{
    for (int i = 0; i < sk_X509_num(from); i++) {
        X509 *certificate = sk_X509_value(from, i);
        if (X509_up_ref(certificate) != 1)
            return false;
        if (sk_X509_push(to, certificate) <= 0) {
            X509_free(certificate);
            return false;
        }
    }
    return true;
}

static bool add_lists(STACK_OF(X509_CRL) *to, const STACK_OF(X509_CRL) *from)
{
    for (int i = 0; i < sk_X509_CRL_num(from); i++)
        if (!push_list(to, sk_X509_CRL_value(from, i)))
            return false;
    return true;
}

// ---- sharing

// "<hash of the authorities>/<hash of the lists>", or "-".
#define NAME_SIZE (sizeof "/" + (size_t)4 * 32)

static bool put_hash(const struct pem_text *text, char *out)
{
    unsigned char digest[32];
    if (EVP_Digest(text->bytes, text->length, digest, NULL, EVP_sha256(), NULL) != 1)
        return false;
    for (size_t i = 0; i < sizeof digest; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", digest[i]);
    return true;
}

static bool name_of(const struct trust_file *authorities, const struct trust_file *lists, char name[NAME_SIZE])
{
    if (!put_hash(authorities->text, name))
        return false;
    size_t length = strlen(name);
    name[length++] = '/';
    name[length] = '-';
    name[length + 1] = '\0';
    return lists == NULL || put_hash(lists->text, name + length);
}

static bool unlink_unused(struct trust *trust) REQUIRES(lock)
{
    bool is_last = shared_drop(trust);
    if (is_last)
        shared_unlink(trust);
    return is_last;
}

void trust_drop(struct trust **trust)
{
    struct trust *gone = *trust;
    *trust = NULL;
    if (gone == NULL)
        return;
    mutex_lock(&lock);
    bool is_last = unlink_unused(gone);
    mutex_unlock(&lock);
    if (is_last)
        destroy(gone);
}

static bool parse(struct trust *trust, const struct trust_file *authorities, const struct trust_file *lists,
                  bool *is_of_lists, struct error *error)
{
    if (!begin(trust))
        return out_of_memory(error);
    if (!pem_parse_blocks(authorities->path, authorities->text, &pem_certificate, take_authority, trust,
                          &trust->skipped, error))
        return false;
    if (lists != NULL) {
        *is_of_lists = true;
        if (!pem_parse_blocks(lists->path, lists->text, &pem_revocation_list, take_list, trust, NULL, error))
            return false;
        if (!add_certificates(trust->listed, trust->authorities))
            return out_of_memory(error);
    }
    return finish(trust) || out_of_memory(error);
}

struct trust *trust_hold_files(const struct trust_file *authorities, const struct trust_file *lists, bool *is_of_lists,
                               struct error *error)
{
    char name[NAME_SIZE];
    struct trust *trust = NULL;
    *is_of_lists = false;
    bool is_good = name_of(authorities, lists, name) || out_of_memory(error);
    mutex_lock(&lock);
    if (is_good)
        trust = shared_hold(&all, name, sizeof *trust);
    if (is_good && trust == NULL)
        is_good = out_of_memory(error);
    else if (is_good && trust->store == NULL)
        is_good = parse(trust, authorities, lists, is_of_lists, error);
    bool is_unused = !is_good && trust != NULL && unlink_unused(trust);
    mutex_unlock(&lock);
    ERR_clear_error();
    if (is_unused)
        destroy(trust);
    return is_good ? trust : NULL;
}

static bool join(struct trust *trust, struct trust *const *parts, size_t count)
{
    bool is_good = begin(trust);
    for (size_t i = 0; is_good && i < count; i++)
        is_good = add_certificates(trust->authorities, parts[i]->authorities) &&
                  add_certificates(trust->listed, parts[i]->listed) && add_lists(trust->lists, parts[i]->lists) &&
                  add_lists(trust->indirect, parts[i]->indirect) && add_lists(trust->unbelieved, parts[i]->unbelieved);
    return is_good && finish(trust);
}

struct trust *trust_hold_several(struct trust *const *parts, size_t count, struct error *error)
{
    size_t size = 1;
    for (size_t i = 0; i < count; i++)
        size += strlen(parts[i]->shared.name) + 1;
    char *name = calloc(1, size);
    struct trust *trust = NULL;
    for (size_t i = 0; name != NULL && i < count; i++) {
        size_t used = strlen(name);
        (void)snprintf(name + used, size - used, "%s%s", i > 0 ? "+" : "", parts[i]->shared.name);
    }
    mutex_lock(&lock);
    if (name != NULL)
        trust = shared_hold(&all, name, sizeof *trust);
    bool is_good = trust != NULL && (trust->store != NULL || join(trust, parts, count));
    bool is_unused = !is_good && trust != NULL && unlink_unused(trust);
    mutex_unlock(&lock);
    free(name);
    ERR_clear_error();
    if (is_unused)
        destroy(trust);
    if (!is_good)
        (void)out_of_memory(error);
    return is_good ? trust : NULL;
}

size_t trust_count(void)
{
    size_t count = 0;
    struct shared *one;
    mutex_lock(&lock);
    LIST_FOREACH(one, &all, link)
        count++;
    mutex_unlock(&lock);
    return count;
}
