"""source_connection_rate and source_connection_burst: how fast one source may make connections, and that others are
served meanwhile; source_ipv4_prefix and source_ipv6_prefix: what a source is."""

import contextlib
import time

import pytest

import configs
import flood
import networks
import sockets
import tls_cases
from environment import proxy
from metrics_cases import metrics, wait_counters
from proxy_headers import v1, v2
from telemetry_cases import Datagrams
from waiting import scale, wait_for

ONE, OTHER = "127.0.0.11", "127.0.0.12"
LIMITED = "source_connection_rate"
# No connection comes back within any test's time.
SLOW = {"source_connection_rate": 1, "source_connection_burst": 4}


def outcome(address, source):
    """Whether a client of the source is served."""
    with contextlib.closing(sockets.connect(address, source=source)) as client:
        try:
            sockets.round_trip(client)
        except (AssertionError, OSError):
            return False
    return True


def come(address, source, count):
    """How many of that many clients are served one after the other, and how long it took."""
    begun = time.monotonic()
    served = sum(outcome(address, source) for _ in range(count))
    return served, time.monotonic() - begun


def test_a_burst_is_served_and_then_the_rate(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address, **SLOW))
    served, took = come(address, ONE, 20)
    assert 4 <= served <= 4 + took + 1 and (served < 20 or took > 15)
    assert outcome(address, OTHER)
    records = bitflow.wait_records(21)
    rejected = [record for record in records if record["event"] == "rejected"]
    assert len(rejected) == 20 - served
    for record in rejected:
        assert (record["reason"], record["ended_by"], record["phase"]) == (LIMITED, "proxy", "accepting")
        assert (record["error"], record["target"]) == (None, None) and record["client"].startswith(ONE)
    # A second later, there is room for one more.
    wait_for(lambda: outcome(address, ONE), "it is served again")


def test_connections_that_live_are_not_counted_against_the_rate(env):
    """Unlike source_connection_limit: the rate says nothing of how many there are."""
    echo, address = env.echo(), env.address()
    env.start(proxy(address, echo.address, source_connection_rate=1000000, source_connection_burst=1000000))
    clients = [env.connect(address, source=ONE) for _ in range(100)]
    for client in clients:
        sockets.round_trip(client)


def test_the_limit_comes_first_and_uses_up_nothing(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address, source_connection_limit=1, **SLOW))
    held = env.connect(address, source=ONE)
    sockets.round_trip(held)
    for _ in range(10):
        assert not outcome(address, ONE)
    assert {record["reason"] for record in bitflow.wait_records(10)} == {"source_connection_limit"}
    held.close()
    wait_for(lambda: len(bitflow.records()) == 11, "it has left")
    # Of its burst three are left; each of them has left before the next one comes.
    for count in range(12, 15):
        assert outcome(address, ONE)
        bitflow.wait_records(count)


def test_the_source_is_known_by_its_prefix(env):
    echo, wide, narrow = env.echo(), env.address(), env.address()
    env.start(
        proxy(wide, echo.address, name="wide", source_ipv4_prefix=24, source_connection_limit=2),
        proxy(narrow, echo.address, name="narrow", source_connection_limit=2),
    )
    for address, places in ((wide, 2), (narrow, 6)):
        clients = [env.connect(address, source=f"127.1.2.{number // 2 + 1}") for number in range(6)]
        served = [client for client in clients[:places] if not sockets.round_trip(client)]
        assert len(served) == places
        for client in clients[places:]:
            sockets.was_rejected(client)
        sockets.round_trip(env.connect(address, source="127.1.3.1"))


@pytest.fixture
def own_network():
    """A network of its own, with IPv6 addresses of two /64 of one /48."""
    with networks.Networks() as both:
        for address in ("fd00:1:2:3::1", "fd00:1:2:4::1", "fd00:1:3:3::1"):
            both.ip("-n", both.near, "address", "add", f"{address}/128", "dev", "lo", "nodad")
        with networks.inside(both.near):
            yield


@pytest.mark.parametrize("prefix, is_one", [(None, False), (48, True), (128, False)])
def test_ipv6_networks_of_any_length_are_a_source(own_network, env, prefix, is_one):
    echo, port = env.echo(), sockets.free_port()
    options = {"source_ipv6_prefix": prefix} if prefix else {}
    env.start(proxy(f"[::]:{port}", echo.address, source_connection_limit=1, **options))
    address = f"[fd00:1:2:3::1]:{port}"
    sockets.round_trip(env.connect(address, source="fd00:1:2:3::1"))
    assert outcome(address, "fd00:1:2:4::1") != is_one
    assert outcome(address, "fd00:1:3:3::1")


def test_declared_clients_are_the_sources(env):
    """The rate is theirs, not the balancer's."""
    target, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, target.address, listener={"proxy_protocol": True}, **SLOW))
    for number in range(1, 9):  # one each
        client = env.connect(address)
        client.sendall(v1(f"203.0.113.{number}", "192.0.2.1", number, 443) + b"x")
        assert sockets.receive_exactly(target.accept(), 1) == b"x"
    begun, refused = time.monotonic(), 0
    for number in range(20):
        client = env.connect(address)
        client.sendall(v2("203.0.113.99", "192.0.2.1", 1000 + number, 443))
        client.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            refused += client.recv(1) == b""
    assert 20 - 5 - (time.monotonic() - begun) <= refused <= 16
    record = bitflow.record_of("203.0.113.99:1019")
    assert (record["event"], record["reason"], record["phase"]) == ("connection", LIMITED, "admitting")
    assert (record["step"], record["bytes_from_client"], record["attempts"]) == ("proxy_header", 0, 0)


def test_who_is_turned_away_is_counted_and_told_once_a_second(env):
    receiver = env.keep(Datagrams())
    echo, address, count = env.echo(), env.address(), scale(300, 100)
    bitflow = env.start(proxy(address, echo.address, **SLOW), application=metrics(receiver.address))
    served, took = come(address, ONE, count)
    wait_counters(receiver, {f"proxy.front.connections.rejected.{LIMITED}": count - served})

    def told():
        lines = [line for line in bitflow.log_lines(partial=True) if line.get("reason") == LIMITED]
        whole = [line for line in lines if "more" not in line]
        more = sum(int(line["more"]) for line in lines if "more" in line)
        return lines if len(whole) + more == count - served else None

    lines = wait_for(told, "each is accounted for")
    assert {line["level"] for line in lines} == {"warn"}
    assert len(lines) <= 12 * (took + 2), len(lines)


def test_a_reload_keeps_what_was_used_up(env):
    echo, address = env.echo(), env.address()
    slow = {"source_connection_rate": 1, "source_connection_burst": 100}
    bitflow = env.start(proxy(address, echo.address, **slow))
    served, took = come(address, ONE, 150)
    assert 100 <= served <= 101 + took
    env.config(proxy(address, echo.address, **slow))
    bitflow.reload()
    again, more = come(address, ONE, 50)
    assert again <= 2 + took + more
    env.config(proxy(address, echo.address))
    bitflow.reload()
    assert come(address, ONE, 20)[0] == 20


def test_an_attacker_of_one_address_does_not_starve_the_others(env, pki):
    """It opens connections as fast as it can, and holds all that it gets: with the rate alone the limit for all is
    reached only by a fraction of it, and every honest client is served."""
    echo, address = env.echo(), env.address()
    rate, burst = 5, 10
    listener = tls_cases.tls_listener(pki.server, handshake_timeout="2s")
    bitflow = env.start(
        proxy(address, echo.address, listener=listener, connection_limit=60,
              source_connection_rate=rate, source_connection_burst=burst)
    )
    begun = time.monotonic()
    with flood.flood(address, held_at_once=90, opened_at_least=300):
        flood.serve_honest(env, address, lambda number: f"127.0.7.{number + 1}")
    took = time.monotonic() - begun
    wait_for(lambda: not bitflow.busy_threads(), "all have left")
    its = [record for record in bitflow.records() if record["client"].startswith(f"{flood.SOURCE}:")]
    let_in = [record for record in its if record["event"] == "connection"]
    assert burst <= len(let_in) <= burst + rate * took + 1
    assert {record["reason"] for record in its if record["event"] == "rejected"} == {LIMITED}


# The configuration


def test_keys_without_an_effect_are_told_of(env):
    cases = {
        "source_connection_burst: 5": "without source_connection_rate",
        "source_ipv4_prefix: 24": "without source_connection_limit or source_connection_rate",
        "source_ipv6_prefix: 48": "without source_connection_limit or source_connection_rate",
    }
    for line, words in cases.items():
        status, _, said = configs.check(env, configs.with_line("options", line))
        assert status == 0 and f"options.{line.split(':')[0]}: means nothing {words}" in said, said
    text = configs.with_line("options", "source_connection_rate: 5").replace("127.0.0.1:8080", "unix:///run/s.sock")
    status, _, said = configs.check(env, text)
    assert status == 0 and "source_connection_rate: means nothing at a unix:// listener" in said, said


@pytest.mark.parametrize("line", [
    "source_connection_rate: 0", "source_connection_rate: 1000001", "source_connection_rate: 10/s",
    "source_connection_burst: 0", "source_ipv4_prefix: 0", "source_ipv4_prefix: 33", "source_ipv6_prefix: 0",
    "source_ipv6_prefix: 129",
])
def test_values_out_of_range_are_refused_at_their_place(env, line):
    configs.rejects(env, configs.with_line("options", line), path=f"server.proxies[0].options.{line.split(':')[0]}")
