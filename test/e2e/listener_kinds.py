"""What the tests of whole ways to a target share: clients that get in through each kind of listener, a SOCKS5
server that stops in the middle of its dialogue, and data in one-byte segments."""

import select
import socket
import threading

import pytest

import proxy_headers
import sockets
import socks_peers
import tls_cases
import tls_raw
from waiting import wait_for

# How a client is let in. What it has to say for that is said before its target is dialled.
LISTENER_KINDS = ("plain", "header", "tls", "both")
DECLARED = "203.0.113.7:4711"
HEADER = proxy_headers.v2("203.0.113.7", "203.0.113.8", 4711, 443, crc=True)


def through(server, address, **more):
    return {"address": address, "proxy": server, **more}


def listener(kind, pki):
    """The listener's part of a proxy."""
    trusting = {"proxy_protocol": True} if kind in ("header", "both") else {}
    return tls_cases.tls_listener(pki.server, listener=trusting) if kind in ("tls", "both") else trusting


class Client:
    """A client's end, let in; reads and writes are the stream's content."""

    def __init__(self, env, address, kind, pki):
        self.socket = env.connect(address)
        self.tls = None
        if kind in ("header", "both"):
            self.socket.sendall(HEADER)
        if kind in ("tls", "both"):
            context = tls_raw.client_context(pki.trusted)
            self.tls = tls_raw.Tls(self.socket, context, server_name="server.test").handshake()

    def write(self, data):
        (self.tls.write if self.tls else self.socket.sendall)(data)

    def read_exactly(self, count):
        return self.tls.read_exactly(count) if self.tls else sockets.receive_exactly(self.socket, count)

    def end(self):
        """No more comes from here; what comes in is still read."""
        self.tls.end() if self.tls else self.socket.shutdown(socket.SHUT_WR)

    def read_to_end(self):
        if not self.tls:
            return sockets.receive_to_end(self.socket)
        data, how = self.tls.read_until_end()
        assert how == "close_notify", how
        return data


def dribble(sock, data):
    """A segment for each byte."""
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in data:
        sock.sendall(bytes([byte]))


each_way_to_send = pytest.mark.parametrize("send", [socket.socket.sendall, dribble], ids=["at once", "bytewise"])


def said(bitflow, message):
    return [line for line in bitflow.log_lines(partial=True) if line["msg"] == message]


def wait_closed(bitflow, address):
    """Until it listens there no more, without a connection to find out."""
    port = int(address.rpartition(":")[2])
    wait_for(lambda: not bitflow.listening_inodes(port), "the listener is closed")


def connecting(address):
    """How many sockets wait for an answer from there (IPv4)."""
    port = int(address.rpartition(":")[2])
    with open("/proc/net/tcp") as stream:
        fields = [line.split() for line in list(stream)[1:]]
    return sum(each[3] == "02" and each[2].endswith(f":{port:04X}") for each in fields)


def records_by_proxy(bitflow, count, timeout=10.0):
    """All the records, each of another proxy."""
    records = bitflow.wait_records(count, timeout=timeout)
    found = {record["proxy"]: record for record in records}
    assert len(found) == len(records) == count, records
    return found


STATIONS = ("greeting", "credentials", "request", "reply", "relay")


class StoppingSocks:
    """Serves the SOCKS5 dialogue and echoes, but stops at a station until it is told to go on: before its
    answer to the greeting, the credentials or the request, within the reply to that, or when something has
    come behind it."""

    def __init__(self, env, station, credentials=(b"u", b"p")):
        self.station = station
        self.credentials = credentials
        self.lock = threading.Lock()
        self.arrived = self.left = 0
        self.going = threading.Event()
        self.surprises = []
        self.server = env.serve(self.serve)
        user, password = (part.decode() for part in credentials)
        self.url = f"socks5://{user}:{password}@{self.server.address}"

    def wait_arrived(self, count):
        wait_for(lambda: self.arrived == count, lambda: f"{count} at the {self.station}: {self.arrived}")

    def wait_left(self, count):
        wait_for(lambda: self.left == count, lambda: f"{count} left the {self.station}: {self.left}")

    def go_on(self):
        self.going.set()

    def serve(self, connection):
        if socks_peers.read_greeting(connection) != b"\x00\x02":
            self.surprises.append("methods")
        if self.passes("greeting", connection):
            connection.sendall(b"\x05\x02")
            if socks_peers.read_credentials(connection) != self.credentials:
                self.surprises.append("credentials")
            if self.passes("credentials", connection):
                connection.sendall(b"\x01\x00")
                socks_peers.read_request(connection)
                self.reply(connection)

    def reply(self, connection):
        if not self.passes("request", connection):
            return
        connection.sendall(socks_peers.YES[:6])
        if not self.passes("reply", connection):
            return
        connection.sendall(socks_peers.YES[6:])
        if self.passes("relay", connection):
            while data := connection.recv(65536):
                connection.sendall(data)

    def passes(self, station, connection):
        """Waits if this is the station. Says whether to go on: not if the other side has left."""
        if station != self.station:
            return True
        if station == "relay" and not self.takes(connection):
            return False
        with self.lock:
            self.arrived += 1
        while not self.going.wait(0.01):
            if select.select([connection], [], [], 0)[0] and not self.takes(connection):
                with self.lock:
                    self.left += 1
                return False
        return True

    @staticmethod
    def takes(connection):
        """Reads what was sent without being asked for. False: the other side has left."""
        try:
            return connection.recv(65536) != b""
        except ConnectionResetError:
            return False
