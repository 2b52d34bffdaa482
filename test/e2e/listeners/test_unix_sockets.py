"""Unix socket listeners and their files."""

import os
import socket
import stat

import sockets
from environment import proxy


def start_fails(env, *proxies):
    bitflow = env.launch(env.config(*proxies, name="second.yaml"))
    bitflow.expected_status = 1
    assert bitflow.wait_ended() == 1
    return bitflow.stderr()


def test_the_socket_file_is_there_until_the_end(env):
    echo, file = env.echo(), env.directory / "front.sock"
    bitflow = env.start(proxy(env.unix(), echo.address))
    assert stat.S_ISSOCK(file.stat().st_mode)
    sockets.round_trip(env.connect(env.unix()))
    env.stack.close()
    bitflow.stop()
    assert not file.exists()


def test_stale_file_is_replaced(env):
    echo, file = env.echo(), env.directory / "front.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(file))
    stale.listen()
    stale.close()
    assert file.exists()
    env.start(proxy(env.unix(), echo.address))
    sockets.round_trip(env.connect(env.unix()))


def test_file_of_a_killed_bitflow_is_replaced(env):
    echo = env.echo()
    first = env.start(proxy(env.unix(), echo.address))
    first.kill()
    first.expected_status = -9
    assert (env.directory / "front.sock").exists()
    env.start(proxy(env.unix(), echo.address))
    sockets.round_trip(env.connect(env.unix()))


def test_live_socket_is_not_replaced(env):
    echo = env.echo()
    env.start(proxy(env.unix(), echo.address))
    assert env.unix()[len("unix://") :] in start_fails(env, proxy(env.unix(), echo.address, name="second"))
    sockets.round_trip(env.connect(env.unix()))


def test_live_socket_with_a_full_queue_is_not_replaced(env):
    """EAGAIN from connect() means that somebody listens."""
    listener = env.listen(env.unix(), backlog=0)
    listener.fill_queue()
    start_fails(env, proxy(env.unix(), env.address()))
    listener.drain_queue()
    env.connect(env.unix())
    listener.accept()


def test_other_files_are_not_replaced(env):
    file = env.directory / "front.sock"
    for content in (b"", b"precious"):
        file.write_bytes(content)
        start_fails(env, proxy(env.unix(), env.address()))
        assert file.read_bytes() == content
    file.unlink()
    file.mkdir()
    start_fails(env, proxy(env.unix(), env.address()))
    assert file.is_dir()
    file.rmdir()
    file.symlink_to(env.directory / "elsewhere")
    (env.directory / "elsewhere").write_text("precious")
    start_fails(env, proxy(env.unix(), env.address()))
    assert (env.directory / "elsewhere").read_text() == "precious"


def test_datagram_socket_is_not_replaced(env):
    """A live socket of another type answers connect() with EPROTOTYPE, not with ECONNREFUSED."""
    other = env.keep(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    other.bind(str(env.directory / "front.sock"))
    start_fails(env, proxy(env.unix(), env.address()))
    sender = env.keep(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    sender.sendto(b"still mine", str(env.directory / "front.sock"))
    assert other.recv(100) == b"still mine"


def test_a_missing_directory_fails_the_start_and_is_named(env):
    assert "nowhere" in start_fails(env, proxy(env.unix("nowhere/front.sock"), env.address()))


def test_abstract_sockets_serve_and_make_no_files(env):
    echo = env.echo(env.abstract("back"))
    env.start(proxy(env.abstract(), echo.address))
    sockets.round_trip(env.connect(env.abstract()))
    assert "front" in start_fails(env, proxy(env.abstract(), echo.address, name="second"))
    assert not [name for name in os.listdir(env.directory) if name.endswith(".sock")]


def test_a_path_of_107_bytes_is_taken_and_a_longer_one_is_refused(env):
    """A socket address has room for no more."""
    echo = env.echo()
    room = 107 - len(str(env.directory)) - 1
    env.start(proxy(env.unix("x" * room), echo.address))
    sockets.round_trip(env.connect(env.unix("x" * room)))
    bitflow = env.launch(env.config(proxy(env.unix("y" * (room + 1)), echo.address), name="long.yaml"))
    bitflow.expected_status = 2
    assert bitflow.wait_ended() == 2


def test_failed_start_leaves_no_file(env):
    """The first proxy is already bound when the second one fails."""
    taken = env.listen()
    text = start_fails(
        env, proxy(env.unix(), env.address(), name="one"), proxy(taken.address, env.address(), name="two")
    )
    assert taken.address in text
    assert not (env.directory / "front.sock").exists()


def test_many_clients_at_once_are_served_and_leave_nothing_behind(env):
    echo = env.echo(env.unix("back.sock"))
    bitflow = env.start(proxy(env.unix(), echo.address))
    clients = [env.connect(env.unix()) for _ in range(200)]
    for client in clients:
        sockets.round_trip(client)
    for client in clients:
        client.close()
    bitflow.wait_records(200)
    bitflow.assert_quiet()


def test_removed_file_is_made_anew_by_a_reload(env):
    """Live connections and other proxies notice nothing."""
    echo, address, file = env.echo(), env.address(), env.directory / "front.sock"
    bitflow = env.start(
        proxy(env.unix(), echo.address, name="by-unix"), proxy(address, echo.address, name="by-tcp")
    )
    live = [env.connect(env.unix()), env.connect(address)]
    for client in live:
        sockets.round_trip(client)
    file.unlink()
    bitflow.reload()  # not only until the file exists: it does from bind() on, before listen()
    assert stat.S_ISSOCK(file.stat().st_mode)
    for client in [*live, env.connect(env.unix()), env.connect(address)]:
        sockets.round_trip(client)
    assert bitflow.records() == []
    env.stack.close()
    bitflow.stop()
    assert not file.exists()
