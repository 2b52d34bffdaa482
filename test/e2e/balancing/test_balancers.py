"""Balancers: which target a connection gets, and what happens when that one cannot be reached."""

import collections

import pytest

import hosts
import peers
import sockets
import tls_cases
import tls_raw
from environment import proxy
from waiting import Stopwatch, scale


def greeted(env, address):
    """Connects and returns the name of the target that answered, or None."""
    client = env.connect(address)
    data, _ = bytearray(), None
    while not data.endswith(b"\n"):
        try:
            part = client.recv(100)
        except ConnectionResetError:
            return None
        if not part:
            return None
        data += part
    sockets.round_trip(client)
    client.close()
    return data.decode().strip()


@pytest.fixture
def three(env):
    return [env.serve(peers.greeter(name)).address for name in ("one", "two", "three")]


def named(*addresses):
    return [{"name": f"server-{number}", "address": address} for number, address in enumerate(addresses, 1)]


@pytest.mark.parametrize("options", [{}, {"connection_load_balancer": "none"}], ids=["not given", "none"])
def test_without_a_balancer_only_the_first_target_is_used(env, three, options):
    address = env.address()
    bitflow = env.start(proxy(address, *named(*three), **options))
    assert [greeted(env, address) for _ in range(4)] == ["one"] * 4
    assert {record["target"]["name"] for record in bitflow.wait_records(4)} == {"server-1"}


def test_without_a_balancer_a_refusal_is_final(env, three):
    address = env.address()
    bitflow = env.start(proxy(address, *named(env.refusing(), three[1])))
    sockets.was_rejected(env.connect(address))
    assert bitflow.wait_records(1)[0]["reason"] == "connect_refused"


def test_failover_prefers_the_first(env, three):
    address = env.address()
    env.start(proxy(address, *named(*three), connection_load_balancer="failover"))
    assert [greeted(env, address) for _ in range(6)] == ["one"] * 6


def test_failover_goes_in_order(env, three):
    address = env.address()
    bitflow = env.start(
        proxy(
            address,
            *named(env.refusing(), env.unix("none.sock"), three[1], three[0]),
            connection_load_balancer="failover",
        )
    )
    assert [greeted(env, address) for _ in range(3)] == ["two"] * 3
    record = bitflow.wait_records(3)[0]
    assert record["target"] == {"name": "server-3", "address": three[1], "via": None}
    assert record["attempts"] == 3


def test_failover_comes_back_to_the_first(env, three):
    held = env.enter(peers.Refusing())
    address = env.address()
    env.start(proxy(address, *named(held.address, three[1]), connection_load_balancer="failover"))
    assert greeted(env, address) == "two"
    held.listen()
    client = env.connect(address)
    target = env.keep(held.accept())
    target.sendall(b"back again")
    assert sockets.receive_exactly(client, 10) == b"back again"


def test_failover_goes_past_a_silent_target_and_an_unknown_name(env, three):
    full = env.listen(backlog=0)
    full.fill_queue()
    address = env.address()
    entries = named(full.address, "no-such-host.invalid:80", three[2])
    entries[0].update(connect_timeout="200ms", connect_attempts=2)
    entries[1].update(connect_timeout="1s")
    env.start(proxy(address, *entries, connection_load_balancer="failover"), plan=hosts.no_names(env))
    watch = Stopwatch()
    assert greeted(env, address) == "three"
    watch.between(0.35, 4, "two attempts, a failed name, and a connect")


def test_failover_uses_each_targets_own_backoff(env, three):
    address = env.address()
    entries = named(env.refusing(), three[0])
    entries[0].update(connect_backoff="200ms", connect_attempts=3)
    env.start(proxy(address, *entries, connection_load_balancer="failover"))
    watch = Stopwatch()
    assert greeted(env, address) == "one"
    watch.between(0.25, 2, "a backoff of 200 and 400 ms, with jitter")


@pytest.mark.parametrize("policy", ["failover", "round-robin"])
def test_a_client_is_rejected_after_every_target_was_tried(env, policy):
    address = env.address()
    bitflow = env.start(proxy(address, *named(env.refusing(), env.refusing()), connection_load_balancer=policy))
    for _ in range(3):
        sockets.was_rejected(env.connect(address))
    records = bitflow.wait_records(3)
    assert [(record["reason"], record["attempts"]) for record in records] == [("connect_refused", 2)] * 3


def test_a_target_that_resets_after_its_connect_is_not_failed_over(env, three):
    """Its reset is passed on to the client."""
    listener, address = env.listen(), env.address()
    bitflow = env.start(
        proxy(address, *named(listener.address, three[1]), connection_load_balancer="failover")
    )
    client, target = env.pair(address, listener)
    client.sendall(b"x")
    assert target.recv(1) == b"x"
    sockets.reset(target)
    assert sockets.receive_until_broken(client) == (b"", "reset")
    assert bitflow.wait_records(1)[0]["reason"] == "target_reset"


def test_round_robin_takes_the_targets_in_turn(env, three):
    address = env.address()
    bitflow = env.start(proxy(address, *named(*three), connection_load_balancer="round-robin"))
    got = [greeted(env, address) for _ in range(9)]
    assert got[:3] * 3 == got and sorted(got[:3]) == ["one", "three", "two"]
    start = ["one", "two", "three"].index(got[0])
    assert got[:3] == (["one", "two", "three"] * 2)[start : start + 3]
    assert len({record["target"]["name"] for record in bitflow.wait_records(9)}) == 3


def test_round_robin_gives_a_dead_targets_turn_to_the_next(env, three):
    """The turns of the others stay."""
    address = env.address()
    env.start(
        proxy(address, *named(three[0], env.refusing(), three[2]), connection_load_balancer="round-robin")
    )
    counts = collections.Counter(greeted(env, address) for _ in range(12))
    assert counts == {"one": 4, "three": 8}


def test_round_robin_wraps_around(env, three):
    address = env.address()
    env.start(
        proxy(
            address, *named(env.refusing(), three[1], env.refusing()), connection_load_balancer="round-robin"
        )
    )
    assert [greeted(env, address) for _ in range(6)] == ["two"] * 6


def probe_without_a_header(env, address):
    """A health check that comes and goes."""
    env.connect(address).close()


def probe_with_nonsense(env, address):
    """No header, and no ClientHello either."""
    sockets.receive_until_broken(say(env, address, b"nonsense\r\n\r\n"))


def say(env, address, data):
    client = env.connect(address)
    client.sendall(data)
    return client


@pytest.mark.parametrize("probe", [probe_without_a_header, probe_with_nonsense], ids=["silence", "nonsense"])
@pytest.mark.parametrize("kind", ["tls", "proxy_protocol"])
def test_clients_that_are_not_let_in_take_no_turn(env, pki, three, kind, probe):
    """A probe follows each client: if it had a turn, one of the two targets would get all the clients."""
    address = env.address()
    listener = tls_cases.tls_listener(pki.server) if kind == "tls" else {"proxy_protocol": True}
    bitflow = env.start(
        proxy(address, *named(*three[:2]), listener=listener, connection_load_balancer="round-robin")
    )
    got = []
    for number in range(6):
        if kind == "tls":
            client = tls_cases.tls_client(env, address, tls_raw.client_context(pki.trusted))
            got.append(client.read_exactly(4))
        else:
            client = say(env, address, b"PROXY UNKNOWN\r\n")
            got.append(sockets.receive_exactly(client, 4))
        client.close()
        probe(env, address)
        bitflow.wait_records(2 * number + 2)
    assert got == [b"one\n", b"two\n"] * 3


def test_round_robin_is_even_under_concurrency(env, three):
    address = env.address()
    bitflow = env.start(proxy(address, *named(*three), connection_load_balancer="round-robin"))
    each = scale(50)
    clients = [env.connect(address) for _ in range(3 * each)]
    for client in clients:
        while client.recv(1) != b"\n":
            pass
        client.close()
    counts = collections.Counter(record["target"]["name"] for record in bitflow.wait_records(3 * each))
    assert counts == {"server-1": each, "server-2": each, "server-3": each}


def test_each_proxy_counts_turns_of_its_own(env, three):
    left, right = env.address(), env.address()
    env.start(
        proxy(left, *named(*three), name="left", connection_load_balancer="round-robin"),
        proxy(right, *named(*three), name="right", connection_load_balancer="round-robin"),
    )
    got = [(greeted(env, left), greeted(env, right)) for _ in range(3)]
    assert len({pair[0] for pair in got}) == 3 and len({pair[1] for pair in got}) == 3
