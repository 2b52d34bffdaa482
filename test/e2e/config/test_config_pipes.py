"""Configurations that come through pipes, and pipes through which nothing comes."""

import os
import pathlib
import signal
import subprocess

import pytest

import bitflow_process
import sockets
from environment import proxy
from programs import find
from waiting import pace, wait_for

EXAMPLE = pathlib.Path(__file__).resolve().parents[3] / "config.example.yaml"


def bash(script):
    return subprocess.run(
        [find("bash"), "-c", script], capture_output=True, text=True, timeout=30 * pace()
    )


@pytest.mark.parametrize(
    "command",
    [
        "{bitflow} --check --config <(cat {example})",
        "{bitflow} --check --config <(sleep 0.3; head -c 100 {example}; sleep 0.3; tail -c +101 {example})",
        "cat {example} | {bitflow} --check --config /dev/stdin",
        "{bitflow} --check --config /dev/stdin < {example}",
    ],
    ids=["process substitution", "in two pieces", "piped to stdin", "redirected to stdin"],
)
def test_a_configuration_can_come_through_a_pipe(command):
    done = bash(command.format(bitflow=bitflow_process.binary(), example=EXAMPLE))
    assert (done.returncode, done.stderr) == (0, "")


def test_problems_name_the_pipe():
    done = bash(f"{bitflow_process.binary()} --check --config <(echo 'server: [')")
    assert done.returncode == 2 and done.stderr.startswith("/dev/fd/")


def test_a_pipe_that_nobody_writes_to_is_an_error(env):
    path = env.directory / "pipe"
    os.mkfifo(path)
    done = bitflow_process.run("--check", "--config", path)
    assert done.returncode == 2
    assert done.stderr == f"{path}: cannot read: nothing more came within 5 s\n"


def test_a_device_is_refused(env):
    done = bitflow_process.run("--check", "--config", "/dev/zero")
    assert done.returncode == 2
    assert done.stderr == "/dev/zero: cannot read: it is a device, not a file or a pipe\n"


def test_a_reload_from_a_pipe_that_nobody_writes_to_is_given_up(env):
    """The thread that reads the pipe also answers signals: it goes on after a while."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    path = env.directory / "config.yaml"
    path.unlink()
    os.mkfifo(path)
    bitflow.signal(signal.SIGHUP)
    sockets.round_trip(env.connect(address))
    wait_for(
        lambda: [line for line in bitflow.log_lines(True) if "nothing more came" in str(line)],
        "the reload is given up",
        10,
    )
    sockets.round_trip(env.connect(address))
