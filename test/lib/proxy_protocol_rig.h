// What the tests of the PROXY protocol's codec share: decoding what ends at the end of its memory, and making headers.

#ifndef BITFLOW_TEST_PROXY_PROTOCOL_RIG_H
#define BITFLOW_TEST_PROXY_PROTOCOL_RIG_H

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/wire/proxy_protocol.h"
#include "hex.h"

// Of a block of just this size: whoever reads beyond it is caught by the sanitizer. Texts point into `kept`.
enum proxy_header_state decode(const uint8_t *bytes, size_t length, struct proxy_header_decoded *decoded);

void assert_invalid(const void *bytes, size_t length, const char *reason);

void assert_needs(const void *bytes, size_t length, size_t needed);

// 192.0.2.1, 2001:db8::1, or a Unix path.
struct proxy_header_address end_of(const char *text, uint16_t port);

void assert_end(const struct proxy_header_address *end, const char *text, uint16_t port);

struct proxy_header_text text_of(const char *text);

void assert_text(const struct proxy_header_text *text, const char *wanted);

#endif
