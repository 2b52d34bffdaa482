"""Where the control socket is, who may use it, and how it speaks HTTP."""

import os
import pathlib
import signal
import stat
import subprocess
import sys

import pytest

import compiled
import configs
import control_socket
import needs
import sockets
import waiting
from control_socket import Control, setting
from environment import proxy
from service_managers import ServiceManager
from waiting import pace, wait_for

OTHER_USER = 61001
READ = ["/", "/health", "/ready", "/connections", "/proxies", "/process", "/config"]
ORDERS = [("POST", "/reload"), ("POST", "/drain"), ("POST", "/reopen-logs"), ("DELETE", "/connections/1"),
          ("POST", "/connections/1/end")]


def front(env):
    return proxy(env.address(), env.echo().address)


def mode_of(path):
    status = os.lstat(path)
    assert stat.S_ISSOCK(status.st_mode)
    return stat.S_IMODE(status.st_mode)


def test_the_file_is_its_owners_alone_unless_a_mode_is_given(env):
    before = os.umask(0)
    try:
        _, control = control_socket.start(env, front(env))
        _, shared = control_socket.start(env, front(env), address=env.unix("shared.sock"), keys={"mode": "0660"})
    finally:
        os.umask(before)
    assert (mode_of(control.path), mode_of(shared.path)) == (0o600, 0o660)
    for each in (control, shared):
        assert each.json("/health") == {"status": "healthy"}


def test_another_user_has_no_control(env):
    needs.ANOTHER_USER.need()
    _, control = control_socket.start(env, front(env))
    code = ("import socket, sys\ntry:\n    socket.socket(socket.AF_UNIX).connect(sys.argv[1])\n"
            "except PermissionError:\n    print('refused')\n")
    done = subprocess.run([sys.executable, "-c", code, control.path], capture_output=True, text=True, user=OTHER_USER,
                          group=OTHER_USER, extra_groups=[], cwd="/", timeout=30 * pace())
    assert done.stdout == "refused\n", done


def test_a_reload_switches_it_on_elsewhere_and_off(env):
    entry = front(env)
    one, two = Control(env.unix("one.sock")), Control(env.unix("two.sock"))
    bitflow = env.start(entry)
    names = bitflow.thread_names()
    assert "control" not in names
    for now, other in ((one, two), (two, one)):
        env.config(entry, application=setting(now.address))
        bitflow.reload()
        assert now.json("/ready") == {"status": "ready"}
        assert "control" in bitflow.thread_names()
        assert not os.path.exists(other.path)
    env.config(entry, application=setting(two.address, mode="0666"))
    bitflow.reload()
    assert mode_of(two.path) == 0o666
    env.config(entry)
    bitflow.reload()
    assert not os.path.exists(one.path) and not os.path.exists(two.path)
    assert sum("control socket is closed" in line["msg"] for line in bitflow.log_lines()) == 1


def test_whoever_asked_for_the_reload_that_moves_it_is_answered(env):
    entry = front(env)
    _, control = control_socket.start(env, entry)
    env.config(entry, application=setting(env.unix("moved.sock")))
    assert control.json("/reload", method="POST")["status"] == "reloaded"
    assert Control(env.unix("moved.sock")).json("/health") == {"status": "healthy"}
    assert not os.path.exists(control.path)


def test_a_reload_that_fails_leaves_it_as_it_was(env):
    entry, taken = front(env), env.listen()
    bitflow, control = control_socket.start(env, entry)
    # The control socket's new address is taken; then its mode could be changed, and the listener's address is taken.
    env.config(entry, application=setting(taken.address))
    answer = control.json("/reload", method="POST", status=422)
    assert "application.control: cannot listen on" in answer["error"], answer
    env.config(proxy(taken.address, entry["targets"][0]["address"]), application=setting(control.address, mode="0666"))
    assert "proxy front: cannot listen on" in control.json("/reload", method="POST", status=422)["error"]
    assert mode_of(control.path) == 0o600
    env.config(proxy(taken.address, entry["targets"][0]["address"]), application=setting(env.unix("new.sock")))
    control.json("/reload", method="POST", status=422)
    assert not os.path.exists(env.unix("new.sock").removeprefix("unix://"))
    assert control.json("/ready") == {"status": "ready"}
    assert bitflow.is_running()


def test_a_start_that_cannot_open_it_fails_and_names_the_key(env):
    taken = env.listen()
    text = env.fails_to_start(env.config(front(env), application=setting(taken.address)))
    assert "application.control: cannot listen on" in text, text


def test_a_file_that_somebody_removed_is_made_again_by_a_reload(env):
    bitflow, control = control_socket.start(env, front(env))
    os.unlink(control.path)
    bitflow.reload()
    assert control.json("/health") == {"status": "healthy"}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_over_tcp_everything_can_be_read_and_nothing_ordered(env, host):
    bitflow, control = control_socket.start(env, front(env), address=env.address(host))
    for path in READ:
        control.json(path)
    for method, path in ORDERS:
        answer = control.json(path, method=method, status=403)
        assert "over TCP everything can be read and nothing ordered" in answer["error"]
    assert bitflow.is_running() and control.json("/ready") == {"status": "ready"}


def test_an_inherited_unix_socket_gives_control(env):
    path = env.directory / "inherited.sock"
    with sockets.socket.socket(sockets.socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        plan = {"descriptors": [(listening.fileno(), 20)]}
        bitflow = env.start(front(env), application=setting("fd://20"), plan=plan)
        bitflow.wait_control()
        control = Control(f"unix://{path}")
        assert control.json("/reload", method="POST")["status"] == "reloaded"
        assert bitflow.log_lines()


@pytest.mark.parametrize("path", [*(path for path in READ if path != "/process"), "/nowhere"])  # which has times
def test_head_has_the_head_of_get(env, path):
    _, control = control_socket.start(env, front(env))
    status, headers, body = control.ask(path)
    head_status, head, nothing = control.ask(path, method="HEAD")
    for each in (headers, head):
        each.pop("date")
    assert (head_status, head, nothing) == (status, headers, "")
    assert len(body) == int(headers["content-length"]) > 0
    assert (headers["content-type"], headers["cache-control"]) == ("application/json", "no-store")


def test_an_unknown_path_is_told_what_there_is(env):
    _, control = control_socket.start(env, front(env))
    listed = control.json("/")["paths"]
    assert {"path": "/connections/ID", "methods": "GET, HEAD, DELETE"} in listed
    for path in ("/nowhere", "/health/", "/connections/", "/connections/x", "/connections/1x", "/connections/1/end/x",
                 "/connections/99999999999999999999"):
        assert control.json(path, status=404)["paths"] == listed, path
    for path in [*READ, *(path for _, path in ORDERS)]:
        status, headers, body = control.ask(path, method="PUT")
        assert status == 405 and headers["allow"] in body, (path, body)
    assert control.ask("/reload")[0] == 405
    assert control.ask("/reload")[1]["allow"] == "POST"


def test_what_is_wrong_in_a_query_is_said(env):
    _, control = control_socket.start(env, front(env))
    for query, word in (("limit=0", "limit"), ("limit=1001", "limit"), ("limit=x", "limit"), ("limit", "limit"),
                        ("after=-1", "after"), ("after=1.5", "after")):
        assert control.json(f"/connections?{query}", status=400)["error"].startswith(f"{word} must be a number"), query
    # A slip must not list what nobody has asked for.
    for query in ("prxy=web", "limit=1&limit=2", "proxy=web&proxy=db", "proxy=web&x", "limit%00=1"):
        assert "each once" in control.json(f"/connections?{query}", status=400)["error"], query


def test_a_zero_byte_ends_no_text(env):
    bitflow, control = control_socket.start(env, front(env))
    for path, method, status in (("/health%00x", "GET", 404), ("/reopen-logs%00", "POST", 404),
                                 ("/connections?limit=1%00", "GET", 400)):
        assert "error" in control.json(path, method=method, status=status), path
    assert control.json("/connections?proxy=front%00") == {"live": 0, "count": 0, "next": None, "connections": []}
    assert not [line for line in bitflow.log_lines() if line["msg"].startswith("ordered")]


@pytest.mark.parametrize("target, status", [("http://localhost/ready", 200), ("HTTP://any.example:80/ready", 200),
                                            ("http://localhost", 200), ("http://localhost/nowhere", 404)])
def test_a_request_may_name_the_host_in_its_first_line(env, target, status):
    _, control = control_socket.start(env, front(env))
    assert control.ask("/", "--request-target", target)[0] == status


@pytest.mark.parametrize("keys, path, mentions", [
    ("mode: '0600'", "application.control.address", ["required, but missing"]),
    ("address: unix://@name", "application.control.address", ["abstract"]),
    ("{address: 'unix:///tmp/x', mode: '660'}", "application.control.mode", ["four octal digits"]),
    ("{address: 'unix:///tmp/x', user: nobody-at-all}", "application.control.user", ["not a user"]),
    ("{address: '127.0.0.1:9', mode: '0660'}", "application.control.mode", ["unix:///path alone"]),
    ("{address: 'fd://9', group: root}", "application.control.group", ["unix:///path alone"]),
    ("address: 127.0.0.1:8080", "application.control.address", ["server.proxies[0] already listens there"]),
    ("adress: 127.0.0.1:9", "application.control.adress", ["did you mean address?"]),
])
def test_what_is_wrong_with_its_keys_is_refused(env, keys, path, mentions):
    text = configs.with_line("top", f"application: {{control: {keys if keys.startswith('{') else '{' + keys + '}'}}}")
    configs.rejects(env, text, line=14, path=path, mentions=mentions)


@pytest.mark.parametrize("address, is_warned", [
    ("127.0.0.1:9", False), ("[::1]:9", False), ("localhost:9", False), (":9", True), ("0.0.0.0:9", True),
    ("192.0.2.1:9", True), ("[::]:9", True), ("control.example:9", True), ("fd://9", False),
    ("unix:///tmp/control.sock", False), ("unix:///nowhere/at/all.sock", "directory"), (":8080", "overlaps"),
])
def test_an_address_that_others_reach_is_warned_of(env, address, is_warned):
    text = configs.with_line("top", f"application: {{control: {{address: '{address}'}}}}")
    if not is_warned:
        configs.accepts(env, text)
        return
    status, _, stderr = configs.check(env, text)
    word = is_warned if isinstance(is_warned, str) else "can be read by whoever can connect"
    assert status == 0 and f"14:34: warning: application.control.address: " in stderr and word in stderr, stderr


def test_whoever_can_ask_is_told_that_it_is_ready(env):
    """Even before the service manager is told so: after an upgrade it is the old process's socket."""
    if waiting.SANITIZED:
        pytest.skip("a sanitizer's library has to be loaded first")
    manager, release = ServiceManager(env), env.directory / "release"
    bitflow, control = control_socket.start(
        env, front(env), environment={**manager.environment(), "SEND_AFTER": str(release),
                                      "LD_PRELOAD": str(compiled.shared_object("held_sendto", env.directory))})
    assert control.json("/ready") == {"status": "ready"}
    assert control.json("/process")["state"] == "serving"
    assert not manager.phases()
    release.touch()
    manager.wait_ready(bitflow)


def test_it_is_there_until_the_end_and_gone_after_it(env):
    client_entry = front(env)
    bitflow, control = control_socket.start(env, client_entry, server={"drain_timeout": "20s"})
    client = env.connect(client_entry["listener"]["address"])
    sockets.round_trip(client)
    bitflow.signal(signal.SIGTERM)
    wait_for(lambda: control.ask("/ready")[0] == 503, "it is not ready")
    assert "drains" in control.json("/ready", status=503)["error"]
    assert control.json("/health") == {"status": "draining"}
    assert len(control.connections()) == 1
    sockets.round_trip(client)
    client.close()
    assert bitflow.wait_ended() == 0
    assert not pathlib.Path(control.path).exists()
