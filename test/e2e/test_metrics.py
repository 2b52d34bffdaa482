"""Metrics, as a real statsd (npm's) receives and aggregates them."""

import re
import signal
import socket
import ssl
import subprocess
import time

import pytest

import node_peers
import sockets
import tls_raw
from environment import proxy
from node_peers import Statsd
from programs import Program, find
from tls_cases import tls_client, tls_listener, tls_target
from waiting import Stopwatch, pace, wait_for

PROXY = "proxy.front"


@pytest.fixture
def statsd(env):
    return env.keep(Statsd())


def metrics(address, **keys):
    return {"metrics": {"address": address, **keys}}


def start(env, receiver, *proxies, address=None, **keys):
    """A bitflow whose metrics have begun to arrive."""
    bitflow = env.start(*proxies, application=metrics(address or receiver.address, **keys))
    prefix = f"{keys['prefix']}." if "prefix" in keys else ""
    wait_for(lambda: f"{prefix}process.uptime" in receiver.gauges(), "the first report", 15)
    bitflow.resting = bitflow.descriptors()
    return bitflow


def use(address, size=1000):
    with sockets.connect(address) as client:
        sockets.round_trip(client, b"x" * size)


def wait_counters(statsd, expected, timeout=15.0):
    """All of these counters have these values, and none of the same beginning is there beside them."""

    def differing():
        counters = statsd.counters()
        return {name: (value, counters.get(name, 0)) for name, value in expected.items()
                if counters.get(name, 0) != value}

    wait_for(lambda: not differing(), lambda: f"wanted and seen: {differing()}", timeout)


def family(statsd, beginning):
    return {name: value for name, value in statsd.counters().items() if name.startswith(beginning) and value}


# What is reported


def test_connections_bytes_and_times(env, statsd):
    echo, address = env.echo(), env.address()
    bitflow = start(env, statsd, proxy(address, {"name": "the.echo", "address": echo.address}))
    for size in (1, 1000, 5000):
        use(address, size)
    bitflow.wait_records(3)
    wait_counters(
        statsd,
        {
            f"{PROXY}.connections.accepted": 3,
            f"{PROXY}.connections.closed.completed": 3,
            f"{PROXY}.bytes.from_client": 6001,
            f"{PROXY}.bytes.from_target": 6001,
            f"{PROXY}.target.the_echo.dials.attempted": 3,
        },
    )
    assert family(statsd, f"{PROXY}.connections.closed") == {f"{PROXY}.connections.closed.completed": 3}
    assert not family(statsd, f"{PROXY}.target.the_echo.dials.failed")
    timers = ("connect", "first_byte", "lifetime")
    wait_for(
        lambda: all(statsd.timer_counts().get(f"{PROXY}.time.{name}") == 3 for name in timers),
        lambda: f"three values of each timer: {statsd.timer_counts()}",
    )
    values = statsd.timers()
    for record in bitflow.records():
        total = record["total_ms"]
        assert any(abs(value - total) < 0.01 for value in values[f"{PROXY}.time.lifetime"]), (total, values)
    assert all(0 < value < 10_000 * pace() for name in timers for value in values[f"{PROXY}.time.{name}"])
    assert not any(name.endswith(("handshake", "resolve")) for name in values), values
    statsd.assert_clean()


def test_a_transfer_is_counted_while_it_lives(env, statsd):
    listener, address = env.listen(), env.address()
    start(env, statsd, proxy(address, listener.address))
    client, target = env.pair(address, listener)
    client.sendall(bytes(100_000))
    sockets.receive_exactly(target, 100_000)
    wait_counters(statsd, {f"{PROXY}.bytes.from_client": 100_000, f"{PROXY}.connections.accepted": 1})
    statsd.wait_gauge(f"{PROXY}.connections.active", 1)
    assert not family(statsd, f"{PROXY}.bytes.from_target") and not family(statsd, f"{PROXY}.connections.closed")
    target.sendall(bytes(50_000))
    sockets.receive_exactly(client, 50_000)
    client.sendall(bytes(7))
    sockets.receive_exactly(target, 7)
    wait_counters(statsd, {f"{PROXY}.bytes.from_client": 100_007, f"{PROXY}.bytes.from_target": 50_000})
    wait_for(lambda: statsd.timer_counts().get(f"{PROXY}.time.first_byte") == 1, "the first byte's time")
    assert f"{PROXY}.time.lifetime" not in statsd.timers()
    client.close()
    target.close()
    wait_counters(statsd, {f"{PROXY}.connections.closed.completed": 1})
    statsd.wait_gauge(f"{PROXY}.connections.active", 0)
    # No byte is counted twice.
    wait_counters(statsd, {f"{PROXY}.bytes.from_client": 100_007, f"{PROXY}.bytes.from_target": 50_000})


def test_rejections_and_ends_by_reason(env, statsd):
    echo, first, second, third = env.echo(), env.address(), env.address(), env.address()
    bitflow = start(
        env,
        statsd,
        proxy(first, echo.address, name="closed", listener={"authorized_sources": ["10.0.0.0/8"]}),
        proxy(second, echo.address, name="limited", connection_limit=1),
        proxy(third, {"address": echo.address, "read_timeout": "50ms"}, name="hasty"),
    )
    for _ in range(4):
        sockets.was_rejected(env.connect(first))
    holder = env.connect(second)
    sockets.round_trip(holder)
    for _ in range(2):
        sockets.was_rejected(env.connect(second))
    sockets.receive_until_broken(env.connect(third))
    sockets.reset(holder)
    bitflow.wait_records(8)
    wait_counters(
        statsd,
        {
            "proxy.closed.connections.rejected.source_not_authorized": 4,
            "proxy.limited.connections.rejected.connection_limit": 2,
            "proxy.limited.connections.accepted": 1,
            "proxy.limited.connections.closed.client_reset": 1,
            "proxy.hasty.connections.closed.target_read_timeout": 1,
        },
    )
    assert not family(statsd, "proxy.closed.connections.accepted")


def test_failed_dials_by_target_and_cause(env, statsd):
    echo, address = env.echo(), env.address()
    full = env.listen(backlog=0)
    full.fill_queue()
    bitflow = start(
        env,
        statsd,
        proxy(
            address,
            {"name": "refuses", "address": env.refusing(), "connect_attempts": 2},
            {"name": "silent", "address": full.address, "connect_timeout": "50ms"},
            {"name": "nameless", "address": "no-such-host.invalid:80", "connect_timeout": "10s"},
            {"name": "missing", "address": f"unix://{env.directory}/nothing"},
            {"name": "good", "address": echo.address},
            connection_load_balancer="failover",
        ),
    )
    use(address)
    bitflow.wait_records(1)
    wait_counters(
        statsd,
        {
            f"{PROXY}.target.{target}.dials.{name}": count
            for target, name, count in (
                ("refuses", "attempted", 2),
                ("refuses", "failed.connect_refused", 2),
                ("silent", "attempted", 1),
                ("silent", "failed.connect_timeout", 1),
                ("nameless", "attempted", 1),
                ("nameless", "failed.resolve_failed", 1),
                ("missing", "attempted", 1),
                ("missing", "failed.connect_refused", 1),
                ("good", "attempted", 1),
            )
        },
    )
    assert sum(family(statsd, f"{PROXY}.target.").values()) == 11
    wait_for(lambda: statsd.timer_counts().get(f"{PROXY}.time.connect") == 1, "its connect time")


def test_failed_handshakes_by_cause(env, statsd, pki):
    echo, address, strict = env.echo(), env.address(), env.address()
    listener = tls_listener(
        pki.server.entry() | {"authority": str(pki.trusted)}, verify_mode="strict", handshake_timeout="200ms"
    )
    bitflow = start(
        env,
        statsd,
        proxy(address, echo.address, listener=tls_listener(pki.server, application_protocols=["h2"])),
        proxy(strict, echo.address, name="strict", listener=listener),
    )
    with env.connect(address) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        sockets.receive_until_broken(client)
    env.connect(address).close()
    old = tls_raw.client_context()
    old.set_alpn_protocols(["http/1.1"])
    with pytest.raises(ssl.SSLError):
        tls_client(env, address, context=old)
    sockets.receive_until_broken(env.connect(strict))
    with pytest.raises((ssl.SSLError, EOFError, OSError)):
        tls_client(env, strict).read()
    distrustful = ssl.create_default_context()
    with pytest.raises(ssl.SSLError):
        tls_client(env, address, context=distrustful)
    bitflow.wait_records(6)
    wait_counters(
        statsd,
        {
            f"{PROXY}.handshakes.failed.not_tls": 1,
            f"{PROXY}.handshakes.failed.closed": 1,
            f"{PROXY}.handshakes.failed.protocol": 1,
            f"{PROXY}.handshakes.failed.certificate_refused": 1,
            "proxy.strict.handshakes.failed.timeout": 1,
            "proxy.strict.handshakes.failed.certificate_missing": 1,
        },
    )
    assert sum(family(statsd, f"{PROXY}.handshakes.").values()) == 4
    assert not family(statsd, f"{PROXY}.target.")


def test_handshakes_with_targets(env, statsd, pki):
    address = env.address()
    servers = {name: tls_raw.server_context(pki.bad_servers[name]) for name in ("expired", "wrong name")}
    listeners = {name: env.listen() for name in servers}
    plain = env.echo()
    bitflow = start(
        env,
        statsd,
        proxy(
            address,
            *(tls_target(listeners[name].address, pki.trusted) | {"name": name} for name in servers),
            tls_target(plain.address, pki.trusted) | {"name": "plain"},
            connection_load_balancer="failover",
        ),
    )
    client = env.connect(address)
    for name, context in servers.items():
        with pytest.raises((ssl.SSLError, EOFError, OSError)):
            end = tls_raw.Tls(listeners[name].accept(), context, server_side=True).handshake()
            assert end.read() == b""
            raise EOFError
    sockets.receive_until_broken(client)
    bitflow.wait_records(1)
    wait_counters(
        statsd,
        {
            f"{PROXY}.target.expired.handshakes.failed.certificate_invalid": 1,
            f"{PROXY}.target.wrong_name.handshakes.failed.certificate_invalid": 1,
            f"{PROXY}.target.expired.dials.failed.target_handshake_failed": 1,
            f"{PROXY}.target.plain.dials.failed.target_handshake_failed": 1,
            f"{PROXY}.connections.closed.target_handshake_failed": 1,
        },
    )
    assert sum(family(statsd, f"{PROXY}.target.plain.handshakes.failed").values()) == 1


def test_times_of_handshakes_and_days_left(env, statsd, pki):
    server = tls_raw.server_context(pki.server)
    listener, address = env.listen(), env.address()
    target = tls_target(listener.address, pki.trusted, identity=pki.client)
    start(env, statsd, proxy(address, target, listener=tls_listener(pki.server)))
    sock = env.connect(address)
    end = tls_raw.Tls(sock, tls_raw.client_context(), server_name="server.test")
    end.handshake()
    accepted = tls_raw.Tls(listener.accept(), server, server_side=True).handshake()
    end.write(b"hello")
    assert accepted.read() == b"hello"
    wait_for(
        lambda: all(
            statsd.timer_counts().get(f"{PROXY}.time.{name}") == 1
            for name in ("client_handshake", "target_handshake", "connect")
        ),
        lambda: f"the times, while it lives: {statsd.timer_counts()}",
    )
    gauges = statsd.gauges()
    for identity, name in ((pki.server, "front"), (pki.client, "front.target.target1")):
        text = subprocess.run(
            [find("openssl"), "x509", "-in", str(identity.certificate), "-noout", "-enddate"],
            capture_output=True, text=True, check=True,
        ).stdout
        seconds = ssl.cert_time_to_seconds(text.strip().partition("=")[2])
        left = (seconds - int(time.time())) // 86400
        assert abs(gauges[f"proxy.{name}.certificate.days_left"] - left) <= 1, (name, gauges, left)


def test_process_and_threads(env, statsd):
    echo, address = env.echo(), env.address()
    bitflow = start(env, statsd, proxy(address, echo.address))
    clients = [env.connect(address) for _ in range(7)]
    for client in clients:
        sockets.round_trip(client)

    def fits():
        gauges = statsd.gauges()
        return (
            gauges["threads.busy"] == 7
            and gauges["process.threads"] == len(bitflow.thread_names())
            and gauges["process.descriptors.open"] == sum(bitflow.descriptors().values())
            and abs(gauges["process.memory.resident"] / 1024 - bitflow.memory_kib("VmRSS")) < 4096
        )

    wait_for(fits, lambda: f"{statsd.gauges()}, threads {bitflow.thread_names()}, {bitflow.descriptors()}", 20)
    assert "statsd" in bitflow.thread_names()
    for client in clients:
        client.close()
    bitflow.wait_records(7)
    wait_for(lambda: statsd.gauges()["threads.busy"] == 0, "no thread is busy")
    assert statsd.gauges()["threads.parked"] >= 1
    assert statsd.gauges()["process.uptime"] < 600

    def cpu():
        return (statsd.counter("process.cpu.user") + statsd.counter("process.cpu.system")) / 1000

    wait_for(lambda: abs(cpu() - bitflow.cpu_seconds()) < 0.1 * pace(), lambda: f"{cpu()} is the CPU time", 20)


def test_lost_records_are_counted(env, statsd):
    echo, address = env.echo(), env.address()
    bitflow = start(env, statsd, proxy(address, echo.address, connection_log="/dev/full"))
    for _ in range(3):
        use(address)
    wait_counters(statsd, {"telemetry.dropped.connection_records": 3, f"{PROXY}.connections.accepted": 3})
    assert bitflow.is_running()


def test_what_was_before_is_not_counted_and_what_lives_goes_on(env, statsd):
    """Metrics that a reload turns on, and off, and on."""
    listener, address = env.listen(), env.address()
    entry = proxy(address, listener.address)
    bitflow = env.start(entry)
    client, target = env.pair(address, listener)
    client.sendall(bytes(1000))
    sockets.receive_exactly(target, 1000)
    assert "statsd" not in bitflow.thread_names()

    def switch(**settings):
        env.config(entry, **settings)
        bitflow.signal(signal.SIGHUP)

    switch(application=metrics(statsd.address))
    statsd.wait_gauge(f"{PROXY}.connections.active", 1)
    client.sendall(bytes(10))
    sockets.receive_exactly(target, 10)
    wait_counters(statsd, {f"{PROXY}.bytes.from_client": 10})
    switch()
    wait_for(lambda: "statsd" not in bitflow.thread_names(), "the thread has ended")
    client.sendall(bytes(100))
    sockets.receive_exactly(target, 100)
    switch(application=metrics(statsd.address, prefix="again"))
    wait_for(lambda: statsd.gauges().get(f"again.{PROXY}.connections.active") == 1, "it is reported again")
    client.sendall(bytes(5))
    sockets.receive_exactly(target, 5)
    wait_counters(statsd, {f"again.{PROXY}.bytes.from_client": 5, f"{PROXY}.bytes.from_client": 10})
    bitflow.quiet_check = False  # there is a socket more than at the start


# Receivers that come, go and change


def test_nothing_is_lost_while_the_receiver_is_away(env):
    echo, address = env.echo(), env.address()
    port = sockets.free_port()
    bitflow = env.start(proxy(address, echo.address), application=metrics(f"127.0.0.1:{port}"))
    wait_for(lambda: "metrics cannot be sent" in bitflow.stderr(), "it is said")
    for _ in range(5):
        use(address)
    bitflow.wait_records(5)
    first = env.keep(Statsd(port))
    wait_counters(first, {f"{PROXY}.connections.accepted": 5, f"{PROXY}.bytes.from_client": 5000})
    wait_for(lambda: first.timer_counts().get(f"{PROXY}.time.lifetime") == 5, "the times are kept, too")
    assert bitflow.stderr().count("metrics cannot be sent") == 1
    assert bitflow.stderr().count("metrics are sent again") == 1
    first.process.kill()
    first.process.wait()
    for _ in range(3):
        use(address)
    bitflow.wait_records(8)
    wait_for(lambda: bitflow.stderr().count("metrics cannot be sent") == 2, "it is said again", 15)
    second = env.keep(Statsd(port))
    wait_counters(second, {f"{PROXY}.connections.accepted": 3, f"{PROXY}.connections.closed.completed": 3})
    # What was in the datagrams that nobody got is either sent again or counted.
    wait_for(
        lambda: second.timer_counts().get(f"{PROXY}.time.lifetime", 0)
        + second.timer_counts().get(f"{PROXY}.time.connect", 0)
        + second.timer_counts().get(f"{PROXY}.time.first_byte", 0)
        + second.counter("telemetry.dropped.timings")
        == 9,
        lambda: f"{second.timer_counts()} {second.counters()}",
    )
    bitflow.quiet_check = False  # the socket was not there at the start


def test_unix_datagrams(env, statsd):
    """socat hands each datagram on as it is."""
    echo, address, path = env.echo(), env.address(), f"{env.directory}/statsd.sock"
    entry = proxy(address, echo.address)
    bitflow = env.start(entry, application=metrics(f"unix://{path}"))
    wait_for(lambda: "metrics cannot be sent" in bitflow.stderr(), "it is said")
    for number in (1, 2, 3):
        use(address)
        bitflow.wait_records(number)
        # From the second on, there is a socket's file that nobody reads from.
        relay = env.keep(
            Program(["socat", "-b65536", f"UNIX-RECV:{path},unlink-early", f"UDP-SENDTO:{statsd.address}"])
        )
        wait_counters(statsd, {f"{PROXY}.connections.accepted": number})
        if number < 3:
            relay.process.kill()
            relay.process.wait()
    wait_counters(statsd, {f"{PROXY}.connections.accepted": 3, f"{PROXY}.bytes.from_client": 3000})
    statsd.assert_clean()
    bitflow.quiet_check = False  # the socket was not there at the start


def test_a_reload_changes_receiver_and_prefix(env, statsd):
    echo, address = env.echo(), env.address()
    entry = proxy(address, echo.address)
    bitflow = start(env, statsd, entry, prefix="one")
    use(address)
    wait_counters(statsd, {f"one.{PROXY}.connections.closed.completed": 1})
    env.config(entry, application=metrics(statsd.address, prefix="two"))
    bitflow.signal(signal.SIGHUP)
    wait_for(lambda: "two.process.uptime" in statsd.gauges(), "the other prefix")
    other = env.keep(Statsd())
    env.config(entry, application=metrics(other.address, prefix="two"))
    bitflow.signal(signal.SIGHUP)
    wait_for(lambda: "two.process.uptime" in other.gauges(), "the other receiver")
    use(address)
    wait_counters(other, {f"two.{PROXY}.connections.accepted": 1, f"two.{PROXY}.connections.closed.completed": 1})
    # A configuration that is wrong changes nothing.
    env.config(entry, application=metrics("nowhere"))
    bitflow.signal(signal.SIGHUP)
    wait_for(lambda: "reload failed" in bitflow.stderr(), "it is refused")
    use(address)
    wait_counters(other, {f"two.{PROXY}.connections.accepted": 2})


def test_the_last_report_has_everything(env, statsd):
    listener, address = env.listen(), env.address()
    bitflow = start(env, statsd, proxy(address, listener.address))
    pairs = [env.pair(address, listener) for _ in range(3)]
    for client, target in pairs:
        client.sendall(bytes(333))
        sockets.receive_exactly(target, 333)
    bitflow.signal(signal.SIGTERM)
    for client, target in pairs:
        client.close()
        target.close()
    assert bitflow.wait_ended() == 0
    wait_counters(
        statsd,
        {f"{PROXY}.connections.accepted": 3, f"{PROXY}.connections.closed.completed": 3,
         f"{PROXY}.bytes.from_client": 999},
    )


def test_a_receiver_that_cannot_be_found_does_not_delay_the_end(env):
    echo = env.echo()
    bitflow = env.start(proxy(env.address(), echo.address), application=metrics("no-such-host.invalid:8125"))
    wait_for(lambda: "metrics cannot be sent" in bitflow.stderr(), "it is said", 15)
    watch = Stopwatch()
    bitflow.signal(signal.SIGTERM)
    assert bitflow.wait_ended() == 0
    watch.between(0, 5, "the end")


# Tags

DOGSTATSD_LINE = re.compile(  # Datadog's "DogStatsD protocol": metrics
    r"[A-Za-z][A-Za-z0-9_.]*:-?\d+(\.\d+)?\|(c|g|ms)(\|@0?\.\d+)?"
    r"(\|#[a-z_]+:[A-Za-z0-9_./-]+(,[a-z_]+:[A-Za-z0-9_./-]+)*)?"
)
INFLUXDB_LINE = re.compile(  # Telegraf's plugins/inputs/statsd, "Influx Statsd"
    r"[A-Za-z][A-Za-z0-9_.]*(,[a-z_]+=[A-Za-z0-9_.-]+)*:-?\d+(\.\d+)?\|(c|g|ms)(\|@0?\.\d+)?"
)


def test_dogstatsd_tags(env, statsd):
    """statsd 0.9 understands Datadog's tags, and makes Graphite's of them."""
    echo, address = env.echo(), env.address()
    start(
        env,
        statsd,
        proxy(address, {"name": "www.example.com", "address": echo.address}, name="front: door"),
        tag_format="dogstatsd",
        prefix="site",
    )
    use(address)
    wait_counters(
        statsd,
        {
            "site.proxy.connections.closed;proxy=front__door;reason=completed": 1,
            "site.proxy.bytes.from_client;proxy=front__door": 1000,
            "site.proxy.target.dials.attempted;proxy=front__door;target=www.example.com": 1,
        },
    )
    statsd.wait_gauge("site.proxy.connections.active;proxy=front__door", 0)
    assert statsd.timer_counts()["site.proxy.time.connect;proxy=front__door"] == 1
    statsd.assert_clean()


def received_lines(receiver, until):
    """Every line that comes, until one of them begins so."""
    lines = []
    receiver.settimeout(15 * pace())
    while not any(line.startswith(until) for line in lines):
        datagram = receiver.recv(65536)
        assert len(datagram) <= 1432
        lines += [line for line in datagram.decode("ascii").split("\n") if line]
    return lines


@pytest.mark.parametrize(
    "tag_format, grammar, until",
    [
        ("dogstatsd", DOGSTATSD_LINE, "proxy.time.lifetime:"),
        ("influxdb", INFLUXDB_LINE, "proxy.time.lifetime,proxy=front:"),
    ],
)
def test_every_line_is_in_the_grammar(env, tag_format, grammar, until):
    receiver = env.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    receiver.bind(("127.0.0.1", 0))
    echo, address = env.echo(), env.address()
    name = {"name": "tärget,a=b|c#d@e", "address": echo.address}
    bitflow = env.start(
        proxy(address, name, connection_load_balancer="failover"),
        application=metrics(sockets.local_name(receiver), tag_format=tag_format),
    )
    for _ in range(300):
        use(address, 10)
    bitflow.wait_records(300)
    lines = received_lines(receiver, until)
    for line in lines:
        assert grammar.fullmatch(line), line
    assert any("t_rget_a_b_c_d_e" in line for line in lines), lines
    bitflow.quiet_check = False  # the socket was not there at the start


def test_influxdb_tags(env, statsd):
    """As Telegraf reads them; this statsd takes them for a part of the name."""
    raw = env.keep(Statsd(keyNameSanitize=False))
    echo, address = env.echo(), env.address()
    start(env, raw, proxy(address, echo.address), tag_format="influxdb")
    use(address)
    wait_counters(
        raw,
        {
            "proxy.connections.closed,proxy=front,reason=completed": 1,
            "proxy.target.dials.attempted,proxy=front,target=target1": 1,
        },
    )
    raw.assert_clean()


def test_every_name_is_documented(env, statsd):
    """Whatever arrives matches a pattern of docs/metrics.md."""
    text = (node_peers.HERE.parents[1] / "docs" / "metrics.md").read_text()
    patterns = re.findall(r"^\| `([a-z_.{}]+)` \| (?:counter|gauge|timer) \|", text, re.MULTILINE)
    assert len(patterns) > 25
    known = [re.compile(re.sub(r"\\\{[a-z]+\\\}", "[A-Za-z0-9_-]+", re.escape(pattern))) for pattern in patterns]
    echo, address = env.echo(), env.address()
    bitflow = start(env, statsd, proxy(address, env.refusing(), echo.address, connection_load_balancer="failover"))
    for _ in range(3):
        use(address)
    bitflow.wait_records(3)
    wait_counters(statsd, {f"{PROXY}.connections.closed.completed": 3})
    names = {*statsd.counters(), *statsd.gauges(), *statsd.timers()}
    for name in names:
        assert name.startswith("statsd.") or any(pattern.fullmatch(name) for pattern in known), name
