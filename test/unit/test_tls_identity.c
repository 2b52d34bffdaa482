// Which of a certificate's names an authorized one stands for, of certificates whose fields a CA would not write so.

#include "tls_rig.h"

#include "bitflow/base/compiler.h"
#include "tls/engine/identity.h"

static const char *find_as(X509 *certificate, bool is_host, const char *name)
{
    static char out[IDENTITY_SIZE];
    const char *const names[] = {"cn:nobody", name, "dns:nobody.test", NULL};
    out[0] = '\0';
    int found = identity_find(certificate, names, is_host, out);
    assert_true(found == 0 || found == 1);
    return found == 1 ? out : NULL;
}

static const char *find(X509 *certificate, const char *name)
{
    return find_as(certificate, false, name);
}

static const char *describe(X509 *certificate)
{
    static char out[IDENTITY_SIZE];
    identity_describe(certificate, out);
    return out;
}

static void add_common_name(X509 *certificate, int type, const char *bytes, int length)
{
    assert_int_equal(X509_NAME_add_entry_by_NID(X509_get_subject_name(certificate), NID_commonName, type,
                                                (const unsigned char *)bytes, length, -1, 0),
                     1);
}

// An alternative name of any bytes.
static void add_name(GENERAL_NAMES *names, int type, const char *bytes, int length)
{
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_IA5STRING *value = ASN1_IA5STRING_new();
    assert_non_null(name);
    assert_int_equal(ASN1_STRING_set(value, bytes, length), 1);
    GENERAL_NAME_set0_value(name, type, value);
    assert_true(sk_GENERAL_NAME_push(names, name) > 0);
}

// A certificate for two such names, the second one optional.
static X509 *make(int type, const char *first, int first_length, const char *second)
{
    struct rig_issued issued = rig_issue(&(struct rig_request){.issuer = &rig_ca});
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    add_name(names, type, first, first_length);
    if (second != NULL)
        add_name(names, type, second, (int)strlen(second));
    assert_int_equal(X509_add1_ext_i2d(issued.certificate, NID_subject_alt_name, names, 1, X509V3_ADD_DEFAULT), 1);
    GENERAL_NAMES_free(names);
    EVP_PKEY_free(issued.key);
    return issued.certificate;
}

static void test_a_name_behind_a_zero_byte_is_another(void **state)
{
    (void)state;
    static const char dns[] = "a.example\0.evil.test", id[] = "spiffe://a/b\0c";
    X509 *certificate = make(GEN_DNS, dns, sizeof dns - 1, "b.example");
    assert_null(find(certificate, "dns:a.example"));
    assert_null(find_as(certificate, true, "dns:a.example"));
    assert_string_equal(find(certificate, "dns:b.example"), "dns:b.example");
    assert_string_equal(describe(certificate), "dns:b.example");
    X509_free(certificate);
    certificate = make(GEN_URI, id, sizeof id - 1, NULL);
    assert_null(find(certificate, "uri:spiffe://a/b"));
    assert_null(find(certificate, "uri:spiffe://a/*"));
    assert_string_equal(describe(certificate), "");
    X509_free(certificate);
}

static void test_a_name_of_one_kind_is_none_of_another(void **state)
{
    (void)state;
    X509 *certificate = make(GEN_EMAIL, "a.example", 9, "spiffe://a/b");
    assert_null(find(certificate, "dns:a.example"));
    assert_null(find(certificate, "uri:spiffe://a/b"));
    X509_free(certificate);
    certificate = make(GEN_DNS, "spiffe://a/b", 12, NULL);
    assert_null(find(certificate, "uri:spiffe://a/b"));
    X509_free(certificate);
}

static void test_an_svid_has_one_uri(void **state)
{
    (void)state;
    X509 *certificate = make(GEN_URI, "spiffe://a/b", 12, NULL);
    assert_string_equal(find(certificate, "uri:spiffe://a/*"), "uri:spiffe://a/b");
    X509_free(certificate);
    certificate = make(GEN_URI, "spiffe://a/b", 12, "https://a/b");
    assert_null(find(certificate, "uri:spiffe://a/b"));
    assert_string_equal(find(certificate, "uri:https://a/b"), "uri:https://a/b");
    X509_free(certificate);
}

static void test_common_names_count_where_there_is_one(void **state)
{
    (void)state;
    struct rig_issued issued = rig_issue(&(struct rig_request){.subject = "web", .issuer = &rig_ca});
    assert_string_equal(find(issued.certificate, "cn:web"), "cn:web");
    assert_string_equal(describe(issued.certificate), "cn:web");
    assert_null(find(issued.certificate, "dns:web"));
    add_common_name(issued.certificate, V_ASN1_UTF8STRING, "other", -1);
    assert_null(find(issued.certificate, "cn:web"));
    assert_null(find(issued.certificate, "cn:other"));
    assert_string_equal(describe(issued.certificate), "");
    rig_drop(&issued);
}

static void test_common_names_are_text(void **state)
{
    (void)state;
    static const struct {
        int type;
        const char *bytes;
        int length;
        bool is_web;
    } table[] = {
        {V_ASN1_UTF8STRING, "web", 3, true},    {V_ASN1_PRINTABLESTRING, "web", 3, true},
        {V_ASN1_IA5STRING, "web", 3, true},     {V_ASN1_BMPSTRING, "\0w\0e\0b", 6, false},
        {V_ASN1_T61STRING, "web", 3, false},    {V_ASN1_UTF8STRING, "web\0evil", 8, false},
        {V_ASN1_UTF8STRING, "web\n", 4, false},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(table); i++) {
        struct rig_issued issued = rig_issue(&(struct rig_request){.issuer = &rig_ca});
        add_common_name(issued.certificate, table[i].type, table[i].bytes, table[i].length);
        assert_true((find(issued.certificate, "cn:web") != NULL) == table[i].is_web);
        assert_string_equal(describe(issued.certificate), table[i].is_web ? "cn:web" : "");
        rig_drop(&issued);
    }
}

// As openssl and Chrome's list of pins have it.
static void test_a_pin_is_of_the_whole_public_key(void **state)
{
    (void)state;
    struct rig_issued issued = rig_issue(&(struct rig_request){.subject = "web", .issuer = &rig_ca});
    unsigned char *der = NULL, digest[32], base64[45];
    char pin[64], other[64];
    int length = i2d_PUBKEY(issued.key, &der);
    assert_true(length > 0);
    assert_int_equal(EVP_Digest(der, (size_t)length, digest, NULL, EVP_sha256(), NULL), 1);
    OPENSSL_free(der);
    assert_int_equal(EVP_EncodeBlock(base64, digest, sizeof digest), 44);
    (void)snprintf(pin, sizeof pin, "spki:sha256/%s", (char *)base64);
    (void)snprintf(other, sizeof other, "spki:sha256/%c%s", base64[0] == 'A' ? 'B' : 'A', (char *)base64 + 1);
    assert_string_equal(find(issued.certificate, pin), pin);
    assert_null(find(issued.certificate, other));
    rig_drop(&issued);
}

static void test_a_ca_is_no_workload(void **state)
{
    (void)state;
    struct rig_request request = {.names = "URI:spiffe://a/b", .issuer = &rig_ca, .is_ca = true};
    struct rig_issued issued = rig_issue(&request);
    assert_null(find(issued.certificate, "uri:spiffe://a/b"));
    rig_drop(&issued);
    request.is_ca = false;
    request.key_usage = "digitalSignature,cRLSign";
    issued = rig_issue(&request);
    assert_null(find(issued.certificate, "uri:spiffe://a/b"));
    rig_drop(&issued);
    request.key_usage = "digitalSignature";
    issued = rig_issue(&request);
    assert_string_equal(find(issued.certificate, "uri:spiffe://a/b"), "uri:spiffe://a/b");
    rig_drop(&issued);
}

static void test_a_long_name_is_cut(void **state)
{
    (void)state;
    char name[1000] = "https://a/";
    memset(name + strlen(name), 'b', sizeof name - 1 - strlen(name));
    X509 *certificate = make(GEN_URI, name, sizeof name - 1, NULL);
    const char *identity = find(certificate, "uri:https://a/*");
    assert_int_equal(strlen(identity), IDENTITY_SIZE - 1);
    assert_string_equal(identity + IDENTITY_SIZE - 1 - 5, "bb...");
    X509_free(certificate);
}

static int begin(void **state)
{
    (void)state;
    rig_tls_begin();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_name_behind_a_zero_byte_is_another),
        cmocka_unit_test(test_a_name_of_one_kind_is_none_of_another),
        cmocka_unit_test(test_an_svid_has_one_uri),
        cmocka_unit_test(test_common_names_count_where_there_is_one),
        cmocka_unit_test(test_common_names_are_text),
        cmocka_unit_test(test_a_pin_is_of_the_whole_public_key),
        cmocka_unit_test(test_a_ca_is_no_workload),
        cmocka_unit_test(test_a_long_name_is_cut),
    };
    return cmocka_run_group_tests(tests, begin, rig_tls_end);
}
