"""What bitflow tells a service manager by sd_notify(3): the phases, the status, and that none of its threads hangs."""

import os
import signal
import time

import pytest

import bitflow_process
import programs
import sockets
from environment import proxy
from service_managers import ServiceManager, is_alive_within
from waiting import holds_for, pace, wait_for

WATCHDOG = 1.2  # seconds within which the manager wants to hear of it


def start(env, manager, *proxies, watchdog=None, **settings):
    return env.start(*proxies, environment=manager.environment(watchdog and watchdog * pace()), wait=False, **settings)


@pytest.mark.parametrize("is_abstract", [False, True], ids=["a path", "an abstract name"])
def test_it_is_ready_when_it_serves(env, is_abstract):
    manager, echo = ServiceManager(env, is_abstract=is_abstract), env.echo()
    first, second = env.address(), env.address()
    bitflow = start(env, manager, proxy(first, echo.address, name="a"), proxy(second, echo.address, name="b"))
    manager.wait_ready(bitflow)
    for address in (first, second):
        sockets.round_trip(env.connect(address))
    (message,) = manager.messages
    assert message == {"READY": "1", "STATUS": "0 connections on 2 proxies"}
    assert message.pid == bitflow.pid


def test_it_is_not_ready_when_it_cannot_start(env):
    manager, taken = ServiceManager(env), env.listen()
    path = env.config(proxy(taken.address, env.address()))
    bitflow = env.launch(path, environment=manager.environment())
    bitflow.expected_status = 1
    assert bitflow.wait_ended() == 1 and manager.read() == []


def test_the_status_counts_connections(env):
    """Every few seconds, and at the end."""
    manager, echo, address = ServiceManager(env), env.echo(), env.address()
    bitflow = start(env, manager, proxy(address, echo.address), server={"drain_timeout": "20s"})
    manager.wait_ready(bitflow)
    clients = [env.connect(address) for _ in range(3)]
    for client in clients:
        sockets.round_trip(client)
    manager.wait(STATUS="3 connections on 1 proxy")
    clients.pop().close()
    wait_for(lambda: len(bitflow.records()) == 1, "it has ended")
    bitflow.signal(signal.SIGTERM)
    manager.wait(STOPPING="1", STATUS="ending, 2 connections left", EXTEND_TIMEOUT_USEC="30000000")
    for client in clients:
        client.close()
    assert bitflow.wait_ended() == 0


def reload(bitflow, manager):
    """The status that is told when it is over."""
    told, before = len(manager.phases()), time.monotonic()
    bitflow.signal(signal.SIGHUP)
    wait_for(lambda: len(manager.phases()) == told + 2, lambda: f"two messages: {manager.phases()[told:]}")
    begun, over = manager.phases()[told:]
    assert (begun["RELOADING"], begun["STATUS"], over["READY"]) == ("1", "reloading", "1")
    assert before <= int(begun["MONOTONIC_USEC"]) / 1e6 + 1e-6 and int(begun["MONOTONIC_USEC"]) / 1e6 <= over.time
    return over["STATUS"]


def test_a_reload_is_told_of_and_so_is_a_refused_one(env):
    manager, echo, address, taken = ServiceManager(env), env.echo(), env.address(), env.listen()
    bitflow = start(env, manager, proxy(address, echo.address))
    manager.wait_ready(bitflow)
    good = bitflow.config.read_text()
    failed = "; the last reload failed, the old configuration is in force"

    bitflow.config.write_text(good.replace("listener:", "listner:"))
    assert reload(bitflow, manager) == "0 connections on 1 proxy" + failed
    env.config(proxy(address, echo.address), proxy(taken.address, echo.address, name="more"))
    assert reload(bitflow, manager) == "0 connections on 1 proxy" + failed
    with sockets.connect(address) as client:
        sockets.round_trip(client)
    bitflow.wait_parked()

    second = env.address()
    env.config(proxy(address, echo.address), proxy(second, echo.address, name="more"))
    assert reload(bitflow, manager) == "0 connections on 2 proxies"
    sockets.round_trip(env.connect(second))  # it is in force when it is told to be


def test_the_watchdog_is_told_in_time(env):
    """Whatever clients do meanwhile, and while it drains."""
    manager, echo, address = ServiceManager(env), env.echo(), env.address()
    bitflow = start(env, manager, proxy(address, echo.address), watchdog=WATCHDOG, server={"drain_timeout": "20s"})
    manager.wait_ready(bitflow)
    client = env.connect(address)

    def go_on():
        with sockets.connect(address) as other:
            sockets.round_trip(other)
        return manager.read()

    holds_for(1.5 * WATCHDOG * pace(), go_on, "it is served")
    bitflow.signal(signal.SIGTERM)
    manager.wait(STOPPING="1")
    assert is_alive_within(manager, WATCHDOG)
    client.close()
    assert bitflow.wait_ended() == 0
    told = [message.time for message in manager.read() if "WATCHDOG" in message]
    gaps = [later - earlier for earlier, later in zip(told, told[1:])]
    assert len(gaps) >= 5 and max(gaps) < WATCHDOG * pace(), gaps


@pytest.mark.parametrize("thread", ["front:accept", "bitflow"], ids=["a listener's thread", "the main thread"])
def test_the_watchdog_hears_nothing_while_a_thread_hangs(env, thread):
    """Although clients are served, by workers that wait for them, or by the other listener."""
    manager, echo, address, other = ServiceManager(env), env.echo(), env.address(), env.address()
    bitflow = start(env, manager, proxy(address, echo.address), proxy(other, echo.address, name="other"),
                    watchdog=WATCHDOG)  # fmt: skip
    manager.wait_ready(bitflow)
    assert is_alive_within(manager, WATCHDOG)
    with bitflow.held_thread(thread):
        told = manager.count("WATCHDOG")
        sockets.round_trip(env.connect(other))
        # Of six; what it had answered before is still told.
        holds_for(1.5 * WATCHDOG * pace(), lambda: manager.count("WATCHDOG") - told <= 2, "it is told no more")
    assert is_alive_within(manager, WATCHDOG)
    lines = [line["proxy"] for line in bitflow.log_lines() if line["msg"].startswith("the listener's thread does not")]
    assert lines == (["front"] if thread == "front:accept" else [])


def test_a_thread_that_serves_may_hang_as_its_peer_pleases(env):
    manager, echo, address = ServiceManager(env), env.echo(), env.address()
    bitflow = start(env, manager, proxy(address, echo.address), watchdog=WATCHDOG)
    manager.wait_ready(bitflow)
    client = env.connect(address)
    sockets.round_trip(client)
    (name,) = bitflow.busy_threads()
    with bitflow.held_thread(name):
        for _ in range(6):
            assert is_alive_within(manager, WATCHDOG)


def test_a_manager_that_reads_nothing_hurts_nobody(env):
    """Its queue is full: clients are served, reloads done, and what it was to be told comes when it reads again."""
    manager, echo, address = ServiceManager(env), env.echo(), env.address()
    manager.fill()
    bitflow = start(env, manager, proxy(address, echo.address), watchdog=WATCHDOG)
    bitflow.wait_listening(["front"])
    bitflow.reload()
    sockets.round_trip(env.connect(address))
    wait_for(lambda: len(manager.phases()) == 3, lambda: f"start and reload are told of: {manager.phases()}")
    assert [next(iter(message)) for message in manager.phases()] == ["READY", "RELOADING", "READY"]
    assert bitflow.stderr().count("the service manager cannot be notified") == 1


def test_a_manager_that_is_gone_hurts_nobody(env):
    manager, echo, address = ServiceManager(env), env.echo(), env.address()
    bitflow = start(env, manager, proxy(address, echo.address), watchdog=WATCHDOG)
    manager.wait_ready(bitflow)
    manager.socket.close()
    os.unlink(manager.name)
    bitflow.reload()
    with sockets.connect(address) as client:
        sockets.round_trip(client)
    again = ServiceManager(env)
    again.wait(READY="1")
    assert is_alive_within(again, WATCHDOG)
    again.socket.close()
    bitflow.stop()


def test_without_a_manager_nothing_wakes_it(env):
    """The main thread sleeps as long as nobody wants anything."""
    bitflow = env.start(proxy(env.address(), env.address()))
    thread = next(task for task, name in bitflow.tasks().items() if name == "bitflow")

    def switches():
        with open(f"/proc/{bitflow.pid}/task/{thread}/status") as stream:
            return [line for line in stream if "ctxt_switches" in line]

    wait_for(lambda: open(f"/proc/{bitflow.pid}/task/{thread}/stat").read().rpartition(")")[2].split()[0] == "S",
             "it sleeps")  # fmt: skip
    before = switches()
    holds_for(1.0, lambda: switches() == before, "it sleeps")


def test_a_socket_of_systemds_own_tool_is_served(env):
    """systemd-socket-activate hands over the sockets as systemd does, the name and the notification's socket, too."""
    manager, echo, address = ServiceManager(env), env.echo(), env.address()
    path = env.config(proxy("fd://web", echo.address))
    command = [programs.find("systemd-socket-activate"), "-l", address, "--fdname=web",
               "-E", f"NOTIFY_SOCKET={manager.name}"]  # fmt: skip
    with programs.Program([*command, str(bitflow_process.binary()), "--config", str(path)]) as program:
        port = int(address.rpartition(":")[2])
        wait_for(lambda: program.listens(port), lambda: f"it listens: {program.log.read_text()}")
        with sockets.connect(address) as client:
            sockets.round_trip(client)
        assert manager.wait(READY="1")["STATUS"].endswith("on 1 proxy")
