"""An inherited connected socket as a target: to whom it is lent, when it is spent, and how it is set up."""

import contextlib
import socket

import pytest

import sockets
from environment import proxy
from waiting import wait_for


@pytest.fixture(params=["tcp", "pair"])
def lent(env, request):
    """(bitflow, address, target): a proxy whose target is the other end of `target`."""
    if request.param == "tcp":
        listener = env.listen()
        inherited = env.connect(listener.address)
        target = listener.accept()
    else:
        target, inherited = map(env.keep, socket.socketpair())
        target.settimeout(sockets.TIMEOUT)
    address = env.address()
    plan = {"descriptors": [[inherited.fileno(), 3]]}
    bitflow = env.start(proxy(address, "fd://3"), plan=plan)
    inherited.close()
    return bitflow, address, target


def exchange(env, address, target):
    """A new client asks a question and gets an answer; returns the client."""
    client = env.connect(address)
    client.sendall(b"question")
    assert sockets.receive_exactly(target, 8) == b"question"
    target.sendall(b"answer")
    assert sockets.receive_exactly(client, 6) == b"answer"
    return client


def test_a_client_that_says_nothing_does_not_use_the_target_up(env, lent):
    """Health checks and port scans leave by an end of the stream or by a reset."""
    bitflow, address, target = lent
    for number, leave in enumerate([socket.socket.close, sockets.reset] * 3, 1):
        leave(sockets.connect(address))
        records = bitflow.wait_records(number)
        assert records[-1]["reason"] in ("client_left", "client_reset"), records[-1]
    assert sockets.is_open(target), "it was ended although nothing was said"
    exchange(env, address, target).close()


@pytest.mark.parametrize("side", ["client", "target"])
def test_one_byte_from_either_side_spends_the_target(env, lent, side):
    """The next client would get a stranger's stream."""
    bitflow, address, target = lent
    client = env.connect(address)
    sender, receiver = (client, target) if side == "client" else (target, client)
    if side == "target":
        wait_for(bitflow.busy_threads, "the client has it")
    sender.sendall(b"x")
    assert sockets.receive_exactly(receiver, 1) == b"x"
    client.close()
    assert sockets.receive_to_end(target) == b""
    target.close()
    bitflow.wait_records(1)
    late = env.connect(address)
    with contextlib.suppress(OSError):
        late.sendall(b"is it mine?")
    sockets.was_rejected(late)
    assert bitflow.wait_records(2)[1]["reason"] == "connect_refused"
    assert bitflow.is_running()


def test_a_lent_tcp_target_gets_the_options_of_a_dialled_one(env):
    """Its other holder sees them, too."""
    listener, address = env.listen(), env.address()
    inherited = env.connect(listener.address)
    target = listener.accept()
    assert not inherited.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    env.start(
        proxy(address, {"address": "fd://3", "keepalive_interval": "65s"}),
        plan={"descriptors": [[inherited.fileno(), 3]]},
    )
    exchange(env, address, target)
    assert inherited.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert inherited.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert inherited.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 65
