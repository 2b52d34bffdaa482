"""Names for tests: a hosts file, and a name server that hangs, seen by one process only (mount
namespace)."""

import contextlib
import os
import socket
import struct
import threading

import needs
import peers
import programs
import sockets
from waiting import Stopwatch, wait_for


def plan(env, names, nameserver=None, options="timeout:3 attempts:1"):
    """A launch plan under which these (name, address) pairs resolve; other names go to the name server, or
    nowhere. `options`: resolv.conf's."""
    needs.OWN_FILES.need()
    if any(":" in address for _, address in names):
        needs.IPV6.need()
    text = "".join(f"{address} {name}\n" for name, address in names)
    binds = {}
    for place, content in [
        ("/etc/hosts", text),
        ("/etc/resolv.conf", f"nameserver {nameserver or '127.0.0.99'}\noptions {options}\n"),
        ("/etc/nsswitch.conf", "hosts: files dns\n"),
    ]:
        if os.path.exists(place):
            path = env.write(content, "etc-" + os.path.basename(place))
            path.chmod(0o644)
            binds[str(path)] = os.path.realpath(place)
    return {"binds": binds}


def no_names(env):
    """A launch plan under which no name resolves, and that is told at once."""
    return plan(env, [])


def assert_connects(env, bitflow, front, target, least, most):
    """A client comes, and the dial reaches this target within these seconds; returns the record."""
    watch = Stopwatch()
    client, connection = env.pair(front, target)
    watch.between(least, most, "the connect")
    client.close()
    connection.close()
    record = bitflow.wait_records(1)[0]
    assert record["target"]["address"] == target.address
    return record


def own_address(number):
    """A loopback address that is this process's alone: name servers have one port only, and several tests
    run at once."""
    pid = os.getpid()
    return f"127.{100 + number}.{pid >> 8 & 255}.{pid & 255}"


class SilentNameServer:
    """Takes questions on port 53 of a loopback address and never answers."""

    def __init__(self, address=None):
        self.address = address = address or own_address(1)
        needs.NAME_SERVER_PORT.need()
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
    have many; other names do not exist, but for those below `far.test`, for which `upstream` is asked."""

    def __init__(self, names, address=None, upstream=None):
        address = address or own_address(2)
        needs.NAME_SERVER_PORT.need()
        super().__init__()
        self.address = address
        by_name = {}
        for name, host in names:
            by_name.setdefault(name, []).append(host)
        records = [f"--host-record={name},{host}" for name, found in by_name.items() for host in found]
        if upstream:
            records.append(f"--server=/far.test/{upstream}")
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


class FaultyNameServer(SilentNameServer):
    """Answers every name with the same addresses, badly. `answers`: addresses by kind of question; of a kind
    that is missing, no question is ever answered. `delays`: seconds by kind. `lost`: how many questions of a
    kind are lost before the first is answered."""

    def __init__(self, answers, delays=None, lost=None, address=None):
        self.answers = answers
        self.delays = delays or {}
        self.lost = dict(lost or {})
        self.asked = []  # the kinds of all questions
        super().__init__(address or own_address(3))

    def take(self):
        with contextlib.suppress(OSError):
            while True:
                data, asker = self.socket.recvfrom(1000)
                if not data:
                    return  # the socket was shut down
                self.questions += 1
                end = data.index(b"\0", 12) + 5
                kind = struct.unpack(">H", data[end - 4 : end - 2])[0]
                self.asked.append(kind)
                self.lost[kind] = self.lost.get(kind, 0) - 1
                if kind not in self.answers or self.lost[kind] >= 0:
                    continue
                answer = self.answer(data, end, kind)
                if self.delays.get(kind):
                    late = threading.Timer(self.delays[kind], self.send, (answer, asker))
                    late.daemon = True
                    late.start()
                else:
                    self.send(answer, asker)

    def answer(self, data, end, kind):
        family = socket.AF_INET if kind == A else socket.AF_INET6
        packed = [socket.inet_pton(family, host) for host in self.answers[kind]]
        head = data[:2] + struct.pack(">HHHHH", 0x8180, 1, len(packed), 0, 0)
        records = [struct.pack(">HHHLH", 0xC00C, kind, 1, 60, len(each)) + each for each in packed]
        return head + data[12:end] + b"".join(records)

    def send(self, answer, asker):
        with contextlib.suppress(OSError):  # it was closed meanwhile
            self.socket.sendto(answer, asker)


def same_port(env, good, others=()):
    """A listener on `good` and, on the same port of each of `others`, one whose queue is full; returns all
    and the port."""
    for _ in range(50):
        port = sockets.free_port()
        made = []
        try:
            made.append(peers.Listener(sockets.join(good, port)))
            for host in others:
                made.append(peers.Listener(sockets.join(host, port), backlog=0))
        except OSError:
            for each in made:
                each.close()
            continue
        for each in made:
            env.keep(each)
        for each in made[1:]:
            each.fill_queue()
        return made[0], port
    raise AssertionError("no port is free on all the addresses")
