"""Targets that cannot be reached, backoff between attempts, and clients that leave meanwhile."""

import signal
import socket
import threading
import time

import pytest

import hosts
import peers
import sockets
from environment import proxy
from waiting import Stopwatch, holds_for, scale, wait_for


def full(env, address="127.0.0.1:0"):
    """A target whose accept queue is full: it never answers."""
    listener = env.listen(address, backlog=0)
    listener.fill_queue()
    return listener


@pytest.fixture
def full_queue(env):
    return full(env)


@pytest.fixture
def full_unix_queue(env):
    return full(env, env.unix("back.sock"))


@pytest.fixture
def held(env):
    """A target that refuses until it listens."""
    return env.enter(peers.Refusing())


@pytest.fixture
def patient(env, held):
    """(bitflow, address): a proxy that goes on trying that target."""
    address = env.address()
    entry = {"address": held.address, "connect_attempts": 99, "connect_backoff": "100ms"}
    return env.start(proxy(address, entry)), address


def test_a_refused_connect_rejects_the_client_at_once(env):
    address, target = env.address(), env.refusing()
    bitflow = env.start(proxy(address, target))
    watch = Stopwatch()
    sockets.was_rejected(env.connect(address))
    watch.between(0, 1, "a refusal")
    record = bitflow.wait_records(1)[0]
    assert (record["event"], record["reason"], record["attempts"]) == ("connection", "connect_refused", 1)
    assert record["error"] and (record["bytes_from_client"], record["bytes_from_target"]) == (0, 0)


def test_a_missing_or_stale_socket_file_rejects_the_client(env):
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(env.directory / "stale.sock"))
    stale.close()
    for name in ("missing", "stale"):
        address = env.address()
        bitflow = env.start(proxy(address, env.unix(name + ".sock"), name=name), name=name + ".yaml")
        sockets.was_rejected(env.connect(address))
        wait_for(lambda: [r for r in bitflow.records() if r["proxy"] == name], "a record")
    reasons = {record["proxy"]: record["reason"] for record in bitflow.records()}
    assert reasons["stale"] == "connect_refused"
    assert reasons["missing"] in ("connect_failed", "connect_refused")


def test_a_client_is_served_as_soon_as_the_target_is_up(env, held):
    address = env.address()
    bitflow = env.start(proxy(address, held.address))
    for _ in range(5):
        sockets.was_rejected(env.connect(address))
    held.listen()
    client = env.connect(address)
    client.sendall(b"now")
    target = env.keep(held.accept())
    assert sockets.receive_exactly(target, 3) == b"now"
    assert len(bitflow.wait_records(5)) == 5


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_target_that_never_answers_ends_the_dial_after_connect_timeout(env, full_queue, full_unix_queue, kind):
    """The kernel answers the connect to a full Unix queue with EAGAIN at once, which is not a refusal."""
    address, target = env.address(), full_queue if kind == "tcp" else full_unix_queue
    bitflow = env.start(proxy(address, {"address": target.address, "connect_timeout": "700ms"}))
    watch = Stopwatch()
    sockets.was_rejected(env.connect(address))
    watch.between(0.6, 2, "connect_timeout")
    record = bitflow.wait_records(1)[0]
    assert record["reason"] == "connect_timeout"
    assert 600 <= record["connect_ms"] <= record["total_ms"] + 1


def test_a_dial_waits_for_room_in_a_full_unix_queue(env, full_unix_queue):
    address, listener = env.address(), full_unix_queue
    bitflow = env.start(proxy(address, {"address": listener.address, "connect_timeout": "8s"}))
    client = env.connect(address)
    holds_for(0.3, lambda: bitflow.records() == [], "the dial waits for room")
    listener.drain_queue()
    target = listener.accept()
    client.sendall(b"there is room")
    assert sockets.receive_exactly(target, 13) == b"there is room"


def test_each_attempt_has_the_whole_connect_timeout(env, full_queue):
    address = env.address()
    entry = {"address": full_queue.address, "connect_timeout": "300ms", "connect_attempts": 3}
    bitflow = env.start(proxy(address, entry))
    watch = Stopwatch()
    sockets.was_rejected(env.connect(address))
    watch.between(0.85, 2.5, "three attempts")
    assert (bitflow.wait_records(1)[0]["attempts"], bitflow.records()[0]["reason"]) == (3, "connect_timeout")


def test_many_dials_that_hang_do_not_hold_up_another_proxy(env, full_queue):
    hanging, fine = env.address(), env.address()
    echo = env.echo()
    bitflow = env.start(
        proxy(hanging, {"address": full_queue.address, "connect_timeout": "2s"}, name="hanging"),
        proxy(fine, echo.address, name="fine"),
    )
    stuck = [env.connect(hanging) for _ in range(scale(200))]
    watch = Stopwatch()
    for _ in range(20):
        sockets.round_trip(env.connect(fine))
    watch.between(0, 1.5, "20 connections of the other proxy")
    for client in stuck:
        sockets.was_rejected(client)
    reasons = [
        record["reason"] for record in bitflow.wait_records(len(stuck)) if record["proxy"] == "hanging"
    ]
    assert reasons == ["connect_timeout"] * len(stuck)


def test_a_name_that_does_not_resolve_rejects_the_client(env):
    address = env.address()
    bitflow = env.start(
        proxy(address, {"address": "no-such-host.invalid:80", "connect_timeout": "5s"}),
        plan=hosts.no_names(env),
    )
    sockets.was_rejected(env.connect(address), timeout=20)
    record = bitflow.wait_records(1)[0]
    assert record["reason"] in ("resolve_failed", "connect_timeout")
    assert record["error"]


def test_no_backoff_means_attempts_at_once(env):
    address = env.address()
    bitflow = env.start(proxy(address, {"address": env.refusing(), "connect_attempts": 20}))
    watch = Stopwatch()
    sockets.was_rejected(env.connect(address))
    watch.between(0, 1, "20 refusals")
    assert bitflow.wait_records(1)[0]["attempts"] == 20


def test_backoff_is_exponential_with_jitter(env):
    """50, 100, 200, 400 and 800 ms: 1.55 s together, give or take half of each for the jitter."""
    address = env.address()
    bitflow = env.start(
        proxy(address, {"address": env.refusing(), "connect_attempts": 6, "connect_backoff": "50ms"})
    )
    clients = [env.connect(address) for _ in range(12)]
    for client in clients:
        sockets.was_rejected(client)
    totals = sorted(record["total_ms"] for record in bitflow.wait_records(12))
    assert 1550 * 0.5 - 20 <= totals[0] and totals[-1] <= 1550 * 1.5 + 700, totals
    assert totals[-1] - totals[0] >= 20, f"no jitter: {totals}"
    assert {record["attempts"] for record in bitflow.records()} == {6}
    assert {record["reason"] for record in bitflow.records()} == {"connect_refused"}


def test_a_dial_goes_on_until_the_target_is_there(env, held, patient):
    bitflow, address = patient
    client = env.connect(address)
    client.sendall(b"early data")
    holds_for(0.4, lambda: bitflow.records() == [] and sockets.is_open(client), "the dial goes on")
    held.listen()
    target = env.keep(held.accept())
    assert sockets.receive_exactly(target, 10) == b"early data"
    client.close()
    target.close()
    record = bitflow.wait_records(1)[0]
    assert record["reason"] == "completed" and record["attempts"] > 1


DIALS = {
    "hanging": lambda env: hanging_target(env),
    "backoff": lambda env: {"address": env.refusing(), "connect_attempts": 100, "connect_backoff": "30s"},
    "unix": lambda env: hanging_target(env, env.unix("back.sock")),
}


def hanging_target(env, address="127.0.0.1:0"):
    return {"address": full(env, address).address, "connect_timeout": "60s"}


@pytest.fixture(params=DIALS)
def dialling(env, request):
    """(bitflow, client): the client's connection is being dialled, and will be for long."""
    address = env.address()
    bitflow = env.start(proxy(address, DIALS[request.param](env)))
    client = env.connect(address)
    wait_for(bitflow.busy_threads, "a thread dials")
    holds_for(0.2, lambda: bitflow.records() == [], "the dial lasts")
    return bitflow, client


@pytest.mark.parametrize(
    "early, leave, seconds",
    [(b"", sockets.reset, 0.6), (b"some early data", sockets.reset, 0.8), (b"", socket.socket.close, 1.2)],
    ids=["reset", "reset after data", "close"],
)
def test_a_client_that_leaves_stops_the_dial(dialling, early, leave, seconds):
    bitflow, client = dialling
    client.sendall(early)
    sockets.wait_acknowledged(client)
    watch = Stopwatch()
    leave(client)
    record = bitflow.wait_records(1)[0]
    watch.between(0, seconds, "the stop of the dial")
    assert (record["reason"], record["ended_by"]) == ("client_left", "client")
    bitflow.assert_quiet()


def test_a_unix_client_that_closes_stops_the_dial(env):
    bitflow = env.start(proxy(env.unix(), hanging_target(env)))
    client = env.connect(env.unix())
    wait_for(bitflow.busy_threads, "a thread dials")
    watch = Stopwatch()
    client.close()
    assert bitflow.wait_records(1)[0]["reason"] == "client_left"
    watch.between(0, 1.2, "the stop of the dial")


def test_clients_that_are_already_gone_leave_no_dial_behind(env):
    address = env.address()
    bitflow = env.start(
        proxy(address, {"address": env.refusing(), "connect_attempts": 100, "connect_backoff": "30s"})
    )
    for _ in range(50):
        sockets.reset(sockets.connect(address))
    records = bitflow.wait_records(50)
    assert {record["reason"] for record in records} <= {"client_left", "client_reset"}
    bitflow.assert_quiet()


def test_a_half_close_after_data_lets_the_dial_go_on(env, held, patient):
    bitflow, address = patient
    client = env.connect(address)
    client.sendall(b"GET all of it")
    client.shutdown(socket.SHUT_WR)
    holds_for(1.2, lambda: bitflow.records() == [], "the dial goes on")
    held.listen()
    target = env.keep(held.accept())
    assert sockets.receive_to_end(target) == b"GET all of it"
    target.sendall(b"all of it")
    target.close()
    assert sockets.receive_to_end(client) == b"all of it"
    assert bitflow.wait_records(1)[0]["reason"] == "completed"


def test_early_data_larger_than_all_buffers_arrives(env, held, patient):
    client = env.connect(patient[1])
    data = bytes(range(256)) * 40_000
    sender = threading.Thread(
        target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)), daemon=True
    )
    sender.start()
    time.sleep(0.2)  # how much is under way then does not matter
    held.listen()
    target = env.keep(held.accept())
    assert sockets.receive_to_end(target) == data
    target.close()
    sender.join()


def test_failed_dials_leak_nothing(env, full_queue):
    address = env.address()
    bitflow = env.start(
        proxy(
            address,
            env.refusing(),
            {"address": full_queue.address, "connect_timeout": "50ms"},
            {"address": env.unix("none.sock")},
            {"address": "no-such-host.invalid:1", "connect_timeout": "300ms"},
            connection_load_balancer="failover",
        ),
        plan=hosts.no_names(env),
    )
    threads = []
    for _ in range(3):
        clients = [env.connect(address) for _ in range(scale(40))]
        for client in clients:
            sockets.was_rejected(client, timeout=30)
        bitflow.assert_quiet()
        threads.append(len(bitflow.thread_names()))
    assert threads[2] <= threads[0] + 2, f"threads pile up: {threads}"


@pytest.mark.parametrize("bound", ["lifetime", "drain"])
def test_bounds_hold_for_dials_of_unix_clients_that_sent_data(env, bound):
    """Neither data that waits nor the end behind it may hide a bound from the dial."""
    bitflow = env.start(
        proxy(
            env.unix(),
            {**hanging_target(env), "connect_timeout": "30s"},
            connection_lifetime="1s" if bound == "lifetime" else "60s",
        ),
        server={"drain_timeout": "1s"},
    )
    watch = Stopwatch()
    for leave in (lambda client: None, lambda client: client.shutdown(socket.SHUT_WR), socket.socket.close):
        client = env.connect(env.unix())
        client.sendall(b"early data")
        leave(client)
    wait_for(lambda: len(bitflow.busy_threads()) == 3, "all three are dialled")
    if bound == "drain":
        watch = Stopwatch()
        bitflow.signal(signal.SIGTERM)
    records = bitflow.wait_records(3)
    watch.between(0.9, 3, f"the bound of {bound}")
    assert [(record["reason"], record["ended_by"]) for record in records] == [(bound, "proxy")] * 3
