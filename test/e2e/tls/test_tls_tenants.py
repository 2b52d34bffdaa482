"""A listener for two tenants: each has a certificate, an authority for its clients, and a target, chosen by the server
name. A client of one never reaches the other's."""

import pytest

import peers
import sockets
import tls_peers
import tls_raw
from environment import proxy
from tls_cases import assert_refused, tls_client, tls_listener
from tls_peers import VERSIONS

TARGETS = ("a.test", "b.test", "c.test", "*")
NO_JUDGE = "which authority is to judge the client depends on that"


class Tenants:
    def __init__(self, env, pki, mode="strict", authorities=None, **entries):
        first, second = authorities or (pki.root, pki.rsa)
        listener = tls_listener(
            pki.server_for("a.test").entry(authority=str(first.certificate)),
            pki.server_for("b.test", "*.b.test").entry(authority=str(second.certificate), **entries),
            verify_mode=mode,
        )
        targets = [
            {"name": name, "address": env.serve(peers.greeter(name)).address} for name in TARGETS
        ]
        self.env, self.address = env, env.address()
        self.clients = {"a": pki.client, "b": pki.rsa_client, None: None}
        self.entry = proxy(self.address, *targets, listener=listener, connection_load_balancer="sni")
        self.bitflow = env.start(self.entry)

    def context(self, tenant, version=None):
        return tls_raw.client_context(identity=self.clients[tenant], version=version)

    def reaches(self, tenant, name, target, version=None):
        client = tls_client(self.env, self.address, self.context(tenant, version), server_name=name)
        assert client.read_exactly(len(target) + 1) == target.encode() + b"\n"
        client.close()
        return True

    def refusal(self, tenant, name, version=None):
        """The alert that this client gets, and its record."""
        sock = self.env.connect(self.address)
        local = sockets.local_name(sock)
        alert = tls_raw.refusal(tls_raw.Tls(sock, self.context(tenant, version), server_name=name))
        record = self.bitflow.record_of(local)
        assert record["target"] is None and record["bytes_from_target"] == 0, record
        return alert, record


@pytest.fixture
def tenants(env, pki):
    return Tenants(env, pki)


@pytest.mark.parametrize("version", VERSIONS)
def test_clients_reach_only_their_own_tenants_target(tenants, version):
    assert tenants.reaches("a", "a.test", "a.test", version)
    assert tenants.reaches("b", "b.test", "b.test", version)
    assert tenants.reaches("b", "x.b.test", "*", version)  # by the certificate's wildcard
    for tenant, name in (("a", "b.test"), ("b", "a.test"), ("a", "x.b.test"), ("a", "B.TEST")):
        alert, record = tenants.refusal(tenant, name, version)
        assert alert == "unknown_ca"
        assert_refused(record, "client", "unknown CA")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", ["strict", "relaxed"])
@pytest.mark.parametrize("name", ["c.test", "d.test", "y.x.b.test", None], ids=lambda name: name or "no name")
def test_a_name_of_no_certificate_is_refused_where_authorities_differ(env, pki, mode, name, version):
    """A name with a target of its own, names that would go to the target *, and no name at all."""
    tenants = Tenants(env, pki, mode)
    for tenant in ("a", "b", None):
        alert, record = tenants.refusal(tenant, name, version)
        assert alert == "unrecognized_name"
        assert (record["reason"], record["ended_by"], record["sni"]) == ("unrecognized_name", "proxy", name)
        assert NO_JUDGE in record["error"] and (name or "sent no server name") in record["error"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name, is_for_b", [
    ("b.test.", True), ("B.Test", True), ("B.TEST.", True),
    ("b.test..", False), ("127.0.0.1", False), (".b.test", False),
], ids=["b.test.", "B.Test", "B.TEST.", "b.test..", "127.0.0.1", ".b.test"])
def test_only_the_case_and_a_last_dot_of_a_name_do_not_matter(tenants, pki, name, is_for_b, version):
    client = tls_peers.openssl_client(tenants.address, name=name, version=version, identity=pki.rsa_client)
    stranger = tls_peers.openssl_client(tenants.address, name=name, version=version, identity=pki.client)
    with client, stranger:
        client.wait_said("b\\.test\r?\n?" if is_for_b else "alert number 112|unrecognized name")
        stranger.wait_said("unknown ca" if is_for_b else "alert number 112|unrecognized name")


@pytest.mark.parametrize("mode", ["none", "relaxed", "strict"])
def test_a_name_of_no_certificate_is_served_where_one_authority_judges_all(env, pki, mode):
    """With one authority for all certificates such a name goes to its target, as without client certificates."""
    tenants = Tenants(env, pki, mode, authorities=(pki.root, pki.root))
    for name, target in (("c.test", "c.test"), ("d.test", "*"), (None, "*")):
        assert tenants.reaches("a", name, target)


def test_a_name_of_no_certificate_is_served_where_nobody_is_judged(env, pki):
    tenants = Tenants(env, pki, "none")
    for tenant in ("a", "b", None):
        assert tenants.reaches(tenant, "c.test", "c.test")


def test_a_revocation_list_makes_the_same_authority_differ(env, pki):
    """Both certificates have the same authority, but only one has its revocation list."""
    tenants = Tenants(env, pki, authorities=(pki.root, pki.root), revocation_list=str(pki.revocation_list))
    assert tenants.reaches("a", "a.test", "a.test")
    assert tenants.refusal("a", "c.test")[0] == "unrecognized_name"


def test_other_balancers_serve_a_name_of_no_certificate(env, pki):
    """There the name chooses only the certificate and its authority; for an unknown name it is the first one."""
    address = env.address()
    entries = [
        pki.server_for("a.test").entry(authority=str(pki.root.certificate)),
        pki.server_for("b.test").entry(authority=str(pki.rsa.certificate)),
    ]
    target = env.serve(peers.greeter("here")).address
    env.start(proxy(address, target, listener=tls_listener(*entries, verify_mode="strict")))
    client = tls_client(env, address, tls_raw.client_context(identity=pki.client), server_name="c.test")
    assert client.read_exactly(5) == b"here\n"
    client.close()


def test_a_reload_to_authorities_that_differ_leaves_earlier_clients_alone(env, pki):
    """Clients that come after it are refused."""
    tenants = Tenants(env, pki, authorities=(pki.root, pki.root))
    before = tls_client(env, tenants.address, tenants.context("a"), server_name="c.test")
    assert before.read_exactly(7) == b"c.test\n"
    tenants.entry["listener"]["tls_context"]["certificates"][1]["authority"] = str(pki.rsa.certificate)
    env.config(tenants.entry)
    tenants.bitflow.reload()
    assert tenants.refusal("a", "c.test")[0] == "unrecognized_name"
    assert tenants.refusal("a", "b.test")[0] == "unknown_ca"
    assert tenants.reaches("b", "b.test", "b.test")
    assert sockets.is_open(before.socket)
