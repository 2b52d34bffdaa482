"""Interoperation: every common client against a TLS listener, in each version, with each suite and kind of
certificate."""

import socket

import pytest

import peers
import proxy_headers
import sockets
import tls_peers
import tls_raw
from environment import proxy
from tls_cases import Shared, assert_leg, tls_client, tls_listener
from tls_peers import VERSIONS

KINDS = ["rsa", "rsa-pss", "p256", "p384"]
CASES = [
    (version, kind, suite) for version in VERSIONS for kind in KINDS for suite in tls_peers.suites(version, kind)
]


@pytest.fixture(scope="module")
def shared(module_env, pki):
    target = module_env.enter(peers.Server(tls_peers.echo_or_page)).address
    return Shared(
        module_env,
        *(
            proxy(module_env.address(), target, name=kind, listener=tls_listener(pki.servers[kind]))
            for kind in KINDS
        ),
    )


@pytest.fixture
def front(shared):
    shared.begin()
    return shared


def check(front, kind, version, suite, sent):
    record = front.record(kind)
    assert (record["reason"], record["error"]) == ("completed", None), record
    assert record["sni"] == "server.test" and record["target_tls"] is None
    assert_leg(record["client_tls"], version, suite, server_name="server.test")
    if sent is not None:
        assert (record["bytes_from_client"], record["bytes_from_target"]) == (sent, sent), record


@pytest.mark.parametrize("version, kind, suite", CASES)
def test_openssl(front, pki, version, kind, suite):
    address = front.addresses[kind]
    with tls_peers.openssl_client(address, pki.trusted, version=version, suite=suite) as client:
        client.wait_said("Verify return code: 0 ")
        for number in range(3):
            client.echoes(b"hello bitflow %d" % number)
        assert client.end_input() == 0, client.text()
        assert f"New, {version}, Cipher is {tls_peers.openssl_name(suite)}" in client.text()
    check(front, kind, version, suite, 3 * 16)


@pytest.mark.parametrize("version, kind, suite", CASES)
def test_gnutls(front, pki, version, kind, suite):
    address = front.addresses[kind]
    with tls_peers.gnutls_client(address, pki.trusted, version=version, suite=suite) as client:
        client.wait_said("Handshake was completed")
        for number in range(3):
            client.echoes(b"hello bitflow %d" % number)
        assert client.end_input() == 0, client.text()
        assert "The certificate is trusted" in client.text()
    check(front, kind, version, suite, 3 * 16)


@pytest.mark.parametrize("version, kind, suite", CASES)
def test_curl(front, pki, version, kind, suite):
    done = tls_peers.curl(front.addresses[kind], pki.trusted, version=version, suite=suite)
    assert (done.returncode, done.stdout) == (0, "hello bitflow\n"), done.stderr
    check(front, kind, version, suite, None)


# Python's ssl can choose the suites of TLS 1.2 only.
PYTHON_CASES = [case for case in CASES if case[0] == "TLSv1.2" or case[2] == "TLS_AES_256_GCM_SHA384"]


@pytest.mark.parametrize("version, kind, suite", PYTHON_CASES)
def test_python(env, front, pki, version, kind, suite):
    suites = tls_peers.openssl_name(suite) if version == "TLSv1.2" else None
    context = tls_raw.client_context(pki.trusted, version=version, suites=suites)
    client = tls_client(env, front.addresses[kind], context)
    assert client.peer_fingerprint() == pki.servers[kind].fingerprint
    for size in (1, 100, 16383, 16384, 16385, 100_000):
        client.round_trip(bytes(range(256)) * (size // 256) + bytes(size % 256))
    client.close()
    check(front, kind, version, suite, 1 + 100 + 16383 + 16384 + 16385 + 100_000)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("group", ["X25519", "P-256", "P-384", "P-521:X25519", "P-521:P-256", "P-521:P-384"])
def test_groups(front, pki, version, group):
    """With P-521 first a client of TLS 1.3 has no key share that serves, and is asked for another.
    In 1.2 the groups are the certificate's, too (RFC 8422 5.1), so that one is of RSA."""
    kind = "rsa" if version == "TLSv1.2" else "p256"
    address = front.addresses[kind]
    more = ["-groups", group]
    with tls_peers.openssl_client(address, pki.trusted, version=version, more=more) as client:
        client.echoes(b"hello bitflow")
        assert client.end_input() == 0
    assert_leg(front.record(kind)["client_tls"], version, server_name="server.test")


@pytest.mark.parametrize("version", VERSIONS)
def test_small_records(front, pki, version):
    """A client that cuts its data into records of 512 bytes, and one that lets nothing larger than 1024 come.
    (mbedTLS does not cut its own handshake messages, so its certificates must fit.)"""
    for more in (["-max_send_frag", "512"], ["-maxfraglen", "1024"]):
        address = front.addresses["p256"]
        with tls_peers.openssl_client(address, pki.trusted, version=version, more=more) as client:
            client.echoes(b"hello bitflow " * 150)
            assert client.end_input() == 0, client.text()
        assert front.record("p256")["reason"] == "completed"


@pytest.mark.xfail(strict=True, reason="mbedTLS agrees to the limit, and sends the certificate in one record")
def test_certificate_larger_than_the_records_that_a_client_takes(front, pki):
    more = ["-maxfraglen", "512"]
    with tls_peers.openssl_client(front.addresses["p256"], pki.trusted, version="TLSv1.2", more=more) as client:
        client.echoes(b"hello bitflow")


@pytest.mark.parametrize(
    "more, words",
    [
        (["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], "version"),
        (["-tls1", "-cipher", "ALL:@SECLEVEL=0"], "version"),
        (["-tls1_2", "-cipher", "AES128-GCM-SHA256"], "cipher|suite"),
        (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"], "cipher|suite"),
        (["-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"], "cipher|suite"),
        (["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "cipher|suite|certificate|key"),
        (["-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256"], "cipher|suite"),
        (["-tls1_3", "-groups", "P-521"], "group|curve|key share|key exchange"),
    ],
    ids=["1.1", "1.0", "static-rsa", "cbc", "dhe", "no-ecdsa", "ccm", "p521"],
)
def test_weak_or_foreign_offers(front, more, words):
    with tls_peers.openssl_client(front.addresses["p256"], more=more) as client:
        client.wait_said("alert (protocol version|handshake failure)")
        assert client.wait_ended() != 0
    record = front.record("p256")
    assert (record["reason"], record["ended_by"]) == ("client_handshake_failed", "client"), record
    assert any(word in record["error"].lower() for word in words.split("|")), record["error"]
    assert record["target"] is None, "the target was dialled for a client without a handshake"


def test_data_with_the_last_flight(env, front, pki):
    """What the client sends in one segment with the end of its handshake is not lost. (In TLS 1.2 the end is
    the server's.)"""
    context = tls_raw.client_context(pki.trusted, version="TLSv1.3")
    client = tls_raw.Tls(env.connect(front.addresses["p384"]), context, server_name="server.test")
    last = client.handshake_but_for_the_last_flight()
    client.send(last + client.protect(b"early bird"))
    assert client.read_exactly(10) == b"early bird"
    client.close()
    assert front.record("p384")["bytes_from_client"] == 10


@pytest.mark.parametrize("header", [b"", proxy_headers.EXAMPLE], ids=["", "behind a PROXY header"])
def test_data_and_the_end_with_the_last_flight(env, pki, header):
    """All that a client has to say, and its end, in one segment; what came before in another one."""
    listener, address = env.listen(), env.address()
    settings = tls_listener(pki.server, listener={"proxy_protocol": True} if header else None)
    bitflow = env.start(proxy(address, listener.address, listener=settings))
    context = tls_raw.client_context(pki.trusted, version="TLSv1.3")
    client = tls_raw.Tls(env.connect(address), context, server_name="server.test")
    client.send(header + client.hello())
    last = client.handshake_but_for_the_last_flight()
    client.send(last + client.protect(b"question" * 5000) + client.close_notify_record())
    client.socket.shutdown(socket.SHUT_WR)
    target = listener.accept()
    assert sockets.receive_to_end(target) == b"question" * 5000
    target.sendall(b"answer")
    target.close()
    assert client.read_until_end() == (b"answer", "close_notify")
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["ended_by"], record["bytes_from_client"]) == ("completed", "client", 40_000)


def test_over_unix_sockets(env, pki):
    """TLS does not care what carries it."""
    echo = env.echo(env.unix("back.sock"))
    bitflow = env.start(proxy(env.unix(), echo.address, listener=tls_listener(pki.server)))
    client = tls_client(env, env.unix(), tls_raw.client_context(pki.trusted))
    client.round_trip(b"x" * 50_000)
    client.close()
    record = bitflow.wait_records(1)[0]
    assert record["reason"] == "completed"
    assert_leg(record["client_tls"], server_name="server.test")


def test_inherited_listener(env, pki):
    echo, inherited = env.echo(), env.listen()
    bitflow = env.start(
        proxy("fd://3", echo.address, listener=tls_listener(pki.server)),
        plan={"descriptors": [[inherited.socket.fileno(), 3]]},
    )
    client = tls_client(env, inherited.address, tls_raw.client_context(pki.trusted))
    client.round_trip()
    client.close()
    assert_leg(bitflow.wait_records(1)[0]["client_tls"], server_name="server.test")


def test_records_of_plain_connections(env):
    """Every record has the keys of TLS."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    client = env.connect(address)
    sockets.round_trip(client)
    client.close()
    record = bitflow.wait_records(1)[0]
    assert [record[key] for key in ("sni", "client_tls", "target_tls")] == [None, None, None]


def test_crowd_of_handshakes(env, pki):
    """Many clients at once: each gets its own answer, and nothing is left of them."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address, listener=tls_listener(pki.server)))
    count = 40
    context = tls_raw.client_context(pki.trusted)
    clients = [
        tls_raw.Tls(env.connect(address), context, server_name="server.test") for _ in range(count)
    ]
    for client in clients:
        client.send(client.hello())
    for number, client in enumerate(clients):
        client.handshake()
        client.round_trip(b"client %d" % number)
    for client in clients:
        client.close()
    records = bitflow.wait_records(count)
    assert {record["reason"] for record in records} == {"completed"}
    bitflow.assert_quiet()
