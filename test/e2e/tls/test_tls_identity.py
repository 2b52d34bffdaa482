"""authorized_names: which clients a listener lets in by the names of their certificates, which targets are believed by
names beside the host's, and whom the records name. Certificates as SPIRE issues them. Peers: Python's ssl, openssl
s_client and s_server, gnutls-cli, curl."""

import ssl
import threading

import pytest
from cryptography import x509

import configs
import control_socket
import identities
import mint
import peers
import sockets
import tls_peers
import tls_raw
from environment import proxy
from identities import named, uri
from tls_cases import Shared, tls_client, tls_echo, tls_listener, tls_target
from tls_peers import VERSIONS
from waiting import wait_for

WEB = "uri:spiffe://example.org/ns/prod/sa/web"
WORDS = "which is none of authorized_names"


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    return identities.Domain(tmp_path_factory.mktemp("domain"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """Another authority that issues for the same trust domain."""
    return identities.Domain(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture(scope="module")
def pinned(domain):
    return domain.node(uri("spiffe://example.org/pinned"))


@pytest.fixture(scope="module")
def shared(module_env, pki, domain, pinned):
    target = module_env.enter(peers.Server(tls_peers.echo_or_page)).address
    lists = {
        "exact": [WEB],
        "below": ["uri:spiffe://example.org/ns/prod/*"],
        "dns": ["dns:web.example.com", "dns:*.apps.example.com"],
        "cn": ["cn:web 1"],
        "spki": [f"spki:{identities.pin(pinned)}"],
        "any": ["cn:nobody", "dns:nobody.test", "dns:web.example.com", "uri:spiffe://example.org/ns/test/*"],
        "all": None,
    }
    entry = pki.server.entry(authority=str(domain.bundle))
    return Shared(module_env, *(
        proxy(module_env.address(), target, name=name, listener=tls_listener(
            entry, verify_mode="strict", **({"authorized_names": names} if names else {})
        ))
        for name, names in lists.items()
    ))  # fmt: skip


def assert_unauthorized(record, words=WORDS):
    assert (record["reason"], record["ended_by"]) == ("name_not_authorized", "proxy"), record
    assert words in record["error"], record["error"]
    assert record["target"] is None and record["attempts"] == 0, "the target was dialled"
    assert record["client_identity"] is None and record["client_tls"]["peer_subject"] is None, record


def visit(env, front, pki, name, identity, version=None):
    """A client's visit: the record, after a round trip or a refusal."""
    context = tls_raw.client_context(pki.trusted, identity, version)
    end = tls_raw.Tls(env.connect(front.addresses[name]), context, server_name="server.test")
    told = None
    try:
        end.handshake()
        end.round_trip()
        end.close()
    except (ssl.SSLError, EOFError, OSError) as error:
        told = tls_raw.alert_of(error) if isinstance(error, ssl.SSLError) else "closed"
    record = front.record(name)
    assert (told is None) == (record["reason"] == "completed"), (told, record)
    if told:
        assert told == "access_denied", told
        assert_unauthorized(record)
    return record


CASES = [
    ("exact", "/ns/prod/sa/web", True), ("exact", "/ns/prod/sa/we", False), ("exact", "/ns/prod/sa/web/x", False),
    ("exact", "/ns/prod/sa/Web", False), ("exact", "/ns/prod/sa", False),
    ("below", "/ns/prod/sa/web", True), ("below", "/ns/prod/x", True), ("below", "/ns/prod", False),
    ("below", "/ns/prod2/sa/web", False), ("below", "/ns/test/sa/web", False), ("below", "", False),
    ("any", "/ns/test/sa/db", True), ("dns", "/ns/prod/sa/web", False), ("spki", "/ns/prod/sa/web", False),
]


@pytest.mark.parametrize("name, path, is_welcome", CASES)
def test_spiffe_ids_decide(env, front, pki, domain, name, path, is_welcome):
    record = visit(env, front, pki, name, domain.svid(path))
    assert record["client_identity"] == (f"uri:spiffe://example.org{path}" if is_welcome else None)
    assert is_welcome == (record["reason"] == "completed")


def test_each_kind_lets_in_its_own(env, front, pki, domain, pinned):
    dns = domain.issue(mint.dns("other.test", "WEB.example.com"))
    below = domain.issue(mint.dns("a.apps.example.com"))
    common = domain.issue([], named("web 1"))
    assert visit(env, front, pki, "dns", dns)["client_identity"] == "dns:WEB.example.com"
    assert visit(env, front, pki, "any", dns)["client_identity"] == "dns:WEB.example.com"
    assert visit(env, front, pki, "dns", below)["client_identity"] == "dns:a.apps.example.com"
    assert visit(env, front, pki, "cn", common)["client_identity"] == "cn:web 1"
    by_key = visit(env, front, pki, "spki", domain.identity(pinned))
    assert by_key["client_identity"] == f"spki:{identities.pin(pinned)}"


@pytest.mark.parametrize("name, alternative, subject", [
    ("dns", mint.dns("b.a.apps.example.com"), []), ("dns", mint.dns("apps.example.com"), []),
    ("dns", mint.dns("*.apps.example.com"), []), ("dns", mint.dns("web.example.com.evil.test"), []),
    ("dns", [], ["web.example.com"]),  # a common name is no DNS name
    ("cn", mint.dns("web 1"), []), ("cn", [], ["WEB 1"]), ("cn", [], ["web 1", "other"]),
    ("cn", [], ["other", "web 1"]), ("exact", mint.dns("spiffe"), ["spiffe://example.org/ns/prod/sa/web"]),
    ("exact", uri("spiffe://example.org/ns/prod/sa/web", "spiffe://example.org/second"), []),
    ("below", uri("spiffe://evil.example.org/ns/prod/x"), []), ("below", uri("spiffe://example.orgs/ns/prod/x"), []),
    ("below", uri("spiffe://example.org/ns/prod/../test"), []), ("below", uri("spiffe://example.org/ns/prod//x"), []),
    ("below", uri("spiffe://example.org/ns/prod/%2e%2e/x"), []), ("below", uri("spiffe://example.org/ns/prod/"), []),
    ("below", uri("spiffe://example.org:443/ns/prod/x"), []), ("below", uri("spiffe://x@example.org/ns/prod/x"), []),
    ("below", uri("https://example.org/ns/prod/x"), []), ("below", uri("spiffe://example.org/ns/prod/x?y"), []),
])  # fmt: skip
def test_what_only_looks_like_a_name_lets_nobody_in(env, front, pki, domain, name, alternative, subject):
    record = visit(env, front, pki, name, domain.issue(alternative, named(*subject)))
    assert record["reason"] == "name_not_authorized"


def test_an_authority_is_no_workload(env, front, pki, domain):
    """A CA's certificate with a workload's name."""
    signer = domain.svid("/ns/prod/sa/web", is_ca=True, usage=(*mint.CA_USAGE, "digital_signature"))
    assert visit(env, front, pki, "exact", signer)["reason"] == "name_not_authorized"


def test_a_name_counts_only_under_the_right_authority(env, front, pki, stranger):
    """The chain is judged first, and is a failed handshake as ever."""
    context = tls_raw.client_context(pki.trusted, stranger.svid("/ns/prod/sa/web"))
    end = tls_raw.Tls(env.connect(front.addresses["exact"]), context, server_name="server.test")
    assert tls_raw.refusal(end) == "unknown_ca"
    assert front.record("exact")["reason"] == "client_handshake_failed"


def test_without_names_everybody_of_the_authority_comes_in_and_is_named(env, front, pki, domain):
    for alternative, subject, expected in (
        (uri("spiffe://example.org/x"), [], "uri:spiffe://example.org/x"),
        ([*mint.dns("a.test"), *uri("spiffe://example.org/y")], ["z"], "uri:spiffe://example.org/y"),
        (mint.dns("a.test", "b.test"), ["z"], "dns:a.test"), ([], ["z"], "cn:z"), ([], ["z", "y"], None),
        ([x509.RFC822Name("a@b.test")], [], None),
    ):
        record = visit(env, front, pki, "all", domain.issue(alternative, named(*subject)))
        assert record["client_identity"] == expected


def test_a_long_name_is_cut_in_the_record_alone(env, front, pki, domain):
    path = "/ns/prod/" + "a" * 900
    identity = visit(env, front, pki, "below", domain.svid(path))["client_identity"]
    assert len(identity) == 255 and identity.endswith("aaa...")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path, is_welcome", [("/ns/prod/sa/web", True), ("/ns/test/sa/web", False)])
@pytest.mark.parametrize("peer", ["openssl", "gnutls", "curl"])
def test_programs_are_let_in_or_told(front, pki, domain, peer, path, is_welcome, version):
    own = domain.svid(path)
    settings = {"version": version, "identity": own}
    if peer == "curl":
        done = tls_peers.curl(front.addresses["below"], pki.trusted, **settings)
        assert done.stdout == ("hello bitflow\n" if is_welcome else "")
        assert done.returncode in ((0,) if is_welcome else (35, 55, 56)), done.stderr
    else:
        start = tls_peers.openssl_client if peer == "openssl" else tls_peers.gnutls_client
        with start(front.addresses["below"], pki.trusted, **settings) as client:
            if is_welcome:
                client.wait_said("Verify return code: 0 |Handshake was completed")
                client.echoes(b"hello bitflow")
                assert client.end_input() == 0
            else:
                client.wait_said(r"alert access denied|Received alert \[49\]")
                assert client.wait_ended() != 0
    record = front.record("below")
    if is_welcome:
        assert (record["reason"], record["client_identity"]) == ("completed", WEB)
    else:
        assert_unauthorized(record)


# Reloads, rotations, what is seen from outside


def test_a_reload_changes_the_names_for_new_clients(env, pki, domain):
    own, address, echo = domain.svid("/ns/prod/sa/web"), env.address(), env.echo().address
    entry = pki.server.entry(authority=str(domain.bundle))

    def settings(*names):
        listener = tls_listener(entry, verify_mode="strict", authorized_names=list(names))
        return proxy(address, echo, listener=listener)

    bitflow, control = control_socket.start(env, settings(WEB))
    context = tls_raw.client_context(pki.trusted, own)
    before = tls_client(env, address, context)
    before.round_trip()
    (seen,) = wait_for(control.connections, "the connection is told")
    assert seen["client_identity"] == WEB and seen["target_identity"] is None
    env.config(settings("uri:spiffe://example.org/ns/other/*"), application=control_socket.setting(control.address))
    bitflow.reload()
    end = tls_raw.Tls(env.connect(address), context, server_name="server.test")
    assert tls_raw.refusal(end) == "access_denied"
    before.round_trip()  # who was let in stays
    before.close()
    assert sorted(record["reason"] for record in bitflow.wait_records(2)) == ["completed", "name_not_authorized"]


class Workload:
    """Clients one after the other, each with the newest certificate."""

    def __init__(self, address, authority, identity):
        self.address, self.authority, self.identity = address, authority, identity
        self.count, self.failures, self.is_over = 0, [], False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.is_over:
            try:
                context = tls_raw.client_context(self.authority, self.identity)
                with sockets.connect(self.address) as sock:
                    end = tls_raw.Tls(sock, context, server_name="server.test").handshake()
                    end.round_trip()
                    end.close()
                self.count += 1
            except (OSError, EOFError, AssertionError) as error:
                self.failures.append(repr(error))

    def advance(self):
        before = self.count
        wait_for(lambda: self.count > before + 1 or self.failures, "clients come")

    def close(self):
        self.is_over = True
        self.thread.join()


def test_svids_and_bundles_are_rotated_under_load(env, pki, domain, tmp_path):
    """A new authority joins the bundle, workloads get its certificates, the old one leaves: by a file watch."""
    second = identities.Domain(tmp_path, "second")
    bundle, address = env.directory / "bundle.pem", env.address()

    def publish(*domains):
        new = env.directory / "bundle.new"
        new.write_text("".join(each.root.pem for each in domains))
        new.rename(bundle)

    publish(domain)
    listener = tls_listener(pki.server.entry(authority=str(bundle)), verify_mode="strict",
                            authorized_names=["uri:spiffe://example.org/ns/prod/*"])
    bitflow = env.start(proxy(address, env.echo().address, listener=listener))
    load = env.keep(Workload(address, pki.trusted, domain.svid("/ns/prod/sa/web")))

    def await_news(count):
        wait_for(lambda: bitflow.stderr().count("authority in force") >= count, lambda: bitflow.stderr()[-3000:])
        load.advance()

    load.advance()
    publish(domain, second)
    await_news(1)
    for number in range(3):
        load.identity = second.svid("/ns/prod/sa/web", days=(-identities.HOUR, (number + 1) * identities.HOUR))
        load.advance()
    publish(second)
    await_news(2)
    load.close()
    assert not load.failures, load.failures[:3]
    for own, told in ((domain.svid("/ns/prod/sa/web"), "unknown_ca"), (second.svid("/ns/x"), "access_denied")):
        end = tls_raw.Tls(env.connect(address), tls_raw.client_context(pki.trusted, own), server_name="server.test")
        assert tls_raw.refusal(end) == told
    records = bitflow.wait_records(load.count + 2)
    assert {each["client_identity"] for each in records if each["reason"] == "completed"} == {WEB}


# Targets


def through_to(env, domain, identity, **keys):
    """A bitflow in front of a TLS echo, and its address."""
    server, address = env.serve(tls_echo(tls_raw.server_context(identity))).address, env.address()
    return env.start(proxy(address, tls_target(server, domain.bundle, **keys))), address


HOST, SVID = mint.dns("server.test"), uri("spiffe://example.org/db")
DB = ["uri:spiffe://example.org/db"]


@pytest.mark.parametrize("alternative, keys, identity", [
    (SVID, {"authorized_names": DB}, DB[0]),
    (HOST, {"authorized_names": DB}, "dns:server.test"),  # strict: the host's name is as good
    (SVID, {"authorized_names": DB, "verify_mode": "relaxed"}, DB[0]),
    (SVID, {"authorized_names": DB, "name": None}, DB[0]),
    (SVID, {"verify_mode": "relaxed"}, DB[0]),
    (mint.dns("*.db.test"), {"authorized_names": ["dns:a.db.test"]}, "dns:*.db.test"),
])  # fmt: skip
def test_targets_are_believed_by_their_names(env, domain, alternative, keys, identity):
    bitflow, address = through_to(env, domain, domain.issue(alternative), **keys)
    client = env.connect(address)
    sockets.round_trip(client)
    client.close()
    (record,) = bitflow.wait_records(1)
    assert (record["reason"], record["target_identity"], record["client_identity"]) == ("completed", identity, None)


@pytest.mark.parametrize("alternative, keys, words", [
    (SVID, {}, "not for server.test"),
    (HOST, {"authorized_names": DB, "verify_mode": "relaxed"}, "not for any of authorized_names"),
    (uri("spiffe://example.org/web"), {"authorized_names": DB}, "not for server.test or any of authorized_names"),
])  # fmt: skip
def test_targets_with_other_names_are_not(env, domain, alternative, keys, words):
    bitflow, address = through_to(env, domain, domain.issue(alternative), **keys)
    sockets.was_rejected(env.connect(address))
    record = bitflow.wait_records(1)[0]
    assert record["reason"] == "target_handshake_failed" and words in record["error"], record
    assert record["target_identity"] is None


def test_openssl_as_a_target_without_a_host_name(env, domain):
    """Through a Unix socket there is no host to be held to: the names stand in its place."""
    own, server, address = domain.issue(SVID), env.address(), env.address()
    path = env.directory / "target.sock"
    middle = env.start(proxy(f"unix://{path}", server), name="middle.yaml")
    with tls_peers.openssl_server(server, own):
        target = tls_target(f"unix://{path}", domain.bundle, name=None, authorized_names=DB)
        bitflow = env.start(proxy(address, target, name="outer"), name="outer.yaml")
        client = env.connect(address)
        client.sendall(b"hello\n")
        assert client.recv(6) == b"olleh\n"
        client.close()
        find = lambda: [each for each in bitflow.records() if each["proxy"] == "outer"]  # noqa: E731
        assert wait_for(find, "the record")[0]["target_identity"] == DB[0]
    assert middle.is_running()


# Configuration

CERTIFICATES = "certificates: [{key: a, certificate: b, authority: c}]"
LISTENER_NAMES = "server.proxies[0].listener.tls_context.authorized_names"
TARGET_NAMES = "server.proxies[0].targets[0].tls_context.authorized_names"


BAD_NAMES = [
    ("spiffe://example.org/web", "did you mean uri:spiffe://example.org/web?"), ("URI:x", "did you mean uri:?"),
    ("web.example.com", "did you mean dns:web.example.com?"), ("sha256/x", "did you mean spki:sha256/x?"),
    ("email:a@b.test", "does not begin with"), ("''", "does not begin with"), ("'cn:'", "no common name"),
    ("'cn:web-*'", "compared as they are"), ("'dns:'", "no host name"), ("'dns:*'", "whole leftmost label"),
    ("'dns:w*.a.test'", "whole leftmost label"), ("'dns:a.*.test'", "whole leftmost label"),
    ("dns:a.test:80", "no host name"), ("dns:a.test.", "no host name"), ("dns:bücher.test", "no host name"),
    ("uri:example.org/web", "no URI"), ("'uri:spiffe:'", "no URI"), ("'uri:http://a b'", "no URI"),
    ("'uri:spiffe://*/web'", "whole last segment"), ("'uri:spiffe://*'", "whole last segment"),
    ("'uri:spiffe://a.test/x*'", "whole last segment"), ("'uri:spiffe://a.test/*/x'", "whole last segment"),
    ("'uri:urn:x:*'", "whole last segment"), ("'uri:https://a.test/../*'", "dots"),
    ("'uri:https://a.test?x/*'", "a query"), ("uri:spiffe://a.test/x/", "no SPIFFE ID"),
    ("'uri:spiffe://a.test:80/*'", "no SPIFFE ID"), ("uri:spiffe:///x", "no SPIFFE ID"),
    ("spki:sha256/AAAA", "44 characters"), ("spki:" + "A" * 43 + "=", "44 characters"),
    ("spki:sha256/" + "A" * 42 + "B=", "44 characters"), ("12", "does not begin with"),
]


@pytest.mark.parametrize("place, path", [("listener", LISTENER_NAMES), ("target", TARGET_NAMES)])
def test_names_that_mean_nothing_are_refused_at_their_place(env, place, path):
    names = ", ".join(value for value, _ in BAD_NAMES)
    line = f"tls_context: {{verify_mode: strict, {CERTIFICATES}, authorized_names: [cn:a, {names}]}}"
    problems = configs.rejects(env, configs.with_line(place, line), count=len(BAD_NAMES))
    for index, ((value, words), problem) in enumerate(zip(BAD_NAMES, problems, strict=True), 1):
        assert problem["path"] == f"{path}[{index}]" and words in problem["text"], (value, problem[0])
        assert int(problem["line"]) == configs.PLACES[place][1], problem[0]


@pytest.mark.parametrize("place, mode, names, words", [
    ("listener", "", "[cn:a]", "needs verify_mode: strict"), ("listener", "none", "[cn:a]", "nobody would be"),
    ("listener", "relaxed", "[cn:a]", "show no certificate"), ("target", "none", "[cn:a]", "any certificate"),
    ("listener", "strict", "[]", "at least one item"), ("listener", "strict", "", "no value"),
    ("target", "strict", "[]", "at least one item"), ("listener", "strict", "cn:a", "must be a list"),
])  # fmt: skip
def test_lists_that_keep_nobody_out_are_refused(env, place, mode, names, words):
    mode = f"verify_mode: {mode}, " if mode else ""
    line = f"tls_context: {{{mode}{CERTIFICATES}, authorized_names: {names}}}"
    path = LISTENER_NAMES if place == "listener" else TARGET_NAMES
    configs.rejects(env, configs.with_line(place, line), path=path, mentions=[words], count=1)
