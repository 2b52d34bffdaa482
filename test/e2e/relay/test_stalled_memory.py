"""A peer that stops reading costs little memory, whichever way its bytes come, and gets every byte once it reads on."""

import random
import socket
import threading
import time

import pytest

import sockets
import waiting
from environment import proxy
from tls_cases import tls_client, tls_listener, tls_target
from tls_raw import Tls, client_context, server_context
from waiting import scale, wait_for

# Sent over and over; not a multiple of any buffer's size.
BLOCK = random.Random(5).randbytes(1_000_003)
PART = 1 << 20
PEER_BUFFER = 65536
# What a stalled connection may take beyond an idle one: a second thread, a record or two on either side.
MOST_KIB = 96


class Plain:
    """A socket with the reads and writes of tls_raw.Tls."""

    def __init__(self, sock):
        self.socket = sock

    def write(self, data):
        self.socket.sendall(data)

    def read_exactly(self, count):
        return sockets.receive_exactly(self.socket, count)

    def end(self):
        self.socket.shutdown(socket.SHUT_WR)

    def read_until_end(self):
        return sockets.receive_until_broken(self.socket)


class Stream:
    """Blocks on their way from one end to the other, which reads when it is told to."""

    def __init__(self, sender, receiver):
        self.sender, self.receiver = sender, receiver
        self.sent = self.read = 0
        self.is_enough = threading.Event()
        self.thread = threading.Thread(target=self.send, daemon=True)
        sender.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PEER_BUFFER)

    def send(self):
        while not self.is_enough.is_set():
            part = BLOCK[self.sent % len(BLOCK) :][: 1 << 16]
            self.sender.write(part)
            self.sent += len(part)
        self.sender.end()

    def check(self, data):
        at = self.read % len(BLOCK)
        assert data == (BLOCK * (2 + len(data) // len(BLOCK)))[at : at + len(data)]
        self.read += len(data)

    def receive(self, count):
        self.check(self.receiver.read_exactly(count))

    def finish(self):
        """What was sent until now comes, and then the end."""
        self.is_enough.set()
        data, end = self.receiver.read_until_end()
        self.thread.join()
        self.check(data)
        assert end in ("eof", "close_notify") and self.read == self.sent, (end, self.read, self.sent)
        self.receiver.end()
        assert self.sender.read_until_end()[0] == b""


class Shape:
    """How the connections are made."""

    def __init__(self, is_down, client_tls=False, target_tls=False, limits=None, version=None):
        self.is_down, self.client_tls, self.target_tls, self.limits = is_down, client_tls, target_tls, limits
        self.version = version

    def start(self, env, pki):
        self.address = env.address()
        self.target = env.listen(receive_buffer=None if self.is_down else PEER_BUFFER)
        self.context = server_context(pki.servers["p256"], version=self.version)
        target = tls_target(self.target.address, pki.trusted) if self.target_tls else self.target.address
        listener = tls_listener(pki.servers["p256"]) if self.client_tls else None
        plan = {"limits": self.limits} if self.limits else None
        return env.start(proxy(self.address, target, listener=listener), plan=plan)

    def connect(self, env):
        buffer = PEER_BUFFER if self.is_down else None
        if self.client_tls:
            client = tls_client(env, self.address, client_context(version=self.version), receive_buffer=buffer)
        else:
            client = Plain(env.connect(self.address, receive_buffer=buffer))
        target = Plain(self.target.accept())
        if self.target_tls:
            target = Tls(target.socket, self.context, server_side=True).handshake()
        return Stream(*((target, client) if self.is_down else (client, target)))


SHAPES = {
    "download over TLS": Shape(True, client_tls=True),
    "upload over TLS": Shape(False, client_tls=True),
    "download from a TLS target": Shape(True, target_tls=True),
    "upload to a TLS target": Shape(False, target_tls=True),
    "TLS on both sides": Shape(True, client_tls=True, target_tls=True),
    "TLS 1.2 on both sides": Shape(True, client_tls=True, target_tls=True, version="TLSv1.2"),
    "plain, by splice()": Shape(True),
    # A sixteenth of the descriptors may be pipes.
    "plain, few with a pipe": Shape(True, limits={"NOFILE": 64}),
}


def wait_stalled(streams):
    """Until nobody has written anything for longer than the proxy waits before it looks at a write."""
    seen = [None]

    def is_still():
        before, seen[0] = seen[0], [stream.sent for stream in streams]
        time.sleep(0.7)
        return before == seen[0]

    wait_for(is_still, "the senders stand", timeout=30)


@pytest.mark.parametrize("name", SHAPES)
def test_stalled_streams_cost_little_memory_and_lose_no_byte(env, pki, name):
    shape = SHAPES[name]
    bitflow = shape.start(env, pki)
    streams = [shape.connect(env) for _ in range(scale(8, least=4))]
    idle = bitflow.memory_kib("VmRSS")
    for stream in streams:
        stream.thread.start()
    for _ in range(2):
        for stream in streams:
            stream.receive(PART)
        wait_stalled(streams)
        if not waiting.SANITIZED:
            each = (bitflow.memory_kib("VmRSS") - idle) / len(streams)
            print(f"{name}: {each:.0f} KiB each")
            assert each <= MOST_KIB
    for stream in streams:
        stream.finish()
    assert {record["reason"] for record in bitflow.wait_records(len(streams))} == {"completed"}
