"""A bitflow that another program starts."""

import contextlib
import shlex

import pytest

import bitflow_process
import needs
import programs
import waiting


def numbered(*pairs):
    """The plan of a start at which each socket is inherited as the descriptor of that number."""
    return {"descriptors": [[sock.fileno(), number] for sock, number in pairs]}


@contextlib.contextmanager
def behind(env, monkeypatch, *command):
    """What is launched within this block is started by that command."""
    wrapper = env.directory / "bitflow-behind"
    text = shlex.join(map(str, [*command, bitflow_process.binary()]))
    wrapper.write_text(f'#!/bin/sh\nexec {text} "$@"\n')
    wrapper.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("BITFLOW", str(wrapper))
        yield


def traced(env, monkeypatch, *options):
    """Under strace, which is the child: the process is bitflow."""
    needs.TRACING.need()
    if waiting.SANITIZED:
        pytest.skip("a leak checker cannot work under a tracer")
    return behind(env, monkeypatch, programs.find("strace"), "-D", "-f", *options)
