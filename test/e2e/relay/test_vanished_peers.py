"""Peers whose network goes away with data under way, which keepalive does not see; and peers that are there, and take
nothing. Each test has two networks of its own, with a cable between them, in which keepalive asks twice."""

import socket

import pytest

import networks
import sockets
from environment import proxy
from waiting import Stopwatch, holds_for, wait_for

PROBES = 2
PATIENCE = 1 + PROBES  # s, with an interval of 1 s


@pytest.fixture
def cable(env):
    """Bitflow is at the near end of it, and so is this thread."""
    with networks.Networks() as made, networks.inside(made.near):
        with open("/proc/sys/net/ipv4/tcp_keepalive_probes", "w") as stream:
            stream.write(str(PROBES))
        yield made
        env.stack.close()


def far_target(env, made, **settings):
    with networks.inside(made.far):
        return env.listen(f"{made.address}:0", **settings)


def far_client(env, made, address):
    with networks.inside(made.far):
        return env.connect(address)


def pair_over(env, made, side, settings, **options):
    """(bitflow, the near peer, the far one): `side` is the far one, whose leg has the settings."""
    if side == "target":
        listener = far_target(env, made)
        bitflow = env.start(proxy(env.unix(), {"address": listener.address, **settings}, **options))
        client, target = env.pair(env.unix(), listener)
        near, far = client, target
    else:
        listener, address = env.listen(env.unix("back.sock")), "198.18.7.1:7000"
        bitflow = env.start(proxy(address, listener.address, listener=settings, **options))
        client = far_client(env, made, address)
        near, far = listener.accept(), client
    far.sendall(b"hello")
    assert sockets.receive_exactly(near, 5) == b"hello"
    near.sendall(b"hello")
    assert sockets.receive_exactly(far, 5) == b"hello"
    return bitflow, near, far


SIDES = pytest.mark.parametrize("side", ["target", "client"])
SETTINGS = pytest.mark.parametrize(
    "settings, least", [({"keepalive_interval": "1s"}, PATIENCE - 0.5), ({"tcp_user_timeout": "2500ms"}, 2.2)],
    ids=["keepalive_interval", "tcp_user_timeout"],
)  # fmt: skip


def assert_lost(bitflow, near, side, watch, least):
    data, end = sockets.receive_until_broken(near)
    assert data == b"" and (end == "reset" or near.family == socket.AF_UNIX)  # which tells of unread data alone
    watch.between(least, 15, "a peer that does not acknowledge is lost")
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["ended_by"]) == (f"{side}_lost", side)
    assert "timed out" in record["error"]


@SIDES
@SETTINGS
def test_a_peer_that_vanishes_with_data_under_way_is_lost(cable, env, side, settings, least):
    bitflow, near, _ = pair_over(env, cable, side, settings)
    cable.cut()
    watch = Stopwatch()
    near.sendall(b"a query")
    assert_lost(bitflow, near, side, watch, least)


@SETTINGS
def test_a_peer_that_vanishes_below_a_steady_stream_is_lost(cable, env, settings, least):
    """Each message is a sign of life of the other side only."""
    bitflow, near, _ = pair_over(env, cable, "target", settings)
    cable.cut()
    watch = Stopwatch()

    def is_over():
        try:
            near.sendall(b"x")
        except OSError:
            return True
        return bitflow.records()

    wait_for(is_over, "it is noticed", 15, every=0.2)
    watch.between(least, 15, "a peer that does not acknowledge is lost")
    assert bitflow.wait_records(1)[0]["reason"] == "target_lost"


@SETTINGS
def test_a_peer_that_vanishes_below_bulk_is_lost(cable, env, settings, least):
    """Until a write waits, on two threads."""
    bitflow, near, _ = pair_over(env, cable, "target", settings)
    cable.cut()
    watch = Stopwatch()
    sockets.fill(near)
    assert_lost(bitflow, near, "target", watch, least)


def test_an_end_that_is_not_acknowledged_is_data_under_way(cable, env):
    bitflow, near, _ = pair_over(env, cable, "target", {"keepalive_interval": "1s"})
    cable.cut()
    watch = Stopwatch()
    near.shutdown(socket.SHUT_WR)
    assert_lost(bitflow, near, "target", watch, PATIENCE - 0.5)


@pytest.mark.parametrize("bytes_sent", ["few", "many"])
def test_a_peer_that_takes_nothing_but_answers_is_not_lost(cable, env, bytes_sent):
    """Its window is closed for several times what keepalive would wait: it goes on where it stopped. `few`: the rest
    waits in the kernel, and bitflow has nothing more to write."""
    listener = far_target(env, cable, receive_buffer=4096)
    bitflow = env.start(proxy(env.unix(), {"address": listener.address, "keepalive_interval": "1s"}))
    near, far = env.pair(env.unix(), listener)
    if bytes_sent == "few":
        near.sendall(bytes(100_000))
        written = 100_000
    else:
        written = sockets.fill(near)
    holds_for(3.5 * PATIENCE, lambda: bitflow.records() == [], "it is there, and says so")
    near.shutdown(socket.SHUT_WR)
    assert len(sockets.receive_to_end(far)) == written
    far.close()
    assert bitflow.wait_records(1)[0]["reason"] == "completed"
