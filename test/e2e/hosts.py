"""Names for tests: a hosts file, and a name server that hangs, seen by one process only (mount namespace,
root)."""

import contextlib
import os
import socket
import threading

import pytest


def need_root():
    if os.geteuid() != 0:
        pytest.skip("a mount namespace with its own /etc/hosts takes root")


def plan(env, names, nameserver=None):
    """A launch plan under which these (name, address) pairs resolve; other names go to the name server, or
    nowhere."""
    need_root()
    text = "".join(f"{address} {name}\n" for name, address in names)
    binds = {}
    for place, content in [
        ("/etc/hosts", text),
        ("/etc/resolv.conf", f"nameserver {nameserver or '127.0.0.99'}\noptions timeout:3 attempts:1\n"),
        ("/etc/nsswitch.conf", "hosts: files dns\n"),
    ]:
        if os.path.exists(place):
            path = env.write(content, "etc-" + os.path.basename(place))
            path.chmod(0o644)
            binds[str(path)] = os.path.realpath(place)
    return {"binds": binds}


def no_names(env):
    """A launch plan under which no name resolves, and that is told at once; without root, what the machine
    has."""
    return plan(env, []) if os.geteuid() == 0 else None


class SilentNameServer:
    """Takes questions on port 53 of a loopback address and never answers."""

    def __init__(self, address="127.0.0.77"):
        need_root()
        self.address = address
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 53))
        self.questions = 0
        self.thread = threading.Thread(target=self.take, daemon=True)
        self.thread.start()

    def take(self):
        with contextlib.suppress(OSError):
            while self.socket.recv(1000):
                self.questions += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
