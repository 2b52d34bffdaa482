"""source_connection_limit: what one source may have, what others still get, and that every place comes back."""

import contextlib
import socket
import threading

import pytest

import bitflow_process
import flood
import networks
import sockets
import tls_cases
import tls_raw
import waiting
from environment import proxy
from metrics_cases import metrics, wait_counters
from proxy_headers import v1, v2
from telemetry_cases import Datagrams
from waiting import scale, wait_for

ONE, OTHER, THIRD = "127.0.0.11", "127.0.0.12", "127.0.0.13"
LIMITED = "source_connection_limit"


def served(env, address, source, count=1):
    """That many clients of the source, all of them served and open."""
    clients = [env.connect(address, source=source) for _ in range(count)]
    for client in clients:
        sockets.round_trip(client)
    return clients


def assert_turned_away(env, bitflow, address, source, reason=LIMITED):
    client = env.connect(address, source=source)
    own = sockets.local_name(client)
    sockets.was_rejected(client)
    client.close()
    record = bitflow.record_of(own)
    assert (record["event"], record["reason"], record["phase"]) == ("rejected", reason, "accepting")
    return record


def close(bitflow, *clients):
    """Waits until each has its record: from then on it does not count."""
    names = [sockets.local_name(client) for client in clients]
    for client in clients:
        client.close()
    for name in names:
        bitflow.record_of(name)


def assert_room(env, bitflow, address, source, limit):
    """Exactly that many places are free for the source; they are free again afterwards."""
    clients = served(env, address, source, limit)
    assert_turned_away(env, bitflow, address, source)
    close(bitflow, *clients)


def reload(env, bitflow, entry):
    env.config(entry)
    bitflow.reload()


def test_one_source_has_its_share_and_others_theirs(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address, source_connection_limit=3))
    held = {source: served(env, address, source, 3) for source in (ONE, OTHER)}
    for source in (ONE, OTHER, ONE):
        record = assert_turned_away(env, bitflow, address, source)
        assert (record["ended_by"], record["error"], record["target"]) == ("proxy", None, None)
    lines = [line for line in bitflow.log_lines(partial=True) if line["msg"] == "rejected"]
    assert {(line["level"], line["reason"]) for line in lines} == {("warn", LIMITED)}
    for clients in held.values():
        for number in range(3):  # given back, and taken again
            close(bitflow, clients[number])
            clients[number] = served(env, address, ONE if clients is held[ONE] else OTHER)[0]
    assert_turned_away(env, bitflow, address, ONE)
    for client in held[ONE] + held[OTHER]:
        sockets.round_trip(client)


def test_nothing_is_read_from_a_client_that_is_turned_away(env):
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address, source_connection_limit=1))
    first, _ = env.pair(address, listener)
    client = env.connect(address)
    own = sockets.local_name(client)
    with contextlib.suppress(OSError):
        client.sendall(b"x" * 100_000)
    record = bitflow.record_of(own)
    assert (record["reason"], record["bytes_from_client"]) == (LIMITED, 0)
    assert not listener.has_pending() and sockets.is_open(first)


def test_a_client_is_told_the_nearest_reason_and_takes_no_place_of_another(env):
    """The address first, then the source's limit, then the proxy's."""
    echo, address = env.echo(), env.address()
    listener = {"authorized_sources": [f"{ONE}/32", f"{OTHER}/32", f"{THIRD}/32"]}
    bitflow = env.start(
        proxy(address, echo.address, listener=listener, connection_limit=4, source_connection_limit=2)
    )
    for _ in range(5):
        assert_turned_away(env, bitflow, address, "127.0.0.14", "source_not_authorized")
    first = served(env, address, ONE, 2)
    for _ in range(5):  # these would fill the proxy
        assert_turned_away(env, bitflow, address, ONE)
    second = served(env, address, OTHER, 2)
    for _ in range(5):
        assert_turned_away(env, bitflow, address, ONE)
        assert_turned_away(env, bitflow, address, THIRD, "connection_limit")
    close(bitflow, *first)
    assert_room(env, bitflow, address, THIRD, 2)
    assert_room(env, bitflow, address, ONE, 2)
    for client in second:
        sockets.round_trip(client)


@pytest.fixture
def own_network():
    """The test, and what it starts, are in a network of their own, with IPv6 addresses of two /64."""
    with networks.Networks() as both:
        for number in (1, 2, 3):
            both.ip("-n", both.near, "address", "add", f"fd00:1:2:3::{number}/128", "dev", "lo", "nodad")
        both.ip("-n", both.near, "address", "add", "fd00:1:2:4::1/128", "dev", "lo", "nodad")
        with networks.inside(both.near):
            yield


def test_an_ipv6_network_is_one_source_and_a_mapped_address_its_ipv4_one(own_network, env):
    echo, port = env.echo(), sockets.free_port()
    bitflow = env.start(proxy(f":{port}", echo.address, source_connection_limit=3))
    by_six, by_four = f"[fd00:1:2:3::1]:{port}", f"127.0.0.1:{port}"
    for number in (1, 2, 3):
        served(env, by_six, f"fd00:1:2:3::{number}")
    for number in (1, 2, 3):
        assert_turned_away(env, bitflow, by_six, f"fd00:1:2:3::{number}")
    assert_room(env, bitflow, by_six, "fd00:1:2:4::1", 3)
    for source in (ONE, OTHER, THIRD):  # all of them in ::ffff:0:0/96
        assert_room(env, bitflow, by_four, source, 3)


def test_failed_dials_and_handshakes_give_the_place_back(env, pki):
    dead, secure = env.address(), env.address()
    bitflow = env.start(
        proxy(dead, env.refusing(), name="dead", source_connection_limit=1),
        proxy(secure, env.echo().address, name="secure", listener=tls_cases.tls_listener(pki.server),
              source_connection_limit=1),
    )
    for address, message in ((dead, b""), (secure, b"GET / HTTP/1.0\r\n\r\n")):
        for _ in range(5):
            client = env.connect(address)
            own = sockets.local_name(client)
            client.sendall(message)
            sockets.receive_until_broken(client)
            bitflow.record_of(own)
    reasons = [record["reason"] for record in bitflow.records()]
    assert reasons == ["connect_refused"] * 5 + ["client_handshake_failed"] * 5


def test_a_half_closed_connection_counts(env):
    target, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, target.address, source_connection_limit=1))
    client, connection = env.pair(address, target)
    client.shutdown(socket.SHUT_WR)
    assert sockets.receive_to_end(connection) == b""
    assert_turned_away(env, bitflow, address, None)
    connection.close()
    assert sockets.receive_to_end(client) == b""
    close(bitflow, client)
    env.pair(address, target)


def test_each_proxy_counts_for_itself(env):
    echo, addresses = env.echo(), [env.address(), env.address()]
    bitflow = env.start(
        *(proxy(each, echo.address, name=f"p{n}", source_connection_limit=1) for n, each in enumerate(addresses))
    )
    for address in addresses:
        served(env, address, ONE)
        assert_turned_away(env, bitflow, address, ONE)


def test_many_sources_leave_nothing_behind(env):
    """A source takes memory only as long as it has a connection."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address, source_connection_limit=1))
    sources = [f"127.{a}.{b}.1" for a in range(10, 10 + scale(20, 2)) for b in range(50)]

    def round_of_all():
        for source in sources:
            with contextlib.closing(sockets.connect(address, source=source)) as client:
                sockets.round_trip(client)
        wait_for(lambda: not bitflow.busy_threads(), "all have left")
        return bitflow.memory_kib("VmRSS")

    before = round_of_all()
    after = round_of_all()
    assert waiting.SANITIZED or after < before + 1024  # a sanitizer keeps what is freed
    for source in sources[::100]:
        assert_room(env, bitflow, address, source, 1)


def test_clients_turned_away_are_counted_by_a_metric(env):
    receiver = env.keep(Datagrams())
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address, **{LIMITED: 1}), application=metrics(receiver.address))
    served(env, address, ONE)
    for _ in range(3):
        assert_turned_away(env, bitflow, address, ONE)
    wait_counters(receiver, {f"proxy.front.connections.rejected.{LIMITED}": 3})


# Behind the PROXY protocol


def declared(env, address, header, data=b"x"):
    client = env.connect(address)
    client.sendall(header + data)
    return client


def test_declared_clients_are_the_sources(env):
    target, address = env.listen(), env.address()
    bitflow = env.start(
        proxy(address, target.address, listener={"proxy_protocol": True}, source_connection_limit=2)
    )

    def let_in(header):
        client = declared(env, address, header)
        connection = target.accept()
        assert sockets.receive_exactly(connection, 1) == b"x"
        return client, connection

    def assert_ended(header, name):
        sockets.was_rejected(declared(env, address, header))
        record = bitflow.record_of(name)
        assert (record["event"], record["reason"], record["phase"]) == ("connection", LIMITED, "admitting")
        assert (record["step"], record["bytes_from_client"], record["attempts"]) == ("proxy_header", 0, 0)

    first = let_in(v1("203.0.113.1", "192.0.2.1", 1, 443))
    let_in(v2("203.0.113.1", "192.0.2.1", 2, 443))
    assert_ended(v1("203.0.113.1", "192.0.2.1", 3, 443), "203.0.113.1:3")
    assert_ended(v2("203.0.113.1", "192.0.2.1", 4, 443), "203.0.113.1:4")
    assert_ended(v2("::ffff:203.0.113.1", "::1", 5, 443), "203.0.113.1:5")
    let_in(v1("203.0.113.2", "192.0.2.1", 1, 443))
    for number in (1, 2):
        let_in(v2(f"2001:db8::{number}", "2001:db8::9", number, 443))
    assert_ended(v2("2001:db8::3", "2001:db8::9", 3, 443), "[2001:db8::3]:3")
    # A header without a client counts for the balancer's own address; a client without an IP address for none.
    for header in (v2(command=0x20), b"PROXY UNKNOWN\r\n"):
        let_in(header)
    own = declared(env, address, v2(command=0x20))
    name = sockets.local_name(own)
    sockets.was_rejected(own)
    assert bitflow.record_of(name)["reason"] == LIMITED
    for _ in range(4):
        let_in(v2("/client", "/server"))
    lines = [line for line in bitflow.log_lines(partial=True) if line.get("reason") == LIMITED]
    assert lines and {line["level"] for line in lines} == {"warn"}
    # Given back, and taken again.
    for end in first:
        end.close()
    bitflow.record_of("203.0.113.1:1")
    let_in(v1("203.0.113.1", "192.0.2.1", 6, 443))
    assert_ended(v1("203.0.113.1", "192.0.2.1", 7, 443), "203.0.113.1:7")


def test_a_declared_client_is_turned_away_before_tls(env, pki):
    """What comes behind its header is neither answered nor waited for."""
    target, address = env.listen(), env.address()
    listener = tls_cases.tls_listener(pki.server, listener={"proxy_protocol": True}, handshake_timeout="1h")
    bitflow = env.start(proxy(address, target.address, listener=listener, source_connection_limit=1))
    header = v1("203.0.113.1", "192.0.2.1", 1, 443)
    first = tls_raw.Tls(declared(env, address, header, b""), tls_raw.client_context())
    first.handshake()
    silent = declared(env, address, v1("203.0.113.1", "192.0.2.1", 2, 443), b"")
    sockets.was_rejected(silent)
    record = bitflow.record_of("203.0.113.1:2")
    assert (record["reason"], record["client_tls"]) == (LIMITED, None)


# Reload


def test_a_reload_changes_the_limit_and_closes_nobody(env):
    echo, address = env.echo(), env.address()

    def entry(limit):
        return proxy(address, echo.address, **({LIMITED: limit} if limit else {}))

    bitflow = env.start(entry(2))
    held = served(env, address, ONE, 2)
    assert_turned_away(env, bitflow, address, ONE)
    reload(env, bitflow, entry(4))
    held += served(env, address, ONE, 2)
    assert_turned_away(env, bitflow, address, ONE)
    reload(env, bitflow, entry(1))
    for client in held:
        sockets.round_trip(client)
    close(bitflow, held.pop(), held.pop())
    assert_turned_away(env, bitflow, address, ONE)  # two are left
    reload(env, bitflow, entry(None))
    uncounted = served(env, address, ONE, 3)
    reload(env, bitflow, entry(4))
    # The two from before count, the three from between do not.
    held += served(env, address, ONE, 2)
    assert_turned_away(env, bitflow, address, ONE)
    close(bitflow, *uncounted)
    assert_turned_away(env, bitflow, address, ONE)
    close(bitflow, *held)
    assert_room(env, bitflow, address, ONE, 4)


# Exactness


def test_a_rush_from_four_sources_is_counted_exactly(env):
    """Thousands of quick clients: each source is counted by itself, and afterwards all places are there."""
    limit, address = 5, env.address()
    lock, live, most = threading.Lock(), {}, {}

    def handler(connection):
        source = connection.recv(1)
        with lock:
            live[source] = live.get(source, 0) + 1
            most[source] = max(most.get(source, 0), live[source])
        connection.sendall(source)
        sockets.receive_until_broken(connection)
        with lock:
            live[source] -= 1

    target = env.serve(handler)
    bitflow = env.start(proxy(address, target.address, source_connection_limit=limit))
    count, outcomes = scale(4000, 400) // 16, []

    def come(number):
        for _ in range(count):
            client = sockets.connect(address, source=f"127.0.0.{20 + number}")
            try:
                client.sendall(b"%d" % number)
                outcomes.append(client.recv(1))
            except (ConnectionResetError, BrokenPipeError):
                outcomes.append(b"")
            sockets.reset(client) if len(outcomes) % 2 else client.close()

    rushers = [threading.Thread(target=come, args=(index % 4,), daemon=True) for index in range(16)]
    # One holds all but one of its places meanwhile, so that there is a limit to meet.
    held = [env.connect(address, source="127.0.0.20") for _ in range(limit - 1)]
    for client in held:
        client.sendall(b"0")
        assert client.recv(1) == b"0"
    for each in rushers:
        each.start()
    for each in rushers:
        each.join(120)
    assert len(outcomes) == 16 * count
    for client in held:
        client.close()
    records = bitflow.wait_records(16 * count + len(held), timeout=30)
    rejected = [record for record in records if record["event"] == "rejected"]
    assert {record["reason"] for record in rejected} == {LIMITED}
    assert len(rejected) >= outcomes.count(b"") > 0
    # The target may see an end later than bitflow does, of no more connections than the limit.
    assert all(most[b"%d" % number] <= 2 * limit for number in range(4)), most
    for number in range(4):
        clients = [env.connect(address, source=f"127.0.0.{20 + number}") for _ in range(limit)]
        for client in clients:
            client.sendall(b"%d" % number)
            assert client.recv(1) == b"%d" % number
        # Ports have been used more than once by now: no record can be found by them.
        count = len(bitflow.records())
        sockets.was_rejected(env.connect(address, source=f"127.0.0.{20 + number}"))
        assert bitflow.wait_records(count + 1)[-1]["reason"] == LIMITED


def test_an_attacker_of_one_address_does_not_starve_the_others(env, pki):
    """It holds idle handshakes, more than the proxy may have, and opens new ones as fast as they end."""
    echo, address = env.echo(), env.address()
    listener = tls_cases.tls_listener(pki.server, handshake_timeout="1s")
    env.start(
        proxy(address, echo.address, listener=listener, connection_limit=40, source_connection_limit=10),
    )
    with flood.flood(address, held_at_once=60, opened_at_least=200):
        flood.serve_honest(env, address)


# Where there is no source


def test_clients_of_unix_sockets_are_not_limited(env):
    echo, inherited = env.echo(), env.listen(env.unix("inherited.sock"))
    limited = {LIMITED: 1}
    bitflow = env.start(
        proxy(env.unix(), echo.address, name="file", **limited),
        proxy("fd://3", echo.address, name="inherited", **limited),
        plan={"descriptors": [(inherited.socket.fileno(), 3)]},
    )
    for address in (env.unix(), inherited.address):
        for _ in range(5):
            sockets.round_trip(env.connect(address))
    said = [line for line in bitflow.log_lines(partial=True) if line["level"] == "warn"]
    assert len(said) == 2
    assert any(f"[0].options.{LIMITED}: means nothing" in line.get("warning", "") for line in said)
    assert any(LIMITED in line["msg"] and line.get("proxy") == "inherited" for line in said)


def test_an_inherited_connection_is_served_under_a_limit_of_one(env):
    target, acceptor = env.listen(), env.listen()
    client = env.connect(acceptor.address)
    bitflow = env.start(
        proxy("fd://3", target.address, source_connection_limit=1),
        plan={"descriptors": [(acceptor.accept().fileno(), 3)]},
        wait=False,
    )
    connection = target.accept()
    client.sendall(b"x")
    assert sockets.receive_exactly(connection, 1) == b"x"
    client.close()
    connection.close()
    bitflow.wait_ended()


def test_check_warns_of_a_limit_as_large_as_the_proxys_own(env):
    path = env.config(proxy(env.address(), env.address(), connection_limit=5, source_connection_limit=5))
    done = bitflow_process.run("--check", "--config", path)
    assert done.returncode == 0
    assert f"warning: server.proxies[0].options.{LIMITED}: protects nobody" in done.stderr
