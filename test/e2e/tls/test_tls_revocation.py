"""Revocation lists and the chains that they must cover: bitflow accepts what HAProxy accepts, and refuses in words.
Clients and targets are OpenSSL's; their chain has an intermediate."""

import re

import pytest

import bitflow_process
import certificates
import sockets
import tls_peers
from environment import proxy
from proxy_headers import HaproxySender
from tls_cases import assert_refused, tls_listener, tls_target
from tls_peers import VERSIONS
from waiting import wait_for

PAST = ("-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", "20210101000000Z")
COMING = ("-crl_lastupdate", "20450101000000Z", "-crl_nextupdate", "20460101000000Z")
MISSING = "there is no revocation list of O=bitflow, CN={} authority"
# The lists in the file, and what the record says if they do not suffice.
CASES = {
    "both": (["root", "middle"], None),
    "the root's": (["root"], MISSING.format("middle")),
    "the intermediate's": (["middle"], MISSING.format("root")),
    "another's": (["other"], MISSING.format("middle")),
    "expired": (["root", "middle past"], r"CN=middle authority expired on 2021-01-01"),
    "expired, and a new one": (["root", "middle past", "middle"], None),
    "not valid yet": (["root", "middle coming"], r"CN=middle authority is not valid before 2045-01-01"),
    "another key's": (["root", "namesake"], "CN=middle authority is not signed with the authority's key"),
    "another key's, and the right one": (["root", "namesake", "middle"], None),
}
# HAProxy refuses these: OpenSSL takes the first list of a name unless the lists name the keys (authorityKeyIdentifier),
# which these do not.
ALONE = {"another key's, and the right one"}


@pytest.fixture(scope="module")
def lists(pki, tmp_path_factory):
    """The path of a file of lists, by their names."""
    directory = tmp_path_factory.mktemp("lists")
    made = {
        "root": pki.root.revocation_list("one.pem"),
        "middle": pki.middle.revocation_list("one.pem"),
        "other": pki.other.revocation_list("one.pem"),
        "middle past": pki.middle.revocation_list("past.pem", *PAST),
        "middle coming": pki.middle.revocation_list("coming.pem", *COMING),
        "namesake": certificates.Authority(directory, "middle", "p384", parent=pki.root).revocation_list(),
    }

    def file(names):
        path = directory / ("+".join(names).replace(" ", "-") + ".pem")
        path.write_text("".join(made[name].read_text() for name in names))
        return path

    return file


def haproxy_pem(env, identity):
    path = env.directory / "haproxy.pem"
    path.write_text(identity.certificate.read_text() + identity.key.read_text())
    return path


def is_client_taken(address, pki, version):
    with tls_peers.openssl_client(address, pki.trusted, version=version, identity=pki.middle_client) as client:
        try:
            client.echoes(b"hello bitflow")
        except (AssertionError, BrokenPipeError):
            return False, client.text()
        return True, client.text()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_a_client_is_let_in_only_if_the_lists_cover_its_chain(env, pki, lists, case, version):
    names, words = CASES[case]
    path, echo, address = lists(names), env.echo().address, env.address()
    entry = pki.server.entry(authority=str(pki.root.certificate), revocation_list=str(path))
    bitflow = env.start(proxy(address, echo, listener=tls_listener(entry, verify_mode="strict")))
    is_taken, text = is_client_taken(address, pki, version)
    assert is_taken == (words is None), text
    if words:
        assert "alert certificate unknown" in text
        assert_refused(bitflow.wait_records(1)[0], "client", words)
    pem = haproxy_pem(env, pki.server)
    tls = f"ssl crt {pem} ca-file {pki.root.certificate} crl-file {path} verify required"
    with HaproxySender(echo, "", bind=tls) as haproxy:
        assert is_client_taken(haproxy.address, pki, version)[0] == (is_taken and case not in ALONE)


def is_target_taken(env, address):
    client = env.connect(address)
    try:
        client.sendall(b"hello\n")
        return sockets.receive_exactly(client, 6) == b"olleh\n"
    except (OSError, EOFError, AssertionError):
        return False
    finally:
        client.close()


@pytest.mark.parametrize("mode", ["strict", "relaxed"])
@pytest.mark.parametrize("case", CASES)
def test_a_target_is_trusted_only_if_the_lists_cover_its_chain(env, pki, lists, case, mode):
    names, words = CASES[case]
    path, back, address = lists(names), env.address(), env.address()
    target = tls_target(back, pki.root.certificate, crl=path, verify_mode=mode)
    bitflow = env.start(proxy(address, target))
    with tls_peers.openssl_server(back, pki.servers["p384"], version="TLSv1.3") as server:
        is_taken = is_target_taken(env, address)
        assert is_taken == (words is None)
        if words:
            assert_refused(bitflow.wait_records(1)[0], "target", words)
            wait_for(lambda: "alert certificate unknown" in server.said(), lambda: f"the alert: {server.said()}")
        options = f"ssl verify required ca-file {pki.root.certificate} crl-file {path}"
        with HaproxySender(back, options) as haproxy:
            assert is_target_taken(env, haproxy.address) == (is_taken and case not in ALONE)


@pytest.mark.parametrize("mode", ["relaxed", "none"])
def test_only_verify_mode_none_lets_a_chain_without_all_lists_in(env, pki, lists, mode):
    """`relaxed` holds a client that sends a certificate to it all the same; `none` asks nobody for one."""
    address = env.address()
    entry = pki.server.entry(authority=str(pki.root.certificate), revocation_list=str(lists(["root"])))
    env.start(proxy(address, env.echo().address, listener=tls_listener(entry, verify_mode=mode)))
    assert is_client_taken(address, pki, "TLSv1.3")[0] == (mode == "none")
    with tls_peers.openssl_client(address, pki.trusted) as client:
        client.echoes(b"hello bitflow")


def test_check_names_the_authority_without_a_list(env, pki, lists):
    """Or the one whose list has expired."""
    bundle = env.write(pki.root.certificate.read_text() + pki.middle.certificate.read_text(), "bundle.pem")
    found = {}
    for names in (["root"], ["root", "middle past"], ["root", "middle"]):
        entry = pki.server.entry(authority=str(bundle), revocation_list=str(lists(names)))
        listener = tls_listener(entry, verify_mode="strict")
        path = env.config(proxy(env.address(), env.address(), listener=listener))
        done = bitflow_process.run("--check", "--config", path)
        assert done.returncode == 0
        found[len(names), names[-1]] = [line for line in done.stderr.splitlines() if "revocation list" in line]
    (missing,), (expired,), none = found.values()
    assert re.search(MISSING.format("middle") + ": no certificate that it issued verifies$", missing), missing
    assert re.search("CN=middle authority expired on 2021-01-01", expired), expired
    assert none == []
