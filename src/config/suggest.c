#include "suggest.h"

#include <stdio.h>
#include <string.h>

#include "bitflow/base/compiler.h"

#define LONGEST 32 // no key or word is longer

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

size_t suggest_distance(const char *a, const char *b, size_t limit)
{
    size_t a_length = strnlen(a, LONGEST + 1);
    size_t b_length = strnlen(b, LONGEST + 1);
    if (a_length > LONGEST || b_length > LONGEST)
        return limit;
    // cost[i][j]: from the first i of a to the first j of b.
    unsigned char cost[LONGEST + 1][LONGEST + 1];
    for (size_t i = 0; i <= a_length; i++)
        cost[i][0] = (unsigned char)i;
    for (size_t j = 0; j <= b_length; j++)
        cost[0][j] = (unsigned char)j;
    for (size_t i = 1; i <= a_length; i++) {
        for (size_t j = 1; j <= b_length; j++) {
            size_t best = cost[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0U : 1U);
            best = least(best, least(cost[i - 1][j], cost[i][j - 1]) + 1U);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = least(best, cost[i - 2][j - 2] + 1U);
            cost[i][j] = (unsigned char)best;
        }
    }
    return least(cost[a_length][b_length], limit);
}

// Two slips are likely in a long word; in a short one they would make it any other.
static size_t slips_allowed(const char *word)
{
    size_t length = strlen(word);
    return length <= 3 ? 1 : 2;
}

// Keys and words are in lower case. What is too long for one is left as it is.
static const char *lower(const char *text, char out[LONGEST + 1])
{
    size_t length = strnlen(text, LONGEST + 1);
    if (length > LONGEST)
        return text;
    for (size_t i = 0; i <= length; i++)
        out[i] = (char)(text[i] >= 'A' && text[i] <= 'Z' ? text[i] - 'A' + 'a' : text[i]);
    return out;
}

// What HAProxy, nginx, stunnel, OpenSSL and syslog call it.
static const struct {
    const char *foreign;
    const char *word;
} synonyms[] = {
    {"leastconn", "least-connections"},
    {"least_conn", "least-connections"},
    {"least-conn", "least-connections"},
    {"round_robin", "round-robin"},
    {"rr", "round-robin"},
    {"first", "failover"},
    {"prio", "failover"},
    {"priority", "failover"},
    {"backup", "failover"},
    {"ssl_preread", "sni"},
    {"warning", "warn"},
    {"notice", "info"},
    {"trace", "debug"},
    {"err", "error"},
    {"crit", "error"},
    {"critical", "error"},
    {"fatal", "error"},
    {"text", "logfmt"},
    {"required", "strict"},
    {"require", "strict"},
    {"optional", "relaxed"},
    {"tlsv1.2", "1.2"},
    {"tlsv1.3", "1.3"},
    {"tls1.2", "1.2"},
    {"tls1.3", "1.3"},
};

static const char *find_word(const char *text, const struct schema_word *words)
{
    for (; words->word != NULL; words++)
        if (strcmp(words->word, text) == 0)
            return words->word;
    return NULL;
}

static const char *find_synonym(const char *text, const struct schema_word *words)
{
    for (size_t i = 0; i < ARRAY_LENGTH(synonyms); i++) {
        const char *word = strcmp(synonyms[i].foreign, text) == 0 ? find_word(synonyms[i].word, words) : NULL;
        if (word != NULL)
            return word;
    }
    return NULL;
}

const char *suggest_word(const char *text, const struct schema_word *words)
{
    char lowered[LONGEST + 1];
    text = lower(text, lowered);
    const char *nearest = find_synonym(text, words);
    if (nearest != NULL)
        return nearest;
    size_t nearest_distance = LONGEST;
    for (; words->word != NULL; words++) {
        size_t distance = suggest_distance(text, words->word, LONGEST);
        if (distance <= slips_allowed(words->word) && distance < nearest_distance) {
            nearest = words->word;
            nearest_distance = distance;
        }
    }
    return nearest;
}

struct search {
    const char *key;
    char *out;
    size_t used;
    unsigned found;
};

static void look_elsewhere(void *context, const char *path, const struct schema_row *row)
{
    struct search *search = context;
    if (strcmp(row->key, search->key) != 0 || search->found == 4)
        return;
    const char *before = search->found == 0 ? "it belongs at " : " or ";
    int more = snprintf(search->out + search->used, SUGGESTION_SIZE - search->used, "%s%s", before, path);
    if (more > 0 && (size_t)more < SUGGESTION_SIZE - search->used)
        search->used += (size_t)more;
    search->found++;
}

void suggest_key(const char *key, const struct schema_object *object, char out[SUGGESTION_SIZE])
{
    out[0] = '\0';
    char lowered[LONGEST + 1];
    key = lower(key, lowered);
    const char *nearest = NULL;
    size_t nearest_distance = LONGEST;
    for (size_t i = 0; i < object->row_count; i++) {
        size_t distance = suggest_distance(key, object->rows[i].key, LONGEST);
        if (distance <= slips_allowed(object->rows[i].key) && distance < nearest_distance) {
            nearest = object->rows[i].key;
            nearest_distance = distance;
        }
    }
    if (nearest != NULL) {
        (void)snprintf(out, SUGGESTION_SIZE, "did you mean %s?", nearest);
        return;
    }
    struct search search = {.key = key, .out = out};
    schema_walk(look_elsewhere, &search);
}
