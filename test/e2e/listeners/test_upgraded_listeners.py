"""Which listening sockets a new process takes over: all that its configuration still wants, of each kind."""

import os
import signal
import socket
import stat
import subprocess
import sys

import pytest

import bitflow_process
import needs
import peers
import programs
import sockets
import tls_cases
import tls_raw
import upgrades
from environment import proxy
from launches import numbered
from upgrades import upgrade
from waiting import wait_for


@pytest.fixture(autouse=True)
def reaping():
    with upgrades.reaping():
        yield


def inode_of(bitflow, port):
    return bitflow.listening_inodes(port)


def port_of(address):
    return int(address.rpartition(":")[2])


@pytest.mark.parametrize("kind", ["ipv4", "ipv6", "every address", "name", "tcp4 wildcard"])
def test_the_same_tcp_sockets_listen_on(env, kind):
    if kind in ("ipv6", "every address"):
        needs.IPV6.need()
    port = sockets.free_port()
    listening = {"ipv4": "127.0.0.1", "ipv6": "[::1]", "every address": "", "name": "localhost",
                 "tcp4 wildcard": "tcp4://"}[kind]
    echo = env.echo()
    bitflow = env.start(proxy(f"{listening}:{port}", echo.address))
    before = inode_of(bitflow, port)
    assert before
    successor = upgrade(env, bitflow)
    assert bitflow.wait_ended() == 0
    assert inode_of(successor, port) == before
    upgrades.serves(sockets.join("::1" if kind == "ipv6" else "127.0.0.1", port))


def test_a_port_that_the_kernel_chose_stays(env):
    echo = env.echo()
    bitflow = env.start(proxy("127.0.0.1:0", echo.address))
    address = upgrades.said(bitflow, "listening")[0]["address"]
    upgrade(env, bitflow)
    assert upgrades.said(bitflow, "listening")[1]["address"] == address
    upgrades.serves(address)


def test_two_ports_that_the_kernel_chose_are_not_mixed_up(env):
    """Nothing tells which is whose, so the new process has others."""
    one, two = env.serve(peers.greeter("one")), env.serve(peers.greeter("two"))
    bitflow = env.start(proxy("127.0.0.1:0", one.address, name="a"), proxy("127.0.0.1:0", two.address, name="b"))
    upgrade(env, bitflow)
    lines = upgrades.said(bitflow, "listening")
    assert len({line["address"] for line in lines}) == 4
    for line, greeting in zip(lines[2:], [b"one\n", b"two\n"]):
        assert upgrades.greeting(line["address"]) == greeting


def test_a_wider_address_beside_the_old_one_is_refused_and_changes_nothing(env):
    """As by a reload: 127.0.0.1:PORT is not :PORT."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    env.config(proxy(f":{port_of(address)}", echo.address))
    upgrades.fails(bitflow)
    assert "Address already in use" in bitflow.stderr()
    upgrades.serves(address)


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_a_unix_socket_is_taken_over(env, kind):
    echo = env.echo()
    address = env.unix() if kind == "path" else env.abstract()
    path = env.directory / "front.sock"
    bitflow = env.start(proxy(address, echo.address))
    inode = path.stat().st_ino if kind == "path" else None
    successor = upgrade(env, bitflow)
    assert bitflow.wait_ended() == 0
    upgrades.serves(address)
    if kind == "path":
        assert path.stat().st_ino == inode
        successor.stop()
        assert not path.exists(), "the last one removes it"


def test_a_unix_socket_that_is_no_longer_wanted_goes_with_the_old_process(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), proxy(env.unix(), echo.address, name="by-unix"))
    env.config(proxy(address, echo.address))
    upgrade(env, bitflow)
    assert bitflow.wait_ended() == 0
    assert not (env.directory / "front.sock").exists()


def test_a_unix_socket_whose_file_was_removed_is_opened_anew(env):
    echo, path = env.echo(), env.directory / "front.sock"
    bitflow = env.start(proxy(env.unix(), echo.address))
    path.unlink()
    upgrade(env, bitflow)
    assert bitflow.wait_ended() == 0
    upgrades.serves(env.unix())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_unix_socket_gets_its_new_mode(env):
    echo, path = env.echo(), env.directory / "front.sock"
    bitflow = env.start(proxy(env.unix(), echo.address, listener={"unix_mode": "0600"}))
    env.config(proxy(env.unix(), echo.address, listener={"unix_mode": "0666"}))
    upgrade(env, bitflow)
    assert mode(path) == 0o666


def test_a_failed_upgrade_leaves_the_mode(env):
    echo, path, taken = env.echo(), env.directory / "front.sock", env.listen()
    bitflow = env.start(proxy(env.unix(), echo.address, listener={"unix_mode": "0600"}))
    env.config(
        proxy(env.unix(), echo.address, listener={"unix_mode": "0666"}),
        proxy(taken.address, echo.address, name="second"),
    )
    upgrades.fails(bitflow)
    assert mode(path) == 0o600
    upgrades.serves(env.unix())


@pytest.mark.parametrize("address, names", [("fd://7", None), ("fd://web", ["other", "web"])])
def test_inherited_sockets_are_handed_down_again_and_again(env, address, names):
    echo, inherited, other = env.echo(), env.listen(), env.listen()
    plan = numbered((inherited.socket, 7))
    if names:
        plan = {**numbered((other.socket, 3), (inherited.socket, 4)), "listen_names": names}
    bitflow = env.start(proxy(address, echo.address), plan=plan)
    for _ in range(3):
        before, bitflow = bitflow, upgrade(env, bitflow)
        assert before.wait_ended() == 0
        upgrades.serves(inherited.address)


def test_an_inherited_unix_socket_is_handed_down(env):
    echo, inherited = env.echo(), env.listen(env.unix("inherited.sock"))
    bitflow = env.start(proxy("fd://3", echo.address), plan=numbered((inherited.socket, 3)))
    upgrade(env, bitflow)
    assert bitflow.wait_ended() == 0
    upgrades.serves(inherited.address)


def test_an_inherited_connection_is_not_handed_down(env):
    """A stream has one reader: where the new process would want it, there is no upgrade."""
    echo, address = env.echo(), env.address()
    ours, inherited = map(env.keep, socket.socketpair())
    ours.settimeout(15)
    bitflow = env.start(
        proxy(address, echo.address), proxy("fd://3", echo.address, name="once"), plan=numbered((inherited, 3)),
        wait=False,
    )
    sockets.round_trip(ours)
    assert upgrades.fails(bitflow) == "it ended with status 1"
    sockets.round_trip(ours)


def test_sockets_of_systemd_outlast_upgrades(env):
    """As a socket unit activates a service."""
    activate = programs.find("systemd-socket-activate")
    echo, address = env.echo(), env.address()
    path = env.config(proxy("fd://web", echo.address))
    output = env.directory / "activated.txt"
    with open(output, "wb") as stream:
        process = subprocess.Popen(
            [activate, f"--listen={address}", "--fdname=web", bitflow_process.binary(), "--config", path],
            stderr=stream, stdin=subprocess.DEVNULL,
        )
    try:
        wait_for(lambda: not sockets.refuses(address), "it listens")
        bitflow = upgrades.Observed(path, output, process, env.records_path)
        env.bitflows.append(bitflow)
        bitflow.wait_listening(["front"])
        upgrades.serves(address)
        for _ in range(2):
            bitflow = upgrade(env, bitflow)
            upgrades.serves(address)
    finally:
        if process.poll() is None and sys.exc_info()[0]:
            process.kill()
            process.wait()


def test_clients_in_the_queue_are_served_by_the_new_process(env):
    """They came to the socket, and not to a process."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    pid = None
    with bitflow.stopped():
        clients = [env.connect(address) for _ in range(50)]
        os.kill(bitflow.pid, signal.SIGUSR2)
    wait_for(lambda: upgrades.said(bitflow, upgrades.SERVES), bitflow.stderr)
    pid = int(upgrades.said(bitflow, upgrades.SERVES)[0]["process"])
    env.bitflows.append(upgrades.Successor(bitflow, pid))
    for client in clients:
        sockets.round_trip(client)


def test_a_tls_listener_is_taken_over(env, pki):
    """With the certificate that is there now."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address, listener=tls_cases.tls_listener(pki.server)))

    def session():
        context = tls_raw.client_context(pki.trusted)
        tls = tls_raw.Tls(env.connect(address), context, server_name="server.test").handshake()
        tls.write(b"hello")
        assert tls.read_exactly(5) == b"hello"
        return tls

    before = session()
    upgrade(env, bitflow)
    session()
    before.write(b"still")
    assert before.read_exactly(5) == b"still"
