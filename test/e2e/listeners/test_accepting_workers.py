"""While clients come close together, workers that have served one accept the next themselves, and the acceptor sleeps;
who comes in, and what is said to those who do not, is as ever. How often the acceptor ran is read from /proc."""

import contextlib
import pathlib
import re
import signal
import socket

import pytest

import sockets
from environment import proxy
from peers import greeter
from waiting import Stopwatch, scale, wait_for

COUNT = 200
BATCHES_MAX = 10
WAIT = 0.1  # a worker's for the next client


def visit(address):
    """A client with one message, who waits for the answer and the end."""
    with sockets.connect(address) as client:
        with contextlib.suppress(OSError):  # it may be turned away already
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
        return sockets.receive_until_broken(client)


SERVED = (b"hello", "eof")


def visits(address, count=COUNT):
    return [visit(address) for _ in range(scale(count))]


def acceptor_status(bitflow, field):
    thread = next(task for task, name in bitflow.tasks().items() if name.endswith(":accept"))
    status = pathlib.Path(f"/proc/{bitflow.pid}/task/{thread}/status").read_text()
    return re.search(rf"^{field}:\s*(\S+)", status, re.MULTILINE)[1]


def acceptor_runs(bitflow):
    """How often the acceptor's thread has waited so far."""
    return int(acceptor_status(bitflow, "voluntary_ctxt_switches"))


KINDS = ["tcp", "unix"]


def address_of(env, kind):
    return (env.address if kind == "tcp" else env.unix)()


def runs_of_a_batch(bitflow, address):
    """Each client comes when the acceptor sleeps, so that each that wakes it up counts."""
    before = acceptor_runs(bitflow)
    for _ in range(scale(COUNT)):
        assert visit(address) == SERVED
        wait_for(lambda: acceptor_status(bitflow, "State") == "S", "the acceptor sleeps", every=0.001)
    return acceptor_runs(bitflow) - before


@pytest.mark.parametrize("kind", KINDS)
def test_the_acceptor_sleeps_while_workers_accept(env, kind):
    """A client that a busy machine keeps for longer than workers wait is the acceptor's: one batch in which it sleeps
    shows that it may, and an acceptor that is woken up for each client sleeps in none."""
    address = address_of(env, kind)
    bitflow = env.start(proxy(address, env.echo().address))
    visits(address, 20)
    runs = []
    while not runs or runs[-1] >= scale(COUNT) / 4:
        assert len(runs) < BATCHES_MAX, f"how often the acceptor ran: {runs}"
        runs.append(runs_of_a_batch(bitflow, address))
    clients = scale(20) + len(runs) * scale(COUNT)
    assert len(bitflow.wait_records(clients)) == clients


def test_after_a_pause_the_acceptor_answers(env):
    address = env.address()
    bitflow = env.start(proxy(address, env.echo().address))
    for _ in range(3):
        visits(address, 20)
        bitflow.wait_parked()  # no worker waits for clients any more
        before = acceptor_runs(bitflow)
        watch = Stopwatch()
        assert visit(address) == SERVED
        watch.between(0, 2, "a client after the pause")
        assert acceptor_runs(bitflow) > before


def test_connections_that_stay_keep_nobody_from_coming(env):
    """Each worker that accepts is gone for good, until the last one: then the acceptor goes on."""
    address = env.address()
    env.start(proxy(address, env.echo().address))
    for _ in range(3):
        visits(address, 20)
        clients = [env.connect(address) for _ in range(scale(60))]
        for client in clients:
            sockets.round_trip(client)


def test_from_a_reload_on_its_sources_are_in_force(env):
    address, echo = env.address(), env.echo()
    bitflow = env.start(proxy(address, echo.address))
    closed = proxy(address, echo.address, listener={"authorized_sources": ["192.0.2.0/24"]})
    for _ in range(5):
        assert set(visits(address, 20)) == {SERVED}
        env.config(closed)
        bitflow.reload()
        assert {outcome[0] for outcome in visits(address, 20)} == {b""}
        env.config(proxy(address, echo.address))
        bitflow.reload()


def test_workers_keep_the_connection_limit(env):
    address, echo = env.address(), env.echo()
    bitflow = env.start(proxy(address, echo.address, connection_limit=2))
    visits(address, 20)
    bitflow.wait_records(scale(20))  # their places are free again
    kept = [env.connect(address) for _ in range(2)]
    for client in kept:
        sockets.round_trip(client)
    for _ in range(20):
        sockets.was_rejected(env.connect(address))
    kept.pop().close()
    wait_for(lambda: visit(address) == SERVED, "the place is free again")
    records = bitflow.wait_records(scale(20) + 20 + 2)  # and the one that left, and the one that got its place
    assert {record["reason"] for record in records if record["event"] == "rejected"} == {"connection_limit"}


def comes_to_waiting_workers(bitflow, address, kept):
    """A client for whom there is no descriptor left, and whether certainly a worker waited for it. Stopping the process
    is no way to that: it ends every epoll_wait()."""
    wait_for(lambda: len(bitflow.busy_threads()) == kept, "no worker waits any more")
    watch = Stopwatch()
    assert visit(address) == SERVED
    wait_for(lambda: len(bitflow.busy_threads()) - len(bitflow.resting_threads()) == kept, "it is over", every=0.001)
    bitflow.limit("NOFILE", bitflow.lowest_free_descriptor())
    is_awaited = len(bitflow.resting_threads()) > 0
    client = sockets.connect(address)
    return client, is_awaited and watch.seconds < WAIT


def test_workers_turn_nobody_away_for_want_of_descriptors(env):
    """The acceptor does, who has one in reserve; and everything goes on when there are some again."""
    address = env.address()
    bitflow = env.start(proxy(address, env.echo().address))
    kept = [env.connect(address) for _ in range(3)]
    for client in kept:
        sockets.round_trip(client)
    is_awaited, tries = False, 0
    while not is_awaited:
        tries += 1
        assert tries <= 10, "no client came while a worker waited"
        client, is_awaited = comes_to_waiting_workers(bitflow, address, len(kept))
        clients = [client, *(sockets.connect(address) for _ in range(19))]
        for client in clients:
            assert sockets.receive_until_broken(client)[0] == b""
            client.close()
        bitflow.limit("NOFILE", 1000)
    assert set(visits(address, 20)) == {SERVED}
    for client in kept:
        sockets.round_trip(client)
    records = bitflow.wait_records(scale(20) + tries * (1 + 20))
    rejected = [record["reason"] for record in records if record["event"] == "rejected"]
    assert rejected == ["out_of_descriptors"] * 20 * tries


@pytest.mark.parametrize("how", ["stopped", "reloaded"])
def test_the_end_leaves_no_client_behind(env, how):
    """Workers wait for clients at the moment when their listener ends: who is in the queue by then is served."""
    address, other = env.address(), env.address()
    echo = env.echo()
    keep = proxy(other, echo.address, name="keep")
    bitflow = env.start(proxy(address, echo.address), keep)
    visits(address, 20)
    with bitflow.stopped():
        clients = [sockets.connect(address) for _ in range(scale(100))]
        if how == "reloaded":
            env.config(keep)
        bitflow.signal(signal.SIGTERM if how == "stopped" else signal.SIGHUP)
    for client in clients:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
    assert {sockets.receive_until_broken(client) for client in clients} == {SERVED}
    for client in clients:
        client.close()
    if how == "stopped":
        assert bitflow.wait_ended() == 0
    else:
        wait_for(lambda: sockets.refuses(address), "the listener is closed")
        assert visit(other) == SERVED


def test_each_listeners_workers_accept_its_own_clients(env):
    """One thread pool, two proxies: nobody gets to the other's target."""
    addresses = [env.address(), env.address()]
    targets = [env.serve(greeter(f"target {number}")) for number in range(2)]
    env.start(*(proxy(addresses[number], targets[number].address, name=f"p{number}") for number in range(2)))
    for _ in range(scale(COUNT)):
        for number, address in enumerate(addresses):
            assert visit(address)[0].startswith(b"target %d\n" % number)
