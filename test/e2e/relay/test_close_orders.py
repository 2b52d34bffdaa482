"""Ends of connections: half-closes in every order, resets, and the bytes that have to arrive before them."""

import random
import socket
import threading

import pytest

import peers
import sockets
from environment import proxy
from waiting import Stopwatch, holds_for, pace, wait_for

BLOB = random.Random(7).randbytes(3_000_000)


@pytest.fixture(params=["tcp", "unix"])
def front(env, request):
    """(bitflow, address, listener): a proxy before a target that the test plays itself."""
    if request.param == "tcp":
        listener, address = env.listen(), env.address()
    else:
        listener, address = env.listen(env.unix("back.sock")), env.unix()
    return env.start(proxy(address, listener.address)), address, listener


def send_in_background(env, sock, data, then=None):
    """Sends while the test reads the other end."""

    def work():
        try:
            sock.sendall(data)
            if then is not None:
                sock.shutdown(then)
        except OSError:
            pass  # the other end was closed on purpose

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    env.stack.callback(thread.join, 20)
    return thread


SIDES = pytest.mark.parametrize("side", ["client", "target"])


def in_order(side, client, target):
    """(the end of this side, the other end)."""
    return (client, target) if side == "client" else (target, client)


@SIDES
def test_whoever_half_closes_first_still_gets_the_whole_answer(env, front, side):
    bitflow, address, listener = front
    first, second = in_order(side, *env.pair(address, listener))
    send_in_background(env, first, BLOB, socket.SHUT_WR)
    assert sockets.receive_to_end(second) == BLOB
    answer = BLOB[::-1]
    send_in_background(env, second, answer, socket.SHUT_WR)
    assert sockets.receive_to_end(first) == answer
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["error"]) == ("completed", None)
    counts = record["bytes_from_client"], record["bytes_from_target"]
    assert in_order(side, *counts) == (len(BLOB), len(answer))


def test_data_under_way_arrives_though_both_sides_half_close(env, front):
    bitflow, address, listener = front
    client, target = env.pair(address, listener)
    up, down = BLOB[:2_000_000], BLOB[1_000_000:]
    received = {}
    readers = [
        threading.Thread(target=lambda s=s, k=k: received.update({k: sockets.receive_to_end(s)}))
        for s, k in ((client, "down"), (target, "up"))
    ]
    for reader in readers:
        reader.start()
    send_in_background(env, client, up, socket.SHUT_WR)
    send_in_background(env, target, down, socket.SHUT_WR)
    for reader in readers:
        reader.join(30)
    assert received == {"up": up, "down": down}
    assert bitflow.wait_records(1)[0]["reason"] == "completed"


@SIDES
def test_a_half_closed_connection_stays_open_for_the_other_direction(env, front, side):
    bitflow, address, listener = front
    first, second = in_order(side, *env.pair(address, listener))
    first.shutdown(socket.SHUT_WR)
    assert sockets.receive_to_end(second) == b""
    holds_for(0.5, lambda: sockets.is_open(first) and bitflow.records() == [], "the connection goes on")
    for number in range(50):
        second.sendall(b"%d," % number)
        assert sockets.receive_exactly(first, len(b"%d," % number)) == b"%d," % number
    second.close()
    assert sockets.receive_to_end(first) == b""
    record = bitflow.wait_records(1)[0]
    assert record["reason"] == "completed" and record["ended_by"] in ("client", "target")


@SIDES
def test_a_connection_without_a_byte_is_told_by_who_ended_it(env, front, side):
    """A client that comes for nothing has left."""
    bitflow, address, listener = front
    first, second = in_order(side, *env.pair(address, listener))
    first.close()
    assert sockets.receive_to_end(second) == b""
    second.close()
    record = bitflow.wait_records(1)[0]
    reason = "client_left" if side == "client" else "completed"
    assert (record["reason"], record["ended_by"]) == (reason, side)
    assert (record["bytes_from_client"], record["bytes_from_target"]) == (0, 0)


def test_a_client_that_sends_nothing_stays(env, front):
    bitflow, address, listener = front
    client, target = env.pair(address, listener)
    holds_for(1.0, lambda: sockets.is_open(client) and sockets.is_open(target), "silence is no reason to end")
    client.sendall(b"late")
    assert sockets.receive_exactly(target, 4) == b"late"


@pytest.fixture
def tcp_front(env):
    listener, address = env.listen(), env.address()
    return env.start(proxy(address, listener.address)), address, listener


@SIDES
def test_a_reset_by_one_side_resets_the_other(env, tcp_front, side):
    bitflow, address, listener = tcp_front
    first, second = in_order(side, *env.pair(address, listener))
    first.sendall(b"some")
    assert sockets.receive_exactly(second, 4) == b"some"
    sockets.reset(first)
    assert sockets.receive_until_broken(second) == (b"", "reset")
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["ended_by"], record[f"bytes_from_{side}"]) == (f"{side}_reset", side, 4)


@pytest.fixture
def half_closed(env, tcp_front):
    """(bitflow, client, target): the client has asked, and ended its half."""
    bitflow, address, listener = tcp_front
    client, target = env.pair(address, listener)
    client.sendall(b"ask")
    client.shutdown(socket.SHUT_WR)
    assert sockets.receive_to_end(target) == b"ask"
    return bitflow, client, target


def test_a_half_close_does_not_hide_the_other_sides_reset(half_closed):
    bitflow, client, target = half_closed
    sockets.reset(target)
    assert sockets.receive_until_broken(client) == (b"", "reset")
    assert bitflow.wait_records(1)[0]["reason"] == "target_reset"


def test_a_client_that_half_closed_can_still_reset(half_closed):
    bitflow, client, target = half_closed
    sockets.reset(client)
    # The target has read the end of the stream: only a write tells it of the reset.
    watch = Stopwatch()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        while watch.seconds < 10:
            target.sendall(b"x" * 1000)
    assert bitflow.wait_records(1)[0]["reason"] == "client_reset"


def error_lines(bitflow):
    return [line for line in bitflow.log_lines(partial=True) if line["level"] == "error"]


def test_a_target_that_answers_the_clients_end_by_a_reset_is_no_error(env, tcp_front):
    """Its answer is there; whether it was whole only the target knows, so that the client is told of the reset."""
    bitflow, address, listener = tcp_front
    client, target = env.pair(address, listener)
    client.sendall(b"question")
    assert sockets.receive_exactly(target, 8) == b"question"
    target.sendall(b"answer")
    assert sockets.receive_exactly(client, 6) == b"answer"
    client.shutdown(socket.SHUT_WR)
    assert sockets.receive_to_end(target) == b""
    sockets.reset(target)
    assert sockets.receive_until_broken(client) == (b"", "reset")
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["ended_by"], record["bytes_from_target"]) == ("target_reset_at_end", "target", 6)
    assert error_lines(bitflow) == []


def test_an_answer_and_a_reset_at_the_clients_end_are_both_passed_on(env, tcp_front):
    bitflow, address, listener = tcp_front
    client, target = env.pair(address, listener)
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert sockets.receive_to_end(target) == b"question"
    target.sendall(BLOB[:60_000])
    sockets.wait_acknowledged(target)
    sockets.reset(target)
    assert sockets.receive_until_broken(client) == (BLOB[:60_000], "reset")
    assert bitflow.wait_records(1)[0]["reason"] == "target_reset_at_end"
    assert error_lines(bitflow) == []


@pytest.mark.parametrize("ended", [False, True], ids=["before the client's end", "without an answer"])
def test_a_reset_of_the_target_remains_an_error(env, tcp_front, ended):
    bitflow, address, listener = tcp_front
    client, target = env.pair(address, listener)
    client.sendall(b"question")
    assert sockets.receive_exactly(target, 8) == b"question"
    if ended:
        client.shutdown(socket.SHUT_WR)
        assert sockets.receive_to_end(target) == b""
    else:
        target.sendall(b"answer")
        assert sockets.receive_exactly(client, 6) == b"answer"
    sockets.reset(target)
    assert sockets.receive_until_broken(client) == (b"", "reset")
    assert bitflow.wait_records(1)[0]["reason"] == "target_reset"
    assert [line["reason"] for line in wait_for(lambda: error_lines(bitflow), "an error")] == ["target_reset"]


def relayed_pair(env, address, listener):
    """A pair that has exchanged something: a reset before that would end a dial, not a relay."""
    client, target = env.pair(address, listener)
    client.sendall(b"?")
    assert sockets.receive_exactly(target, 1) == b"?"
    return client, target


@SIDES
@pytest.mark.parametrize("size", [10, 10_000, 60_000])
def test_data_before_a_reset_is_delivered(env, tcp_front, size, side):
    _, address, listener = tcp_front
    first, second = in_order(side, *relayed_pair(env, address, listener))
    first.sendall(BLOB[:size])
    sockets.wait_acknowledged(first)
    sockets.reset(first)
    assert sockets.receive_until_broken(second) == (BLOB[:size], "reset")


def test_a_backlog_before_a_reset_of_the_target_is_delivered(env, tcp_front):
    """The client reads slowly; what bitflow's kernel had acknowledged before the reset is the client's."""
    _, address, listener = tcp_front
    client, target = env.pair(address, listener)
    written = sockets.fill(target, BLOB[:65536])
    acknowledged = written - sockets.unacknowledged(target)
    sockets.reset(target)
    data, end = sockets.receive_until_broken(client)
    assert end == "reset"
    assert len(data) >= acknowledged, f"{acknowledged - len(data)} bytes of {acknowledged} lost"


def test_an_early_answer_survives_the_reset_of_an_upload(env, tcp_front):
    """A server that answers and closes in the middle of an upload resets; its answer must reach the client."""
    bitflow, address, listener = tcp_front
    client, target = env.pair(address, listener)
    answer = b"413 too large\r\n" + BLOB[:20_000]
    sender = send_in_background(env, client, BLOB * 5)
    assert sockets.receive_exactly(target, 1000)
    target.sendall(answer)
    sockets.wait_acknowledged(target)
    target.close()  # unread data is there: the kernel sends a reset
    data, _ = sockets.receive_until_broken(client)
    assert data == answer
    sender.join(20)
    assert not sender.is_alive()
    assert bitflow.wait_records(1)[0]["reason"] == "target_reset"


def come_for_a_reset(address):
    """What receive_until_broken() returns for a new client. Python looks at a connect's outcome late: it may be a reset
    by then, before which there is still something to read."""
    family, sockaddr = sockets.parse(address)
    with socket.socket(family) as client:
        client.settimeout(sockets.TIMEOUT * pace())
        try:
            client.connect(sockaddr)
        except ConnectionResetError:
            return sockets.receive_until_broken(client)[0], "reset"
        return sockets.receive_until_broken(client)


def test_a_target_that_resets_at_once_is_recorded_as_such(env):
    """So early that bitflow may not have noticed yet that it was connected."""
    target = env.serve(peers.resetter)
    address = env.address()
    bitflow = env.start(proxy(address, target.address))
    for _ in range(50):
        assert come_for_a_reset(address)[0] == b""
    reasons = [record["reason"] for record in bitflow.wait_records(50)]
    assert set(reasons) <= {"target_reset", "connect_failed"} and "target_reset" in reasons, reasons
    bitflow.assert_quiet()


def test_a_banner_before_a_reset_at_once_is_delivered(env):
    """A target that answers and resets before bitflow has noticed that it was connected."""
    banner = b"421 too many connections, come back later\r\n"

    def turn_away(connection):
        connection.sendall(banner)
        sockets.reset(connection)

    address, count = env.address(), 300
    bitflow = env.start(proxy(address, env.serve(turn_away).address))
    for _ in range(count):
        assert come_for_a_reset(address) == (banner, "reset")
    records = bitflow.wait_records(count)
    assert {(r["reason"], r["bytes_from_target"]) for r in records} == {("target_reset", len(banner))}


def test_a_storm_of_resetting_clients_leaves_the_proxy_serving(env):
    """Some are gone before they are accepted, others right after."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    for number in range(300):
        client = sockets.connect(address)
        if number % 3 == 0:
            client.sendall(b"x" * (number * 7))
        if number % 2:
            sockets.reset(client)
        else:
            client.close()
    bitflow.wait_records(300, timeout=20)
    assert {record["reason"] for record in bitflow.records()} <= {"completed", "client_reset", "client_left"}
    sockets.round_trip(env.connect(address))


@SIDES
def test_whoever_stops_reading_holds_the_other_side_back(env, front, side):
    """No more is read from the sender than buffers hold; all of it arrives in the end."""
    bitflow, address, listener = front
    reader, sender = in_order(side, *env.pair(address, listener))
    before = bitflow.memory_kib("VmRSS")
    written = sockets.fill(sender, BLOB[:65536])
    assert written < 64_000_000, "the sender is not held back"
    assert bitflow.memory_kib("VmRSS") - before < 8192, "the backlog is kept in bitflow's memory"
    reader.sendall(b"the other way is free")
    assert sockets.receive_exactly(sender, 21) == b"the other way is free"
    sender.shutdown(socket.SHUT_WR)
    assert len(sockets.receive_to_end(reader)) == written
    reader.close()
    record = wait_for(bitflow.records, "a record")[0]
    counts = record["bytes_from_client"], record["bytes_from_target"]
    assert in_order(side, *counts) == (21, written)
