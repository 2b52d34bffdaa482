"""Sessions are not resumed. A client that has one, be it of another server with the same name, gets a full handshake
and no ticket; the same client resumes with a server that does it, so that the test would see it here."""

import ssl

import pytest

import peers
import tls_peers
import tls_raw
from environment import proxy
from tls_cases import Shared, assert_leg, tls_client, tls_echo, tls_listener
from tls_peers import VERSIONS
from waiting import wait_for

TICKET = "NewSessionTicket"


@pytest.fixture(scope="module")
def shared(module_env, pki):
    target = module_env.enter(peers.Server(tls_peers.echo_or_page)).address
    listener = tls_listener(pki.server, verify_mode="none")
    return Shared(module_env, proxy(module_env.address(), target, name="none", listener=listener))


@pytest.fixture
def resuming(env, pki):
    """The address of a server that gives tickets and takes them."""
    context = tls_raw.server_context(pki.server)
    return env.serve(tls_echo(context)).address


def assert_full_handshakes(front, version, count):
    def new():
        return [record for record in front.bitflow.records() if record["id"] not in front.seen]

    wait_for(lambda: len(new()) == count, lambda: f"{count} records: {new()}")
    for record in new():
        assert (record["reason"], record["error"]) == ("completed", None), record
        assert_leg(record["client_tls"], version, server_name="server.test")


def python_session(env, address, context, session):
    """One connection with the session offered: the session that came of it, and whether it was a resumed one."""
    with context.wrap_socket(env.connect(address), server_hostname="server.test", session=session) as client:
        client.sendall(b"hello")
        assert client.recv(5) == b"hello"
        found = client.session, client.session_reused, client.session is not None and client.session.has_ticket
        client.unwrap()
        return found


@pytest.mark.parametrize("version", VERSIONS)
def test_python_offers_a_session_in_vain(env, front, resuming, version):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = tls_raw.VERSIONS[version]
    session, is_resumed, has_ticket = python_session(env, resuming, context, None)
    assert not is_resumed and has_ticket
    assert python_session(env, resuming, context, session)[1], "the session is of no use with its own server"
    for _ in range(3):
        own, is_resumed, has_ticket = python_session(env, front.addresses["none"], context, session)
        assert not is_resumed and not has_ticket
        session = own or session
    assert_full_handshakes(front, version, 3)


def openssl_says(address, version, more):
    with tls_peers.openssl_client(address, version=version, more=("-msg", *more)) as client:
        client.wait_said("Verify return code")
        client.echoes(b"hello bitflow")
        assert client.end_input() == 0, client.text()
        return client.text()


@pytest.mark.parametrize("version", VERSIONS)
def test_openssl_offers_a_session_in_vain(env, front, resuming, version):
    path = env.directory / "session.pem"
    said = openssl_says(resuming, version, ("-sess_out", path))
    assert f"New, {version}" in said and TICKET in said
    said = openssl_says(resuming, version, ("-sess_in", path))
    assert f"Reused, {version}" in said
    for _ in range(2):
        said = openssl_says(front.addresses["none"], version, ("-sess_in", path))
        assert f"New, {version}" in said and "Reused" not in said and TICKET not in said, said
    assert_full_handshakes(front, version, 2)


def gnutls_says(address, version, more=()):
    """Two connections, the second with the session of the first."""
    with tls_peers.gnutls_client(address, version=version, more=("--resume", *more)) as client:
        client.wait_said("Handshake was completed.*Resume Handshake was completed")
        client.echoes(b"hello bitflow")
        assert client.end_input() == 0, client.text()
        return client.text()


@pytest.mark.parametrize("version", VERSIONS)
def test_gnutls_offers_a_session_in_vain(front, resuming, version):
    assert "This is a resumed session" in gnutls_says(resuming, version, ("--waitresumption",))
    assert "This is a resumed session" not in gnutls_says(front.addresses["none"], version)
    assert_full_handshakes(front, version, 2)


def test_curl_is_given_no_ticket(env, front, pki):
    version = "TLSv1.3"  # in 1.2 it asks for none
    ticket = "(IN), TLS handshake, Newsession Ticket"
    address = env.address()
    server = env.enter(tls_peers.Nginx(address, pki.server))
    server.publish("page", b"hello")
    assert ticket in tls_peers.curl(address, version=version, path="page", more=("-v",)).stderr
    done = tls_peers.curl(front.addresses["none"], version=version, more=("-v",))
    assert done.stdout == "hello bitflow\n" and ticket not in done.stderr, done.stderr
    assert_full_handshakes(front, version, 1)
