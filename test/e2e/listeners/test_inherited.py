"""Inherited descriptors: by number and by name, listening and connected, as listener and as target."""

import contextlib
import os
import signal
import socket
import threading

import pytest

import peers
import sockets
from environment import proxy
from launches import numbered
from waiting import Stopwatch, holds_for, wait_for


def start_fails(env, *proxies, plan=None, environment=None):
    bitflow = env.launch(env.config(*proxies), plan, environment)
    bitflow.expected_status = 1
    assert bitflow.wait_ended() == 1
    return bitflow.stderr()


BLOCKING = pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "nonblocking"])


@BLOCKING
@pytest.mark.parametrize("number", [3, 7, 0])
def test_an_inherited_listener_serves_by_its_number(env, number, blocking):
    """Whatever file status flags the socket comes with."""
    echo, inherited = env.echo(), env.listen()
    inherited.socket.setblocking(blocking)
    bitflow = env.start(proxy(f"fd://{number}", echo.address), plan=numbered((inherited.socket, number)))
    clients = [env.connect(inherited.address) for _ in range(20)]
    for client in clients:
        sockets.round_trip(client)
        client.close()
    assert bitflow.wait_records(20)[0]["local"] == inherited.address


def test_an_inherited_unix_listener_serves(env):
    echo, inherited = env.echo(), env.listen(env.unix("inherited.sock"))
    bitflow = env.start(proxy("fd://3", echo.address), plan=numbered((inherited.socket, 3)))
    client = env.connect(inherited.address)
    sockets.round_trip(client)
    client.close()
    assert bitflow.wait_records(1)[0]["local"] == inherited.address


SOURCES = pytest.mark.parametrize(
    "listener",
    [
        {"authorized_sources": ["127.0.0.0/8"]},
        {"proxy_protocol": True, "proxy_protocol_sources": ["127.0.0.1"]},
    ],
    ids=lambda listener: list(listener)[-1],
)


@SOURCES
@pytest.mark.parametrize("kind", ["listening", "pair"])
def test_a_list_of_addresses_for_an_inherited_unix_socket_ends_the_start(env, kind, listener):
    """What --check cannot know: such a list would reject everyone."""
    target = env.listen()
    if kind == "listening":
        inherited = env.listen(env.unix("inherited.sock")).socket
    else:
        inherited = env.keep(socket.socketpair()[0])
    said = start_fails(env, proxy("fd://3", target.address, listener=listener), plan=numbered((inherited, 3)))
    key = list(listener)[-1]
    assert f"bitflow: proxy front: fd://3 is a Unix socket, whose clients have no IP address: {key} " in said


@SOURCES
def test_a_list_of_addresses_for_an_inherited_unix_socket_fails_the_reload(env, listener):
    echo, inherited = env.echo(), env.listen(env.unix("inherited.sock"))
    bitflow = env.start(proxy("fd://3", echo.address), plan=numbered((inherited.socket, 3)))
    env.config(proxy("fd://3", echo.address, listener=listener))
    bitflow.signal(signal.SIGHUP)
    wait_for(lambda: "the old configuration stays in force" in bitflow.stderr(), "the reload fails")
    assert "whose clients have no IP address" in bitflow.stderr()
    sockets.round_trip(env.connect(inherited.address))


def test_clients_of_an_inherited_tcp_socket_are_checked_by_address(env):
    echo, inherited = env.echo(), env.listen()
    bitflow = env.start(
        proxy("fd://3", echo.address, listener={"authorized_sources": ["127.0.0.8"]}),
        plan=numbered((inherited.socket, 3)),
    )
    sockets.round_trip(env.connect(inherited.address, source="127.0.0.8"))
    sockets.was_rejected(env.connect(inherited.address))
    assert bitflow.wait_records(1)[0]["reason"] == "source_not_authorized"


def test_the_file_of_an_inherited_socket_stays(env):
    """bitflow did not make it."""
    echo, inherited = env.echo(), env.listen(env.unix("inherited.sock"))
    bitflow = env.start(proxy("fd://3", echo.address), plan=numbered((inherited.socket, 3)))
    bitflow.stop()
    assert (env.directory / "inherited.sock").exists()


def test_inherited_listeners_serve_by_their_names(env):
    one, two = env.listen(), env.listen()
    plan = {**numbered((one.socket, 3), (two.socket, 4)), "listen_names": ["web", "data-base"]}
    env.start(
        proxy("fd://data-base", env.serve(peers.greeter("database")).address, name="b"),
        proxy("fd://web", env.serve(peers.greeter("website")).address, name="a"),
        plan=plan,
    )
    assert sockets.receive_exactly(env.connect(one.address), 8) == b"website\n"
    assert sockets.receive_exactly(env.connect(two.address), 9) == b"database\n"


def test_a_name_that_was_not_passed_ends_the_start(env):
    inherited = env.listen()
    plan = {**numbered((inherited.socket, 3)), "listen_names": ["web"]}
    assert "other" in start_fails(env, proxy("fd://other", env.address()), plan=plan)


def test_names_passed_to_another_process_end_the_start(env):
    """LISTEN_PID says whose they are."""
    inherited = env.listen()
    plan = {**numbered((inherited.socket, 3)), "listen_names": ["web"], "listen_pid_offset": 1}
    start_fails(env, proxy("fd://web", env.address()), plan=plan)


@pytest.mark.parametrize(
    "environment",
    [
        {"LISTEN_FDS": "many"},
        {"LISTEN_FDS": "-1"},
        {"LISTEN_FDS": "999999999999"},
        {"LISTEN_FDS": "1000000"},
        {"LISTEN_FDNAMES": ":::::"},
        {"LISTEN_PID": "x"},
        {"LISTEN_FDS": "", "LISTEN_FDNAMES": ""},
    ],
    ids=lambda environment: " ".join(f"{name}={value}" for name, value in environment.items()),
)
def test_a_strange_environment_ends_the_start(env, environment):
    start_fails(env, proxy("fd://web", env.address()), environment=environment)


@pytest.mark.parametrize("kind", ["not open", "a file", "a datagram socket"])
def test_a_descriptor_that_is_not_a_stream_socket_ends_the_start(env, kind):
    if kind == "not open":
        assert "99" in start_fails(env, proxy("fd://99", env.address()))
        return
    datagrams = env.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with open(env.directory / "file.txt", "w") as file:
        passed = file if kind == "a file" else datagrams
        start_fails(env, proxy("fd://3", env.address()), plan=numbered((passed, 3)))


def connected(env, kind):
    """(the client, the accepted socket that bitflow inherits)."""
    if kind == "pair":
        client, inherited = map(env.keep, socket.socketpair())
        client.settimeout(15)
        return client, inherited
    listener = env.listen() if kind == "tcp" else env.listen(env.unix("inetd.sock"))
    client = env.connect(listener.address)
    return client, listener.accept()


@pytest.mark.parametrize("kind", ["tcp", "unix", "pair"])
@pytest.mark.parametrize("number", [0, 3])
def test_a_connected_listener_serves_once_and_ends(env, kind, number):
    """As inetd starts it."""
    echo = env.echo()
    client, inherited = connected(env, kind)
    bitflow = env.launch(env.config(proxy(f"fd://{number}", echo.address)), numbered((inherited, number)))
    inherited.close()
    for _ in range(10):
        sockets.round_trip(client)
    client.shutdown(socket.SHUT_WR)
    assert sockets.receive_to_end(client) == b""
    assert bitflow.wait_ended() == 0
    record = bitflow.records()[0]
    assert (record["reason"], record["bytes_from_client"]) == ("completed", 140)
    if kind == "tcp":
        assert record["client"] == sockets.local_name(client)


@pytest.mark.parametrize(
    "kind, held",
    [("pair", False), ("tcp", True), ("pair", True)],
    ids=["pair", "tcp that inetd holds, too", "pair that inetd holds, too"],
)
def test_a_failed_dial_ends_a_connected_listener_for_all_its_holders(env, kind, held):
    """inetd, or whoever else holds the client's socket, does not keep the client waiting."""
    client, inherited = connected(env, kind)
    bitflow = env.launch(env.config(proxy("fd://3", env.refusing())), numbered((inherited, 3)))
    if not held:
        inherited.close()
    sockets.was_rejected(client)
    assert bitflow.wait_ended() == 0
    assert bitflow.records()[0]["reason"] == "connect_refused"


def test_the_end_of_a_connected_listener_is_not_the_other_proxys_end(env):
    echo, address = env.echo(), env.address()
    client, inherited = connected(env, "pair")
    bitflow = env.launch(
        env.config(proxy("fd://3", echo.address, name="once"), proxy(address, echo.address)),
        numbered((inherited, 3)),
    )
    inherited.close()
    sockets.round_trip(client)
    client.close()
    bitflow.wait_records(1)
    bitflow.wait_bound(int(address.rpartition(":")[2]))
    holds_for(0.3, bitflow.is_running, "the other proxy goes on")
    sockets.round_trip(env.connect(address))


def test_a_listener_that_breaks_ends_its_own_proxy_only(env):
    """Somebody shuts the inherited listening socket down; nothing spins."""
    echo, address, inherited = env.echo(), env.address(), env.listen()
    bitflow = env.start(
        proxy("fd://3", echo.address, name="broken"),
        proxy(address, echo.address, name="sound"),
        plan=numbered((inherited.socket, 3)),
    )
    sockets.round_trip(env.connect(inherited.address))
    inherited.socket.shutdown(socket.SHUT_RDWR)
    before = bitflow.cpu_seconds()
    holds_for(1.0, bitflow.is_running, "the process lives")
    assert bitflow.cpu_seconds() - before < 0.5, "it spins on a broken listener"
    sockets.round_trip(env.connect(address))
    lines = [line for line in bitflow.log_lines(True) if line["level"] in ("warn", "error")]
    assert any(line.get("proxy") == "broken" for line in lines), "the log does not say so"


def test_when_all_listeners_broke_the_process_serves_on_and_then_fails(env):
    echo, one, two = env.echo(), env.listen(), env.listen()
    bitflow = env.start(
        proxy("fd://3", echo.address, name="one"),
        proxy("fd://4", echo.address, name="two"),
        plan=numbered((one.socket, 3), (two.socket, 4)),
    )
    bitflow.expected_status = 1
    client = env.connect(one.address)
    sockets.round_trip(client)
    for listener in (one, two):
        listener.socket.shutdown(socket.SHUT_RDWR)
    holds_for(0.3, bitflow.is_running, "it goes on serving")
    sockets.round_trip(client)
    client.close()
    assert bitflow.wait_ended() == 1
    assert [record["reason"] for record in bitflow.records()] == ["completed"]


def test_a_listener_made_blocking_by_its_other_holder_does_not_delay_the_end(env):
    """The holder takes clients away between bitflow's look and its accept, which then must not wait."""
    echo, inherited = env.echo(), env.listen()
    bitflow = env.start(proxy("fd://3", echo.address), plan=numbered((inherited.socket, 3)))
    taken, over = [], threading.Event()

    def take():
        while not over.is_set():
            inherited.socket.setblocking(True)
            with contextlib.suppress(BlockingIOError):
                inherited.socket.accept()[0].close()
                taken.append(1)

    taker = threading.Thread(target=take, daemon=True)
    taker.start()
    for _ in range(100):
        client = sockets.connect(inherited.address)
        with contextlib.suppress(ConnectionResetError):
            client.sendall(b"whose am I?")
            client.recv(100)  # an answer from the target, or the end from the other holder
        client.close()
    watch = Stopwatch()
    bitflow.signal(signal.SIGTERM)
    assert bitflow.wait_ended() == 0
    watch.between(0, 2, "the end")
    over.set()
    sockets.connect(inherited.address).close()
    taker.join(20)
    assert taken


@BLOCKING
def test_a_connected_target_serves_one_connection_and_no_other(env, blocking):
    address = env.address()
    target, inherited = map(env.keep, socket.socketpair())
    target.settimeout(15)
    inherited.setblocking(blocking)
    bitflow = env.start(proxy(address, "fd://3"), plan=numbered((inherited, 3)))
    inherited.close()
    client = env.connect(address)
    client.sendall(b"question")
    assert sockets.receive_exactly(target, 8) == b"question"
    second = env.connect(address)
    with contextlib.suppress(OSError):
        second.sendall(b"me too")
    target.sendall(b"answer")
    assert sockets.receive_exactly(client, 6) == b"answer"
    second.close()
    target.close()
    assert sockets.receive_to_end(client) == b""
    client.close()
    wait_for(lambda: len(bitflow.records()) == 2, "both records")
    sockets.was_rejected(env.connect(address))
    assert bitflow.is_running()
    completed = [record for record in bitflow.records() if record["reason"] == "completed"]
    assert [(r["bytes_from_client"], r["bytes_from_target"]) for r in completed] == [(8, 6)]


def test_a_listening_socket_as_a_target_serves_nobody(env):
    """It is a mistake, and must not crash."""
    address, inherited = env.address(), env.listen()
    bitflow = env.launch(env.config(proxy(address, "fd://3")), numbered((inherited.socket, 3)))
    wait_for(lambda: not bitflow.is_running() or "listening" in bitflow.stderr(), "it starts or refuses")
    if bitflow.is_running():
        sockets.was_rejected(env.connect(address))
        assert bitflow.is_running()
    else:
        bitflow.expected_status = 1


def test_an_inherited_listener_is_used_and_not_copied_per_connection(env):
    echo, inherited = env.echo(), env.listen()
    bitflow = env.start(proxy("fd://5", echo.address), plan=numbered((inherited.socket, 5)))
    for _ in range(30):
        client = env.connect(inherited.address)
        sockets.round_trip(client)
        client.close()
    bitflow.wait_records(30)
    bitflow.assert_quiet()
    assert os.path.exists(f"/proc/{bitflow.pid}/fd/5")
