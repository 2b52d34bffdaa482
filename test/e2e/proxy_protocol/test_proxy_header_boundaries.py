"""PROXY headers that are cut at every byte, as large as can be, or lie about their lengths; in one-byte segments with
TLS behind; and whom they declare, for a target of two families."""

import ipaddress
import socket

import pytest

import hosts
import listener_kinds
import proxy_headers
import sockets
import tls_cases
import tls_raw
from environment import proxy
from listener_kinds import dribble, each_way_to_send
from proxy_headers import TRUSTING, rejected, start_trusting, tlv, v1, v2
from waiting import holds_for, wait_for

PATIENT = {"proxy_protocol_timeout": "60s"}
ENDS = "192.0.2.1", "192.0.2.2", 1000, 2000
LONGEST_V1 = v1(":".join(["ffff"] * 8), ":".join(["f3ff"] * 8), 65535, 65534)
HEADERS = {
    "version 1": (proxy_headers.EXAMPLE, "192.168.0.1:56324"),
    "version 1, IPv6": (LONGEST_V1, "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
    "version 1, two families": (
        v1(":".join(["ffff"] * 8), "255.255.255.255", 65535, 65535).replace(b"TCP4", b"TCP6"),
        "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
    ),
    "version 2": (
        v2(*ENDS, tlvs=tlv(proxy_headers.ALPN, b"h2") + tlv(proxy_headers.NOOP, b""), crc=True),
        "192.0.2.1:1000",
    ),
    "version 2, Unix": (v2("/run/there.sock", "/run/here.sock", crc=True), "unix:///run/there.sock"),
}


def start(env, target, listener=None, **options):
    return start_trusting(env, target, {**PATIENT, **(listener or {})}, **options)


def cuts_of(header):
    """Every byte, but for the padding of Unix paths."""
    return [at for at in range(1, len(header)) if header[at - 1 : at + 1] != b"\0\0" or at % 16 == 0]


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_in_two_segments_is_taken_wherever_it_is_cut(env, name):
    header, declared = HEADERS[name]
    target = env.echo()
    bitflow, address = start(env, target.address)
    clients = [(env.connect(address), cut) for cut in cuts_of(header)]
    for client, cut in clients:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(header[:cut])
    for client, _ in clients:
        sockets.wait_acknowledged(client)
    assert target.accepted == 0 and bitflow.records() == []
    for client, cut in clients:
        client.sendall(header[cut:] + b"behind")
        client.shutdown(socket.SHUT_WR)
    for client, cut in clients:
        assert sockets.receive_to_end(client) == b"behind", cut
    records = bitflow.wait_records(len(clients))
    assert {(record["client"], record["reason"]) for record in records} == {(declared, "completed")}
    bitflow.assert_quiet()


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_is_cut_short_dials_nothing_wherever_it_ends(env, name, end):
    """Part of a header is not a header, whomever it already names."""
    header = HEADERS[name][0]
    target = env.listen()
    bitflow, address = start(env, target.address)
    clients = [(env.connect(address), cut) for cut in cuts_of(header)]
    for client, cut in clients:
        client.sendall(header[:cut])
    for client, _ in clients:
        sockets.wait_acknowledged(client)
    owns = {sockets.local_name(client) for client, _ in clients}
    for client, _ in clients:
        client.close() if end == "close" else sockets.reset(client)
    records = bitflow.wait_records(len(clients))
    assert {record["client"] for record in records} == owns
    allowed = {"proxy_header_invalid"} if end == "close" else {"proxy_header_invalid", "client_left"}
    for record in records:
        assert record["reason"] in allowed and record["ended_by"] == "client", record
        assert (record["phase"], record["step"]) == ("admitting", "proxy_header"), record
        assert record["proxy_header"] is None and record["error"] and not record["attempts"], record
    assert not target.has_pending()
    bitflow.assert_quiet()


def test_a_line_of_107_bytes_is_accepted_and_one_of_108_is_not(env):
    """The specification's limit, with the CRLF."""
    target = env.echo()
    bitflow, address = start(env, target.address)
    longest = b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n"
    assert len(longest) == 107
    for send in (socket.socket.sendall, dribble):
        client = env.connect(address)
        send(client, longest + b"\r\nbehind")
        assert sockets.receive_exactly(client, 8) == b"\r\nbehind"
        own = sockets.local_name(client)
        client.close()
        assert bitflow.record_of(own)["proxy_header"]["version"] == 1
    record = rejected(env, bitflow, address, b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n")
    assert record["reason"] == "proxy_header_invalid"


def padded(size, crc=True):
    """A header of version 2 that has this size, by a field that is to be skipped."""
    rest = size - len(v2(*ENDS, tlvs=tlv(0xE1, b""), crc=crc))
    return v2(*ENDS, tlvs=tlv(0xE1, b"\r\n" * (rest // 2) + b"x" * (rest % 2)), crc=crc)


@each_way_to_send
def test_a_header_of_4096_bytes_is_accepted_and_one_of_4097_is_not(env, send):
    """With data right behind it."""
    target = env.echo()
    bitflow, address = start(env, target.address)
    data = bytes(range(256)) * 64
    header = padded(4096)
    assert len(header) == 4096
    client = env.connect(address)
    send(client, header + data[:200])
    client.sendall(data[200:])
    assert sockets.receive_exactly(client, len(data)) == data
    client.close()
    assert bitflow.record_of("192.0.2.1:1000")["bytes_from_client"] == len(data)
    record = rejected(env, bitflow, address, padded(4097))
    assert record["reason"] == "proxy_header_invalid" and "4096" in record["error"], record
    assert target.accepted == 1


def field(*tlvs):
    return v2(*ENDS, tlvs=b"".join(tlvs))


# Each says more, or less, than there is.
LIES = {
    "one byte more": field(b"\xe1\x00\x04abc"),
    "more by the high byte": field(b"\xe1\x01\x03abc"),
    "a kind alone": field(tlv(0xE1, b"abc"), b"\xe2"),
    "one byte less leaves a kind": field(b"\xe1\x00\x02abc"),
    "into the data": v2(*ENDS)[:14] + b"\x00\x0f" + v2(*ENDS)[16:] + b"\xe1\x00\x05abcde",
    "the addresses alone are longer": v2(*ENDS)[:14] + b"\x00\x0b" + v2(*ENDS)[16:-1],
    "IPv6 with the addresses of IPv4": v2(*ENDS)[:13] + b"\x21" + v2(*ENDS)[14:],
    "Unix with the addresses of IPv4": v2(*ENDS)[:13] + b"\x31" + v2(*ENDS)[14:],
    "no addresses": v2(*ENDS)[:14] + b"\x00\x00" + v2(*ENDS)[16:],
    "SSL of 4 bytes": field(tlv(proxy_headers.SSL, bytes(4))),
    "SSL, a field inside reaches out": field(
        tlv(proxy_headers.SSL, b"\x01\0\0\0\0" + b"\x21\x00\x08TLSv1.3"), tlv(0xE1, b"abc")
    ),
    "SSL, half a field inside": field(tlv(proxy_headers.SSL, b"\x01\0\0\0\0" + b"\x22\x00")),
    "a checksum of 3 bytes": field(tlv(proxy_headers.CRC32C, bytes(3))),
    "a checksum of 5 bytes": field(tlv(proxy_headers.CRC32C, bytes(5))),
    "a checksum of nothing": field(tlv(proxy_headers.CRC32C, b"")),
    "a right checksum, then a cut field": v2(*ENDS, tlvs=b"\xe1\x00\xff", crc=True),
}


def test_a_header_with_lengths_that_lie_is_rejected(env):
    """In one segment and in many; none is dialled, none holds up the next."""
    target = env.listen()
    bitflow, address = start(env, target.address)
    for send in (socket.socket.sendall, dribble):
        for name, data in LIES.items():
            client = env.connect(address)
            own = sockets.local_name(client)
            try:
                send(client, data)
            except (ConnectionResetError, BrokenPipeError):
                pass  # it was found out before the last byte
            sockets.was_rejected(client)
            record = bitflow.record_of(own)
            assert record["reason"] == "proxy_header_invalid", (name, record)
            assert record["error"] and record["attempts"] == 0, (name, record)
    assert not target.has_pending()
    bitflow.assert_quiet()


ODD = {
    "an empty name": (tlv(proxy_headers.AUTHORITY, b""), None),
    "empty ALPN": (tlv(proxy_headers.ALPN, b""), None),
    "an empty id": (tlv(proxy_headers.UNIQUE_ID, b""), None),
    "an id of 128 bytes": (tlv(proxy_headers.UNIQUE_ID, b"i" * 128), None),
    "an id of all bytes": (tlv(proxy_headers.UNIQUE_ID, bytes(range(128, 256))), None),
    "a name of control characters": (tlv(proxy_headers.AUTHORITY, b'a\n"b\\\x00\x7f\xff'), None),
    "a name of 255 bytes": (tlv(proxy_headers.AUTHORITY, b"n" * 255), b"n" * 255),
    "nothing but padding": (tlv(proxy_headers.NOOP, bytes(300)), None),
    "SSL of nothing": (tlv(proxy_headers.SSL, bytes(5)), None),
    "SSL with an unknown field": (tlv(proxy_headers.SSL, b"\x01\0\0\0\0" + tlv(0x2F, b"x")), None),
    "a hundred fields": (b"".join(tlv(0xE0 + at % 16, b"x" * (at % 7)) for at in range(100)), None),
}


def test_odd_but_valid_fields_are_accepted_and_sent_on_well_formed(env):
    """The connection log stays well formed, too; what is sent on has the right checksum."""
    target = env.listen()
    bitflow, address = start(env, target.address, enable_proxy_header=True, proxy_header_version=2)
    for name, (fields, authority) in ODD.items():
        client = env.connect(address)
        client.sendall(v2(*ENDS, tlvs=fields, crc=True) + b"x")
        connection = target.accept()
        _, command, family, block, told = proxy_headers.receive_v2(connection)
        assert (command, family, block) == (0x21, *proxy_headers.addresses(*ENDS)), name
        assert sockets.receive_exactly(connection, 1) == b"x", name
        if authority:
            assert told[proxy_headers.AUTHORITY] == authority
        if proxy_headers.SSL in told:
            proxy_headers.read_ssl(told[proxy_headers.SSL])
        client.close()
        connection.close()
    records = bitflow.wait_records(len(ODD))
    assert {record["reason"] for record in records} == {"completed"}
    assert env.records_path.read_text().isascii()


def test_a_second_header_is_data(env):
    """Of either version, behind either: it is the target's."""
    target = env.listen()
    bitflow, address = start(env, target.address, enable_proxy_header=True)
    first, second = proxy_headers.EXAMPLE, v2(*ENDS)
    for header, behind in ((first, second), (second, first), (v2(command=0x20), first), (second, second)):
        client = env.connect(address)
        client.sendall(header + behind)
        client.shutdown(socket.SHUT_WR)
        connection = target.accept()
        line = proxy_headers.receive_v1(connection)
        assert line != behind and line.startswith(b"PROXY TCP4 ")
        assert sockets.receive_to_end(connection) == behind
        connection.close()
        client.close()
    bitflow.wait_records(4)


# In one-byte segments, with TLS behind


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_and_tls_behind_it_are_understood_bytewise(env, pki, name):
    """Also the data behind the handshake: each byte is a segment."""
    header, declared = HEADERS[name]
    target = env.echo()
    bitflow, address = start(env, target.address, listener=tls_cases.tls_listener(pki.server))
    sock = env.connect(address)
    client = tls_raw.Tls(sock, tls_raw.client_context(pki.trusted), server_name="server.test")
    client.send = client.send_bytewise
    dribble(sock, header)
    client.handshake().round_trip()
    client.end()
    assert client.read_until_end() == (b"", "close_notify")
    sock.close()
    record = bitflow.wait_records(1)[0]
    assert (record["client"], record["reason"]) == (declared, "completed")
    assert record["client_tls"]["server_name"] == record["sni"] == "server.test"


@each_way_to_send
def test_the_server_name_is_found_behind_the_greatest_header(env, pki, send):
    """SNI passed through: header and ClientHello in one segment, or in one for each byte."""
    target = env.serve(tls_cases.tls_echo(tls_raw.server_context(pki.server)))
    bitflow, address = start(
        env,
        {"address": target.address, "name": "server.test"},
        connection_load_balancer="sni",
        listener={"client_hello_timeout": "60s"},
    )
    sock = env.connect(address)
    client = tls_raw.Tls(sock, tls_raw.client_context(pki.trusted), server_name="server.test")
    send(sock, padded(4096) + client.hello())
    client.handshake().round_trip()
    client.close()
    record = bitflow.wait_records(1)[0]
    assert (record["client"], record["sni"]) == ("192.0.2.1:1000", "server.test")


def test_a_header_within_tls_is_data(env, pki):
    """Where it is due before TLS: it is the target's, and does not stand in for the one that is due."""
    target = env.echo()
    bitflow, address = start(env, target.address, listener=tls_cases.tls_listener(pki.server))
    client = listener_kinds.Client(env, address, "both", pki)
    client.write(proxy_headers.EXAMPLE)
    assert client.read_exactly(len(proxy_headers.EXAMPLE)) == proxy_headers.EXAMPLE
    client.socket.close()
    sock = env.connect(address)
    own = sockets.local_name(sock)
    hello = tls_raw.Tls(sock, tls_raw.client_context(pki.trusted), server_name="server.test").hello()
    sock.sendall(hello)
    sockets.was_rejected(sock)
    record = bitflow.record_of(own)
    assert record["reason"] == "proxy_header_invalid" and "TLS" in record["error"], record


# Whom it declares, and the family of the target

MAPPED = "::ffff:192.0.2.1", "::ffff:192.0.2.2", 1, 2
FAMILIES = {
    "IPv6 in version 1": (v1("2001:db8::1", "2001:db8::2", 1, 2), "other"),
    "IPv6 in version 2": (v2("2001:db8::1", "2001:db8::2", 1, 2, crc=True), "other"),
    "IPv4 in version 1": (v1(*ENDS), "own"),
    "IPv4 in version 2": (v2(*ENDS), "own"),
    "mapped pairs are IPv4": (v2(*MAPPED), "own"),
    "mapped pairs in version 1": (v1(*MAPPED), "own"),
    "a mapped client at IPv6": (v2("::ffff:192.0.2.1", "2001:db8::2", 1, 2), "own"),
    "UNKNOWN": (b"PROXY UNKNOWN 2001:db8::1 2001:db8::2 1 2\r\n", "own"),
    "LOCAL": (v2("2001:db8::1", "2001:db8::2", 1, 2, command=0x20), "own"),
    "UNSPEC": (v2(), "own"),
}


def test_the_declared_family_chooses_that_of_the_target(env):
    """All ways of saying who a client is, which came by IPv4, to a target of both families."""
    port = sockets.free_port()
    targets = {"own": env.listen(f"127.0.0.1:{port}"), "other": env.listen(f"[::1]:{port}")}
    address = env.address()
    bitflow = env.start(
        proxy(
            address,
            {"address": f"dual.test:{port}", "connect_timeout": "20s"},
            listener={**TRUSTING, **PATIENT},
            enable_dual_stack=True,
        ),
        plan=hosts.plan(env, [("dual.test", "127.0.0.1"), ("dual.test", "::1")]),
    )
    for name, (header, family) in FAMILIES.items():
        client = env.connect(address)
        client.sendall(header + b"x")
        wait_for(lambda: any(each.has_pending() for each in targets.values()), f"a target is reached: {name}")
        assert targets[family].has_pending(), name
        connection = targets[family].accept()
        assert sockets.receive_exactly(connection, 1) == b"x"
        client.close()
        connection.close()
    bitflow.wait_records(len(FAMILIES))


def test_a_target_without_the_declared_family_is_reached_all_the_same(env):
    """IPv6 is declared, the target has only IPv4: it is reached, and told of the IPv6 client."""
    target = env.listen()
    port = target.address.rpartition(":")[2]
    address = env.address()
    env.start(
        proxy(
            address,
            f"four.test:{port}",
            listener={**TRUSTING, **PATIENT},
            enable_dual_stack=True,
            enable_proxy_header=True,
        ),
        plan=hosts.plan(env, [("four.test", "127.0.0.1")]),
    )
    client = env.connect(address)
    header = v1("2001:db8::1", "2001:db8::2", 65535, 1)
    dribble(client, header)
    connection = target.accept()
    assert proxy_headers.receive_v1(connection) == header
    holds_for(0.05, lambda: sockets.is_open(connection), "nothing else comes")


@proxy_headers.each_version
@pytest.mark.parametrize(
    "ends",
    [("::ffff:192.0.2.1", "2001:db8::2"), ("2001:db8::1", "::ffff:192.0.2.2")],
    ids=["mapped client", "mapped proxy"],
)
def test_half_a_mapped_pair_stays_as_it_is(env, ends, version):
    """A header can name one family only."""
    target = env.listen()
    bitflow, address = start(env, target.address, enable_proxy_header=True, proxy_header_version=version)
    client = env.connect(address)
    client.sendall(v2(*ends, 1, 2))
    connection = target.accept()
    if version == 1:  # the specification has no dots in IPv6 addresses
        written = [end.replace("192.0.2.", "c000:20") for end in ends]
        assert proxy_headers.receive_v1(connection) == v1(*written, 1, 2)
    else:
        _, _, family, block, _ = proxy_headers.receive_v2(connection)
        assert (family, block) == proxy_headers.addresses(*ends, 1, 2)
    client.close()
    connection.close()
    bitflow.wait_records(1)


# nginx names the family of the client that it was told of, and writes its own address as it is.
TWO_FAMILIES = {
    "a client of IPv6 over IPv4": ("127.0.0.1", "2001:db8::7", "[2001:db8::7]:5000"),
    "a client of IPv4 over IPv6": ("::1", "192.0.2.7", "192.0.2.7:5000"),
}


@proxy_headers.each_version
@pytest.mark.parametrize("name", TWO_FAMILIES)
def test_nginxs_lines_of_two_families_are_understood_and_sent_on(env, name, version):
    """To HAProxy and nginx, which understand them."""
    host, source, declared = TWO_FAMILIES[name]
    for receiver in (proxy_headers.HaproxyReceiver, proxy_headers.NginxReceiver):
        told = env.enter(receiver())
        bitflow, address = start(env, told.address, enable_proxy_header=True, proxy_header_version=version)
        sender = env.enter(proxy_headers.NginxSender(address, env.address(host)))
        client = env.connect(sender.address)
        client.sendall(v2(source, "2001:db8::9" if ":" in source else "192.0.2.9", 5000, 443))
        answer = proxy_headers.ask(client)
        mapped = [ipaddress.ip_address(answer[key]) for key in ("src", "dst")]
        expected = [ipaddress.ip_address(each if ":" in each else f"::ffff:{each}") for each in (source, host)]
        assert (mapped, answer["sport"]) == (expected, "5000"), answer
        client.close()
        records = wait_for(
            lambda: [record for record in bitflow.records() if record["local"] == sender.address and
                     record["client"] == declared],
            lambda: f"the record of {declared} at {sender.address}: {bitflow.records()}",
        )
        assert [record["proxy_header"]["version"] for record in records] == [1]


def test_a_malformed_line_of_two_families_is_rejected(env):
    """That another family is accepted there does not mean that anything is."""
    target = env.listen()
    bitflow, address = start(env, target.address)
    for line, words in (
        (b"TCP6 2001:db8::7 nowhere 5000 443", "destination address"),
        (b"TCP6 2001:db8::7 198.51.100.256 5000 443", "destination address"),
        (b"TCP6 2001:db8::7 198.51.100.9. 5000 443", "destination address"),
        (b"TCP4 192.0.2.7 2001:db8::9::1 5000 443", "destination address"),
        (b"TCP4 192.0.2.7 [2001:db8::9] 5000 443", "destination address"),
        (b"TCP4 192.0.2.7 fe80::1%lo 5000 443", "destination address"),
        (b"TCP6 2001:db8::7 198.51.100.9 5000 65536", "destination port"),
        (b"TCP6 2001:db8::7 198.51.100.9 5000", "source port"),
        (b"TCP6 2001:db8::7  198.51.100.9 5000 443", "destination address"),
    ):
        record = rejected(env, bitflow, address, b"PROXY " + line + b"\r\nhello")
        assert record["reason"] == "proxy_header_invalid" and words in record["error"], (line, record["error"])
    assert not target.has_pending()
