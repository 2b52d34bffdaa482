"""Host names: several addresses raced as RFC 8305 says, resolvers that hang, names of listeners."""

import os
import signal

import pytest

import hosts
import peers
import sockets
from environment import proxy
from hosts import same_port
from waiting import Stopwatch, scale, wait_for


def localhost(env):
    """Many a machine's own hosts file names only one of the two."""
    return hosts.plan(env, [("localhost", "::1"), ("localhost", "127.0.0.1")])


def assert_connects(env, address, target, most, what):
    """A connection through bitflow is there in that time, and works."""
    watch = Stopwatch()
    client, connection = env.pair(address, target)
    watch.between(0, most, what)
    client.sendall(b"hi")
    assert sockets.receive_exactly(connection, 2) == b"hi"
    client.close()
    connection.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_name_of_two_families_connects_to_the_one_that_listens(env, host):
    """localhost is ::1 and 127.0.0.1; the target listens on one of them only."""
    target, port = same_port(env, host)
    address = env.address()
    bitflow = env.start(proxy(address, f"localhost:{port}"), plan=localhost(env))
    for _ in range(5):
        assert_connects(env, address, target, 1, "a connect by name")
    records = bitflow.wait_records(5)
    assert {record["reason"] for record in records} == {"completed"}


def test_a_name_that_is_refused_in_both_families_ends_as_connect_refused(env):
    address = env.address()
    refusing = env.enter(peers.Refusing())
    bitflow = env.start(
        proxy(address, "localhost:" + refusing.address.rpartition(":")[2]), plan=localhost(env)
    )
    sockets.was_rejected(env.connect(address))
    record = bitflow.wait_records(1)[0]
    assert record["reason"] == "connect_refused"


@pytest.mark.parametrize("prefix, family", [("tcp4", "127.0.0.1"), ("tcp6", "::1")], ids=["tcp4", "tcp6"])
def test_a_tcp4_or_tcp6_prefix_keeps_a_name_to_that_family(env, prefix, family):
    other = "::1" if family == "127.0.0.1" else "127.0.0.1"
    fine, fine_port = same_port(env, family)
    wrong, wrong_port = same_port(env, other)
    right, left = env.address(), env.address()
    bitflow = env.start(
        proxy(right, f"{prefix}://localhost:{fine_port}", name="right"),
        proxy(left, f"{prefix}://localhost:{wrong_port}", name="left"),
        plan=localhost(env),
    )
    env.pair(right, fine)
    sockets.was_rejected(env.connect(left))
    assert bitflow.wait_records(1)[0]["proxy"] == "left"
    assert not wrong.has_pending()


@pytest.mark.parametrize("order", ["good last", "good first"])
def test_an_address_that_never_answers_does_not_hold_up_the_next_one(env, order):
    """The next address is tried after the connection attempt delay, long before the first one's timeout."""
    good, bad = "127.0.0.3", "127.0.0.2"
    target, port = same_port(env, good, [bad])
    addresses = [bad, good] if order == "good last" else [good, bad]
    address = env.address()
    bitflow = env.start(
        proxy(address, {"address": f"many.test:{port}", "connect_timeout": "10s"}),
        plan=hosts.plan(env, [("many.test", each) for each in addresses]),
    )
    for _ in range(3):
        assert_connects(env, address, target, 1.2, "a connect past an address that never answers")
    bitflow.wait_records(3)
    bitflow.assert_quiet()


@pytest.mark.parametrize("family", ["IPv6 dead", "IPv4 dead"])
def test_a_family_that_never_answers_does_not_hold_up_the_other(env, family):
    good, bad = ("127.0.0.1", "::1") if family == "IPv6 dead" else ("::1", "127.0.0.1")
    target, port = same_port(env, good, [bad])
    address = env.address()
    env.start(
        proxy(address, {"address": f"both.test:{port}", "connect_timeout": "10s"}),
        plan=hosts.plan(env, [("both.test", "::1"), ("both.test", "127.0.0.1")]),
    )
    assert_connects(env, address, target, 1.2, "a connect past a dead family")


def test_a_refused_address_is_followed_by_the_next_one_at_once(env):
    """Twenty addresses refuse, the last one answers: there is no delay after a refusal."""
    target, port = same_port(env, "127.0.0.50")
    names = [("many.test", f"127.0.0.{number}") for number in range(30, 51)]
    address = env.address()
    bitflow = env.start(proxy(address, f"many.test:{port}"), plan=hosts.plan(env, names))
    watch = Stopwatch()
    client, connection = env.pair(address, target)
    watch.between(0, 1.5, "a connect past 20 refusals")
    client.sendall(b"hello")
    assert connection.recv(5) == b"hello"
    connection.close()
    client.close()
    record = bitflow.wait_records(1)[0]
    assert (record["attempts"], record["reason"]) == (1, "completed"), "several addresses are one attempt"


def test_connect_timeout_bounds_all_addresses_of_a_name_together(env):
    names = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
    _, port = same_port(env, "127.0.0.9", names)
    address = env.address()
    bitflow = env.start(
        proxy(address, {"address": f"many.test:{port}", "connect_timeout": "900ms"}),
        plan=hosts.plan(env, [("many.test", each) for each in names]),
    )
    watch = Stopwatch()
    sockets.was_rejected(env.connect(address))
    watch.between(0.8, 2, "connect_timeout")
    assert bitflow.wait_records(1)[0]["reason"] == "connect_timeout"


def test_the_sockets_that_lose_the_race_are_closed(env):
    """Once one address has answered, the socket that still waits for the other is closed."""
    target, port = same_port(env, "127.0.0.3", ["127.0.0.2"])
    address = env.address()
    bitflow = env.start(
        proxy(address, f"many.test:{port}"),
        plan=hosts.plan(env, [("many.test", "127.0.0.2"), ("many.test", "127.0.0.3")]),
    )
    client, _ = env.pair(address, target)
    client.sendall(b"x")
    most = bitflow.resting["socket"] + 2
    wait_for(lambda: bitflow.descriptors()["socket"] == most, lambda: f"two sockets: {bitflow.descriptors()}")


def test_connect_timeout_bounds_a_resolver_that_hangs(env):
    """getaddrinfo() has no deadline, the dial has one; and nothing piles up."""
    address = env.address()
    with hosts.SilentNameServer() as server:
        entry = {"address": "slow.test:80", "connect_timeout": "500ms"}
        bitflow = env.start(proxy(address, entry), plan=hosts.plan(env, [], server.address))
        watch = Stopwatch()
        clients = [env.connect(address) for _ in range(scale(30))]
        for client in clients:
            sockets.was_rejected(client)
        watch.between(0.45, 2, "connect_timeout while the resolver hangs")
        assert server.questions > 0
        records = bitflow.wait_records(len(clients))
        assert {record["reason"] for record in records} <= {"connect_timeout", "resolve_failed"}
        for client in clients:
            client.close()
        bitflow.assert_quiet(timeout=15)


def test_a_dead_name_does_not_hold_up_other_names(env):
    """However many wait for the one name, the look-up of another proxy's name does not queue behind them."""
    dead, address, echo = env.address(), env.address(), env.echo()
    with hosts.SilentNameServer(hosts.own_address(4)) as server:
        bitflow = env.start(
            proxy(dead, {"address": "slow.test:80", "connect_timeout": "60s"}, name="dead"),
            proxy(address, "localhost:" + echo.address.rpartition(":")[2]),
            plan=hosts.plan(env, [("localhost", "127.0.0.1")], server.address),
        )
        waiting = [env.connect(dead) for _ in range(100)]
        wait_for(lambda: server.questions and len(bitflow.busy_threads()) >= 100, "all of them wait")
        for _ in range(5):
            watch = Stopwatch()
            client = env.connect(address)
            sockets.round_trip(client)
            watch.between(0, 1, "the other name")
        for client in waiting:
            sockets.reset(client)
        assert {record["reason"] for record in bitflow.wait_records(100)} == {"client_left"}


def test_a_client_that_leaves_stops_a_dial_that_waits_for_the_resolver(env):
    address = env.address()
    with hosts.SilentNameServer(hosts.own_address(5)) as server:
        bitflow = env.start(
            proxy(address, {"address": "slow.test:80", "connect_timeout": "60s"}),
            plan=hosts.plan(env, [], server.address),
        )
        client = env.connect(address)
        wait_for(lambda: server.questions, "the resolver asks")
        watch = Stopwatch()
        sockets.reset(client)
        assert bitflow.wait_records(1)[0]["reason"] == "client_left"
        watch.between(0, 0.8, "the stop of the dial")


def test_the_end_does_not_wait_for_a_resolver_that_hangs(env):
    address = env.address()
    with hosts.SilentNameServer(hosts.own_address(6)) as server:
        bitflow = env.start(
            proxy(address, {"address": "slow.test:80"}),
            plan=hosts.plan(env, [], server.address),
            server={"drain_timeout": "200ms"},
        )
        env.connect(address)
        wait_for(lambda: server.questions, "the resolver asks")
        watch = Stopwatch()
        bitflow.signal(signal.SIGTERM)
        assert bitflow.wait_ended() == 0
        watch.between(0, 2, "the end")


def test_a_name_is_resolved_for_each_connection(env):
    """A changed address is used by the next connection."""
    one, port = same_port(env, "127.0.0.2")
    two = env.keep(peers.Listener(f"127.0.0.3:{port}"))
    address = env.address()
    plan = hosts.plan(env, [("moving.test", "127.0.0.2")])
    env.start(proxy(address, f"moving.test:{port}"), plan=plan)
    env.pair(address, one)
    file = env.directory / "etc-hosts"
    with open(file, "r+") as stream:  # in place: the bind mount is to this very file
        stream.write("127.0.0.1 localhost\n127.0.0.3 moving.test\n".ljust(os.path.getsize(file) - 1) + "\n")
    env.pair(address, two)


def test_a_listener_can_be_given_by_name(env):
    echo, port = env.echo(), sockets.free_port()
    env.start(proxy(f"localhost:{port}", echo.address), plan=hosts.plan(env, [("localhost", "127.0.0.1")]))
    sockets.round_trip(env.connect(f"127.0.0.1:{port}"))


def test_a_listener_name_that_does_not_resolve_fails_the_start(env):
    config = env.config(proxy("no-such-host.invalid:8080", env.address()))
    assert "no-such-host.invalid" in env.fails_to_start(config, hosts.no_names(env), timeout=20)
