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
from tls_peers import PYTHON_SUITE_CASES, SUITE_CASES, VERSIONS

# Programs: what starts each, what it says once its handshake is done, and what must be in all that it has said.
PROGRAMS = {
    "openssl": (tls_peers.openssl_client, "Verify return code: 0 ", "New, {version}, Cipher is {suite}"),
    "gnutls": (tls_peers.gnutls_client, "Handshake was completed", "The certificate is trusted"),
}


@pytest.fixture(scope="module")
def shared(module_env, pki):
    target = module_env.enter(peers.Server(tls_peers.echo_or_page)).address
    return Shared(
        module_env,
        *(
            proxy(module_env.address(), target, name=kind, listener=tls_listener(pki.servers[kind]))
            for kind in tls_peers.KEY_KINDS
        ),
    )


def check(front, kind, version, suite, sent):
    record = front.record(kind)
    assert (record["reason"], record["error"]) == ("completed", None), record
    assert record["sni"] == "server.test" and record["target_tls"] is None
    assert_leg(record["client_tls"], version, suite, server_name="server.test")
    if sent is not None:
        assert (record["bytes_from_client"], record["bytes_from_target"]) == (sent, sent), record


@pytest.mark.parametrize("version, kind, suite", SUITE_CASES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_openssl_and_gnutls_are_served_with_each_version_key_and_suite(front, pki, program, version, kind, suite):
    start, greeting, told = PROGRAMS[program]
    with start(front.addresses[kind], pki.trusted, version=version, suite=suite) as client:
        client.wait_said(greeting)
        for number in range(3):
            client.echoes(b"hello bitflow %d" % number)
        assert client.end_input() == 0, client.text()
        assert told.format(version=version, suite=tls_peers.openssl_name(suite)) in client.text()
    check(front, kind, version, suite, 3 * 16)


@pytest.mark.parametrize("version, kind, suite", SUITE_CASES)
def test_curl_is_served_with_each_version_key_and_suite(front, pki, version, kind, suite):
    done = tls_peers.curl(front.addresses[kind], pki.trusted, version=version, suite=suite)
    assert (done.returncode, done.stdout) == (0, "hello bitflow\n"), done.stderr
    check(front, kind, version, suite, None)


@pytest.mark.parametrize("version, kind, suite", PYTHON_SUITE_CASES)
def test_python_is_served_with_each_version_key_and_suite(env, front, pki, version, kind, suite):
    suites = tls_peers.openssl_name(suite) if version == "TLSv1.2" else None
    context = tls_raw.client_context(pki.trusted, version=version, suites=suites)
    client = tls_client(env, front.addresses[kind], context)
    assert client.peer_fingerprint() == pki.servers[kind].fingerprint
    for size in (1, 100, 16383, 16384, 16385, 100_000):
        client.round_trip(bytes(range(256)) * (size // 256) + bytes(size % 256))
    client.close()
    check(front, kind, version, suite, 1 + 100 + 16383 + 16384 + 16385 + 100_000)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("group", ["X25519", "P-256", "P-384", "X448:X25519", "X448:P-256", "X448:P-384"])
def test_a_client_is_served_with_each_group(front, pki, version, group):
    """With X448 first a client of TLS 1.3 sends no usable key share and is asked for another. In 1.2 the groups limit
    an ECDSA certificate's curve, too (RFC 8422 5.1), so the certificate is an RSA one."""
    kind = "rsa" if version == "TLSv1.2" else "p256"
    address = front.addresses[kind]
    more = ["-groups", group]
    with tls_peers.openssl_client(address, pki.trusted, version=version, more=more) as client:
        client.echoes(b"hello bitflow")
        assert client.end_input() == 0
    assert_leg(front.record(kind)["client_tls"], version, server_name="server.test")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_with_small_records_is_served(front, pki, version):
    """One client cuts its data into records of 512 bytes, another one takes no records larger than 1024 bytes.
    (mbedTLS does not cut its own handshake messages, so its certificates must fit.)"""
    for more in (["-max_send_frag", "512"], ["-maxfraglen", "1024"]):
        address = front.addresses["p256"]
        with tls_peers.openssl_client(address, pki.trusted, version=version, more=more) as client:
            client.echoes(b"hello bitflow " * 150)
            assert client.end_input() == 0, client.text()
        assert front.record("p256")["reason"] == "completed"


@pytest.mark.xfail(strict=True, reason="mbedTLS agrees to the limit, and sends the certificate in one record")
def test_a_certificate_larger_than_the_records_that_a_client_takes_is_cut(front, pki):
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
        (["-tls1_3", "-groups", "X448"], "group|curve|key share|key exchange"),
    ],
    ids=["TLS 1.1", "TLS 1.0", "static RSA", "CBC", "DHE", "no ECDSA", "CCM", "X448"],
)
def test_a_weak_or_foreign_offer_is_refused_in_words(front, more, words):
    with tls_peers.openssl_client(front.addresses["p256"], more=more) as client:
        client.wait_said("alert (protocol version|handshake failure)")
        assert client.wait_ended() != 0
    record = front.record("p256")
    assert (record["reason"], record["ended_by"]) == ("client_handshake_failed", "client"), record
    assert any(word in record["error"].lower() for word in words.split("|")), record["error"]
    assert record["target"] is None, "the target was dialled for a client without a handshake"


def test_data_in_one_segment_with_the_clients_last_flight_is_not_lost(env, front, pki):
    """In TLS 1.2 the last flight is the server's."""
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


def test_tls_is_served_over_unix_sockets(env, pki):
    echo = env.echo(env.unix("back.sock"))
    bitflow = env.start(proxy(env.unix(), echo.address, listener=tls_listener(pki.server)))
    client = tls_client(env, env.unix(), tls_raw.client_context(pki.trusted))
    client.round_trip(b"x" * 50_000)
    client.close()
    record = bitflow.wait_records(1)[0]
    assert record["reason"] == "completed"
    assert_leg(record["client_tls"], server_name="server.test")


def test_tls_is_served_on_an_inherited_listener(env, pki):
    echo, inherited = env.echo(), env.listen()
    bitflow = env.start(
        proxy("fd://3", echo.address, listener=tls_listener(pki.server)),
        plan={"descriptors": [[inherited.socket.fileno(), 3]]},
    )
    client = tls_client(env, inherited.address, tls_raw.client_context(pki.trusted))
    client.round_trip()
    client.close()
    assert_leg(bitflow.wait_records(1)[0]["client_tls"], server_name="server.test")


def test_the_record_of_a_plain_connection_has_null_for_each_key_of_tls(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    client = env.connect(address)
    sockets.round_trip(client)
    client.close()
    record = bitflow.wait_records(1)[0]
    assert [record[key] for key in ("sni", "client_tls", "target_tls")] == [None, None, None]


def test_a_crowd_of_handshakes_at_once_is_served_and_leaves_nothing_behind(env, pki):
    """Each client gets its own answer."""
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
