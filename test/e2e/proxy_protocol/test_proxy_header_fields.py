"""Which of version 2's fields a target is sent: proxy_header_tlvs, and those of the client's own header that
proxy_header_pass_tlvs sends on. Receivers: the tests' own, HAProxy, and Apache, which has little room."""

import pytest

import bitflow_process
import configs
import proxy_headers
import sockets
import tls_cases
import tls_raw
from environment import proxy
from proxy_headers import ALPN, AUTHORITY, CRC32C, NOOP, SSL, UNIQUE_ID, start_trusting, tlv, v2

VERSION_2 = {"enable_proxy_header": True, "proxy_header_version": 2}
ENDS = ("203.0.113.1", "192.0.2.1", 1, 443)
TRUSTED = {"proxy_protocol_sources": ["127.0.0.0/8"]}
VERSION, CN, CIPHER, NETNS = 0x21, 0x22, 0x23, 0x30


def listener_of(pki):
    return tls_cases.tls_listener(
        pki.server.entry(authority=str(pki.root.certificate)), verify_mode="strict", application_protocols=["h2"]
    )


@pytest.mark.parametrize("wanted, fields, inside", [
    (None, {ALPN, AUTHORITY, UNIQUE_ID, SSL, CRC32C}, {VERSION, CN, CIPHER}),
    ([], set(), None),
    (["alpn"], {ALPN}, None),
    (["authority"], {AUTHORITY}, None),
    (["unique-id"], {UNIQUE_ID}, None),
    (["crc32c"], {CRC32C}, None),
    (["ssl"], {SSL}, {VERSION}),
    (["ssl-cipher"], {SSL}, {VERSION, CIPHER}),
    (["cert-cn"], {SSL}, {VERSION, CN}),
    (["ssl", "cert-cn", "ssl-cipher", "crc32c"], {SSL, CRC32C}, {VERSION, CN, CIPHER}),
    (["authority", "authority", "unique-id"], {AUTHORITY, UNIQUE_ID}, None),
])
def test_the_fields_that_are_asked_for_are_sent(env, pki, wanted, fields, inside):
    target, address = env.listen(), env.address()
    options = {} if wanted is None else {"proxy_header_tlvs": wanted}
    env.start(proxy(address, target.address, listener=listener_of(pki), **VERSION_2, **options))
    client = tls_cases.tls_client(
        env, address, tls_raw.client_context(pki.trusted, pki.client, protocols=["h2"])
    )
    connection = target.accept()
    _, command, family, block, sent = proxy_headers.receive_v2(connection)  # a checksum that is there is right
    assert set(sent) == fields
    own = client.socket.getsockname()[1], client.socket.getpeername()[1]
    assert (command, (family, block)) == (0x21, proxy_headers.addresses("127.0.0.1", "127.0.0.1", *own))
    if inside is not None:
        bits, verify, told = proxy_headers.read_ssl(sent[SSL])
        assert (bits, verify, set(told)) == (7, 0, inside)
    client.write(b"and the rest")
    assert sockets.receive_exactly(connection, 12) == b"and the rest"


def test_haproxy_reads_a_header_of_addresses_alone(env):
    receiver, address = env.enter(proxy_headers.HaproxyReceiver()), env.address()
    env.start(proxy(address, receiver.address, **VERSION_2, proxy_header_tlvs=[]))
    client = env.connect(address, source="127.0.0.7")
    own = client.getsockname()[1]
    answer = proxy_headers.ask(client)
    assert (answer["src"], answer["sport"], answer["id"]) == ("127.0.0.7", str(own), "")


LONG_NAME = ".".join(["label-of-a-name"] * 14)


@pytest.mark.parametrize("options, is_taken", [
    ({}, False),
    ({"proxy_header_tlvs": []}, True),
    ({"proxy_header_tlvs": ["ssl", "ssl-cipher", "unique-id", "crc32c"]}, True),
], ids=["all fields", "no fields", "without the server name"])
def test_apache_takes_a_header_that_fits_its_216_bytes(env, pki, options, is_taken):
    """mod_remoteip closes the connection of one that does not; the address that it takes is the client's."""
    receiver, address = env.enter(proxy_headers.ApacheReceiver()), env.address()
    listener = tls_cases.tls_listener(pki.server, application_protocols=["http/1.1"])
    bitflow = env.start(proxy(address, receiver.address, listener=listener, **VERSION_2, **options))
    sock = env.connect(address, source="127.0.0.9")
    client = tls_raw.Tls(sock, tls_raw.client_context(), server_name=LONG_NAME).handshake()
    client.write(b"GET /told HTTP/1.0\r\n\r\n")
    answer, _ = client.read_until_end()
    if is_taken:
        assert b" 200 " in answer and b"src=127.0.0.9" in answer, answer
    else:
        assert answer == b""
        client.socket.close()  # it may have been an orderly end
        assert bitflow.wait_records(1)[0]["bytes_from_target"] == 0
        assert receiver.process.poll() is None


# What came in with the client's header


OWN = tlv(ALPN, b"forged") + tlv(AUTHORITY, b"forged.test") + tlv(UNIQUE_ID, b"forged") + tlv(NOOP, b"\0\0")
OWN += tlv(SSL, bytes([7]) + bytes(4) + tlv(CN, b"forged"))
# As if they were parts of SSL.
OWN += b"".join(tlv(kind, b"forged") for kind in range(0x21, 0x30)) + tlv(NETNS, b"forged")
OTHERS = {0xEA: b"\x01vpce-08d2bf15fac5001c9", 0xE0: bytes(range(8)), 0xEE: b"", 0x10: b"new", 0xFF: b"\xff"}


def sent_by(env, address, target, fields, ends=ENDS):
    """What the target is told of a client whose header has these fields, in their order."""
    client = env.connect(address)
    client.sendall(v2(*ends, tlvs=fields, crc=True) + b"x")
    connection = target.accept()
    header, *_, sent = proxy_headers.receive_v2(connection)
    assert sockets.receive_exactly(connection, 1) == b"x"
    return header, sent


def test_unknown_fields_are_passed_on_and_no_others(env):
    target = env.listen()
    _, address = start_trusting(
        env, target.address, listener=TRUSTED, **VERSION_2, proxy_header_tlvs=["crc32c"], proxy_header_pass_tlvs=True
    )
    others = b"".join(tlv(kind, value) for kind, value in OTHERS.items())
    for fields in (others + OWN, OWN + others):
        header, sent = sent_by(env, address, target, fields)
        assert {kind: value for kind, value in sent.items() if kind != CRC32C} == OTHERS
        assert CRC32C in sent and others in header and b"forged" not in header


def test_without_the_key_unknown_fields_are_left_out(env):
    target = env.listen()
    _, address = start_trusting(env, target.address, listener=TRUSTED, **VERSION_2)
    sent = sent_by(env, address, target, tlv(0xEA, b"x"))[1]
    assert set(sent) == {UNIQUE_ID, CRC32C}


def test_facts_of_tls_that_are_known_here_cannot_be_made_up(env, pki):
    """TLS ends here: what the header says of it, in whatever field, is not told."""
    target = env.listen()
    listener = tls_cases.tls_listener(pki.server, listener=TRUSTED)
    _, address = start_trusting(env, target.address, listener=listener, **VERSION_2, proxy_header_pass_tlvs=True)
    sock = env.connect(address)
    sock.sendall(v2(*ENDS, tlvs=OWN + tlv(0xE1, b"passed")))
    tls_raw.Tls(sock, tls_raw.client_context(), server_name="server.test").handshake()
    sent = proxy_headers.receive_v2(target.accept())[4]
    bits, verify, inside = proxy_headers.read_ssl(sent[SSL])
    assert (bits, verify != 0, CN in inside) == (1, True, False)
    assert sent[AUTHORITY] == b"server.test" and sent[0xE1] == b"passed"
    assert set(sent) <= {ALPN, AUTHORITY, UNIQUE_ID, SSL, CRC32C, 0xE1}


@pytest.mark.parametrize("sizes, passed", [
    ([1021], [1021]), ([1022], []), ([1000, 19, 18], [1000, 18]), ([3000, 5], [5]), ([0] * 342, [0] * 341),
])
def test_what_is_passed_on_is_bounded(env, sizes, passed):
    target = env.listen()
    _, address = start_trusting(
        env, target.address, listener=TRUSTED, **VERSION_2, proxy_header_tlvs=[], proxy_header_pass_tlvs=True
    )
    header, _ = sent_by(env, address, target, b"".join(tlv(0xE5, b"y" * size) for size in sizes))
    expected = b"".join(tlv(0xE5, b"y" * size) for size in passed)
    assert header[28:] == expected and len(expected) <= 1024


def test_headers_without_fields_to_pass_on_pass_none(env):
    target = env.listen()
    _, address = start_trusting(
        env, target.address, listener=TRUSTED, **VERSION_2, proxy_header_tlvs=[], proxy_header_pass_tlvs=True
    )
    for header in (proxy_headers.v1(*ENDS), v2(command=0x20, tlvs=tlv(0xEA, b"x"))):
        client = env.connect(address)
        client.sendall(header)
        assert proxy_headers.receive_v2(target.accept())[4] == {}


def test_fields_pass_through_two_of_us(env):
    """The second one trusts the first, whose checksum and id are its own."""
    target, second = env.listen(), env.address()
    passing = {**VERSION_2, "proxy_header_pass_tlvs": True}
    env.start(proxy(second, target.address, listener={**proxy_headers.TRUSTING, **TRUSTED}, **passing), name="b.yaml")
    _, address = start_trusting(env, second, listener=TRUSTED, **passing)
    sent = sent_by(env, address, target, tlv(0xEA, b"vpce"))[1]
    assert sent[0xEA] == b"vpce" and set(sent) == {0xEA, UNIQUE_ID, CRC32C}


# The configuration


@pytest.mark.parametrize("word, near", [("cert_cn", "cert-cn"), ("SSL", "ssl"), ("authoritiy", "authority")])
def test_a_field_that_there_is_not_is_refused_at_its_place(env, word, near):
    text = configs.with_line("options", f"proxy_header_tlvs: [alpn, {word}]")
    configs.rejects(env, text, path="server.proxies[0].options.proxy_header_tlvs[1]", mentions=["one of", near])


def test_passing_on_needs_to_know_from_whom(env):
    entry = proxy(env.address(), env.address(), listener=proxy_headers.TRUSTING, **VERSION_2,
                  proxy_header_pass_tlvs=True)
    done = bitflow_process.run("--check", "--config", env.config(entry))
    assert done.returncode == 2
    assert "options.proxy_header_pass_tlvs: needs the listener's proxy_protocol_sources" in done.stderr
    for key in ("proxy_protocol_sources", "authorized_sources"):
        entry["listener"][key] = ["127.0.0.1"]
        done = bitflow_process.run("--check", "--config", env.config(entry))
        assert done.returncode == 0, done.stderr
        del entry["listener"][key]
