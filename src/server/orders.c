#include "orders.h"

#include <errno.h>
#include <stdlib.h>

#include "bitflow/base/clock.h"

void orders_init(struct orders *orders, void (*on_order)(void))
{
    *orders = (struct orders){.on_order = on_order};
    mutex_init(&orders->lock);
    condition_init(&orders->done);
    mutex_lock(&orders->lock);
    TAILQ_INIT(&orders->waiting);
    mutex_unlock(&orders->lock);
}

void orders_tell(struct orders *orders, void (*on_done)(void *subject), void *subject)
{
    orders->on_done = on_done;
    orders->subject = subject;
}

struct order *orders_give(struct orders *orders, enum order_kind kind, struct error *error)
{
    struct order *order = calloc(1, sizeof *order);
    if (order == NULL) {
        error_set_errno(error, ENOMEM, "cannot give an order");
        return NULL;
    }
    order->kind = kind;
    mutex_lock(&orders->lock);
    bool is_taken = !orders->is_closed;
    if (is_taken)
        TAILQ_INSERT_TAIL(&orders->waiting, order, link);
    mutex_unlock(&orders->lock);
    if (!is_taken) {
        error_set(error, ERROR_REFUSED, "the process ends");
        free(order);
        return NULL;
    }
    orders->on_order();
    return order;
}

bool orders_wait(struct orders *orders, struct order *order, int64_t deadline)
{
    mutex_lock(&orders->lock);
    while (!order->is_done && deadline_left(deadline) > 0)
        condition_wait(&orders->done, &orders->lock, deadline);
    bool is_done = order->is_done;
    mutex_unlock(&orders->lock);
    return is_done;
}

static void release(struct order *order)
{
    reload_outcome_release(&order->outcome);
    free(order);
}

void orders_leave(struct orders *orders, struct order **order)
{
    if (*order == NULL)
        return;
    mutex_lock(&orders->lock);
    bool is_done = (*order)->is_done;
    (*order)->is_left = true;
    mutex_unlock(&orders->lock);
    if (is_done)
        release(*order);
    *order = NULL;
}

struct order *orders_take(struct orders *orders)
{
    mutex_lock(&orders->lock);
    struct order *order = TAILQ_FIRST(&orders->waiting);
    if (order != NULL)
        TAILQ_REMOVE(&orders->waiting, order, link);
    mutex_unlock(&orders->lock);
    return order;
}

void orders_done(struct orders *orders, struct order *order)
{
    mutex_lock(&orders->lock);
    bool is_left = order->is_left;
    order->is_done = true;
    condition_broadcast(&orders->done);
    mutex_unlock(&orders->lock);
    if (is_left)
        release(order);
    if (orders->on_done != NULL)
        orders->on_done(orders->subject);
}

void orders_close(struct orders *orders)
{
    mutex_lock(&orders->lock);
    orders->is_closed = true;
    mutex_unlock(&orders->lock);
    struct order *order;
    while ((order = orders_take(orders)) != NULL) {
        order->is_dropped = true;
        orders_done(orders, order);
    }
}
