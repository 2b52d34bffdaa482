"""A crash: the trace on stderr, the exit status of the process, and the event that Sentry gets."""

import os
import re
import signal
import socket
import subprocess

import pytest

import bitflow_process
import needs
import programs
import sockets
import waiting
from environment import proxy
from sentry_peers import HANG, Scripted, Spotlight
from waiting import Stopwatch, wait_for

FRAME = re.compile(r"^  #\d+ 0x[0-9a-f]+( \S+\+0x[0-9a-f]+)?$", re.MULTILINE)


@pytest.fixture(autouse=True)
def has_handlers():
    bitflow_process.note_sanitizer()
    if waiting.SANITIZED:
        pytest.skip("a sanitizer's own handlers are in place")


@pytest.fixture(scope="module")
def spotlight():
    with Spotlight() as receiver:
        yield receiver


def start(env, receiver=None, level="info"):
    listener, address = env.listen(), env.address()
    application = {"sentry_dsn": receiver.dsn} if receiver else None
    bitflow = env.start(
        proxy(address, listener.address, name="front"), application=application, level=level,
        plan={"limits": {"CORE": 0}},
    )
    return bitflow, listener, address


def assert_crashed(bitflow, number, thread=None, timeout=10):
    """Waits for the end of the process and asserts that the trace is there."""
    bitflow.expected_status = -number
    assert bitflow.wait_ended(timeout) == -number
    name = signal.Signals(number).name
    headline = re.search(rf"^bitflow \S+ crashed: {name} .*$", bitflow.stderr(), re.MULTILINE)
    assert headline, bitflow.stderr()
    assert headline.group().endswith(f", process {bitflow.pid}")
    assert thread is None or f", thread {thread} (" in headline.group(), headline.group()
    assert len(FRAME.findall(bitflow.stderr())) >= 2, bitflow.stderr()


def functions(event):
    (exception,) = event["exception"]["values"]
    return [frame.get("function") for frame in exception["stacktrace"]["frames"]]


def thread_id(bitflow, name):
    for task in os.listdir(f"/proc/{bitflow.pid}/task"):
        with open(f"/proc/{bitflow.pid}/task/{task}/comm") as stream:
            if stream.read() == name + "\n":
                return int(task)
    raise AssertionError(f"no thread {name}: {bitflow.thread_names()}")


@pytest.mark.parametrize(
    "number",
    [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL],
    ids=lambda number: number.name,
)
def test_a_fatal_signal_is_traced_and_reported_to_sentry(env, spotlight, number):
    bitflow, _, _ = start(env, spotlight)
    bitflow.signal_thread(bitflow.pid, number)
    assert_crashed(bitflow, number, "bitflow")
    told = re.search(r"^bitflow: the crash was reported to Sentry as event ([0-9a-f]{32})$", bitflow.stderr(), re.M)
    assert told, bitflow.stderr()
    event = spotlight.wait_event(level="fatal", signal=number.name)
    assert event["event_id"] == told.group(1)
    assert event["release"].startswith("bitflow@") and event["environment"] == "production"
    (exception,) = event["exception"]["values"]
    assert exception["type"] == number.name and exception["mechanism"]["handled"] is False
    assert exception["mechanism"]["meta"]["signal"]["number"] == number
    assert "main" in functions(event)
    assert [crumb["message"] for crumb in event["breadcrumbs"]["values"]] == ["listening"]


@pytest.mark.parametrize("level", ["info", None], ids=["info", "no log"])
def test_without_sentry_a_crash_is_only_traced(env, level):
    listener, address = env.listen(), env.address()
    bitflow = env.launch(env.config(proxy(address, listener.address), level=level), {"limits": {"CORE": 0}})
    bitflow.wait_bound(int(address.rpartition(":")[2]))
    bitflow.signal(signal.SIGSEGV)
    assert_crashed(bitflow, signal.SIGSEGV)
    assert "Sentry" not in bitflow.stderr()


def test_the_crash_of_a_connections_thread_names_the_connection(env, spotlight):
    bitflow, listener, address = start(env, spotlight)
    env.pair(address, listener)
    wait_for(lambda: "front#1>" in bitflow.thread_names(), "the connection has its thread")
    bitflow.signal_thread(thread_id(bitflow, "front#1>"), signal.SIGSEGV)
    assert_crashed(bitflow, signal.SIGSEGV, "front#1>")
    event = spotlight.wait_event(level="fatal", thread="front#1>")
    assert event["tags"]["connection"] == "1"
    assert event["threads"]["values"][0]["name"] == "front#1>"
    assert {"connection_serve", "run_pooled"} <= set(functions(event))


def gdb(bitflow, thread, *commands):
    """Runs these commands on a thread, then lets it go on."""
    needs.TRACING.need()
    number = thread_id(bitflow, thread)
    script = [f"python [t.switch() for t in gdb.selected_inferior().threads() if t.ptid[1] == {number}]", *commands]
    return programs.run(["gdb", "-q", "-nx", "-batch", "-p", str(bitflow.pid),
                         *(part for command in script for part in ("-ex", command))]).stdout


def guard_below(bitflow, address):
    """An address in the guard page of the stack to which this address belongs."""
    with open(f"/proc/{bitflow.pid}/maps") as stream:
        for line in stream:
            low, high = (int(part, 16) for part in line.split()[0].split("-"))
            if low <= address < high:
                return low - 256
    raise AssertionError(f"no stack at {address:x}")


@pytest.mark.parametrize("case", ["a jump to nowhere", "a stack that has run out"])
def test_a_fault_is_reported_with_its_kind_and_address(env, spotlight, case):
    bitflow, listener, address = start(env, spotlight)
    client, _ = env.pair(address, listener)
    wait_for(lambda: "front#1>" in bitflow.thread_names(), "the connection has its thread")
    if case == "a jump to nowhere":
        gdb(bitflow, "front#1>", "set var $pc = 16")
    else:
        told = gdb(bitflow, "front#1>", "printf \"sp=%lx\\n\", (unsigned long)$sp")
        guard = guard_below(bitflow, int(re.search("sp=([0-9a-f]+)", told).group(1), 16))
        gdb(bitflow, "front#1>", f"set var $sp = {guard}")
        client.sendall(b"wake up")
    bitflow.expected_status = -signal.SIGSEGV
    assert bitflow.wait_ended() == -signal.SIGSEGV
    headline = re.search(r"crashed: SIGSEGV \((\w+)\) at address (0x[0-9a-f]+), thread front#1> ", bitflow.stderr())
    assert headline, bitflow.stderr()
    # To restart the interrupted call, the kernel takes two bytes off the address to return to.
    jumped = case == "a jump to nowhere"
    code, where = ("SEGV_MAPERR", [16, 14]) if jumped else ("SEGV_ACCERR", range(guard, guard + 256))
    assert headline.group(1) == code and int(headline.group(2), 16) in where
    assert FRAME.search(bitflow.stderr())
    message = f"{headline.group(1)} at address {headline.group(2)}"
    wait_for(
        lambda: [event for event in spotlight.events(thread="front#1>", connection="1")
                 if event["level"] == "fatal" and event["exception"]["values"][0]["value"] == message],
        lambda: f"the event of it; {bitflow.stderr()}",
    )


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as stream:
        return [int(word) for word in stream.read().split()]


def test_a_sentry_that_hangs_delays_the_end_by_seconds_only(env):
    """And the reporter keeps its secret out of its arguments and environment."""
    with Scripted(lambda number: HANG) as receiver:
        bitflow, _, _ = start(env, receiver)
        watch = Stopwatch()
        bitflow.signal_thread(bitflow.pid, signal.SIGABRT)
        receiver.wait_requests(1)
        (child,) = children(bitflow.pid)
        with open(f"/proc/{child}/cmdline", "rb") as stream:
            command = stream.read()
        with open(f"/proc/{child}/environ", "rb") as stream:
            environment = stream.read()
        assert command.startswith(b"bitflow\0--report-crash\0")
        assert b"0123456789abcdef" not in command + environment
        inherited = os.listdir(f"/proc/{child}/fd")
        assert not any("LISTEN" in line for line in environment.decode(errors="replace").split("\0"))
        assert len(inherited) <= 5 + 3, inherited  # the standard ones, the recorder, what libcurl opened
        assert_crashed(bitflow, signal.SIGABRT)
        watch.between(2, 7, "the end")
        assert "could not be reported" in bitflow.stderr()
        assert not os.path.exists(f"/proc/{child}")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT], ids=lambda number: number.name)
def test_a_process_that_reports_its_crash_serves_nobody(env, number):
    """Neither new clients, who are refused so that they can go elsewhere, nor those that it has."""
    with Scripted(lambda number: HANG) as receiver:
        bitflow, listener, address = start(env, receiver)
        client, target = env.pair(address, listener)
        bitflow.signal_thread(bitflow.pid, number)
        receiver.wait_requests(1)
        assert bitflow.is_running()
        assert sockets.refuses(address)
        client.sendall(b"never relayed")
        assert_crashed(bitflow, number, "bitflow")
        assert not listener.has_pending()
        received, _ = sockets.receive_until_broken(target)
        assert received == b""


def test_the_outcome_of_the_report_is_written_to_a_stderr_that_is_a_socket(env):
    """As systemd's is."""
    listener, address = env.listen(), env.address()
    reader, writer = socket.socketpair()
    with Scripted() as receiver, reader:
        path = env.config(proxy(address, listener.address), application={"sentry_dsn": receiver.dsn})
        command = [bitflow_process.binary(), "--config", path]
        process = subprocess.Popen(command, stdout=writer, stderr=writer, stdin=subprocess.DEVNULL)
        writer.close()
        try:
            wait_for(lambda: is_answering(address), "it listens")
            process.send_signal(signal.SIGSEGV)
            assert process.wait(30) == -signal.SIGSEGV
            text = b"".join(iter(lambda: reader.recv(65536), b"")).decode()
        finally:
            process.kill()
            process.wait()
        (event,) = receiver.items()
        assert f"bitflow: the crash was reported to Sentry as event {event['event_id']}" in text.splitlines()


def test_a_report_that_cannot_be_sent_is_mentioned_on_stderr(env):
    with Scripted() as receiver:
        pass
    bitflow, _, _ = start(env, receiver)
    bitflow.signal(signal.SIGSEGV)
    assert_crashed(bitflow, signal.SIGSEGV)
    assert re.search("the crash could not be reported to Sentry: .*(refused|connect)", bitflow.stderr())


def test_a_stderr_that_nobody_reads_delays_the_end_only_briefly(env):
    listener, address = env.listen(), env.address()
    path = env.config(proxy(address, listener.address), level=None)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, bytes(4096))
    except BlockingIOError:
        os.set_blocking(writer, True)
    process = subprocess.Popen([bitflow_process.binary(), "--config", path], stderr=writer, stdin=subprocess.DEVNULL)
    os.close(writer)
    try:
        wait_for(lambda: is_answering(address), "it listens")
        watch = Stopwatch()
        process.send_signal(signal.SIGSEGV)
        assert process.wait(30) == -signal.SIGSEGV
        watch.between(0.4, 3, "the end")
    finally:
        process.kill()
        process.wait()
        os.close(reader)


def is_answering(address):
    try:
        sockets.connect(address).close()
    except OSError:
        return False
    return True


def test_the_hidden_report_option_is_refused_by_hand(env):
    for word in ("0", "77", "-1", "x"):
        done = bitflow_process.run("--report-crash", word)
        assert done.returncode == 1 and "does not hold a crash" in done.stderr
    assert "--report-crash" not in bitflow_process.run("--help").stdout


def test_a_crash_ends_process_1_of_a_container(env):
    """Signals from within the container do not end process 1 otherwise."""
    needs.PROCESS_NAMESPACE.need()
    listener, address = env.listen(), env.address()
    path = env.config(proxy(address, listener.address), level="info")
    output = env.directory / "stderr.txt"
    with open(output, "wb") as stream:
        outer = subprocess.Popen(
            [programs.find("unshare"), *needs.process_namespace_options(), "--kill-child",
             bitflow_process.binary(), "--config", path],
            stderr=stream, stdin=subprocess.DEVNULL,
        )
    try:
        wait_for(lambda: "msg=listening" in output.read_text(), lambda: f"it listens: {output.read_text()}")
        (pid,) = children(outer.pid)
        os.kill(pid, signal.SIGABRT)
        wait_for(lambda: not os.path.exists(f"/proc/{pid}/exe"), lambda: f"it ends: {output.read_text()}")
        assert outer.wait(10) != 0
        assert re.search(r"crashed: SIGABRT \(SI_USER\), thread .*, process 1$", output.read_text(), re.M)
    finally:
        outer.kill()
        outer.wait()
