// Unit tests that wait more than they compute, all at once: each runs in a process of its own, with what its program
// had when at_once_run() was called, so that none has to wait for another.

#ifndef BITFLOW_TEST_AT_ONCE_H
#define BITFLOW_TEST_AT_ONCE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

struct at_once_group {
    const char *name;
    const struct CMUnitTest *tests;
    size_t count;
    void (*prepare)(void); // in each test's process, before its setup
};

#define AT_ONCE_GROUP(name, tests, prepare) {name, tests, sizeof(tests) / sizeof(tests)[0], prepare}

// The caller has one thread only. Prints what each test has said as soon as it is over. Returns how many failed.
int at_once_run(const struct at_once_group *groups, size_t count);

#endif
