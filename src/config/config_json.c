#include "bitflow/config/config_json.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "bitflow/base/json_builder.h"
#include "duration.h"
#include "schema.h"

static json_t *json_of_object(const struct schema_object *object, const char *base);

static void load(void *value, const char *field, size_t size)
{
    memcpy(value, field, size);
}

static json_t *json_of_text(const struct schema_row *row, const char *text)
{
    return text == NULL ? json_null() : json_builder_text(row->is_secret ? "(secret)" : text);
}

// 0, where the row's range begins above it, is a key that was left out.
static json_t *json_of_integer(const struct schema_row *row, int64_t value)
{
    return value == 0 && row->min > 0 ? json_null() : json_integer(value);
}

static json_t *json_of_duration(int64_t duration)
{
    char text[DURATION_TEXT_SIZE];
    if (duration < 0)
        return json_integer(duration); // KEEPALIVE_OFF
    duration_format(duration, text);
    return json_string(text);
}

static json_t *json_of_address(const struct address *address)
{
    char text[ADDRESS_TEXT_SIZE];
    address_format(address, text);
    return json_builder_text(text);
}

static json_t *json_of_cidr(const struct cidr *cidr)
{
    char address[INET6_ADDRSTRLEN] = "", text[INET6_ADDRSTRLEN + sizeof "/128"];
    (void)inet_ntop(cidr->family, cidr->bytes, address, sizeof address);
    (void)snprintf(text, sizeof text, "%s/%u", address, cidr->prefix_bits);
    return json_string(text);
}

static json_t *json_of_peer(const struct unix_peer *peer)
{
    char text[UNIX_PEER_TEXT_SIZE];
    unix_peer_format(peer, text);
    return json_string(text);
}

static json_t *json_of_word(const struct schema_row *row, unsigned value)
{
    for (const struct schema_word *word = row->words; word->word != NULL; word++)
        if (word->value == value)
            return json_string(word->word);
    return json_null();
}

static json_t *json_of_words(const struct schema_row *row, unsigned bits)
{
    struct json_builder list = json_builder_array();
    for (const struct schema_word *word = row->words; word->word != NULL; word++)
        if ((bits & word->value) == word->value)
            json_builder_append(&list, json_string(word->word));
    return json_builder_finish(&list);
}

static json_t *json_of_list(const struct schema_row *row, const char *base)
{
    struct json_builder list = json_builder_array();
    const char *items;
    size_t count;
    load(&items, base + row->offset, sizeof items);
    load(&count, base + row->count_offset, sizeof count);
    for (size_t i = 0; i < count; i++) {
        struct cidr cidr;
        struct unix_peer peer;
        const char *text;
        if (row->type == SCHEMA_OBJECTS) {
            json_builder_append(&list, json_of_object(row->object, items + i * row->object->size));
        } else if (row->type == SCHEMA_CIDRS) {
            load(&cidr, items + i * sizeof cidr, sizeof cidr);
            json_builder_append(&list, json_of_cidr(&cidr));
        } else if (row->type == SCHEMA_PEERS) {
            load(&peer, items + i * sizeof peer, sizeof peer);
            json_builder_append(&list, json_of_peer(&peer));
        } else {
            load(&text, items + i * sizeof text, sizeof text);
            json_builder_append(&list, json_of_text(row, text));
        }
    }
    return json_builder_finish(&list);
}

// Of one value, at its field.
static json_t *json_of_scalar(const struct schema_row *row, const char *field)
{
    const char *text;
    struct named_file file;
    bool flag;
    int64_t number;
    unsigned word;
    struct address address;
    switch (row->type) {
    case SCHEMA_NAMED_FILE:
        load(&file, field, sizeof file);
        return json_of_text(row, file.path);
    case SCHEMA_BOOL:
        load(&flag, field, sizeof flag);
        return json_boolean(flag);
    case SCHEMA_INTEGER:
        load(&number, field, sizeof number);
        return json_of_integer(row, number);
    case SCHEMA_DURATION:
    case SCHEMA_DURATION_OR_OFF:
        load(&number, field, sizeof number);
        return json_of_duration(number);
    case SCHEMA_LISTEN_ADDRESS:
    case SCHEMA_TARGET_ADDRESS:
        load(&address, field, sizeof address);
        return json_of_address(&address);
    case SCHEMA_ENUM:
        load(&word, field, sizeof word);
        return json_of_word(row, word);
    case SCHEMA_WORDS:
        load(&word, field, sizeof word);
        return json_of_words(row, word);
    default:
        load(&text, field, sizeof text);
        return json_of_text(row, text);
    }
}

static json_t *json_of_row(const struct schema_row *row, const char *base)
{
    const char *object;
    switch (row->type) {
    case SCHEMA_OBJECT:
        return json_of_object(row->object, base + row->offset);
    case SCHEMA_OPTIONAL_OBJECT:
        load(&object, base + row->offset, sizeof object);
        return object == NULL ? json_null() : json_of_object(row->object, object);
    case SCHEMA_OBJECTS:
    case SCHEMA_CIDRS:
    case SCHEMA_PEERS:
    case SCHEMA_STRINGS:
        return json_of_list(row, base);
    default:
        return json_of_scalar(row, base + row->offset);
    }
}

static json_t *json_of_object(const struct schema_object *object, const char *base)
{
    struct json_builder json = json_builder_object();
    for (size_t i = 0; i < object->row_count; i++) {
        json_t *value = json_of_row(&object->rows[i], base);
        bool is_left_out = json_is_null(value) || (json_is_array(value) && json_array_size(value) == 0);
        if (is_left_out)
            json_decref(value);
        else
            json_builder_set(&json, object->rows[i].key, value);
    }
    return json_builder_finish(&json);
}

json_t *config_json(const struct config *config)
{
    return json_of_object(&schema_root, (const char *)config);
}
