"""Targets whose ServerHello has another version than 0x0303: refused with an alert and in words, in whatever pieces it
comes."""

import struct

import pytest

import sockets
from environment import proxy
from tls_cases import tls_target

PROTOCOL_VERSION = b"\x15\x03\x03\x00\x02\x02\x46"
RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
RULES = "its ServerHello has the version 0x{:04x}, where 1.2 and 1.3 both have 0x0303"
P256, AES_128_GCM_SHA256 = 23, 0x1301


def record(kind, content):
    return struct.pack(">BHH", kind, 0x0303, len(content)) + content


def server_hello(version, session_id, random=bytes(32), extensions=b""):
    body = struct.pack(">H", version) + random + bytes([len(session_id)]) + session_id
    body += struct.pack(">HB", AES_128_GCM_SHA256, 0)
    if extensions:
        body += struct.pack(">H", len(extensions)) + extensions
    return b"\x02" + len(body).to_bytes(3, "big") + body


def retry_request(session_id):
    """Asks for TLS 1.3 and a share of another group."""
    extensions = struct.pack(">HHH", 43, 2, 0x0304) + struct.pack(">HHH", 51, 2, P256)
    return server_hello(0x0303, session_id, RETRY, extensions)


class Hostile:
    """Takes the place of a TLS server; the test writes its records."""

    def __init__(self, env, pki, **keys):
        listener, address = env.listen(), env.address()
        self.bitflow = env.start(proxy(address, tls_target(listener.address, pki.trusted, **keys)))
        self.client = env.connect(address)
        self.connection = listener.accept()
        self.session_id = self.take_hello()

    def take_hello(self):
        """A ClientHello, whose record it must fill; its session id."""
        header = sockets.receive_exactly(self.connection, 5)
        while header[0] == 20:  # for middleboxes (RFC 8446 D.4)
            sockets.receive_exactly(self.connection, 1)
            header = sockets.receive_exactly(self.connection, 5)
        hello = sockets.receive_exactly(self.connection, int.from_bytes(header[3:], "big"))
        assert header[0] == 22 and hello[0] == 1
        return hello[39 : 39 + hello[38]]

    def assert_refused(self, words):
        assert sockets.receive_exactly(self.connection, len(PROTOCOL_VERSION)) == PROTOCOL_VERSION
        assert sockets.receive_until_broken(self.connection)[0] == b""
        self.connection.close()
        (found,) = self.bitflow.wait_records(1)
        assert found["reason"] == "target_handshake_failed" and words in found["error"], found
        assert found["target_tls"]["version"] is None and found["target_tls"]["peer_subject"] is None


@pytest.mark.parametrize("keys", [{}, {"minimum_version": "1.3"}], ids=["1.2 and 1.3", "1.3"])
@pytest.mark.parametrize("version", [0x0304, 0x0305, 0x0403, 0x0003])
def test_another_version(env, pki, version, keys):
    hostile = Hostile(env, pki, **keys)
    hostile.connection.sendall(record(22, server_hello(version, hostile.session_id)))
    hostile.assert_refused(RULES.format(version))


@pytest.mark.parametrize("version, name", [(0x0300, "SSL 3.0"), (0x0301, "TLS 1.0"), (0x0302, "TLS 1.1")])
def test_an_old_version(env, pki, version, name):
    hostile = Hostile(env, pki)
    hostile.connection.sendall(record(22, server_hello(version, hostile.session_id)))
    hostile.assert_refused(f"no TLS version in common: the target chose {name}")


def test_nobody_is_verified_not_even_with_mode_none(env, pki):
    hostile = Hostile(env, pki, verify_mode="none")
    hostile.connection.sendall(record(22, server_hello(0x0304, hostile.session_id)))
    hostile.assert_refused(RULES.format(0x0304))


@pytest.mark.parametrize("size", [5, 6, 40])
@pytest.mark.parametrize("before", [b"", record(21, b"\x01\x5a")], ids=["alone", "after a warning"])
def test_in_records_and_segments(env, pki, size, before):
    """The alert comes as soon as the version has come: the rest may not even be taken."""
    hostile = Hostile(env, pki)
    hello = server_hello(0x0304, hostile.session_id)
    stream = before + b"".join(record(22, hello[at : at + size]) for at in range(0, len(hello), size))
    end_of_version = len(before) + 5 * (5 // size + 1) + 6
    for byte in stream[:end_of_version]:
        hostile.connection.sendall(bytes([byte]))
    hostile.assert_refused(RULES.format(0x0304))


def test_after_a_retry_request(env, pki):
    hostile = Hostile(env, pki)
    hostile.connection.sendall(record(22, retry_request(hostile.session_id)) + record(20, b"\x01"))
    assert hostile.take_hello() == hostile.session_id, "the HelloRetryRequest was not followed"
    hostile.connection.sendall(record(22, server_hello(0x0304, hostile.session_id)))
    hostile.assert_refused(RULES.format(0x0304))


def test_in_a_retry_request(env, pki):
    hostile = Hostile(env, pki)
    message = bytearray(retry_request(hostile.session_id))
    message[5] = 4
    hostile.connection.sendall(record(22, message))
    hostile.assert_refused(RULES.format(0x0304))
