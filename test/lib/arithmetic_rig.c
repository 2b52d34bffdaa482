#include "arithmetic_rig.h"

const struct arithmetic_originals *rig_originals;

int rig_begin(void **state)
{
    (void)state;
    struct error error = ERROR_INIT;
    if (!tls_init(&error))
        fail_msg("%s", error.text);
    assert_true(arithmetic_enter(CURVE_PRODUCT, &rig_originals));
    return 0;
}

void rig_curve_init(struct rig_curve *curve, mbedtls_ecp_group_id id)
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

void rig_curve_release(struct rig_curve *curve)
{
    mbedtls_ecp_group_free(&curve->group);
    mbedtls_mpi_free(&curve->m);
    mbedtls_mpi_free(&curve->n);
    mbedtls_ecp_point_free(&curve->p);
    mbedtls_ecp_point_free(&curve->q);
    mbedtls_ecp_point_free(&curve->r);
    mbedtls_ecp_point_free(&curve->expected);
}

void rig_random_point(struct rig_curve *curve, mbedtls_ecp_point *point)
{
    mbedtls_mpi scalar;
    mbedtls_mpi_init(&scalar);
    assert_int_equal(mbedtls_ecp_gen_privkey(&curve->group, &scalar, RIG_RANDOM), 0);
    assert_int_equal(rig_originals->product(&curve->group, point, &scalar, &curve->group.G, RIG_RANDOM, NULL), 0);
    mbedtls_mpi_free(&scalar);
}

unsigned long rig_done(enum arithmetic which)
{
    return arithmetic_counts.done[which];
}
