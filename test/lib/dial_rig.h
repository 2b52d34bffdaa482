// What the tests of dialling share.

#ifndef BITFLOW_TEST_DIAL_RIG_H
#define BITFLOW_TEST_DIAL_RIG_H

#include <fcntl.h>

#include "bitflow/base/compiler.h"
#include "bitflow/net/dial.h"
#include "fake_resolver.h"
#include "net/dial_race.h"

struct dialled {
    bool good;
    struct dial_result result;
    struct error error;
    int64_t took;
};

struct dialled dial_for(const struct address *address, struct client_watch *watch, int64_t deadline);

struct dialled dial_text_on(const char *text, const struct dial_terms *terms);

struct dialled dial_text(const char *text, int64_t deadline);

struct dialled dial_endpoint(const struct endpoint *endpoint, int64_t deadline);

// list.test's addresses.
void set_list(const char *const *hosts, size_t count, uint16_t port);

void assert_failure(const struct dialled *dialled, enum error_code code, const char *fragment);

// That the dialled socket is connected to `listener`, is blocking and closes on exec; closes it.
void assert_connected(const struct dialled *dialled, int listener, const struct endpoint *endpoint);

// A test: those before it have left no descriptor open.
void test_no_descriptor_leaks(void **state);

#endif
