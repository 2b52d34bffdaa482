// A relay with one TLS leg or two, whose far ends seal and open by themselves: there is no handshake, both ends of a
// leg begin with the same made-up keys. Each far end knows how much it has sent and received, and checks every byte.

#ifndef BITFLOW_TEST_RELAY_TLS_RIG_H
#define BITFLOW_TEST_RELAY_TLS_RIG_H

#include "relay_rig.h"
#include "tls_record_rig.h"

// How a far end's reading ended.
enum far_end {
    FAR_MORE,   // it has not
    FAR_CLOSED, // in order: by close_notify and then FIN, or where the leg is plain by FIN alone
    FAR_CUT,    // by FIN without a close_notify
    FAR_RESET,
};

// Sending and receiving touch nothing in common, so that each may have a thread of its own.
struct far {
    int *fd; // -1 once it is closed
    bool is_tls;
    unsigned stream; // that it sends
    struct record_key sends, receives;
    uint64_t sent, received; // plaintext
    uint8_t *out;            // room for FAR_SEALED_MAX; its first `left` bytes could not be sent yet
    size_t left;
    uint8_t *expected; // room for FAR_ROOM, as has:
    uint8_t *in;       // what was received and not opened yet
    size_t have;
    enum far_end end;
    bool has_closed; // close_notify came
    bool has_alert;  // another alert came:
    unsigned alert, alert_level;
    unsigned key_updates, records; // that came
    size_t largest;                // plaintext of a record that came
};

#define FAR_ROOM (4 * (size_t)TLS_RECORD_MAX)
#define FAR_SEALED_MAX ((size_t)256 * 1024)

// Which legs have TLS, in a relay that has just begun or in one that has been in bulk.
struct way {
    const char *name;
    bool is_tls[2]; // by enum relay_side
    bool in_bulk;
    size_t suite;
};

// Each combination of legs, over all suites.
#define TLS_WAYS ((size_t)6)
extern const struct way tls_ways[TLS_WAYS];

// What a test is run for: a way, and the side that does what the test is about.
struct tls_case {
    struct way way;
    enum relay_side side;
};

struct tls_rig {
    struct rig rig;
    struct tls_session sessions[2];
    struct far fars[2];     // by enum relay_side
    struct far *from, *to;  // that of the case's side, and the other
    enum relay_side side;   // the case's
    enum ended_by ended_by; // that side
    struct way way;
};

void tls_rig_init_on(struct tls_rig *t, const struct tls_case *of, enum rig_kind kind, int buffer);

void tls_rig_init(struct tls_rig *t, const struct tls_case *of);

// The same, and the relay is started: in bulk, if its way says so.
void tls_rig_begin_on(struct tls_rig *t, const struct tls_case *of, enum rig_kind kind, int buffer);

void tls_rig_begin(struct tls_rig *t, const struct tls_case *of);

void tls_rig_release(struct tls_rig *t);

// The end of a relay whose trial says nothing: see rig_is_excused().
void tls_rig_abandon(struct tls_rig *t);

// --- sending ---------------------------------------------------------------------------------------------------------

void far_write(struct far *far, const void *bytes, size_t size);

// Seals the stream's next `size` bytes in records of at most `record` bytes (a plain leg: as they are). Returns their
// size in `out`.
size_t far_seal(struct far *far, size_t size, size_t record, uint8_t *out);

// Sends the stream's next bytes, as few writes as can be.
void far_send(struct far *far, uint64_t size, size_t record);

// Sends records until the relay takes no more.
void far_stuff(struct far *far);

void *far_send_left(void *argument);

// A handshake message, an alert, or what else a record may hold.
void far_send_record(struct far *far, unsigned content, const void *bytes, size_t size);

size_t far_forge_close(struct far *far, uint8_t *out);

// Ends its stream as its protocol wants it.
void far_finish(struct far *far);

size_t far_forge_key_update(struct far *far, bool is_requested, uint8_t *out);

void far_update_key(struct far *far, bool is_requested);

// --- receiving -------------------------------------------------------------------------------------------------------

// One read, within `watch`. False: nothing came, or the end has come.
bool far_receive_some(struct tls_rig *t, struct far *far, size_t most, int64_t watch);

// Receives until `total` bytes of plaintext have come since the beginning; all of them must.
void far_receive_up_to(struct tls_rig *t, struct far *far, uint64_t total);

void far_receive_all_sent(struct tls_rig *t, struct far *far);

// The same. False: the end came first.
bool far_try_receive_all_sent(struct tls_rig *t, struct far *far);

// How it ends, with whatever comes before it.
enum far_end far_receive_end(struct tls_rig *t, struct far *far);

void far_reset(struct far *far);

// --- the relay -------------------------------------------------------------------------------------------------------

bool tls_rig_has_second_thread(const struct tls_rig *t);

// Starts the relay. `in_bulk`: it has been in bulk when this returns, so that it has its second thread, or was refused
// it.
void tls_rig_start(struct tls_rig *t, bool in_bulk);

// Waits until the relay has read what was sent to it.
void tls_rig_wait_read(const struct tls_rig *t, enum relay_side side);

void tls_rig_wait_reason(struct tls_rig *t);

void tls_rig_assert_bytes(struct tls_rig *t);

enum close_reason tls_rig_reason(const struct tls_rig *t, enum close_reason client, enum close_reason target);

// What the case's side did has ended the relay, in order.
void tls_rig_assert_completed(struct tls_rig *t);

// What the case's side did has ended the relay for that reason, and the other side's connection is reset.
void tls_rig_assert_failed(struct tls_rig *t, enum close_reason reason);

// Both sides have sent all; `first` ends its stream, then the other one: an orderly end, with every byte delivered.
void tls_rig_finish(struct tls_rig *t, enum relay_side first);

// --- the tests -------------------------------------------------------------------------------------------------------

enum tls_cases {
    TLS_ONCE = 0, // its state is null
    // Which sides of each way:
    TLS_EACH_WAY = 1 << 0, // one that has TLS: where both have, the client
    TLS_EACH_SIDE = 1 << 1,
    TLS_ALTERNATE = 1 << 2, // now the client, now the target: for what takes seconds
    TLS_TARGET = 1 << 3,
    // Which of those:
    TLS_SIDE_HAS_TLS = 1 << 4,
    TLS_NOT_IN_BULK = 1 << 5,
    TLS_WITH_THREADS = 1 << 6, // not in a program without threads
};

struct tls_rig_test {
    const char *name;
    CMUnitTestFunction function; // its state is the struct tls_case
    unsigned cases;              // of enum tls_cases
};

#define TLS_RIG_TEST(function, cases) {#function, function, cases}

// Runs each test for each of its cases, in a program that may have threads and in one that has none left. Returns what
// main() does.
int tls_rig_run(const struct tls_rig_test *tests, size_t count);

#endif
