"""Values: addresses, CIDRs, durations, numbers and words, good and bad, each at its file:line:column."""

import pytest

import configs

BAD_DURATIONS = [
    "5x",
    "-5s",
    '""',
    "s",
    "ms",
    "1h 2m",
    "1s2",
    "five",
    "nan",
    "inf",
    "0x10s",
    "true",
    "[]",
    "{}",
    "1..5s",
    "1.2.3s",
    "99999999999999999999h",
    "1e400",
    "-1",
    "1s,",
    "5 parsecs",
    "١s",
    "--1s",
    ".",
]
GOOD_DURATIONS = [
    "1h2m3.5s",
    "250ms",
    "5",
    "2.5",
    "0",
    "0s",
    '"0"',
    "1us",
    "10ns",
    "1.5h",
    '"30s"',
    "1m",
    "1h",
    "0.25s",
    "100h",
    "1m30s",
    "1ms",
    "3600",
]
BAD_COUNTS = [
    "0",
    "-1",
    "1.5",
    "many",
    "99999999999999999999",
    "true",
    "[]",
    "{}",
    '""',
    "1e3",
    "0x",
    "3 4",
    "2s",
]
BAD_LISTENERS = [
    "127.0.0.1",
    '""',
    '"127.0.0.1:"',
    "127.0.0.1:abc",
    ":99999",
    "127.0.0.1:65536",
    "127.0.0.1:-1",
    "http://127.0.0.1:80",
    "tcp:/127.0.0.1:80",
    '"[::1:80"',
    '"::1:80"',
    '"[::1]"',
    "tcp4://[::1]:80",
    "tcp6://127.0.0.1:80",
    "unix://",
    "unix://@",
    "unix://relative/path.sock",
    "fd://",
    "fd://-1",
    "tcp://",
    "tcp://127.0.0.1:80/path",
    "127.0.0.1:80x",
    '"127.0.0.1: 80"',
    '" 127.0.0.1:80"',
    "udp://127.0.0.1:80",
    "unix://" + "/x" * 60,
    "[]",
    "{}",
    "fd://99999999999",
    '"[127.0.0.1]:80"',
    '"[]:80"',
    '"[::g]:80"',
    '"[::1]80"',
    "tcp://user@host:80",
    '"127.0.0.1:80\\0x"',
    "127.0.0.1:8080:9090",
    "127.0.0.1:+80",
    "127.0.0.1:0x50",
    "tcp:///path",
    "unix:/path.sock",
    "a b:80",
]
GOOD_LISTENERS = [
    "127.0.0.1:80",
    "tcp://127.0.0.1:80",
    "tcp4://127.0.0.1:80",
    "tcp6://[::1]:80",
    ":80",
    "tcp://:80",
    '"[::1]:80"',
    '"[::]:80"',
    "localhost:80",
    "some-host.example:65535",
    "unix:///run/x.sock",
    "unix://@abstract",
    "fd://3",
    "fd://web",
    "fd://web-front.socket",
]
BAD_SOURCES = [
    "10.0.0.0/33",
    "10.0.0/8",
    '"::/129"',
    "300.1.1.1",
    "host.name",
    "10.0.0.0/-1",
    "10.0.0.0/",
    "/8",
    '""',
    "10.0.0.0/8/8",
    "10.0.0.0/8x",
    "10.0.0.0/ 8",
    "1.2.3.4.5",
    '":::"',
    "[]",
    "{}",
    "10",
    "0x0a000001",
    "all",
    "10.0.0.0/+8",
    "10.0.0.0:80",
    "010.0.0.1x",
]
GOOD_SOURCES = [
    "10.0.0.0/8",
    "127.0.0.1",
    "0.0.0.0/0",
    '"::1"',
    '"::/0"',
    '"fd00::/8"',
    '"::ffff:10.0.0.0/104"',
    "192.168.1.1/32",
    '"2001:db8::1/128"',
]


def reject_value(env, place, key, value):
    path, line, column = configs.PLACES[place]
    text = f"{key}: {value}"
    configs.rejects(
        env,
        configs.with_line(place, text),
        line=line,
        columns=(column, column + len(text)),
        path=f"{path}.{key}",
        count=1,
    )


@pytest.mark.parametrize("value", BAD_DURATIONS)
def test_a_bad_duration_is_rejected_at_its_place(env, value):
    reject_value(env, "listener", "read_timeout", value)


@pytest.mark.parametrize(
    "place, key",
    [
        ("listener", "write_timeout"),
        ("target", "connect_backoff"),
        ("target", "connect_timeout"),
        ("target", "read_timeout"),
        ("target", "write_timeout"),
        ("target", "keepalive_interval"),
        ("target", "tcp_user_timeout"),
        ("listener", "keepalive_interval"),
        ("listener", "tcp_user_timeout"),
        ("options", "half_close_timeout"),
        ("target", "resolve_timeout"),
        ("options", "connection_lifetime"),
    ],
)
@pytest.mark.parametrize("value", ["5x", "-5s", "[]"])
def test_every_key_of_a_duration_rejects_a_bad_one(env, place, key, value):
    reject_value(env, place, key, value)


def test_good_durations_are_accepted(env):
    for value in GOOD_DURATIONS:
        configs.accepts(env, configs.with_line("listener", f"write_timeout: {value}"))


@pytest.mark.parametrize(
    "value, good", [("-1", True), ("0", True), ("30s", True), ("-2", False), ("-1.5", False)]
)
def test_a_keepalive_interval_may_be_minus_one_but_no_other_negative(env, value, good):
    if good:
        configs.accepts(env, configs.with_line("target", f"keepalive_interval: {value}"))
    else:
        reject_value(env, "target", "keepalive_interval", value)


@pytest.mark.parametrize("value", BAD_COUNTS)
@pytest.mark.parametrize("place, key", [("target", "connect_attempts"), ("options", "connection_limit"),
                                        ("options", "source_connection_limit")])
def test_a_bad_count_is_rejected_at_its_place(env, place, key, value):
    reject_value(env, place, key, value)


def test_good_counts_are_accepted(env):
    for value in ("1", "2", "1000"):
        configs.accepts(env, configs.with_line("target", f"connect_attempts: {value}"))
        configs.accepts(env, configs.with_line("options", f"connection_limit: {value}"))


@pytest.mark.parametrize("value", BAD_LISTENERS)
def test_a_bad_listener_address_is_rejected_at_its_place(env, value):
    text = configs.with_line("top", "").replace("127.0.0.1:8080", value)
    configs.rejects(
        env, text, line=5, columns=(9, 18 + len(value)), path="server.proxies[0].listener.address", count=1
    )


@pytest.mark.parametrize(
    "value", [value for value in BAD_LISTENERS if "unix:" not in value] + ["127.0.0.1:0"]
)
def test_a_bad_target_address_is_rejected_at_its_place(env, value):
    text = configs.with_line("top", "").replace("127.0.0.1:9090", value)
    configs.rejects(
        env, text, line=9, columns=(11, 20 + len(value)), path="server.proxies[0].targets[0].address", count=1
    )


def test_good_addresses_are_accepted(env):
    for value in GOOD_LISTENERS:
        configs.accepts(env, configs.with_line("top", "").replace("127.0.0.1:8080", value))
        if not value.startswith((":", "tcp://:")):
            configs.accepts(env, configs.with_line("top", "").replace("127.0.0.1:9090", value))


@pytest.mark.parametrize("value", BAD_SOURCES)
def test_a_bad_source_is_rejected_at_its_place(env, value):
    text = configs.with_line("listener", f"authorized_sources: [10.1.1.1, {value}]")
    configs.rejects(
        env, text, line=6, columns=(9, 60), path="server.proxies[0].listener.authorized_sources[1]"
    )


def test_good_sources_are_accepted(env):
    configs.accepts(env, configs.with_line("listener", f"authorized_sources: [{', '.join(GOOD_SOURCES)}]"))


@pytest.mark.parametrize("value", ["10.0.0.0/8", "{}", "5"])
def test_sources_that_are_not_a_list_are_rejected(env, value):
    reject_value(env, "listener", "authorized_sources", value)


@pytest.mark.parametrize(
    "value, hint", [("roundrobin", "round-robin"), ("fail-over", "failover"), ("random", None), ("[]", None)]
)
def test_an_unknown_balancer_is_rejected_with_a_hint_at_the_likely_one(env, value, hint):
    key = "connection_load_balancer"
    text = configs.with_line("top", "").replace(f"{key}: none", f"{key}: {value}")
    configs.rejects(
        env, text, line=12, path=f"server.proxies[0].options.{key}", mentions=[hint] if hint else []
    )


@pytest.mark.parametrize("value", ["verbose", "INFO!", "5", "[]", "{}", '""'])
def test_an_unknown_log_level_is_rejected(env, value):
    configs.rejects(
        env,
        configs.with_line("top", f"application: {{log: {{level: {value}}}}}"),
        line=14,
        path="application.log.level",
    )


@pytest.mark.parametrize("key", ["enable_proxy_header", "enable_dual_stack"])
@pytest.mark.parametrize("value", ["maybe", "1", "[]", "{}", '"true story"'])
def test_a_bad_truth_value_is_rejected(env, key, value):
    reject_value(env, "options", key, value)


@pytest.mark.parametrize("value", ["[]", "{}", '""'])
def test_a_bad_path_of_the_connection_log_is_rejected(env, value):
    reject_value(env, "options", "connection_log", value)


@pytest.mark.parametrize(
    "key, value",
    [
        *((key, value) for key in ("drain_delay", "drain_timeout") for value in ("-3s", "soon", "[]")),
        *((key, value) for key in ("upgrade_in_place", "carriers") for value in ("1", "maybe", "[]")),
    ],
)
def test_a_bad_value_of_the_servers_is_rejected(env, key, value):
    configs.rejects(
        env,
        configs.BASE.format(listener="", target="", options="", top="").replace(
            "server:\n", f"server:\n  {key}: {value}\n"
        ),
        line=2,
        path=f"server.{key}",
    )


@pytest.mark.parametrize("value", ["[]", "{}", '""'])
def test_a_bad_name_is_rejected(env, value):
    configs.rejects(
        env,
        configs.with_line("top", "").replace("name: front", f"name: {value}"),
        line=3,
        path="server.proxies[0].name",
    )


def test_names_may_look_like_other_things(env):
    """A quoted number is a string, and so is a quoted word that YAML 1.1 takes for a truth value."""
    for value in ('"5"', '"true"', "'yes'", '"-"', "web 1", "日本"):
        configs.accepts(env, configs.with_line("top", "").replace("name: front", f"name: {value}"))


def test_a_bad_value_ends_the_start_before_anything_is_bound(env):
    path = env.write(configs.with_line("listener", "read_timeout: 5x").replace("127.0.0.1:8080", env.unix()))
    bitflow = env.launch(path)
    bitflow.expected_status = 2
    assert bitflow.wait_ended() == 2
    assert f"{path}:6:" in bitflow.stderr()
    assert not (env.directory / "front.sock").exists()
