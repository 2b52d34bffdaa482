#include "bitflow/proxy/connection_view.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/base/clock.h"
#include "record_fields.h"

// Rendering one takes one or two microseconds.
#define VISIT_BATCH 8

#define BYTES_EXPECTED ((size_t)768) // of one connection

static const struct connection *connection_of(const struct registry_entry *entry)
{
    return (const struct connection *)((const char *)entry - offsetof(struct connection, entry));
}

// ---- one connection

// While it is dialled, only which target it is.
static void put_target(struct json_line *line, const struct upstream *upstream, bool is_connected)
{
    const struct target *target = upstream->target;
    if (is_connected || target == NULL) {
        record_target(line, "target", upstream);
        return;
    }
    json_line_begin_object(line, "target");
    record_text(line, "name", target->settings->name);
    record_address(line, "address", &target->settings->address);
    json_line_null(line, "via");
    json_line_end_object(line);
}

static void put_progress(struct json_line *line, const struct connection *connection, enum phase current)
{
    const struct phases *phases = &connection->phases;
    const struct phase_row *phase = &phase_rows[current];
    const struct phase_row *step = &phase_rows[atomic_load_explicit(&phases->step, memory_order_relaxed)];
    enum close_reason reason = atomic_load(&connection->entry.settled_reason);
    int64_t now = clock_now();
    record_text(line, "phase", phase->name);
    record_text(line, "step", strcmp(step->name, phase->name) == 0 ? step->step : NULL);
    json_line_milliseconds(line, "total_ms", now - phases->started);
    json_line_milliseconds(line, "phase_ms", now - atomic_load_explicit(&phases->since, memory_order_relaxed));
    for (enum relay_side side = RELAY_CLIENT; side <= RELAY_TARGET; side++)
        json_line_integer(line, side == RELAY_CLIENT ? "bytes_from_client" : "bytes_from_target",
                          (int64_t)atomic_load_explicit(&connection->relay.sockets[side].bytes, memory_order_relaxed));
    record_text(line, "reason", reason == CLOSE_NONE ? NULL : close_reason_name(reason));
}

static void put_details(struct json_line *line, const struct connection *connection, bool is_admitted,
                        bool is_connected)
{
    const int fds[] = {[RELAY_CLIENT] = connection->entry.client, [RELAY_TARGET] = connection->entry.target};
    struct connection_sockets sockets = {.has_tcp = {false, false}};
    for (size_t i = 0; i < ARRAY_LENGTH(fds); i++)
        sockets.has_tcp[i] = fds[i] >= 0 && tcp_path_info_of(fds[i], &sockets.tcp[i]);
    if (is_admitted) {
        struct endpoint local;
        client_local_address(&connection->client, &local);
        endpoint_format(&local, sockets.local);
        record_text(line, "local", sockets.local);
        record_header(line, "proxy_header", &connection->client);
    } else {
        json_line_null(line, "local");
        json_line_null(line, "proxy_header");
    }
    if (is_connected)
        json_line_integer(line, "attempts", connection->upstream.attempts);
    else
        json_line_null(line, "attempts");
    record_tcp(line, "client_tcp", &sockets, RELAY_CLIENT);
    record_tcp(line, "target_tcp", &sockets, RELAY_TARGET);
}

// Names are those of the connection log's records.
static void render(const struct connection *connection, bool is_whole, struct json_line *line)
{
    enum phase current = atomic_load_explicit(&connection->phases.current, memory_order_acquire);
    const struct client *client = &connection->client;
    bool is_admitted = current >= PHASE_DIALLING, is_connected = current >= PHASE_RELAYING;
    const struct tls_session *tls[] = {[RELAY_CLIENT] = is_admitted ? client->tls : NULL,
                                       [RELAY_TARGET] = is_connected ? connection->upstream.tls : NULL};
    char address[ENDPOINT_TEXT_SIZE];
    endpoint_format(is_admitted ? client_address(client) : &client->peer, address);
    json_line_begin(line);
    json_line_integer(line, "id", (int64_t)connection->id);
    record_text(line, "proxy", connection->generation->proxy->name);
    json_line_time(line, "start", connection->start_wall);
    record_text(line, "client", address);
    record_text(line, "sni", is_admitted ? client->server_name : NULL);
    record_tls(line, "client_tls", tls[RELAY_CLIENT], &connection->relay.sockets[RELAY_CLIENT]);
    record_client_identity(line, client, tls[RELAY_CLIENT]);
    put_target(line, &connection->upstream, is_connected);
    record_tls(line, "target_tls", tls[RELAY_TARGET], &connection->relay.sockets[RELAY_TARGET]);
    record_target_identity(line, tls[RELAY_TARGET]);
    put_progress(line, connection, current);
    if (is_whole)
        put_details(line, connection, is_admitted, is_connected);
    json_line_end(line);
}

// Between its newlines.
static const char *object_of(const struct json_line *line, size_t *length)
{
    *length = line->length - 2;
    return line->text + 1;
}

// ---- a page of them

// The lowest ids above query->after, at most as many as a page has: a heap with the highest of them on top.
struct lowest_ids {
    const struct connection_query *query;
    uint64_t *ids;
    size_t count;
    bool are_more; // than a page has
};

static void swap(uint64_t *a, uint64_t *b)
{
    uint64_t kept = *a;
    *a = *b;
    *b = kept;
}

static void sink(struct lowest_ids *lowest)
{
    uint64_t *ids = lowest->ids;
    for (size_t at = 0;;) {
        size_t highest = at;
        for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < lowest->count; child++)
            highest = ids[child] > ids[highest] ? child : highest;
        if (highest == at)
            return;
        swap(&ids[at], &ids[highest]);
        at = highest;
    }
}

static void rise(struct lowest_ids *lowest)
{
    uint64_t *ids = lowest->ids;
    for (size_t at = lowest->count - 1; at > 0 && ids[(at - 1) / 2] < ids[at]; at = (at - 1) / 2)
        swap(&ids[at], &ids[(at - 1) / 2]);
}

static bool is_asked_for(const struct connection *connection, const struct connection_query *query)
{
    return connection->id > query->after &&
           (query->proxy == NULL || strcmp(connection->generation->proxy->name, query->proxy) == 0);
}

static void note_id(struct registry_entry *entry, void *argument)
{
    struct lowest_ids *lowest = argument;
    const struct connection *connection = connection_of(entry);
    if (!is_asked_for(connection, lowest->query))
        return;
    if (lowest->count < lowest->query->limit) {
        lowest->ids[lowest->count++] = connection->id;
        rise(lowest);
        return;
    }
    lowest->are_more = true;
    if (connection->id < lowest->ids[0]) {
        lowest->ids[0] = connection->id;
        sink(lowest);
    }
}

struct rendered {
    uint64_t id;
    size_t at, length; // in the text
};

struct rendering {
    const struct connection_query *query;
    uint64_t last; // the page's highest id
    struct rendered *list;
    size_t count;
    char *text;
    size_t length, size;
    bool has_failed;
};

static bool make_room(struct rendering *rendering, size_t more)
{
    if (more <= rendering->size - rendering->length)
        return true;
    size_t size = 2 * (rendering->size + more);
    char *text = realloc(rendering->text, size);
    if (text == NULL)
        return false;
    rendering->text = text;
    rendering->size = size;
    return true;
}

static void note_connection(struct registry_entry *entry, void *argument)
{
    struct rendering *rendering = argument;
    const struct connection *connection = connection_of(entry);
    struct json_line line;
    if (rendering->has_failed || rendering->count == rendering->query->limit || connection->id > rendering->last ||
        !is_asked_for(connection, rendering->query))
        return;
    render(connection, false, &line);
    size_t length;
    const char *object = line.text == NULL ? NULL : object_of(&line, &length);
    if (object != NULL && make_room(rendering, length)) {
        memcpy(rendering->text + rendering->length, object, length);
        rendering->list[rendering->count++] =
            (struct rendered){.id = connection->id, .at = rendering->length, .length = length};
        rendering->length += length;
    } else {
        rendering->has_failed = true;
    }
    json_line_release(&line);
}

static int compare_ids(const void *a, const void *b)
{
    uint64_t left = ((const struct rendered *)a)->id, right = ((const struct rendered *)b)->id;
    return left < right ? -1 : left > right;
}

// The array, in the order of the ids. One that was visited twice is told once.
static bool assemble(struct rendering *rendering, struct connection_page *page)
{
    char *text = malloc(rendering->length + rendering->count + sizeof "[]");
    if (text == NULL)
        return false;
    char *at = text;
    uint64_t before = 0;
    *page = (struct connection_page){.text = text};
    if (rendering->count > 0)
        qsort(rendering->list, rendering->count, sizeof *rendering->list, compare_ids);
    *at++ = '[';
    for (size_t i = 0; i < rendering->count; i++) {
        const struct rendered *rendered = &rendering->list[i];
        if (rendered->id == before)
            continue;
        if (before != 0)
            *at++ = ',';
        at = mempcpy(at, rendering->text + rendered->at, rendered->length);
        before = rendered->id;
        page->count++;
    }
    *at++ = ']';
    *at = '\0';
    page->length = (size_t)(at - text);
    return true;
}

bool connection_view_page(struct registry *registry, const struct connection_query *query, struct connection_page *page)
{
    struct lowest_ids lowest = {.query = query, .ids = calloc(query->limit, sizeof *lowest.ids)};
    if (lowest.ids != NULL)
        registry_visit(registry, REGISTRY_VISIT_BATCH, note_id, &lowest);
    struct rendering rendering = {
        .query = query,
        .last = lowest.count > 0 ? lowest.ids[0] : 0,
        .list = calloc(query->limit, sizeof *rendering.list),
        .size = (lowest.count + 1) * BYTES_EXPECTED,
    };
    rendering.text = malloc(rendering.size);
    bool is_good = lowest.ids != NULL && rendering.list != NULL && rendering.text != NULL;
    if (is_good && lowest.count > 0)
        registry_visit(registry, VISIT_BATCH, note_connection, &rendering);
    is_good = is_good && !rendering.has_failed && assemble(&rendering, page);
    if (is_good && lowest.are_more)
        page->next = rendering.last;
    free(lowest.ids);
    free(rendering.list);
    free(rendering.text);
    return is_good;
}

// ---- one of them

struct search {
    uint64_t id;
    enum connection_found found;
    struct json_line line; // for connection_view_one()
};

static void describe(struct registry_entry *entry, void *argument)
{
    struct search *search = argument;
    const struct connection *connection = connection_of(entry);
    if (connection->id != search->id || search->found == CONNECTION_FOUND)
        return;
    render(connection, true, &search->line);
    search->found = CONNECTION_FOUND;
}

enum connection_found connection_view_one(struct registry *registry, uint64_t id, char **text, size_t *length)
{
    struct search search = {.id = id, .found = CONNECTION_NOT_FOUND};
    registry_visit(registry, REGISTRY_VISIT_BATCH, describe, &search);
    if (search.found == CONNECTION_NOT_FOUND)
        return CONNECTION_NOT_FOUND;
    const char *object = search.line.text == NULL ? NULL : object_of(&search.line, length);
    *text = object == NULL ? NULL : strndup(object, *length);
    json_line_release(&search.line);
    return *text == NULL ? CONNECTION_NO_MEMORY : CONNECTION_FOUND;
}

static void end(struct registry_entry *entry, void *argument)
{
    struct search *search = argument;
    if (connection_of(entry)->id != search->id || atomic_load(&entry->settled_reason) != CLOSE_NONE)
        return;
    registry_end(entry, CLOSE_ENDED_BY_OPERATOR);
    search->found = CONNECTION_FOUND;
}

bool connection_view_end(struct registry *registry, uint64_t id)
{
    struct search search = {.id = id, .found = CONNECTION_NOT_FOUND};
    registry_visit(registry, REGISTRY_VISIT_BATCH, end, &search);
    return search.found == CONNECTION_FOUND;
}
