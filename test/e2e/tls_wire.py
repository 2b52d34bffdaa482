"""TLS handshake messages made and taken apart by hand (RFC 8446, RFC 5246, RFC 8422), for peers that lie."""

import dataclasses
import os
import struct

import sockets

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE = 20, 21, 22
CLIENT_HELLO, SERVER_HELLO, CERTIFICATE = 1, 2, 11
SERVER_KEY_EXCHANGE, SERVER_HELLO_DONE, CLIENT_KEY_EXCHANGE = 12, 14, 16
SERVER_NAME, GROUPS, SIGNATURES, VERSIONS, KEY_SHARE, POINT_FORMATS = 0, 10, 13, 43, 51, 11
MASTER_SECRET = 23
P256, P384, X25519 = 23, 24, 29
SIZES = {P256: 32, P384: 48}
# RFC 8446 4.1.3: the random of a HelloRetryRequest.
RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
ALERTS = {
    10: "unexpected_message", 20: "bad_record_mac", 22: "record_overflow", 40: "handshake_failure",
    42: "bad_certificate", 47: "illegal_parameter", 50: "decode_error", 51: "decrypt_error", 70: "protocol_version",
    71: "insufficient_security", 80: "internal_error", 109: "missing_extension", 110: "unsupported_extension",
}
# Points that are good.
GENERATORS = {
    P256: bytes.fromhex(
        "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
        "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
    ),
    P384: bytes.fromhex(
        "04aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7"
        "3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f"
    ),
    X25519: b"\x09" + bytes(31),
}
PRIMES = {
    P256: 2**256 - 2**224 + 2**192 + 2**96 - 1,
    P384: 2**384 - 2**128 - 2**96 + 2**32 - 1,
    X25519: 2**255 - 19,
}


def vector(size, data):
    """A vector with its length in `size` bytes before it."""
    return len(data).to_bytes(size, "big") + data


def extension(kind, data):
    return struct.pack(">H", kind) + vector(2, data)


def message(kind, body):
    return bytes([kind]) + vector(3, body)


def record(content, kind=HANDSHAKE, version=0x0303):
    return struct.pack(">BH", kind, version) + vector(2, content)


def in_records(content, size, version=0x0303):
    """One message in records of `size` bytes."""
    return b"".join(record(content[at : at + size], version=version) for at in range(0, len(content), size))


def client_hello(group, share, is_1_3=True, name="server.test", signatures="040308040401050308050501"):
    suites = b"\x13\x01" if is_1_3 else b"\xc0\x2b\xc0\x2f"
    extensions = extension(SERVER_NAME, vector(2, b"\0" + vector(2, name.encode())))
    extensions += extension(GROUPS, vector(2, struct.pack(">H", group)))
    if signatures is not None:
        extensions += extension(SIGNATURES, vector(2, bytes.fromhex(signatures)))
    if is_1_3:
        extensions += extension(VERSIONS, vector(1, b"\x03\x04"))
        extensions += extension(KEY_SHARE, vector(2, struct.pack(">H", group) + vector(2, share)))
    else:
        extensions += extension(POINT_FORMATS, vector(1, b"\0")) + extension(MASTER_SECRET, b"")
    body = b"\x03\x03" + os.urandom(32) + vector(1, os.urandom(32)) + vector(2, suites) + b"\x01\x00"
    return message(CLIENT_HELLO, body + vector(2, extensions))


def server_hello(session, version=0x0303, suite=0x1301, extensions=b"", random=None):
    body = struct.pack(">H", version) + (random or os.urandom(32)) + vector(1, session) + struct.pack(">H", suite)
    return message(SERVER_HELLO, body + b"\0" + (vector(2, extensions) if extensions else b""))


def selected_1_3():
    return extension(VERSIONS, b"\x03\x04")


def server_share(group, share):
    return extension(KEY_SHARE, struct.pack(">H", group) + vector(2, share))


def retry_for(group):
    return extension(KEY_SHARE, struct.pack(">H", group))


@dataclasses.dataclass
class Hello:
    """What a client said."""

    random: bytes
    session: bytes
    extensions: dict

    def groups(self):
        data = self.extensions[GROUPS][2:]
        return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]


class Wire:
    """The other end of a connection: whole handshake messages in, alerts in words."""

    def __init__(self, sock):
        self.socket, self.pending = sock, b""

    def read_record(self):
        """(type, content)"""
        head = sockets.receive_exactly(self.socket, 5)
        return head[0], sockets.receive_exactly(self.socket, int.from_bytes(head[3:], "big"))

    def read_message(self):
        """(type, body) of the next handshake message, however it comes in records."""
        while len(self.pending) < 4 or len(self.pending) < 4 + int.from_bytes(self.pending[1:4], "big"):
            kind, content = self.read_record()
            if kind == CHANGE_CIPHER_SPEC:
                continue  # for middleboxes (RFC 8446 D.4)
            assert kind == HANDSHAKE, f"a record of kind {kind}: {content!r}"
            self.pending += content
        end = 4 + int.from_bytes(self.pending[1:4], "big")
        whole, self.pending = self.pending[:end], self.pending[end:]
        return whole[0], whole[4:]

    def read_hello(self):
        kind, body = self.read_message()
        assert kind == CLIENT_HELLO
        end = 35 + body[34]
        session, rest = body[35:end], body[end:]
        rest = rest[2 + int.from_bytes(rest[:2], "big") :]
        rest = rest[1 + rest[0] + 2 :]
        extensions = {}
        while rest:
            kind, size = struct.unpack(">HH", rest[:4])
            extensions[kind], rest = rest[4 : 4 + size], rest[4 + size :]
        return Hello(body[2:34], session, extensions)

    def alert(self):
        """How the other side refused: the name of its fatal alert, which is in the clear, and nothing but the end after
        it."""
        try:
            while True:
                head = self.socket.recv(5)
                if not head:
                    return "no alert: the end"
                head += sockets.receive_exactly(self.socket, 5 - len(head))
                content = sockets.receive_exactly(self.socket, int.from_bytes(head[3:], "big"))
                if head[0] == ALERT:
                    break
                if head[0] == 23:
                    return "no alert: it goes on"  # with what only a good share can protect
        except (ConnectionResetError, BrokenPipeError):
            return "no alert: a reset"
        except TimeoutError:
            return "no alert: it waits for more"
        assert len(content) == 2 and content[0] == 2, f"no fatal alert in the clear: {content!r}"
        data, _ = sockets.receive_until_broken(self.socket)
        assert data == b"", f"more after the alert: {data!r}"
        return ALERTS.get(content[1], str(content[1]))


def number(value, size, order="big"):
    return value.to_bytes(size, order)


def bad_points(group):
    """{what is wrong: the share} of a NIST curve."""
    size, good, prime = SIZES[group], GENERATORS[group], PRIMES[group]
    x, y = good[1 : 1 + size], good[1 + size :]
    return {
        "off the curve": good[:-1] + bytes([good[-1] ^ 1]),
        "the origin": b"\x04" + bytes(2 * size),
        "infinity": b"\0",
        "infinity, padded": bytes(1 + 2 * size),
        "no bytes": b"",
        "compressed": bytes([2 + y[-1] % 2]) + x,
        "hybrid": bytes([6 + y[-1] % 2]) + x + y,
        "x is the prime": b"\x04" + number(prime, size) + y,
        "y beyond the prime": b"\x04" + x + b"\xff" * size,
        "a byte too short": good[:-1],
        "a byte too long": good + b"\0",
        "of another curve's size": GENERATORS[P384 if group == P256 else P256],
    }


def bad_shares():
    """{what is wrong: the share} of X25519: all points of small order (RFC 7748 6.1), and wrong lengths."""
    low = 325606250916557431795983626356110631294008115727848805560023387167927233504
    high = 39382357235489614581723060781553021112529911719440698176882885853963445705823
    prime = PRIMES[X25519]
    values = {"zero": 0, "one": 1, "order 8": low, "another of order 8": high, "the prime less one": prime - 1,
              "the prime": prime, "the prime and one": prime + 1}
    shares = {name: number(value, 32, "little") for name, value in values.items()}
    shares["zero with the highest bit"] = bytes(31) + b"\x80"
    return {**shares, "no bytes": b"", "a byte too short": b"\x09" + bytes(30), "a byte too long": b"\x09" + bytes(32)}
