// How a SOCKS5 server is written: addresses, credentials and what is escaped in them, mistakes that repeat no secret.

#include "bitflow/net/socks.h"
#include "net_rig.h"

static const struct {
    const char *text;
    const char *address;
    const char *user; // NULL: none
    const char *password;
} good[] = {
    {"h:1", "tcp://h:1", NULL, NULL},
    {"127.0.0.1:1080", "tcp://127.0.0.1:1080", NULL, NULL},
    {"[::1]:1080", "tcp://[::1]:1080", NULL, NULL},
    {"socks5://h:1", "tcp://h:1", NULL, NULL},
    {"SOCKS5://h:1", "tcp://h:1", NULL, NULL},
    {"socks5h://h:1", "tcp://h:1", NULL, NULL},
    {"socks5://u:p@h:1", "tcp://h:1", "u", "p"},
    {"socks5://u@h:1", "tcp://h:1", "u", NULL},
    {"socks5://u:@h:1", "tcp://h:1", "u", NULL},
    {"socks5h://u%3Av@[::1]:1", "tcp://[::1]:1", "u:v", NULL},
    {"socks5://u:p:q@r@h:1", "tcp://h:1", "u", "p:q@r"},
    {"socks5://u:p@[::1]:1", "tcp://[::1]:1", "u", "p"},
    {"socks5://a%3ab:%40%2F%25%c3%A9@h:1", "tcp://h:1", "a:b", "@/%\xc3\xa9"},
    {"socks5://u+v: @h:1", "tcp://h:1", "u+v", " "},
    {"unix:///run/s", "unix:///run/s", NULL, NULL},
    {"unix://@name", "unix://@name", NULL, NULL},
    {"socks5+unix:///run/s", "unix:///run/s", NULL, NULL},
    {"socks5+unix://@name", "unix://@name", NULL, NULL},
    {"socks5+unix://u@/run/s", "unix:///run/s", "u", NULL},
    {"socks5+unix://u@@name", "unix://@name", "u", NULL},
    {"socks5+unix://u:p@/run/a@/b", "unix:///run/a@/b", "u", "p"},
    {"socks5+unix://u:p@q@/run/s", "unix:///run/s", "u", "p@q"},
    {"socks5+unix://u:p@@name", "unix://@name", "u", "p"},
};

static void assert_bytes(const uint8_t *bytes, size_t length, const char *wanted)
{
    assert_int_equal(length, wanted == NULL ? 0 : strlen(wanted));
    if (length > 0)
        assert_memory_equal(bytes, wanted, length);
}

static void test_a_server_is_read_with_its_credentials(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(good); i++) {
        struct socks_server server;
        struct error error = ERROR_INIT;
        char address[ADDRESS_TEXT_SIZE];
        if (!socks_server_parse(good[i].text, &server, &error))
            fail_msg("%s: %s", good[i].text, error.text);
        address_format(&server.address, address);
        assert_string_equal(address, good[i].address);
        assert_bytes(server.user, server.user_length, good[i].user);
        assert_bytes(server.password, server.password_length, good[i].password);
        socks_server_wipe(&server);
        assert_int_equal(server.password_length, 0);
        assert_int_equal(server.password[0], 0);
    }
}

static void test_a_malformed_server_is_refused_without_its_secrets(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "h",
        "h:0",
        ":1",
        "s3cret:p@h:1",
        "tcp://h:1",
        "http://h:1",
        "socks4://h:1",
        "socks5:h:1",
        "socks5://",
        "socks5://h",
        "socks5://@h:1",
        "socks5://s3cret@",
        "socks5://s3cret@h",
        "socks5://:@h:1",
        "socks5://:s3cret@h:1",
        "socks5://u:s3cret@",
        "socks5://u:s3cret@h",
        "socks5://u:s3cret@unix:///run/s",
        "socks5://u:s3cret@/run/s",
        "socks5://u:s3cret%@h:1",
        "socks5://u:s3cret%2@h:1",
        "socks5://u:s3cret%2g@h:1",
        "socks5://s3cret%:p@h:1",
        "socks5://s3cret%@h:1",
        "unix://s3cret",
        "fd://3",
        "socks5+unix://",
        "socks5+unix://h:1",
        "socks5+unix://:s3cret@/run/s",
        "socks5+unix://s3cret@run/s",
        "socks5+unix://u:s3cret@run/s",
        "socks5+unix:///run/",
        "socks5+unix://@",
    };
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        struct socks_server server = {.user_length = 77};
        struct error error = ERROR_INIT;
        if (socks_server_parse(bad[i], &server, &error))
            fail_msg("%s was accepted", bad[i]);
        assert_int_equal(error.code, ERROR_INVALID);
        assert_int_equal(server.user_length, 77);
        if (strstr(error.text, "cret") != NULL)
            fail_msg("%s: %s", bad[i], error.text);
        bool is_about_escapes = strstr(error.text, "%25") != NULL;
        assert_int_equal(is_about_escapes, strchr(bad[i], '%') != NULL);
    }
}

// 255 bytes each, however many characters it takes to write them.
static void test_credentials_have_at_most_255_bytes(void **state)
{
    (void)state;
    char text[4096], part[1024] = "";
    for (size_t i = 0; i < 255; i++)
        memcpy(part + 3 * i, "%41", 4);
    struct socks_server server;
    (void)snprintf(text, sizeof text, "socks5://%s:%s@h:1", part, part);
    assert_true(socks_server_parse(text, &server, NULL));
    assert_int_equal(server.user_length, 255);
    assert_int_equal(server.password_length, 255);
    assert_int_equal(server.password[254], 'A');
    (void)snprintf(text, sizeof text, "socks5://%sA:p@h:1", part);
    assert_false(socks_server_parse(text, &server, NULL));
    (void)snprintf(text, sizeof text, "socks5://u:%sA@h:1", part);
    assert_false(socks_server_parse(text, &server, NULL));
    (void)snprintf(text, sizeof text, "socks5://%s@h:1", part);
    assert_true(socks_server_parse(text, &server, NULL));
    assert_int_equal(server.user_length, 255);
    assert_int_equal(server.password_length, 0);
    (void)snprintf(text, sizeof text, "socks5://%sA@h:1", part);
    assert_false(socks_server_parse(text, &server, NULL));
    char path[200];
    memset(path, 'x', sizeof path);
    (void)snprintf(text, sizeof text, "socks5+unix:///%.106s", path);
    assert_true(socks_server_parse(text, &server, NULL));
    (void)snprintf(text, sizeof text, "socks5+unix:///%.107s", path);
    assert_false(socks_server_parse(text, &server, NULL));
    (void)snprintf(text, sizeof text, "socks5+unix:///%.150s", path);
    assert_false(socks_server_parse(text, &server, NULL));
}

static void test_only_tcp_addresses_without_a_zone_can_be_reached(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *reason; // NULL: it can be
    } cases[] = {
        {"h:1", NULL},
        {"127.0.0.1:1", NULL},
        {"[fe80::1]:1", NULL},
        {"[fe80::1%lo]:1", "zone"},
        {"unix:///run/s", "TCP addresses only"},
        {"fd://3", "TCP addresses only"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct address address = rig_address(cases[i].text, ADDRESS_TO_CONNECT);
        struct error error = ERROR_INIT;
        assert_int_equal(socks_can_reach(&address, &error), cases[i].reason == NULL);
        assert_int_equal(error.code, cases[i].reason == NULL ? ERROR_NONE : ERROR_INVALID);
        if (cases[i].reason != NULL)
            assert_non_null(strstr(error.text, cases[i].reason));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_server_is_read_with_its_credentials),
        cmocka_unit_test(test_a_malformed_server_is_refused_without_its_secrets),
        cmocka_unit_test(test_credentials_have_at_most_255_bytes),
        cmocka_unit_test(test_only_tcp_addresses_without_a_zone_can_be_reached),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
