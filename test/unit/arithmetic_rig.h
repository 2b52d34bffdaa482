// Points, numbers and keys of mbedTLS's, for the tests of its arithmetic.

#ifndef BITFLOW_TEST_ARITHMETIC_RIG_H
#define BITFLOW_TEST_ARITHMETIC_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <mbedtls/ecp.h>
#include <mbedtls/psa_util.h>

#include "bitflow/base/compiler.h"
#include "bitflow/tls/tls_arithmetic.h"
#include "bitflow/tls/tls_context.h"
#include "hex.h"
#include "tls/engine/arithmetic_internal.h"

#define RIG_RANDOM mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE

static const struct arithmetic_originals *rig_originals;

static inline int rig_begin(void **state)
{
    (void)state;
    struct error error = ERROR_INIT;
    if (!tls_init(&error))
        fail_msg("%s", error.text);
    assert_true(arithmetic_enter(CURVE_PRODUCT, &rig_originals));
    return 0;
}

// A curve with room for two factors, their points, and two results.
struct rig_curve {
    mbedtls_ecp_group group;
    mbedtls_mpi m, n;
    mbedtls_ecp_point p, q, r, expected;
};

static inline void rig_curve_init(struct rig_curve *curve, mbedtls_ecp_group_id id)
{
    mbedtls_ecp_group_init(&curve->group);
    mbedtls_mpi_init(&curve->m);
    mbedtls_mpi_init(&curve->n);
    mbedtls_ecp_point_init(&curve->p);
    mbedtls_ecp_point_init(&curve->q);
    mbedtls_ecp_point_init(&curve->r);
    mbedtls_ecp_point_init(&curve->expected);
    assert_int_equal(mbedtls_ecp_group_load(&curve->group, id), 0);
}

static inline void rig_curve_release(struct rig_curve *curve)
{
    mbedtls_ecp_group_free(&curve->group);
    mbedtls_mpi_free(&curve->m);
    mbedtls_mpi_free(&curve->n);
    mbedtls_ecp_point_free(&curve->p);
    mbedtls_ecp_point_free(&curve->q);
    mbedtls_ecp_point_free(&curve->r);
    mbedtls_ecp_point_free(&curve->expected);
}

// A point as any other, on the curve.
static inline void rig_random_point(struct rig_curve *curve, mbedtls_ecp_point *point)
{
    mbedtls_mpi scalar;
    mbedtls_mpi_init(&scalar);
    assert_int_equal(mbedtls_ecp_gen_privkey(&curve->group, &scalar, RIG_RANDOM), 0);
    assert_int_equal(rig_originals->product(&curve->group, point, &scalar, &curve->group.G, RIG_RANDOM, NULL), 0);
    mbedtls_mpi_free(&scalar);
}

// How often libcrypto has had the result, in this thread.
static inline unsigned long rig_done(enum arithmetic which)
{
    return arithmetic_counts.done[which];
}

#endif
