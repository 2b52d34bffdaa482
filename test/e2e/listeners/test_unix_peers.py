"""authorized_peers: which users and groups may connect to a Unix listener, as the kernel knows them. Other users are
real ones, where the tests may become them."""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile

import pytest

import configs
import control_socket
import needs
import sockets
from bitflow_process import run
from environment import proxy
from launches import numbered
from waiting import pace, wait_for

USER, GROUP, OTHER = 61001, 61002, 61009
CLIENT = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.settimeout(float(sys.argv[2]))
client.connect(sys.argv[1])
try:
    client.sendall(b"hi")
    print(client.recv(2).decode())
except (BrokenPipeError, ConnectionResetError):
    pass
"""


@pytest.fixture
def file():
    """A socket's path that other users may reach."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="bitflow-peers-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory / "s"
    shutil.rmtree(directory)


def comes_in(file, user=USER, group=USER, groups=()):
    needs.ANOTHER_USER.need()
    done = subprocess.run([sys.executable, "-c", CLIENT, str(file), str(20 * pace())], capture_output=True, text=True,
                          user=user, group=group, extra_groups=list(groups), cwd="/", timeout=60 * pace())
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() == "hi"


def entry(file, target, *peers, **keys):
    return proxy(f"unix://{file}", target, listener={"unix_mode": "0666", "authorized_peers": list(peers), **keys})


@pytest.mark.parametrize("peers, who, is_welcome", [
    ([f"uid:{USER}"], {}, True), ([f"uid:{OTHER}"], {}, False), (["uid:0", f"user:{USER}"], {}, True),
    (["user:nobody"], {"user": 65534}, True), (["user:nobody"], {}, False),
    ([f"gid:{GROUP}"], {"group": GROUP}, True), ([f"gid:{GROUP}"], {}, False),
    (["group:nogroup"], {"group": 65534}, True), ([f"gid:{USER}"], {"user": USER, "group": OTHER}, False),
    ([f"gid:{GROUP}"], {"groups": [OTHER, GROUP]}, True), ([f"uid:{GROUP}"], {"groups": [GROUP]}, False),
    ([f"gid:{GROUP}"], {"groups": [*range(70000, 71000), GROUP]}, True),
    ([f"gid:{GROUP}"], {"groups": range(70000, 71000)}, False),
])  # fmt: skip
def test_users_and_groups_decide(env, file, peers, who, is_welcome):
    bitflow = env.start(entry(file, env.echo().address, *peers))
    assert comes_in(file, **who) == is_welcome
    (record,) = bitflow.wait_records(1)
    assert record["client_identity"] == f"uid:{who.get('user', USER)}"
    if is_welcome:
        assert record["reason"] == "completed"
    else:
        assert (record["event"], record["reason"], record["ended_by"]) == ("rejected", "peer_not_authorized", "proxy")
        assert record["error"] == f"the client is uid:{USER} with gid:{who.get('group', USER)}"


def test_a_silent_stranger_is_turned_away_at_once(env, file):
    """Nothing is waited for, or read."""
    target = env.listen()
    bitflow = env.start(entry(file, target.address, f"uid:{os.geteuid() + 1}"))
    sockets.was_rejected(env.connect(f"unix://{file}"))
    assert bitflow.wait_records(1)[0]["bytes_from_client"] == 0 and not target.has_pending()


def test_abstract_sockets_can_be_kept_from_others(env):
    """They have no file whose mode would do it."""
    echo, mine, others = env.echo().address, env.abstract("mine"), env.abstract("others")
    env.start(
        proxy(mine, echo, name="mine", listener={"authorized_peers": [f"uid:{os.geteuid()}"]}),
        proxy(others, echo, name="others", listener={"authorized_peers": [f"uid:{os.geteuid() + 1}"]}),
    )
    sockets.round_trip(env.connect(mine))
    sockets.was_rejected(env.connect(others))


def test_inherited_sockets_are_guarded_where_they_are_unix(env):
    inherited = env.listen(env.unix("inherited.sock"))
    listener = {"authorized_peers": [f"uid:{os.geteuid() + 1}"]}
    guarded = proxy("fd://3", env.echo().address, listener=listener)
    env.start(guarded, plan=numbered((inherited.socket, 3)), name="a.yaml")
    sockets.was_rejected(env.connect(inherited.address))
    plain = env.listen()
    config = env.config(proxy("fd://3", plain.address, listener=listener), name="b.yaml")
    done = run("--config", config, plan=numbered((plain.socket, 3)))
    assert done.returncode == 1 and "fd://3 is no Unix socket" in done.stderr and "authorized_peers" in done.stderr


def test_a_reload_changes_who_may_come(env, file):
    echo, mine = env.echo().address, f"uid:{os.geteuid()}"
    bitflow, control = control_socket.start(env, entry(file, echo, mine, f"gid:{GROUP}"))
    before = env.connect(f"unix://{file}")
    sockets.round_trip(before)
    (seen,) = wait_for(control.connections, "the connection is told")
    assert seen["client_identity"] == mine
    env.config(entry(file, echo, f"uid:{os.geteuid() + 1}"), application=control_socket.setting(control.address))
    bitflow.reload()
    sockets.was_rejected(env.connect(f"unix://{file}"))
    sockets.round_trip(before)


@pytest.mark.parametrize("value, words", [
    ("[uid:root]", "a name goes behind user:"), ("[gid:x]", "a name goes behind group:"), ("['uid:']", "no number"),
    ("[uid:-1]", "no number"), ("[uid:4294967295]", "not a user"), ("[user:no-such-user-here]", "not a user"),
    ("[group:no-such-group-here]", "not a group"), ("[root]", "does not begin with"), ("[1000]", "does not begin with"),
    ("[]", "at least one item"), ("", "no value"), ("uid:0", "must be a list"),
])  # fmt: skip
def test_peers_that_mean_nothing_are_refused_at_their_place(env, value, words):
    text = configs.with_line("listener", f"authorized_peers: {value}").replace("127.0.0.1:8080", "unix:///run/s.sock")
    index = "[0]" if value.startswith("[") and value != "[]" else ""
    path = f"server.proxies[0].listener.authorized_peers{index}"
    configs.rejects(env, text, path=path, mentions=[words], count=1, line=6)


def test_it_is_an_error_at_a_tcp_listener(env):
    text = configs.with_line("listener", "authorized_peers: [uid:0]")
    path = "server.proxies[0].listener.authorized_peers"
    configs.rejects(env, text, path=path, mentions=["Unix sockets alone"], count=1)
    for address in ("unix:///run/s.sock", "unix://@s", "fd://3"):
        configs.accepts(env, text.replace("127.0.0.1:8080", address).replace("[uid:0]", "[user:root, gid:33, uid:0]"))
