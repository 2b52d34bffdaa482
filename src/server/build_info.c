#include "bitflow/server/build_info.h"

#include <elf.h>
#include <link.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>

#include <curl/curl.h>
#include <jansson.h>
#include <mbedtls/version.h>
#include <openssl/crypto.h>
#include <openssl/opensslv.h>
#include <yaml.h>
#include <zlib.h>

#include "bitflow/base/compiler.h"
#include "bitflow/version.h"

struct text {
    char *at;
    size_t room;
};

static void add(struct text *text, const char *format, ...) PRINTF_LIKE(2, 3);
static void add(struct text *text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text->at, text->room, format, arguments);
    va_end(arguments);
    if (length > 0 && (size_t)length < text->room) {
        text->at += length;
        text->room -= (size_t)length;
    }
}

// ---- libraries: the one that is loaded may be another than the one whose headers were there

static void add_library(struct text *text, const char *name, const char *loaded, const char *built)
{
    add(text, "%s: %s", name, loaded);
    if (built != NULL && strcmp(loaded, built) != 0)
        add(text, " (built with %s)", built);
}

static const char *jansson_loaded(void)
{
#if JANSSON_VERSION_HEX >= 0x020d00
    return jansson_version_str();
#else
    return JANSSON_VERSION;
#endif
}

static void add_libraries(struct text *text)
{
    char mbedtls[16]; // its documentation asks for 9
    mbedtls_version_get_string(mbedtls);
    add_library(text, "mbedTLS", mbedtls, MBEDTLS_VERSION_STRING);
    add_library(text, "\nOpenSSL", OpenSSL_version(OPENSSL_FULL_VERSION_STRING), OPENSSL_FULL_VERSION_STR);
    const curl_version_info_data *curl = curl_version_info(CURLVERSION_NOW);
    add_library(text, "\nlibcurl", curl->version, LIBCURL_VERSION);
    add(text, ", with %s", curl->ssl_version != NULL ? curl->ssl_version : "no TLS");
    add_library(text, "\njansson", jansson_loaded(), JANSSON_VERSION);
    add_library(text, "\nlibyaml", yaml_get_version_string(), NULL); // its headers do not tell
    add_library(text, "\nzlib", zlibVersion(), ZLIB_VERSION);
    add(text, "\n");
}

// ---- the compiler

static void add_compiler(struct text *text)
{
#if defined(__clang__)
    add(text, "compiler: %s\n", __VERSION__);
#else
    add(text, "compiler: gcc %s\n", __VERSION__);
#endif
    add(text, "build type: %s\n", BITFLOW_BUILD_TYPE);
    add(text, "sanitizers: %s\n", *BITFLOW_SANITIZERS != '\0' ? BITFLOW_SANITIZERS : "none");
}

// ---- hardening: what the compiler says of itself, and the file that is running

static bool has_flag(unsigned flag)
{
    for (const ElfW(Dyn) *entry = _DYNAMIC; entry->d_tag != DT_NULL; entry++)
        if (entry->d_tag == DT_FLAGS_1)
            return (entry->d_un.d_val & flag) != 0;
    return false;
}

// NULL: the program has no such segment.
static const ElfW(Phdr) * find_segment(unsigned type)
{
    const ElfW(Phdr) *segments = (const void *)(uintptr_t)getauxval(AT_PHDR); // NOLINT(performance-no-int-to-ptr)
    unsigned long count = getauxval(AT_PHNUM);
    for (unsigned long i = 0; segments != NULL && i < count; i++)
        if (segments[i].p_type == type)
            return &segments[i];
    return NULL;
}

#define TEXT_OF(token) #token
#define EXPANDED(token) TEXT_OF(token)

static void add_hardening(struct text *text)
{
    const ElfW(Phdr) *stack = find_segment(PT_GNU_STACK);
    const char *before = "hardening: ";
    const struct {
        bool is_there;
        const char *name;
    } measures[] = {
        {has_flag(DF_1_PIE), "PIE"},
        {find_segment(PT_GNU_RELRO) != NULL, "RELRO"},
        {has_flag(DF_1_NOW), "immediate binding"},
        {stack != NULL && (stack->p_flags & PF_X) == 0, "no executable stack"},
#if defined(__SSP_STRONG__)
        {true, "stack protector"},
#endif
#if defined(_FORTIFY_SOURCE) && _FORTIFY_SOURCE > 0
        {true, "_FORTIFY_SOURCE=" EXPANDED(_FORTIFY_SOURCE)},
#endif
    };
    for (size_t i = 0; i < ARRAY_LENGTH(measures); i++) {
        if (!measures[i].is_there)
            continue;
        add(text, "%s%s", before, measures[i].name);
        before = ", ";
    }
    add(text, "\n");
}

void build_info_format(char out[BUILD_INFO_SIZE])
{
    struct text text = {.at = out, .room = BUILD_INFO_SIZE};
    add_libraries(&text);
    add_compiler(&text);
    add_hardening(&text);
}
