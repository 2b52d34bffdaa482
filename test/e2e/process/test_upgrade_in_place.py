"""Where the process has to stay the same one: a stand-in serves while it drains, then it comes back by exec."""

import os
import signal
import subprocess

import pytest

import bitflow_process
import needs
import peers
import programs
import sockets
import upgrades
from environment import proxy
from service_managers import ServiceManager
from upgrades import Installed
from waiting import holds_for, pace, wait_for

STANDS_IN = "standing in for the process that is to come back"
INCOMPLETE = "the upgrade is not complete, the process that stands in goes on"
IN_PLACE = {"upgrade_in_place": True}


@pytest.fixture(autouse=True)
def reaping():
    with upgrades.reaping():
        yield


def served(env, address):
    client = env.connect(address)
    sockets.round_trip(client)
    return client


def begin_upgrade(env, bitflow, address):
    """A client that the process has to drain. Its stand-in serves when this returns."""
    client = served(env, address)
    bitflow.signal(signal.SIGUSR2)
    upgrades.wait_said(bitflow, upgrades.SERVES)
    return client


def test_the_process_stays_the_same_one(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), server=IN_PLACE)
    for number in range(1, 4):
        bitflow.signal(signal.SIGUSR2)
        upgrades.wait_back(bitflow, number)
        assert bitflow.is_running()
        upgrades.serves(address)


def test_clients_are_served_while_it_drains(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), proxy(env.unix(), echo.address, name="u"), server=IN_PLACE)
    first = begin_upgrade(env, bitflow, address)
    second, third = env.connect(address), env.connect(env.unix())
    for _ in range(5):
        for client in (first, second, third):
            sockets.round_trip(client)
    first.close()
    upgrades.wait_said(bitflow, upgrades.BACK)
    fourth = env.connect(address)
    for client in (second, third, fourth):
        sockets.round_trip(client)
    assert upgrades.children(bitflow.pid), "the stand-in drains"
    second.close()
    third.close()
    upgrades.wait_back(bitflow)
    sockets.round_trip(fourth)
    upgrades.serves(env.unix())


def test_connections_are_drained_by_the_bound_in_both(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), server={**IN_PLACE, "drain_timeout": "500ms"})
    first = begin_upgrade(env, bitflow, address)
    second = served(env, address)
    assert sockets.receive_until_broken(first) == (b"", "eof")
    assert sockets.receive_until_broken(second) == (b"", "eof")
    upgrades.wait_back(bitflow)
    assert [record["reason"] for record in bitflow.records()] == ["drain", "drain"]


def test_inherited_sockets_stay(env):
    echo, inherited = env.echo(), env.listen()
    bitflow = env.start(
        proxy("fd://web", echo.address), server=IN_PLACE,
        plan={"descriptors": [[inherited.socket.fileno(), 3]], "listen_names": ["web"]},
    )
    for number in (1, 2):
        bitflow.signal(signal.SIGUSR2)
        upgrades.wait_back(bitflow, number)
        upgrades.serves(inherited.address)


def test_signals_meanwhile_are_passed_on(env):
    address = env.address()
    one, two = env.serve(peers.greeter("one")), env.serve(peers.greeter("two"))
    echo, held_at = env.echo(), env.address()
    held_proxy = proxy(held_at, echo.address, name="held")
    bitflow = env.start(proxy(address, one.address), held_proxy, server=IN_PLACE)
    held = begin_upgrade(env, bitflow, held_at)
    env.config(proxy(address, two.address), held_proxy, server=IN_PLACE)
    bitflow.reload()
    assert upgrades.greeting(address) == b"two\n"
    bitflow.signal(signal.SIGUSR2)
    upgrades.wait_said(bitflow, "upgrade refused")
    held.close()
    upgrades.wait_back(bitflow)
    assert upgrades.greeting(address) == b"two\n"


def test_an_end_meanwhile_drains_both(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), server=IN_PLACE)
    first = begin_upgrade(env, bitflow, address)
    second = served(env, address)
    bitflow.signal(signal.SIGTERM)
    wait_for(lambda: sockets.refuses(address), "nobody listens any more")
    sockets.round_trip(first)
    first.close()
    sockets.round_trip(second)
    assert bitflow.is_running()
    second.close()
    assert bitflow.wait_ended() == 0
    assert not upgrades.said(bitflow, upgrades.BACK)


@pytest.mark.parametrize("is_known_first", [True, False], ids=["the known one first", "the stand-in first"])
def test_a_stop_of_all_processes_is_one_end(env, is_known_first):
    """As by systemd or a terminal, which signal each of them. The one that everyone knows passes its own on, too."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), server={**IN_PLACE, "drain_timeout": "0s"})
    first = begin_upgrade(env, bitflow, address)
    second = served(env, address)
    stand_in = upgrades.Successor(bitflow, *upgrades.children(bitflow.pid))

    def both_are_served():
        for client in (first, second):
            sockets.round_trip(client)
        return True

    for process in (bitflow, stand_in) if is_known_first else (stand_in, bitflow):
        process.signal(signal.SIGTERM)
        process.wait_taken(signal.SIGTERM)
        wait_for(lambda: sockets.refuses(address), "the stand-in has been told, by whomever")
        stand_in.wait_taken(signal.SIGTERM)
    holds_for(0.3, both_are_served, "both drain")
    bitflow.signal(signal.SIGTERM)
    for client in (first, second):
        assert sockets.receive_until_broken(client) == (b"", "eof")
    assert bitflow.wait_ended() == 0
    reasons = [record["reason"] for record in bitflow.records()]  # beside those of who looked whether it listens
    assert reasons.count("drain") == 2, reasons


def test_a_program_that_cannot_come_back_leaves_the_stand_in(env, monkeypatch):
    """And is tried once more on demand."""
    echo, address, installed = env.echo(), env.address(), Installed(env, monkeypatch)
    bitflow = env.start(proxy(address, echo.address), server=IN_PLACE)
    held = begin_upgrade(env, bitflow, address)
    installed.path.unlink()
    held.close()
    upgrades.wait_said(bitflow, INCOMPLETE)
    upgrades.serves(address)
    bitflow.reload()
    installed.replace()
    bitflow.signal(signal.SIGUSR2)
    upgrades.wait_back(bitflow)
    upgrades.serves(address)


@pytest.mark.parametrize("fault", ["configuration", "address"])
def test_a_start_that_fails_leaves_the_stand_in(env, fault):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), server=IN_PLACE)
    good = bitflow.config.read_text()
    held = begin_upgrade(env, bitflow, address)
    if fault == "configuration":
        bitflow.config.write_text(good.replace("targets", "tagrets"))
    else:
        taken = env.listen()
        env.config(
            proxy(address, echo.address), proxy(taken.address, echo.address, name="second"), server=IN_PLACE
        )
    held.close()
    said = "tagrets" if fault == "configuration" else "Address already in use"
    wait_for(lambda: said in bitflow.stderr(), bitflow.stderr)
    for _ in range(5):
        upgrades.serves(address)
    assert bitflow.is_running()
    bitflow.config.write_text(good)
    bitflow.signal(signal.SIGUSR2)
    upgrades.wait_back(bitflow)
    upgrades.serves(address)


def start_and_fail_to_come_back(env, manager, address):
    """Under a service manager that has a watchdog."""
    watchdog = 1.2 * pace()
    path = env.config(proxy(address, env.echo().address), server={**IN_PLACE, "drain_timeout": "0s"})
    bitflow = env.launch(path, environment=manager.environment(watchdog))
    manager.wait_ready(bitflow)
    held = env.connect(address)
    sockets.round_trip(held)
    bitflow.signal(signal.SIGUSR2)
    manager.wait(STATUS="upgrading, another process serves, 1 connection left")
    path.write_text(path.read_text().replace("targets", "tagrets"))
    held.close()
    manager.wait(STATUS="the upgrade is not complete, another process serves", WATCHDOG_USEC=str(int(watchdog * 1e6)))
    return bitflow


def test_the_watchdog_hears_of_a_process_that_could_not_come_back(env):
    manager, address = ServiceManager(env), env.address()
    bitflow = start_and_fail_to_come_back(env, manager, address)
    told = manager.count("WATCHDOG")
    wait_for(lambda: manager.count("WATCHDOG") > told + 5, "longer than it would wait")
    bitflow.config.write_text(bitflow.config.read_text().replace("tagrets", "targets"))
    bitflow.signal(signal.SIGUSR2)
    wait_for(lambda: len(manager.phases()) == 2, "it is back")
    assert manager.phases()[-1].keys() == {"READY", "STATUS", "WATCHDOG_USEC"}
    upgrades.wait_back(bitflow)
    told = manager.count("WATCHDOG")
    wait_for(lambda: manager.count("WATCHDOG") > told + 1, "it goes on")
    assert {message.pid for message in manager.read()} == {bitflow.pid}, "the manager knows no other"


def test_the_service_ends_with_its_stand_in(env):
    """And the manager is asked to wait for that."""
    manager, address = ServiceManager(env), env.address()
    bitflow = start_and_fail_to_come_back(env, manager, address)
    client = env.connect(address)
    sockets.round_trip(client)
    bitflow.signal(signal.SIGTERM)
    asked = manager.wait(STOPPING="1", STATUS="ending, another process drains")
    assert int(asked["EXTEND_TIMEOUT_USEC"]) > 10e6
    sockets.round_trip(client)
    assert bitflow.is_running()
    client.close()
    assert bitflow.wait_ended() == 0


def test_the_end_of_a_stand_in_is_the_end(env):
    """Nobody would accept: whoever watches the process starts it again."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), server=IN_PLACE)
    held = begin_upgrade(env, bitflow, address)
    (child,) = upgrades.children(bitflow.pid)
    os.kill(child, signal.SIGKILL)
    bitflow.expected_status = 1
    assert bitflow.wait_ended() == 1
    assert "the process that took over: it was ended by SIGKILL" in bitflow.stderr()


def test_process_1_of_a_container_is_upgraded_in_place(env):
    """Whatever the configuration says: its end would be the container's."""
    needs.PROCESS_NAMESPACE.need()
    echo, address = env.echo(), env.address()
    path = env.config(proxy(address, echo.address), server={"drain_timeout": "1s"})
    output = env.directory / "contained.txt"
    with open(output, "wb") as stream:
        outer = subprocess.Popen(
            [programs.find("unshare"), *needs.process_namespace_options(), "--mount-proc", "--kill-child",
             bitflow_process.binary(), "--config", path],
            stderr=stream, stdin=subprocess.DEVNULL,
        )
    try:
        wait_for(lambda: "msg=listening" in output.read_text(), lambda: f"it listens: {output.read_text()}")
        (pid,) = upgrades.children(outer.pid)
        bitflow = upgrades.Observed(path, output, outer, env.records_path, pid)
        held = env.connect(address)
        sockets.round_trip(held)
        for number in (1, 2):
            os.kill(pid, signal.SIGUSR2)
            upgrades.wait_said(bitflow, STANDS_IN, number)
            upgrades.serves(address)
            upgrades.wait_back(bitflow, number)
            upgrades.serves(address)
        assert sockets.receive_until_broken(held) == (b"", "eof")
        os.kill(pid, signal.SIGTERM)
        assert outer.wait(10) == 0, output.read_text()
    finally:
        outer.kill()
        outer.wait()
