#include "coverage.h"

#include <stdio.h>

#include <openssl/x509v3.h>

#include "libcrypto.h"
#include "verify_words.h"
#include "x509_text.h"

#define ALL_REASONS 0x807fU // of RFC 5280 4.2.1.13, as libcrypto counts them

// Which reasons for a revocation are told, of whom.
struct scope {
    unsigned of_users;
    unsigned of_cas;
};

static unsigned reasons_of(const ISSUING_DIST_POINT *point)
{
    const ASN1_BIT_STRING *bits = point->onlysomereasons;
    unsigned reasons = 0;
    if (bits == NULL)
        return ALL_REASONS;
    const unsigned char *bytes = ASN1_STRING_get0_data(bits);
    for (int i = 0; i < ASN1_STRING_length(bits) && i < 2; i++)
        reasons |= (unsigned)bytes[i] << 8 * i;
    return reasons & ALL_REASONS;
}

static struct scope scope_of(const X509_CRL *list)
{
    if (!coverage_is_partial(list))
        return (struct scope){ALL_REASONS, ALL_REASONS};
    ISSUING_DIST_POINT *point = X509_CRL_get_ext_d2i(list, NID_issuing_distribution_point, NULL, NULL);
    if (point == NULL)
        return (struct scope){0, 0};
    unsigned reasons = point->onlyattr > 0 ? 0 : reasons_of(point);
    struct scope scope = {.of_users = point->onlyCA > 0 ? 0 : reasons, .of_cas = point->onlyuser > 0 ? 0 : reasons};
    ISSUING_DIST_POINT_free(point);
    return scope;
}

bool coverage_is_partial(const X509_CRL *list)
{
    return X509_CRL_get_ext_by_NID(list, NID_issuing_distribution_point, -1) >= 0;
}

static bool has_expired(const X509_CRL *list)
{
    return X509_cmp_current_time(X509_CRL_get0_nextUpdate(list)) < 0;
}

static bool is_of(const X509_CRL *list, const X509_NAME *issuer)
{
    return X509_NAME_cmp(X509_CRL_get_issuer(list), issuer) == 0;
}

static bool has_same_scope(const X509_CRL *one, const X509_CRL *other)
{
    int at = X509_CRL_get_ext_by_NID(one, NID_issuing_distribution_point, -1);
    int at_other = X509_CRL_get_ext_by_NID(other, NID_issuing_distribution_point, -1);
    return at >= 0 && at_other >= 0 &&
           ASN1_STRING_cmp(X509_EXTENSION_get_data(X509_CRL_get_ext(one, at)),
                           X509_EXTENSION_get_data(X509_CRL_get_ext(other, at_other))) == 0;
}

bool coverage_is_replaced(const STACK_OF(X509_CRL) *lists, const X509_CRL *list)
{
    for (int i = 0; i < sk_X509_CRL_num(lists); i++) {
        const X509_CRL *other = sk_X509_CRL_value(lists, i);
        if (is_of(other, X509_CRL_get_issuer(list)) && !libcrypto_is_delta(other) && !has_expired(other) &&
            (!coverage_is_partial(other) || has_same_scope(other, list)))
            return true;
    }
    return false;
}

// What is wrong with an authority's own list; X509_V_OK: nothing.
static int fault_of(const X509_CRL *list, const X509 *authority)
{
    // UINT32_MAX: it has no such extension.
    if ((X509_get_key_usage((X509 *)authority) & KU_CRL_SIGN) == 0)
        return X509_V_ERR_KEYUSAGE_NO_CRL_SIGN;
    if (X509_CRL_verify((X509_CRL *)list, X509_get0_pubkey(authority)) != 1)
        return X509_V_ERR_CRL_SIGNATURE_FAILURE;
    if (X509_cmp_current_time(X509_CRL_get0_lastUpdate(list)) > 0)
        return X509_V_ERR_CRL_NOT_YET_VALID;
    return has_expired(list) ? X509_V_ERR_CRL_HAS_EXPIRED : X509_V_OK;
}

// Whether an indirect list has an entry about a certificate that this one issued.
static bool has_entry_of(X509_CRL *list, const X509_NAME *issuer)
{
    STACK_OF(X509_REVOKED) *entries = X509_CRL_get_REVOKED(list);
    bool is_found = false;
    for (int i = 0; !is_found && i < sk_X509_REVOKED_num(entries); i++) {
        GENERAL_NAMES *names =
            X509_REVOKED_get_ext_d2i(sk_X509_REVOKED_value(entries, i), NID_certificate_issuer, NULL, NULL);
        for (int k = 0; !is_found && k < sk_GENERAL_NAME_num(names); k++) {
            const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, k);
            is_found = name->type == GEN_DIRNAME && X509_NAME_cmp(name->d.directoryName, issuer) == 0;
        }
        GENERAL_NAMES_free(names);
    }
    return is_found;
}

// What others' lists say of an authority that has none of its own. False: there are none.
static bool look_at_indirect(const struct trust *trust, const X509_NAME *issuer, enum coverage *coverage, char *words)
{
    char own[96];
    char other[96];
    const X509_CRL *found = NULL;
    for (int i = 0; i < sk_X509_CRL_num(trust->indirect); i++) {
        X509_CRL *list = sk_X509_CRL_value(trust->indirect, i);
        if (is_of(list, issuer) || has_expired(list))
            continue;
        found = list;
        *coverage = has_entry_of(list, issuer) ? COVERAGE_GOOD : COVERAGE_UNCERTAIN;
        if (*coverage == COVERAGE_GOOD)
            return true;
    }
    if (found == NULL)
        return false;
    (void)snprintf(
        words, COVERAGE_WORDS_SIZE,
        "there is no revocation list of %s: of what it issued, only certificates that name the indirect list "
        "of %s (cRLIssuer) verify",
        x509_name_text(issuer, own, sizeof own), x509_name_text(X509_CRL_get_issuer(found), other, sizeof other));
    return true;
}

enum coverage coverage_of(const struct trust *trust, const X509 *authority, char words[COVERAGE_WORDS_SIZE])
{
    const X509_NAME *name = X509_get_subject_name(authority);
    struct scope told = {0, 0};
    int fault = X509_V_ERR_UNABLE_TO_GET_CRL;
    const X509_CRL *faulty = NULL;
    enum coverage coverage;
    if (X509_check_ca((X509 *)authority) == 0) // what is not a CA's has issued nothing
        return COVERAGE_GOOD;
    for (int i = 0; i < sk_X509_CRL_num(trust->lists); i++) {
        const X509_CRL *list = sk_X509_CRL_value(trust->lists, i);
        if (libcrypto_is_delta(list) || !is_of(list, name))
            continue;
        int found = fault_of(list, authority);
        struct scope scope = scope_of(list);
        told.of_users |= found == X509_V_OK ? scope.of_users : 0;
        told.of_cas |= found == X509_V_OK ? scope.of_cas : 0;
        if (fault == X509_V_ERR_CRL_HAS_EXPIRED)
            continue;
        fault = found == X509_V_OK ? X509_V_ERR_DIFFERENT_CRL_SCOPE : found;
        faulty = list;
    }
    if (told.of_users == ALL_REASONS || told.of_cas == ALL_REASONS)
        return COVERAGE_GOOD;
    if (faulty == NULL && look_at_indirect(trust, name, &coverage, words))
        return coverage;
    verify_describe_lists(trust, fault, faulty, name, words, COVERAGE_WORDS_SIZE);
    return fault == X509_V_ERR_CRL_HAS_EXPIRED ? COVERAGE_EXPIRED : COVERAGE_NONE;
}
