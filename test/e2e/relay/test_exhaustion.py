"""Without descriptors, threads or memory: single connections are rejected, and the process lives on and recovers."""

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
    """(clients, outcomes): that many clients at once, which all stay open, and what became of each."""
    clients = [env.connect(address) for _ in range(count)]
    return clients, [outcome(client) for client in clients]


def assert_recovers(env, bitflow, address, clients, others=0):
    """The clients leave; then everyone is served. `others`: connections that were there before and stay."""
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


def assert_does_not_spin(bitflow):
    before = bitflow.cpu_seconds()
    holds_for(1.0, bitflow.is_running, "bitflow lives")
    assert bitflow.cpu_seconds() - before < 0.5, "it spins during the shortage"


def assert_survives_shortage(env, bitflow, address, limit, count, reason):
    """Three crowds of which the limit lets in some; then the limit is lifted and a larger crowd is served."""
    former = bitflow.limit(*limit)
    for _ in range(3):
        clients, outcomes = crowd(env, address, count)
        assert "served" in outcomes and "rejected" in outcomes, outcomes
        assert_does_not_spin(bitflow)
        assert_recovers(env, bitflow, address, clients, others=1)
    reasons = {record["reason"] for record in bitflow.records()}
    assert reason in reasons, reasons
    bitflow.limit(limit[0], former)
    _, outcomes = crowd(env, address, 80)
    assert set(outcomes) == {"served"}, "it does not recover when the limit is lifted"


def test_without_descriptors_clients_are_rejected_until_there_are_some(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    sockets.round_trip(env.connect(address))
    limit = "NOFILE", len(bitflow.links()) + 9
    assert_survives_shortage(env, bitflow, address, limit, 30, "out_of_descriptors")


def test_a_start_with_few_descriptors_serves_some_and_records_all(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), plan={"limits": {"NOFILE": 40}})
    clients, outcomes = crowd(env, address, 60)
    assert outcomes.count("served") >= 3 and "rejected" in outcomes
    assert_recovers(env, bitflow, address, clients)
    wait_for(
        lambda: len(bitflow.records()) >= 80, lambda: f"a record of each, there are {len(bitflow.records())}"
    )
    assert len(bitflow.records()) == 80


def test_connections_live_through_a_shortage_of_descriptors(env):
    """Those who are served already notice nothing."""
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


def is_acceptor_asleep(bitflow):
    threads = [task for task, name in bitflow.tasks().items() if name.endswith(":accept")]
    stats = [pathlib.Path(f"/proc/{bitflow.pid}/task/{thread}/stat").read_text() for thread in threads]
    return [stat.rpartition(") ")[2][0] for stat in stats] == ["S"]


def limit_with_room_for(bitflow, count):
    """A limit below which the process can open that many more descriptors."""
    # Having turned one away it still juggles with its spare descriptors.
    wait_for(lambda: is_acceptor_asleep(bitflow), "the acceptor sleeps")
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


def test_a_connection_limit_leaves_descriptors_for_the_other_proxy(env):
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


def test_a_client_without_a_thread_takes_no_place_of_its_source(env):
    echo, address, source = env.echo(), env.address(), "127.0.0.31"
    bitflow, uid = start_as_user(env, proxy(address, echo.address, source_connection_limit=20))
    former = bitflow.limit("NPROC", threads_of_user(uid) + 5)
    clients, outcomes = crowd(env, address, 60)  # of another source
    assert {"served", "rejected"} == set(outcomes)
    for _ in range(30):
        assert outcome(env.connect(address, source=source)) == "rejected"

    def reasons():
        return [record["reason"] for record in bitflow.records() if record["client"].startswith(f"{source}:")]

    wait_for(lambda: len(reasons()) >= 30, lambda: f"a record of each: {reasons()}")
    assert reasons() == ["out_of_threads"] * 30
    bitflow.limit("NPROC", former)
    ends = [outcome(env.connect(address, source=source)) for _ in range(25)]
    assert ends == ["served"] * 20 + ["rejected"] * 5
    for client in clients:
        client.close()


def test_without_threads_clients_are_rejected_until_there_are_some(env):
    echo, address = env.echo(), env.address()
    bitflow, uid = start_as_user(env, proxy(address, echo.address))
    sockets.round_trip(env.connect(address))
    limit = "NPROC", threads_of_user(uid) + 10
    assert_survives_shortage(env, bitflow, address, limit, 60, "out_of_threads")


def test_a_relay_without_a_second_thread_loses_no_byte(env):
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


def test_no_client_is_turned_away_while_another_listeners_workers_wait(env):
    """They wait for clients of their own for 100 ms; where there are no more threads, one comes back for the other."""
    echo, one, two = env.echo(), env.address(), env.address()
    bitflow, uid = start_as_user(env, proxy(one, echo.address, name="one"), proxy(two, echo.address, name="two"))
    bitflow.limit("NPROC", threads_of_user(uid) + 2)
    for _ in range(10):
        for _ in range(3):
            with sockets.connect(one) as client:
                sockets.round_trip(client)
            bitflow.wait_resting()
        with sockets.connect(two) as client:
            sockets.round_trip(client)
        bitflow.wait_resting()


def test_a_drain_ends_when_threads_are_exhausted(env):
    echo, address = env.echo(), env.address()
    bitflow, uid = start_as_user(env, proxy(address, echo.address), server={"drain_timeout": "500ms"})
    bitflow.limit("NPROC", threads_of_user(uid) + 3)
    crowd(env, address, 20)
    bitflow.stop()


def test_without_memory_clients_are_rejected_until_there_is_some(env):
    """There is no room for stacks or buffers. (A sanitizer reserves terabytes and cannot be limited.)"""
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
    # Records may have been lost during the shortage, and the log says so; those that were written are whole.
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


def test_without_a_single_descriptor_clients_are_not_left_hanging(env):
    """Not even one to accept with."""
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
