#include "bitflow/telemetry/prometheus.h"

#include <stdlib.h>
#include <string.h>

#include "bitflow/base/compiler.h"
#include "bitflow/base/text.h"

#define FIRST_SIZE ((size_t)16 * 1024)
#define MICROSECOND_DECIMALS 6

static const char *const type_names[] = {
    [PROMETHEUS_COUNTER] = "counter", [PROMETHEUS_GAUGE] = "gauge", [PROMETHEUS_HISTOGRAM] = "histogram"};

// --- names

static const char *base_unit(const char *unit)
{
    static const struct {
        const char *unit, *base;
    } units[] = {{"ms", "seconds"}, {"s", "seconds"}, {"days", "seconds"}, {"bytes", "bytes"}};
    for (size_t i = 0; i < ARRAY_LENGTH(units); i++)
        if (strcmp(unit, units[i].unit) == 0)
            return units[i].base;
    return NULL;
}

struct name {
    char *out;
    size_t length;
};

static bool is_word(const char *at, size_t length, const char *word)
{
    return word != NULL && strlen(word) == length && memcmp(at, word, length) == 0;
}

// The patterns are constants, of which a test knows that they fit.
static void add_word(struct name *name, const char *at, size_t length)
{
    if (name->length + 1 + length >= PROMETHEUS_NAME_SIZE)
        return;
    if (name->length > 0)
        name->out[name->length++] = '_';
    memcpy(name->out + name->length, at, length);
    name->length += length;
    name->out[name->length] = '\0';
}

void prometheus_name(const char *pattern, enum prometheus_type type, const char *unit, char out[PROMETHEUS_NAME_SIZE])
{
    const char *base = base_unit(unit);
    bool has_unit = base == NULL;
    struct name name = {.out = out};
    add_word(&name, "bitflow", strlen("bitflow"));
    for (const char *at = pattern; *at != '\0';) {
        size_t length = strcspn(at, "._");
        bool is_label = *at == '{';
        if (is_label)
            length = strcspn(at, "}") + 1;
        bool is_old_unit = base != NULL && is_word(at, length, unit) && !is_word(at, length, base);
        has_unit = has_unit || is_word(at, length, base);
        if (!is_label && !is_old_unit)
            add_word(&name, at, length);
        at += length;
        at += *at != '\0';
    }
    if (!has_unit)
        add_word(&name, base, strlen(base));
    if (type == PROMETHEUS_COUNTER)
        add_word(&name, "total", strlen("total"));
}

// --- the page

void prometheus_begin(struct prometheus_page *page)
{
    *page = (struct prometheus_page){.text = NULL};
}

static bool make_room(struct prometheus_page *page, size_t count)
{
    size_t size = page->size == 0 ? FIRST_SIZE : page->size;
    if (page->has_failed)
        return false;
    while (size - page->length <= count)
        size *= 2;
    if (size == page->size)
        return true;
    char *grown = realloc(page->text, size);
    if (grown == NULL) {
        page->has_failed = true;
        return false;
    }
    page->text = grown;
    page->size = size;
    return true;
}

static void put_bytes(struct prometheus_page *page, const char *bytes, size_t count)
{
    if (!make_room(page, count))
        return;
    memcpy(page->text + page->length, bytes, count);
    page->length += count;
    page->text[page->length] = '\0';
}

static void put(struct prometheus_page *page, const char *text)
{
    put_bytes(page, text, strlen(text));
}

// A backslash and a newline are escaped everywhere, quotes in a label's value alone.
static void put_escaped(struct prometheus_page *page, const char *text, const char *special)
{
    while (*text != '\0') {
        size_t plain = strcspn(text, special);
        put_bytes(page, text, plain);
        text += plain;
        if (*text == '\0')
            return;
        put(page, *text == '\n' ? "\\n" : *text == '"' ? "\\\"" : "\\\\");
        text++;
    }
}

static void put_number(struct prometheus_page *page, uint64_t value, unsigned decimals)
{
    char text[TEXT_DECIMAL_MAX + 1];
    char *end = text + sizeof text;
    char *begin = text_decimal(end, value, decimals + 1);
    char *point = end - decimals;
    put_bytes(page, begin, (size_t)(point - begin));
    while (end > point && end[-1] == '0')
        end--;
    if (end == point)
        return;
    put(page, ".");
    put_bytes(page, point, (size_t)(end - point));
}

void prometheus_family(struct prometheus_page *page, const char *name, enum prometheus_type type, const char *help)
{
    size_t length = strnlen(name, sizeof page->family - 1);
    memcpy(page->family, name, length);
    page->family[length] = '\0';
    page->type = type;
    page->help = help;
    page->has_samples = false;
}

static void put_family(struct prometheus_page *page)
{
    if (page->has_samples)
        return;
    page->has_samples = true;
    put(page, "# HELP ");
    put(page, page->family);
    put(page, " ");
    put_escaped(page, page->help, "\\\n");
    put(page, "\n# TYPE ");
    put(page, page->family);
    put(page, " ");
    put(page, type_names[page->type]);
    put(page, "\n");
}

static void put_label(struct prometheus_page *page, const char *key, const char *value, bool is_first)
{
    put(page, is_first ? "{" : ",");
    put(page, key);
    put(page, "=\"");
    put_escaped(page, value, "\\\"\n");
    put(page, "\"");
}

// `bound`: of a bucket, in microseconds, 0: none. NULL: it is not a bucket.
static void begin_sample(struct prometheus_page *page, const char *suffix, const struct metric_name *labels,
                         const uint64_t *bound)
{
    put_family(page);
    put(page, page->family);
    put(page, suffix);
    for (size_t i = 0; i < labels->label_count; i++)
        put_label(page, labels->labels[i].key, labels->labels[i].value, i == 0);
    if (bound != NULL) {
        put(page, labels->label_count == 0 ? "{le=\"" : ",le=\"");
        if (*bound == 0)
            put(page, "+Inf");
        else
            put_number(page, *bound, MICROSECOND_DECIMALS);
        put(page, "\"");
    }
    put(page, labels->label_count > 0 || bound != NULL ? "} " : " ");
}

void prometheus_sample(struct prometheus_page *page, const struct metric_name *labels, uint64_t value,
                       unsigned decimals)
{
    begin_sample(page, "", labels, NULL);
    put_number(page, value, decimals);
    put(page, "\n");
}

// How many there are is what the buckets add up to: each value is in one of them, whoever counts meanwhile.
void prometheus_histogram(struct prometheus_page *page, const struct metric_name *labels,
                          const struct metric_histogram *histogram)
{
    static const uint64_t none = 0;
    uint64_t count = 0;
    uint64_t sum = atomic_load_explicit(&histogram->microseconds, memory_order_relaxed);
    for (size_t i = 0; i < METRIC_BUCKET_COUNT; i++) {
        count += atomic_load_explicit(&histogram->buckets[i], memory_order_relaxed);
        begin_sample(page, "_bucket", labels, i < METRIC_BUCKET_COUNT - 1 ? &metric_bucket_bounds[i] : &none);
        put_number(page, count, 0);
        put(page, "\n");
    }
    begin_sample(page, "_sum", labels, NULL);
    put_number(page, sum, MICROSECOND_DECIMALS);
    put(page, "\n");
    begin_sample(page, "_count", labels, NULL);
    put_number(page, count, 0);
    put(page, "\n");
}
