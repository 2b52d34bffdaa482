"""What surrounds the process: a log that nobody reads, standard streams that are closed, a network that goes
away."""

import os
import pathlib
import signal
import socket
import subprocess

import pytest
import yaml

import bitflow_process
import programs
import sockets
from environment import proxy
from networks import Networks
from waiting import Stopwatch, pace, scale, wait_for


@pytest.mark.parametrize("log, level", [("pipe", "debug"), ("terminal", "info")], ids=["pipe", "terminal"])
def test_a_log_that_nobody_reads_holds_nobody_up(env, log, level):
    """A full pipe, or a terminal whose session is stopped or whose window hangs."""
    echo, address = env.echo(), env.address()
    config = env.config(proxy(address, echo.address, name="x" * 60), level=level)
    unread, stderr = os.pipe() if log == "pipe" else os.openpty()
    env.stack.callback(os.close, unread)
    with bitflow_process.running(config, stderr=stderr):
        os.close(stderr)
        wait_for(lambda: sockets.is_served(address), "it serves")
        for _ in range(scale(2000, 500)):
            assert sockets.is_served(address)
        for _ in range(scale(500, 300)):  # failures are logged at any level
            sockets.reset(sockets.connect(address))
        assert sockets.is_served(address)


STREAMS = {"stdin": [0], "stderr": [2], "stdout and stderr": [1, 2], "all three": [0, 1, 2]}


def closing(*names):
    return pytest.mark.parametrize("closed", [STREAMS[name] for name in names], ids=names)


@closing("stdin", "stdout and stderr", "all three")
def test_no_socket_takes_the_place_of_a_closed_standard_stream(env, closed):
    """The first sockets must not become the standard streams, into which the log is written."""
    echo, addresses = env.echo(), [env.address() for _ in range(3)]
    proxies = [
        proxy(address, echo.address, name=f"proxy{number}") for number, address in enumerate(addresses)
    ]
    proxies.append(proxy(env.address(), env.refusing(), name="refusing"))
    bitflow = env.start(*proxies, level="debug", plan={"closed": closed}, wait=False)
    for entry in proxies:
        bitflow.wait_bound(int(entry["listener"]["address"].rpartition(":")[2]))
    for _ in range(5):
        sockets.was_rejected(env.connect(proxies[-1]["listener"]["address"]))
        for address in addresses:
            client = env.connect(address)
            sockets.round_trip(client, b"nothing but this")
            client.shutdown(1)
            assert sockets.receive_to_end(client) == b""


@closing("stderr", "stdout and stderr", "all three")
def test_after_a_reload_nothing_is_logged_into_a_socket_or_another_file(env, closed):
    """A descriptor that the removed proxy leaves free must not become the log, nor be taken for it."""
    echo, gone, address = env.echo(), env.address(), env.address()
    own_log = str(env.directory / "gone.jsonl")
    drop = proxy(gone, echo.address, name="gone", connection_log=own_log)
    keep = proxy(address, echo.address, name="keep")
    bitflow = env.launch(env.config(drop, keep), {"closed": closed})
    for each in (gone, address):
        bitflow.wait_bound(int(each.rpartition(":")[2]))
    env.config(keep)
    bitflow.signal(signal.SIGHUP)
    wait_for(lambda: not bitflow.listening_inodes(int(gone.rpartition(":")[2])), "the removed proxy is gone")
    clients = [env.connect(address) for _ in range(10)]
    for client in clients:
        sockets.round_trip(client, b"nothing but this")
    bitflow.signal(signal.SIGHUP)
    for client in clients:
        client.shutdown(socket.SHUT_WR)
        assert sockets.receive_to_end(client) == b""
    assert {record["proxy"] for record in bitflow.wait_records(10)} == {"keep"}
    assert bitflow.records(own_log) == []
    assert bitflow.stderr() == ""


def test_it_serves_on_when_its_working_directory_vanishes(env):
    """Nothing is opened relative to it later on, unless the configuration says so."""
    echo, address = env.echo(), env.address()
    place = env.directory / "vanishing"
    place.mkdir()
    config = env.config(proxy(address, echo.address))
    with bitflow_process.running(config, cwd=place):
        wait_for(lambda: sockets.is_served(address), "it serves")
        place.rmdir()
        assert sockets.is_served(address)


def test_keepalive_ends_a_connection_whose_target_vanishes(env):
    """The cable is pulled: keepalive notices it on an idle connection, connect_timeout on a new one."""
    with Networks() as networks:
        port = sockets.free_port()
        server = programs.Program(
            ["ip", "netns", "exec", networks.far, "socat", f"TCP-LISTEN:{port},reuseaddr,fork", "PIPE"]
        )
        env.keep(server)
        entry = {
            "address": f"{networks.address}:{port}",
            "keepalive_interval": "1s",
            "connect_timeout": "1s",
            "connect_attempts": 20,
            "connect_backoff": "50ms",
        }
        bitflow = env.launch(env.config(proxy(env.unix(), entry)), {"namespace": networks.near})
        bitflow.wait_listening(["front"])
        client = env.connect(env.unix(), timeout=30)
        sockets.round_trip(client)
        networks.cut()
        watch = Stopwatch()
        data, _ = sockets.receive_until_broken(client)
        assert data == b""
        watch.between(0.5, 20, "keepalive notices")
        record = bitflow.wait_records(1)[0]
        assert (record["reason"], record["ended_by"]) == ("target_lost", "target")
        late = env.connect(env.unix())
        wait_for(bitflow.busy_threads, "the next one is dialled")
        late.close()
        assert bitflow.wait_records(2)[1]["reason"] == "client_left"


def test_the_example_configuration_serves_as_it_stands(env):
    """In a network of its own, since the ports are fixed."""
    example = pathlib.Path(__file__).resolve().parents[3] / "config.example.yaml"
    entry = yaml.safe_load(example.read_text())["server"]["proxies"][0]
    front, back = (
        address.removeprefix("tcp://")
        for address in (entry["listener"]["address"], entry["targets"][0]["address"])
    )
    with Networks() as networks:
        inside = ["ip", "netns", "exec", networks.near]
        port = back.rpartition(":")[2]
        env.keep(programs.Program([*inside, "socat", f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork", "PIPE"]))
        bitflow = env.launch(example, {"namespace": networks.near})
        bitflow.wait_listening([entry["name"]])

        def answered():
            done = subprocess.run(
                [programs.find("ip"), *inside[1:], programs.find("socat"), "-t5", "-", f"TCP:{front}"],
                input=b"as it stands",
                capture_output=True,
                timeout=30 * pace(),
                check=False,
            )
            return done.stdout == b"as it stands"

        wait_for(answered, "an answer through the example's proxy")
