#include "bitflow/base/json_builder.h"

#include <stdlib.h>
#include <string.h>

#include "bitflow/base/clock.h"

struct json_builder json_builder_object(void)
{
    return (struct json_builder){.object = json_object(), .is_complete = true};
}

struct json_builder json_builder_array(void)
{
    return (struct json_builder){.object = json_array(), .is_complete = true};
}

void json_builder_set(struct json_builder *json, const char *key, json_t *value)
{
    if (json_object_set_new_nocheck(json->object, key, value) != 0) // also if either is NULL
        json->is_complete = false;
}

void json_builder_append(struct json_builder *json, json_t *value)
{
    if (json_array_append_new(json->object, value) != 0)
        json->is_complete = false;
}

json_t *json_builder_finish(struct json_builder *json)
{
    if (json->is_complete && json->object != NULL)
        return json->object;
    json_decref(json->object);
    return NULL;
}

static json_t *without_bad_bytes(const char *text)
{
    char *copy = strdup(text);
    if (copy == NULL)
        return NULL;
    for (char *at = copy; *at != '\0'; at++)
        if ((unsigned char)*at >= 0x80)
            *at = '?';
    json_t *value = json_string(copy);
    free(copy);
    return value;
}

json_t *json_builder_text(const char *text)
{
    if (text == NULL)
        return json_null();
    json_t *value = json_string(text);
    return value != NULL ? value : without_bad_bytes(text);
}

void json_builder_set_text(struct json_builder *json, const char *key, const char *text)
{
    if (text != NULL)
        json_builder_set(json, key, json_builder_text(text));
}

json_t *json_builder_time(int64_t wall)
{
    char text[CLOCK_RFC3339_SIZE];
    clock_format_rfc3339(wall, text);
    return json_string(text);
}
