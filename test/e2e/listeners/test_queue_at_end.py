"""Clients that have connected but are not accepted yet when their listener ends, at SIGTERM or by a reload: all are
served. The process is stopped (SIGSTOP) while they come, so that all of them queue. So are those whose handshakes are
under way, if they finish them soon."""

import contextlib
import ctypes
import signal
import socket
import struct
import threading

import pytest

import needs
import sockets
import tls_raw
from environment import proxy
from launches import numbered
from tls_cases import tls_listener
from waiting import Stopwatch, scale, wait_for

COUNT = 300
SIGTERM, SIGHUP = signal.SIGTERM, signal.SIGHUP


def begin(address, first=b"hello"):
    """A client that has sent all it has to say."""
    client = sockets.connect(address)
    if first:
        client.sendall(first)
        client.shutdown(socket.SHUT_WR)
    return client


def outcomes(clients):
    found = {}
    for client in clients:
        outcome = sockets.receive_until_broken(client)
        found[outcome] = found.get(outcome, 0) + 1
        client.close()
    return found


SERVED = (b"hello", "eof")


def remove(env, bitflow, *others):
    """Has the reload leave out every proxy but these."""
    env.config(*others)
    bitflow.signal(SIGHUP)


@pytest.mark.parametrize("kind", ["tcp", "tcp6", "unix", "abstract"])
def test_all_are_served_at_the_end(env, kind):
    address = {
        "tcp": env.address, "tcp6": lambda: env.address("::1"), "unix": env.unix, "abstract": env.abstract
    }[kind]()
    bitflow = env.start(proxy(address, env.echo().address))
    with bitflow.stopped():
        clients = [begin(address) for _ in range(scale(COUNT))]
        bitflow.signal(SIGTERM)
    assert outcomes(clients) == {SERVED: len(clients)}
    assert bitflow.wait_ended() == 0
    assert len(bitflow.records()) == len(clients)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_all_are_served_when_a_reload_removes_the_listener(env, kind):
    address, kept, echo = (env.address if kind == "tcp" else env.unix)(), env.address(), env.echo()
    keep = proxy(kept, echo.address, name="keep")
    bitflow = env.start(keep, proxy(address, echo.address, name="drop"))
    with bitflow.stopped():
        clients = [begin(address) for _ in range(scale(COUNT))]
        remove(env, bitflow, keep)
    assert outcomes(clients) == {SERVED: len(clients)}
    with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
        sockets.connect(address)
    assert outcomes([begin(kept)]) == {SERVED: 1}


@pytest.mark.parametrize("number", [SIGTERM, SIGHUP])
def test_the_queues_of_many_listeners_are_all_served(env, number):
    """An address of every kind, and a name with several addresses."""
    echo, kept = env.echo(), env.address()
    addresses = [env.address() for _ in range(8)] + [env.unix(f"{n}.sock") for n in range(4)]
    keep = proxy(kept, echo.address, name="keep")
    bitflow = env.start(keep, *(proxy(address, echo.address, name=f"p{n}") for n, address in enumerate(addresses)))
    with bitflow.stopped():
        clients = [begin(address) for address in addresses for _ in range(scale(100))]
        if number == SIGHUP:
            remove(env, bitflow, keep)
        else:
            bitflow.signal(SIGTERM)
    assert outcomes(clients) == {SERVED: len(clients)}


def test_tls_clients_are_served(env, pki):
    address = env.address()
    bitflow = env.start(proxy(address, env.echo().address, listener=tls_listener(pki.server)))
    context = tls_raw.client_context()
    with bitflow.stopped():
        clients = [sockets.connect(address) for _ in range(scale(100))]
        bitflow.signal(SIGTERM)
    for client in clients:
        end = tls_raw.Tls(client, context, server_name="server.test").handshake()
        end.write(b"hello")
        assert end.read() == b"hello"
        client.close()
    assert bitflow.wait_ended() == 0


def test_clients_with_a_proxy_header_are_served(env):
    address = env.address()
    bitflow = env.start(proxy(address, env.echo().address, listener={"proxy_protocol": True}))
    header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 2222\r\n"
    with bitflow.stopped():
        clients = [begin(address, header + b"hello") for _ in range(scale(COUNT))]
        bitflow.signal(SIGTERM)
    assert outcomes(clients) == {SERVED: len(clients)}
    assert bitflow.wait_ended() == 0
    assert {record["client"] for record in bitflow.records()} == {"192.0.2.1:1111"}


def test_clients_whose_proxy_header_is_on_its_way_are_served(env):
    address = env.address()
    bitflow = env.start(proxy(address, env.echo().address, listener={"proxy_protocol": True}))
    header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 2222\r\n"
    with bitflow.stopped():
        clients = [sockets.connect(address) for _ in range(100)]
        for client in clients:
            client.sendall(header[:20])
        bitflow.signal(SIGTERM)
    for client in clients:
        client.sendall(header[20:] + b"hello")
        client.shutdown(socket.SHUT_WR)
    assert outcomes(clients) == {SERVED: len(clients)}
    assert bitflow.wait_ended() == 0


def test_all_are_served_when_a_reload_moves_the_listener(env):
    echo, old, new = env.echo(), env.address(), env.address()
    bitflow = env.start(proxy(old, echo.address))
    with bitflow.stopped():
        clients = [begin(old) for _ in range(scale(COUNT))]
        remove(env, bitflow, proxy(new, echo.address))
    assert outcomes(clients) == {SERVED: len(clients)}
    wait_for(lambda: "msg=reloaded" in bitflow.stderr(), lambda: bitflow.stderr())
    assert outcomes([begin(new)]) == {SERVED: 1}


def test_all_are_served_when_the_end_follows_a_reload_at_once(env):
    echo, kept, address = env.echo(), env.address(), env.address()
    keep = proxy(kept, echo.address, name="keep")
    bitflow = env.start(keep, proxy(address, echo.address, name="drop"))
    with bitflow.stopped():
        clients = [begin(each) for _ in range(scale(COUNT // 2)) for each in (kept, address)]
        remove(env, bitflow, keep)
        bitflow.signal(SIGTERM)
    assert outcomes(clients) == {SERVED: len(clients)}
    assert bitflow.wait_ended() == 0


def test_clients_that_have_left_hold_nobody_up(env):
    address = env.address()
    bitflow = env.start(proxy(address, env.echo().address))
    with bitflow.stopped():
        clients = [begin(address) for _ in range(scale(COUNT))]
        for client in clients[::3]:
            sockets.reset(client)
        bitflow.signal(SIGTERM)
    del clients[::3]
    assert outcomes(clients) == {SERVED: len(clients)}
    assert bitflow.wait_ended() == 0


def test_limits_hold_for_clients_that_queued(env):
    limited, guarded, echo = env.address(), env.address(), env.echo()
    bitflow = env.start(
        proxy(limited, echo.address, name="limited", connection_limit=5),
        proxy(guarded, echo.address, name="guarded", listener={"authorized_sources": ["192.0.2.0/24"]}),
    )
    with bitflow.stopped():
        clients = [begin(limited, None) for _ in range(100)]
        strangers = [begin(guarded, None) for _ in range(100)]
        bitflow.signal(SIGTERM)
    wait_for(lambda: len(bitflow.records()) == 195, lambda: f"{len(bitflow.records())} were rejected")
    assert sum(record["reason"] == "connection_limit" for record in bitflow.records()) == 95
    assert sum(record["reason"] == "source_not_authorized" for record in bitflow.records()) == 100
    for client in clients[:5]:
        sockets.round_trip(client)
    for client in clients + strangers:
        client.close()
    assert bitflow.wait_ended() == 0


def test_clients_that_queued_drain_until_a_second_signal(env):
    """Without a bound (drain_timeout 0) they go on until a second signal; the drain is not over before."""
    address = env.address()
    bitflow = env.start(proxy(address, env.echo().address), server={"drain_timeout": 0})
    with bitflow.stopped():
        clients = [begin(address, None) for _ in range(scale(200))]
        bitflow.signal(SIGTERM)
    for client in clients:
        sockets.round_trip(client)
    bitflow.signal(SIGTERM)
    assert bitflow.wait_ended() == 0
    assert [record["reason"] for record in bitflow.records()] == ["drain"] * len(clients)
    assert outcomes(clients) == {(b"", "eof"): len(clients)}


def test_the_drain_timeout_ends_clients_that_queued(env):
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address), server={"drain_timeout": "1s"})
    with bitflow.stopped():
        clients = [begin(address, None) for _ in range(scale(200))]
        watch = Stopwatch()
        bitflow.signal(SIGTERM)
    for _ in clients:
        listener.accept()
    assert bitflow.wait_ended() == 0
    watch.between(0.9, 6, "the drain")
    assert outcomes(clients) == {(b"", "eof"): len(clients)}
    assert [record["reason"] for record in bitflow.records()] == ["drain"] * len(clients)


def test_a_second_signal_in_the_same_moment_ends_the_queue(env):
    """Whoever is not accepted by then is left, and nobody hangs."""
    address = env.address()
    bitflow = env.start(proxy(address, env.echo().address), server={"drain_timeout": 0})
    with bitflow.stopped():
        clients = [begin(address, None) for _ in range(scale(200))]
        bitflow.signal(SIGTERM)
        bitflow.signal(signal.SIGINT)
    watch = Stopwatch()
    assert bitflow.wait_ended() == 0
    watch.between(0, 2, "the end")
    for client in clients:
        assert sockets.receive_until_broken(client)[0] == b""
        client.close()


def test_without_descriptors_they_are_turned_away(env):
    """As ever, with a record; and the end does not wait for descriptors."""
    address, kept = env.address(), []
    bitflow = env.start(proxy(address, env.echo().address))
    kept = [env.connect(address) for _ in range(3)]
    for client in kept:
        sockets.round_trip(client)
    bitflow.limit("NOFILE", bitflow.lowest_free_descriptor())
    with bitflow.stopped():
        clients = [begin(address) for _ in range(100)]
        bitflow.signal(SIGTERM)
    watch = Stopwatch()
    for client in clients:
        assert sockets.receive_until_broken(client)[0] == b""
        client.close()
    watch.between(0, 3, "turning them away")
    assert sum(record["reason"] == "out_of_descriptors" for record in bitflow.wait_records(100)) == 100
    for client in kept:
        sockets.round_trip(client)
        client.close()
    assert bitflow.wait_ended() == 0


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_clients_that_keep_coming_do_not_hold_up_the_end(env, kind):
    """And each is served or refused, but none is reset: there is nobody in the queue when it is closed."""
    address = (env.address if kind == "tcp" else env.unix)()
    bitflow = env.start(proxy(address, env.echo().address))
    over, resets, served = threading.Event(), [], []

    def come():
        while not over.is_set():
            try:
                client = sockets.connect(address)
            except OSError:
                return  # refused
            try:
                with client:
                    client.sendall(b"x")
                    (served if client.recv(1) == b"x" else resets).append(1)
            except OSError as error:
                resets.append(error)

    crowd = [threading.Thread(target=come, daemon=True) for _ in range(8)]
    for each in crowd:
        each.start()
    wait_for(lambda: len(served) > 100, "the crowd is there")
    watch = Stopwatch()
    bitflow.signal(SIGTERM)
    assert bitflow.wait_ended() == 0
    watch.between(0, 3, "the end")
    over.set()
    for each in crowd:
        each.join(20)
    assert not resets


SO_DETACH_FILTER = 27
SYN_RECV = "03"
MOMENTS = 15


def deaf_client(address):
    """It has begun to connect, and drops the answer (a filter of one step: return 0)."""
    needs.SOCKET_FILTERS.need()
    client = socket.socket(sockets.parse(address)[0])
    step = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
    client.setsockopt(socket.SOL_SOCKET, needs.SO_ATTACH_FILTER, struct.pack("HxxxxxxP", 1, ctypes.addressof(step)))
    client.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        client.connect(sockets.parse(address)[1])
    return client


def next_answers(address, clients):
    """In how many seconds the kernel will answer the handshake of each of them again, if it is still under way."""
    port = f":{sockets.parse(address)[1][1]:04X} "
    theirs = {client.getsockname()[1] for client in clients}
    with open("/proc/net/tcp") as stream:  # of the whole machine: no line is split in vain
        rows = [line.split() for line in stream if port in line]
    return [
        int(row[5].split(":")[1], 16) / 100
        for row in rows
        if row[3] == SYN_RECV and row[1].endswith(port.strip()) and int(row[2].split(":")[1], 16) in theirs
    ]


def clients_under_way(env, address, count):
    """Whose handshakes will go on within 0.3 s, since they hear the next answer. Others take their place if that moment
    was missed: the kernel waits longer each time."""
    for _ in range(MOMENTS):
        clients = [env.keep(deaf_client(address)) for _ in range(count)]
        wait_for(lambda: len(next_answers(address, clients)) == count, "all handshakes are under way")
        wait_for(lambda: not 0.3 < max(next_answers(address, clients), default=0) <= 1,
                 "the kernel is about to answer again")
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        answers = next_answers(address, clients)
        if len(answers) == count and max(answers) <= 0.3:
            return clients
        for client in clients:
            client.close()
    raise AssertionError(f"the moment was missed {MOMENTS} times")


@pytest.mark.parametrize("number", [SIGTERM, SIGHUP])
def test_clients_whose_handshakes_are_under_way_are_served(env, number):
    """To a client that is far away it seems that it is connected before it is so here."""
    address, echo = env.address(), env.echo()
    keep = proxy(env.address(), echo.address, name="keep")
    bitflow = env.start(keep, proxy(address, echo.address, name="drop"))
    clients = clients_under_way(env, address, 10)
    ports = {client.getsockname()[1] for client in clients}
    if number == SIGHUP:
        remove(env, bitflow, keep)
    else:
        bitflow.signal(SIGTERM)
    for client in clients:
        client.settimeout(sockets.TIMEOUT)
        sockets.round_trip(client)
        client.close()
    wait_for(lambda: ports <= {int(record["client"].rpartition(":")[2]) for record in bitflow.records()},
             "their records are written")


def test_handshakes_that_nobody_finishes_hold_up_the_end_only_for_a_moment(env):
    address = env.address()
    bitflow = env.start(proxy(address, env.echo().address))
    clients = [deaf_client(address) for _ in range(20)]
    wait_for(lambda: len(next_answers(address, clients)) == 20, "all handshakes are under way")
    watch = Stopwatch()
    bitflow.signal(SIGTERM)
    assert bitflow.wait_ended() == 0
    watch.between(0.4, 1.5, "the end")
    for client in clients:
        client.close()


def test_a_second_signal_waits_for_no_handshakes(env):
    address = env.address()
    bitflow = env.start(proxy(address, env.echo().address))
    client = deaf_client(address)
    wait_for(lambda: next_answers(address, [client]), "the handshake is under way")
    watch = Stopwatch()
    bitflow.signal(SIGTERM)
    bitflow.signal(signal.SIGINT)
    assert bitflow.wait_ended() == 0
    watch.between(0, 0.4, "the end")
    client.close()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_the_queue_of_an_inherited_listener_is_left_to_others(env, kind):
    """Another process holds the socket, and serves whom bitflow has not accepted by then: as systemd's next instance
    does."""
    inherited = env.listen(*([] if kind == "tcp" else [env.unix("inherited.sock")]))
    bitflow = env.start(proxy("fd://3", env.echo().address), plan=numbered((inherited.socket, 3)))
    with bitflow.stopped():
        clients = [begin(inherited.address) for _ in range(scale(COUNT))]
        bitflow.signal(SIGTERM)
    assert bitflow.wait_ended() == 0
    inherited.socket.setblocking(True)
    inherited.socket.settimeout(sockets.TIMEOUT)
    late = begin(inherited.address)  # it still lets clients in
    while inherited.has_pending():
        connection = inherited.accept()
        assert sockets.receive_to_end(connection) == b"hello"
        connection.close()
    assert outcomes([late]) == {(b"", "eof"): 1}
    found = outcomes(clients)
    assert set(found) <= {SERVED, (b"", "eof")} and found.get(SERVED, 0) == len(bitflow.records()), found


def test_connections_of_the_end_have_no_filter(env):
    """What keeps new clients from a listener that ends does not stay with those who got in."""
    address, kept = env.address(), env.address()
    keep = proxy(kept, env.echo().address, name="keep")
    bitflow = env.start(keep, proxy(address, env.echo().address, name="drop"))
    with bitflow.stopped():
        clients = [begin(address, None) for _ in range(10)]
        remove(env, bitflow, keep)
    for client in clients:
        sockets.round_trip(client)
    borrowed = bitflow.borrow_sockets()
    for each in borrowed:
        if each.family == socket.AF_INET and not each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            with pytest.raises(FileNotFoundError):
                each.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)  # there is none
        each.close()
    for client in clients:
        client.close()
