#include "control_client.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/base/clock.h"
#include "bitflow/config/control_address.h"
#include "bitflow/version.h"

#define ANSWER_MAX ((size_t)64 * 1024 * 1024)

static size_t keep_body(const char *bytes, size_t size, size_t count, void *argument)
{
    struct control_answer *answer = argument;
    size_t more = size * count;
    if (more > ANSWER_MAX - answer->length)
        return 0; // which ends the request
    char *body = realloc(answer->body, answer->length + more + 1);
    if (body == NULL)
        return 0;
    memcpy(body + answer->length, bytes, more);
    answer->body = body;
    answer->length += more;
    body[answer->length] = '\0';
    return more;
}

// A listener of every address is reached by the loopback one.
static void write_url(const struct address *address, const char *path, char *out, size_t size)
{
    const char *host = address->host;
    if (address->kind != ADDRESS_TCP) {
        (void)snprintf(out, size, "http://localhost%s", path);
        return;
    }
    if (*host == '\0' || strcmp(host, "0.0.0.0") == 0)
        host = "127.0.0.1";
    else if (strcmp(host, "::") == 0)
        host = "::1";
    bool is_ipv6 = strchr(host, ':') != NULL;
    (void)snprintf(out, size, "http://%s%s%s:%u%s", is_ipv6 ? "[" : "", host, is_ipv6 ? "]" : "",
                   (unsigned)address->port, path);
}

static bool set_socket(CURL *curl, const struct address *address)
{
    if (address->kind != ADDRESS_UNIX)
        return true;
    return curl_easy_setopt(curl, address->is_abstract ? CURLOPT_ABSTRACT_UNIX_SOCKET : CURLOPT_UNIX_SOCKET_PATH,
                            address->path) == CURLE_OK;
}

static bool set_request(CURL *curl, const struct address *address, const char *method, const char *path,
                        int64_t timeout, struct control_answer *answer)
{
    char url[512];
    write_url(address, path, url, sizeof url);
    return curl_easy_setopt(curl, CURLOPT_URL, url) == CURLE_OK && set_socket(curl, address) &&
           curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http") == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_PROXY, "") == CURLE_OK && // whatever the environment says
           curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)(timeout / NS_PER_MS)) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_USERAGENT, "bitflow/" BITFLOW_VERSION) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, keep_body) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_WRITEDATA, answer) == CURLE_OK;
}

static void explain(CURL *curl, CURLcode result, const char *words, const struct address *address, int64_t timeout,
                    struct error *error)
{
    char where[ADDRESS_TEXT_SIZE];
    long os_errno = 0;
    address_format(address, where);
    (void)curl_easy_getinfo(curl, CURLINFO_OS_ERRNO, &os_errno);
    if (result == CURLE_OPERATION_TIMEDOUT)
        error_set(error, ERROR_TIMEOUT, "no answer at %s within %lld s", where, (long long)(timeout / NS_PER_S));
    else if (result != CURLE_COULDNT_CONNECT)
        error_set(error, ERROR_SYSTEM, "no answer at %s: %s", where,
                  *words != '\0' ? words : curl_easy_strerror(result));
    else if (os_errno == EACCES || os_errno == EPERM)
        error_set(error, ERROR_DENIED, "no permission for %s: application.control.mode, user and group say who has it",
                  where);
    else if (os_errno == ENOENT)
        error_set(error, ERROR_REFUSED, "there is no %s: does bitflow run, with application.control?", where);
    else if (os_errno == ECONNREFUSED)
        error_set(error, ERROR_REFUSED, "nobody listens at %s: does bitflow run, with application.control?", where);
    else
        error_set(error, ERROR_REFUSED, "cannot connect to %s: %s", where,
                  os_errno != 0 ? strerrordesc_np((int)os_errno) : words);
}

bool control_ask(const struct address *address, const char *method, const char *path, int64_t timeout,
                 struct control_answer *answer, struct error *error)
{
    char words[CURL_ERROR_SIZE] = "";
    *answer = (struct control_answer){.status = 0};
    CURL *curl = curl_easy_init();
    if (curl == NULL || !set_request(curl, address, method, path, timeout, answer)) {
        error_set(error, ERROR_NO_MEMORY, "out of memory");
        curl_easy_cleanup(curl);
        return false;
    }
    (void)curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, words);
    CURLcode result = curl_easy_perform(curl);
    (void)curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &answer->status);
    if (result == CURLE_OK && answer->body == NULL)
        answer->body = strdup("");
    bool is_good = result == CURLE_OK && answer->body != NULL;
    if (!is_good) {
        explain(curl, result, words, address, timeout, error);
        free(answer->body);
        answer->body = NULL;
    }
    curl_easy_cleanup(curl);
    return is_good;
}

bool control_locate(const char *socket, const char *config, struct address *address, struct error *error)
{
    struct error cause = ERROR_INIT;
    const char *text = socket;
    if (text == NULL && config != NULL) {
        if (!control_address_find(config, address, error))
            return false;
    } else {
        if (text == NULL)
            text = getenv("BITFLOW_CONTROL");
        if (text == NULL)
            text = CONTROL_DEFAULT_SOCKET;
        if (!address_parse(text, ADDRESS_TO_LISTEN, address, &cause)) {
            error_set(error, ERROR_INVALID, "%s: %s", text, cause.text);
            return false;
        }
    }
    if (address->kind == ADDRESS_FD)
        error_set(error, ERROR_INVALID, "an inherited socket (fd://) does not say where it is: name that by --socket");
    else if (address->kind == ADDRESS_TCP && address->port == 0)
        error_set(error, ERROR_INVALID, "port 0 does not say which one it became: name that by --socket");
    else
        return true;
    return false;
}
