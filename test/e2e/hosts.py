"""Names for tests: a hosts file, and a name server that hangs, seen by one process only (mount namespace,
root)."""

import contextlib
import os
import socket
import struct
import threading

import pytest

import programs
from waiting import wait_for


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


class Dnsmasq(programs.Program):
    """A name server on port 53 of a loopback address. `names`: (name, address) pairs, of which a name may
    have many; other names do not exist."""

    def __init__(self, names, address="127.0.0.78"):
        need_root()
        super().__init__()
        self.address = address
        by_name = {}
        for name, host in names:
            by_name.setdefault(name, []).append(host)
        records = [f"--host-record={name},{host}" for name, found in by_name.items() for host in found]
        self.launch(
            ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]
            + ["--bind-interfaces", f"--listen-address={address}", "--except-interface=lo0", "--user=root"]
            + ["--pid-file", "--log-facility=-", "--local=/test/", "--no-negcache", *records]
        )
        wait_for(self.answers, lambda: f"dnsmasq answers: {self.log.read_text()}", 20)

    def answers(self):
        assert self.process.poll() is None, f"dnsmasq ended: {self.log.read_text()}"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.settimeout(0.5)
            asker.sendto(question("a.test", 1), (self.address, 53))
            with contextlib.suppress(OSError):
                return asker.recv(500)
        return None


A, AAAA = 1, 28


def question(name, kind):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


class HalfNameServer(SilentNameServer):
    """Answers questions of one kind with one address, and no other question ever."""

    def __init__(self, kind, host, address="127.0.0.79"):
        self.kind = kind
        self.host = socket.inet_pton(socket.AF_INET if kind == A else socket.AF_INET6, host)
        super().__init__(address)

    def take(self):
        with contextlib.suppress(OSError):
            while True:
                data, asker = self.socket.recvfrom(1000)
                if not data:
                    return  # the socket was shut down
                self.questions += 1
                end = data.index(b"\0", 12) + 5
                if struct.unpack(">H", data[end - 4 : end - 2])[0] != self.kind:
                    continue
                answer = struct.pack(">HHHLH", 0xC00C, self.kind, 1, 60, len(self.host)) + self.host
                head = data[:2] + struct.pack(">HHHHH", 0x8180, 1, 1, 0, 0)
                self.socket.sendto(head + data[12:end] + answer, asker)
