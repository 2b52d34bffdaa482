"""Invalid key shares and signatures, sent raw: each is refused, its sender is told, and the process lives."""

import subprocess

import pytest

import programs
import sockets
import tls_raw
import tls_wire as wire
from environment import proxy
from tls_cases import Shared, tls_client, tls_listener, tls_target
from tls_wire import P256, P384, X25519
from waiting import pace

# Alerts that blame the share. RFC 8446 4.2.8.2 and RFC 8422 5.11 want illegal_parameter; mbedTLS sends others, too.
ALERTS = {"illegal_parameter", "handshake_failure", "decode_error", "decrypt_error"}
RULES = "the client broke the rules of TLS"
NAMES = {P256: "P-256", P384: "P-384", X25519: "X25519"}
# P-384 takes the same path as P-256: a few cases suffice.
BAD = [
    *((P256, what) for what in wire.bad_points(P256)),
    *((P384, what) for what in ("off the curve", "infinity", "a byte too short")),
    *((X25519, what) for what in wire.bad_shares()),
]


def shares(cases):
    return pytest.mark.parametrize("group, what", cases, ids=[f"{NAMES[group]} {what}" for group, what in cases])


# mbedTLS takes compressed points in 1.2, though nobody offers them; it checks them like others.
OF_1_2 = shares([case for case in BAD if case[1] != "compressed"])


def bad(group, what):
    return (wire.bad_shares() if group == X25519 else wire.bad_points(group))[what]


class Fixture(Shared):
    """A bitflow that terminates TLS on two listeners, and speaks it to a raw target behind another."""

    def __init__(self, env, pki):
        self.target = env.listen()
        self.context = tls_raw.client_context(pki.root.certificate)
        super().__init__(
            env,
            proxy(env.address(), env.echo().address, name="ecdsa", listener=tls_listener(pki.server)),
            proxy(env.address(), env.refusing(), name="rsa", listener=tls_listener(pki.servers["rsa"])),
            proxy(env.address(), tls_target(self.target.address, pki.trusted), name="behind"),
        )

    def assert_lives(self):
        client = tls_client(self.env, self.addresses["ecdsa"], self.context)
        client.round_trip()
        client.close()


@pytest.fixture(scope="module")
def whole(module_env, pki):
    return Fixture(module_env, pki)


@pytest.fixture
def shared(env, whole):
    """After the test it must still serve others."""
    whole.begin()
    yield whole
    env.stack.close()
    whole.assert_lives()


@pytest.fixture
def raw_client(env, shared):
    return wire.Wire(env.connect(shared.addresses["ecdsa"], timeout=5))


@pytest.fixture
def raw_client_of_1_2(env, shared):
    """A client of the listener with an RSA certificate: for an ECDSA one its hello would have to offer that curve."""
    return wire.Wire(env.connect(shared.addresses["rsa"], timeout=5))


def assert_refused_client(shared, client, refusals, name="ecdsa"):
    told = client.alert()
    assert told in refusals, told
    record = shared.record(name)
    assert record["reason"] == "client_handshake_failed" and record["error"].startswith(RULES), record
    assert record["target"] is None, "the target was dialled for a client that was refused"
    return record


@shares(BAD)
def test_an_invalid_key_share_of_a_client_is_refused(shared, raw_client, group, what):
    raw_client.socket.sendall(wire.record(wire.client_hello(group, bad(group, what)), version=0x0301))
    record = assert_refused_client(shared, raw_client, {"illegal_parameter"})
    assert record["error"].startswith(RULES + ": its key share"), record


def test_a_record_that_is_too_long_is_not_blamed_on_the_key_share(shared, raw_client):
    """mbedTLS has the same error for both."""
    hello = wire.record(wire.client_hello(P256, wire.GENERATORS[P256]), version=0x0301)
    raw_client.socket.sendall(hello[:3] + b"\xff\xff" + hello[5:])
    assert raw_client.alert() == "record_overflow"
    assert "key share" not in shared.record("ecdsa")["error"]


@pytest.mark.parametrize("group", [P256, P384, X25519], ids=NAMES.get)
def test_a_valid_key_share_of_a_client_is_answered(shared, raw_client, group):
    """So it is the share alone that the hellos above are refused for."""
    raw_client.socket.sendall(wire.record(wire.client_hello(group, wire.GENERATORS[group]), version=0x0301))
    kind, body = raw_client.read_message()
    assert kind == wire.SERVER_HELLO and wire.server_share(group, b"")[4:6] in body
    raw_client.socket.close()


NO_ALGORITHMS = {"none named": None, "SHA-1 alone": "02010203"}


@pytest.mark.parametrize("signatures", NO_ALGORITHMS.values(), ids=NO_ALGORITHMS)
@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_nothing_is_signed_with_sha_1_for_a_tls_1_2_client(env, shared, kind, signatures):
    """Which a client that names no algorithms asks for (RFC 5246 7.4.1.4.1), and RFC 9155 forbids."""
    client = wire.Wire(env.connect(shared.addresses[kind], timeout=5))
    hello = wire.client_hello(P256, b"", is_1_3=False, signatures=signatures)
    client.socket.sendall(wire.record(hello, version=0x0301))
    assert client.alert() == "handshake_failure"
    record = shared.record(kind)
    assert record["reason"] == "client_handshake_failed", record
    assert record["error"] == "no cipher suite, group or signature algorithm in common"


def test_a_tls_1_3_client_has_to_name_signature_algorithms(shared, raw_client):
    hello = wire.client_hello(P256, wire.GENERATORS[P256], signatures=None)
    raw_client.socket.sendall(wire.record(hello, version=0x0301))
    assert raw_client.alert() in ("missing_extension", "handshake_failure")
    assert shared.record("ecdsa")["reason"] == "client_handshake_failed"


@OF_1_2
def test_an_invalid_key_of_a_tls_1_2_client_is_refused(shared, raw_client_of_1_2, group, what):
    client = raw_client_of_1_2
    client.socket.sendall(wire.record(wire.client_hello(group, b"", is_1_3=False), version=0x0301))
    while client.read_message()[0] != wire.SERVER_HELLO_DONE:
        pass
    key = wire.message(wire.CLIENT_KEY_EXCHANGE, wire.vector(1, bad(group, what)))
    change = wire.record(b"\x01", kind=wire.CHANGE_CIPHER_SPEC)
    client.socket.sendall(wire.record(key) + change + wire.record(bytes(40)))
    # If the key were accepted, the alert would be bad_record_mac, for a Finished that does not decrypt.
    assert_refused_client(shared, client, ALERTS, "rsa")


# As a client


@pytest.fixture
def raw_target(env, shared):
    """A raw target's end, and the client that waits behind bitflow."""
    client = env.connect(shared.addresses["behind"])
    connection = env.keep(shared.target.accept())
    connection.settimeout(5 * pace())
    return wire.Wire(connection), client


def assert_refused_target(shared, target, client, alerts=ALERTS):
    told = target.alert()
    target.socket.close()
    assert told in alerts, told
    sockets.was_rejected(client)
    record = shared.record("behind")
    assert record["reason"] == "target_handshake_failed" and record["error"], record


def send_share(target, group, what):
    """For a group that bitflow sent no share of, a HelloRetryRequest comes first."""
    hello = target.read_hello()
    assert group in hello.groups(), "this group is not offered to targets"
    if int.from_bytes(hello.extensions[wire.KEY_SHARE][2:4], "big") != group:
        extensions = wire.selected_1_3() + wire.retry_for(group)
        target.socket.sendall(wire.record(wire.server_hello(hello.session, extensions=extensions, random=wire.RETRY)))
        target.read_hello()
    extensions = wire.selected_1_3() + wire.server_share(group, bad(group, what))
    target.socket.sendall(wire.record(wire.server_hello(hello.session, extensions=extensions)))


@shares(BAD)
def test_an_invalid_key_share_of_a_server_is_refused(shared, raw_target, group, what):
    target, client = raw_target
    send_share(target, group, what)
    assert_refused_target(shared, target, client)


def der(identity):
    return wire.vector(3, wire.vector(3, identity.der))


def sign(identity, data):
    command = [programs.find("openssl"), "dgst", "-sha256", "-sign", str(identity.key)]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


# TLS_ECDHE_{ECDSA,RSA}_WITH_AES_128_GCM_SHA256
ECDSA, RSA = 0xC02B, 0xC02F
SUITES = {"p256": ECDSA, "rsa": RSA}


def flight_of_1_2(hello, identity, suite, group, share, signature=None):
    """A TLS 1.2 server's answer, correctly signed unless a signature is given."""
    server_random = b"\x11" * 32
    parameters = b"\x03" + group.to_bytes(2, "big") + wire.vector(1, share)
    if signature is None:
        signature = sign(identity, hello.random + server_random + parameters)
    algorithm = b"\x04\x03" if suite == ECDSA else b"\x04\x01"
    extensions = wire.extension(wire.POINT_FORMATS, wire.vector(1, b"\0"))
    return b"".join([
        wire.record(wire.server_hello(hello.session[:0], suite=suite, random=server_random, extensions=extensions)),
        wire.record(wire.message(wire.CERTIFICATE, der(identity))),
        wire.record(wire.message(wire.SERVER_KEY_EXCHANGE, parameters + algorithm + wire.vector(2, signature))),
        wire.record(wire.message(wire.SERVER_HELLO_DONE, b"")),
    ])


@OF_1_2
def test_an_invalid_key_of_a_tls_1_2_server_is_refused(shared, pki, raw_target, group, what):
    """Its signature is good."""
    target, client = raw_target
    hello = target.read_hello()
    target.socket.sendall(flight_of_1_2(hello, pki.server, ECDSA, group, bad(group, what)))
    assert_refused_target(shared, target, client, ALERTS | {"internal_error"})


@pytest.mark.parametrize("kind", SUITES)
def test_a_valid_key_of_a_tls_1_2_server_is_answered(shared, pki, raw_target, kind):
    """With a good point and signature the handshake goes on, to the ClientKeyExchange."""
    target, client = raw_target
    hello = target.read_hello()
    target.socket.sendall(flight_of_1_2(hello, pki.servers[kind], SUITES[kind], P256, wire.GENERATORS[P256]))
    assert target.read_message()[0] == wire.CLIENT_KEY_EXCHANGE
    client.close()


ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def integer(value):
    """DER's INTEGER."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return b"\x02" + wire.vector(1, data)


def ecdsa(r, s):
    return b"\x30" + wire.vector(1, integer(r) + integer(s))


# They include what CVE-2022-21449 let through.
ECDSA_SIGNATURES = {
    "zeros": ecdsa(0, 0), "r of zero": ecdsa(0, 1), "s of zero": ecdsa(1, 0), "ones": ecdsa(1, 1),
    "the order": ecdsa(ORDER, ORDER), "beyond the order": ecdsa(ORDER + 1, ORDER + 1), "large": ecdsa(2**400, 2**400),
    "negative": b"\x30\x06\x02\x01\xff\x02\x01\xff", "no integers": b"\x30\x00", "no bytes": b"", "noise": b"\x5a" * 70,
}


@pytest.mark.parametrize("what", ECDSA_SIGNATURES)
def test_an_invalid_ecdsa_signature_is_refused(shared, pki, raw_target, what):
    target, client = raw_target
    hello = target.read_hello()
    signature = ECDSA_SIGNATURES[what]
    target.socket.sendall(flight_of_1_2(hello, pki.server, ECDSA, P256, wire.GENERATORS[P256], signature))
    assert_refused_target(shared, target, client, {"decrypt_error"})


def modulus(identity):
    text = programs.run(["openssl", "x509", "-in", str(identity.certificate), "-noout", "-modulus"]).stdout
    return int(text.strip().partition("=")[2], 16)


RSA_SIGNATURES = {
    "zero": lambda n: 0, "one": lambda n: 1, "the modulus less one": lambda n: n - 1, "the modulus": lambda n: n,
    "the modulus and one": lambda n: n + 1, "all ones": lambda n: 2**2048 - 1,
    "noise": lambda n: int("5a" * 256, 16) % n,
}


@pytest.mark.parametrize("what", [*RSA_SIGNATURES, "a byte too short", "a byte too long", "no bytes"])
def test_an_invalid_rsa_signature_is_refused(shared, pki, raw_target, what):
    target, client = raw_target
    hello, identity = target.read_hello(), pki.servers["rsa"]
    if what in RSA_SIGNATURES:
        signature = RSA_SIGNATURES[what](modulus(identity)).to_bytes(256, "big")
    else:
        signature = b"\x01" * {"a byte too short": 255, "a byte too long": 257, "no bytes": 0}[what]
    target.socket.sendall(flight_of_1_2(hello, identity, RSA, P256, wire.GENERATORS[P256], signature))
    assert_refused_target(shared, target, client, {"decrypt_error"})


@pytest.mark.parametrize("kind", SUITES)
def test_a_good_signature_of_another_handshake_is_refused(shared, pki, raw_target, kind):
    target, client = raw_target
    hello, identity = target.read_hello(), pki.servers[kind]
    signature = sign(identity, b"another handshake")
    target.socket.sendall(flight_of_1_2(hello, identity, SUITES[kind], P256, wire.GENERATORS[P256], signature))
    assert_refused_target(shared, target, client, {"decrypt_error"})
