"""Early data (0-RTT) of a ticket that another server with the same name gave out: skipped, and a full handshake
follows. The same client has it accepted by the server that the ticket is of, so that the test would see it here."""

import contextlib
import itertools
import socket
import threading

import pytest

import peers
import sockets
import tls_peers
from environment import proxy
from tls_cases import Shared, assert_leg, tls_listener
from waiting import wait_for

VERSION = "TLSv1.3"
SESSION_END = "-----END SSL SESSION PARAMETERS-----\n"
ALLOWED = 65536


@pytest.fixture(scope="module")
def shared(module_env, pki):
    target = module_env.enter(peers.Server(peers.echo)).address
    listener = tls_listener(pki.server, verify_mode="none")
    mutual = tls_listener({**pki.server.entry(), "authority": str(pki.trusted)}, verify_mode="strict")
    return Shared(
        module_env,
        proxy(module_env.address(), target, name="none", listener=listener),
        proxy(module_env.address(), target, name="mutual", listener=mutual),
    )


@pytest.fixture(scope="module")
def generous(module_env, pki):
    """A server that takes early data, and its address."""
    address = module_env.address()
    more = ("-early_data", "-max_early_data", ALLOWED)
    server = module_env.enter(tls_peers.openssl_server_by_hand(address, pki.server, version=VERSION, more=more))
    return server, address


def assert_served(front, name="none", client=None):
    record = front.record(name)
    assert (record["reason"], record["error"]) == ("completed", None), record
    assert record["bytes_from_client"] == len("hello bitflow\n"), "early data is not for the target"
    assert_leg(record["client_tls"], VERSION, server_name="server.test", peer=client)


@pytest.fixture
def session(env, generous):
    """A file with a ticket for early data."""
    path = env.directory / "session.pem"
    with tls_peers.openssl_client(generous[1], version=VERSION, more=("-sess_out", path)) as client:
        client.wait_said("Verify return code")
        # s_server gives its tickets at the handshake's end: they come after s_client has told of that. Of a ticket it
        # tells when it ends, but it writes the file at once.
        wait_for(lambda: path.exists() and path.read_text().endswith(SESSION_END), "the ticket is there")
        assert client.end_input() == 0, client.text()
        assert f"Max Early Data: {ALLOWED}" in client.text()
    return path


def openssl_says(env, address, session, size, more=(), identity=None):
    data = env.directory / "early"
    data.write_bytes(b"E" * size)
    more = ("-sess_in", session, "-early_data", data, *more)
    with tls_peers.openssl_client(address, version=VERSION, more=more, identity=identity) as client:
        client.wait_said("Early data was (accepted|rejected|not sent)")
        client.say(b"hello bitflow\n")
        if "rejected" in client.text():
            client.wait_said(b"hello bitflow")
        assert client.end_input() == 0, client.text()
        return client.text()


def test_its_own_server_takes_it(env, generous, session):
    server, address = generous
    assert "Early data was accepted" in openssl_says(env, address, session, 700)
    server.wait_said("E" * 700)


RETRY = ("-groups", "X448:X25519")


@pytest.mark.parametrize("more", [(), RETRY], ids=["", "after a HelloRetryRequest"])
@pytest.mark.parametrize("size", [1, 700, 12000, ALLOWED])
def test_openssl_is_served_without_it(env, front, session, size, more):
    said = openssl_says(env, front.addresses["none"], session, size, more)
    assert "Early data was rejected" in said and "New, TLSv1.3" in said
    assert_served(front)


@pytest.mark.parametrize("more", [(), RETRY], ids=["", "after a HelloRetryRequest"])
def test_openssl_is_served_without_it_by_its_certificate(env, front, pki, session, more):
    said = openssl_says(env, front.addresses["mutual"], session, 700, more, identity=pki.client)
    assert "Early data was rejected" in said
    assert_served(front, "mutual", pki.client)


class Switch:
    """Leads each connection to the next of these addresses."""

    def __init__(self, *addresses):
        self.addresses = itertools.cycle(addresses)
        self.server = peers.Server(self.serve)
        self.address = self.server.address

    def serve(self, connection):
        with contextlib.closing(sockets.connect(next(self.addresses))) as onward:
            back = threading.Thread(target=self.pass_on, args=(onward, connection))
            back.start()
            self.pass_on(connection, onward)
            back.join()

    @staticmethod
    def pass_on(one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.close()


def gnutls_says(env, address, size):
    """Two connections, the second with the ticket of the first."""
    data = env.directory / "early"
    data.write_bytes(b"E" * size)
    more = ("--resume", "--waitresumption", "--earlydata", data)
    with tls_peers.gnutls_client(address, version=VERSION, more=more) as client:
        client.wait_said("Resume Handshake was completed")
        client.echoes(b"hello bitflow")
        assert client.end_input() == 0, client.text()
        return client.text()


@pytest.mark.parametrize("size", [700, 12000])
def test_gnutls_is_served_without_it(env, front, pki, size):
    address = env.address()
    more = ("--earlydata", "--maxearlydata", ALLOWED)
    env.enter(tls_peers.gnutls_server(address, pki.server, version=VERSION, more=more))
    assert "This is a resumed session" in gnutls_says(env, address, size)
    switch = env.enter(Switch(address, front.addresses["none"]))
    assert "This is a resumed session" not in gnutls_says(env, switch.address, size)
    assert_served(front)
