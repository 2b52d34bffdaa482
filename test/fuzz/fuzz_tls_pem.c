// PEM files: whatever is in one, it is read or refused with an error that has a text. The first byte chooses the kind;
// of a file of authorities, the revocation lists may be in the same.

#include <stdlib.h>
#include <string.h>

#include "bitflow/tls/tls_context.h"
#include "tls/engine/pem.h"
#include "tls/engine/trust.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    if (!tls_init(NULL))
        abort();
    return 0;
}

static bool parse(unsigned kind, const struct pem_text *text, struct error *error)
{
    mbedtls_x509_crt chain;
    mbedtls_pk_context key;
    struct trust *trust = NULL;
    bool is_of_lists;
    mbedtls_x509_crt_init(&chain);
    mbedtls_pk_init(&key);
    const struct trust_file file = {.path = "file", .text = text};
    bool is_good;
    if (kind == 0) {
        is_good = pem_parse_certificates("file", text, &chain, error);
    } else if (kind == 2) {
        is_good = pem_parse_key("file", text, &key, error);
    } else {
        trust = trust_hold_files(&file, kind == 1 ? NULL : &file, &is_of_lists, error);
        is_good = trust != NULL;
    }
    mbedtls_x509_crt_free(&chain);
    mbedtls_pk_free(&key);
    trust_drop(&trust);
    return is_good;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    if (length == 0)
        return 0;
    struct pem_text text = {.length = length - 1, .bytes = calloc(1, length)};
    struct error error = ERROR_INIT;
    if (text.bytes == NULL)
        return 0;
    memcpy(text.bytes, bytes + 1, length - 1);
    if (parse(bytes[0] % 4, &text, &error) != (error.code == ERROR_NONE) ||
        (error.code != ERROR_NONE && error.text[0] == '\0'))
        abort();
    pem_text_release(&text);
    return 0;
}
