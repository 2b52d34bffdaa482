"""Peers whose half of the key exchange is none: a point that is not on its curve, of small order, or of another length.
Each gets an alert (RFC 8446, 4.2.8.2 and 7.4.2; RFC 8422, 5.11), and the record says why in words."""

import struct

import pytest

import sockets
from environment import proxy
from tls_cases import tls_listener, tls_target

X25519, P256, P384 = 29, 23, 24
HANDSHAKE, ALERT = 22, 21
SERVER_HELLO_DONE = 14
ILLEGAL_PARAMETER = b"\x02\x2f"
HANDSHAKE_FAILURE = b"\x02\x28"
DECODE_ERROR = b"\x02\x32"
RULES = "the client broke the rules of TLS"

# A point of P-256's, but for its last byte.
NEAR_P256 = bytes.fromhex(
    "04" "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f4"
)
ORDER_8 = bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")
SHARES = {
    "X25519 of zeros": (X25519, bytes(32)),
    "X25519 of order 8": (X25519, ORDER_8),
    "X25519, one byte too many": (X25519, b"\x09" + bytes(32)),
    "P-256 off the curve": (P256, NEAR_P256),
    "P-256 beyond the field": (P256, b"\x04" + b"\xff" * 64),
    "P-256 compressed": (P256, b"\x02" + NEAR_P256[1:33]),
    "P-256 of another length": (P256, NEAR_P256[:-1]),
    "P-384 of zeros": (P384, b"\x04" + bytes(96)),
}


def record(kind, content):
    return struct.pack(">BHH", kind, 0x0303, len(content)) + content


def vector(format, content):
    return struct.pack(format, len(content)) + content


def message(kind, body):
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def extension(kind, content):
    return struct.pack(">H", kind) + vector(">H", content)


def client_hello(group, share=None):
    """Of TLS 1.3 with a share, or of 1.2 without."""
    suites = b"\x13\x01" if share is not None else b"\xc0\x2b\xc0\x2f"
    extensions = extension(10, vector(">H", struct.pack(">H", group)))
    extensions += extension(13, vector(">H", bytes.fromhex("040308040401"))) + extension(11, b"\x01\x00")
    if share is not None:
        extensions += extension(43, b"\x02\x03\x04")
        extensions += extension(51, vector(">H", struct.pack(">H", group) + vector(">H", share)))
    body = struct.pack(">H", 0x0303) + bytes(32) + vector(">B", bytes(32)) + vector(">H", suites) + b"\x01\x00"
    return message(1, body + vector(">H", extensions))


def server_hello(session_id, group, share):
    """Of TLS 1.3."""
    extensions = extension(43, b"\x03\x04") + extension(51, struct.pack(">H", group) + vector(">H", share))
    body = struct.pack(">H", 0x0303) + bytes(32) + vector(">B", session_id) + b"\x13\x01\x00"
    return message(2, body + vector(">H", extensions))


def take_record(sock):
    """Its kind and content; None at the end of the stream."""
    try:
        header = sockets.receive_exactly(sock, 5)
    except (ConnectionError, AssertionError):
        return None, b""
    return header[0], sockets.receive_exactly(sock, int.from_bytes(header[3:], "big"))


def alerts_until_end(sock):
    found = []
    kind, content = take_record(sock)
    while kind is not None:
        if kind == ALERT:
            found.append(content)
        kind, content = take_record(sock)
    return found


@pytest.fixture
def server(env, pki):
    listener, address = env.listen(), env.address()
    return env.start(proxy(address, listener.address, listener=tls_listener(pki.servers["rsa"]))), address


@pytest.mark.parametrize("name", SHARES)
def test_of_a_client_in_1_3(env, server, name):
    bitflow, address = server
    sock = env.connect(address)
    sock.sendall(record(HANDSHAKE, client_hello(*SHARES[name])))
    assert alerts_until_end(sock) == [ILLEGAL_PARAMETER]
    (found,) = bitflow.wait_records(1)
    assert found["reason"] == "client_handshake_failed", found
    assert found["error"].startswith(RULES + ": its key share"), found


@pytest.mark.parametrize("name", SHARES.keys() - {"P-256 compressed"})  # 1.2 knows it
def test_of_a_client_in_1_2(env, server, name):
    group, share = SHARES[name]
    bitflow, address = server
    sock = env.connect(address)
    sock.sendall(record(HANDSHAKE, client_hello(group)))
    kind, content = take_record(sock)
    while content[:1] != bytes([SERVER_HELLO_DONE]):
        assert kind == HANDSHAKE, (kind, content)
        kind, content = take_record(sock)
    sock.sendall(record(HANDSHAKE, message(16, vector(">B", share))))
    assert alerts_until_end(sock) == [DECODE_ERROR]
    (found,) = bitflow.wait_records(1)
    assert found["reason"] == "client_handshake_failed" and found["error"] == RULES, found


@pytest.mark.parametrize("name", ["X25519 of zeros", "X25519 of order 8"])
def test_of_a_target(env, pki, name):
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, tls_target(listener.address, pki.trusted)))
    client = env.connect(address)
    connection = listener.accept()
    kind, hello = take_record(connection)
    assert kind == HANDSHAKE
    connection.sendall(record(HANDSHAKE, server_hello(hello[39 : 39 + hello[38]], *SHARES[name])))
    assert alerts_until_end(connection) == [HANDSHAKE_FAILURE]  # of mbedTLS's own accord
    (found,) = bitflow.wait_records(1)
    assert found["reason"] == "target_handshake_failed", found
    client.close()


def test_a_record_that_does_not_fit(env, server):
    """mbedTLS has the same error for it."""
    bitflow, address = server
    sock = env.connect(address)
    sock.sendall(struct.pack(">BHH", HANDSHAKE, 0x0303, 0xFFFF) + client_hello(P256))
    (alert,) = alerts_until_end(sock)
    (found,) = bitflow.wait_records(1)
    assert "key share" not in found["error"], found
