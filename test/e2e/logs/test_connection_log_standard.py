"""A connection log on standard output or error: the descriptor as it is, which a container's engine or a service
manager made, and which another user cannot open anew."""

import contextlib
import fcntl
import json
import os
import signal
import socket

import pytest

import bitflow_process
import needs
import sockets
from environment import proxy
from waiting import scale, wait_for

ANOTHER_USER = 61000


@contextlib.contextmanager
def pipe():
    """Its inode belongs to whoever runs the tests."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            with contextlib.suppress(OSError):
                os.close(end)


class Reader:
    """What comes out of the other end, as text."""

    def __init__(self, descriptor):
        self.descriptor = descriptor
        os.set_blocking(descriptor, False)
        self.text = ""

    def read(self):
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self.descriptor, 65536):
                self.text += piece.decode()
        return self.text

    def wait_records(self, count):
        wait_for(lambda: self.read().count("\n") >= count, lambda: f"{count} records: {self.text}")
        return [json.loads(line) for line in self.text.splitlines()]


def plan_of(end, number=1, uid=None):
    return {"descriptors": [[end, number]], **({"uid": uid} if uid else {})}


def connections(address, count):
    for _ in range(count):
        with contextlib.closing(sockets.connect(address)) as client:
            sockets.round_trip(client)


def test_another_users_pipe_gets_the_records(env):
    needs.ANOTHER_USER.need()
    echo, address = env.echo(), env.address()
    with pipe() as (out, end):
        bitflow = env.start(proxy(address, echo.address, connection_log="stdout"), plan=plan_of(end, uid=ANOTHER_USER))
        os.close(end)
        reader = Reader(out)
        connections(address, 2)
        assert [record["reason"] for record in reader.wait_records(2)] == ["completed"] * 2
        for number in (signal.SIGUSR1, signal.SIGHUP):  # nothing is opened anew
            bitflow.signal(number)
        wait_for(lambda: "msg=reloaded" in bitflow.stderr(), bitflow.stderr)
        connections(address, 1)
        assert len(reader.wait_records(3)) == 3
        assert "level=error" not in bitflow.stderr()


def test_its_path_cannot_be_opened_by_another_user(env):
    """Which is what the word is for."""
    needs.ANOTHER_USER.need()
    config = env.config(proxy(env.address(), env.address(), connection_log="/dev/stdout"))
    with pipe() as (_, end):
        said = env.fails_to_start(config, plan_of(end, uid=ANOTHER_USER))
    assert "cannot open the connection log /dev/stdout: Permission denied" in said


@pytest.mark.parametrize("word", ["stdout", "stderr"])
def test_a_socket_gets_the_records(env, word):
    echo, address = env.echo(), env.address()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        config = env.config(proxy(address, echo.address, connection_log=word), level=None)
        bitflow = env.launch(config, plan_of(theirs.fileno(), 1 if word == "stdout" else 2))
        theirs.close()
        bitflow.wait_bound(int(address.rpartition(":")[2]))
        connections(address, 3)
        assert len(Reader(ours.fileno()).wait_records(3)) == 3


def test_a_pipe_that_nobody_reads_delays_nobody(env):
    """It holds a page, and belongs to another user: a write that waits would wait for ever."""
    needs.ANOTHER_USER.need()
    echo, address = env.echo(), env.address()
    with pipe() as (out, end):
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 4096)
        bitflow = env.start(proxy(address, echo.address, connection_log="stdout"), plan=plan_of(end, uid=ANOTHER_USER))
        os.close(end)
        connections(address, scale(50, least=20))
        wait_for(lambda: "records are being lost" in bitflow.stderr(), bitflow.stderr)
        reader = Reader(out)
        reader.read()
        connections(address, 1)
        wait_for(lambda: "is written again" in bitflow.stderr(), bitflow.stderr)
        lost = next(line["lost"] for line in bitflow.log_lines(partial=True) if "lost" in line)
        count = scale(50, least=20) + 1 - int(lost)
        assert 0 < count < 20 and len(reader.wait_records(count)) == count


def test_standard_error_has_both_logs_and_each_line_is_json(env):
    echo, address = env.echo(), env.address()
    bitflow = env.launch(
        env.config(proxy(address, echo.address, connection_log="stderr"),
                   application={"log": {"level": "info", "format": "json"}}))
    bitflow.wait_listening(["front"])
    connections(address, 2)

    def lines():
        return [json.loads(line) for line in bitflow.stderr().splitlines()]

    wait_for(lambda: sum("event" in line for line in lines()) == 2, bitflow.stderr)
    assert all(("event" in line) != ("msg" in line) for line in lines())


def test_a_file_of_that_name_is_a_path(env):
    """And the word makes no file, nor is it warned of."""
    for log in ("stdout", "./stdout"):
        path = env.config(proxy(env.address(), env.address(), connection_log=log))
        done = bitflow_process.run("--check", "--strict", "--config", path)
        assert (done.returncode, done.stderr) == (0, "")
    echo, address = env.echo(), env.address()
    log = env.directory / "stdout"
    env.start(proxy(address, echo.address, connection_log=str(log)))
    connections(address, 1)
    wait_for(lambda: log.is_file() and log.read_text().count("\n") == 1, "a file gets the record")


def test_standard_output_that_is_not_for_writing_fails_the_start(env):
    config = env.config(proxy(env.address(), env.address(), connection_log="stdout"))
    with open("/dev/null") as null:
        assert "cannot write the connection log to stdout" in env.fails_to_start(config, plan_of(null.fileno()))
