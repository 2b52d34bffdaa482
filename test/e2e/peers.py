"""Peers that behave well or badly: servers in threads, and a listening socket that a test scripts by hand."""

import contextlib
import os
import select
import socket
import threading

import sockets
from waiting import pace


class Listener:
    """A listening socket; the test accepts. Full: its queue is filled, so that further connects get no
    answer."""

    def __init__(self, address="127.0.0.1:0", backlog=4096, receive_buffer=None):
        family, sockaddr = sockets.parse(address)
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.connections = []
        if family != socket.AF_UNIX:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.bind(sockaddr)
        self.socket.listen(backlog)
        self.socket.settimeout(sockets.TIMEOUT * pace())
        self.address = sockets.name_of(family, self.socket.getsockname())
        self.fillers = []

    def accept(self):
        connection, _ = self.socket.accept()
        connection.settimeout(sockets.TIMEOUT * pace())
        self.connections.append(connection)
        return connection

    def has_pending(self):
        return bool(select.select([self.socket], [], [], 0)[0])

    def fill_queue(self):
        """Connects until the kernel answers no more. Listen with backlog=0 for this."""
        family, sockaddr = sockets.parse(self.address)
        while len(self.fillers) < 64:
            filler = socket.socket(family, socket.SOCK_STREAM)
            filler.setblocking(False)
            try:
                filler.connect(sockaddr)
            except BlockingIOError:
                if family == socket.AF_UNIX or not select.select([], [filler], [], 0.3)[1]:
                    filler.close()
                    return
            self.fillers.append(filler)
        raise AssertionError("the queue does not fill")

    def drain_queue(self):
        """Makes room: accepts and drops the fillers, which stand first in the queue."""
        for filler in self.fillers:
            self.socket.accept()[0].close()
            filler.close()
        self.fillers = []

    def close(self):
        for each in [self.socket, *self.fillers, *self.connections]:
            each.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Refusing:
    """A port that is bound but not listened on: connects are refused, and nobody else can take the port."""

    def __init__(self, host="127.0.0.1", port=0):
        family, address = sockets.parse(f"{host}:{port}")
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.bind(address)
        self.address = sockets.local_name(self.socket)

    def listen(self):
        """From now on the port answers."""
        self.socket.listen(128)
        self.socket.settimeout(sockets.TIMEOUT * pace())

    def accept(self):
        connection, _ = self.socket.accept()
        connection.settimeout(sockets.TIMEOUT * pace())
        return connection

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Server:
    """Runs handler(connection) in a thread for each connection; counts them."""

    def __init__(self, handler, address="127.0.0.1:0"):
        self.listener = Listener(address)
        self.address = self.listener.address
        self.handler = handler
        self.lock = threading.Lock()
        self.accepted = 0
        self.live = 0
        self.most_live = 0
        self.open = set()
        self.threads = []
        self.ending = False
        self.wake_read, self.wake_write = os.pipe()
        self.thread = threading.Thread(target=self.accept_all, daemon=True)
        self.thread.start()

    def accept_all(self):
        while True:
            ready, _, _ = select.select([self.listener.socket, self.wake_read], [], [])
            if self.ending:
                return
            if self.listener.socket not in ready:
                continue
            try:
                connection, _ = self.listener.socket.accept()
            except OSError:
                continue
            connection.settimeout(60 * pace())
            with self.lock:
                self.accepted += 1
                self.live += 1
                self.most_live = max(self.most_live, self.live)
                self.open.add(connection)
            thread = threading.Thread(target=self.serve, args=(connection,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def serve(self, connection):
        try:
            self.handler(connection)
        except OSError:
            pass  # the other side went away, which some tests are about
        finally:
            with self.lock:
                self.live -= 1
                self.open.discard(connection)
            connection.close()

    def close(self):
        self.ending = True
        os.write(self.wake_write, b"x")
        self.thread.join()
        with self.lock:
            for connection in self.open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(20)
        self.listener.close()
        os.close(self.wake_read)
        os.close(self.wake_write)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# Handlers


def echo(connection):
    """Sends back what comes, to its end."""
    while True:
        data = connection.recv(65536)
        if not data:
            return
        connection.sendall(data)


def sink(connection):
    """Reads to the end, then closes."""
    while connection.recv(1 << 20):
        pass


def source(data):
    """Sends the data and closes, without a read."""

    def handler(connection):
        connection.sendall(data)

    return handler


def greeter(name):
    """Says its name, then echoes: tells which target a client got."""

    def handler(connection):
        connection.sendall(name.encode() + b"\n")
        echo(connection)

    return handler


def resetter(connection):
    """Resets at once."""
    sockets.reset(connection)
