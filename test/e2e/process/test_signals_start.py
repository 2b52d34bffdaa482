"""Signals during the start and during a reload, from the first moment on; and those that ask for new logs, for the end,
or for nothing at all."""

import contextlib
import itertools
import os
import re
import signal
import sys
import threading
import time

import pytest

import bitflow_process
import hosts
import sockets
import waiting
from bitflow_process import signal_name
from environment import proxy
from launches import behind, traced
from sentry_peers import HANG, Scripted
from waiting import Stopwatch, holds_for, scale, wait_for

ENDING = [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]
ORDERS = [signal.SIGHUP, signal.SIGUSR1]
TAKEN = [*ENDING, *ORDERS, signal.SIGUSR2]
STRAY = [
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGIO,
    signal.SIGSTKFLT,
    signal.SIGPWR,
    signal.SIGTTOU,
    signal.SIGXFSZ,
    signal.SIGRTMIN,  # which bitflow's threads send each other: from outside it tells nothing
    signal.SIGRTMIN + 3,
    signal.SIGRTMAX,
]


SAID = {signal.SIGHUP: "msg=reloaded", signal.SIGUSR1: 'msg="connection logs re-opened"'}


def each_signal(*numbers, name="number"):
    return pytest.mark.parametrize(name, numbers, ids=signal_name)


def wait_obeyed(bitflow, order):
    wait_for(lambda: SAID[order] in bitflow.stderr(), bitflow.stderr)


def mask(bitflow, kind):
    """The numbers of the signals in a line of /proc/PID/status."""
    with open(f"/proc/{bitflow.pid}/status") as stream:
        value = next(int(line.split()[1], 16) for line in stream if line.startswith(kind + ":"))
    return {number for number in range(1, 65) if value >> (number - 1) & 1}


def reading(bitflow, pipe):
    """Whether it has that file open."""
    return str(pipe) in bitflow.links()


def messages(bitflow):
    """The application log's, but for those of connections."""
    return [line["msg"] for line in bitflow.log_lines() if line["msg"] != "both sides finished"]


def on_a_silent_pipe(env):
    """bitflow, started with a configuration that nobody writes; and the pipe."""
    pipe = env.directory / "pipe.yaml"
    os.mkfifo(pipe)
    bitflow = env.launch(pipe)
    wait_for(lambda: reading(bitflow, pipe), "it waits for its configuration")
    return bitflow, pipe


@each_signal(*ENDING)
def test_an_end_is_obeyed_while_the_configuration_is_awaited(env, number):
    bitflow, _ = on_a_silent_pipe(env)
    watch = Stopwatch()
    bitflow.signal(number)
    assert bitflow.wait_ended() == 0
    watch.between(0, 1, "the end")
    assert bitflow.stderr() == f"bitflow: ended by {signal.Signals(number).name} before it had started\n"


@each_signal(*ORDERS, *STRAY)
def test_no_other_signal_ends_it_while_the_configuration_is_awaited(env, number):
    listener, address = env.listen(), env.address()
    text = env.config(proxy(address, listener.address)).read_bytes()
    bitflow, pipe = on_a_silent_pipe(env)
    bitflow.signal(number)
    pipe.write_bytes(text)
    bitflow.wait_listening(["front"])
    env.pair(address, listener)


MOMENTS = {
    "its configuration is opened": ("openat", "{config}"),
    "the connection log is opened": ("openat", "{records}"),
    "the listener is bound": ("bind", None),
    "it listens": ("listen", None),
}


@each_signal(signal.SIGTERM, *ORDERS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_within_a_system_call_of_the_start_is_obeyed(env, monkeypatch, moment, number):
    """strace sends it."""
    config = env.config(proxy(env.unix(), env.echo().address))
    call, path = MOMENTS[moment]
    of_path = ["-P", path.format(config=config, records=env.records_path)] if path else []
    inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal={number.name}:when=1", *of_path]
    with traced(env, monkeypatch, *inject, "-o", env.directory / "trace.txt"):
        bitflow = env.launch(config)
    if number in ENDING:
        assert bitflow.wait_ended() == 0
        assert not (env.directory / "front.sock").exists()
        return
    wait_obeyed(bitflow, number)
    sockets.round_trip(env.connect(env.unix()))


BLOCKED = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_it_obeys_signals_that_its_parent_has_blocked(env, monkeypatch):
    config = env.config(proxy(env.address(), env.echo().address))
    with behind(env, monkeypatch, sys.executable, "-c", BLOCKED):
        bitflow = env.launch(config)
    bitflow.wait_listening(["front"])
    bitflow.signal(signal.SIGHUP)
    wait_obeyed(bitflow, signal.SIGHUP)
    bitflow.signal(signal.SIGTERM)
    assert bitflow.wait_ended() == 0


def test_a_hangup_during_the_start_is_a_reload_after_it(env):
    """The file may have changed after it was read."""
    one, two, echo = env.address(), env.address(), env.echo()
    second = env.config(proxy(one, echo.address), proxy(two, echo.address, name="later")).read_bytes()
    first = env.config(proxy(one, echo.address)).read_bytes()
    bitflow, pipe = on_a_silent_pipe(env)
    for _ in range(3):
        bitflow.signal(signal.SIGHUP)  # signals of a kind are one
    pipe.write_bytes(first)
    bitflow.wait_listening(["front"])
    threading.Thread(target=pipe.write_bytes, args=[second], daemon=True).start()
    bitflow.wait_listening(["front", "later"])
    sockets.round_trip(env.connect(two))
    holds_for(0.2, lambda: bitflow.stderr().count("msg=reloaded") == 1, "one reload")
    assert bitflow.is_running()


def test_signals_are_blocked_before_anything_is_read(env):
    bitflow, _ = on_a_silent_pipe(env)
    assert set(TAKEN + [signal.SIGRTMIN]) == mask(bitflow, "SigBlk")
    assert set(STRAY) - {signal.SIGRTMIN} <= mask(bitflow, "SigIgn")
    bitflow.signal(signal.SIGTERM)


@each_signal(*ORDERS)
def test_an_order_is_not_lost_however_early_it_comes(env, number):
    """Nor does it kill. The test blocks it, since bitflow cannot while the system loads it."""
    listener, address = env.listen(), env.address()
    config = env.config(proxy(address, listener.address))
    for milliseconds in range(0, 31, 30 // scale(30)):
        signal.pthread_sigmask(signal.SIG_BLOCK, [number])
        try:
            bitflow = env.launch(config)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        watch = Stopwatch()
        while watch.seconds < milliseconds / 1000:
            pass
        bitflow.signal(number)
        wait_obeyed(bitflow, number)
        bitflow.stop()


def has_signals(bitflow):
    """Whether they are blocked, or waited for, which the kernel shows as not blocked."""
    return signal.SIGTERM in mask(bitflow, "SigBlk") or "listening" in bitflow.stderr()


def test_an_end_at_any_moment_of_the_start_is_clean(env):
    """From the moment that bitflow itself has the signal: status 0, and no socket's file is left."""
    config = env.config(proxy(env.unix(), env.echo().address))
    for milliseconds in range(0, 31, 30 // scale(30)):
        bitflow = env.launch(config)
        wait_for(lambda bitflow=bitflow: has_signals(bitflow), "it is bitflow that has the signal")
        time.sleep(milliseconds / 1000)  # a moment of the start, not a condition
        bitflow.signal(signal.SIGTERM)
        assert bitflow.wait_ended() == 0
        assert not (env.directory / "front.sock").exists()


server_numbers = itertools.count(40)


@pytest.fixture
def unresolved(env):
    """A name that no server answers for, the plan under which that is so, and the server that is asked."""
    server = env.enter(hosts.SilentNameServer(hosts.own_address(next(server_numbers))))
    return "silent.test:0", hosts.plan(env, [], server.address, "timeout:9 attempts:2"), server


@each_signal(*ENDING)
def test_an_end_is_obeyed_while_a_listeners_name_is_looked_up(env, unresolved, number):
    name, plan, server = unresolved
    target = env.refusing()
    # The first one is opened before that, and must be closed again.
    config = env.config(proxy(env.unix(), target, name="first"), proxy(name, target, name="second"))
    bitflow = env.launch(config, plan)
    wait_for(lambda: server.questions > 0, "the name is asked for")
    watch = Stopwatch()
    bitflow.signal(number)
    assert bitflow.wait_ended() == 0
    watch.between(0, 1.5, "the end")
    assert [line["msg"] for line in bitflow.log_lines()] == ["shutting down"]
    assert not (env.directory / "front.sock").exists()


@pytest.mark.parametrize("awaited", ["pipe", "name"])
def test_an_end_gives_up_the_reload_that_is_under_way(env, unresolved, awaited):
    """Which is not an error; then the end is like any other."""
    name, plan, server = unresolved
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), plan=plan)
    client = env.connect(address)
    sockets.round_trip(client)
    path = env.directory / "config.yaml"
    if awaited == "pipe":
        path.unlink()
        os.mkfifo(path)
    else:
        env.config(proxy(address, echo.address), proxy(name, echo.address, name="second"))
    bitflow.signal(signal.SIGHUP)
    if awaited == "pipe":
        wait_for(lambda: reading(bitflow, path), "it waits for its configuration")
    else:
        wait_for(lambda: server.questions > 0, "the name is asked for")
    watch = Stopwatch()
    bitflow.signal(signal.SIGTERM)
    wait_for(lambda: 'msg="shutting down"' in bitflow.stderr(), lambda: bitflow.stderr())
    watch.between(0, 1, "until the end begins")
    sockets.round_trip(client)
    client.close()
    assert bitflow.wait_ended() == 0
    assert messages(bitflow)[1:] == ["reload given up, the process is told to end", "shutting down", "ended"]


@each_signal(*ENDING, signal.SIGHUP)
def test_a_signal_ends_a_check_by_itself(env, number):
    """Not by an exit status, so that a shell's && stops."""
    pipe = env.directory / "pipe.yaml"
    os.mkfifo(pipe)
    done = threading.Event()
    statuses = []

    def check():
        with contextlib.suppress(AssertionError):
            statuses.append(bitflow_process.run("--check", "--config", pipe, plan={"limits": {"CORE": 0}}).returncode)
        done.set()

    before = children()
    threading.Thread(target=check, daemon=True).start()

    def waiting_check():
        for pid in children() - before:
            with contextlib.suppress(OSError):
                if str(pipe) in {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}:
                    return pid
        return None

    pid = wait_for(waiting_check, "the check waits for its configuration")
    watch = Stopwatch()
    os.kill(pid, number)
    assert done.wait(5 * waiting.pace())
    watch.between(0, 1, "the end")
    assert statuses == [-number]


def children():
    found = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/children") as stream:
            found |= set(map(int, stream.read().split()))
    return found


@each_signal(*STRAY, signal.SIGPIPE, signal.SIGWINCH, signal.SIGCHLD)
def test_a_stray_signal_means_nothing(env, number):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    client = env.connect(address)
    for _ in range(5):
        bitflow.signal(number)
        sockets.round_trip(client)
    sockets.round_trip(env.connect(address))


def test_usr1_opens_the_logs_anew_and_nothing_else(env):
    """The configuration, wrong by now, is not read."""
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address))
    rotated = env.directory / "connections.jsonl.1"

    def serve():
        client, target = env.pair(address, listener)
        client.sendall(b"hello")
        assert target.recv(5) == b"hello"
        target.close()
        client.close()

    serve()
    bitflow.wait_records(1)
    env.records_path.rename(rotated)
    serve()
    wait_for(lambda: rotated.read_text().count("\n") == 2, "the moved file is still written")
    env.write("server: [")
    bitflow.signal(signal.SIGUSR1)
    wait_for(lambda: env.records_path.exists(), "the path is opened anew")
    serve()
    wait_for(lambda: env.records_path.read_text().count("\n") == 1, "it is written")
    assert rotated.read_text().count("\n") == 2
    assert messages(bitflow) == ["listening", "connection logs re-opened"]


def test_usr1_with_a_log_that_cannot_be_opened_goes_on_with_the_old_one(env):
    folder, moved = env.directory / "logs", env.directory / "moved"
    folder.mkdir()
    echo, address, path = env.echo(), env.address(), folder / "connections.jsonl"
    bitflow = env.start(proxy(address, echo.address, connection_log=str(path)))
    folder.rename(moved)
    bitflow.signal(signal.SIGUSR1)
    wait_for(lambda: str(path) in bitflow.stderr(), lambda: bitflow.stderr())
    client = env.connect(address)
    sockets.round_trip(client)
    client.close()
    bitflow.wait_records(1, moved / path.name)
    assert "connection logs re-opened" not in bitflow.stderr()


@each_signal(*ORDERS)
def test_logs_are_opened_anew_during_a_drain(env, number):
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address))
    client, target = env.pair(address, listener)
    bitflow.signal(signal.SIGQUIT)
    wait_for(lambda: 'msg="shutting down" signal=QUIT' in bitflow.stderr(), "the drain begins")
    env.records_path.unlink()
    bitflow.signal(number)
    wait_for(lambda: env.records_path.exists(), "the log is opened anew")
    client.sendall(b"still served")
    assert sockets.receive_exactly(target, 12) == b"still served"
    target.close()
    client.close()
    assert bitflow.wait_ended() == 0
    assert env.records_path.read_text().count("\n") == 1


@each_signal(*ENDING, name="first")
def test_each_ending_signal_drains_and_a_quit_ends_the_drain(env, first):
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address), server={"drain_timeout": 0})
    client, _ = env.pair(address, listener)
    bitflow.signal(first)
    wait_for(lambda: "shutting down" in bitflow.stderr(), "the drain begins")
    holds_for(0.3, lambda: bitflow.is_running() and sockets.is_open(client), "the drain lasts")
    bitflow.signal(signal.SIGQUIT)
    assert bitflow.wait_ended() == 0
    assert bitflow.records()[0]["reason"] == "drain"


def test_an_end_is_not_held_up_by_hangups(env):
    """It is taken first, even if there is always another hangup."""
    bitflow = env.start(proxy(env.address(), env.echo().address))
    over = threading.Event()

    def hammer():
        with contextlib.suppress(ProcessLookupError):
            while not over.is_set():
                os.kill(bitflow.pid, signal.SIGHUP)

    hammering = threading.Thread(target=hammer, daemon=True)
    hammering.start()
    try:
        wait_obeyed(bitflow, signal.SIGHUP)
        bitflow.signal(signal.SIGTERM)
        assert bitflow.wait_ended() == 0
    finally:
        over.set()
        hammering.join()


def test_the_crash_reporter_can_be_ended_by_a_signal(env):
    """What bitflow blocks or ignores is not blocked or ignored there."""
    if waiting.SANITIZED:
        pytest.skip("a sanitizer's own handlers are in place")
    with Scripted(lambda number: HANG) as sentry:
        bitflow = env.start(
            proxy(env.address(), env.refusing()),
            application={"sentry_dsn": sentry.dsn},
            plan={"limits": {"CORE": 0}},
        )
        bitflow.signal_thread(bitflow.pid, signal.SIGSEGV)
        pid = bitflow.wait_crash_reporter(bitflow.pid)
        wait_for(lambda: sentry.requests or re.search("could not be reported", bitflow.stderr()), "it reports")
        with open(f"/proc/{pid}/status") as stream:
            lines = dict(line.rstrip("\n").split(":\t", 1) for line in stream)
        assert int(lines["SigBlk"], 16) == 0
        for number in TAKEN:
            assert int(lines["SigIgn"], 16) >> (number - 1) & 1 == 0
        os.kill(pid, signal.SIGTERM)
        bitflow.expected_status = -signal.SIGSEGV
        watch = Stopwatch()
        assert bitflow.wait_ended() == -signal.SIGSEGV
        watch.between(0, 1, "the end")


@each_signal(*ENDING, *ORDERS, name="ignored")
def test_a_signal_that_the_shell_ignores_is_obeyed(env, ignored):
    """nohup and & ignore signals for their programs."""
    listener, address = env.listen(), env.address()
    config = env.config(proxy(address, listener.address))
    before = signal.signal(ignored, signal.SIG_IGN)
    try:
        bitflow = env.launch(config)
    finally:
        signal.signal(ignored, before)
    bitflow.wait_listening(["front"])
    assert ignored not in mask(bitflow, "SigIgn")
    bitflow.signal(ignored)
    if ignored in ENDING:
        assert bitflow.wait_ended() == 0
    else:
        wait_obeyed(bitflow, ignored)
