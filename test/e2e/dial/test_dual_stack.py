"""Dual stack: the family over which the client came, with a real resolver on loopback (dnsmasq, seen by bitflow alone);
name servers that hang, for all or for one family; black holes."""

import pytest

import hosts
import peers
import sockets
from environment import proxy
from hosts import same_port
from sockets import join
from waiting import Stopwatch, scale, wait_for


DUAL = pytest.mark.parametrize("dual", [False, True], ids=["single stack", "dual stack"])


@pytest.fixture(scope="module")
def dnsmasq():
    names = [
        ("four.test", "127.0.0.1"),
        ("six.test", "::1"),
        ("dual.test", "127.0.0.1"),
        ("dual.test", "::1"),
        # The C library sorts the address that is closest to its own first.
        ("hole4.test", "127.0.0.1"),
        ("hole4.test", "127.0.0.2"),
        *[("twenty.test", f"127.0.9.{number}") for number in range(1, 21)],
    ]
    with hosts.Dnsmasq(names) as server:
        yield server


def plan(env, dnsmasq):
    return hosts.plan(env, [], dnsmasq.address)


@pytest.fixture
def both(env):
    """Listeners on one port of 127.0.0.1 and ::1."""
    for _ in range(50):
        port = sockets.free_port()
        made = {}
        try:
            for host in ("127.0.0.1", "::1"):
                made[host] = env.enter(peers.Listener(join(host, port)))
        except OSError:
            continue
        return made, port
    raise AssertionError("no port is free on both")


@pytest.mark.parametrize("client", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("name", ["four.test", "six.test", "dual.test"])
def test_the_clients_family_is_used_where_the_name_has_it(env, dnsmasq, both, name, client):
    targets, port = both
    front = sockets.free_port()
    bitflow = env.start(proxy(f":{front}", f"{name}:{port}", enable_dual_stack=True), plan=plan(env, dnsmasq))
    expected = {"four.test": "127.0.0.1", "six.test": "::1"}.get(name, client)
    record = hosts.assert_connects(env, bitflow, join(client, front), targets[expected], 0, 0.6)
    assert record["resolve_ms"] > 0


@pytest.mark.parametrize("literal", ["127.0.0.1", "::1"])
def test_a_literal_address_is_used_for_clients_of_either_family(env, both, literal):
    targets, port = both
    front = sockets.free_port()
    env.start(proxy(f":{front}", join(literal, port), enable_dual_stack=True))
    for client in ("127.0.0.1", "::1"):
        env.pair(join(client, front), targets[literal])


def test_a_fixed_family_wins(env, dnsmasq, both):
    targets, port = both
    address = env.address()
    env.start(proxy(address, f"tcp6://dual.test:{port}", enable_dual_stack=True), plan=plan(env, dnsmasq))
    env.pair(address, targets["::1"])


def test_a_client_without_a_family_is_connected_to_either(env, dnsmasq, both):
    """A client of a Unix socket: as without dual stack, whatever connects first."""
    targets, port = both
    env.start(proxy(env.unix(), f"dual.test:{port}", enable_dual_stack=True), plan=plan(env, dnsmasq))
    env.connect(env.unix())
    wait_for(lambda: any(target.has_pending() for target in targets.values()), "a target is connected")


@pytest.mark.parametrize("client, good", [("127.0.0.1", "::1"), ("::1", "127.0.0.1")], ids=["IPv4", "IPv6"])
def test_a_black_hole_in_the_clients_family_leads_to_the_other(env, dnsmasq, client, good):
    target, port = same_port(env, good, [client])
    front = sockets.free_port()
    bitflow = env.start(
        proxy(f":{front}", f"dual.test:{port}", enable_dual_stack=True), plan=plan(env, dnsmasq)
    )
    hosts.assert_connects(env, bitflow, join(client, front), target, 0.2, 0.6)


def test_a_black_hole_leads_to_the_next_address_of_its_family(env, dnsmasq):
    """127.0.0.1 comes first and is a black hole, 127.0.0.2 answers."""
    target, port = same_port(env, "127.0.0.2", ["127.0.0.1"])
    address = env.address()
    bitflow = env.start(proxy(address, f"hole4.test:{port}", enable_dual_stack=True), plan=plan(env, dnsmasq))
    hosts.assert_connects(env, bitflow, address, target, 0.2, 0.6)


@DUAL
def test_the_one_address_of_twenty_that_works_is_found(env, dnsmasq, dual):
    port = sockets.free_port()
    target = env.listen(f"127.0.9.17:{port}")
    address = env.address()
    bitflow = env.start(
        proxy(address, {"address": f"twenty.test:{port}", "connect_timeout": "5s"}, enable_dual_stack=dual),
        plan=plan(env, dnsmasq),
    )
    watch = Stopwatch()
    for _ in range(5):
        client, connection = env.pair(address, target)
        client.close()
        connection.close()
    watch.between(0, 3, "five connects")
    assert {record["target"]["address"] for record in bitflow.wait_records(5)} == {f"127.0.9.17:{port}"}


@DUAL
def test_a_name_that_does_not_exist_is_a_failed_resolution(env, dnsmasq, dual):
    address = env.address()
    bitflow = env.start(proxy(address, "nobody.test:80", enable_dual_stack=dual), plan=plan(env, dnsmasq))
    sockets.was_rejected(env.connect(address))
    record = bitflow.wait_records(1)[0]
    assert record["reason"] == "resolve_failed" and "nobody.test" in record["error"]


def start_with_silent_name_server(env, **timeouts):
    """(bitflow, address): a proxy whose target has a name that is never answered for."""
    server, address = env.enter(hosts.SilentNameServer()), env.address()
    entry = proxy(address, {"address": "slow.test:80", **timeouts}, enable_dual_stack=True)
    bitflow = env.start(entry, plan=hosts.plan(env, [], server.address))
    bitflow.quiet_check = False  # the look-ups are still under way at the end
    return bitflow, address


def test_resolve_timeout_bounds_a_lookup_without_an_answer(env):
    """The record tells it apart from connect_timeout."""
    bitflow, address = start_with_silent_name_server(env, resolve_timeout="700ms", connect_timeout="20s")
    watch = Stopwatch()
    clients = [env.connect(address) for _ in range(scale(50))]
    for client in clients:
        sockets.was_rejected(client)
    watch.between(0.6, 3, "resolve_timeout")
    records = bitflow.wait_records(len(clients))
    assert {record["reason"] for record in records} == {"resolve_failed"}
    assert all("no answer in time" in record["error"] for record in records)
    # One look-up for both families and one for each, however many clients wait.
    assert len([name for name in bitflow.thread_names() if name == "resolve"]) <= 3


def test_connect_timeout_bounds_the_resolver_too(env):
    bitflow, address = start_with_silent_name_server(env, resolve_timeout="20s", connect_timeout="700ms")
    watch = Stopwatch()
    sockets.was_rejected(env.connect(address))
    watch.between(0.6, 2, "connect_timeout")
    assert bitflow.wait_records(1)[0]["reason"] == "connect_timeout"


def test_dropped_aaaa_questions_do_not_hold_up_clients_by_ipv4(env, both):
    """Some name servers drop them."""
    targets, port = both
    server = env.enter(hosts.FaultyNameServer({hosts.A: ["127.0.0.1"]}))
    address = env.address()
    bitflow = env.start(
        proxy(address, f"half.test:{port}", enable_dual_stack=True), plan=hosts.plan(env, [], server.address)
    )
    bitflow.quiet_check = False
    watch = Stopwatch()
    env.pair(address, targets["127.0.0.1"])
    watch.between(0, 0.6, "the connect")


def test_resolve_timeout_ends_the_wait_for_the_clients_family(env, both):
    """Then the other family's address will do."""
    targets, port = both
    server = env.enter(hosts.FaultyNameServer({hosts.A: ["127.0.0.1"]}))
    front = env.address("::1")
    target = {"address": f"half.test:{port}", "resolve_timeout": "700ms", "connect_timeout": "10s"}
    bitflow = env.start(
        proxy(front, target, enable_dual_stack=True), plan=hosts.plan(env, [], server.address)
    )
    bitflow.quiet_check = False
    watch = Stopwatch()
    env.pair(front, targets["127.0.0.1"])
    watch.between(0.6, 2, "resolve_timeout, then the connect")


def test_the_other_family_comes_after_one_black_hole_not_after_all(env):
    target, port = same_port(env, "::1", ["127.0.0.1", "127.0.0.2", "127.0.0.3"])
    address = env.address()
    names = [("holes.test", host) for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3", "::1")]
    env.start(proxy(address, f"holes.test:{port}", enable_dual_stack=True), plan=hosts.plan(env, names))
    watch = Stopwatch()
    env.pair(address, target)
    watch.between(0.2, 0.6, "the connect past black holes")


def test_without_dual_stack_the_families_take_turns(env, dnsmasq):
    """The system's order counts, and the other family is next."""
    target, port = same_port(env, "127.0.0.1", ["::1"])
    address = env.address()
    env.start(proxy(address, f"dual.test:{port}"), plan=plan(env, dnsmasq))
    watch = Stopwatch()
    env.pair(address, target)
    watch.between(0, 0.6, "the connect past a black hole")
