// The names that a configuration lets peers in by (authorized_names), and which of the names in a certificate they
// stand for:
//
//     cn:web-1                            the subject's common name, byte by byte
//     dns:web.example.com                 a DNS name, in any case
//     dns:*.example.com                   one label more, whichever it is
//     uri:spiffe://example.org/ns/prod/x  a URI: scheme and host in any case, the rest byte by byte (RFC 3986 6.2.2.1)
//     uri:spiffe://example.org/ns/prod/*  whatever is below it, one or several segments
//     spki:sha256/BASE64                  SHA-256 of the public key with its algorithm (SubjectPublicKeyInfo), as RFC
//                                         7469 2.4 pins one
//
// What stands in a certificate is anybody's: its texts come with their lengths, may have zero bytes and anything else
// in them, and are compared as they are. Nothing is decoded or normalized first. Pure functions; any thread.

#ifndef BITFLOW_BASE_PEER_NAME_H
#define BITFLOW_BASE_PEER_NAME_H

#include <stdbool.h>
#include <stddef.h>

#include "bitflow/base/error.h"

#define PEER_NAME_PIN "sha256/"
#define PEER_NAME_URI_MAX 2048 // bytes; SPIFFE ID 2.1 has the same bound

enum peer_name_kind { PEER_NAME_CN, PEER_NAME_DNS, PEER_NAME_URI, PEER_NAME_SPKI };

// "cn:" and so on.
const char *peer_name_prefix(enum peer_name_kind kind);

// Whether a text is such a name. False: ERROR_INVALID, and the text says what is wrong in words that follow it.
bool peer_name_check(const char *text, struct error *error);

// Of a text that has passed the check: its kind, and what follows the prefix.
enum peer_name_kind peer_name_kind_of(const char *text);
const char *peer_name_value(const char *text);

// Whether such a text stands for a certificate's name of its kind. `is_host`: the certificate is a server's, in which
// a DNS name *.example.com stands for all of one label more; in a client's it is nobody's.
bool peer_name_matches(const char *text, const char *name, size_t length, bool is_host);

// Whether it is a URI of SPIFFE's, which has more rules.
bool peer_name_is_spiffe(const char *text);

// Whether a certificate's name has nothing in it but what names of its kind are made of, so that it can be told of as
// it is. (Of SPKI, nothing is.)
bool peer_name_is_plain(enum peer_name_kind kind, const char *name, size_t length);

#endif
