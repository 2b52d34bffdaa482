"""Balancing while targets fail, each in another way, some for good and some for a while; names of which few addresses
work, as targets and as SOCKS5 servers; clients that leave."""

import collections
import threading

import pytest

import hosts
import peers
import proxy_headers
import listener_kinds
import sockets
import socks_peers
import tls_cases
import tls_raw
from environment import proxy
from listener_kinds import StoppingSocks, said, through
from balancing_cases import held_at, in_order, visit
from hosts import same_port
from waiting import Stopwatch, holds_for, pace, scale, wait_for

FAILED = "cannot connect to the target"
REFUSING_SOCKS = (b"\x05\x00", b"\x05\x05" + socks_peers.YES[2:])


@pytest.fixture
def refusing_socks(env):
    """A SOCKS5 server that reports a refusal."""
    return env.serve(socks_peers.answering(*REFUSING_SOCKS))


@pytest.fixture
def good(env):
    """Two targets that work."""
    return [env.serve(peers.greeter(f"server-{number}")) for number in (1, 2)]


# Failover


def every_way(env, pki, socks):
    """(a target, the words in the log) for each way of failing."""
    full = env.listen(backlog=0)
    full.fill_queue()
    speak = tls_cases.tls_echo(tls_raw.server_context(pki.bad_servers["stranger"]))
    stranger = env.serve(lambda connection: (proxy_headers.receive_v1(connection), speak(connection)))
    silent = env.listen()
    return [
        ({"address": env.refusing()}, "Connection refused"),
        ({"address": full.address, "connect_timeout": "300ms"}, full.address),
        ({"address": "nobody.test:80"}, "nobody.test"),
        ({"address": env.unix("nobody.sock")}, "No such file"),
        (through(socks.address, "192.0.2.1:80"), "answered: connection refused"),
        (tls_cases.tls_target(stranger.address, pki.trusted), "stranger server"),
        (tls_cases.tls_target(silent.address, pki.trusted, target={"connect_timeout": "300ms"}), "timed out"),
    ]


def test_failover_goes_past_every_way_of_failing(env, pki, refusing_socks):
    """In order, each logged once in its own words; what the client sends meanwhile is not lost."""
    ways = every_way(env, pki, refusing_socks)
    good = env.listen()
    address = env.address()
    bitflow = env.start(
        proxy(
            address,
            *[target for target, _ in ways],
            good.address,
            listener=listener_kinds.listener("both", pki),
            connection_load_balancer="failover",
            enable_proxy_header=True,
        ),
        plan=hosts.no_names(env),
    )
    watch = Stopwatch()
    client = listener_kinds.Client(env, address, "both", pki)
    client.write(b"early" * 10_000)
    connection = good.accept()
    watch.between(0.6, 5, "the two that hang")
    assert proxy_headers.receive_v1(connection) == b"PROXY TCP4 203.0.113.7 203.0.113.8 4711 443\r\n"
    assert sockets.receive_exactly(connection, 50_000) == b"early" * 10_000
    connection.close()
    assert client.read_to_end() == b""
    client.end()
    client.socket.close()
    record = bitflow.record_of(listener_kinds.DECLARED)
    assert (record["reason"], record["attempts"]) == ("completed", len(ways) + 1), record
    assert (record["target"]["name"], record["target_tls"]) == (f"target{len(ways) + 1}", None)
    lines = said(bitflow, FAILED)
    assert [line["target"] for line in lines] == [f"target{at}" for at in range(1, len(ways) + 1)]
    for (_, words), line in zip(ways, lines):
        assert words in line["error"], (words, line)
    bitflow.assert_quiet()


def test_a_client_that_leaves_ends_the_failover(env):
    """It leaves during the second target's dialogue: the third is not tried, and the second is not blamed."""
    stopped = StoppingSocks(env, "request")
    good = env.listen()
    address = env.address()
    bitflow = env.start(
        proxy(
            address,
            {"address": env.refusing()},
            {**through(stopped.url, "192.0.2.1:80"), "max_fails": 1, "connect_attempts": 5},
            good.address,
            connection_load_balancer="failover",
        )
    )
    for count in (1, 2):
        client = env.connect(address)
        stopped.wait_arrived(count)
        client.close()
        stopped.wait_left(count)
    for record in bitflow.wait_records(2):
        assert (record["reason"], record["target"]["name"]) == ("client_left", "target2")
        assert record["attempts"] == 2, record
    assert not good.has_pending() and not said(bitflow, "the target is passed over for now")
    bitflow.assert_quiet()


def test_attempts_and_failures_are_counted_apart(env, refusing_socks):
    """max_fails counts connections, not attempts; a refusal by the SOCKS5 server is a failure, too."""
    good = env.serve(peers.greeter("good"))
    address = env.address()
    target = {**through(refusing_socks.address, "192.0.2.1:80"), "connect_attempts": 3, "max_fails": 2}
    bitflow = env.start(
        proxy(address, {**target, "fail_timeout": "60s"}, good.address, connection_load_balancer="failover")
    )
    for _ in range(4):
        assert visit(env, address) == "good"
    assert in_order(bitflow.wait_records(4)) == [4, 4, 1, 1]
    assert refusing_socks.accepted == 6
    assert [line["attempt"] for line in said(bitflow, FAILED)] == ["1", "2", "3"] * 2
    assert len(said(bitflow, "the target is passed over for now")) == 1


# least-connections


def balanced(address, *targets, **options):
    return proxy(address, *targets, connection_load_balancer="least-connections", **options)


@pytest.mark.parametrize(
    "rule", [{}, {"max_fails": 3, "fail_timeout": "60s"}], ids=["always tried", "passed over"]
)
def test_least_connections_shares_evenly_beside_failing_targets(env, good, refusing_socks, rule):
    """Two of four targets fail, one of them slowly: the others share the clients, and none is turned away."""
    address = env.address()
    bitflow = env.start(
        balanced(
            address,
            {"address": env.refusing(), **rule},
            good[0].address,
            {**through(refusing_socks.address, "192.0.2.1:80"), **rule},
            good[1].address,
        )
    )
    count = scale(80, 16)
    clients = [env.connect(address) for _ in range(count)]
    names = [sockets.receive_exactly(client, 9).decode().strip() for client in clients]
    shares = collections.Counter(names)
    assert sum(shares.values()) == count
    assert max(shares.values()) - min(shares.values()) <= max(4, count // 5), shares
    for client in clients:
        client.close()
    records = bitflow.wait_records(count)
    assert {record["reason"] for record in records} == {"completed"}
    assert {record["target"]["name"] for record in records} == {"target2", "target4"}
    bitflow.assert_quiet()


def test_least_connections_forgets_dials_that_failed(env):
    """Nor do clients count that left during the dial: once the target answers, it gets as many as the other one has."""
    held = env.enter(peers.Refusing())
    other = env.serve(peers.greeter("server-2"))
    address = env.address()
    bitflow = env.start(balanced(address, held.address, other.address))
    clients = held_at(env, address, 6)
    assert {name: len(each) for name, each in clients.items()} == {"server-2": 6}
    held.listen()
    for _ in range(6):
        env.connect(address).sendall(b"to the first")
    for _ in range(6):
        assert sockets.receive_exactly(env.keep(held.accept()), 12) == b"to the first"
    # Now both have six: the next two go to one each.
    last = [env.connect(address) for _ in range(2)]
    last[0].sendall(b"x")
    last[1].sendall(b"y")
    assert sockets.receive_exactly(env.keep(held.accept()), 1) in b"xy"
    wait_for(lambda: other.live == 7, "one for the other")
    assert bitflow.records() == []


def test_least_connections_counts_dials_until_their_clients_leave(env):
    """Dials that hang count; those whose client has left do not."""
    stopped = StoppingSocks(env, "greeting")
    other = env.serve(peers.greeter("server-2"))
    address = env.address()
    bitflow = env.start(balanced(address, through(stopped.url, "192.0.2.1:80"), other.address))
    leaving = []
    for count in range(1, 4):  # one to the first, then one to the second
        leaving.append(env.connect(address))
        stopped.wait_arrived(count)
        assert held_at(env, address, 1).keys() == {"server-2"}
    for client in leaving:
        sockets.reset(client)
    stopped.wait_left(3)
    assert {record["reason"] for record in bitflow.wait_records(3)} == {"client_left"}
    for count in range(4, 7):  # the first has none, the second three
        env.connect(address)
        stopped.wait_arrived(count)
    assert other.accepted == 3


def test_round_robin_goes_past_a_failing_socks_server(env, good, refusing_socks):
    """Its turn goes to the next target."""
    address = env.address()
    bitflow = env.start(
        proxy(
            address,
            good[0].address,
            through(refusing_socks.address, "192.0.2.1:80"),
            good[1].address,
            connection_load_balancer="round-robin",
        )
    )
    got = [visit(env, address) for _ in range(9)]
    assert got == ["server-1", "server-2", "server-2"] * 3
    assert in_order(bitflow.wait_records(9)) == [1, 2, 1] * 3


# Names of many addresses


MANY = [f"127.0.9.{number}" for number in range(1, 21)]


@pytest.fixture(scope="module")
def dnsmasq():
    names = [("twenty.test", host) for host in MANY]
    names += [("forty.test", f"127.0.{8 + number // 20}.{number % 20 + 1}") for number in range(40)]
    names += [("forty.test", "::1"), ("mixed.test", "::1")]
    names += [("mixed.test", f"127.0.9.{number}") for number in (1, 2, 3)]
    with hosts.Dnsmasq(names) as server:
        yield server


def plan(env, dnsmasq):
    return hosts.plan(env, [], dnsmasq.address)


@pytest.mark.parametrize("dual", [False, True], ids=["single stack", "dual stack"])
@pytest.mark.parametrize("at", [0, 10, 19], ids=["the first", "one in the middle", "the last"])
def test_the_one_address_of_twenty_that_works_is_served_over_tls(env, pki, dnsmasq, at, dual):
    """Wherever it stands; two of the others are black holes; header, TLS and verification of the name follow."""
    holes = [MANY[number] for number in (5, 15)]
    target, port = same_port(env, MANY[at], holes)
    identity = pki.server_for("twenty.test")
    told = []

    def serve():
        connection = target.accept()
        told.append(proxy_headers.receive_v2(connection)[1])
        end = tls_raw.Tls(connection, tls_raw.server_context(identity), server_side=True).handshake()
        end.write(end.read_exactly(5))
        end.end()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    address = env.address()
    bound = {"connect_timeout": "9s"}
    entry = tls_cases.tls_target(f"twenty.test:{port}", pki.trusted, name=None, target=bound)
    bitflow = env.start(
        proxy(address, entry, enable_dual_stack=dual, enable_proxy_header=True, proxy_header_version=2),
        plan=plan(env, dnsmasq),
    )
    client = env.connect(address)
    client.sendall(b"hello")
    assert sockets.receive_to_end(client) == b"hello"
    client.close()
    thread.join()
    record = bitflow.wait_records(1)[0]
    assert record["total_ms"] <= 2000 * pace(), record
    assert record["target"]["address"] == f"{MANY[at]}:{port}"
    assert (record["reason"], told) == ("completed", [0x21])
    assert record["target_tls"]["server_name"] == "twenty.test"
    bitflow.assert_quiet()


def test_the_one_address_of_a_socks_server_that_works_is_used(env, dnsmasq):
    port = sockets.free_port()
    env.enter(socks_peers.Microsocks(address=f"{MANY[12]}:{port}"))
    target = env.echo()
    address = env.address()
    bitflow = env.start(
        proxy(address, through(f"twenty.test:{port}", target.address)), plan=plan(env, dnsmasq)
    )
    for _ in range(3):
        client = env.connect(address)
        sockets.round_trip(client)
        client.close()
    for record in bitflow.wait_records(3):
        assert (record["reason"], record["target"]["via"]) == ("completed", f"{MANY[12]}:{port}"), record
        assert record["resolve_ms"] > 0


@pytest.mark.parametrize(
    "name, host", [("forty.test", "::1"), ("mixed.test", "::1"), ("mixed.test", MANY[2])]
)
@pytest.mark.parametrize("dual", [False, True], ids=["single stack", "dual stack"])
def test_the_address_that_works_is_found_in_either_family(env, dnsmasq, name, host, dual):
    """The client comes over IPv4, where all addresses refuse, or all but one."""
    target = env.listen(f"[{host}]:0" if ":" in host else f"{host}:0")
    port = target.address.rpartition(":")[2]
    address = env.address()
    bitflow = env.start(proxy(address, f"{name}:{port}", enable_dual_stack=dual), plan=plan(env, dnsmasq))
    hosts.assert_connects(env, bitflow, address, target, 0, 1.5)


def test_twenty_addresses_that_refuse_are_one_failed_attempt(env, dnsmasq):
    """One reason and one line in the log; nothing is left behind, and failover goes on."""
    good = env.serve(peers.greeter("good"))
    port, address, other = sockets.free_port(), env.address(), env.address()
    bitflow = env.start(
        proxy(address, f"twenty.test:{port}", name="alone"),
        proxy(other, f"twenty.test:{port}", good.address, connection_load_balancer="failover"),
        plan=plan(env, dnsmasq),
    )
    sockets.was_rejected(env.connect(address))
    assert visit(env, other) == "good"
    records = listener_kinds.records_by_proxy(bitflow, 2)
    assert (records["alone"]["reason"], records["alone"]["attempts"]) == ("connect_refused", 1)
    assert (records["front"]["reason"], records["front"]["attempts"]) == ("completed", 2)
    assert len(said(bitflow, FAILED)) == 2
    bitflow.assert_quiet()


def test_clients_that_leave_end_the_race_of_many_addresses(env, dnsmasq):
    """No socket is left, and no further address is tried."""
    target, port = same_port(env, MANY[0], MANY[1:4])
    target.close()
    address = env.address()
    bitflow = env.start(
        proxy(address, {"address": f"mixed.test:{port}", "connect_timeout": "60s"}), plan=plan(env, dnsmasq)
    )
    clients = [env.connect(address) for _ in range(scale(20, 5))]
    wait_for(lambda: listener_kinds.connecting(f"x:{port}") >= len(clients), "they try")
    for client in clients:
        client.close()
    records = bitflow.wait_records(len(clients))
    assert {record["reason"] for record in records} == {"client_left"}
    assert listener_kinds.connecting(f"x:{port}") == 0
    holds_for(0.3, lambda: listener_kinds.connecting(f"x:{port}") == 0, "no further address is tried")
    bitflow.assert_quiet()
