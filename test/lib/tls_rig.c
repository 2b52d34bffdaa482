#include "tls_rig.h"

static char rig_directory[64];

struct rig_issued rig_ca;

const char *rig_path(const char *name, char out[RIG_PATH_SIZE])
{
    (void)snprintf(out, RIG_PATH_SIZE, "%s/%s", rig_directory, name);
    return out;
}

void rig_write_file(const char *name, const void *bytes, size_t length)
{
    char path[RIG_PATH_SIZE];
    FILE *file = fopen(rig_path(name, path), "we");
    assert_non_null(file);
    assert_int_equal(fchmod(fileno(file), 0600), 0);
    assert_int_equal(fwrite(bytes, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

size_t rig_read_file(const char *name, char *out, size_t size)
{
    char path[RIG_PATH_SIZE];
    FILE *file = fopen(rig_path(name, path), "re");
    assert_non_null(file);
    size_t length = fread(out, 1, size - 1, file);
    out[length] = '\0';
    assert_int_equal(fclose(file), 0);
    return length;
}

void rig_tls_begin(void)
{
    struct error error = ERROR_INIT;
    // OpenSSL writes to connections that our side has given up.
    const struct sigaction ignore = {.sa_handler = SIG_IGN};
    assert_int_equal(sigaction(SIGPIPE, &ignore, NULL), 0);
    (void)snprintf(rig_directory, sizeof rig_directory, "/tmp/bitflow-test-XXXXXX");
    assert_non_null(mkdtemp(rig_directory));
    if (!tls_init(&error))
        fail_msg("%s", error.text);
    rig_ca = rig_issue(&(struct rig_request){.subject = "Test CA", .is_ca = true});
    rig_write_pair("ca", &rig_ca);
}

int rig_tls_end(void **state)
{
    (void)state;
    rig_drop(&rig_ca);
    DIR *directory = opendir(rig_directory);
    assert_non_null(directory);
    char path[RIG_PATH_SIZE + 256];
    for (const struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        (void)snprintf(path, sizeof path, "%s/%s", rig_directory, entry->d_name);
        if (entry->d_name[0] != '.')
            assert_int_equal(unlink(path), 0);
    }
    (void)closedir(directory);
    assert_int_equal(rmdir(rig_directory), 0);
    return 0;
}

EVP_PKEY *rig_key(const char *kind)
{
    EVP_PKEY *key;
    if (strcmp(kind, "rsa") == 0)
        key = EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)2048);
    else if (strcmp(kind, "rsa-1024") == 0)
        key = EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)1024);
    else if (strcmp(kind, "x25519") == 0)
        key = EVP_PKEY_Q_keygen(NULL, NULL, "X25519");
    else if (strcmp(kind, "ed25519") == 0)
        key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    else if (strcmp(kind, "rsa-pss") == 0) {
        EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "RSA-PSS", NULL);
        key = NULL;
        assert_true(EVP_PKEY_keygen_init(context) > 0 && EVP_PKEY_generate(context, &key) > 0);
        EVP_PKEY_CTX_free(context);
    } else
        key = EVP_PKEY_Q_keygen(NULL, NULL, "EC", kind);
    assert_non_null(key);
    return key;
}

static void rig_extend(X509 *certificate, X509 *issuer, int id, const char *value)
{
    if (value == NULL)
        return;
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, id, value);
    assert_non_null(extension);
    assert_int_equal(X509_add_ext(certificate, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

static EVP_MD_CTX *rig_signing_context(EVP_PKEY *key, const char *digest, bool is_pss)
{
    const EVP_MD *md = EVP_get_digestbyname(digest != NULL ? digest : "SHA256");
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    EVP_PKEY_CTX *parameters;
    assert_int_equal(EVP_DigestSignInit(context, &parameters, EVP_PKEY_is_a(key, "ED25519") ? NULL : md, NULL, key), 1);
    if (is_pss) {
        assert_true(EVP_PKEY_CTX_set_rsa_padding(parameters, RSA_PKCS1_PSS_PADDING) > 0);
        assert_true(EVP_PKEY_CTX_set_rsa_pss_saltlen(parameters, RSA_PSS_SALTLEN_DIGEST) > 0);
    }
    return context;
}

static void rig_sign(X509 *certificate, EVP_PKEY *key, const struct rig_request *request)
{
    EVP_MD_CTX *context = rig_signing_context(key, request->digest, request->signs_with_pss);
    assert_true(X509_sign_ctx(certificate, context) > 0);
    EVP_MD_CTX_free(context);
}

struct rig_issued rig_issue(const struct rig_request *request)
{
    static long serial = 1;
    struct rig_issued issued = {.key = request->key, .certificate = X509_new()};
    if (issued.key == NULL)
        issued.key = rig_key(request->kind != NULL ? request->kind : "P-256");
    else
        assert_int_equal(EVP_PKEY_up_ref(issued.key), 1);
    X509 *certificate = issued.certificate;
    assert_int_equal(X509_set_version(certificate, X509_VERSION_3), 1);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(certificate), request->from != 0 ? request->from : -RIG_DAY);
    X509_gmtime_adj(X509_getm_notAfter(certificate), request->until != 0 ? request->until : 100L * RIG_DAY);
    assert_int_equal(X509_set_pubkey(certificate, issued.key), 1);
    X509_NAME *name = X509_get_subject_name(certificate);
    if (request->subject != NULL)
        assert_int_equal(
            X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)request->subject, -1, -1, 0),
            1);
    X509 *issuer = request->issuer != NULL ? request->issuer->certificate : certificate;
    assert_int_equal(X509_set_issuer_name(certificate, X509_get_subject_name(issuer)), 1);
    rig_extend(certificate, issuer, NID_basic_constraints, request->is_ca ? "critical,CA:TRUE" : NULL);
    rig_extend(certificate, issuer, NID_subject_alt_name, request->names);
    rig_extend(certificate, issuer, NID_ext_key_usage, request->usage);
    rig_extend(certificate, issuer, NID_key_usage,
               request->is_ca && request->key_usage == NULL ? "keyCertSign,cRLSign" : request->key_usage);
    rig_extend(certificate, issuer, NID_name_constraints, request->constraints);
    rig_sign(certificate, request->issuer != NULL ? request->issuer->key : issued.key, request);
    return issued;
}

void rig_drop(struct rig_issued *issued)
{
    EVP_PKEY_free(issued->key);
    X509_free(issued->certificate);
    *issued = (struct rig_issued){.key = NULL};
}

FILE *rig_create(const char *name)
{
    char path[RIG_PATH_SIZE];
    FILE *file = fopen(rig_path(name, path), "we");
    assert_non_null(file);
    assert_int_equal(fchmod(fileno(file), 0600), 0);
    return file;
}

void rig_write_key(const char *name, EVP_PKEY *key)
{
    FILE *file = rig_create(name);
    assert_int_equal(PEM_write_PKCS8PrivateKey(file, key, NULL, NULL, 0, NULL, NULL), 1);
    assert_int_equal(fclose(file), 0);
}

void rig_write_traditional_key(const char *name, EVP_PKEY *key, const char *password)
{
    BIO *bio = BIO_new_fp(rig_create(name), BIO_CLOSE);
    int length = password != NULL ? (int)strlen(password) : 0;
    assert_non_null(bio);
    assert_int_equal(PEM_write_bio_PrivateKey_traditional(bio, key, length > 0 ? EVP_aes_128_cbc() : NULL,
                                                          (const unsigned char *)password, length, NULL, NULL),
                     1);
    assert_int_equal(BIO_free(bio), 1);
}

void rig_write_chain(const char *name, X509 *first, X509 *second, X509 *third)
{
    FILE *file = rig_create(name);
    X509 *const all[] = {first, second, third};
    for (size_t i = 0; i < ARRAY_LENGTH(all); i++)
        assert_true(all[i] == NULL || PEM_write_X509(file, all[i]) == 1);
    assert_int_equal(fclose(file), 0);
}

void rig_write_pair(const char *name, const struct rig_issued *issued)
{
    char file[64];
    (void)snprintf(file, sizeof file, "%s.key", name);
    rig_write_key(file, issued->key);
    (void)snprintf(file, sizeof file, "%s.crt", name);
    rig_write_chain(file, issued->certificate, NULL, NULL);
}

void rig_issue_pair(const char *name, const struct rig_request *request)
{
    struct rig_issued issued = rig_issue(request);
    rig_write_pair(name, &issued);
    rig_drop(&issued);
}

void rig_put_list(FILE *file, const struct rig_list *request)
{
    X509_CRL *list = X509_CRL_new();
    ASN1_TIME *from = X509_gmtime_adj(NULL, request->from != 0 ? request->from : -10L * RIG_DAY);
    ASN1_TIME *to = X509_gmtime_adj(NULL, request->until != 0 ? request->until : RIG_DAY);
    assert_int_equal(X509_CRL_set_version(list, X509_CRL_VERSION_2), 1);
    assert_int_equal(X509_CRL_set_issuer_name(list, X509_get_subject_name(request->issuer->certificate)), 1);
    if (request->name != NULL) {
        X509_NAME *name = X509_NAME_new();
        assert_int_equal(
            X509_NAME_add_entry_by_txt(name, "CN", request->name_type, (const unsigned char *)request->name, -1, -1, 0),
            1);
        assert_int_equal(X509_CRL_set_issuer_name(list, name), 1);
        X509_NAME_free(name);
    }
    assert_int_equal(X509_CRL_set1_lastUpdate(list, from), 1);
    assert_int_equal(X509_CRL_set1_nextUpdate(list, to), 1);
    if (request->revoked != NULL) {
        X509_REVOKED *entry = X509_REVOKED_new();
        assert_int_equal(X509_REVOKED_set_serialNumber(entry, X509_get_serialNumber(request->revoked)), 1);
        assert_int_equal(X509_REVOKED_set_revocationDate(entry, from), 1);
        assert_int_equal(X509_CRL_add0_revoked(list, entry), 1);
    }
    if (request->extension != 0) {
        ASN1_OCTET_STRING *value = ASN1_OCTET_STRING_new();
        assert_int_equal(ASN1_OCTET_STRING_set(value, (const unsigned char *)request->value, request->length), 1);
        X509_EXTENSION *extension = X509_EXTENSION_create_by_NID(NULL, request->extension, request->is_critical, value);
        assert_int_equal(X509_CRL_add_ext(list, extension, -1), 1);
        X509_EXTENSION_free(extension);
        ASN1_OCTET_STRING_free(value);
    }
    EVP_MD_CTX *context = rig_signing_context(request->key != NULL ? request->key : request->issuer->key,
                                              request->digest, request->signs_with_pss);
    assert_true(X509_CRL_sign_ctx(list, context) > 0);
    EVP_MD_CTX_free(context);
    assert_int_equal(PEM_write_X509_CRL(file, list), 1);
    ASN1_TIME_free(from);
    ASN1_TIME_free(to);
    X509_CRL_free(list);
}

void rig_write_crl(const char *name, const struct rig_issued *issuer, X509 *revoked, long until)
{
    FILE *file = rig_create(name);
    rig_put_list(file, &(struct rig_list){.issuer = issuer, .revoked = revoked, .until = until});
    assert_int_equal(fclose(file), 0);
}

static const char *rig_config_path(struct rig_config *config, size_t kind, const char *name)
{
    if (name == NULL)
        return NULL;
    return rig_path(name, config->paths[config->config.certificate_count][kind]);
}

void rig_config_init(struct rig_config *config, enum verify_mode mode)
{
    memset(config, 0, sizeof *config);
    config->config.verify_mode = mode;
    config->config.certificates = config->certificates;
    config->config.application_protocols = config->protocols;
    config->config.handshake_timeout = 10 * NS_PER_S;
}

void rig_config_add(struct rig_config *config, const char *key, const char *certificate, const char *authority,
                    const char *revocation_list)
{
    assert_true(config->config.certificate_count < RIG_ENTRIES);
    config->certificates[config->config.certificate_count] =
        (struct certificate_config){.key.path = rig_config_path(config, 0, key),
                                    .certificate.path = rig_config_path(config, 1, certificate),
                                    .authority.path = rig_config_path(config, 2, authority),
                                    .revocation_list.path = rig_config_path(config, 3, revocation_list)};
    config->config.certificate_count++;
}

void rig_config_add_pair(struct rig_config *config, const char *pair, const char *authority)
{
    char key[32];
    char certificate[32];
    (void)snprintf(key, sizeof key, "%s.key", pair);
    (void)snprintf(certificate, sizeof certificate, "%s.crt", pair);
    rig_config_add(config, key, certificate, authority, NULL);
}

struct tls_context *rig_context(const struct rig_config *config, enum tls_role role)
{
    struct error error = ERROR_INIT;
    struct tls_context *context = tls_context_create(&config->config, role, &error);
    if (context == NULL)
        fail_msg("%s", error.text);
    return context;
}
