// The private keys that libcrypto signs with in mbedTLS's place, found by the address of mbedTLS's own.

#include <stdint.h>
#include <stdlib.h>

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>

#include "arithmetic_internal.h"
#include "bitflow/base/invariant.h"
#include "bitflow/base/mutex.h"

static struct mutex lock = MUTEX_INIT;

struct key_twin {
    const void *key;                 // mbedTLS's; what a twin is found by
    EVP_PKEY *twin GUARDED_BY(lock); // whoever signs holds a reference of its own
    struct key_twin *next;
};

#define BUCKETS 256 // as many thousands of keys as a configuration may have are then found quickly

static struct key_twin *buckets[BUCKETS] GUARDED_BY(lock);

static struct key_twin **bucket_of(const void *key) REQUIRES(lock)
{
    // Addresses of what is allocated end alike.
    return &buckets[((uintptr_t)key / 16 + (uintptr_t)key / 4096) % BUCKETS];
}

struct key_twin *key_twin_find(const void *key)
{
    mutex_lock(&lock);
    struct key_twin *twin = *bucket_of(key);
    while (twin != NULL && twin->key != key)
        twin = twin->next;
    mutex_unlock(&lock);
    return twin;
}

EVP_PKEY *key_twin_hold(const struct key_twin *twin)
{
    mutex_lock(&lock);
    EVP_PKEY *held = twin->twin;
    bool is_held = EVP_PKEY_up_ref(held) == 1;
    mutex_unlock(&lock);
    return is_held ? held : NULL;
}

void key_twin_replace(struct key_twin *twin, EVP_PKEY *fresh)
{
    mutex_lock(&lock);
    EVP_PKEY *old = twin->twin;
    twin->twin = fresh;
    mutex_unlock(&lock);
    EVP_PKEY_free(old);
}

// libcrypto's errors do not always tell when it is memory that it lacks.
static bool has_memory(void)
{
    void *room = OPENSSL_malloc(65536); // more than it takes for a key
    bool is_there = room != NULL;
    OPENSSL_free(room);
    return is_there;
}

static EVP_PKEY *import(const mbedtls_pk_context *key)
{
    EVP_PKEY *imported = mbedtls_pk_get_type(key) == MBEDTLS_PK_RSA ? arithmetic_import_rsa(mbedtls_pk_rsa(*key))
                                                                    : arithmetic_import_ecdsa(key, mbedtls_pk_ec(*key));
    ERR_clear_error();
    return imported;
}

static bool may_have_twin(const mbedtls_pk_context *key)
{
    mbedtls_pk_type_t type = mbedtls_pk_get_type(key);
    return type == MBEDTLS_PK_RSA || (type == MBEDTLS_PK_ECKEY && arithmetic_signs_on(mbedtls_pk_ec(*key)));
}

bool key_twin_create(const mbedtls_pk_context *key, struct key_twin **twin, struct error *error)
{
    if (!may_have_twin(key))
        return true;
    struct key_twin *made = calloc(1, sizeof *made);
    EVP_PKEY *imported = import(key);
    if (imported == NULL)
        imported = import(key);
    if (made == NULL || (imported == NULL && !has_memory())) {
        EVP_PKEY_free(imported);
        free(made);
        error_set(error, ERROR_NO_MEMORY, "no memory for a private key");
        return false;
    }
    if (imported == NULL) {
        free(made);
        return true;
    }
    bool is_rsa = mbedtls_pk_get_type(key) == MBEDTLS_PK_RSA;
    *made =
        (struct key_twin){.key = is_rsa ? (void *)mbedtls_pk_rsa(*key) : (void *)mbedtls_pk_ec(*key), .twin = imported};
    mutex_lock(&lock);
    struct key_twin **bucket = bucket_of(made->key);
    made->next = *bucket;
    *bucket = made;
    mutex_unlock(&lock);
    *twin = made;
    return true;
}

void key_twin_destroy(struct key_twin **twin)
{
    struct key_twin *gone = *twin;
    *twin = NULL;
    if (gone == NULL)
        return;
    mutex_lock(&lock);
    struct key_twin **at = bucket_of(gone->key);
    while (*at != gone) {
        INVARIANT(*at != NULL); // it is destroyed once
        at = &(*at)->next;
    }
    *at = gone->next;
    EVP_PKEY_free(gone->twin); // wipes it
    mutex_unlock(&lock);
    free(gone);
}
