"""Targets chosen by the client's server name: with TLS terminated (Python's ssl, OpenSSL) and passed through to real
TLS servers behind."""

import re
import struct
import time

import pytest

import sockets
import tls_peers
import tls_raw
import tls_wire as wire
from environment import proxy
from tls_cases import NOT_TLS, tls_client, tls_echo, tls_listener

NAMES = ("a.test", "B.test", "*.wild.test")


def named(name, address):
    return {"name": name, "address": address}


@pytest.fixture
def terminated(env, pki):
    """A listener that terminates TLS. Each target says its own name first."""
    address = env.address()
    targets = [named(name, env.serve(greeting(name)).address) for name in NAMES]
    bitflow = env.start(
        proxy(address, *targets, listener=tls_listener(pki.server), connection_load_balancer="sni")
    )
    return address, bitflow


def greeting(name):
    def handler(connection):
        connection.sendall(name.encode() + b"\n")
        sockets.receive_until_broken(connection)

    return handler


@pytest.mark.parametrize("asked, served", [
    ("a.test", "a.test"), ("A.TEST", "a.test"), ("b.test", "B.test"), ("x.wild.test", "*.wild.test"),
    ("X.Wild.Test", "*.wild.test"),
])
def test_a_terminating_listener_chooses_the_target_by_server_name(env, terminated, asked, served):
    address, bitflow = terminated
    client = tls_client(env, address, server_name=asked)
    name = sockets.local_name(client.socket)
    assert client.read_exactly(len(served) + 1) == served.encode() + b"\n"
    client.end()
    assert client.read_until_end() == (b"", "close_notify")
    record = bitflow.record_of(name)
    assert (record["sni"], record["target"]["name"], record["reason"]) == (asked.lower(), served, "completed")


@pytest.mark.parametrize("asked", ["c.test", "wild.test", "x.y.wild.test", "a.test.evil", None],
                         ids=lambda name: name or "no name")
def test_a_terminating_listener_refuses_a_server_name_without_a_target(env, terminated, asked):
    address, bitflow = terminated
    sock = env.connect(address)
    name = sockets.local_name(sock)
    end = tls_raw.Tls(sock, tls_raw.client_context(), server_name=asked)
    assert tls_raw.refusal(end) == "unrecognized_name"
    record = bitflow.record_of(name)
    assert (record["reason"], record["ended_by"], record["sni"]) == ("unrecognized_name", "proxy", asked)
    assert record["target"] is None and record["client_tls"] is None
    assert (asked or "no server name") in record["error"]


def test_openssl_shows_the_alert_for_a_server_name_without_a_target(env, terminated):
    address, _ = terminated
    with tls_peers.openssl_client(address, name="nobody.test") as client:
        assert client.wait_ended() != 0
        assert "alert number 112" in client.text() or "unrecognized name" in client.text(), client.text()


# Passed through


class Behind:
    """Two TLS servers of Python's ssl behind a passing listener."""

    def __init__(self, env, pki, listener=None, address=None):
        self.address = address or env.address()
        self.identities = {name: pki.server_for(name) for name in ("a.test", "b.test")}
        targets = [
            named(name, env.serve(tls_echo(tls_raw.server_context(identity))).address)
            for name, identity in self.identities.items()
        ]
        self.bitflow = env.start(
            proxy(self.address, *targets, listener=listener, connection_load_balancer="sni")
        )


@pytest.fixture
def behind(env, pki):
    return Behind(env, pki)


@pytest.mark.parametrize("asked", ["a.test", "B.TEST"])
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_a_passing_listener_chooses_the_target_by_server_name(env, pki, behind, asked, version):
    context = tls_raw.client_context(pki.root.certificate, version=version)
    context.check_hostname = False
    client = tls_client(env, behind.address, context, server_name=asked)
    name = sockets.local_name(client.socket)
    assert client.peer_fingerprint() == behind.identities[asked.lower()].fingerprint
    client.round_trip(bytes(100_000))
    client.close()
    record = behind.bitflow.record_of(name)
    assert (record["sni"], record["target"]["name"]) == (asked.lower(), asked.lower())
    assert record["client_tls"] is None and record["target_tls"] is None


@pytest.mark.parametrize("asked", ["c.test", None], ids=lambda name: name or "no name")
def test_a_passing_listener_drops_a_server_name_without_a_target(env, behind, asked):
    sock = env.connect(behind.address)
    name = sockets.local_name(sock)
    end = tls_raw.Tls(sock, tls_raw.client_context(), server_name=asked)
    assert tls_raw.refusal(end) in ("cut", "reset")
    record = behind.bitflow.record_of(name)
    assert (record["reason"], record["ended_by"], record["sni"]) == ("sni_unmatched", "proxy", asked)


@pytest.mark.parametrize("kind, size", [("tcp", 1), ("unix", 32)], ids=["tcp byte by byte", "unix by 32 bytes"])
def test_a_hello_in_tiny_pieces_is_served(env, pki, kind, size):
    """And so is the rest of a real handshake. (The kernel charges a Unix client's own buffer for each piece that is not
    consumed: poll() calls it full after some 70 of them. OpenSSL 3.5's hello has 1.5 KB.)"""
    behind = Behind(env, pki, address=env.unix() if kind == "unix" else None)
    sock = env.connect(behind.address)
    client = tls_raw.Tls(sock, tls_raw.client_context(), server_name="a.test")
    client.send = lambda data: [sock.sendall(data[at : at + size]) for at in range(0, len(data), size)]
    client.handshake()
    client.send = client.send_whole
    client.round_trip()
    client.close()


@pytest.mark.parametrize("size", [1, 3, 100], ids="{} bytes each".format)
def test_a_hello_in_many_records_is_routed(env, behind, size):
    sock = env.connect(behind.address)
    name = sockets.local_name(sock)
    client = tls_raw.Tls(sock, tls_raw.client_context(), server_name="b.test")
    message = b"".join(record[5:] for record in tls_raw.records(client.hello()))
    sock.sendall(wire.in_records(message, size, version=0x0301))
    # The server behind answers the hello, whatever records it comes in.
    assert sockets.receive_exactly(sock, 3) == b"\x16\x03\x03"
    sock.close()
    assert behind.bitflow.record_of(name)["sni"] == "b.test"


def large_hello(name, size):
    """A ClientHello with a padding extension (RFC 7685) that makes it `size` bytes, in records of up to 16 KiB."""
    host = name.encode()
    sni = struct.pack(">HHHBH", 0, len(host) + 5, len(host) + 3, 0, len(host)) + host
    fixed = 2 + 32 + 1 + 4 + 2 + 2 + len(sni) + 4
    padding = struct.pack(">HH", 21, size - 4 - fixed) + bytes(size - 4 - fixed)
    extensions = sni + padding
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0"
    body += struct.pack(">H", len(extensions)) + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return wire.in_records(message, 16384, version=0x0301)


@pytest.mark.parametrize("size", [16390, 20_000, 60_000], ids="{} bytes".format)
def test_a_hello_larger_than_a_record_reaches_the_target_whole(env, size):
    target, address = env.listen(), env.address()
    env.start(proxy(address, named("large.test", target.address), connection_load_balancer="sni"))
    hello = large_hello("large.test", size)
    sock = env.connect(address)
    for at in range(0, len(hello), 1000):
        sock.sendall(hello[at : at + 1000])
    assert sockets.receive_exactly(target.accept(), len(hello)) == hello


def test_a_hello_beyond_64_kib_is_refused(env):
    address = env.address()
    bitflow = env.start(proxy(address, named("*", env.refusing()), connection_load_balancer="sni"))
    sock = env.connect(address)
    name = sockets.local_name(sock)
    sock.sendall(b"\x16\x03\x01\x40\x00\x01\x01\x00\x00" + bytes(16380))
    assert sockets.receive_until_broken(sock)[0] == b""
    record = bitflow.record_of(name)
    assert record["reason"] == "client_handshake_failed" and re.search("64 KiB", record["error"]), record


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_waiting_for_a_hello_takes_no_processor_time(env, pki, kind):
    address = env.unix() if kind == "unix" else None
    behind = Behind(env, pki, {"client_hello_timeout": "2s"}, address)
    clients = []
    for _ in range(20):
        sock = env.connect(behind.address)
        sock.sendall(tls_raw.Tls(sock, tls_raw.client_context(), server_name="a.test").hello()[:100])
        clients.append(sock)
    before, start = behind.bitflow.cpu_seconds(), time.monotonic()
    for sock in clients:
        assert sockets.receive_until_broken(sock)[0] == b""
    assert time.monotonic() - start > 1
    assert behind.bitflow.cpu_seconds() - before < 0.5
    reasons = {record["reason"] for record in behind.bitflow.wait_records(20)}
    assert reasons == {"client_handshake_timeout"}


@pytest.mark.parametrize("first, words", NOT_TLS.values(), ids=NOT_TLS)
def test_passing_listener_drops_what_is_not_tls(env, behind, first, words):
    sock = env.connect(behind.address)
    name = sockets.local_name(sock)
    sock.sendall(first)
    assert sockets.receive_until_broken(sock)[0] == b""
    record = behind.bitflow.record_of(name)
    assert record["reason"] == "client_handshake_failed" and words in record["error"], record
