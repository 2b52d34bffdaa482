"""Clients that begin with the PROXY protocol's header: who they are then, in the log and in the header sent on; every
way of getting it wrong."""

import socket

import pytest

import proxy_headers
import sockets
import tls_cases
import tls_raw
from proxy_headers import rejected, start_trusting, tlv, v1, v2
from waiting import holds_for, wait_for

def sent_on(env, header, **options):
    """(bitflow, a client that begins with `header`, the connection that the target gets)."""
    target = env.listen()
    bitflow, address = start_trusting(env, target.address, enable_proxy_header=True, **options)
    client = env.connect(address)
    client.sendall(header + b"and the rest")
    return bitflow, client, target.accept()


# What it says


def test_the_specifications_example_goes_through_unchanged(env):
    bitflow, client, connection = sent_on(env, proxy_headers.EXAMPLE)
    whole = proxy_headers.EXAMPLE + b"and the rest"
    assert sockets.receive_exactly(connection, len(whole)) == whole
    own = sockets.local_name(client)
    client.close()
    connection.close()
    record = bitflow.wait_records(1)[0]
    assert (record["client"], record["local"]) == ("192.168.0.1:56324", "192.168.0.11:443")
    assert record["proxy_header"] == {
        "version": 1,
        "local": False,
        "peer": own,
        "authority": None,
        "unique_id": None,
    }
    assert record["bytes_from_client"] == len(b"and the rest")


HIGHEST = ":".join(["ffff"] * 8)
LINES = {
    "IPv4": v1("192.0.2.1", "192.0.2.2", 1, 65535),
    "IPv6": v1("2001:db8::1", "2001:db8::2", 50000, 443),
    "the highest IPv4": v1("255.255.255.255", "255.255.255.255", 65535, 65535),
    "the highest IPv6": v1(HIGHEST, HIGHEST, 65535, 65535),
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_version_1_header_is_sent_on_as_it_came(env, line):
    _, _, connection = sent_on(env, line)
    assert proxy_headers.receive_v1(connection) == line
    assert sockets.receive_exactly(connection, 12) == b"and the rest"


# Both ends, and the client as the record names it.
ENDS = {
    "IPv4": (("192.168.0.1", "192.168.0.11", 56324, 443), "192.168.0.1:56324"),
    "IPv6": (("2001:db8::1", "2001:db8::2", 50000, 443), "[2001:db8::1]:50000"),
    "Unix": (("/run/client.sock", "/run/server.sock"), "unix:///run/client.sock"),
}


@pytest.mark.parametrize("ends, client_name", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("crc", [False, True], ids=["plain", "crc"])
def test_a_version_2_header_is_sent_on_with_the_same_ends(env, ends, client_name, crc):
    bitflow, client, connection = sent_on(env, v2(*ends, crc=crc), proxy_header_version=2)
    _, command, family, block, fields = proxy_headers.receive_v2(connection)
    assert (command, (family, block)) == (0x21, proxy_headers.addresses(*ends))
    assert sockets.receive_exactly(connection, 12) == b"and the rest"
    client.close()
    connection.close()
    record = bitflow.wait_records(1)[0]
    assert record["client"] == client_name
    assert record["proxy_header"]["version"] == 2
    assert fields[proxy_headers.UNIQUE_ID] == str(record["id"]).encode()


@pytest.mark.parametrize("mapped", ["", "::ffff:"], ids=["IPv4", "a mapped pair, which becomes IPv4"])
def test_version_2_is_translated_to_version_1(env, mapped):
    _, _, connection = sent_on(env, v2(f"{mapped}192.0.2.1", f"{mapped}192.0.2.2", 1000, 2000))
    assert proxy_headers.receive_v1(connection) == v1("192.0.2.1", "192.0.2.2", 1000, 2000)


NAMELESS = {
    "UNKNOWN": b"PROXY UNKNOWN\r\n",
    "UNKNOWN with more": b"PROXY UNKNOWN 1.2.3.4 ::1 a b\r\n",
    "LOCAL": v2(command=0x20),
    "LOCAL with addresses": v2("192.0.2.1", "192.0.2.2", 1, 2, command=0x20),
    # "The receiver must ... discard the protocol block": nothing of it is looked at.
    "LOCAL with a wrong checksum": v2(command=0x20, tlvs=tlv(proxy_headers.CRC32C, b"\0\0\0\0")),
    "UNSPEC": v2(),
    "UNSPEC with a checksum": v2(crc=True),
    "UNSPEC with what is no TLV": v2(tlvs=b"\x01\x02"),
    "UDP": v2("192.0.2.1", "192.0.2.2", 1, 2).replace(b"\x21\x11", b"\x21\x12"),
}


@pytest.mark.parametrize("name", NAMELESS)
def test_without_declared_addresses_the_sockets_own_are_used(env, name):
    bitflow, client, connection = sent_on(env, NAMELESS[name])
    host, port = client.getsockname()
    line = v1(host, host, port, client.getpeername()[1])
    assert sockets.receive_exactly(connection, len(line) + 12) == line + b"and the rest"
    client.close()
    connection.close()
    record = bitflow.wait_records(1)[0]
    assert record["client"] == f"{host}:{port}"
    assert record["proxy_header"]["local"] == name.startswith("LOCAL")


@pytest.mark.parametrize("bits", [1, 5, 7], ids=["no certificate", "a resumed session's", "one of its own"])
def test_what_the_sender_says_of_alpn_name_and_tls_is_sent_on(env, bits):
    """Where bitflow itself knows nothing better; the id is bitflow's."""
    ssl_tlv = tlv(proxy_headers.SSL, bytes([bits, 0, 0, 0, 0]) + tlv(0x21, b"TLSv1.2") + tlv(0x22, b"someone"))
    tlvs = (
        tlv(proxy_headers.NOOP, b"\0\0")
        + tlv(proxy_headers.ALPN, b"h2")
        + tlv(proxy_headers.AUTHORITY, b"www.example.com")
        + tlv(proxy_headers.UNIQUE_ID, b"theirs")
        + ssl_tlv
        + tlv(0xEA, bytes(1500))
    )
    header = v2("192.0.2.1", "192.0.2.2", 1, 2, tlvs=tlvs, crc=True)
    bitflow, client, connection = sent_on(env, header, proxy_header_version=2)
    fields = proxy_headers.receive_v2(connection)[4]
    assert fields[proxy_headers.ALPN] == b"h2"
    assert fields[proxy_headers.AUTHORITY] == b"www.example.com"
    assert proxy_headers.read_ssl(fields[proxy_headers.SSL]) == (bits, 0, {0x21: "TLSv1.2", 0x22: "someone"})
    client.close()
    connection.close()
    record = bitflow.wait_records(1)[0]
    assert fields[proxy_headers.UNIQUE_ID] == str(record["id"]).encode()
    assert record["proxy_header"]["unique_id"] == "theirs"
    assert record["proxy_header"]["authority"] == "www.example.com"


# Real senders


@pytest.mark.parametrize(
    "options",
    ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"],
    ids=["from version 1", "from version 2", "from version 2 with checksum and id"],
)
@proxy_headers.each_version
def test_haproxy_to_haproxy_keeps_the_address(env, options, version):
    receiver = env.enter(proxy_headers.HaproxyReceiver())
    bitflow, address = start_trusting(env, receiver.address, enable_proxy_header=True, proxy_header_version=version)
    sender = env.enter(proxy_headers.HaproxySender(address, options))
    client = env.connect(sender.address, source="127.0.0.9")
    host, port = client.getsockname()
    answer = proxy_headers.ask(client)
    assert (answer["src"], answer["sport"]) == (host, str(port))
    assert (answer["dst"], answer["dport"]) == tuple(sender.address.split(":"))
    client.close()
    record = bitflow.record_of(f"{host}:{port}")
    assert record["proxy_header"]["unique_id"] == (f"id-{port}" if "unique-id" in options else None)


def haproxy_with_tls(env, pki):
    """HAProxy ends TLS and tells bitflow, which tells the target: (HAProxy, the target)."""
    bundle = env.write(pki.server.certificate.read_text() + pki.server.key.read_text(), "bundle.pem")
    target = env.listen()
    _, address = start_trusting(env, target.address, enable_proxy_header=True, proxy_header_version=2)
    sender = env.enter(
        proxy_headers.HaproxySender(
            address,
            "send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,authority,crc32c",
            bind=f"ssl crt {bundle} ca-file {pki.root.certificate} verify optional alpn h2",
        )
    )
    return sender, target


def test_haproxys_facts_of_tls_go_through(env, pki):
    sender, target = haproxy_with_tls(env, pki)
    context = tls_raw.client_context(pki.trusted, pki.client, protocols=["h2"])
    client = tls_cases.tls_client(env, sender.address, context)
    connection = target.accept()
    fields = proxy_headers.receive_v2(connection)[4]
    bits, verify, inside = proxy_headers.read_ssl(fields[proxy_headers.SSL])
    assert (bits & 1, verify, inside[0x22]) == (1, 0, "a client")
    assert (inside[0x21], inside[0x23]) == client.version_and_cipher()
    assert (fields[proxy_headers.ALPN], fields[proxy_headers.AUTHORITY]) == (b"h2", b"server.test")
    connection.close()


def test_haproxys_resumed_sessions_go_through(env, pki):
    """The client's certificate is the session's then: it is not sent on this connection."""
    sender, target = haproxy_with_tls(env, pki)
    context = tls_raw.client_context(pki.trusted, pki.client, version="TLSv1.2")
    session, seen = None, []
    for _ in range(2):
        sock = env.connect(sender.address)
        with context.wrap_socket(sock, server_hostname="server.test", session=session) as client:
            with target.accept() as connection:
                fields = proxy_headers.receive_v2(connection)[4]
            session = client.session
            seen.append((client.session_reused, *proxy_headers.read_ssl(fields[proxy_headers.SSL])[:2]))
    assert seen == [(False, 7, 0), (True, 5, 0)]


def test_haproxys_health_checks_are_served_as_local(env):
    """They come from the checker itself, and have its own address."""
    target = env.echo()
    bitflow, address = start_trusting(env, target.address)
    env.enter(proxy_headers.HaproxySender(address, "send-proxy-v2 check check-send-proxy inter 200ms"))
    # One that is not local is the connection by which HAProxy was found to listen.
    record = wait_for(
        lambda: [record for record in bitflow.records() if record["proxy_header"]["local"]],
        lambda: f"a health check: {bitflow.records()}",
    )[0]
    assert record["client"] == record["proxy_header"]["peer"]
    assert record["reason"] in ("completed", "client_reset", "client_left")


# Before TLS


def test_the_header_comes_before_the_clients_tls(env, pki):
    """In plain text, with the handshake right behind it, in one segment or in two."""
    target = env.echo()
    bitflow, address = start_trusting(env, target.address, listener=tls_cases.tls_listener(pki.server))
    for together in (True, False):
        sock = env.connect(address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = tls_raw.Tls(sock, tls_raw.client_context(pki.trusted), server_name="server.test")
        if together:
            sock.sendall(proxy_headers.EXAMPLE + client.hello())
        else:
            sock.sendall(proxy_headers.EXAMPLE)
            sockets.wait_acknowledged(sock)
        client.handshake()
        client.round_trip()
        client.close()
    for record in bitflow.wait_records(2):
        assert record["client"] == "192.168.0.1:56324"
        assert record["client_tls"]["version"] == "TLSv1.3"


def test_the_server_name_is_found_behind_a_header(env, pki):
    """SNI that is passed through: what the target gets begins with the ClientHello."""
    target = env.serve(tls_cases.tls_echo(tls_raw.server_context(pki.server)))
    bitflow, address = start_trusting(
        env, {"address": target.address, "name": "server.test"}, connection_load_balancer="sni"
    )
    sock = env.connect(address)
    sock.sendall(v2("192.0.2.1", "192.0.2.2", 1, 2))
    client = tls_raw.Tls(sock, tls_raw.client_context(pki.trusted), server_name="server.test").handshake()
    client.round_trip()
    client.close()
    record = bitflow.wait_records(1)[0]
    assert (record["client"], record["sni"]) == ("192.0.2.1:1", "server.test")


# However it comes


@pytest.mark.parametrize(
    "header",
    [proxy_headers.EXAMPLE, v2("192.0.2.1", "192.0.2.2", 1, 2, crc=True)],
    ids=["version 1", "version 2"],
)
def test_a_header_in_one_byte_segments_is_understood(env, header):
    target = env.listen()
    bitflow, address = start_trusting(env, target.address)
    client = env.connect(address)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in header + b"rest":
        client.sendall(bytes([byte]))
        sockets.wait_acknowledged(client)
    connection = target.accept()
    assert sockets.receive_exactly(connection, 4) == b"rest"
    holds_for(0.1, lambda: sockets.is_open(connection), "nothing else comes")
    assert bitflow.cpu_seconds() < 1


def test_a_header_is_taken_over_a_unix_socket(env):
    target = env.listen()
    bitflow, address = start_trusting(env, target.address, address=env.unix())
    client, connection = env.connect(address), None
    client.sendall(proxy_headers.EXAMPLE[:10])
    holds_for(0.1, lambda: not target.has_pending(), "the header is waited for")
    client.sendall(proxy_headers.EXAMPLE[10:] + b"x")
    connection = target.accept()
    assert sockets.receive_exactly(connection, 1) == b"x"
    client.close()
    connection.close()
    assert bitflow.wait_records(1)[0]["client"] == "192.168.0.1:56324"


def test_nothing_behind_the_header_is_consumed(env):
    """A megabyte, whose beginning is in the header's segment."""
    data = bytes(range(256)) * 4096
    target = env.listen()
    _, address = start_trusting(env, target.address)
    client = env.connect(address)
    client.sendall(proxy_headers.EXAMPLE + data[:1000])
    connection = target.accept()
    client.sendall(data[1000:])
    client.shutdown(socket.SHUT_WR)
    assert sockets.receive_to_end(connection) == data


def test_a_half_close_behind_the_header_reaches_the_target(env):
    """A request and the end behind it come with the header."""
    target = env.serve(lambda connection: connection.sendall(sockets.receive_to_end(connection)[::-1]))
    bitflow, address = start_trusting(env, target.address)
    client = env.connect(address)
    client.sendall(proxy_headers.EXAMPLE + b"abc")
    client.shutdown(socket.SHUT_WR)
    assert sockets.receive_to_end(client) == b"cba"
    assert bitflow.wait_records(1)[0]["reason"] == "completed"


# Bad input

EXAMPLE2 = v2("192.0.2.1", "192.0.2.2", 1, 2)
BAD = {
    "HTTP": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00", "TLS"),
    "SSH": (b"SSH-2.0-x\r\n", "SSH"),
    "garbage": (bytes(range(100, 200)), "no PROXY protocol header"),
    "zeros": (bytes(100), "no PROXY protocol header"),
    "lower case": (proxy_headers.EXAMPLE.lower(), "no PROXY protocol header"),
    "a line without an end": (b"PROXY TCP4 " + b"1" * 200, "longer than 107"),
    "wrong order": (b"PROXY TCP4 443 56324 192.168.0.1 192.168.0.11\r\n", "source address"),
    "leading zeros": (b"PROXY TCP4 192.168.000.1 192.168.0.11 1 2\r\n", "source address"),
    "wrong family": (b"PROXY TCP4 ::1 ::1 1 2\r\n", "not of the family that it names"),
    "a port too large": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", "destination port"),
    "LF only": (proxy_headers.EXAMPLE.replace(b"\r\n", b"\n"), "LF"),
    "more fields": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", "after its ports"),
    "unknown protocol": (b"PROXY SCTP 1.2.3.4 1.2.3.4 1 2\r\n", "unknown protocol"),
    "version 3": (EXAMPLE2[:12] + b"\x31" + EXAMPLE2[13:], "unknown version"),
    "unknown command": (EXAMPLE2[:12] + b"\x22" + EXAMPLE2[13:], "unknown command"),
    "unknown family": (EXAMPLE2[:13] + b"\x41" + EXAMPLE2[14:], "unknown address family"),
    "too short a length": (EXAMPLE2[:14] + b"\x00\x0b" + EXAMPLE2[16:], "too short"),
    "too long a length": (EXAMPLE2[:14] + b"\xff\xff" + EXAMPLE2[16:], "longer than 4096"),
    "oversized": (v2("1.2.3.4", "1.2.3.4", 1, 2, tlvs=tlv(0xEA, bytes(5000))), "longer than 4096"),
    "a lying TLV": (v2("1.2.3.4", "1.2.3.4", 1, 2, tlvs=b"\x01\xff\xffh2"), "last field is cut short"),
    "half a TLV": (v2("1.2.3.4", "1.2.3.4", 1, 2, tlvs=b"\x01\x00"), "last field is cut short"),
    "a lying TLV in SSL": (
        v2("1.2.3.4", "1.2.3.4", 1, 2, tlvs=tlv(0x20, bytes(5) + b"\x21\x00\x09TLSv1")),
        "SSL field",
    ),
    "a wrong checksum": (v2("1.2.3.4", "1.2.3.4", 1, 2, crc=True)[:-1] + b"\0", "wrong checksum"),
    "a wrong checksum without addresses": (v2(crc=True)[:-1] + b"\0", "wrong checksum"),
    "a cut checksum": (v2("1.2.3.4", "1.2.3.4", 1, 2, tlvs=tlv(3, b"\0\0")), "checksum is malformed"),
    "a long id": (v2("1.2.3.4", "1.2.3.4", 1, 2, tlvs=tlv(5, bytes(129))), "longer than 128"),
}


def test_a_bad_header_ends_the_connection_and_the_record_says_why(env):
    """At once; nothing is dialled, and the next client is served."""
    target = env.listen()
    bitflow, address = start_trusting(env, target.address, listener={"proxy_protocol_timeout": "30s"})
    for name, (data, words) in BAD.items():
        record = rejected(env, bitflow, address, data)
        assert (record["reason"], record["ended_by"]) == ("proxy_header_invalid", "client"), name
        assert words in record["error"], (name, record["error"])
        assert (record["attempts"], record["target"], record["proxy_header"]) == (0, None, None), name
    assert not target.has_pending()
    bitflow.assert_quiet()
    client = env.connect(address)
    client.sendall(proxy_headers.EXAMPLE + b"x")
    assert sockets.receive_exactly(target.accept(), 1) == b"x"
