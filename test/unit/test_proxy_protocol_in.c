// Reading the PROXY protocol's header from a socket: to its last byte and none beyond, however it comes, within its
// bound.

#include <pthread.h>
#include <stdlib.h>

#include "bitflow/base/compiler.h"
#include "hex.h"
#include "net_rig.h"
#include "proxy/client/proxy_protocol_in.h"

#define V1 "PROXY TCP4 192.0.2.1 192.0.2.2 50000 443\r\n"
#define V2_SIGNATURE "0d0a0d0a000d0a515549540a"

struct stream {
    int pair[2]; // ours, the client's
    struct failure failure;
};

static void open_stream(struct stream *stream, bool local)
{
    *stream = (struct stream){.failure.reason = CLOSE_NONE};
    local ? rig_unix_pair(stream->pair) : rig_pair(stream->pair);
}

static void close_stream(struct stream *stream)
{
    (void)close(stream->pair[0]);
    (void)close(stream->pair[1]);
}

static struct proxy_protocol_in *read_until(struct stream *stream, int64_t deadline)
{
    return proxy_protocol_in_read(stream->pair[0], deadline, &stream->failure);
}

static void assert_endpoint(const struct endpoint *endpoint, const char *expected)
{
    char text[ENDPOINT_TEXT_SIZE];
    endpoint_format(endpoint, text);
    assert_string_equal(text, expected);
}

// That `left`, and no more, is still to be read.
static void assert_left(struct stream *stream, const char *left)
{
    char bytes[64] = "";
    ssize_t got = recv(stream->pair[0], bytes, sizeof bytes - 1, MSG_DONTWAIT);
    assert_string_equal(bytes, left);
    assert_int_equal(got < 0 ? 0 : got, strlen(left));
}

static void test_nothing_is_read_beyond_the_header(void **state)
{
    (void)state;
    for (int local = 0; local < 2; local++) {
        struct stream stream;
        open_stream(&stream, local != 0);
        rig_write(stream.pair[1], V1 "GET / HTTP/1.1\r\n");
        struct proxy_protocol_in *in = read_until(&stream, rig_limit());
        assert_non_null(in);
        assert_int_equal(in->version, 1);
        assert_endpoint(&in->client, "192.0.2.1:50000");
        assert_endpoint(&in->local, "192.0.2.2:443");
        assert_left(&stream, "GET / HTTP/1.1\r\n");
        proxy_protocol_in_free(&in);
        assert_null(in);
        close_stream(&stream);
    }
}

static void test_texts_outlive_the_reading(void **state)
{
    (void)state;
    struct stream stream;
    uint8_t bytes[256];
    open_stream(&stream, false);
    size_t length =
        from_hex(V2_SIGNATURE "21 11 0020 c0000201 c0000202 c350 01bb 01 0002 6832 02 0005 612e636f6d 05 0004"
                              "69642d37",
                 bytes, sizeof bytes);
    assert_int_equal(write(stream.pair[1], bytes, length), length);
    struct proxy_protocol_in *in = read_until(&stream, rig_limit());
    assert_non_null(in);
    assert_int_equal(in->version, 2);
    assert_int_equal(in->header.authority.length, 5);
    assert_memory_equal(in->header.authority.bytes, "a.com", 5);
    assert_memory_equal(in->header.protocol.bytes, "h2", 2);
    assert_memory_equal(in->header.unique_id.bytes, "id-7", 4);
    assert_endpoint(&in->client, "192.0.2.1:50000");
    proxy_protocol_in_free(&in);
    close_stream(&stream);
}

static void test_a_header_without_addresses_leaves_the_endpoints_empty(void **state)
{
    (void)state;
    static const char *const headers[] = {"20 00 0000", "20 11 000c c0000201 c0000202 c350 01bb", "21 00 0000"};
    for (size_t i = 0; i < ARRAY_LENGTH(headers); i++) {
        struct stream stream;
        uint8_t bytes[64];
        char hex[128];
        open_stream(&stream, false);
        (void)snprintf(hex, sizeof hex, V2_SIGNATURE "%s", headers[i]);
        size_t length = from_hex(hex, bytes, sizeof bytes);
        assert_int_equal(write(stream.pair[1], bytes, length), length);
        rig_write(stream.pair[1], "x");
        struct proxy_protocol_in *in = read_until(&stream, rig_limit());
        assert_non_null(in);
        assert_int_equal(in->header.is_local, i < 2);
        assert_int_equal(in->client.length, 0);
        assert_int_equal(in->local.length, 0);
        assert_left(&stream, "x");
        proxy_protocol_in_free(&in);
        close_stream(&stream);
    }
}

// The next byte is written when the one before it was taken.
static void *write_slowly(void *argument)
{
    const struct stream *stream = argument;
    for (const char *at = V1 "rest"; *at != '\0'; at++) {
        if (write(stream->pair[1], at, 1) != 1)
            return NULL;
        int64_t limit = deadline_after(5 * NS_PER_MS);
        while (socket_has_data(stream->pair[0]) && deadline_left(limit) > 0)
            continue;
    }
    return NULL;
}

static void test_a_header_may_come_byte_by_byte(void **state)
{
    (void)state;
    struct stream stream;
    pthread_t thread;
    open_stream(&stream, true);
    assert_int_equal(pthread_create(&thread, NULL, write_slowly, &stream), 0);
    struct proxy_protocol_in *in = read_until(&stream, rig_limit());
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_non_null(in);
    assert_endpoint(&in->client, "192.0.2.1:50000");
    assert_left(&stream, "rest");
    proxy_protocol_in_free(&in);
    close_stream(&stream);
}

static void test_a_header_that_does_not_come_in_time_ends_the_connection(void **state)
{
    (void)state;
    static const char *const parts[] = {"", "P", "PROXY TCP4 192.0.2.1", "\r\n\r\n"};
    for (size_t i = 0; i < ARRAY_LENGTH(parts); i++) {
        struct stream stream;
        open_stream(&stream, false);
        rig_write(stream.pair[1], parts[i]);
        int64_t start = clock_now();
        assert_null(read_until(&stream, deadline_after(50 * NS_PER_MS)));
        assert_in_range(clock_now() - start, 50 * NS_PER_MS, RIG_LIMIT / 2);
        assert_int_equal(stream.failure.reason, CLOSE_PROXY_HEADER_TIMEOUT);
        assert_string_equal(stream.failure.error.text, i == 0
                                                           ? "the client sent no PROXY protocol header in time"
                                                           : "the client's PROXY protocol header did not come in time");
        close_stream(&stream);
    }
}

static void test_a_client_that_leaves_is_told_apart_from_a_cut_header(void **state)
{
    (void)state;
    struct stream stream;
    open_stream(&stream, false);
    assert_int_equal(shutdown(stream.pair[1], SHUT_WR), 0);
    assert_null(read_until(&stream, rig_limit()));
    assert_int_equal(stream.failure.reason, CLOSE_CLIENT_LEFT);
    assert_int_equal(stream.failure.error.code, ERROR_NONE);
    close_stream(&stream);

    open_stream(&stream, false);
    rig_write(stream.pair[1], "PROXY TCP4 192.0.2.1");
    assert_int_equal(shutdown(stream.pair[1], SHUT_WR), 0);
    assert_null(read_until(&stream, rig_limit()));
    assert_int_equal(stream.failure.reason, CLOSE_PROXY_HEADER_INVALID);
    assert_string_equal(stream.failure.error.text, "the client closed the connection within its PROXY protocol header");
    close_stream(&stream);

    open_stream(&stream, false);
    socket_reset(stream.pair[1]);
    assert_null(read_until(&stream, rig_limit()));
    assert_int_equal(stream.failure.reason, CLOSE_CLIENT_LEFT);
    (void)close(stream.pair[0]);
}

static void test_what_is_no_header_is_named(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"GET / HTTP/1.1\r\n\r\n", "the client sent HTTP, not a PROXY protocol header"},
        {"\x16\x03\x01", "the client sent TLS, not a PROXY protocol header"},
        {"PROXY TCP4 192.0.2.1 192.0.2.2 443 99999\r\n",
         "the client sent a PROXY protocol line whose destination port is malformed"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct stream stream;
        open_stream(&stream, false);
        rig_write(stream.pair[1], cases[i][0]);
        assert_null(read_until(&stream, rig_limit()));
        assert_int_equal(stream.failure.reason, CLOSE_PROXY_HEADER_INVALID);
        assert_string_equal(stream.failure.error.text, cases[i][1]);
        close_stream(&stream);
    }
}

static void test_the_largest_header_is_read(void **state)
{
    (void)state;
    struct stream stream;
    static uint8_t bytes[PROXY_HEADER_DECODED_MAX + 1];
    size_t length = from_hex(V2_SIGNATURE "21 11 0ff0 c0000201 c0000202 c350 01bb ee 0fe1", bytes, sizeof bytes);
    memset(bytes + length, 'x', sizeof bytes - length);
    open_stream(&stream, true);
    assert_int_equal(write(stream.pair[1], bytes, sizeof bytes), sizeof bytes);
    struct proxy_protocol_in *in = read_until(&stream, rig_limit());
    assert_non_null(in);
    assert_left(&stream, "x");
    proxy_protocol_in_free(&in);
    close_stream(&stream);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_is_read_beyond_the_header),
        cmocka_unit_test(test_texts_outlive_the_reading),
        cmocka_unit_test(test_a_header_without_addresses_leaves_the_endpoints_empty),
        cmocka_unit_test(test_a_header_may_come_byte_by_byte),
        cmocka_unit_test(test_a_header_that_does_not_come_in_time_ends_the_connection),
        cmocka_unit_test(test_a_client_that_leaves_is_told_apart_from_a_cut_header),
        cmocka_unit_test(test_what_is_no_header_is_named),
        cmocka_unit_test(test_the_largest_header_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
