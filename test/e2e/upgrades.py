"""Upgrades: the process that takes over from a bitflow, as the next bitflow of a test."""

import contextlib
import ctypes
import os
import pathlib
import shutil
import signal
import socket

import bitflow_process
import sockets
from waiting import wait_for

PR_SET_CHILD_SUBREAPER = 36
SERVES = "upgraded, the new process serves, this one drains"
BACK = "taken over"
FAILED = "upgrade failed, this process goes on"


@contextlib.contextmanager
def reaping():
    """What a process of ours leaves behind becomes our child, so that its exit status is ours to see."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


class Adopted:
    """A process that another one has started; ours once that one has ended. As much of a Popen as is used."""

    def __init__(self, pid):
        self.pid, self.returncode = pid, None

    def poll(self):
        if self.returncode is None:
            status = self.status()
            if status is not None:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def status(self):
        """As waitpid() has it; None while it runs."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            return status if pid else None
        except ChildProcessError:  # the one that has started it still lives
            with open(f"/proc/{self.pid}/stat") as stream:
                fields = stream.read().rpartition(")")[2].split()
            return int(fields[49]) if fields[0] == "Z" else None

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def wait(self):
        wait_for(lambda: self.poll() is not None, f"process {self.pid} ends")


class Successor(bitflow_process.Bitflow):
    """It writes where the process before it does."""

    def __init__(self, before, pid):  # pylint: disable=super-init-not-called
        self.__dict__.update({**before.__dict__, "process": Adopted(pid), "pid": pid, "resting": None})


class Tail:
    """What a log says of the process, read as it grows; those under load have many lines of connections."""

    def __init__(self, path):
        self.path, self.offset, self.lines = path, 0, []

    def read(self):
        with open(self.path, "rb") as stream:
            stream.seek(self.offset)
            text = stream.read()
        text = text[: text.rfind(b"\n") + 1]
        self.offset += len(text)
        for line in text.decode(errors="replace").split("\n"):
            if line.startswith("ts=") and " conn=" not in line:
                self.lines.append(bitflow_process.parse_logfmt(line))
        return self.lines


TAILS = {}


def said(bitflow, message):
    tail = TAILS.setdefault(bitflow.stderr_path, Tail(bitflow.stderr_path))
    return [line for line in tail.read() if line["msg"] == message]


def begin(bitflow):
    """Sends SIGUSR2; returns the new process's number once it is started."""
    before = len(said(bitflow, "upgrade begun"))
    bitflow.signal(signal.SIGUSR2)
    wait_for(lambda: len(said(bitflow, "upgrade begun")) > before, bitflow.stderr)
    return int(said(bitflow, "upgrade begun")[-1]["process"])


def upgrade(env, bitflow):
    """Returns the new process once it serves and the old one knows."""
    before, failed = len(said(bitflow, SERVES)), len(said(bitflow, FAILED))
    pid = begin(bitflow)
    wait_for(
        lambda: len(said(bitflow, SERVES)) > before or len(said(bitflow, FAILED)) > failed,
        lambda: bitflow.stderr()[-3000:],
        30,
    )
    assert len(said(bitflow, SERVES)) > before, bitflow.stderr()[-3000:]
    successor = Successor(bitflow, pid)
    env.bitflows.append(successor)
    return successor


def reload(bitflow):
    before = len(said(bitflow, "reloaded"))
    bitflow.signal(signal.SIGHUP)
    wait_for(lambda: len(said(bitflow, "reloaded")) > before, lambda: bitflow.stderr()[-3000:], 30)


def fails(bitflow):
    """Sends SIGUSR2; returns the log's words on why that failed."""
    before = len(said(bitflow, FAILED))
    bitflow.signal(signal.SIGUSR2)
    wait_for(lambda: len(said(bitflow, FAILED)) > before, lambda: bitflow.stderr()[-3000:], 30)
    return said(bitflow, FAILED)[-1]["error"]


def children(pid):
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as stream:
            found += map(int, stream.read().split())
    return found


def wait_said(bitflow, message, times=1):
    wait_for(lambda: len(said(bitflow, message)) >= times, lambda: f"{message}: {bitflow.stderr()[-3000:]}", 30)


def wait_back(bitflow, times=1):
    """Until it serves again, and has no child any more."""
    wait_said(bitflow, BACK, times)
    wait_for(lambda: not children(bitflow.pid), "the stand-in has ended and was waited for")


class Installed:
    """A copy of the program that a test may replace, as a package's new version does."""

    def __init__(self, env, monkeypatch):
        self.original = bitflow_process.binary()
        self.path = env.directory / "bitflow-installed"
        self.path = pathlib.Path(shutil.copy(self.original, self.path))
        monkeypatch.setenv("BITFLOW", str(self.path))

    def replace(self, content=None):
        """By a rename, as it is running. None: by the same program."""
        new = self.path.with_name("bitflow-new")
        if content is None:
            shutil.copy(self.original, new)
        else:
            new.write_text(content)
            new.chmod(0o755)
        new.rename(self.path)


def serves(address):
    """One connection, which leaves nothing to drain behind."""
    with sockets.connect(address) as client:
        sockets.round_trip(client)
        client.shutdown(socket.SHUT_WR)
        assert sockets.receive_to_end(client) == b""


def greeting(address, length=4):
    """What a greeter (peers.py) says there, and leaves nothing to drain behind."""
    with sockets.connect(address) as client:
        return sockets.receive_exactly(client, length)


def drains(bitflow):
    """Whether that process only serves the connections it has."""
    names = bitflow.thread_names()
    return not any(name.endswith(":accept") for name in names)


def wait_accepts_no_more(bitflow):
    """Until then a client may be the old process's, or the new one's."""
    wait_for(lambda: drains(bitflow), "the old process accepts no more")


class Observed(bitflow_process.Bitflow):
    """A process that a test has started in a way of its own, with its output in a file."""

    def __init__(self, config, output, process, log_path, pid=None):  # pylint: disable=super-init-not-called
        self.config, self.stderr_path, self.process, self.log_path = config, output, process, log_path
        self.pid = pid or process.pid
        self.records_read = set()
        self.expected_status, self.quiet_check, self.resting = 0, True, None
