"""Key shares and signatures that are none, sent raw: each is refused, its sender is told, and the process lives."""

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

# What says that the share is to blame. RFC 8446 4.2.8.2 and RFC 8422 5.11 have illegal_parameter; mbedTLS, others.
ALERTS = {"illegal_parameter", "handshake_failure", "decode_error", "decrypt_error"}
RULES = "the client broke the rules of TLS"
NAMES = {P256: "P-256", P384: "P-384", X25519: "X25519"}
# P-384 goes the same way as P-256.
BAD = [
    *((P256, what) for what in wire.bad_points(P256)),
    *((P384, what) for what in ("off the curve", "infinity", "a byte too short")),
    *((X25519, what) for what in wire.bad_shares()),
]


def shares(cases):
    return pytest.mark.parametrize("group, what", cases, ids=[f"{NAMES[group]} {what}" for group, what in cases])


# mbedTLS takes compressed points in 1.2, though nobody offers them; they are checked like others.
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
    """And after the test the look whether others are served."""
    whole.begin()
    yield whole
    env.stack.close()
    whole.assert_lives()


@pytest.fixture
def raw_client(env, shared):
    return wire.Wire(env.connect(shared.addresses["ecdsa"], timeout=5))


@pytest.fixture
def raw_client_of_1_2(env, shared):
    """One that speaks to the RSA certificate: of an ECDSA one the curve would have to be offered, too."""
    return wire.Wire(env.connect(shared.addresses["rsa"], timeout=5))


def assert_refused_client(shared, client, refusals, name="ecdsa"):
    told = client.alert()
    assert told in refusals, told
    record = shared.record(name)
    assert record["reason"] == "client_handshake_failed" and record["error"].startswith(RULES), record
    assert record["target"] is None, "the target was dialled for it"
    return record


@shares(BAD)
def test_share_of_a_client_that_is_none(shared, raw_client, group, what):
    raw_client.socket.sendall(wire.record(wire.client_hello(group, bad(group, what)), version=0x0301))
    record = assert_refused_client(shared, raw_client, {"illegal_parameter"})
    assert record["error"].startswith(RULES + ": its key share"), record


def test_a_record_that_does_not_fit_is_no_bad_share(shared, raw_client):
    """mbedTLS has the same error for both."""
    hello = wire.record(wire.client_hello(P256, wire.GENERATORS[P256]), version=0x0301)
    raw_client.socket.sendall(hello[:3] + b"\xff\xff" + hello[5:])
    assert raw_client.alert() == "record_overflow"
    assert "key share" not in shared.record("ecdsa")["error"]


@pytest.mark.parametrize("group", [P256, P384, X25519], ids=NAMES.get)
def test_share_of_a_client_that_is_one(shared, raw_client, group):
    """The other way round: what these tests send is refused for the share alone."""
    raw_client.socket.sendall(wire.record(wire.client_hello(group, wire.GENERATORS[group]), version=0x0301))
    kind, body = raw_client.read_message()
    assert kind == wire.SERVER_HELLO and wire.server_share(group, b"")[4:6] in body
    raw_client.socket.close()


@OF_1_2
def test_key_of_a_1_2_client_that_is_none(shared, raw_client_of_1_2, group, what):
    client = raw_client_of_1_2
    client.socket.sendall(wire.record(wire.client_hello(group, b"", is_1_3=False), version=0x0301))
    while client.read_message()[0] != wire.SERVER_HELLO_DONE:
        pass
    key = wire.message(wire.CLIENT_KEY_EXCHANGE, wire.vector(1, bad(group, what)))
    change = wire.record(b"\x01", kind=wire.CHANGE_CIPHER_SPEC)
    client.socket.sendall(wire.record(key) + change + wire.record(bytes(40)))
    # Were it taken, a Finished that does not decrypt would be bad_record_mac.
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
    """In a group that bitflow did not send a share of, a HelloRetryRequest comes first."""
    hello = target.read_hello()
    assert group in hello.groups(), "this group is not offered to targets"
    if int.from_bytes(hello.extensions[wire.KEY_SHARE][2:4], "big") != group:
        extensions = wire.selected_1_3() + wire.retry_for(group)
        target.socket.sendall(wire.record(wire.server_hello(hello.session, extensions=extensions, random=wire.RETRY)))
        target.read_hello()
    extensions = wire.selected_1_3() + wire.server_share(group, bad(group, what))
    target.socket.sendall(wire.record(wire.server_hello(hello.session, extensions=extensions)))


@shares(BAD)
def test_share_of_a_server_that_is_none(shared, raw_target, group, what):
    target, client = raw_target
    send_share(target, group, what)
    assert_refused_target(shared, target, client)


def der(identity):
    return wire.vector(3, wire.vector(3, identity.der))


def sign(identity, data):
    command = [programs.find("openssl"), "dgst", "-sha256", "-sign", str(identity.key)]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def flight_of_1_2(hello, identity, suite, group, share, signature=None):
    """What a server of TLS 1.2 answers: signed as it should be, unless a signature is given."""
    server_random = b"\x11" * 32
    parameters = b"\x03" + group.to_bytes(2, "big") + wire.vector(1, share)
    if signature is None:
        signature = sign(identity, hello.random + server_random + parameters)
    algorithm = b"\x04\x03" if suite == 0xC02B else b"\x04\x01"
    extensions = wire.extension(wire.POINT_FORMATS, wire.vector(1, b"\0"))
    return b"".join([
        wire.record(wire.server_hello(hello.session[:0], suite=suite, random=server_random, extensions=extensions)),
        wire.record(wire.message(wire.CERTIFICATE, der(identity))),
        wire.record(wire.message(wire.SERVER_KEY_EXCHANGE, parameters + algorithm + wire.vector(2, signature))),
        wire.record(wire.message(wire.SERVER_HELLO_DONE, b"")),
    ])


@OF_1_2
def test_key_of_a_1_2_server_that_is_none(shared, pki, raw_target, group, what):
    """Signed as it should be."""
    target, client = raw_target
    hello = target.read_hello()
    target.socket.sendall(flight_of_1_2(hello, pki.server, 0xC02B, group, bad(group, what)))
    assert_refused_target(shared, target, client, ALERTS | {"internal_error"})


@pytest.mark.parametrize("kind", ["p256", "rsa"])
def test_key_of_a_1_2_server_that_is_one(shared, pki, raw_target, kind):
    """The other way round: with a good point and signature it goes on, to its ClientKeyExchange."""
    target, client = raw_target
    hello = target.read_hello()
    suite = 0xC02B if kind == "p256" else 0xC02F
    target.socket.sendall(flight_of_1_2(hello, pki.servers[kind], suite, P256, wire.GENERATORS[P256]))
    assert target.read_message()[0] == wire.CLIENT_KEY_EXCHANGE
    client.close()


ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def integer(value):
    """DER's INTEGER."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return b"\x02" + wire.vector(1, data)


def ecdsa(r, s):
    return b"\x30" + wire.vector(1, integer(r) + integer(s))


# Among them what CVE-2022-21449 let through.
ECDSA_SIGNATURES = {
    "zeros": ecdsa(0, 0), "r of zero": ecdsa(0, 1), "s of zero": ecdsa(1, 0), "ones": ecdsa(1, 1),
    "the order": ecdsa(ORDER, ORDER), "beyond the order": ecdsa(ORDER + 1, ORDER + 1), "large": ecdsa(2**400, 2**400),
    "negative": b"\x30\x06\x02\x01\xff\x02\x01\xff", "no integers": b"\x30\x00", "no bytes": b"", "noise": b"\x5a" * 70,
}


@pytest.mark.parametrize("what", ECDSA_SIGNATURES)
def test_ecdsa_signature_that_is_none(shared, pki, raw_target, what):
    target, client = raw_target
    hello = target.read_hello()
    signature = ECDSA_SIGNATURES[what]
    target.socket.sendall(flight_of_1_2(hello, pki.server, 0xC02B, P256, wire.GENERATORS[P256], signature))
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
def test_rsa_signature_that_is_none(shared, pki, raw_target, what):
    target, client = raw_target
    hello, identity = target.read_hello(), pki.servers["rsa"]
    if what in RSA_SIGNATURES:
        signature = RSA_SIGNATURES[what](modulus(identity)).to_bytes(256, "big")
    else:
        signature = b"\x01" * {"a byte too short": 255, "a byte too long": 257, "no bytes": 0}[what]
    target.socket.sendall(flight_of_1_2(hello, identity, 0xC02F, P256, wire.GENERATORS[P256], signature))
    assert_refused_target(shared, target, client, {"decrypt_error"})


@pytest.mark.parametrize("kind", ["p256", "rsa"])
def test_good_signature_of_another_handshake(shared, pki, raw_target, kind):
    target, client = raw_target
    hello, identity = target.read_hello(), pki.servers[kind]
    signature = sign(identity, b"another handshake")
    suite = 0xC02B if kind == "p256" else 0xC02F
    target.socket.sendall(flight_of_1_2(hello, identity, suite, P256, wire.GENERATORS[P256], signature))
    assert_refused_target(shared, target, client, {"decrypt_error"})
