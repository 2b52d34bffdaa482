// The arithmetic within the tls floor: the private keys that libcrypto signs with, and what its parts share.
//
// The rule for each of mbedTLS's functions that is replaced: libcrypto does what it can do, and whatever it refuses,
// or we cannot hand over, the original does from the beginning. So the result of a bad argument is the original's, and
// so is what is done of other curves. Nothing is written to before libcrypto has its result.

#ifndef BITFLOW_SRC_TLS_ENGINE_ARITHMETIC_INTERNAL_H
#define BITFLOW_SRC_TLS_ENGINE_ARITHMETIC_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

#include <mbedtls/ecdsa.h>
#include <mbedtls/ecp.h>
#include <mbedtls/pk.h>
#include <mbedtls/rsa.h>
#include <openssl/types.h>

#include "bitflow/base/error.h"

// A private key of mbedTLS's (RSA, ECDSA) as libcrypto has it. mbedTLS locks an RSA key for the whole of a signature,
// libcrypto does not.
struct key_twin;

// From now on libcrypto does what is done with this private key, in any thread. `*twin` remains NULL where there is
// nothing to do (another kind of key, or a curve that mbedTLS is faster on), or libcrypto does not take the key: then
// mbedTLS goes on alone. `key` must not change as long as the twin exists, and outlive it. False: ERROR_NO_MEMORY.
bool key_twin_create(const mbedtls_pk_context *key, struct key_twin **twin, struct error *error);

// Wipes it. Accepts NULL. No thread may be using the key.
void key_twin_destroy(struct key_twin **twin);

// Gives back what libcrypto keeps for this thread (a list of errors, and random numbers in stock: 1 to 4 KiB), at the
// end of a handshake: the connection may go on for days.
void arithmetic_leave_thread(void);

// Whether the group is to be offered: not where a policy keeps it from libcrypto. After tls_arithmetic_init().
bool arithmetic_has_x25519(void);

// ---- what follows is for arithmetic*.c alone

enum arithmetic {
    CURVE_PRODUCT,
    CURVE_SUM,
    RSA_PUBLIC,
    RSA_PRIVATE,
    ECDSA_SIGN,
    SHA256_BLOCK,
    SHA512_BLOCK,
    ARITHMETIC_COUNT
};

// How often this thread has come to our function instead of mbedTLS's, and how often libcrypto had the result. For
// the check at the start, and for tests.
struct arithmetic_counts {
    unsigned long entered[ARITHMETIC_COUNT];
    unsigned long done[ARITHMETIC_COUNT];
};
extern _Thread_local struct arithmetic_counts arithmetic_counts;

// mbedTLS's own, behind ours. NULL: not found.
struct arithmetic_originals {
    __typeof__(mbedtls_ecp_mul_restartable) *product;
    __typeof__(mbedtls_ecp_muladd_restartable) *sum;
    __typeof__(mbedtls_rsa_public) *rsa_public;
    __typeof__(mbedtls_rsa_private) *rsa_private;
    __typeof__(mbedtls_ecdsa_write_signature_restartable) *ecdsa_sign;
};

// Whether libcrypto can be asked. Any thread, also before tls_arithmetic_init(), as in a program that needs no other
// TLS. Counts the call. `originals` is set either way.
bool arithmetic_enter(enum arithmetic which, const struct arithmetic_originals **originals);

// Counts the result; a failure's reason is taken off this thread's list of libcrypto's errors.
bool arithmetic_leave(enum arithmetic which, bool is_done);

// Looks the curves up; once for the process, kept until its end. A libcrypto without X25519 is not a failure.
bool arithmetic_curves_prepare(void);

// Whether mbedTLS's hashes are right.
bool arithmetic_check_hashes(void);

// Whether libcrypto is to sign with a key of this curve.
bool arithmetic_signs_on(const mbedtls_ecp_keypair *key);

// What libcrypto makes of a private key, and has signed with once: whether it takes the key is known only then. NULL:
// it does not, or memory is short. EVP_PKEY_free() it.
EVP_PKEY *arithmetic_import_rsa(mbedtls_rsa_context *key);
EVP_PKEY *arithmetic_import_ecdsa(const mbedtls_pk_context *key, mbedtls_ecp_keypair *pair);

// By the address of what mbedTLS has of the kind (mbedtls_rsa_context, mbedtls_ecp_keypair). NULL: it has none. The key
// is in use, so its twin lives on.
struct key_twin *key_twin_find(const void *key);

// A reference that may sign: EVP_PKEY_free() it. NULL: there is none to be had.
EVP_PKEY *key_twin_hold(const struct key_twin *twin);

// From now on it is `fresh`, which is the twin's. Others may still be at work with the old one.
void key_twin_replace(struct key_twin *twin, EVP_PKEY *fresh);

#endif
