#include "sender.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <zlib.h>

#include "bitflow/base/compiler.h"
#include "bitflow/version.h"

#define DEADLINE_LOOK_MS 100 // how often a request looks whether it is given up

bool sentry_dsn_parse(const char *dsn, struct sentry_dsn *out, struct error *error)
{
    const char *scheme_end = strstr(dsn, "://");
    const char *key = scheme_end == NULL ? NULL : scheme_end + strlen("://");
    const char *at = key == NULL ? NULL : strchr(key, '@');
    const char *path = at == NULL ? NULL : strchr(at, '/');
    if (path == NULL || strlen(dsn) >= SENTRY_DSN_SIZE || strrchr(path, '/')[1] == '\0') {
        error_set(error, ERROR_INVALID, "not a Sentry DSN");
        return false;
    }
    const char *project = strrchr(path, '/') + 1;
    // A second part, the secret, is of a time before 2017.
    (void)snprintf(out->key, sizeof out->key, "%.*s", (int)strcspn(key, ":@"), key);
    (void)snprintf(out->url, sizeof out->url, "%.*s%.*sapi/%s/envelope/", (int)(key - dsn), dsn,
                   (int)(project - (at + 1)), at + 1, project);
    return true;
}

bool sentry_sender_prepare(struct error *error)
{
    static bool is_prepared;
    if (!is_prepared)
        is_prepared = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
    if (!is_prepared)
        error_set(error, ERROR_SYSTEM, "libcurl cannot start");
    return is_prepared;
}

void sentry_sender_init(struct sentry_sender *sender)
{
    sender->multi = NULL;
    sender->curl = NULL;
    atomic_init(&sender->deadline, DEADLINE_NONE);
}

bool sentry_sender_is_open(const struct sentry_sender *sender)
{
    return sender->multi != NULL || sender->curl != NULL;
}

void sentry_sender_close(struct sentry_sender *sender)
{
    curl_easy_cleanup(sender->curl);
    sender->curl = NULL;
    if (sender->multi != NULL)
        (void)curl_multi_cleanup(sender->multi);
    sender->multi = NULL;
}

// What is missing of the two. False: out of memory.
static bool open_sender(struct sentry_sender *sender)
{
    if (sender->multi == NULL)
        sender->multi = curl_multi_init();
    if (sender->curl == NULL)
        sender->curl = curl_easy_init();
    return sender->multi != NULL && sender->curl != NULL;
}

// ---- gzip

// NULL: out of memory. To be freed.
static unsigned char *compress_envelope(const char *envelope, size_t length, size_t *compressed)
{
    enum { GZIP = 16 }; // added to the size of the window
    z_stream stream = {.next_in = (unsigned char *)envelope, .avail_in = (unsigned)length};
    if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, MAX_WBITS + GZIP, MAX_MEM_LEVEL - 1,
                     Z_DEFAULT_STRATEGY) != Z_OK)
        return NULL;
    size_t room = deflateBound(&stream, (unsigned long)length);
    unsigned char *out = malloc(room);
    stream.next_out = out;
    stream.avail_out = (unsigned)room;
    bool done = out != NULL && deflate(&stream, Z_FINISH) == Z_STREAM_END;
    *compressed = stream.total_out;
    (void)deflateEnd(&stream);
    if (done)
        return out;
    free(out);
    return NULL;
}

// ---- what libcurl calls

static size_t ignore_body(const char *bytes, size_t size, size_t count, void *argument)
{
    size_t *left = argument;
    (void)bytes;
    if (size * count > *left)
        return 0; // which ends the request
    *left -= size * count;
    return size * count;
}

// "name: value\r\n"; not ended by a zero byte. The value goes behind what is in `out`; what of a list does not fit is
// left out.
static void keep_header(const char *line, size_t length, const char *name, char *out, size_t size)
{
    size_t name_length = strlen(name);
    if (length <= name_length || strncasecmp(line, name, name_length) != 0 || line[name_length] != ':')
        return;
    size_t at = name_length + 1;
    while (at < length && (line[at] == ' ' || line[at] == '\t'))
        at++;
    while (length > at && (line[length - 1] == '\r' || line[length - 1] == '\n' || line[length - 1] == ' '))
        length--;
    size_t used = strlen(out);
    int written = snprintf(out + used, size - used, "%s%.*s", used == 0 ? "" : ", ", (int)(length - at), line + at);
    char *last = (size_t)written < size - used ? NULL : strrchr(out, ',');
    if (last != NULL)
        *last = '\0';
}

static size_t note_header(char *line, size_t size, size_t count, void *argument)
{
    static const char status[] = "HTTP/";
    struct sentry_answer *answer = argument;
    size_t length = size * count;
    // A proxy's answer, or one that is not the last, may have come before.
    if (length >= sizeof status && memcmp(line, status, sizeof status - 1) == 0)
        answer->retry_after[0] = answer->rate_limits[0] = '\0';
    keep_header(line, length, "Retry-After", answer->retry_after, sizeof answer->retry_after);
    keep_header(line, length, "X-Sentry-Rate-Limits", answer->rate_limits, sizeof answer->rate_limits);
    return length;
}

// ---- a request

static bool set_transport(CURL *curl, const struct sentry_identity *identity, const struct sentry_dsn *dsn)
{
    bool is_set =
        curl_easy_setopt(curl, CURLOPT_URL, dsn->url) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 1L) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 2L) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)(SENTRY_CONNECT_TIME / NS_PER_MS)) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)(SENTRY_REQUEST_TIME / NS_PER_MS)) == CURLE_OK;
    if (is_set && *identity->authority != '\0')
        // Nothing but it is trusted then.
        is_set = curl_easy_setopt(curl, CURLOPT_CAINFO, identity->authority) == CURLE_OK &&
                 curl_easy_setopt(curl, CURLOPT_CAPATH, NULL) == CURLE_OK;
    return is_set;
}

static struct curl_slist *make_headers(const struct sentry_dsn *dsn)
{
    char authentication[SENTRY_DSN_SIZE + 128];
    (void)snprintf(authentication, sizeof authentication,
                   "X-Sentry-Auth: Sentry sentry_version=7, sentry_client=bitflow/" BITFLOW_VERSION ", sentry_key=%s",
                   dsn->key);
    // An empty Expect: the envelope goes without asking first.
    const char *const lines[] = {authentication, "Content-Type: application/x-sentry-envelope",
                                 "Content-Encoding: gzip", "Expect:"};
    struct curl_slist *headers = NULL;
    for (size_t i = 0; i < ARRAY_LENGTH(lines); i++) {
        struct curl_slist *longer = curl_slist_append(headers, lines[i]);
        if (longer == NULL) {
            curl_slist_free_all(headers);
            return NULL;
        }
        headers = longer;
    }
    return headers;
}

static bool set_request(CURL *curl, const struct curl_slist *headers, const unsigned char *body, size_t length,
                        struct sentry_answer *answer, size_t *body_left)
{
    return curl_easy_setopt(curl, CURLOPT_POST, 1L) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_USERAGENT, "bitflow/" BITFLOW_VERSION) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)length) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, ignore_body) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_WRITEDATA, body_left) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, note_header) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_HEADERDATA, answer) == CURLE_OK;
}

// Until it is over, or `deadline`. CURLE_AGAIN: it was given up.
static CURLcode transfer(CURLM *multi, const _Atomic int64_t *deadline)
{
    int running = 1;
    while (curl_multi_perform(multi, &running) == CURLM_OK && running > 0) {
        if (deadline_left(atomic_load(deadline)) == 0)
            return CURLE_AGAIN;
        if (curl_multi_poll(multi, NULL, 0, DEADLINE_LOOK_MS, NULL) != CURLM_OK)
            break;
    }
    int left;
    const CURLMsg *message = curl_multi_info_read(multi, &left);
    return message == NULL ? CURLE_OUT_OF_MEMORY : message->data.result;
}

static void perform(struct sentry_sender *sender, struct sentry_answer *answer)
{
    CURL *curl = sender->curl;
    char words[CURL_ERROR_SIZE] = "";
    CURLcode result = CURLE_OUT_OF_MEMORY;
    (void)curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, words);
    if (curl_multi_add_handle(sender->multi, curl) == CURLM_OK) {
        result = transfer(sender->multi, &sender->deadline);
        (void)curl_multi_remove_handle(sender->multi, curl);
    }
    (void)curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, NULL);
    long status = 0;
    (void)curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    // A whole answer's status counts, even if too much comes behind it.
    if (result == CURLE_OK || result == CURLE_WRITE_ERROR)
        answer->status = (int)status;
    if (result == CURLE_OK)
        (void)snprintf(answer->error, sizeof answer->error, "HTTP status %ld", status);
    else if (result == CURLE_AGAIN)
        (void)snprintf(answer->error, sizeof answer->error, "no answer before the end");
    else
        (void)snprintf(answer->error, sizeof answer->error, "%s", *words != '\0' ? words : curl_easy_strerror(result));
}

void sentry_sender_send(struct sentry_sender *sender, const struct sentry_identity *identity, const char *envelope,
                        size_t length, struct sentry_answer *answer)
{
    enum { BODY_MAX = 1024 * 1024 };
    struct sentry_dsn dsn;
    size_t compressed = 0;
    size_t body_left = BODY_MAX;
    *answer = (struct sentry_answer){.error = "out of memory"};
    if (!sentry_dsn_parse(identity->dsn, &dsn, NULL))
        return; // it was checked when it was configured
    unsigned char *body = compress_envelope(envelope, length, &compressed);
    struct curl_slist *headers = make_headers(&dsn);
    if (body != NULL && headers != NULL && open_sender(sender) && set_transport(sender->curl, identity, &dsn) &&
        set_request(sender->curl, headers, body, compressed, answer, &body_left))
        perform(sender, answer);
    explicit_bzero(&dsn, sizeof dsn);
    curl_slist_free_all(headers);
    free(body);
}
