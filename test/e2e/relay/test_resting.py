"""A connection that falls silent goes on on another thread, under the same name, and its peers do not notice."""

import signal
import ssl

import pytest

import costs
import sockets
from environment import proxy
from tls_cases import tls_listener, tls_target
from waiting import wait_for

COUNT = 3


def threads(bitflow):
    """[(name, the kernel's id)] of those that serve connections."""
    return sorted((name, thread) for thread, name in bitflow.tasks().items() if "#" in name)


def wait_moved(bitflow, before):
    def have_moved():
        now = threads(bitflow)
        return [name for name, _ in now] == [name for name, _ in before] and not set(now) & set(before)

    wait_for(have_moved, lambda: f"each has another thread: {before}, {threads(bitflow)}")


def end(client):
    if isinstance(client, ssl.SSLSocket):
        client = client.unwrap()
    client.close()


@pytest.fixture
def front(env, pki):
    """A bitflow, and silent clients: of a plain proxy, of one that accepts TLS, of one that speaks TLS to that."""
    echo, plain, tls, into = env.echo(), env.address(), env.address(), env.address()
    bitflow = env.start(
        proxy(plain, echo.address, name="plain"),
        proxy(tls, echo.address, name="tls", listener=tls_listener(pki.server, verify_mode="none")),
        proxy(into, tls_target(tls, pki.trusted), name="into"),
    )
    for _ in range(2 * COUNT):  # so that workers take what comes next by themselves
        with sockets.connect(plain) as client:
            sockets.round_trip(client)
    bitflow.wait_records(2 * COUNT)
    clients = []
    for _ in range(COUNT):
        clients += [sockets.connect(plain), costs.client_context().wrap_socket(sockets.connect(tls))]
        clients.append(sockets.connect(into))
    for client in clients:
        costs.round_trips(client, costs.MESSAGE, 1)
    wait_for(lambda: len(threads(bitflow)) == 4 * COUNT, "each has a thread")
    return bitflow, clients


def test_silent_connections_go_on_on_other_threads(front):
    bitflow, clients = front
    wait_moved(bitflow, threads(bitflow))
    for client in clients:
        costs.round_trips(client, costs.MESSAGE, 20)
        costs.round_trips(client, costs.RECORD, 1)
        end(client)
    size = 21 * len(costs.MESSAGE) + len(costs.RECORD)
    for record in bitflow.wait_records(6 * COUNT)[2 * COUNT :]:
        assert (record["reason"], record["bytes_from_client"], record["bytes_from_target"]) == ("completed", size, size)


def test_a_drain_finds_those_that_rest(front):
    """They go on as long as they like."""
    bitflow, clients = front
    wait_moved(bitflow, threads(bitflow))
    bitflow.signal(signal.SIGTERM)
    wait_for(lambda: "shutting down" in bitflow.stderr(), "it drains")
    for client in clients:
        costs.round_trips(client, costs.MESSAGE, 1)
        end(client)
    bitflow.wait_ended()
    assert {record["reason"] for record in bitflow.wait_records(6 * COUNT)[2 * COUNT :]} == {"completed"}
