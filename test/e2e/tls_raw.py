"""One side of a TLS connection whose records pass through the test's own hands, and Python's ssl as a peer.

OpenSSL encrypts and decrypts in memory; when, in which segments, and whether what it wrote is sent at all is
the test's affair. That is how streams get cut short, records damaged, and closes taken apart.
"""

import contextlib
import hashlib
import re
import socket
import ssl

import sockets

APPLICATION_DATA = 23
ALERT = re.compile(r"^(?:SSLV3|TLSV1|TLSV13)_(?:ALERT_)?(\w+)$")
VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


def client_context(authority=None, identity=None, version=None, suites=None, protocols=None):
    """Python's side as a client; without an authority it takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = bool(authority)
    context.verify_mode = ssl.CERT_REQUIRED if authority else ssl.CERT_NONE
    if authority:
        context.load_verify_locations(authority)
    return configured(context, identity, version, suites, protocols)


def server_context(identity, authority=None, version=None, suites=None, protocols=None):
    """Python's side as a server; with an authority it demands a client's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if authority:
        context.load_verify_locations(authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return configured(context, identity, version, suites, protocols)


def configured(context, identity, version, suites, protocols):
    if identity:
        context.load_cert_chain(identity.certificate, identity.key)
    if version:
        context.minimum_version = context.maximum_version = VERSIONS[version]
    if suites:
        context.set_ciphers(suites)
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


def alert_of(error):
    """The name of the alert that an SSLError tells of, as the RFC spells it; else OpenSSL's reason."""
    reason = getattr(error, "reason", None) or str(error)
    match = ALERT.match(reason)
    return (match.group(1) if match else reason).lower()


def records(data):
    """Cuts a byte string into TLS records; all of it must be whole records."""
    found = []
    while data:
        length = 5 + int.from_bytes(data[3:5], "big")
        assert len(data) >= length, f"a cut record: {data[:20]!r}"
        found.append(data[:length])
        data = data[length:]
    return found


def damaged(record):
    """A record with one bit of its protected content turned over."""
    return record[:-1] + bytes([record[-1] ^ 1])


class Tls:
    """One end of a TLS connection on a connected socket."""

    def __init__(self, sock, context, server_side=False, server_name=None, session=None):
        self.socket = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self.incoming, self.outgoing, server_side, server_name, session)
        self.send = self.send_whole
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send_whole(self, data):
        self.socket.sendall(data)

    def send_bytewise(self, data):
        """A segment for each byte."""
        for byte in data:
            self.socket.sendall(bytes([byte]))

    def flush(self):
        data = self.outgoing.read()
        if data:
            self.send(data)

    def step(self, action):
        """Runs the action until it needs nothing more from the network; an end of stream is EOFError."""
        while True:
            try:
                result = action()
                self.flush()
                return result
            except ssl.SSLWantReadError:
                self.flush()
                data = self.socket.recv(65536)
                if not data:
                    raise EOFError("the stream ended without close_notify") from None
                self.incoming.write(data)
            except ssl.SSLError:
                with contextlib.suppress(OSError):  # which must not take its place
                    self.flush()  # an alert of our own
                raise

    def handshake(self):
        self.step(self.object.do_handshake)
        return self

    def handshake_but_for_the_last_flight(self):
        """The side that has the last word: returns that, not sent."""
        while True:
            try:
                self.object.do_handshake()
                return self.outgoing.read()
            except ssl.SSLWantReadError:
                self.flush()
                data = self.socket.recv(65536)
                assert data, "the handshake was broken off"
                self.incoming.write(data)

    def hello(self):
        """The bytes of the client's first flight, not sent."""
        try:
            self.object.do_handshake()
        except ssl.SSLWantReadError:
            return self.outgoing.read()
        raise AssertionError("a handshake without an answer")

    def protect(self, data):
        """The records that carry the data, not sent."""
        assert self.outgoing.pending == 0
        view = memoryview(data)
        while view:
            view = view[self.object.write(view[:16384]) :]
        return self.outgoing.read()

    def write(self, data):
        self.send(self.protect(data))

    def read(self, size=65536):
        """Some data; b"" at a close_notify; EOFError where the stream was cut."""

        def action():
            try:
                return self.object.read(size)
            except ssl.SSLZeroReturnError:
                return b""

        return self.step(action)

    def read_exactly(self, count):
        parts = bytearray()
        while len(parts) < count:
            part = self.read(count - len(parts))
            assert part, f"close_notify after {len(parts)} of {count} bytes"
            parts += part
        return bytes(parts)

    def read_until_end(self):
        """(data, how): how is close_notify, cut (an end of stream without it), reset, or an alert's name."""
        parts = bytearray()
        while True:
            try:
                part = self.read()
            except EOFError:
                return bytes(parts), "cut"
            except (ConnectionResetError, BrokenPipeError):
                return bytes(parts), "reset"
            except ssl.SSLError as error:
                return bytes(parts), alert_of(error)
            if not part:
                return bytes(parts), "close_notify"
            parts += part

    def round_trip(self, message=b"hello bitflow\n"):
        self.write(message)
        assert self.read_exactly(len(message)) == message

    def close_notify_record(self):
        """A close_notify, not sent. What has come in by then must have been read."""
        try:
            self.object.unwrap()
        except ssl.SSLWantReadError:
            pass  # the other side's is still to come
        return self.outgoing.read()

    def close_notify(self):
        """Half-closes TLS; the TCP connection stays as it is."""
        self.send(self.close_notify_record())

    def end(self):
        """An orderly end of this direction: close_notify, then FIN."""
        self.close_notify()
        self.socket.shutdown(socket.SHUT_WR)

    def close(self):
        """An orderly end of both directions."""
        self.end()
        how = self.read_until_end()[1]
        self.socket.close()
        assert how == "close_notify", how

    def assert_fin(self):
        """After close_notify comes the end of the TCP stream, and nothing in between."""
        assert self.incoming.pending == 0
        assert sockets.receive_until_broken(self.socket) == (b"", "eof")

    def version_and_cipher(self):
        return self.object.version(), self.object.cipher()[0]

    def peer_fingerprint(self):
        return hashlib.sha256(self.object.getpeercert(binary_form=True)).hexdigest()


def refusal(end):
    """How a handshake is refused: an alert's name, cut, reset or close_notify; fails if it is not.

    A client of TLS 1.3 is told only after its own handshake that its certificate won't do.
    """
    try:
        end.handshake()
    except EOFError:
        return "cut"
    except (ConnectionResetError, BrokenPipeError):
        return "reset"
    except ssl.SSLError as error:
        return alert_of(error)
    data, how = end.read_until_end()
    assert data == b"", f"served: {data[:80]!r}"
    return how
