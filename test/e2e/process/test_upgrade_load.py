"""Upgrades and reloads under load: nobody is refused or reset, and long connections go on.

A sample here; with BITFLOW_NIGHTLY=1 20 upgrades and 20 reloads, and at least 20,000 short connections."""

import signal
import threading
import time

import pytest

import sockets
import upgrades
from environment import proxy
from load import Load
from waiting import IS_NIGHTLY, scale

ROUNDS = 20 if IS_NIGHTLY else 3
SHORT = 20_000 if IS_NIGHTLY else scale(1500)
LONG = 50
CLIENTS = 8


@pytest.fixture(autouse=True)
def reaping():
    with upgrades.reaping():
        yield


class Burst:
    """Short connections, CLIENTS at a time, until they are stopped; the first that fails ends them."""

    def __init__(self, load, address):
        self.load, self.address = load, address
        self.completed, self.error, self.is_over = 0, None, False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            while not self.is_over or self.completed < SHORT:
                self.completed += self.load.connections(self.address, CLIENTS, 0.5)["completed"]
        except BaseException as error:  # for the test's own thread
            self.error = error

    def stop(self):
        self.is_over = True
        self.thread.join()
        if self.error:
            raise self.error


def tell(text):
    """For whoever runs it by hand."""
    if IS_NIGHTLY:
        print(text)


@pytest.mark.parametrize("settings", [{}, {"upgrade_in_place": True}], ids=["successor", "in place"])
def test_nobody_notices(env, settings):
    echo, address, long_address = env.echo(), env.address(), env.address()
    load = env.keep(Load(env.directory))
    proxies = [proxy(address, load.address, connection_log=None), proxy(long_address, echo.address, name="long")]
    server = {"drain_timeout": "60s", **settings}
    if settings:  # its own drain is waited for in each round
        server["drain_timeout"] = "100ms"
    first = bitflow = env.start(*proxies, server=server)
    clients, told = [], 0
    burst = Burst(load, address)
    started = time.monotonic()
    try:
        for number in range(ROUNDS):
            while len(clients) < LONG * (number + 1) // ROUNDS:
                clients.append(env.connect(long_address))
                sockets.round_trip(clients[-1])
            if settings:
                bitflow.signal(signal.SIGUSR2)
                upgrades.wait_back(bitflow, number + 1)
            else:
                bitflow = upgrades.upgrade(env, bitflow)
            upgrades.reload(bitflow)
            for client in () if settings else clients:
                sockets.round_trip(client)
    finally:
        burst.stop()
    seconds = time.monotonic() - started
    if settings:
        for client in clients:
            assert sockets.receive_until_broken(client) == (b"", "eof")
            told += 1
        reasons = [record["reason"] for record in first.wait_records(LONG)]
        assert reasons == ["drain"] * LONG
    alive = LONG - told
    assert burst.completed >= SHORT
    assert len(upgrades.said(first, "reloaded")) == ROUNDS
    tell(f"{burst.completed} short connections by {CLIENTS} clients, 0 errors; {LONG} long ones: {alive} alive, "
         f"{told} drained by the bound; {ROUNDS} upgrades, {ROUNDS} reloads, {seconds:.1f} s")
