"""After an upgrade the process that drains is asked at a socket of its own, beside the one that was handed over."""

import http.client
import json
import os
import socket
import stat

import pytest

import control_socket
import sockets
import upgrades
from control_socket import Control
from environment import proxy
from upgrades import said, upgrade, wait_accepts_no_more
from waiting import wait_for


@pytest.fixture(autouse=True)
def reaping():
    with upgrades.reaping():
        yield


def front(env):
    return proxy(env.address(), env.echo().address)


def upgraded(env, **options):
    """(the process that drains, since a client is there; the one that serves; the control socket; the client)"""
    entry = front(env)
    bitflow, control = control_socket.start(env, entry, **options)
    client = env.connect(entry["listener"]["address"])
    sockets.round_trip(client)
    return bitflow, upgrade(env, bitflow), control, client


def processes(control):
    done = control.command("--json", "processes")
    assert (done.returncode, done.stderr) == (0, ""), done
    return json.loads(done.stdout)["processes"]


def wait_closed(old):
    """Until the one that drains has closed its listeners."""
    wait_for(lambda: old.json("/process")["drain_left_ms"] is not None, "its listeners are closed")


def test_who_drains_is_listed_and_its_connections_are_seen_and_ended(env):
    bitflow, successor, control, client = upgraded(env, keys={"mode": "0660"}, server={"drain_timeout": "10m"})
    old = Control(f"{control.address}.{bitflow.pid}")
    assert stat.S_IMODE(os.lstat(old.path).st_mode) == 0o660
    wait_closed(old)
    serves, drains = processes(control)
    assert (serves["pid"], serves["state"], serves["live"], serves["drain_left_ms"], serves["successor"]) == (
        successor.pid, "serving", 0, None, None)
    assert (drains["pid"], drains["state"], drains["live"], drains["successor"], drains["socket"]) == (
        bitflow.pid, "draining", 1, successor.pid, old.address)
    assert 0 <= drains["state_ms"] <= drains["total_ms"] and 0 < drains["drain_left_ms"] <= 600_000
    headings, *rows = (line.split() for line in control.command("processes").stdout.splitlines())
    assert headings[:3] == ["PID", "STATE", "SINCE"]
    assert [row[:2] for row in rows] == [[str(successor.pid), "serving"], [str(bitflow.pid), "draining"]]

    def ask(*words):
        return control.command("--process", str(bitflow.pid), *words)

    (seen,) = json.loads(ask("--json", "connections").stdout)["connections"]
    assert seen["client"] == sockets.local_name(client)
    assert ask("health").stdout == "draining\n" and "drains" in ask("ready").stderr
    assert json.loads(ask("--json", "proxies").stdout)["proxies"][0]["listener"]["state"] == "closed"
    assert "the process ends" in ask("reload").stderr
    assert control.command("end", str(seen["id"])).returncode == 1, "the new process does not have it"
    assert ask("end", str(seen["id"])).stdout == "ended\n"
    assert sockets.receive_to_end(client) == b"" and bitflow.wait_ended() == 0
    assert not os.path.exists(old.path)
    assert [one["pid"] for one in processes(control)] == [successor.pid]
    assert "there is no unix://" in ask("health").stderr


def test_several_that_drain_are_listed_by_their_numbers_and_what_is_left_of_others_is_not(env):
    first, second, control, _ = upgraded(env)
    wait_accepts_no_more(first)
    client = env.connect(control.json("/proxies")["proxies"][0]["listener"]["address"].removeprefix("tcp://"))
    sockets.round_trip(client)
    third = upgrade(env, second)
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(control.path + ".1")  # as a process leaves it that was killed
    dead.close()
    for name in (".sock", ".12x", ".", "-7"):
        open(control.path + name, "w").close()
    assert [one["pid"] for one in processes(control)] == [third.pid, *sorted((first.pid, second.pid))]
    with env.listen(env.unix("control.sock.2")):  # which hangs
        done = control.command("--json", "--timeout", "1", "processes")
        listed = {one["pid"]: one for one in json.loads(done.stdout)["processes"]}
        assert (listed[2]["state"], set(listed)) == ("unknown", {2, first.pid, second.pid, third.pid})
        assert "no answer at unix://" in listed[2]["error"]


def asker(env, control):
    """A client of the control socket that stays connected."""
    connection = env.keep(http.client.HTTPConnection("localhost"))
    connection.sock = env.connect(control.address)
    return connection


def heard(connection, path):
    """(HTTP's status, what is said, whether the connection stays open)"""
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read()), connection.sock is not None


def test_who_came_before_the_upgrade_hears_yes_and_asks_the_new_process_next(env):
    """A probe that the old process has accepted is not told of its drain, whenever it asks."""
    entry = front(env)
    bitflow, control = control_socket.start(env, entry)
    client = env.connect(entry["listener"]["address"])
    sockets.round_trip(client)
    silent, served = asker(env, control), asker(env, control)
    status, process, stays = heard(served, "/process")  # so the one before it is accepted, too
    assert (status, process["pid"], stays) == (200, bitflow.pid, True)
    successor = upgrade(env, bitflow)
    old = Control(f"{control.address}.{bitflow.pid}")
    wait_closed(old)
    for one in (silent, served):
        assert heard(one, "/ready") == (200, {"status": "ready"}, False)
    assert "drains" in old.json("/ready", status=503)["error"]
    assert (control.json("/process")["pid"], control.json("/ready")) == (successor.pid, {"status": "ready"})


def test_in_place_the_process_and_its_stand_in_are_asked_in_turn(env):
    """The process has the client of before; then the stand-in has the one that came meanwhile."""
    entry = front(env)
    bitflow, control = control_socket.start(env, entry, server={"upgrade_in_place": True, "drain_timeout": "10m"})
    client = env.connect(entry["listener"]["address"])
    sockets.round_trip(client)
    stand_in = upgrades.begin(bitflow)
    upgrades.wait_said(bitflow, upgrades.SERVES)
    wait_accepts_no_more(bitflow)
    meanwhile = env.connect(entry["listener"]["address"])
    sockets.round_trip(meanwhile)
    assert [(one["pid"], one["state"], one["live"]) for one in processes(control)] == [
        (stand_in, "serving", 1), (bitflow.pid, "draining", 1)]
    client.close()
    upgrades.wait_said(bitflow, upgrades.BACK)
    wait_for(lambda: [(one["pid"], one["state"], one["live"]) for one in processes(control)] == [
        (bitflow.pid, "serving", 0), (stand_in, "draining", 1)], lambda: processes(control))
    meanwhile.close()
    upgrades.wait_back(bitflow)
    assert [one["pid"] for one in processes(control)] == [bitflow.pid]


def test_over_tcp_there_is_none_and_the_log_says_so(env):
    bitflow, successor, control, _ = upgraded(env, address=env.address())
    upgrades.wait_said(bitflow, "this process cannot be asked while it drains, its control socket is a TCP one")
    assert [one["pid"] for one in processes(control)] == [successor.pid]
    done = control.command("--process", str(bitflow.pid), "connections")
    assert done.returncode == 2 and "beside a control socket that is unix:///path" in done.stderr


def test_beside_an_inherited_socket_there_is_one_too(env):
    entry = front(env)
    control = Control(env.unix("inherited.sock"))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(control.path)
        listening.listen()
        bitflow = env.start(entry, application=control_socket.setting("fd://20"),
                            plan={"descriptors": [(listening.fileno(), 20)]})
        bitflow.wait_control()
        client = env.connect(entry["listener"]["address"])
        sockets.round_trip(client)
        successor = upgrade(env, bitflow)
    wait_for(lambda: len(processes(control)) == 2, "it is there")
    assert [(one["pid"], one["live"]) for one in processes(control)] == [(successor.pid, 0), (bitflow.pid, 1)]
    done = control.command("--process", str(bitflow.pid), "end", "1")
    assert done.returncode == 0 and sockets.receive_to_end(client) == b""


def test_where_it_cannot_be_made_the_drain_goes_on_and_the_log_says_why(env):
    path = f"{env.directory}/{'x' * 200}"[:106]
    bitflow, successor, control, client = upgraded(env, address=f"unix://{path}")
    upgrades.wait_said(bitflow, "this process cannot be asked while it drains")
    (line,) = said(bitflow, "this process cannot be asked while it drains")
    assert line["level"] == "warn" and f"leaves no room for .{bitflow.pid}" in line["because"]
    assert [one["pid"] for one in processes(control)] == [successor.pid]
    done = control.command("--process", str(bitflow.pid), "health")
    assert done.returncode == 2 and "leaves no room" in done.stderr
    sockets.round_trip(client)


def test_nobody_to_be_listed_is_an_error(env):
    done = Control(env.unix("none.sock")).command("processes")
    assert (done.returncode, done.stdout) == (1, "") and "there is no unix://" in done.stderr
