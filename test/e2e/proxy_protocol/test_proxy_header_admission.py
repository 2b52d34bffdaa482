"""Who may send a PROXY header, how long it may take, and what becomes of clients that never finish it."""

import signal
import socket
import time

import pytest

import proxy_headers
import sockets
from environment import proxy
from proxy_headers import TRUSTING, rejected, start_trusting, v1, v2
from waiting import Stopwatch, scale, wait_for

EXAMPLE2 = v2("192.0.2.1", "192.0.2.2", 1, 2)
PARTS = {"nothing": b"", "version 1": b"PROXY TCP4 192.", "version 2": EXAMPLE2[:20]}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_proxy_protocol_timeout_bounds_a_header_that_does_not_come(env, part):
    target = env.listen()
    bitflow, address = start_trusting(env, target.address, listener={"proxy_protocol_timeout": "600ms"})
    watch = Stopwatch()
    client = env.connect(address)
    client.sendall(part)
    sockets.was_rejected(client)
    watch.between(0.5, 1.5, "proxy_protocol_timeout")
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["ended_by"]) == ("proxy_header_timeout", "proxy")
    assert "in time" in record["error"]
    assert not target.has_pending()


def test_proxy_protocol_timeout_is_3_seconds_by_default(env):
    target = env.listen()
    _, address = start_trusting(env, target.address)
    watch = Stopwatch()
    sockets.was_rejected(env.connect(address))
    watch.between(2.9, 4, "the default of proxy_protocol_timeout")


def test_a_slow_drip_does_not_stretch_proxy_protocol_timeout(env):
    target = env.listen()
    bitflow, address = start_trusting(env, target.address, listener={"proxy_protocol_timeout": "1s"})
    watch = Stopwatch()
    client = env.connect(address)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in b"PROXY UNKNOWN " + b"x" * 80:
        if not sockets.is_open(client):
            break
        client.sendall(bytes([byte]))
        time.sleep(0.05)  # the pace of the drip, not a condition
    watch.between(0.9, 2, "the bound")
    assert bitflow.wait_records(1)[0]["reason"] == "proxy_header_timeout"


def test_nothing_is_dialled_for_a_client_that_leaves_before_its_header_ends(env):
    target = env.listen()
    bitflow, address = start_trusting(env, target.address)
    for part, reason in (
        (b"", "client_left"),
        (b"PROXY TCP4", "proxy_header_invalid"),
        (EXAMPLE2[:18], "proxy_header_invalid"),
    ):
        client = env.connect(address)
        own = sockets.local_name(client)
        client.sendall(part)
        client.close()
        assert bitflow.record_of(own)["reason"] == reason, part
    client = env.connect(address)
    own = sockets.local_name(client)
    client.sendall(b"PROXY ")
    sockets.wait_acknowledged(client)
    sockets.reset(client)
    assert bitflow.record_of(own)["reason"] in ("client_left", "proxy_header_invalid")
    assert not target.has_pending()


def test_a_drain_does_not_wait_for_a_header(env):
    target = env.listen()
    address = env.address()
    bitflow = env.start(
        proxy(address, target.address, listener={**TRUSTING, "proxy_protocol_timeout": "60s"}),
        server={"drain_timeout": "500ms"},
    )
    client = env.connect(address)
    client.sendall(b"PROXY ")
    wait_for(bitflow.busy_threads, "a thread reads")
    watch = Stopwatch()
    bitflow.signal(signal.SIGTERM)
    sockets.was_rejected(client)
    watch.between(0.4, 2, "the drain")
    assert bitflow.wait_records(1)[0]["reason"] == "drain"


def test_a_flood_of_silent_clients_holds_up_nobody_and_leaves_nothing(env):
    target = env.echo()
    bitflow, address = start_trusting(env, target.address, listener={"proxy_protocol_timeout": "1s"})
    clients = [env.connect(address) for _ in range(scale(300))]
    for number, client in enumerate(clients):
        client.sendall(b"PROXY TCP4 1.2.3.4 "[: number % 20])
    good = env.connect(address)
    good.sendall(proxy_headers.EXAMPLE)
    sockets.round_trip(good)
    for client in clients:
        sockets.was_rejected(client)
    assert {record["reason"] for record in bitflow.wait_records(len(clients))} == {"proxy_header_timeout"}
    good.close()
    bitflow.assert_quiet()


def test_silent_clients_that_are_not_trusted_take_no_place(env):
    """Of a limit, nor of a source's: whoever may send no header is turned away before it is waited for."""
    target = env.echo()
    bitflow, address = start_trusting(
        env, target.address, listener={"proxy_protocol_sources": ["127.0.0.9"], "proxy_protocol_timeout": "60s"},
        connection_limit=1, source_connection_limit=1
    )
    for _ in range(5):
        sockets.was_rejected(env.connect(address))
    good = env.connect(address, source="127.0.0.9")
    good.sendall(proxy_headers.EXAMPLE)
    sockets.round_trip(good)
    assert {record["reason"] for record in bitflow.wait_records(5)} == {"proxy_source_not_trusted"}


def test_silent_clients_that_are_trusted_hold_their_places_until_the_headers_timeout(env):
    """Their own address is no source's: one balancer stands for many clients, and would be shut out with them all."""
    target = env.echo()
    listener = {"proxy_protocol_sources": ["127.0.0.1"], "proxy_protocol_timeout": "1s"}
    bitflow, address = start_trusting(
        env, target.address, listener=listener, connection_limit=3, source_connection_limit=1
    )
    silent = [env.connect(address) for _ in range(3)]
    wait_for(lambda: len(bitflow.busy_threads()) == 3, "all of them are waited for")
    sockets.was_rejected(env.connect(address))
    for client in silent:
        sockets.was_rejected(client)
    good = env.connect(address)
    good.sendall(proxy_headers.EXAMPLE)
    sockets.round_trip(good)
    reasons = [record["reason"] for record in bitflow.wait_records(4)]
    assert reasons == ["connection_limit"] + 3 * ["proxy_header_timeout"]


def test_untrusted_sources_are_rejected(env):
    target = env.listen()
    bitflow, address = start_trusting(env, target.address, listener={"proxy_protocol_sources": ["127.0.0.9", "::1"]})
    record = rejected(env, bitflow, address, proxy_headers.EXAMPLE)
    assert (record["event"], record["reason"]) == ("rejected", "proxy_source_not_trusted")
    trusted = env.connect(address, source="127.0.0.9")
    trusted.sendall(proxy_headers.EXAMPLE + b"x")
    assert sockets.receive_exactly(target.accept(), 1) == b"x"


def test_authorized_sources_are_compared_with_the_socket_not_the_header(env):
    """A header neither turns its client away nor lets it in."""
    target = env.listen()
    bitflow, address = start_trusting(env, target.address, listener={"authorized_sources": ["127.0.0.1"]})
    client = env.connect(address)
    client.sendall(v1("203.0.113.5", "203.0.113.6", 1, 2) + b"x")
    assert sockets.receive_exactly(target.accept(), 1) == b"x"
    record = rejected(env, bitflow, address, v1("127.0.0.1", "127.0.0.1", 1, 2), source="127.0.0.9")
    assert record["reason"] == "source_not_authorized"


def test_without_proxy_protocol_a_header_is_data(env):
    target = env.listen()
    address = env.address()
    bitflow = env.start(proxy(address, target.address))
    client, connection = env.pair(address, target)
    client.sendall(proxy_headers.EXAMPLE)
    assert sockets.receive_exactly(connection, len(proxy_headers.EXAMPLE)) == proxy_headers.EXAMPLE
    own = sockets.local_name(client)
    client.close()
    connection.close()
    assert bitflow.record_of(own)["proxy_header"] is None
