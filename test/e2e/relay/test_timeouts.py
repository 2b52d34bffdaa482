"""Timeouts, lifetime and keepalive: when they fire, when they must not, how the connection ends, and what the record
says."""

import contextlib
import random
import socket
import threading
import time

import pytest

import peers
import programs
import sockets
from environment import proxy
from waiting import Stopwatch, holds_for, pace, repeat_if_late, wait_for


def ended_in_order(sock):
    """Reads to the end and asserts that it is an orderly one; returns the data."""
    data, end = sockets.receive_until_broken(sock)
    assert end == "eof", "reset where an orderly close was due"
    return data


def front(env, listener_settings=None, target_settings=None, target=None, **options):
    listener, address = env.listen(), env.address()
    entry = {"address": (target or listener).address, **(target_settings or {})}
    bitflow = env.start(proxy(address, entry, listener=listener_settings, **options))
    return bitflow, address, listener


def front_with(env, side, settings):
    """A front where only one side has settings: the listener for the client, or the target."""
    return front(env, **{"listener_settings" if side == "client" else "target_settings": settings})


@pytest.mark.parametrize("side", ["client", "target"])
def test_idle_connection_ends_by_read_timeout(env, side):
    bitflow, address, listener = front_with(env, side, {"read_timeout": "600ms"})
    client, target = env.pair(address, listener)
    watch = Stopwatch()
    client.sendall(b"up")
    assert sockets.receive_exactly(target, 2) == b"up"
    target.sendall(b"down")
    assert ended_in_order(client) == b"down"
    assert ended_in_order(target) == b""
    watch.between(0.55, 1.6, "the read timeout")
    record = bitflow.wait_records(1)[0]
    assert record["reason"] == f"{side}_read_timeout"
    assert 550 <= record["total_ms"] <= 1600 * pace()
    assert (record["bytes_from_client"], record["bytes_from_target"]) == (2, 4)


def test_client_that_never_sends_ends_by_read_timeout(env):
    bitflow, address, listener = front(env, {"read_timeout": "400ms"})
    client, _ = env.pair(address, listener)
    assert ended_in_order(client) == b""
    assert bitflow.wait_records(1)[0]["reason"] == "client_read_timeout"


def trickle(sock, seconds, interval=0.1):
    """Sends a byte at an interval; returns the number of bytes."""
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        sock.sendall(b"x")
        count += 1
        time.sleep(interval)
    return count


@pytest.mark.parametrize("silent", ["client", "target"])
def test_data_written_refreshes_the_read_timeout(env, silent):
    """A long one-way transfer survives the silence of the side that reads, though both have a read timeout."""
    timeout = {"read_timeout": f"{500 * pace():.0f}ms"}
    bitflow, address, listener = front(env, timeout, timeout)

    def trial():
        before = len(bitflow.records())
        client, target = env.pair(address, listener)
        sender, reader = (target, client) if silent == "client" else (client, target)
        sent = trickle(sender, 2.5 * pace(), 0.1 * pace())
        assert len(sockets.receive_exactly(reader, sent)) == sent
        assert len(bitflow.records()) == before
        return reader, before

    reader, before = repeat_if_late(trial, 0.5 * pace())
    assert len(ended_in_order(reader)) == 0
    assert bitflow.wait_records(before + 1)[-1]["reason"] in ("client_read_timeout", "target_read_timeout")


def test_slow_bulk_download_survives_the_read_timeout(env):
    """The same with bulk data: the client reads slowly but steadily, and never sends."""
    data = random.Random(9).randbytes(12_000_000)  # before the timeout runs
    bitflow, address, listener = front(env, {"read_timeout": f"{400 * pace():.0f}ms"})

    def send(target):
        with contextlib.suppress(OSError):
            target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def trial():
        client, target = env.pair(address, listener, receive_buffer=65536)
        thread = threading.Thread(target=send, args=[target], daemon=True)
        thread.start()
        received, watch = bytearray(), Stopwatch()
        while len(received) < len(data):
            part = client.recv(400_000)
            assert part, f"cut off after {len(received)} bytes and {watch.seconds:.2f} s: {bitflow.records()}"
            received += part
            if watch.seconds < 2 * pace():
                time.sleep(0.05)
        assert received == data
        client.close()
        thread.join()

    repeat_if_late(trial, 0.4 * pace())
    wait_for(
        lambda: bitflow.records() and bitflow.records()[-1]["bytes_from_target"] == len(data), "all bytes are recorded"
    )


def test_half_closed_client_is_not_timed_out(env):
    """After the client's end of data nothing is left to read from it: the target's read timeout applies, not its."""
    bitflow, address, listener = front(env, {"read_timeout": "300ms"}, {"read_timeout": "60s"})
    client, target = env.pair(address, listener)
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert sockets.receive_to_end(target) == b"question"
    holds_for(1.2, lambda: bitflow.records() == [] and sockets.is_open(client), "the answer is still due")
    target.sendall(b"answer")
    target.close()
    assert sockets.receive_to_end(client) == b"answer"
    assert bitflow.wait_records(1)[0]["reason"] == "completed"


HALF_CLOSED = {
    # (the proxy's, the ended side's, the other side's), the reason to end
    "the proxy's timeout": (("600ms", None, None), "half_close_timeout"),
    "the proxy's before those of both sides": (("600ms", "60s", "60s"), "half_close_timeout"),
    "the ended side's, where the other has none": ((None, "600ms", None), "half_close_timeout"),
    "the other side's": ((None, "60s", "600ms"), "read_timeout"),
}


@pytest.mark.parametrize("timeouts, reason", HALF_CLOSED.values(), ids=HALF_CLOSED)
@pytest.mark.parametrize("ended", ["client", "target"])
def test_a_half_closed_connection_ends_when_the_other_side_is_silent(env, ended, timeouts, reason):
    """Whether who has ended is there to read, or gone for good, cannot be seen."""
    proxys, own, others = timeouts
    settings = [{"read_timeout": timeout} if timeout else {} for timeout in (own, others)]
    if ended == "target":
        settings.reverse()
    options = {"half_close_timeout": proxys} if proxys else {}
    bitflow, address, listener = front(env, *settings, **options)
    client, target = env.pair(address, listener)
    first, second, other = (client, target, "target") if ended == "client" else (target, client, "client")
    first.sendall(b"all there is")
    first.close()
    assert sockets.receive_to_end(second) == b"all there is"
    watch = Stopwatch()
    record = bitflow.wait_records(1)[0]
    watch.between(0.4, 2, "the silence")
    expected = f"{other}_{reason}" if reason == "read_timeout" else reason
    assert (record["reason"], record["ended_by"]) == (expected, "proxy")


def test_data_starts_the_half_close_timeout_anew(env):
    bitflow, address, listener = front(env, half_close_timeout=f"{600 * pace():.0f}ms")
    client, target = env.pair(address, listener)
    holds_for(1.0 * pace(), lambda: bitflow.records() == [], "while nobody has ended, it means nothing")
    client.shutdown(socket.SHUT_WR)
    assert sockets.receive_to_end(target) == b""
    sent = trickle(target, 2.5 * pace(), 0.1 * pace())
    assert len(sockets.receive_exactly(client, sent)) == sent
    assert ended_in_order(client) == b""
    assert bitflow.wait_records(1)[0]["reason"] == "half_close_timeout"


def test_the_half_close_timeout_follows_a_stream_that_two_threads_have_served(env):
    """Bulk goes one way; its thread ends, and the silent one finds out in time."""
    bitflow, address, listener = front(env, half_close_timeout="1s")
    client, target = env.pair(address, listener)
    data, received = random.Random(3).randbytes(8_000_000), bytearray()
    sender = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)), daemon=True)
    sender.start()
    while part := target.recv(400_000):
        received += part
        time.sleep(0.05)
    sender.join(20)
    assert received == data
    watch = Stopwatch()
    assert ended_in_order(client) == b""
    watch.between(0, 4, "the half-close timeout, which began when the end was passed on")
    assert bitflow.wait_records(1)[0]["reason"] == "half_close_timeout"


@pytest.mark.parametrize("stuck", ["client", "target"])
def test_a_side_that_stops_reading_ends_the_connection_by_the_write_timeout(env, stuck):
    bitflow, address, listener = front_with(env, stuck, {"write_timeout": "700ms"})
    client, target = env.pair(address, listener)
    sender = target if stuck == "client" else client
    watch = Stopwatch()
    with pytest.raises(ConnectionResetError):
        while True:
            sender.sendall(bytes(65536))
    watch.between(0.6, 5, "the write timeout")
    assert bitflow.wait_records(1)[0]["reason"] == f"{stuck}_write_timeout"


def test_slow_reader_survives_the_write_timeout(env):
    """The write timeout is about no progress, not about slow progress."""
    bitflow, address, listener = front(env, {"write_timeout": f"{800 * pace():.0f}ms"})
    client, target = env.pair(address, listener, receive_buffer=32768)
    server = threading.Thread(target=lambda: target.sendall(bytes(8_000_000)), daemon=True)
    server.start()
    watch, received = Stopwatch(), 0
    while watch.seconds < 3 * pace():
        received += len(client.recv(20_000))
        time.sleep(0.03)
    assert bitflow.records() == [], "a slow reader was cut off"
    received += len(sockets.receive_exactly(client, 8_000_000 - received))
    server.join(20)
    assert received == 8_000_000


@pytest.mark.parametrize("traffic", ["idle", "chatty", "bulk", "stuck"])
def test_lifetime_ends_a_connection(env, traffic):
    bitflow, address, listener = front(env, connection_lifetime="1s")
    client, target = env.pair(address, listener)
    watch = Stopwatch()

    def work():
        with contextlib.suppress(OSError):
            while True:
                target.sendall(bytes(65536) if traffic != "chatty" else b"x")
                if traffic == "chatty":
                    time.sleep(0.05)

    if traffic != "idle":
        threading.Thread(target=work, daemon=True).start()
    if traffic != "stuck":
        ended_in_order(client)
    record = bitflow.wait_records(1)[0]
    assert watch.seconds > 0.9
    # The record's time, since with bulk data it is the client that takes long: it keeps what it receives.
    assert 900 <= record["total_ms"] <= 2500 * pace(), record
    assert (record["reason"], record["ended_by"]) == ("lifetime", "proxy")
    if traffic == "idle":
        assert ended_in_order(target) == b""


def test_a_lifetime_shorter_than_the_read_timeouts_ends_the_connection(env):
    bitflow, address, listener = front(
        env, {"read_timeout": "30s"}, {"read_timeout": "30s"}, connection_lifetime="600ms"
    )
    client, target = env.pair(address, listener)
    watch = Stopwatch()
    assert ended_in_order(client) == b"" and ended_in_order(target) == b""
    watch.between(0.5, 2, "the lifetime")
    assert bitflow.wait_records(1)[0]["reason"] == "lifetime"


def test_a_read_timeout_shorter_than_the_lifetime_ends_the_connection(env):
    bitflow, address, listener = front(env, {"read_timeout": "300ms"}, connection_lifetime="30s")
    client, _ = env.pair(address, listener)
    assert ended_in_order(client) == b""
    assert bitflow.wait_records(1)[0]["reason"] == "client_read_timeout"


def test_lifetime_ends_a_half_closed_connection(env):
    bitflow, address, listener = front(env, connection_lifetime="700ms")
    client, target = env.pair(address, listener)
    client.shutdown(socket.SHUT_WR)
    assert sockets.receive_to_end(target) == b""
    assert ended_in_order(client) == b""
    assert bitflow.wait_records(1)[0]["reason"] == "lifetime"


def test_lifetime_ends_a_dial(env):
    address = env.address()
    entry = {"address": env.refusing(), "connect_attempts": 100, "connect_backoff": "20s"}
    bitflow = env.start(proxy(address, entry, connection_lifetime="700ms"))
    client, watch = env.connect(address), Stopwatch()
    sockets.was_rejected(client)
    watch.between(0.6, 2.5, "the lifetime")
    assert bitflow.wait_records(1)[0]["reason"] == "lifetime"


def test_timeouts_of_many_connections_fire_together(env):
    """Nothing is queued behind another connection's timeout."""
    bitflow, address, listener = front(env, {"read_timeout": "1s"})
    clients = [env.pair(address, listener)[0] for _ in range(60)]
    watch = Stopwatch()
    for client in clients:
        assert ended_in_order(client) == b""
    watch.between(0.5, 3, "60 timeouts")
    assert {record["reason"] for record in bitflow.wait_records(60)} == {"client_read_timeout"}


def keepalive_timer(port):
    """What ss tells about the timer of the connection towards the port."""
    done = programs.run(["ss", "-Htno", "state", "established", "dport", "=", f":{port}"])
    return done.stdout


@pytest.mark.parametrize(
    "interval, seen",
    [("37s", "keepalive,3"), (None, "keepalive,"), (0, "keepalive,"), (-1, None)],
    ids=["37 seconds", "nothing configured", "the system's default", "off"],
)
def test_the_target_leg_has_the_keepalive_that_is_configured(env, interval, seen):
    settings = {} if interval is None else {"keepalive_interval": interval}
    _, address, listener = front(env, None, settings)
    client, target = env.pair(address, listener)
    for _ in range(2):  # the default comes with the second word, or after some seconds
        client.sendall(b"x")
        assert target.recv(1) == b"x"
    sockets.wait_acknowledged(client)
    port = listener.address.rpartition(":")[2]

    def settled():  # a retransmission timer may stand there for an instant
        text = keepalive_timer(port)
        return text if text and "timer:(on" not in text else None

    text = wait_for(settled, "ss shows the connection")
    if seen:
        assert f"timer:({seen}" in text, text
    else:
        assert "timer:(" not in text, text


def test_both_legs_have_nodelay_and_the_target_leg_its_keepalive_interval(env):
    listener_settings = {"read_timeout": "61s", "write_timeout": "62s"}
    target_settings = {"read_timeout": "63s", "write_timeout": "64s", "keepalive_interval": "65s"}
    bitflow, address, listener = front(env, listener_settings, target_settings)
    client, target = env.pair(address, listener)
    client.sendall(b"x")
    assert target.recv(1) == b"x"
    borrowed = [env.keep(sock) for sock in bitflow.borrow_sockets()]
    legs = {}
    for sock in borrowed:
        if sock.family == socket.AF_INET:
            with contextlib.suppress(OSError):
                legs[sockets.name_of(sock.family, sock.getpeername())] = sock
    client_leg, target_leg = legs[sockets.local_name(client)], legs[listener.address]
    for leg in (client_leg, target_leg):
        assert leg.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert target_leg.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert target_leg.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 65


KEEPALIVE = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)


def options_of(sock):
    """(keepalive is on, its timing, the user timeout in ms)."""
    is_on = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
    timing = tuple(sock.getsockopt(socket.IPPROTO_TCP, option) for option in KEEPALIVE)
    return is_on, timing, sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


def leg_of(env, bitflow, peer):
    """Bitflow's socket of the peer, a client or a target."""
    for sock in map(env.keep, bitflow.borrow_sockets()):
        if sock.family == socket.AF_INET:
            with contextlib.suppress(OSError):
                if sockets.name_of(sock.family, sock.getpeername()) == sockets.local_name(peer):
                    return sock
    raise AssertionError("bitflow has no such peer")


def systems_timing():
    with socket.socket() as fresh:
        return options_of(fresh)[1]


def test_clients_have_the_keepalive_and_user_timeout_that_are_configured(env):
    """A reload changes them for those that come then: back to the system's, too."""
    echo, address = env.echo(), env.address()
    steps = [
        ({"keepalive_interval": "37s", "tcp_user_timeout": "1.5s"}, (True, (37, 37), 1500)),
        ({"keepalive_interval": -1}, (False, systems_timing(), 0)),
        ({"keepalive_interval": "38s"}, (True, (38, 38), 0)),
        ({}, (True, systems_timing(), 0)),
    ]
    bitflow, found = None, []
    for settings, _ in steps:
        entry = proxy(address, echo.address, listener=settings)
        if bitflow is None:
            bitflow = env.start(entry)
        else:
            env.config(entry)
            bitflow.reload()
        client = env.connect(address)
        sockets.round_trip(client)
        found.append(options_of(leg_of(env, bitflow, client)))
    assert found == [expected for _, expected in steps]


def test_the_target_leg_has_the_user_timeout_that_is_configured(env):
    bitflow, address, listener = front(env, None, {"tcp_user_timeout": "90s"})
    client, target = env.pair(address, listener)
    client.sendall(b"x")
    assert target.recv(1) == b"x"
    assert options_of(leg_of(env, bitflow, target))[2] == 90_000


def test_timeouts_fire_over_unix_sockets(env):
    listener, address = env.listen(env.unix("back.sock")), env.unix()
    entry = {"address": listener.address, "write_timeout": "600ms"}
    bitflow = env.start(proxy(address, entry, listener={"read_timeout": "600ms"}))
    client, _ = env.pair(address, listener)
    assert ended_in_order(client) == b""
    assert bitflow.wait_records(1)[0]["reason"] == "client_read_timeout"
    client, _ = env.pair(address, listener)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        while True:
            client.sendall(bytes(65536))
    assert bitflow.wait_records(2)[1]["reason"] == "target_write_timeout"


def test_proxy_serves_on_after_every_timeout(env):
    echo, address = env.serve(peers.echo), env.address()
    bitflow = env.start(
        proxy(
            address,
            echo.address,
            listener={"read_timeout": "200ms", "write_timeout": "200ms"},
            connection_lifetime="2s",
        )
    )
    for _ in range(3):
        idle = [env.connect(address) for _ in range(10)]
        for client in idle:
            assert ended_in_order(client) == b""
        sockets.round_trip(env.connect(address))
    bitflow.wait_records(33)
    bitflow.assert_quiet()
