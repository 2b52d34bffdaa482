#include "proxy_protocol_in.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "../proxy_address.h"
#include "bitflow/base/clock.h"

struct reading {
    int client;
    int64_t deadline;
    size_t length; // that has been taken out of the socket
    uint8_t bytes[PROXY_HEADER_DECODED_MAX];
    struct failure *failure;
};

static bool wait_for_more(const struct reading *reading)
{
    struct pollfd poller = {.fd = reading->client, .events = POLLIN};
    int ready = deadline_poll(&poller, 1, reading->deadline);
    if (ready != 0)
        return true;
    error_set(&reading->failure->error, ERROR_TIMEOUT, "%s",
              reading->length == 0 ? "the client sent no PROXY protocol header in time"
                                   : "the client's PROXY protocol header did not come in time");
    return failed_with(reading->failure, CLOSE_PROXY_HEADER_TIMEOUT);
}

// What is there, without taking it, behind what was taken. False: nothing more comes.
static bool look(struct reading *reading, size_t *seen)
{
    for (;;) {
        if (!wait_for_more(reading))
            return false;
        ssize_t got = recv(reading->client, reading->bytes + reading->length, sizeof reading->bytes - reading->length,
                           MSG_PEEK | MSG_DONTWAIT);
        if (got > 0) {
            *seen = (size_t)got;
            return true;
        }
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (reading->length == 0)
            return failed_with(reading->failure, CLOSE_CLIENT_LEFT);
        error_set(&reading->failure->error, ERROR_INVALID,
                  "the client closed the connection within its PROXY protocol header");
        return failed_with(reading->failure, CLOSE_PROXY_HEADER_INVALID);
    }
}

// Takes bytes that have been looked at.
static void take(struct reading *reading, size_t count)
{
    while (count > 0) {
        ssize_t got = recv(reading->client, reading->bytes + reading->length, count, MSG_DONTWAIT);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return; // they were there, and nobody else reads; the next look will tell
        reading->length += (size_t)got;
        count -= (size_t)got;
    }
}

static bool read_header(struct reading *reading, struct proxy_header_decoded *decoded)
{
    size_t seen;
    while (look(reading, &seen)) {
        switch (proxy_header_decode(reading->bytes, reading->length + seen, decoded)) {
        case PROXY_HEADER_COMPLETE:
            take(reading, decoded->length - reading->length);
            return true;
        case PROXY_HEADER_NEEDS_MORE:
            take(reading, seen); // all of it is the header's
            break;
        case PROXY_HEADER_INVALID:
            error_set(&reading->failure->error, ERROR_INVALID, "the client sent %s", decoded->reason);
            return failed_with(reading->failure, CLOSE_PROXY_HEADER_INVALID);
        }
    }
    return false;
}

// The texts of the decoded header are in `from`, those of the result in its own bytes.
static void move_text(struct proxy_header_text *text, const uint8_t *from, const uint8_t *to)
{
    if (text->length > 0)
        text->bytes = to + (text->bytes - from);
}

static struct proxy_protocol_in *declare(const struct reading *reading, const struct proxy_header_decoded *decoded)
{
    struct proxy_protocol_in *in = malloc(sizeof *in + decoded->length);
    if (in == NULL) {
        error_set_errno(&reading->failure->error, ENOMEM, "cannot keep the client's PROXY protocol header");
        (void)failed_with(reading->failure, CLOSE_OUT_OF_MEMORY);
        return NULL;
    }
    memcpy(in->bytes, reading->bytes, decoded->length);
    in->version = decoded->version;
    in->header = decoded->header;
    struct proxy_header_text *const texts[] = {
        &in->header.protocol,   &in->header.authority,       &in->header.unique_id, &in->header.tls.version,
        &in->header.tls.cipher, &in->header.tls.common_name, &in->header.fields};
    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++)
        move_text(texts[i], reading->bytes, in->bytes);
    endpoint_of_proxy_address(&in->header.source, &in->client);
    endpoint_of_proxy_address(&in->header.destination, &in->local);
    return in;
}

struct proxy_protocol_in *proxy_protocol_in_read(int client, int64_t deadline, struct failure *failure)
{
    struct reading reading; // its bytes need no zeros
    struct proxy_header_decoded decoded;
    reading.client = client;
    reading.deadline = deadline;
    reading.length = 0;
    reading.failure = failure;
    return read_header(&reading, &decoded) ? declare(&reading, &decoded) : NULL;
}

void proxy_protocol_in_free(struct proxy_protocol_in **in)
{
    free(*in);
    *in = NULL;
}
