"""Metrics as a real statsd (npm's) receives and aggregates them."""

import ssl
import subprocess
import time

import pytest

import proxy_headers
import sockets
import tls_raw
from environment import proxy
from metrics_cases import PROXY, family, start, use, wait_counters
from node_peers import Statsd
from programs import find
from tls_cases import tls_client, tls_listener, tls_target
from waiting import pace, wait_for


@pytest.fixture
def statsd(env):
    return env.keep(Statsd())


def test_connections_bytes_and_times_are_counted(env, statsd):
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
    assert not family(statsd, f"{PROXY}.bytes.from_target")
    assert not family(statsd, f"{PROXY}.connections.closed")
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


def test_rejections_and_ends_are_counted_by_reason(env, statsd):
    echo, first, second, third = env.echo(), env.address(), env.address(), env.address()
    fourth, fifth = env.address(), env.address()
    bitflow = start(
        env,
        statsd,
        proxy(first, echo.address, name="closed", listener={"authorized_sources": ["10.0.0.0/8"]}),
        proxy(second, echo.address, name="limited", connection_limit=1),
        proxy(third, {"address": echo.address, "read_timeout": "50ms"}, name="hasty"),
        proxy(fourth, echo.address, name="shared", source_connection_limit=1),
        proxy(fifth, echo.address, name="behind", listener={"proxy_protocol": True}, source_connection_limit=1),
    )
    for _ in range(4):
        sockets.was_rejected(env.connect(first))
    holder = env.connect(second)
    sockets.round_trip(holder)
    for _ in range(2):
        sockets.was_rejected(env.connect(second))
    sockets.receive_until_broken(env.connect(third))
    sockets.reset(holder)
    sockets.round_trip(env.connect(fourth))
    for _ in range(3):
        sockets.was_rejected(env.connect(fourth))
    first_declared, second_declared = env.connect(fifth), env.connect(fifth)
    first_declared.sendall(proxy_headers.EXAMPLE)
    sockets.round_trip(first_declared)
    second_declared.sendall(proxy_headers.EXAMPLE)
    sockets.was_rejected(second_declared)
    bitflow.wait_records(12)
    wait_counters(
        statsd,
        {
            "proxy.closed.connections.rejected.source_not_authorized": 4,
            "proxy.limited.connections.rejected.connection_limit": 2,
            "proxy.limited.connections.accepted": 1,
            "proxy.limited.connections.closed.client_reset": 1,
            "proxy.hasty.connections.closed.target_read_timeout": 1,
            "proxy.shared.connections.rejected.source_connection_limit": 3,
            "proxy.shared.connections.accepted": 1,
            "proxy.behind.connections.accepted": 2,
            "proxy.behind.connections.closed.source_connection_limit": 1,
        },
    )
    assert not family(statsd, "proxy.closed.connections.accepted")


def test_failed_dials_are_counted_by_target_and_cause(env, statsd):
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


def test_failed_handshakes_with_clients_are_counted_by_cause(env, statsd, pki):
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
    env.connect(address).close()  # a probe
    with env.connect(address) as client:
        client.sendall(b"\x16\x03\x01")
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
    bitflow.wait_records(7)
    wait_counters(
        statsd,
        {
            f"{PROXY}.connections.closed.client_left": 1,
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


def test_failed_handshakes_with_targets_are_failed_dials(env, statsd, pki):
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


def test_handshakes_are_timed_and_certificates_days_are_counted(env, statsd, pki):
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


def test_the_time_of_a_targets_handshake_leaves_out_those_that_failed(env, statsd, pki):
    silent = env.serve(sockets.receive_until_broken)
    listener, address = env.listen(), env.address()
    first = tls_target(silent.address, pki.trusted, handshake_timeout="1500ms") | {"name": "silent"}
    second = tls_target(listener.address, pki.trusted) | {"name": "good"}
    start(env, statsd, proxy(address, first, second, connection_load_balancer="failover"))
    sock = env.connect(address)
    accepted = tls_raw.Tls(listener.accept(), tls_raw.server_context(pki.server), server_side=True).handshake()
    sock.sendall(b"hello")
    assert accepted.read() == b"hello"
    name = f"{PROXY}.time.target_handshake"
    (told,) = wait_for(lambda: statsd.timers().get(name), lambda: f"its time: {statsd.timer_counts()}")
    assert 0 < told < 1500  # what the silent target alone took


def test_the_figures_of_the_process_are_the_kernels(env, statsd):
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

    wait_for(fits, lambda: f"{statsd.gauges()} {bitflow.thread_names()} {bitflow.descriptors()}", 20)
    assert "statsd" in bitflow.thread_names()
    for client in clients:
        client.close()
    bitflow.wait_records(7)
    wait_for(lambda: statsd.gauges()["threads.busy"] == 0, "no thread is busy")
    assert statsd.gauges()["threads.parked"] >= 1
    assert statsd.gauges()["process.uptime"] < 600

    def cpu():
        return (statsd.counter("process.cpu.user") + statsd.counter("process.cpu.system")) / 1000

    wait_for(lambda: abs(cpu() - bitflow.cpu_seconds()) < 0.1 * pace(), lambda: f"{cpu()} is right", 20)


def test_lost_records_are_counted(env, statsd):
    echo, address = env.echo(), env.address()
    bitflow = start(env, statsd, proxy(address, echo.address, connection_log="/dev/full"))
    for _ in range(3):
        use(address)
    wait_counters(statsd, {"telemetry.dropped.connection_records": 3, f"{PROXY}.connections.accepted": 3})
    assert bitflow.is_running()
