"""Sockets by address string ("127.0.0.1:80", "[::1]:80", "unix:///path", "unix://@name"), and what tests do
with them."""

import array
import fcntl
import os
import random
import select
import socket
import struct
import termios

import needs
from waiting import pace, wait_for

TIMEOUT = 15.0


def parse(address):
    """(family, sockaddr) of an address string."""
    if address.startswith("unix://"):
        path = address[len("unix://") :]
        return socket.AF_UNIX, ("\0" + path[1:] if path.startswith("@") else path)
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if ":" in host:
        needs.IPV6.need()
    return (socket.AF_INET6 if ":" in host else socket.AF_INET), (host, int(port))


def join(host, port):
    """The address string of a host and a port."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def name_of(family, sockaddr):
    """The address string that the connection log shows for a socket address."""
    if family == socket.AF_UNIX:
        path = sockaddr.decode() if isinstance(sockaddr, bytes) else sockaddr
        if path == "":
            return "unix:"
        return "unix://" + ("@" + path[1:] if path.startswith("\0") else path)
    return join(*sockaddr[:2])


def local_name(sock):
    return name_of(sock.family, sock.getsockname())


def connect(address, source=None, timeout=TIMEOUT, receive_buffer=None):
    family, sockaddr = parse(address)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout * pace())
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            sock.bind(source if family == socket.AF_UNIX else (source, 0))
        sock.connect(sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


def refuses(address):
    """Whether nobody listens there."""
    try:
        connect(address).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    except ConnectionResetError:
        pass  # it was in the queue when the listener closed
    return False


def is_served(address):
    """Whether somebody listens there; what is said must then come back."""
    try:
        sock = connect(address)
    except ConnectionRefusedError:
        return False
    with sock:
        round_trip(sock)
    return True


given_ports = set()


def free_port():
    """A port nobody listens on, a new one each time, outside of the range that the kernel gives connecting
    sockets. Where several run at once (BITFLOW_TEST_PARTS, of which this is number BITFLOW_TEST_PART), each has its
    own."""
    parts = int(os.environ.get("BITFLOW_TEST_PARTS", "1"))
    part = int(os.environ.get("BITFLOW_TEST_PART", "0"))
    with open("/proc/sys/net/ipv4/ip_local_port_range") as stream:
        low = int(stream.read().split()[0])
    for _ in range(1000):
        port = random.randrange(10240, max(low, 10241 + 1000))
        if port in given_ports or port % parts != part:
            continue
        try:
            family, everywhere = (socket.AF_INET, "") if needs.IPV6.lack else (socket.AF_INET6, "::")
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                probe.bind((everywhere, port))
            given_ports.add(port)
            return port
        except OSError:
            continue
    raise AssertionError("no free port found")


def receive_exactly(sock, count):
    parts = bytearray()
    while len(parts) < count:
        part = sock.recv(min(1 << 20, count - len(parts)))
        assert part, f"end of stream after {len(parts)} of {count} bytes"
        parts += part
    return bytes(parts)


def receive_to_end(sock):
    """Everything until the end of the stream."""
    parts = bytearray()
    while True:
        part = sock.recv(1 << 20)
        if not part:
            return bytes(parts)
        parts += part


def receive_until_broken(sock):
    """(bytes, "eof" or "reset"): everything until the stream ends in either way."""
    parts = bytearray()
    while True:
        try:
            part = sock.recv(1 << 20)
        except (ConnectionResetError, BrokenPipeError):
            return bytes(parts), "reset"
        if not part:
            return bytes(parts), "eof"
        parts += part


def round_trip(sock, message=b"hello bitflow\n"):
    """Sends a message and asserts that it comes back."""
    sock.sendall(message)
    assert receive_exactly(sock, len(message)) == message


def reset(sock):
    """Closes with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def unacknowledged(sock):
    """Bytes written that the other side's kernel has not acknowledged (TCP)."""
    value = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, value)
    return value[0]


def wait_acknowledged(sock):
    wait_for(lambda: unacknowledged(sock) == 0, "all that was written is acknowledged")


def fill(sock, chunk=bytes(65536), settle=0.3):
    """Writes until nothing more fits for `settle` seconds; returns the number of bytes written."""
    written = 0
    timeout = sock.gettimeout()
    sock.setblocking(False)
    try:
        while select.select([], [sock], [], settle * pace())[1]:
            try:
                written += sock.send(chunk)
            except BlockingIOError:
                continue
    finally:
        sock.settimeout(timeout)
    return written


def is_open(sock):
    """True while neither an end nor a reset has come in (unread data counts as open)."""
    readable, _, _ = select.select([sock], [], [], 0)
    if not readable:
        return True
    try:
        return sock.recv(1, socket.MSG_PEEK) != b""
    except ConnectionResetError:
        return False


def was_rejected(sock, timeout=10.0):
    """Asserts that the proxy closes the connection, by an end or a reset, without a byte."""
    sock.settimeout(timeout * pace())
    data, _ = receive_until_broken(sock)
    assert data == b"", f"got {data[:80]!r} from a connection that should be rejected"
