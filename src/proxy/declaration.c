#include "declaration.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "bitflow/base/clock.h"
#include "header_end.h"

struct reading {
    int client;
    int64_t deadline;
    size_t length; // that has been taken out of the socket
    uint8_t bytes[PROXY_HEADER_DECODED_MAX];
    enum close_reason *reason;
    struct error *error;
};

static bool end(const struct reading *reading, enum close_reason reason)
{
    *reading->reason = reason;
    return false;
}

static bool wait_for_more(const struct reading *reading)
{
    struct pollfd poller = {.fd = reading->client, .events = POLLIN};
    int ready = deadline_poll(&poller, 1, reading->deadline);
    if (ready != 0)
        return true;
    error_set(reading->error, ERROR_TIMEOUT, "%s",
              reading->length == 0 ? "the client sent no PROXY protocol header in time"
                                   : "the client's PROXY protocol header did not come in time");
    return end(reading, CLOSE_PROXY_HEADER_TIMEOUT);
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
            return end(reading, CLOSE_CLIENT_LEFT);
        error_set(reading->error, ERROR_INVALID, "the client closed the connection within its PROXY protocol header");
        return end(reading, CLOSE_PROXY_HEADER_INVALID);
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
            error_set(reading->error, ERROR_INVALID, "the client sent %s", decoded->reason);
            return end(reading, CLOSE_PROXY_HEADER_INVALID);
        }
    }
    return false;
}

// The texts of the decoded header are in `from`, those of the declaration's in its own bytes.
static void move_text(struct proxy_header_text *text, const uint8_t *from, const uint8_t *to)
{
    if (text->length > 0)
        text->bytes = to + (text->bytes - from);
}

static struct declaration *declare(const struct reading *reading, const struct proxy_header_decoded *decoded)
{
    struct declaration *declaration = malloc(sizeof *declaration + decoded->length);
    if (declaration == NULL) {
        error_set_errno(reading->error, ENOMEM, "cannot keep the client's PROXY protocol header");
        *reading->reason = CLOSE_OUT_OF_MEMORY;
        return NULL;
    }
    memcpy(declaration->bytes, reading->bytes, decoded->length);
    declaration->version = decoded->version;
    declaration->header = decoded->header;
    struct proxy_header_text *const texts[] = {&declaration->header.protocol,   &declaration->header.authority,
                                               &declaration->header.unique_id,  &declaration->header.tls.version,
                                               &declaration->header.tls.cipher, &declaration->header.tls.common_name};
    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++)
        move_text(texts[i], reading->bytes, declaration->bytes);
    endpoint_of_header_end(&declaration->header.source, &declaration->client);
    endpoint_of_header_end(&declaration->header.destination, &declaration->local);
    return declaration;
}

struct declaration *declaration_read(int client, int64_t deadline, enum close_reason *reason, struct error *error)
{
    struct reading reading; // its bytes need no zeros
    struct proxy_header_decoded decoded;
    reading.client = client;
    reading.deadline = deadline;
    reading.length = 0;
    reading.reason = reason;
    reading.error = error;
    return read_header(&reading, &decoded) ? declare(&reading, &decoded) : NULL;
}

void declaration_free(struct declaration **declaration)
{
    free(*declaration);
    *declaration = NULL;
}
