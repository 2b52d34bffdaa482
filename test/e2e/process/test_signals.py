"""SIGTERM, SIGINT and SIGPIPE: the drain, its bound, and the end."""

import contextlib
import os
import signal
import socket
import subprocess
import threading

import pytest

import bitflow_process
import sockets
from bitflow_process import signal_name
from environment import proxy
from waiting import Stopwatch, holds_for, wait_for

each_ending = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=signal_name)


@each_ending
def test_it_ends_at_once_when_there_are_no_connections(env, number):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    client = env.connect(address)
    sockets.round_trip(client)
    client.close()
    bitflow.wait_records(1)
    watch = Stopwatch()
    bitflow.signal(number)
    assert bitflow.wait_ended() == 0
    watch.between(0, 1.5, "the end")


@each_ending
def test_a_drain_lets_connections_finish(env, number):
    """The listeners close first; live connections go on until they end by themselves."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), proxy(env.unix(), echo.address, name="by-unix"))
    clients = [env.connect(address), env.connect(env.unix())]
    for client in clients:
        sockets.round_trip(client)
    bitflow.signal(number)
    wait_for(lambda: sockets.refuses(address) and sockets.refuses(env.unix()), "the listeners are closed")
    for _ in range(10):
        for client in clients:
            sockets.round_trip(client)
    holds_for(0.5, lambda: bitflow.is_running() and all(map(sockets.is_open, clients)), "the drain lasts")
    for client in clients:
        client.shutdown(socket.SHUT_WR)
        assert sockets.receive_to_end(client) == b""
    watch = Stopwatch()
    assert bitflow.wait_ended() == 0
    watch.between(0, 1.5, "the end once all have gone")
    drained = [record["reason"] for record in bitflow.records() if record["bytes_from_client"] > 0]
    assert drained == ["completed", "completed"]


def test_drain_timeout_bounds_the_drain(env):
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address), server={"drain_timeout": "700ms"})
    client, target = env.pair(address, listener)
    target.sendall(b"last words")
    watch = Stopwatch()
    bitflow.signal(signal.SIGTERM)
    assert sockets.receive_until_broken(client) == (b"last words", "eof")
    assert sockets.receive_until_broken(target) == (b"", "eof")
    watch.between(0.6, 2, "the drain")
    assert bitflow.wait_ended() == 0
    record = bitflow.records()[0]
    assert (record["reason"], record["ended_by"]) == ("drain", "proxy")


def test_drain_delay_goes_on_accepting_before_the_drain(env):
    """Load balancers learn late."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), server={"drain_delay": "1s", "drain_timeout": "500ms"})
    watch = Stopwatch()
    bitflow.signal(signal.SIGTERM)
    bitflow.wait_taken(signal.SIGTERM)
    while watch.seconds < 0.8:
        client = env.connect(address)
        sockets.round_trip(client)
    wait_for(lambda: sockets.refuses(address), "the listener is closed")
    watch.between(1, 2.5, "the delay")
    assert sockets.receive_until_broken(client) == (b"", "eof")
    assert bitflow.wait_ended() == 0
    watch.between(1.4, 4, "the delay and the drain")


def test_a_second_signal_ends_the_drain_delay_and_a_third_one_the_drain(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), server={"drain_delay": "1h"})
    client = env.connect(address)
    sockets.round_trip(client)
    bitflow.signal(signal.SIGTERM)
    wait_for(lambda: "accepting until drain_delay is over" in bitflow.stderr(), bitflow.stderr)
    bitflow.signal(signal.SIGHUP)
    bitflow.wait_taken(signal.SIGHUP)
    later = env.connect(address)
    sockets.round_trip(later)
    bitflow.signal(signal.SIGTERM)
    wait_for(lambda: sockets.refuses(address), "the listener is closed")
    for each in (client, later):
        sockets.round_trip(each)
    bitflow.signal(signal.SIGTERM)
    assert bitflow.wait_ended() == 0
    assert sockets.receive_until_broken(client) == (b"", "eof")


def test_drain_timeout_ends_connections_that_are_stuck(env):
    """Blocked in a write, in bulk, half-closed, or being dialled: the bound holds for all."""
    listener, address, dialled = env.listen(), env.address(), env.address()
    entry = {"address": env.refusing(), "connect_attempts": 100, "connect_backoff": "30s"}
    bitflow = env.start(
        proxy(address, listener.address),
        proxy(dialled, entry, name="dialled"),
        server={"drain_timeout": "600ms"},
    )
    stuck, stuck_target = env.pair(address, listener)
    sockets.fill(stuck_target)
    busy, busy_target = env.pair(address, listener)

    def flood():
        with contextlib.suppress(OSError):
            while True:
                busy_target.sendall(bytes(65536))

    def swallow():
        with contextlib.suppress(OSError):
            while busy.recv(65536):
                pass

    for work in (flood, swallow):
        threading.Thread(target=work, daemon=True).start()
    half, half_target = env.pair(address, listener)
    half.shutdown(socket.SHUT_WR)
    assert sockets.receive_to_end(half_target) == b""
    waiting = env.connect(dialled)
    wait_for(lambda: len(bitflow.busy_threads()) >= 4, "all four are served")
    watch = Stopwatch()
    bitflow.signal(signal.SIGTERM)
    assert bitflow.wait_ended() == 0
    watch.between(0, 3.5, "the drain")
    assert len(bitflow.records()) == 4
    assert {record["reason"] for record in bitflow.records()} == {"drain"}
    waiting.close()


@pytest.mark.parametrize(
    "first, second",
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGINT)],
    ids=signal_name,
)
def test_a_second_signal_ends_the_drain_at_once(env, first, second):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), proxy(env.unix(), echo.address, name="by-unix"))
    clients = [env.connect(address) for _ in range(5)]
    for client in clients:
        sockets.round_trip(client)
    bitflow.signal(first)
    wait_for(lambda: sockets.refuses(address), "the drain began")
    holds_for(0.3, bitflow.is_running, "the drain lasts")
    watch = Stopwatch()
    bitflow.signal(second)
    assert bitflow.wait_ended() == 0
    watch.between(0, 1.5, "the end")
    assert not (env.directory / "front.sock").exists()


def test_records_of_drained_connections_are_complete(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), server={"drain_timeout": "300ms"})
    clients = [env.connect(address) for _ in range(50)]
    for client in clients:
        sockets.round_trip(client, b"0123456789")
    bitflow.signal(signal.SIGTERM)
    assert bitflow.wait_ended() == 0
    records = bitflow.records()
    assert len(records) == 50
    assert {(r["reason"], r["bytes_from_client"], r["bytes_from_target"]) for r in records} == {
        ("drain", 10, 10)
    }


def test_a_broken_stderr_pipe_does_not_end_the_process(env):
    """The log's reader goes away: neither SIGPIPE nor EPIPE is a reason to end."""
    echo, address = env.echo(), env.address()
    config = env.config(proxy(address, echo.address), level="debug")
    with bitflow_process.running(config, stderr=subprocess.PIPE) as process:
        os.set_blocking(process.stderr.fileno(), False)
        said = bytearray()
        wait_for(lambda: b"listening" in said or said.extend(process.stderr.read() or b""), "it listens")
        process.stderr.close()
        for _ in range(10):
            assert sockets.is_served(address)
        assert process.poll() is None


def test_a_restart_can_have_the_same_port_at_once(env):
    """The last run's sockets in TIME_WAIT do not stand in the way."""
    listener, address = env.listen(), env.address()
    for number in range(3):
        bitflow = env.start(proxy(address, listener.address), name=f"config{number}.yaml")
        for _ in range(5):
            client, target = env.pair(address, listener)
            target.close()  # bitflow's side of the client's connection closes first
            assert sockets.receive_to_end(client) == b""
            client.close()
        bitflow.stop()


def test_no_client_hangs_when_the_end_comes_in_a_rush(env):
    """SIGTERM amid a crowd: every client is served or refused, none hangs, the exit is clean."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), server={"drain_timeout": "2s"})
    done, hung = threading.Event(), []

    def come():
        while not done.is_set():
            try:
                client = sockets.connect(address, timeout=10)
                client.sendall(b"x")
                client.recv(1)
                client.close()
            except TimeoutError:
                hung.append(1)
            except OSError:
                pass

    crowd = [threading.Thread(target=come, daemon=True) for _ in range(8)]
    for each in crowd:
        each.start()
    wait_for(lambda: len(bitflow.records()) > 50, "the crowd is there")
    bitflow.signal(signal.SIGTERM)
    assert bitflow.wait_ended() == 0
    done.set()
    for each in crowd:
        each.join(20)
    assert not hung
