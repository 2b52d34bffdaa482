"""Two certificates for the same names, one RSA and one ECDSA: a client gets the one that it can verify, whatever it
asks for. Whose order of cipher suites counts. Peers: OpenSSL, GnuTLS, curl."""

import pytest

import peers
import tls_peers
from environment import proxy
from tls_cases import Shared, tls_listener
from tls_peers import VERSIONS

NAMES = "DNS:dual.test, DNS:www.dual.test, IP:127.0.0.1"
SWAPPED = "IP:127.0.0.1, DNS:WWW.dual.test, DNS:dual.test"
ORDERS = {"rsa first": ("rsa", "p256"), "ecdsa first": ("p256", "rsa")}
# Of a client that can verify one kind of key only.
OPENSSL_ABILITIES = {
    ("rsa", "TLSv1.3"): ["-sigalgs", "RSA-PSS+SHA256:RSA+SHA256"],
    ("rsa", "TLSv1.2"): ["-cipher", "ECDHE-RSA-AES128-GCM-SHA256"],
    ("p256", "TLSv1.3"): ["-sigalgs", "ECDSA+SHA256"],
    ("p256", "TLSv1.2"): ["-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
}
GNUTLS_ABILITIES = {
    "rsa": "-SIGN-ALL:+SIGN-RSA-PSS-RSAE-SHA256:+SIGN-RSA-SHA256",
    "p256": "-SIGN-ALL:+SIGN-ECDSA-SECP256R1-SHA256:+SIGN-ECDSA-SHA256",
}
ABILITIES = pytest.mark.parametrize("kind, version", OPENSSL_ABILITIES)
ORDER = pytest.mark.parametrize("order", ORDERS)
# The last ones are nobody's.
NAME = pytest.mark.parametrize("name", ["dual.test", None, "127.0.0.1", "unknown.test"], ids=str)


class Pairs:
    """For each kind of key, the identities that a listener may have."""

    def __init__(self, pki):
        self.root = pki.root
        self.dual = {
            "rsa": pki.root.issue(pki.keys["rsa"], "rsa pair", NAMES),
            "p256": pki.root.issue(pki.keys["p256"], "p256 pair", SWAPPED),
        }
        self.wider = pki.root.issue(pki.keys["rsa"], "wider", f"{NAMES}, DNS:more.test")
        self.narrower = pki.root.issue(pki.keys["rsa"], "narrower", "DNS:dual.test")
        self.other = pki.root.issue(pki.keys["rsa"], "other", "DNS:other.test")


@pytest.fixture(scope="module")
def pairs(pki):
    return Pairs(pki)


@pytest.fixture(scope="module")
def shared(module_env, pairs):
    target = module_env.enter(peers.Server(tls_peers.echo_or_page)).address
    lists = {order: [pairs.dual[kind] for kind in kinds] for order, kinds in ORDERS.items()}
    ec, others = pairs.dual["p256"], [pairs.other, pairs.narrower]
    lists["narrower"] = [ec, *others]
    lists["wider"] = [ec, *others, pairs.wider]
    return Shared(module_env, *(
        proxy(module_env.address(), target, name=name, listener=tls_listener(*identities))
        for name, identities in lists.items()
    ))


def subject(identity):
    return identity.subject.removeprefix("CN=")


@ABILITIES
@ORDER
@NAME
def test_an_openssl_client_gets_the_certificate_that_it_can_verify(front, pairs, order, name, kind, version):
    more = OPENSSL_ABILITIES[kind, version]
    with tls_peers.openssl_client(front.addresses[order], name=name, version=version, more=more) as client:
        client.wait_said(rf"subject=O = bitflow, CN = {kind} pair\n")
        client.echoes(b"hello bitflow")
        assert client.end_input() == 0


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", GNUTLS_ABILITIES)
@ORDER
def test_a_gnutls_client_without_a_name_gets_the_certificate_that_it_can_verify(front, order, kind, version):
    priority = f"{tls_peers.gnutls_priority(version)}:{GNUTLS_ABILITIES[kind]}"
    with tls_peers.gnutls_client(front.addresses[order], name=None, more=["--priority", priority]) as client:
        client.wait_said(f"subject `CN={kind} pair,O=bitflow'|subject `O=bitflow,CN={kind} pair'")
        client.echoes(b"hello bitflow")


@pytest.mark.parametrize("version", VERSIONS)
@ORDER
def test_curl_verifies_either_certificate_by_the_address(front, pairs, order, version):
    """Which sends no name."""
    done = tls_peers.curl(front.addresses[order], pairs.root.certificate, name="127.0.0.1", version=version)
    assert (done.returncode, done.stdout) == (0, "hello bitflow\n"), done.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_that_can_verify_both_gets_the_first_by_its_own_order(front, version):
    """In TLS 1.3 by its order of signature algorithms, in 1.2 of cipher suites."""
    for kinds in (("rsa", "p256"), ("p256", "rsa")):
        abilities = [OPENSSL_ABILITIES[kind, version] for kind in kinds]
        more = [abilities[0][0], ":".join(values for _, values in abilities)]
        for order in ORDERS:
            with tls_peers.openssl_client(front.addresses[order], name=None, version=version, more=more) as client:
                client.wait_said(rf"subject=O = bitflow, CN = {kinds[0]} pair\n")


@pytest.mark.parametrize("version", VERSIONS)
def test_only_a_certificate_for_all_of_the_firsts_names_stands_in_for_it(front, pairs, version):
    rsa = OPENSSL_ABILITIES["rsa", version]
    for name in (None, "unknown.test"):
        with tls_peers.openssl_client(front.addresses["narrower"], name=name, version=version, more=rsa) as client:
            client.wait_said("handshake failure")
        with tls_peers.openssl_client(front.addresses["wider"], name=name, version=version, more=rsa) as client:
            client.wait_said(r"subject=O = bitflow, CN = wider\n")
    # By its own name each is found.
    for name, identity in (("dual.test", pairs.narrower), ("other.test", pairs.other)):
        with tls_peers.openssl_client(front.addresses["narrower"], name=name, version=version, more=rsa) as client:
            client.wait_said(rf"subject=O = bitflow, CN = {subject(identity)}\n")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("is_same", [True, False], ids=["one authority", "two authorities"])
def test_a_stand_in_holds_clients_to_the_same_authority(env, pki, pairs, is_same, version):
    """Else a client could choose, by what it can verify, who judges it."""
    authorities = [pki.trusted, pki.trusted if is_same else pki.rsa.certificate]
    clients = {"rsa": pki.rsa_client, "p256": pki.client}
    entries = [
        identity.entry(authority=str(authority))
        for identity, authority in zip(pairs.dual.values(), authorities)
    ]
    address = env.address()
    env.start(proxy(address, env.echo().address, listener=tls_listener(*entries, verify_mode="strict")))
    for name in (None, "unknown.test"):
        for kind in pairs.dual:
            more = OPENSSL_ABILITIES[kind, version]
            client = tls_peers.openssl_client(address, name=name, version=version, identity=clients[kind], more=more)
            with client:
                if is_same or kind == "rsa":
                    client.wait_said(rf"subject=O = bitflow, CN = {kind} pair\n")
                    client.echoes(b"hello bitflow")
                else:
                    client.wait_said("handshake failure")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_clients_order_of_cipher_suites_counts(front, version):
    ciphers = list(tls_peers.SUITES_1_3) if version == "TLSv1.3" else tls_peers.suites(version, "p256")
    option = "-ciphersuites" if version == "TLSv1.3" else "-cipher"
    for first in ciphers:
        order = [first, *(each for each in ciphers if each != first)]
        more = [option, ":".join(map(tls_peers.openssl_name, order))]
        with tls_peers.openssl_client(front.addresses["ecdsa first"], version=version, more=more) as client:
            client.wait_said(rf"Cipher is {tls_peers.openssl_name(first)}\r?\n")
