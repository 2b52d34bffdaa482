"""Who may connect to a Unix listener: unix_mode, unix_user, unix_group, whatever the umask, from before anyone can
connect, and at a reload. Other users are real ones, where the tests may become them."""

import contextlib
import os
import pathlib
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile

import pytest

import bitflow_process
import compiled
import configs
import needs
import programs
import sockets
import waiting
from environment import proxy
from waiting import pace, wait_for

OTHER_USER, OTHER_GROUP = 61001, 61002
CONNECT = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.settimeout(20)
try:
    client.connect(sys.argv[1])
except PermissionError:
    print("refused")
else:
    client.sendall(b"hi")
    print(client.recv(2).decode())
"""


@pytest.fixture
def directory():
    """One that other users may enter, unlike a test's own."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="bitflow-access-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@contextlib.contextmanager
def umask(mask):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def access(path):
    """(mode, user, group) of the file."""
    status = path.lstat()
    assert stat.S_ISSOCK(status.st_mode)
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def connects(path, user=OTHER_USER, group=OTHER_USER):
    """Whether another user can."""
    needs.ANOTHER_USER.need()
    done = subprocess.run([sys.executable, "-c", CONNECT, str(path)], capture_output=True, text=True, user=user,
                          group=group, extra_groups=[], cwd="/", timeout=60 * pace())
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() == "hi"


def entry(path, target, **keys):
    return proxy(f"unix://{path}", target, listener=keys)


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
@pytest.mark.parametrize("mode", [None, "0666", "0660", "0600"])
def test_the_mode_is_what_is_asked_for_whatever_the_umask(env, directory, mask, mode):
    file = directory / "s"
    with umask(mask):
        env.start(entry(file, env.echo().address, **({"unix_mode": mode} if mode else {})))
    assert access(file) == (int(mode, 8) if mode else 0o777 & ~mask, os.geteuid(), os.getegid())
    sockets.round_trip(env.connect(f"unix://{file}"))


def test_other_users_connect_where_the_mode_lets_them(env, directory):
    needs.ANOTHER_USER.need()
    echo = env.echo().address
    with umask(0o022):
        env.start(entry(directory / "open", echo, unix_mode="0666"), name="open.yaml")
        env.start(entry(directory / "usual", echo), name="usual.yaml")
        env.start(entry(directory / "group", echo, unix_mode="0660", unix_group=OTHER_GROUP), name="group.yaml")
        env.start(entry(directory / "user", echo, unix_mode="0600", unix_user=OTHER_USER), name="user.yaml")
    assert access(directory / "group") == (0o660, 0, OTHER_GROUP)
    assert access(directory / "user") == (0o600, OTHER_USER, 0)
    assert connects(directory / "open")
    assert not connects(directory / "usual")
    assert connects(directory / "group", group=OTHER_GROUP) and not connects(directory / "group")
    assert connects(directory / "user") and not connects(directory / "user", user=OTHER_USER + 9)


def test_users_and_groups_have_names(env, directory):
    needs.ANOTHER_USER.need()
    file = directory / "s"
    env.start(entry(file, env.echo().address, unix_user="nobody", unix_group="nogroup"))
    assert access(file)[1:] == (65534, 65534)


def test_curl_reaches_it_as_another_user(env, directory):
    """The usual case: a web server's user in front, bitflow behind."""
    needs.ANOTHER_USER.need()
    file, page = directory / "s", b"HTTP/1.0 200 OK\r\n\r\nhello"

    def answer(connection):
        connection.recv(65536)
        connection.sendall(page)

    with umask(0o077):
        env.start(entry(file, env.serve(answer).address, unix_mode="0660", unix_group=OTHER_GROUP))
    command = [programs.find("curl"), "-sS", "--max-time", "60", "--unix-socket", str(file), "http://any/"]
    for group, status in ((OTHER_GROUP, 0), (OTHER_USER, 7)):
        done = subprocess.run(command, capture_output=True, text=True, user=OTHER_USER, group=group, extra_groups=[],
                              cwd="/")
        assert (done.returncode, done.stdout) == (status, "hello" if status == 0 else ""), done.stderr


def test_the_file_is_never_more_open_than_asked_and_nobody_gets_in_before(env, directory):
    """The system calls in their order: the mode is the file's from its beginning, and all is done before listen()."""
    needs.TRACING.need()
    if waiting.SANITIZED:
        pytest.skip("a leak checker cannot work under a tracer")
    file, trace = directory / "s", directory / "trace"
    config = env.config(entry(file, env.address(), unix_mode="0600"))
    command = [programs.find("strace"), "-D", "-f", "-o", str(trace), "-e", "trace=bind,listen,fchmod,chmod,unlink"]
    with umask(0), subprocess.Popen([*command, bitflow_process.binary(), "--config", str(config)]) as process:
        try:
            wait_for(lambda: trace.exists() and "listen(" in trace.read_text(), "it listens", 30)
            calls = re.findall(r"\d+ +(\w+)\(", trace.read_text())
        finally:
            process.terminate()
    assert calls.index("fchmod") < calls.index("bind") < calls.index("listen"), calls
    assert "chmod" not in calls[calls.index("listen"):], calls


def test_a_reload_changes_it_and_closes_nobody(env, directory):
    file, echo = directory / "s", env.echo().address
    bitflow = env.start(entry(file, echo, unix_mode="0666"))
    inode, live = file.stat().st_ino, env.connect(f"unix://{file}")
    sockets.round_trip(live)
    for mode in ("0600", "0660"):
        env.config(entry(file, echo, unix_mode=mode))
        bitflow.reload()
        assert (access(file)[0], file.stat().st_ino) == (int(mode, 8), inode)
    env.config(entry(file, echo))  # a key that is gone leaves it as it is
    bitflow.reload()
    assert access(file)[0] == 0o660
    sockets.round_trip(live)
    sockets.round_trip(env.connect(f"unix://{file}"))


def test_a_reload_that_fails_leaves_it_as_it_was(env, directory):
    """Another proxy's address is taken, which is found out before; or its file is not ours to give away."""
    file, other, echo = directory / "s", directory / "t", env.echo().address
    bitflow = env.start(entry(file, echo, unix_mode="0600"))
    taken = env.listen()
    second = proxy(taken.address, echo, name="second")
    env.config(entry(file, echo, unix_mode="0666"), second)
    bitflow.reload("reload failed")
    assert access(file)[0] == 0o600
    sockets.round_trip(env.connect(f"unix://{file}"))
    needs.ANOTHER_USER.need()
    directory.chmod(0o777)
    env.records_path.touch()
    env.records_path.chmod(0o666)
    both = [entry(directory / "u", echo, unix_mode="0600"), entry(other, echo, unix_mode="0600")]
    both[1]["name"] = "other"
    one = env.start(*both, plan={"uid": OTHER_USER}, name="config.yaml")
    both[0]["listener"]["unix_mode"] = both[1]["listener"]["unix_mode"] = "0666"
    both[1]["listener"]["unix_user"] = 0
    env.config(*both)
    one.reload("reload failed")
    assert [access(directory / name)[0] for name in "ut"] == [0o600, 0o600]
    assert "proxy other: cannot give unix://" in one.stderr()


def test_what_cannot_be_given_fails_the_start_and_leaves_no_file(env, directory):
    needs.ANOTHER_USER.need()
    directory.chmod(0o777)
    env.records_path.touch()
    env.records_path.chmod(0o666)
    file = directory / "s"
    config = env.config(entry(file, env.address(), unix_user=0))
    env.fails_to_start(config, plan={"uid": OTHER_USER})
    assert str(file) in env.bitflows[-1].stderr() and "not permitted" in env.bitflows[-1].stderr()
    assert not file.exists()


REPLACED = {"a live socket": socket.SOCK_STREAM, "a live datagram socket": socket.SOCK_DGRAM, "a file": None}


@pytest.mark.parametrize("kind", REPLACED)
def test_what_takes_its_files_place_at_the_start_is_left_as_it_is(env, directory, kind):
    """Somebody who may write to the directory has it there between bind() and the look at the file."""
    if waiting.SANITIZED:
        pytest.skip("a sanitizer's library has to be loaded first")
    file, other = directory / "s", directory / "other"
    if REPLACED[kind] is None:
        other.write_text("precious")
    else:
        server = env.keep(socket.socket(socket.AF_UNIX, REPLACED[kind]))
        server.bind(str(other))
        if REPLACED[kind] == socket.SOCK_STREAM:
            server.listen()
    other.chmod(0o600)
    library = compiled.shared_object("replacing_bind", directory)
    config = env.config(entry(file, env.address(), unix_mode="0666"))
    environment = {"LD_PRELOAD": str(library), "REPLACE_BY": str(other)}
    bitflow = env.launch(config, environment=environment)
    bitflow.expected_status = 1
    assert bitflow.wait_ended() == 1
    assert f"cannot listen on unix://{file}: its file was replaced" in bitflow.stderr()
    assert stat.S_IMODE(file.lstat().st_mode) == 0o600 and not other.exists()


def test_a_mode_that_keeps_bitflow_itself_out_is_given(env, directory):
    needs.ANOTHER_USER.need()
    directory.chmod(0o777)
    env.records_path.touch()
    env.records_path.chmod(0o666)
    file = directory / "s"
    env.start(entry(file, env.address(), unix_mode="0006"), plan={"uid": OTHER_USER})
    assert access(file)[:2] == (0o006, OTHER_USER)


@pytest.mark.parametrize("address", ["unix://@name", "127.0.0.1:8080", "fd://3"])
@pytest.mark.parametrize("line", ['unix_mode: "0660"', "unix_user: root", "unix_group: 0"])
def test_it_is_an_error_where_there_is_no_file(env, address, line):
    text = configs.with_line("listener", line).replace("127.0.0.1:8080", address)
    path = f"server.proxies[0].listener.{line.split(':')[0]}"
    configs.rejects(env, text, path=path, mentions=["unix:///path alone"], count=1)


@pytest.mark.parametrize("key, value, words", [
    ("unix_mode", "660", "four octal digits"), ("unix_mode", "432", "four octal digits"),
    ("unix_mode", "'0668'", "four octal digits"), ("unix_mode", "'07777'", "four octal digits"),
    ("unix_mode", "u=rw", "four octal digits"), ("unix_mode", "''", "four octal digits"),
    ("unix_mode", "", "no value"), ("unix_user", "", "no value"),
    ("unix_user", "no-such-user-here", "is not a user"), ("unix_group", "no-such-group-here", "is not a group"),
    ("unix_user", "-1", "is not a user"), ("unix_user", "4294967295", "is not a user"),
    ("unix_group", "99999999999", "is not a group"),
])
def test_values_that_mean_nothing_are_refused_at_their_place(env, key, value, words):
    text = configs.with_line("listener", f"{key}: {value}").replace("127.0.0.1:8080", "unix:///run/some.sock")
    configs.rejects(env, text, path=f"server.proxies[0].listener.{key}", mentions=[words], count=1)


def test_values_that_mean_something_are_accepted(env):
    for line in ('unix_mode: "0660"', "unix_mode: 0600", "unix_user: root", "unix_user: 0", "unix_group: 4294967294"):
        text = configs.with_line("listener", line).replace("127.0.0.1:8080", "unix:///run/some.sock")
        configs.accepts(env, text)
