// Points, numbers and keys of mbedTLS's, for the tests of its arithmetic.

#ifndef BITFLOW_TEST_ARITHMETIC_RIG_H
#define BITFLOW_TEST_ARITHMETIC_RIG_H

#include <mbedtls/ecp.h>
#include <mbedtls/psa_util.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/tls/tls_arithmetic.h"
#include "bitflow/tls/tls_context.h"
#include "hex.h"
#include "tls/engine/arithmetic_internal.h"

#define RIG_RANDOM mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE
extern const struct arithmetic_originals *rig_originals;

int rig_begin(void **state);

// A curve with room for two factors, their points, and two results.
struct rig_curve {
    mbedtls_ecp_group group;
    mbedtls_mpi m, n;
    mbedtls_ecp_point p, q, r, expected;
};

void rig_curve_init(struct rig_curve *curve, mbedtls_ecp_group_id id);

void rig_curve_release(struct rig_curve *curve);

// A point as any other, on the curve.
void rig_random_point(struct rig_curve *curve, mbedtls_ecp_point *point);

// How often libcrypto has had the result, in this thread.
unsigned long rig_done(enum arithmetic which);

#endif
