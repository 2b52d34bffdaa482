"""Out of descriptors, threads or memory: single connections are rejected, the process lives and recovers."""

import contextlib
import os
import pathlib
import random
import socket
import threading

import pytest

import bitflow_process
import needs
import peers
import sockets
import tls_raw
from environment import proxy
from tls_cases import tls_echo, tls_listener, tls_target
from waiting import holds_for, pace, wait_for

# A user of its own, so that RLIMIT_NPROC counts the threads of the bitflow under test and no others.
UID = 61000 + os.getpid() % 4000


def outcome(client):
    """ "served" or "rejected"; anything else, a hang above all, fails."""
    client.settimeout(8 * pace())
    try:
        client.sendall(b"anyone there?")
        answer = client.recv(13)
    except (ConnectionResetError, BrokenPipeError):
        return "rejected"
    assert answer in (b"", b"anyone there?")
    return "served" if answer else "rejected"


def crowd(env, address, count):
    """That many clients at once, and what became of each; all of them stay open."""
    clients = [env.connect(address) for _ in range(count)]
    return clients, [outcome(client) for client in clients]


def assert_recovers(env, bitflow, address, clients, others=0):
    """The clients leave; then all is well. others: connections that were there before and still are."""
    for client in clients:
        client.close()
    wait_for(
        lambda: bitflow.descriptors()["socket"] <= bitflow.resting["socket"] + 2 * others,
        lambda: f"the connections are gone: {bitflow.descriptors()}",
    )
    for _ in range(20):
        client = env.connect(address)
        sockets.round_trip(client)
        client.close()


def spins(bitflow):
    """The share of a core that the process uses in the next second."""
    before = bitflow.cpu_seconds()
    holds_for(1.0, bitflow.is_running, "bitflow lives")
    return bitflow.cpu_seconds() - before


def test_descriptors_exhausted(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    sockets.round_trip(env.connect(address))
    held = len(bitflow.links())
    former = bitflow.limit("NOFILE", held + 9)
    for _ in range(3):
        clients, outcomes = crowd(env, address, 30)
        assert "served" in outcomes and "rejected" in outcomes, outcomes
        assert spins(bitflow) < 0.5, "it spins while descriptors are short"
        assert_recovers(env, bitflow, address, clients, others=1)
    bitflow.limit("NOFILE", former)
    clients, outcomes = crowd(env, address, 60)
    assert set(outcomes) == {"served"}, "it does not recover when there are descriptors again"
    reasons = {record["reason"] for record in bitflow.records()}
    assert "out_of_descriptors" in reasons, reasons


def test_started_with_few_descriptors(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), plan={"limits": {"NOFILE": 40}})
    clients, outcomes = crowd(env, address, 60)
    assert outcomes.count("served") >= 3 and "rejected" in outcomes
    assert_recovers(env, bitflow, address, clients)
    wait_for(
        lambda: len(bitflow.records()) >= 80, lambda: f"a record of each, there are {len(bitflow.records())}"
    )
    assert len(bitflow.records()) == 80


def test_connections_live_through_the_shortage(env):
    """Those who are served already notice nothing, bulk or not."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    old = [env.connect(address) for _ in range(5)]
    for client in old:
        sockets.round_trip(client)
    bitflow.limit("NOFILE", bitflow.lowest_free_descriptor())
    clients, outcomes = crowd(env, address, 10)
    data = random.Random(1).randbytes(60_000)
    for client in old:
        for _ in range(20):
            sockets.round_trip(client, data)
    assert "served" not in outcomes
    bitflow.limit("NOFILE", 4096)
    for client in old + clients:
        client.close()
    bitflow.assert_quiet()


def limit_with_room_for(bitflow, count):
    """A limit below which the process can open that many more descriptors."""
    taken = {int(number) for number in os.listdir(f"/proc/{bitflow.pid}/fd")}
    free = [number for number in range(len(taken) + count + 1) if number not in taken]
    return free[count]


def transfer(address, context, data):
    """All of it there and back: "served", or "rejected" without a byte; anything else fails."""
    received = b""
    with sockets.connect(address) as sock:
        try:
            if context:
                end = tls_raw.Tls(sock, context, server_name="server.test").handshake()
            wire, read = (end.protect(data), end.read) if context else (data, sock.recv)
            writer = threading.Thread(target=write_all, args=(sock, wire), daemon=True)
            writer.start()
            while len(received) < len(data) and (part := read(1 << 16)):
                received += part
            writer.join()
            if context:
                end.close()
        except (OSError, EOFError):
            assert received == b""
    assert received in (b"", data), f"{len(received)} of {len(data)} bytes"
    return "served" if received else "rejected"


def write_all(sock, data):
    with contextlib.suppress(OSError):
        sock.sendall(data)


@pytest.mark.parametrize("legs", ["plain", "TLS"])
def test_with_room_for_any_number_of_descriptors_a_transfer_is_whole_or_rejected(env, pki, legs):
    """A client's socket, a target's, and pipes for bulk: whichever is the first that is not to be had."""
    data = random.Random(2).randbytes(1_500_000)
    address, context, listener = env.address(), None, None
    target = env.serve(peers.echo).address
    if legs == "TLS":
        context, listener = tls_raw.client_context(pki.trusted), tls_listener(pki.server)
        target = tls_target(env.serve(tls_echo(tls_raw.server_context(pki.server))).address, pki.trusted)
    bitflow = env.start(proxy(address, target, listener=listener))
    former, outcomes = None, []
    for room in range(8):
        wait_for(lambda: not bitflow.busy_threads(), "the one before is over")
        before = bitflow.limit("NOFILE", limit_with_room_for(bitflow, room))
        former = former or before
        outcomes.append(transfer(address, context, data))
    bitflow.limit("NOFILE", former)
    assert outcomes == ["rejected"] * 2 + ["served"] * 6, outcomes
    assert transfer(address, context, data) == "served"
    reasons = {record["reason"] for record in bitflow.wait_records(9)}
    assert reasons == {"out_of_descriptors", "completed"}, reasons


def test_other_proxy_is_served_when_one_eats_descriptors_up(env):
    """A connection limit is what protects one proxy from another; with it the other always has room."""
    echo, greedy, other = env.echo(), env.address(), env.address()
    bitflow = env.start(
        proxy(greedy, echo.address, name="greedy", connection_limit=5),
        proxy(other, echo.address, name="other"),
        plan={"limits": {"NOFILE": 64}},
    )
    clients, outcomes = crowd(env, greedy, 40)
    assert outcomes.count("served") == 5
    for _ in range(3):
        sockets.round_trip(env.connect(other))
    for client in clients:
        client.close()
    wait_for(lambda: len(bitflow.records()) >= 40, "a record of each")


def threads_of_user(uid):
    count = 0
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if entry.stat().st_uid == uid:
                    count += len(os.listdir(entry / "task"))
            except OSError:
                continue
    return count


def start_as_user(env, *proxies, **settings):
    """bitflow as a user who is not root, for whom alone RLIMIT_NPROC means anything."""
    plan = None
    if os.geteuid() == 0:
        needs.ANOTHER_USER.need()
        env.records_path.touch()
        os.chown(env.records_path, UID, UID)
        plan = {"uid": UID}
    return env.start(*proxies, plan=plan, **settings), UID if plan else os.geteuid()


def test_who_gets_no_thread_takes_none_of_its_sources_places(env):
    echo, address, source = env.echo(), env.address(), "127.0.0.31"
    bitflow, uid = start_as_user(env, proxy(address, echo.address, source_connection_limit=20))
    former = bitflow.limit("NPROC", threads_of_user(uid) + 5)
    clients, outcomes = crowd(env, address, 60)  # of another source
    assert {"served", "rejected"} == set(outcomes)
    for _ in range(30):
        assert outcome(env.connect(address, source=source)) == "rejected"
    reasons = {record["reason"] for record in bitflow.records() if record["client"].startswith(f"{source}:")}
    assert reasons == {"out_of_threads"}
    bitflow.limit("NPROC", former)
    ends = [outcome(env.connect(address, source=source)) for _ in range(25)]
    assert ends == ["served"] * 20 + ["rejected"] * 5
    for client in clients:
        client.close()


def test_threads_exhausted(env):
    echo, address = env.echo(), env.address()
    bitflow, uid = start_as_user(env, proxy(address, echo.address))
    sockets.round_trip(env.connect(address))
    former = bitflow.limit("NPROC", threads_of_user(uid) + 10)
    for _ in range(3):
        clients, outcomes = crowd(env, address, 60)
        assert "served" in outcomes and "rejected" in outcomes, outcomes
        assert spins(bitflow) < 0.5, "it spins while threads are short"
        assert_recovers(env, bitflow, address, clients, others=1)
    assert "out_of_threads" in {record["reason"] for record in bitflow.records()}
    bitflow.limit("NPROC", former)
    clients, outcomes = crowd(env, address, 80)
    assert set(outcomes) == {"served"}, "it does not recover when there are threads again"


def test_threads_exhausted_in_bulk(env):
    """No second thread for a relay is no reason to stall or to lose bytes, once the connection was
    accepted."""
    echo, address = env.echo(), env.address()
    bitflow, uid = start_as_user(env, proxy(address, echo.address))
    bitflow.limit("NPROC", threads_of_user(uid) + 5)
    clients, outcomes = crowd(env, address, 12)
    data = random.Random(2).randbytes(50_000)
    for client, what in zip(clients, outcomes):
        if what == "served":
            for _ in range(30):
                sockets.round_trip(client, data)
    assert_recovers(env, bitflow, address, clients)


def test_drain_when_threads_are_exhausted(env):
    echo, address = env.echo(), env.address()
    bitflow, uid = start_as_user(env, proxy(address, echo.address), server={"drain_timeout": "500ms"})
    bitflow.limit("NPROC", threads_of_user(uid) + 3)
    crowd(env, address, 20)
    bitflow.stop()


def test_memory_exhausted(env):
    """No room for stacks or buffers: rejected, not crashed. (A sanitizer reserves terabytes and cannot be
    limited.)"""
    if bitflow_process.is_sanitized(bitflow_process.binary()):
        pytest.skip("an address space limit does not go together with sanitizers")
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    former = bitflow.limit("AS", bitflow.memory_kib("VmSize") * 1024 + 3_000_000)
    clients, outcomes = crowd(env, address, 150)
    assert "rejected" in outcomes, outcomes
    assert bitflow.is_running()
    for client in clients:
        client.close()
    bitflow.assert_quiet()
    bitflow.limit("AS", former)
    clients, outcomes = crowd(env, address, 40)
    assert set(outcomes) == {"served"}, "it does not recover when there is memory again"
    for client in clients:
        client.close()
    # Records may have been lost meanwhile, and the log says so; what is there is whole, and from now on all is.
    wait_for(
        lambda: [record.get("reason") for record in bitflow.records()].count("completed") >= 40,
        lambda: f"forty records of connections that were served: {bitflow.records()}",
    )
    records = bitflow.records()
    for record in records:
        assert record.get("event") in ("connection", "rejected") and record.get("client"), record
        assert record.get("reason") and "bytes_from_client" in record, record
    reasons = {line.get("reason") for line in bitflow.log_lines(True)}
    assert reasons & {"out_of_memory", "out_of_threads"}, reasons


def test_not_one_descriptor_left(env):
    """With no descriptor left at all, not even one to accept with, clients are not left hanging."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    former = bitflow.limit("NOFILE", bitflow.lowest_free_descriptor())
    clients = [env.connect(address) for _ in range(5)]
    results = [outcome(client) for client in clients]
    assert set(results) == {"rejected"}, results
    bitflow.limit("NOFILE", former)
    client = env.connect(address)
    sockets.round_trip(client)
    client.shutdown(socket.SHUT_WR)
    assert sockets.receive_to_end(client) == b""
