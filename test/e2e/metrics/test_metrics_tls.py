"""TLS in metrics: each failed handshake under its cause, as many as in the connection log; the days of certificates."""

import collections
import datetime
import re
import signal
import ssl
import threading

import pytest

import sockets
import tls_raw
from environment import proxy
from telemetry_cases import Datagrams, all_on, assert_each_ends_once, ends, wait_equal, wait_sums
from tls_cases import tls_listener, tls_target
from waiting import wait_for

BAD_SERVER_HELLO = b"\x16\x03\x03\x00\x08\x02\x00\x00\x04abcd"
BAD_MESSAGE = b"\x16\x03\x03\x00\x08\x77\x00\x00\x04abcd"
FATAL_ALERT = b"\x15\x03\x03\x00\x02\x02\x50"  # internal_error


@pytest.fixture
def statsd(env):
    return env.keep(Datagrams())


def shake(client, context=None, server_name="server.test"):
    """A handshake, and everything after it until the end."""
    try:
        end = tls_raw.Tls(client, context or tls_raw.client_context(), server_name=server_name).handshake()
        end.read_until_end()
    except (ssl.SSLError, EOFError, OSError):
        pass


def says(data):
    def client(sock):
        sock.sendall(data)
        sockets.receive_until_broken(sock)

    return client


def hello(context):
    near, far = sockets.socket.socketpair()
    with near, far:
        return tls_raw.Tls(near, context, server_name="server.test").hello()


def clients_cases(pki):
    """name: (cause, the record's reason, keys of tls_context, keys of options, what the client does)"""
    failed, strict = "client_handshake_failed", {"verify_mode": "strict"}
    context = tls_raw.client_context
    offer = hello(context())
    cases = {
        "silent": ("timeout", "client_handshake_timeout", {"handshake_timeout": "150ms"}, says(b"")),
        "half": ("timeout", "client_handshake_timeout", {"handshake_timeout": "150ms"}, says(offer[:100])),
        "leaves": ("closed", failed, {}, lambda sock: sock.sendall(offer[:1])),
        "half-leaves": ("closed", failed, {}, lambda sock: sock.sendall(offer[:100])),
        "resets": ("closed", failed, {}, lambda sock: (sock.sendall(offer), sock.recv(1), sockets.reset(sock))),
        "http": ("not_tls", failed, {}, says(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")),
        "ssh": ("not_tls", failed, {}, says(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")),
        "old": ("version", failed, {"minimum_version": "1.3"},
                lambda sock: shake(sock, context(version="TLSv1.2"))),
        "suites": ("cipher", failed, {},
                   lambda sock: shake(sock, context(version="TLSv1.2", suites="AES128-SHA"))),
        "alpn": ("protocol", failed, {"application_protocols": ["h2"]},
                 lambda sock: shake(sock, context(protocols=["http/1.1"]))),
        "name": ("server_name", "unrecognized_name", {}, lambda sock: shake(sock, server_name="nobody.test")),
        "distrusts": ("certificate_refused", failed, {},
                      lambda sock: shake(sock, ssl.create_default_context())),
        "alert": ("alert", failed, {}, says(FATAL_ALERT)),
        "junk": ("rules", failed, {}, says(offer[:5] + b"\x01\x00\x00\x04abcd" + offer[13:])),
        "junk-first": ("rules", failed, {}, says(BAD_MESSAGE)),
    }
    for version in ("TLSv1.2", "TLSv1.3"):
        mark = version[-1]
        cases[f"missing{mark}"] = (
            "certificate_missing", failed, strict, lambda sock, v=version: shake(sock, context(version=v)))
        cases[f"unauthorized{mark}"] = (
            "certificate_unauthorized", "name_not_authorized", {**strict, "authorized_names": ["cn:nobody"]},
            lambda sock, v=version: shake(sock, context(identity=pki.client, version=v)))
        for kind in ("stranger", "expired", "wrong usage"):
            identity = pki.bad_clients[kind]
            cases[f"{kind.replace(' ', '-')}{mark}"] = (
                "certificate_invalid", failed, strict,
                lambda sock, v=version, i=identity: shake(sock, context(identity=i, version=v)))
    return cases


def by_cause(statsd, pattern):
    """{name: {cause: count}} of the counters of failed handshakes."""
    found = collections.defaultdict(dict)
    for name, value in statsd.counters().items():
        match = re.fullmatch(pattern, name)
        if match:
            found[match[1]][match[2]] = value
    return dict(found)


def wait_causes(statsd, pattern, cases):
    """Two under the cause of each case, and nothing else."""
    wait_equal(lambda: {name: {cause: 2} for name, (cause, *_) in cases.items()}, lambda: by_cause(statsd, pattern))


def test_each_failed_handshake_of_a_client_is_counted_under_its_cause(env, pki, statsd):
    cases, addresses, entries = clients_cases(pki), {}, []
    target = {"name": "server.test", "address": env.echo().address}
    for name, (_, _, keys, _) in cases.items():
        addresses[name] = env.address()
        listener = tls_listener(pki.server.entry() | {"authority": str(pki.trusted)}, **keys)
        options = {"connection_load_balancer": "sni"} if name == "name" else {}
        entries.append(proxy(addresses[name], target, name=name, listener=listener, **options))
    bitflow = env.start(*entries, application=all_on(statsd))
    for name, (*_, act) in cases.items():
        for _ in range(2):
            with sockets.connect(addresses[name]) as client:
                act(client)
    wait_for(lambda: len(ends(bitflow.records())) == 2 * len(cases), "their records")
    wait_causes(statsd, r"proxy\.([^.]+)\.handshakes\.failed\.(\w+)", cases)
    reasons = collections.Counter((record["proxy"], record["reason"]) for record in ends(bitflow.records()))
    assert reasons == collections.Counter({(name, reason): 2 for name, (_, reason, *_) in cases.items()})
    assert all(record["error"] for record in ends(bitflow.records()))
    assert_each_ends_once(bitflow.records())
    wait_sums(bitflow, statsd)


def serves(context):
    def handler(connection):
        try:
            end = tls_raw.Tls(connection, context, server_side=True).handshake()
            end.read_until_end()
        except (ssl.SSLError, EOFError):
            pass
        sockets.receive_until_broken(connection)

    return handler


def answers(data):
    """Answers the ClientHello with this."""

    def handler(connection):
        connection.recv(65536)
        connection.sendall(data)
        sockets.receive_until_broken(connection)

    return handler


def refuses_by(pki, alert):
    context = tls_raw.server_context(pki.server)
    context.sni_callback = lambda *_: alert
    return serves(context)


def targets_cases(pki, asked):
    """name: (cause, the record's reason, what the target does, keys of its tls_context). `asked` is released when the
    target that never answers gets a ClientHello."""

    def never(connection):
        connection.recv(1)
        asked.release()
        sockets.receive_until_broken(connection)

    failed, server = "target_handshake_failed", tls_raw.server_context
    demanding = server(pki.server, authority=str(pki.other.certificate), version="TLSv1.2")
    cases = {
        "silent": ("timeout", "target_handshake_timeout", sockets.receive_until_broken, {"handshake_timeout": "150ms"}),
        "deserted": ("cancelled", "client_left", never, {}),
        "closes": ("closed", failed, lambda connection: connection.recv(65536), {}),
        "resets": ("closed", failed, lambda connection: (connection.recv(1), sockets.reset(connection)), {}),
        "http": ("not_tls", failed, answers(b"HTTP/1.1 400 Bad Request\r\n\r\n"), {}),
        "old": ("version", failed, serves(server(pki.server, version="TLSv1.2")), {"minimum_version": "1.3"}),
        "refuses": ("certificate_refused", failed, serves(demanding), {}),
        "name": ("server_name", failed, refuses_by(pki, ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME), {}),
        "alert": ("alert", failed, refuses_by(pki, ssl.ALERT_DESCRIPTION_INTERNAL_ERROR), {}),
        "junk": ("rules", failed, answers(BAD_SERVER_HELLO), {}),
    }
    for kind in ("stranger", "expired", "not yet valid", "wrong name", "wrong usage"):
        cases[kind.replace(" ", "-")] = (
            "certificate_invalid", failed, serves(server(pki.bad_servers[kind])), {})
    return cases


def test_each_failed_handshake_of_a_target_is_counted_under_its_cause(env, pki, statsd):
    """Each is a failed dial under the record's reason, too."""
    asked = threading.Semaphore(0)
    cases, addresses, entries = targets_cases(pki, asked), {}, []
    for name, (_, _, handler, keys) in cases.items():
        addresses[name] = env.address()
        identity = pki.client if name == "refuses" else None
        target = tls_target(env.serve(handler).address, pki.trusted, identity, **keys)
        entries.append(proxy(addresses[name], target | {"name": "t"}, name=name))
    bitflow = env.start(*entries, application=all_on(statsd))
    for name in cases:
        for _ in range(2):
            with sockets.connect(addresses[name]) as client:
                if name == "deserted":
                    asked.acquire(timeout=10)
                else:
                    sockets.receive_until_broken(client)
    wait_for(lambda: len(ends(bitflow.records())) == 2 * len(cases), "their records")
    wait_causes(statsd, r"proxy\.([^.]+)\.target\.t\.handshakes\.failed\.(\w+)", cases)
    reasons = {name: {reason: 2} for name, (_, reason, *_) in cases.items()}
    assert by_cause(statsd, r"proxy\.([^.]+)\.target\.t\.dials\.failed\.(\w+)") == reasons
    assert by_cause(statsd, r"proxy\.([^.]+)\.connections\.closed\.(\w+)") == reasons
    ended = collections.Counter((record["proxy"], record["reason"]) for record in ends(bitflow.records()))
    assert ended == {(name, reason): 2 for name, (_, reason, *_) in cases.items()}
    wait_sums(bitflow, statsd)


# The days of certificates


def until(**left):
    """An end date that is so far away, in openssl's format."""
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(**left)
    return end.strftime("%Y%m%d%H%M%SZ")


def test_days_left_are_those_of_the_certificate_that_expires_first(env, pki, statsd):
    """Of several certificates, and within a chain; a renewal is seen."""
    key = pki.keys["p256"]

    def lasting(authority=None, names="DNS:server.test", **left):
        return (authority or pki.root).issue(key, "a dated server", names, end=until(**left))

    identities = {
        "ten": [lasting(days=10, hours=12)],
        "two": [lasting(days=40, hours=1), lasting(days=5, hours=23, names="DNS:other.test")],
        "hours": [lasting(hours=23)],
        "barely": [lasting(days=1, minutes=5)],
        # Its intermediate, which the authority made for 3650 days, is the first to go.
        "chained": [pki.middle.issue(pki.keys["p384"], "an old server", end=until(days=8000))],
    }
    days = {"ten": 10, "two": 5, "hours": 0, "barely": 1, "chained": 3649, "plain": None}
    live = identities["ten"][0].copy(env.directory)
    identities["ten"] = [live]
    names, end = "DNS:client.test", until(days=33, hours=1)
    shown = pki.root.issue(pki.second_key, "a dated client", names, "clientAuth", end=end)
    target = tls_target(env.refusing(), pki.trusted, shown) | {"name": "shown"}
    entries = [
        proxy(env.address(), target, name=name, listener=tls_listener(*identities[name]) if name != "plain" else None)
        for name in days
    ]
    bitflow = env.start(*entries, application=all_on(statsd))

    def left():
        gauges = statsd.gauges()
        return {name: gauges.get(f"proxy.{name}.certificate.days_left") for name in days}

    wait_for(lambda: "process.uptime" in statsd.gauges(), "the first report")
    wait_for(lambda: left() == days, lambda: f"{left()}, wanted {days}")
    for name in days:
        assert statsd.gauges()[f"proxy.{name}.target.shown.certificate.days_left"] == 33
    renewed = lasting(days=90, hours=1)
    live.certificate.write_bytes(renewed.certificate.read_bytes())  # put in force by itself
    wait_for(lambda: left() == days | {"ten": 90}, lambda: f"{left()}: it was renewed")
    # A file that does not match its key is refused; the days of the one in force are reported on.
    live.certificate.write_bytes(pki.second_server.certificate.read_bytes())
    bitflow.signal(signal.SIGHUP)
    wait_for(lambda: "reload failed" in bitflow.stderr(), "it is refused")
    bitflow.stop()  # with one more report
    assert left() == days | {"ten": 90}, "the old one is in force"
