// What other threads ask the main thread to do: it alone changes listeners, loads configurations and ends the process.
// Whoever has given an order may wait for it to be done, and learns how it went. Any thread; one lock inside.

#ifndef BITFLOW_SRC_SERVER_ORDERS_H
#define BITFLOW_SRC_SERVER_ORDERS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "bitflow/base/error.h"
#include "bitflow/base/mutex.h"
#include "reload_outcome.h"

enum order_kind {
    ORDER_RELOAD,
    ORDER_RELOAD_IF_CHANGED,   // if the configuration says something else than what is in force
    ORDER_RELOAD_CERTIFICATES, // certificates, keys and so on, of the configuration in force
    ORDER_REOPEN_LOGS,
    ORDER_DRAIN,
    ORDER_ANSWER // nothing is to be done; that the main thread takes it is what is wanted
};

struct order {
    TAILQ_ENTRY(order) link; // while nobody has taken it
    enum order_kind kind;
    bool is_done;
    bool is_dropped;               // it is done for only because the process ends, or is replaced: nothing was done
    bool is_left;                  // nobody waits for it any more
    bool has_failed;               // of ORDER_REOPEN_LOGS, once it is done: some log could not be opened
    struct reload_outcome outcome; // of a reload, likewise
};

TAILQ_HEAD(order_list, order);

struct orders {
    struct mutex lock;
    struct condition done;
    // Guarded by the lock:
    struct order_list waiting GUARDED;
    bool is_closed GUARDED;
    void (*on_order)(void);
    void (*on_done)(void *subject); // NULL: nobody is told
    void *subject;
};

// `on_order` is called, on the thread that gives an order, to have the main thread look.
void orders_init(struct orders *orders, void (*on_order)(void));

// `on_done` is called, on the main thread, after each order that is done, for who does not wait by orders_wait().
// Before any order is given.
void orders_tell(struct orders *orders, void (*on_done)(void *subject), void *subject);

// ERROR_NO_MEMORY; ERROR_REFUSED once the process ends. To be given to orders_leave() in the end.
struct order *orders_give(struct orders *orders, enum order_kind kind, struct error *error);

// False: it is not done by the deadline (base/clock.h). It may still be, later.
bool orders_wait(struct orders *orders, struct order *order, int64_t deadline);

// Gives it back; one that is not done yet is done all the same.
void orders_leave(struct orders *orders, struct order **order);

// The main thread's: the next one to do, NULL: none. To be given to orders_done().
struct order *orders_take(struct orders *orders);
void orders_done(struct orders *orders, struct order *order);

// Takes no more orders, and has nobody wait for those that nobody has taken: they count as done, and are `is_dropped`.
// The main thread's.
void orders_close(struct orders *orders);

#endif
