"""While the new process of an upgrade starts, however long that takes, the old one serves as before: files that change
and logs that are rotated count, orders are obeyed, and its watchdog hears of it."""

import os
import pathlib
import signal

import pytest

import control_socket
import peers
import sockets
import tls_raw
import upgrades
from environment import proxy
from service_managers import ServiceManager
from tls_cases import tls_listener
from waiting import wait_for

HANGS = "#!/bin/sh\nexec sleep 600\n"


@pytest.fixture(autouse=True)
def reaping():
    with upgrades.reaping():
        yield


def served(address):
    """The fingerprint of the certificate that a new client gets."""
    with sockets.connect(address) as sock:
        return tls_raw.Tls(sock, tls_raw.client_context(), server_name="server.test").handshake().peer_fingerprint()


def end_start(bitflow, pid):
    """The new process fails to start."""
    os.kill(pid, signal.SIGKILL)
    upgrades.wait_said(bitflow, upgrades.FAILED)


def test_a_renewed_certificate_is_put_in_force(env, pki, monkeypatch):
    live, address, installed = pki.server.copy(env.directory), env.address(), upgrades.Installed(env, monkeypatch)
    bitflow = env.start(proxy(address, env.echo().address, listener=tls_listener(live)))
    installed.replace(HANGS)
    pid = upgrades.begin(bitflow)
    for name in ("key", "certificate"):
        getattr(live, name).write_bytes(getattr(pki.second_server, name).read_bytes())
    wait_for(lambda: served(address) == pki.second_server.fingerprint, bitflow.stderr)
    end_start(bitflow, pid)
    installed.replace()
    upgrades.upgrade(env, bitflow)
    assert served(address) == pki.second_server.fingerprint


def test_a_configuration_that_changes_is_read_when_the_upgrade_has_failed(env, monkeypatch):
    address, installed = env.address(), upgrades.Installed(env, monkeypatch)
    one, two = env.serve(peers.greeter("one")), env.serve(peers.greeter("two"))
    settings = {"level": "debug", "application": {"watch_configuration": True}}
    bitflow = env.start(proxy(address, one.address), **settings)
    # Written so shortly before, it may have changed after it was read.
    upgrades.wait_said(bitflow, "the configuration was written, and says what is in force")
    installed.replace(HANGS)
    pid = upgrades.begin(bitflow)
    env.config(proxy(address, two.address), **settings)
    upgrades.wait_said(bitflow, "the configuration has changed, and is read when the upgrade is over")
    assert upgrades.greeting(address) == b"one\n"
    end_start(bitflow, pid)
    upgrades.wait_said(bitflow, "reloaded")
    assert upgrades.greeting(address) == b"two\n"


def test_a_log_that_is_rotated_is_opened_anew_by_the_new_process_too(env):
    """Which may have opened it before it was moved, and is not known yet to whoever moves it."""
    address = env.address()
    bitflow = env.start(proxy(address, env.echo().address))
    pid = upgrades.begin(bitflow)
    with bitflow.stopped():
        successor = upgrades.Successor(bitflow, pid)
        env.bitflows.append(successor)
        wait_for(lambda: str(env.records_path) in successor.links(), "it has opened the log")
        env.records_path.rename(env.records_path.with_suffix(".1"))
        bitflow.signal(signal.SIGUSR1)
    upgrades.wait_said(bitflow, upgrades.SERVES)
    wait_for(lambda: str(env.records_path) in successor.links(), lambda: f"it has the new log: {successor.links()}")
    upgrades.serves(address)
    assert len(successor.wait_records(1)) == 1


def test_orders_are_obeyed_and_the_watchdog_is_told(env, monkeypatch):
    address, installed, manager = env.address(), upgrades.Installed(env, monkeypatch), ServiceManager(env)
    path = env.config(proxy(address, env.echo().address), application=control_socket.setting(env.unix("control.sock")))
    bitflow = env.launch(path, environment=manager.environment(watchdog=4))
    bitflow.wait_control()
    control = control_socket.Control(env.unix("control.sock"))
    client = env.connect(address)
    sockets.round_trip(client)
    installed.replace(HANGS)
    pid = upgrades.begin(bitflow)
    told = manager.count("WATCHDOG")
    wait_for(lambda: manager.count("WATCHDOG") > told + 1, "the watchdog is told")
    assert control.json("/health") == {"status": "healthy"} and control.json("/ready") == {"status": "ready"}
    answer = control.json("/reload", method="POST", status=422)
    assert (answer["status"], answer["error"]) == ("refused", "an upgrade is under way")
    assert control.json("/reopen-logs", method="POST") == {"status": "reopened"}
    assert control.json("/connections/1", method="DELETE") == {"status": "ended", "id": 1}
    assert control.json("/drain", method="POST", status=202)["status"] == "draining"
    assert bitflow.wait_ended() == 0
    wait_for(lambda: not pathlib.Path(f"/proc/{pid}").exists(), "the new process is gone")
