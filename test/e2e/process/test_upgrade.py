"""SIGUSR2: a new process takes over the listening sockets and serves, the old one drains; or nothing changes, and the
log says why."""

import contextlib
import os
import pathlib
import signal
import socket

import pytest

import peers
import sockets
import upgrades
from bitflow_process import signal_name
from environment import proxy
from upgrades import Installed, Successor, upgrade, wait_accepts_no_more
from waiting import Stopwatch, holds_for, wait_for

HANGS = "#!/bin/sh\nexec sleep 600\n"


@pytest.fixture(autouse=True)
def reaping():
    with upgrades.reaping():
        yield


def rewritten(env, *proxies, **settings):
    env.config(*proxies, **settings)


def test_the_new_process_serves_and_the_old_one_keeps_its_connections(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    client = env.connect(address)
    sockets.round_trip(client)
    successor = upgrade(env, bitflow)
    assert successor.pid != bitflow.pid
    later = env.connect(address)
    sockets.round_trip(later)
    assert [name for name in successor.thread_names() if "#" in name], "the later client is the new process's"
    wait_for(lambda: upgrades.drains(bitflow), "the old one accepts no more")
    for _ in range(3):
        sockets.round_trip(client)
    client.shutdown(socket.SHUT_WR)
    assert sockets.receive_to_end(client) == b""
    assert bitflow.wait_ended() == 0
    sockets.round_trip(later)
    upgrades.serves(address)


def test_the_configuration_is_read_anew(env):
    address, other = env.address(), env.address()
    one, two = env.serve(peers.greeter("one")), env.serve(peers.greeter("two"))
    bitflow = env.start(proxy(address, one.address), proxy(other, one.address, name="gone"))
    added = env.address()
    rewritten(env, proxy(address, two.address), proxy(added, two.address, name="added"))
    upgrade(env, bitflow)
    assert bitflow.wait_ended() == 0
    assert upgrades.greeting(address) == upgrades.greeting(added) == b"two\n"
    assert sockets.refuses(other), "nobody wants that one any more"


def upgraded_often(env, bitflow, address, times):
    """The process that serves in the end, and a client of each one before it, which drains."""
    clients = []
    for _ in range(times):
        clients.append(env.connect(address))
        sockets.round_trip(clients[-1])
        before, bitflow = bitflow, upgrade(env, bitflow)
        wait_accepts_no_more(before)
    return bitflow, clients


def test_generations_follow_each_other(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    bitflow, clients = upgraded_often(env, bitflow, address, 3)
    for client in clients:
        sockets.round_trip(client)
    assert sum(each.is_running() for each in env.bitflows) == 4
    for client in clients:
        client.close()
    for each in env.bitflows[:-1]:
        assert each.wait_ended() == 0


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_a_rotation_reaches_all_that_drain(env, number):
    """Who rotates knows the process that serves alone."""
    address = env.address()
    bitflow = env.start(proxy(address, env.echo().address))
    bitflow, clients = upgraded_often(env, bitflow, address, 2)
    env.records_path.rename(env.records_path.with_suffix(".1"))
    bitflow.signal(number)
    for each in env.bitflows:
        wait_for(lambda each=each: str(env.records_path) in each.links(), each.links)
    for client in clients:
        client.close()
    assert len(bitflow.wait_records(2)) == 2


def test_a_wrong_configuration_changes_nothing(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    good = bitflow.config.read_text()
    bitflow.config.write_text(good.replace("targets", "tagrets"))
    assert upgrades.fails(bitflow) == "it ended with status 2"
    assert "tagrets" in bitflow.stderr(), "the new program has said what is wrong"
    upgrades.serves(address)
    bitflow.reload("reload failed")
    bitflow.config.write_text(good)
    upgrade(env, bitflow)
    upgrades.serves(address)


def test_an_address_that_is_taken_changes_nothing(env):
    echo, address, taken = env.echo(), env.address(), env.listen()
    bitflow = env.start(proxy(address, echo.address))
    rewritten(env, proxy(address, echo.address), proxy(taken.address, echo.address, name="second"))
    assert upgrades.fails(bitflow) == "it ended with status 1"
    assert "Address already in use" in bitflow.stderr()
    for _ in range(10):
        upgrades.serves(address)
    assert bitflow.is_running() and not upgrades.drains(bitflow)


def test_a_failed_upgrade_leaves_no_settings_on_the_sockets(env):
    """The new process sets up what it takes over, and fails then."""
    echo, address, taken = env.echo(), env.address(), env.listen()
    kept = {"keepalive_interval": "33s"}
    bitflow = env.start(proxy(address, echo.address, listener=kept))
    rewritten(
        env,
        proxy(address, echo.address, listener={"keepalive_interval": "77s"}),
        proxy(taken.address, echo.address, name="second"),
    )
    upgrades.fails(bitflow)
    upgrades.serves(address)
    for sock in bitflow.borrow_sockets():
        with sock:
            if sock.family == socket.AF_INET and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 33


@pytest.mark.parametrize(
    "content, reason",
    [
        ("#!/bin/sh\nexit 3\n", "it ended with status 3"),
        ("#!/bin/sh\nkill -SEGV $$\n", "it was ended by SIGSEGV"),
        ("#!/nowhere\n", "cannot start {path}: No such file or directory"),
        ("no program", "cannot start {path}: Exec format error"),
    ],
    ids=["ends", "dies", "no interpreter", "no program"],
)
def test_a_program_that_does_not_start_changes_nothing(env, monkeypatch, content, reason):
    echo, address, installed = env.echo(), env.address(), Installed(env, monkeypatch)
    bitflow = env.start(proxy(address, echo.address))
    installed.replace(content)
    assert upgrades.fails(bitflow) == reason.format(path=installed.path)
    upgrades.serves(address)
    installed.replace()
    upgrade(env, bitflow)
    upgrades.serves(address)


def test_a_missing_program_changes_nothing(env, monkeypatch):
    echo, address, installed = env.echo(), env.address(), Installed(env, monkeypatch)
    bitflow = env.start(proxy(address, echo.address))
    installed.path.unlink()
    assert upgrades.fails(bitflow) == f"cannot start {installed.path}: No such file or directory"
    upgrades.serves(address)


def test_the_program_that_is_there_now_is_started(env, monkeypatch):
    """Not the deleted file that runs."""
    echo, address, installed = env.echo(), env.address(), Installed(env, monkeypatch)
    bitflow = env.start(proxy(address, echo.address))
    installed.replace()
    assert os.readlink(f"/proc/{bitflow.pid}/exe").endswith(" (deleted)")
    successor = upgrade(env, bitflow)
    assert os.readlink(f"/proc/{successor.pid}/exe") == str(installed.path)
    upgrades.serves(address)


def test_a_program_found_by_path_is_found_again(env, monkeypatch, tmp_path):
    """By a name alone, through a symbolic link that is turned to another version."""
    echo, address, installed = env.echo(), env.address(), Installed(env, monkeypatch)
    link = tmp_path / "bitflow"
    link.symlink_to(installed.path)
    monkeypatch.setenv("PATH", f"relative:{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("BITFLOW", str(env.write('#!/bin/sh\nexec bitflow "$@"\n', "by-name")))
    (env.directory / "by-name").chmod(0o755)
    bitflow = env.start(proxy(address, echo.address))
    second = installed.path.with_name("bitflow-second")
    second.write_bytes(installed.path.read_bytes())
    second.chmod(0o755)
    link.unlink()
    link.symlink_to(second)
    successor = upgrade(env, bitflow)
    assert os.readlink(f"/proc/{successor.pid}/exe") == str(second)


def test_a_second_upgrade_meanwhile_is_refused(env, monkeypatch):
    echo, address, installed = env.echo(), env.address(), Installed(env, monkeypatch)
    bitflow = env.start(proxy(address, echo.address))
    installed.replace(HANGS)
    pid = upgrades.begin(bitflow)
    bitflow.signal(signal.SIGUSR2)
    wait_for(lambda: upgrades.said(bitflow, "upgrade refused"), bitflow.stderr)
    assert upgrades.said(bitflow, "upgrade refused")[0]["because"] == "one is under way"
    upgrades.serves(address)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: upgrades.said(bitflow, upgrades.FAILED), bitflow.stderr)
    installed.replace()
    upgrade(env, bitflow)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=signal_name)
def test_an_end_in_the_middle_ends_both(env, monkeypatch, number):
    echo, address, installed = env.echo(), env.address(), Installed(env, monkeypatch)
    bitflow = env.start(proxy(address, echo.address))
    installed.replace(HANGS)
    pid = upgrades.begin(bitflow)
    watch = Stopwatch()
    bitflow.signal(number)
    assert bitflow.wait_ended() == 0
    watch.between(0, 2, "the end")
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "the new process is gone")
    assert sockets.refuses(address)


def test_a_reload_in_the_middle_is_done_by_the_one_that_serves_then(env, monkeypatch):
    address, installed = env.address(), Installed(env, monkeypatch)
    one, two = env.serve(peers.greeter("one")), env.serve(peers.greeter("two"))
    bitflow = env.start(proxy(address, one.address))
    installed.replace(HANGS)
    pid = upgrades.begin(bitflow)
    rewritten(env, proxy(address, two.address))
    bitflow.signal(signal.SIGHUP)
    bitflow.wait_taken(signal.SIGHUP)
    assert upgrades.greeting(address) == b"one\n"
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: upgrades.said(bitflow, "reloaded"), bitflow.stderr)
    assert upgrades.greeting(address) == b"two\n"


def test_drain_timeout_bounds_the_old_process(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), server={"drain_timeout": "700ms"})
    client = env.connect(address)
    sockets.round_trip(client)
    watch = Stopwatch()
    upgrade(env, bitflow)
    assert sockets.receive_until_broken(client) == (b"", "eof")
    assert bitflow.wait_ended() == 0
    watch.between(0.6, 4, "the drain")
    record = bitflow.records()[0]
    assert (record["reason"], record["ended_by"]) == ("drain", "proxy")
    upgrades.serves(address)


def test_the_first_signal_during_that_drain_does_not_cut_it_short(env):
    """systemd sends all processes of a service SIGTERM. The second one does."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    client = env.connect(address)
    sockets.round_trip(client)
    upgrade(env, bitflow)
    bitflow.signal(signal.SIGTERM)
    bitflow.wait_taken(signal.SIGTERM)
    holds_for(0.3, bitflow.is_running, "the drain goes on")
    sockets.round_trip(client)
    bitflow.signal(signal.SIGTERM)
    assert bitflow.wait_ended() == 0
    assert sockets.receive_until_broken(client) == (b"", "eof")


@pytest.mark.parametrize("value", ["s:3:1", "r:0:1", "i:99:1", "s", "s:x", "s:1:1:1", "s:99999999999:1", "", "-:1:1"])
def test_a_stray_variable_means_nothing(env, value):
    echo, address = env.echo(), env.address()
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    env.keep(theirs)
    ours.send(b"not for bitflow")
    bitflow = env.start(
        proxy(address, echo.address),
        plan={"descriptors": [[theirs.fileno(), 3]]},
        environment={"BITFLOW_UPGRADE": value},
    )
    upgrades.serves(address)
    assert theirs.recv(100) == b"not for bitflow"
    ours.close()
    successor = upgrade(env, bitflow)
    environment = pathlib.Path(f"/proc/{successor.pid}/environ").read_bytes()
    assert b"BITFLOW_UPGRADE=s:" in environment


def test_descriptors_do_not_pile_up(env):
    """The new process has what the old one had, whatever was open there."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), proxy(env.unix(), echo.address, name="by-unix"))
    held = [env.connect(address) for _ in range(20)]
    for client in held:
        sockets.round_trip(client)
    bitflow = upgrade(env, bitflow)
    counts = []
    for _ in range(3):
        before, bitflow = bitflow, upgrade(env, bitflow)
        assert before.wait_ended() == 0
        wait_for(lambda: bitflow.descriptors()["socket"] == 2, lambda: str(bitflow.links()))
        counts.append(len(bitflow.links()))
    assert counts[0] == counts[1] == counts[2], counts


class Receiver:
    """A statsd server that tells senders apart."""

    def __init__(self, env):
        self.socket = env.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.address = sockets.local_name(self.socket)
        self.lines = []  # (sender, name, value)

    def read(self):
        with contextlib.suppress(BlockingIOError):
            while True:
                text, sender = self.socket.recvfrom(65536)
                self.lines += [(sender, *line.split(":", 1)) for line in text.decode().splitlines() if line]
        return self.lines

    def total(self, name):
        return sum(int(value[:-2]) for _, told, value in self.read() if told == name and value.endswith("|c"))


def test_an_old_process_reports_its_last_counters_and_no_gauges(env):
    """Nothing that it has counted is lost with it; what there is of it is not taken for what the new one has."""
    receiver, echo, address = Receiver(env), env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), application={"metrics": {"address": receiver.address}})
    held = env.connect(address)
    sockets.round_trip(held)
    active, closed = "proxy.front.connections.active", "proxy.front.connections.closed.completed"
    wait_for(lambda: [line for line in receiver.read() if line[1] == active], "a report")
    (old,) = {line[0] for line in receiver.lines}
    upgrade(env, bitflow)
    wait_for(lambda: [line for line in receiver.read() if line[0] != old and line[1] == active], "the new one's")
    before = len(receiver.lines)
    for _ in range(5):
        upgrades.serves(address)
    held.close()
    assert bitflow.wait_ended() == 0
    wait_for(lambda: receiver.total(closed) == 6, lambda: str(receiver.lines[before:]))
    assert receiver.total("proxy.front.connections.accepted") == 6
    last = [line for line in receiver.lines[before:] if line[0] == old]
    assert (old, closed, "1|c") in last
    assert not [line for line in last if line[2].endswith("|g")]


def test_the_old_process_is_known_to_the_new_one(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    upgrade(env, bitflow)
    upgrades.wait_said(bitflow, upgrades.BACK)
    assert upgrades.said(bitflow, upgrades.BACK)[0]["from_process"] == str(bitflow.pid)


def test_it_is_the_successor_that_the_test_sees(env):
    """The helper's own check: the exit status of an adopted process is seen."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    successor = upgrade(env, bitflow)
    assert isinstance(successor, Successor) and bitflow.wait_ended() == 0
    successor.signal(signal.SIGKILL)
    assert successor.wait_ended() == -signal.SIGKILL
    successor.expected_status = -signal.SIGKILL
