// The rows of a table that a test goes through: the name of the one at which it fails is printed.

#ifndef BITFLOW_TEST_ROW_H
#define BITFLOW_TEST_ROW_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

// The test is at the row of that name. Null: it is past the last one, and false is returned.
bool row_at(const char *name);

// A row's first member is its `name`. Such a loop is not left early but by a failure.
#define FOR_EACH_ROW(row, rows)                     \
    for (const __typeof__((rows)[0]) *row = (rows); \
         row_at(row < (rows) + sizeof(rows) / sizeof(rows)[0] ? row->name : NULL); row++)

int row_tell(void **state);

// A test with FOR_EACH_ROW.
#define UNIT_TEST_OF_ROWS(test) cmocka_unit_test_teardown(test, row_tell)

#endif
