"""A service manager as sd_notify(3) describes it: a datagram socket, and what came there."""

import os
import contextlib
import socket
import struct
import time

from waiting import pace, wait_for

UCRED = struct.Struct("iII")


class Message(dict):
    """The assignments of one datagram, when it was read, and whose it is."""

    def __init__(self, data, pid):
        super().__init__(line.split("=", 1) for line in data.decode().split("\n"))
        self.time = time.monotonic()
        self.pid = pid


class ServiceManager:
    def __init__(self, env, name="notify", is_abstract=False):
        self.name = f"@{env.directory}/{name}" if is_abstract else str(env.directory / name)
        self.messages = []
        self.socket = env.keep(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind("\0" + self.name[1:] if is_abstract else self.name)

    def environment(self, watchdog=None):
        """`watchdog`: seconds."""
        usec = {} if watchdog is None else {"WATCHDOG_USEC": str(int(watchdog * 1e6))}
        return {"NOTIFY_SOCKET": self.name, **usec}

    def read(self):
        """All that came, the latest ones included."""
        while True:
            try:
                data, control, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(UCRED.size))
            except BlockingIOError:
                return self.messages
            pid = next(UCRED.unpack(value)[0] for _, kind, value in control if kind == socket.SCM_CREDENTIALS)
            self.messages.append(Message(data, pid))

    def wait(self, timeout=10.0, **assignments):
        """A message with these assignments, whenever it came."""

        def found():
            return [message for message in self.read() if assignments.items() <= message.items()]

        return wait_for(found, lambda: f"{assignments}, there are: {self.messages}", timeout)[-1]

    def phases(self):
        """Without what comes all the time."""
        return [message for message in self.read() if message.keys() & {"READY", "RELOADING", "STOPPING"}]

    def wait_ready(self, bitflow):
        wait_for(
            lambda: bitflow.is_running() and self.phases(),
            lambda: f"READY=1, there are: {self.messages}; the log: {bitflow.stderr()}", 15,
        )  # fmt: skip

    def count(self, key):
        return sum(key in message for message in self.read())

    def fill(self):
        """Until its queue has no more room: each sender has a bound of its own, too."""
        address, sent = "\0" + self.name[1:] if self.name[0] == "@" else self.name, 1
        while sent > 0:
            sent = 0
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sender.sendto(b"FILLED=1", address)
                        sent += 1


def is_alive_within(manager, seconds):
    """Whether the watchdog is told once more within that time."""
    before, deadline = manager.count("WATCHDOG"), time.monotonic() + seconds * pace()
    while time.monotonic() < deadline:
        if manager.count("WATCHDOG") > before:
            return True
        time.sleep(0.01)
    return False


