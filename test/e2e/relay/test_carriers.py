"""Connections that are busy with small messages share a few threads, as server.carriers says."""

import os

import pytest

import configs
import costs
import sockets
from environment import proxy
from tls_cases import tls_listener
from waiting import wait_for

ONE = {min(os.sched_getaffinity(0))}
COUNT = 3  # more than the one processor that the proxy is given


@pytest.fixture(name="on_one_processor")
def fixture_on_one_processor():
    """What is started meanwhile may use one processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, ONE)
    yield
    os.sched_setaffinity(0, before)


def carriers(bitflow):
    return [name for name in bitflow.tasks().values() if name == "carrier"]


def play(clients):
    for client in clients:
        costs.round_trips(client, costs.MESSAGE, 8)


def plain(address):
    return sockets.connect(address)


def tls(address):
    return costs.client_context().wrap_socket(sockets.connect(address))


@pytest.mark.parametrize("connect", [plain, tls])
def test_busy_connections_share_a_thread_until_they_are_quiet(env, pki, on_one_processor, connect):
    echo, address = env.echo(), env.address()
    listener = tls_listener(pki.server, verify_mode="none") if connect is tls else None
    bitflow = env.start(proxy(address, echo.address, **({"listener": listener} if listener else {})))
    clients = [connect(address) for _ in range(COUNT)]
    rounds = 0

    def is_carried():
        nonlocal rounds
        play(clients)
        rounds += 8
        return carriers(bitflow)

    wait_for(is_carried, lambda: f"a carrier: {bitflow.tasks()}")
    assert len(carriers(bitflow)) == 1
    costs.round_trips(clients[0], costs.RECORD, 1)
    wait_for(lambda: not carriers(bitflow), lambda: f"none any more: {bitflow.tasks()}")
    play(clients)
    for client in clients:
        client.close()
    records = bitflow.wait_records(COUNT)
    sizes = sorted(record["bytes_from_target"] for record in records)
    size = (rounds + 8) * len(costs.MESSAGE)
    assert sizes == [size] * (COUNT - 1) + [size + len(costs.RECORD)]


def test_each_has_its_own_thread_where_carriers_are_refused(env, on_one_processor):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), server={"carriers": False})
    clients = [sockets.connect(address) for _ in range(COUNT)]
    for _ in range(20):
        play(clients)
        assert not carriers(bitflow)
    for client in clients:
        client.close()
    assert {record["reason"] for record in bitflow.wait_records(COUNT)} == {"completed"}


def test_another_value_is_refused(env):
    text = configs.with_line("top", "").replace("server:\n", "server:\n  carriers: often\n", 1)
    configs.rejects(env, text, line=2, path="server.carriers", count=1)
