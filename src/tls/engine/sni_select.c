// Which of a listener's certificates a client gets.

#include <string.h>

#include "bitflow/base/invariant.h"
#include "certificate.h"
#include "context_internal.h"

static bool is_same_text(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

// How well an entry with a pair is for the name; one without has nothing to offer.
static enum name_match entry_matches(const struct tls_entry *entry, const char *name)
{
    if (entry->certificate_path == NULL || *name == '\0')
        return NAME_DIFFERS;
    return certificate_matches_name(&entry->chain, name);
}

// The first one that is exactly for the name, else the first wildcard, else the first of all.
static struct tls_entry *choose(const struct tls_context *context, const char *name, enum name_match *how)
{
    struct tls_entry *best = NULL;
    *how = NAME_DIFFERS;
    for (size_t i = 0; i < context->entry_count; i++) {
        struct tls_entry *entry = &context->entries[i];
        enum name_match match = entry_matches(entry, name);
        if (entry->certificate_path == NULL || (best != NULL && match <= *how))
            continue;
        best = entry;
        *how = match;
    }
    return best;
}

static bool is_same_authority(const struct tls_entry *a, const struct tls_entry *b)
{
    return is_same_text(a->authority_path, b->authority_path) &&
           is_same_text(a->revocation_list_path, b->revocation_list_path);
}

void tls_sni_prepare(struct tls_context *context)
{
    const struct tls_entry *first = NULL;
    context->has_long_ca_list = context->trust != NULL && !tls_ca_list_fits(context->trust->names);
    // The default is the first one with a pair, and its twins, such as one with a key of another kind: they are for all
    // of its names.
    for (size_t i = 0; i < context->entry_count; i++) {
        struct tls_entry *entry = &context->entries[i];
        entry->has_long_ca_list = entry->trust != NULL && !tls_ca_list_fits(entry->trust->names);
        if (entry->certificate_path == NULL)
            continue;
        if (first == NULL)
            first = entry;
        entry->is_default =
            entry == first || (is_same_authority(entry, first) && certificate_covers(&entry->chain, &first->chain));
    }
}

// Whether a client that gets `chosen` may get this one in its place, by what it can verify. Both must hold clients to
// the same authority.
static bool is_twin(const struct tls_entry *entry, const struct tls_entry *chosen, const char *name,
                    enum name_match how)
{
    if (entry == chosen || entry->certificate_path == NULL || !is_same_authority(entry, chosen))
        return false;
    return how == NAME_DIFFERS ? entry->is_default : entry_matches(entry, name) == how;
}

bool tls_context_has_authority_for(const struct tls_context *context, const char *name)
{
    enum name_match how;
    const struct tls_entry *chosen = choose(context, name, &how);
    if (context->verify_mode == VERIFY_NONE || how != NAME_DIFFERS)
        return true;
    for (size_t i = 0; i < context->entry_count; i++)
        if (context->entries[i].certificate_path != NULL && !is_same_authority(&context->entries[i], chosen))
            return false;
    return true;
}

int tls_sni_select(const struct tls_context *context, const char *name, mbedtls_ssl_context *ssl,
                   const struct tls_entry **authority)
{
    enum name_match how;
    struct tls_entry *chosen = choose(context, name, &how);
    INVARIANT(chosen != NULL); // a listener's context has a pair
    // After a HelloRetryRequest this runs again.
    int status = mbedtls_ssl_set_hs_own_cert(ssl, NULL, NULL);
    if (status == 0)
        status = mbedtls_ssl_set_hs_own_cert(ssl, &chosen->chain, &chosen->key);
    // mbedTLS takes one that the client can verify: an RSA one or an ECDSA one.
    for (size_t i = 0; status == 0 && i < context->entry_count; i++) {
        struct tls_entry *other = &context->entries[i];
        if (is_twin(other, chosen, name, how))
            status = mbedtls_ssl_set_hs_own_cert(ssl, &other->chain, &other->key);
    }
    // Without an authority of its own, the context's are in force.
    bool has_own = context->verify_mode != VERIFY_NONE && chosen->authority_path != NULL;
    *authority = has_own ? chosen : NULL;
    mbedtls_ssl_set_hs_ca_chain(ssl, has_own ? chosen->trust->names : NULL, NULL);
    // An empty list stands for any authority.
    static const mbedtls_x509_crt nobody = {.version = 0};
    bool is_long = has_own ? chosen->has_long_ca_list : context->has_long_ca_list;
    mbedtls_ssl_set_hs_dn_hints(ssl, is_long ? &nobody : NULL);
    // A TLS 1.3 server is done with the handshake's keys by the time that it sees the client's certificate, but mbedTLS
    // would still use them for the alert, which no client could then read. So the handshake is let through to its end,
    // where tls_verify_result() has the last word in any case.
    if (context->verify_mode == VERIFY_STRICT && mbedtls_ssl_get_version_number(ssl) == MBEDTLS_SSL_VERSION_TLS1_3)
        mbedtls_ssl_set_hs_authmode(ssl, MBEDTLS_SSL_VERIFY_OPTIONAL);
    return status;
}
