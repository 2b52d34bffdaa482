"""A connection has a second thread while data comes in bulk or a write waits, and gives it back when it is quiet."""

import socket

import pytest

import sockets
import tls_cases
from costs import client_context
from environment import proxy
from waiting import wait_for


def wait_threads(bitflow, count):
    wait_for(
        lambda: len(bitflow.busy_threads()) == count, lambda: f"{count} threads serve it: {bitflow.thread_names()}"
    )


def carry_bulk(bitflow, sender, receiver):
    """More than fits on the way, so that a write waits; then the receiver takes it all."""
    written = sockets.fill(sender)
    wait_threads(bitflow, 2)
    sockets.receive_exactly(receiver, written)


def carry_messages(client, target):
    for number in range(20):
        for sender, receiver in ((client, target), (target, client)):
            sender.sendall(b"%03d" % number)
            assert sockets.receive_exactly(receiver, 3) == b"%03d" % number


@pytest.fixture
def front(env):
    listener, address = env.listen(), env.address()
    return env.start(proxy(address, listener.address)), address, listener


@pytest.mark.parametrize("side", ["client", "target"])
@pytest.mark.parametrize("end", ["close", "half_close", "reset"])
def test_a_quiet_connection_goes_back_to_one_thread(env, front, side, end):
    bitflow, address, listener = front
    client, target = env.pair(address, listener)
    first, second = (client, target) if side == "client" else (target, client)
    for sender, receiver in ((first, second), (second, first)):
        carry_bulk(bitflow, sender, receiver)
        carry_messages(client, target)
        wait_threads(bitflow, 1)
        carry_messages(client, target)
        assert len(bitflow.busy_threads()) == 1
    if end == "reset":
        sockets.reset(first)
        assert sockets.receive_until_broken(second) == (b"", "reset")
        assert bitflow.wait_records(1)[0]["reason"] == f"{side}_reset"
        return
    if end == "half_close":
        first.shutdown(socket.SHUT_WR)
        assert sockets.receive_to_end(second) == b""
        second.sendall(b"answer")
        assert sockets.receive_exactly(first, 6) == b"answer"
        second.close()
        assert sockets.receive_to_end(first) == b""
    else:
        first.close()
        assert sockets.receive_to_end(second) == b""
        second.close()
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["error"]) == ("completed", None)


def test_a_quiet_tls_connection_goes_back_to_one_thread(env, pki):
    listener, address = env.listen(), env.address()
    settings = tls_cases.tls_listener(pki.server, verify_mode="none")
    bitflow = env.start(proxy(address, listener.address, listener=settings))
    client = env.keep(client_context().wrap_socket(sockets.connect(address)))
    target = listener.accept()
    for _ in range(2):
        written = sockets.fill(target)
        wait_threads(bitflow, 2)
        sockets.receive_exactly(client, written)
        wait_threads(bitflow, 1)
        carry_messages(client, target)
    target.close()
    assert client.recv(1) == b""
    client.unwrap()
    assert bitflow.wait_records(1)[0]["reason"] == "completed"
