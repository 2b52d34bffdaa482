// Verification within its limits: the stack of a connection's thread, the number of certificates that a peer may send,
// and memory that runs out.

#include "tls_peer.h"

#include <openssl/crypto.h>

#include "failing_memory.h"
#include "tls/engine/context_internal.h"
#include "tls/engine/peer_certificates.h"

#define STACK_SIZE ((size_t)256 * 1024)
#define STACK_PAINT 0xa5
// Connections' threads have 96 KiB beside what the C library needs.
#define STACK_MAX ((size_t)32 * 1024)

static struct rig_issued root;
static struct rig_issued middle;
static struct rig_issued constrained; // to names below in.example
static struct rig_issued outside;     // by that one

struct job {
    const struct tls_context *context;
    const char *pair;
    bool is_good;
    struct error error;
};

static void *accept_client(void *argument)
{
    struct job *job = argument;
    struct tls_peer peer = {.pair = job->pair};
    struct tls_session session;
    job->is_good = run_session(job->context, TLS_SERVER, NULL, &peer, &session, &job->error);
    return NULL;
}

// How much of a stack it takes, down from its end.
static size_t stack_of(struct job *job)
{
    unsigned char *stack = aligned_alloc(4096, STACK_SIZE);
    pthread_attr_t attributes;
    pthread_t thread;
    assert_non_null(stack);
    memset(stack, STACK_PAINT, STACK_SIZE);
    assert_int_equal(pthread_attr_init(&attributes), 0);
    assert_int_equal(pthread_attr_setstack(&attributes, stack, STACK_SIZE), 0);
    assert_int_equal(pthread_create(&thread, &attributes, accept_client, job), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(pthread_attr_destroy(&attributes), 0);
    size_t untouched = 0;
    while (untouched < STACK_SIZE && stack[untouched] == STACK_PAINT)
        untouched++;
    free(stack);
    return STACK_SIZE - untouched;
}

static void write_lists(const char *name)
{
    FILE *file = rig_create(name);
    rig_put_list(file, &(struct rig_list){.issuer = &root});
    rig_put_list(file, &(struct rig_list){.issuer = &middle});
    assert_int_equal(fclose(file), 0);
}

static struct tls_context *strict_context(const char *lists)
{
    struct rig_config config;
    rig_config_init(&config, VERIFY_STRICT);
    rig_config_add(&config, "server.key", "server.crt", "root.crt", lists);
    return rig_context(&config, TLS_SERVER);
}

// The first one of the process is the one that takes most: libcrypto looks up what it has not used yet.
static void test_a_verification_fits_into_a_small_stack(void **state)
{
    (void)state;
    if (IS_SANITIZED)
        skip();
    struct tls_context *context = strict_context("lists.crl");
    for (int i = 0; i < 2; i++) {
        struct job job = {.context = context, .pair = "client"};
        size_t used = stack_of(&job);
        if (!job.is_good)
            fail_msg("%s", job.error.text);
        assert_in_range(used, 4096, STACK_MAX);
    }
    tls_context_destroy(&context);
}

// ---- memory

// What a peer sends, and what is to come of it.
struct sent {
    const char *name;
    const char *lists;
    enum tls_role role; // ours
    const char *host;   // of a target
    X509 *chain[3];     // ends with NULL
    bool is_good;
};

// The status that mbedTLS gets.
static int judge(const struct tls_context *context, const struct sent *sent, unsigned char *const *der,
                 const int *lengths, enum verify_verdict *verdict)
{
    struct tls_verification verification;
    mbedtls_x509_crt shown;
    uint32_t flags = 0;
    int status = 0;
    mbedtls_x509_crt_init(&shown);
    assert_true(tls_verification_init(&verification, context, sent->host));
    peer_certificates_begin(&verification);
    for (size_t i = 0; status == 0 && sent->chain[i] != NULL; i++)
        status = mbedtls_x509_crt_parse_der(&shown, der[i], (size_t)lengths[i]);
    peer_certificates_end();
    if (status == 0)
        status = mbedtls_x509_crt_verify_restartable(&shown, NULL, NULL, NULL, NULL, &flags, peer_certificates_callback,
                                                     &verification, NULL);
    if (status == 0)
        assert_int_equal(flags, 0);
    *verdict = verification.verdict;
    mbedtls_x509_crt_free(&shown);
    tls_verification_release(&verification);
    OPENSSL_thread_stop();
    return status;
}

// Each allocation fails in turn: alone, or with all that follow.
static void check_shortage(const struct sent *sent, bool is_lasting)
{
    unsigned char *der[3] = {NULL};
    int lengths[3];
    for (size_t i = 0; sent->chain[i] != NULL; i++) {
        lengths[i] = i2d_X509(sent->chain[i], &der[i]);
        assert_true(lengths[i] > 0);
    }
    struct rig_config config;
    rig_config_init(&config, VERIFY_STRICT);
    bool is_server = sent->role == TLS_SERVER;
    rig_config_add(&config, is_server ? "server.key" : NULL, is_server ? "server.crt" : NULL, "root.crt", sent->lists);
    struct tls_context *context = rig_context(&config, sent->role);
    enum verify_verdict verdict;
    assert_int_equal(judge(context, sent, der, lengths, &verdict) == 0, sent->is_good);
    assert_int_equal(verdict, sent->is_good ? VERDICT_ACCEPTED : VERDICT_REFUSED);
    memory_fail_lastingly(is_lasting);
    long failing = 0;
    for (;; failing += IS_SANITIZED ? 11 : 1) { // a sanitizer takes its time
        memory_count_begin(failing);
        int status = judge(context, sent, der, lengths, &verdict);
        long left = memory_count_end();
        if (left != 0)
            fail_msg("%s: with allocation %ld failing, %ld blocks are left", sent->name, failing, left);
        if (!has_failed)
            break;
        if ((status == 0) != (verdict == VERDICT_ACCEPTED) || (status == 0 && !sent->is_good))
            fail_msg("%s: with allocation %ld failing: %d", sent->name, failing, status);
        if (status != 0 && sent->is_good && is_lasting && !tls_is_memory_error(status))
            fail_msg("%s: with allocation %ld failing, it is blamed on the peer: %x", sent->name, failing,
                     (unsigned)-status);
    }
    assert_true(failing > 100);
    memory_fail_lastingly(false);
    tls_context_destroy(&context);
    for (size_t i = 0; i < ARRAY_LENGTH(der); i++)
        OPENSSL_free(der[i]);
}

static void test_whoever_cannot_be_judged_is_refused(void **state)
{
    (void)state;
#ifdef HAS_THREAD_SANITIZER
    skip();
#endif
    struct rig_issued other = rig_issue(&(struct rig_request){.subject = "Other CA", .is_ca = true});
    struct rig_request request = {.subject = "peer", .names = "DNS:s.example", .issuer = &middle};
    struct rig_issued good = rig_issue(&request);
    struct rig_request changed = request;
    changed.usage = "codeSigning";
    struct rig_issued purpose = rig_issue(&changed);
    changed = request;
    changed.until = -RIG_DAY / 2;
    struct rig_issued expired = rig_issue(&changed);
    changed = request;
    changed.issuer = &other;
    struct rig_issued unknown = rig_issue(&changed);
    FILE *file = rig_create("revoking.crl");
    rig_put_list(file, &(struct rig_list){.issuer = &root});
    rig_put_list(file, &(struct rig_list){.issuer = &middle, .revoked = good.certificate});
    assert_int_equal(fclose(file), 0);
    rig_write_crl("root.crl", &root, NULL, RIG_DAY);
    const struct sent all[] = {
        {"good", NULL, TLS_SERVER, NULL, {good.certificate, middle.certificate}, true},
        {"good, with lists", "lists.crl", TLS_CLIENT, "s.example", {good.certificate, middle.certificate}, true},
        {"another name", NULL, TLS_CLIENT, "t.example", {good.certificate, middle.certificate}, false},
        {"another address", NULL, TLS_CLIENT, "127.0.0.1", {good.certificate, middle.certificate}, false},
        {"revoked", "revoking.crl", TLS_SERVER, NULL, {good.certificate, middle.certificate}, false},
        {"no list", "root.crl", TLS_SERVER, NULL, {good.certificate, middle.certificate}, false},
        {"another purpose", NULL, TLS_SERVER, NULL, {purpose.certificate, middle.certificate}, false},
        {"expired", NULL, TLS_SERVER, NULL, {expired.certificate, middle.certificate}, false},
        {"unknown", NULL, TLS_SERVER, NULL, {unknown.certificate, other.certificate}, false},
        {"outside", NULL, TLS_SERVER, NULL, {outside.certificate, constrained.certificate}, false},
    };
    for (size_t i = 0; i < 2 * ARRAY_LENGTH(all); i++)
        check_shortage(&all[i / 2], i % 2 == 1);
    rig_drop(&other);
    rig_drop(&good);
    rig_drop(&purpose);
    rig_drop(&expired);
    rig_drop(&unknown);
}

static int begin(void **state)
{
    (void)state;
    rig_tls_begin();
    root = rig_issue(&(struct rig_request){.subject = "Root CA", .kind = "rsa", .is_ca = true});
    middle = rig_issue(&(struct rig_request){.subject = "Middle CA", .kind = "rsa", .is_ca = true, .issuer = &root});
    rig_write_chain("root.crt", root.certificate, NULL, NULL);
    rig_issue_pair("server", &(struct rig_request){.subject = "server", .names = "DNS:s.example"});
    struct rig_issued client = rig_issue(&(struct rig_request){.subject = "client", .kind = "rsa", .issuer = &middle});
    rig_write_pair("client", &client);
    rig_write_chain("client.crt", client.certificate, middle.certificate, NULL);
    rig_drop(&client);
    write_lists("lists.crl");
    constrained = rig_issue(&(struct rig_request){
        .subject = "Constrained CA", .is_ca = true, .issuer = &root, .constraints = "permitted;DNS:in.example"});
    outside = rig_issue(&(struct rig_request){.subject = "out", .names = "DNS:out.example", .issuer = &constrained});
    return 0;
}

static int end(void **state)
{
    rig_drop(&root);
    rig_drop(&middle);
    rig_drop(&constrained);
    rig_drop(&outside);
    return rig_tls_end(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_verification_fits_into_a_small_stack),
        cmocka_unit_test(test_whoever_cannot_be_judged_is_refused),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
