// Errors as values: the first one wins, codes follow from errno, long texts are cut.

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/error.h"

static void test_an_error_has_code_and_text(void **state)
{
    (void)state;
    struct error error = ERROR_INIT;
    assert_int_equal(error.code, ERROR_NONE);
    error_set(&error, ERROR_INVALID, "%s is %d", "x", 7);
    assert_int_equal(error.code, ERROR_INVALID);
    assert_int_equal(error.os_errno, 0);
    assert_string_equal(error.text, "x is 7");
}

static void test_the_first_error_wins(void **state)
{
    (void)state;
    struct error error = ERROR_INIT;
    error_set(&error, ERROR_TIMEOUT, "first");
    error_set(&error, ERROR_INVALID, "second");
    error_set_errno(&error, ENOMEM, "third");
    assert_int_equal(error.code, ERROR_TIMEOUT);
    assert_int_equal(error.os_errno, 0);
    assert_string_equal(error.text, "first");
}

static void test_an_error_may_have_nowhere_to_go(void **state)
{
    (void)state;
    error_set(NULL, ERROR_INVALID, "x");
    error_set_errno(NULL, ENOMEM, "x");
}

static void test_an_errno_has_its_code_and_words(void **state)
{
    (void)state;
    static const struct {
        int os_errno;
        enum error_code code;
    } rows[] = {
        {ENOMEM, ERROR_NO_MEMORY},      {ENOBUFS, ERROR_NO_MEMORY}, {EMFILE, ERROR_NO_DESCRIPTORS},
        {ENFILE, ERROR_NO_DESCRIPTORS}, {ETIMEDOUT, ERROR_TIMEOUT}, {ECONNREFUSED, ERROR_REFUSED},
        {ECANCELED, ERROR_CANCELLED},   {EADDRINUSE, ERROR_SYSTEM}, {EACCES, ERROR_SYSTEM},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct error error = ERROR_INIT;
        error_set_errno(&error, rows[i].os_errno, "cannot %s", "act");
        assert_int_equal(error.code, rows[i].code);
        assert_int_equal(error_code_of_errno(rows[i].os_errno), rows[i].code);
        assert_int_equal(error.os_errno, rows[i].os_errno);
    }
    struct error error = ERROR_INIT;
    error_set_errno(&error, ECONNREFUSED, "cannot connect");
    assert_string_equal(error.text, "cannot connect: Connection refused");
    error = ERROR_INIT;
    error_set_errno(&error, 4095, "cannot connect"); // no such errno; still a sentence
    assert_string_equal(error.text, "cannot connect: Unknown error 4095");
}

static void test_long_texts_are_cut(void **state)
{
    (void)state;
    char text[2 * sizeof((struct error *)NULL)->text];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    struct error error = ERROR_INIT;
    error_set(&error, ERROR_INVALID, "%s", text);
    assert_int_equal(strlen(error.text), sizeof error.text - 1);
    error = ERROR_INIT;
    error_set_errno(&error, EACCES, "%s", text);
    assert_int_equal(strlen(error.text), sizeof error.text - 1);
    assert_int_equal(error.os_errno, EACCES);
    error = ERROR_INIT;
    error_set_errno(&error, EACCES, "%.250s", text); // the reason is cut
    assert_string_equal(error.text + 250, ": Per");
}

static void test_a_wrapped_error_keeps_its_cause(void **state)
{
    (void)state;
    struct error cause = ERROR_INIT, error = ERROR_INIT;
    error_set_errno(&cause, ECONNREFUSED, "cannot connect");
    error_wrap(&error, &cause, "proxy %s", "web");
    assert_int_equal(error.code, ERROR_REFUSED);
    assert_int_equal(error.os_errno, ECONNREFUSED);
    assert_string_equal(error.text, "proxy web: cannot connect: Connection refused");
    error_wrap(&error, &cause, "too late");
    assert_string_equal(error.text, "proxy web: cannot connect: Connection refused");
    error_wrap(NULL, &cause, "nobody cares");
    char text[2 * sizeof error.text];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    error = ERROR_INIT;
    error_wrap(&error, &cause, "%s", text); // the cause is cut
    assert_int_equal(strlen(error.text), sizeof error.text - 1);
}

static void test_every_code_has_its_name(void **state)
{
    (void)state;
    static const char *const names[] = {"none",      "invalid",    "system",  "no_memory", "no_descriptors",
                                        "no_ports",  "no_threads", "timeout", "resolve",   "refused",
                                        "cancelled", "denied",     "unknown"};
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++)
        assert_string_equal(error_code_name((enum error_code)i), names[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_error_has_code_and_text),      cmocka_unit_test(test_the_first_error_wins),
        cmocka_unit_test(test_an_error_may_have_nowhere_to_go), cmocka_unit_test(test_an_errno_has_its_code_and_words),
        cmocka_unit_test(test_a_wrapped_error_keeps_its_cause), cmocka_unit_test(test_long_texts_are_cut),
        cmocka_unit_test(test_every_code_has_its_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
