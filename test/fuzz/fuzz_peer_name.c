// Any text as a name to be authorized, and behind a line's end any bytes as a name of a peer's certificate. What
// matches is what may be told of, has no zero byte, and is of the trust domain that is written; a name without a
// wildcard stands for itself.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "bitflow/base/peer_name.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds)
{
    if (!holds)
        abort();
}

// Of a block of just this size, so that the sanitizer sees a read beyond it.
static char *copy(const uint8_t *bytes, size_t length, size_t room)
{
    char *block = malloc(room > 0 ? room : 1);
    check(block != NULL);
    if (length > 0)
        memcpy(block, bytes, length);
    return block;
}

// "spiffe://example.org/", in any case.
static void check_trust_domain(const char *text, const char *name, size_t length)
{
    static const char scheme[] = "spiffe://";
    const char *wanted = peer_name_value(text);
    size_t domain = sizeof scheme - 1 + strcspn(wanted + sizeof scheme - 1, "/");
    check(length >= domain && strncasecmp(wanted, name, domain) == 0);
    check(length == domain || name[domain] == '/');
    check(memchr(name, '?', length) == NULL && memchr(name, '%', length) == NULL);
}

static void check_match(const char *text, const char *name, size_t length)
{
    enum peer_name_kind kind = peer_name_kind_of(text);
    check(kind == PEER_NAME_SPKI || peer_name_is_plain(kind, name, length));
    check(length > 0 && memchr(name, '\0', length) == NULL);
    if (peer_name_is_spiffe(text))
        check_trust_domain(text, name, length);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = size > 0 ? memchr(data, '\n', size) : NULL;
    size_t text_length = end != NULL ? (size_t)(end - data) : size;
    size_t length = end != NULL ? size - text_length - 1 : 0;
    char *text = copy(data, text_length, text_length + 1);
    char *name = copy(end != NULL ? end + 1 : NULL, length, length);
    text[text_length] = '\0';
    struct error error = ERROR_INIT;
    bool is_good = peer_name_check(text, &error);
    check(is_good == (error.code == ERROR_NONE));
    for (int is_host = 0; is_good && is_host < 2; is_host++) {
        const char *value = peer_name_value(text);
        if (peer_name_matches(text, name, length, is_host == 1))
            check_match(text, name, length);
        check(strchr(value, '*') != NULL || peer_name_matches(text, value, strlen(value), is_host == 1));
    }
    free(text);
    free(name);
    return 0;
}
