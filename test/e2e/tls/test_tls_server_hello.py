"""A ServerHello whose version is not 0x0303 is refused with an alert and in words, in whatever pieces it comes. A good
one is accepted in whatever pieces."""

import socket

import pytest

import sockets
import tls_raw
import tls_wire as wire
from environment import proxy
from tls_cases import tls_target
from tls_peers import VERSIONS

UNEXPECTED_MESSAGE, DECODE_ERROR, PROTOCOL_VERSION = 10, 50, 70
RULES = "its ServerHello has the version 0x{:04x}, where 1.2 and 1.3 both have 0x0303"
WARNING = wire.record(b"\x01\x5a", kind=wire.ALERT)


class Hostile:
    """Takes the place of a TLS server; the test writes its records."""

    def __init__(self, env, pki, spare=None, **keys):
        listener, address = env.listen(), env.address()
        targets = [tls_target(listener.address, pki.trusted, **keys), *([spare] if spare else [])]
        balancer = {"connection_load_balancer": "failover"} if spare else {}
        self.bitflow = env.start(proxy(address, *targets, **balancer))
        self.client = env.connect(address)
        self.connection = listener.accept()
        self.wire = wire.Wire(self.connection)
        self.hello = self.wire.read_hello()

    def server_hello(self, version, extensions=b""):
        return wire.server_hello(self.hello.session, version, extensions=extensions)

    def send(self, message):
        self.connection.sendall(wire.record(message))

    def retry(self, version=0x0303):
        """Asks for TLS 1.3 and a share of another group than bitflow's first."""
        extensions = wire.selected_1_3() + wire.retry_for(wire.P384)
        self.send(wire.server_hello(self.hello.session, version, extensions=extensions, random=wire.RETRY))

    def assert_told(self, alert=PROTOCOL_VERSION):
        told = wire.record(bytes([2, alert]), kind=wire.ALERT)
        assert sockets.receive_exactly(self.connection, len(told)) == told
        assert sockets.receive_until_broken(self.connection)[0] == b""
        self.connection.close()

    def assert_refused(self, words, alert=PROTOCOL_VERSION):
        self.assert_told(alert)
        (found,) = self.bitflow.wait_records(1)
        assert found["reason"] == "target_handshake_failed" and words in found["error"], found
        assert found["target_tls"]["version"] is None and found["target_tls"]["peer_subject"] is None


@pytest.mark.parametrize("keys", [{}, {"minimum_version": "1.3"}], ids=["1.2 and 1.3", "1.3"])
@pytest.mark.parametrize("version", [0x0304, 0x0305, 0x0403, 0x0003], ids="{:#06x}".format)
def test_a_hello_with_another_version_is_refused(env, pki, version, keys):
    hostile = Hostile(env, pki, **keys)
    hostile.send(hostile.server_hello(version))
    hostile.assert_refused(RULES.format(version))


OLD_VERSIONS = {"SSL 3.0": 0x0300, "TLS 1.0": 0x0301, "TLS 1.1": 0x0302}


@pytest.mark.parametrize("name", OLD_VERSIONS)
def test_a_hello_with_an_old_version_is_refused_by_its_name(env, pki, name):
    hostile = Hostile(env, pki)
    hostile.send(hostile.server_hello(OLD_VERSIONS[name]))
    hostile.assert_refused(f"no TLS version in common: the target chose {name}")


def test_verify_mode_none_does_not_excuse_a_wrong_version(env, pki):
    hostile = Hostile(env, pki, verify_mode="none")
    hostile.send(hostile.server_hello(0x0304))
    hostile.assert_refused(RULES.format(0x0304))


@pytest.mark.parametrize("size", [5, 6, 40], ids="{} bytes a record".format)
@pytest.mark.parametrize("before", [b"", WARNING], ids=["alone", "after a warning"])
def test_a_wrong_version_in_small_records_is_refused_as_soon_as_it_has_come(env, pki, size, before):
    """It is sent byte by byte, and the rest of the hello is never sent."""
    hostile = Hostile(env, pki)
    stream = before + wire.in_records(hostile.server_hello(0x0304), size)
    end_of_version = len(before) + 5 * (5 // size + 1) + 6
    for byte in stream[:end_of_version]:
        hostile.connection.sendall(bytes([byte]))
    hostile.assert_refused(RULES.format(0x0304))


def test_a_wrong_version_in_an_otherwise_good_hello_is_refused(env, pki):
    """With the version that was chosen (supported_versions), and a good key share."""
    hostile = Hostile(env, pki)
    group = int.from_bytes(hostile.hello.extensions[wire.KEY_SHARE][2:4], "big")
    share = wire.server_share(group, wire.GENERATORS[group])
    hostile.send(hostile.server_hello(0x0304, wire.selected_1_3() + share))
    hostile.assert_refused(RULES.format(0x0304))


@pytest.mark.parametrize("size, words, alert", [
    (1, "broke the rules of TLS", DECODE_ERROR),  # mbedTLS wants a message's whole length in its first record
    (4, "a message out of turn", UNEXPECTED_MESSAGE),
    (100, RULES.format(0x0304), PROTOCOL_VERSION),
], ids=["1 byte a record", "a record each", "one record"])
def test_a_wrong_version_behind_a_hello_request_is_refused(env, pki, size, words, alert):
    """A client of TLS 1.2 may ignore a HelloRequest (RFC 5246 7.4.1.1). Here it has a record of its own, or shares the
    hello's."""
    hostile = Hostile(env, pki)
    hostile.connection.sendall(wire.in_records(wire.message(0, b"") + hostile.server_hello(0x0304), size))
    hostile.assert_refused(words, alert)


@pytest.mark.parametrize("size", [5, 200], ids="{} bytes a record".format)
@pytest.mark.parametrize("is_whole", [False, True], ids=["bare", "otherwise good"])
def test_a_wrong_version_after_a_retry_request_is_refused(env, pki, size, is_whole):
    hostile = Hostile(env, pki)
    hostile.retry()
    hostile.connection.sendall(wire.record(b"\x01", kind=wire.CHANGE_CIPHER_SPEC))
    assert hostile.wire.read_hello().session == hostile.hello.session, "the HelloRetryRequest was not followed"
    extensions = wire.selected_1_3() + wire.server_share(wire.P384, wire.GENERATORS[wire.P384]) if is_whole else b""
    hostile.connection.sendall(wire.in_records(hostile.server_hello(0x0304, extensions), size))
    hostile.assert_refused(RULES.format(0x0304))


def test_a_wrong_version_in_a_retry_request_is_refused(env, pki):
    hostile = Hostile(env, pki)
    hostile.retry(0x0403)
    hostile.assert_refused(RULES.format(0x0403))


def test_another_target_is_tried_after_a_wrong_version(env, pki):
    """That is a failed attempt like any other."""
    hostile = Hostile(env, pki, spare=env.echo().address)
    hostile.send(hostile.server_hello(0x0304))
    hostile.assert_told()
    sockets.round_trip(hostile.client)
    hostile.client.close()
    (record,) = hostile.bitflow.wait_records(1)
    assert (record["attempts"], record["target"]["name"], record["reason"]) == (2, "target2", "completed")


def test_a_hello_that_never_becomes_whole_ends_by_the_handshake_timeout(env, pki):
    hostile = Hostile(env, pki, handshake_timeout="1s")
    hostile.connection.sendall(wire.record(b"\x02\xff\xff\xff\x03\x03"))
    sockets.was_rejected(hostile.client)
    assert hostile.bitflow.wait_records(1)[0]["reason"] == "target_handshake_timeout"


def test_an_empty_handshake_record_is_refused(env, pki):
    """A handshake record must not be empty (RFC 8446 5.1)."""
    hostile = Hostile(env, pki)
    hostile.connection.sendall(wire.record(b""))
    hostile.assert_refused("broke the rules of TLS", DECODE_ERROR)


# Good ones


def in_small_records(sock, size):
    """Sends a flight with its first handshake record, the hello's, cut into several (RFC 8446 5.1)."""
    state = {"is_first": True}

    def send(data):
        out = b""
        for record in tls_raw.records(data):
            is_hello = state["is_first"] and record[0] == wire.HANDSHAKE
            out += wire.in_records(record[5:], size) if is_hello else record
            state["is_first"] = state["is_first"] and not is_hello
        sock.sendall(out)

    return send


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "cut, groups",
    [("bytewise", None), ("bytewise", "secp384r1"), (5, None), (60, None)],
    ids=["bytewise", "bytewise with P-384", "5 bytes a record", "60 bytes a record"],
)
def test_a_good_hello_in_pieces_is_taken(env, pki, version, cut, groups):
    """A real server's; with P-384 a server of TLS 1.3 asks for another key share first."""
    target, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, tls_target(target.address, pki.trusted)))
    client = env.connect(address)
    context = tls_raw.server_context(pki.server, version=version)
    if groups:
        context.set_ecdh_curve(groups)
    server = tls_raw.Tls(target.accept(), context, server_side=True)
    server.send = server.send_bytewise if cut == "bytewise" else in_small_records(server.socket, cut)
    server.handshake()
    client.sendall(b"hello")
    assert server.read_exactly(5) == b"hello"
    client.shutdown(socket.SHUT_WR)
    assert server.read_until_end() == (b"", "close_notify")
    server.end()
    assert sockets.receive_to_end(client) == b""
    assert bitflow.wait_records(1)[0]["target_tls"]["version"] == version
