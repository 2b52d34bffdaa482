"""Interoperation: TLS to every common server, in each version, with each suite and kind of certificate."""

import socket

import pytest

import peers
import programs
import sockets
import tls_peers
import tls_raw
from environment import proxy
from tls_cases import Shared, assert_leg, tls_accept, tls_echo, tls_listener, tls_target
from tls_peers import PYTHON_SUITE_CASES, SUITE_CASES, VERSIONS


@pytest.fixture(scope="module")
def target():
    """The address where each case starts its server."""
    return f"127.0.0.1:{sockets.free_port()}"


@pytest.fixture(scope="module")
def shared(module_env, pki, target):
    return Shared(module_env, proxy(module_env.address(), tls_target(target, pki.trusted)))


def converse(env, front, answer=lambda line: line):
    """A plain client sends three lines, and each is answered."""
    client = env.connect(front.addresses["front"])
    for number in range(3):
        line = b"hello bitflow %d" % number
        client.sendall(line + b"\n")
        wanted = answer(line) + b"\n"
        assert sockets.receive_exactly(client, len(wanted)) == wanted
    client.shutdown(socket.SHUT_WR)
    assert sockets.receive_to_end(client) == b""


def check(front, server, version, suite):
    record = front.record("front")
    assert (record["reason"], record["error"]) == ("completed", None), record
    assert (record["client_tls"], record["sni"]) == (None, None), record
    assert (record["bytes_from_client"], record["bytes_from_target"]) == (48, 48), record
    assert_leg(record["target_tls"], version, suite, server_name="server.test", peer=server)
    names = record["target_tls"]["peer_names"].replace("0:0:0:0:0:0:0:1", "::1")
    assert names == "DNS:server.test, DNS:localhost, IP:127.0.0.1, IP:::1"


@pytest.mark.parametrize("version, kind, suite", SUITE_CASES)
def test_openssl_is_reached_with_each_version_key_and_suite(env, front, pki, target, version, kind, suite):
    with tls_peers.openssl_server(target, pki.servers[kind], version=version, suite=suite):
        converse(env, front, answer=lambda line: line[::-1])
        check(front, pki.servers[kind], version, suite)


@pytest.mark.parametrize("version, kind, suite", SUITE_CASES)
def test_gnutls_is_reached_with_each_version_key_and_suite(env, front, pki, target, version, kind, suite):
    with tls_peers.gnutls_server(target, pki.servers[kind], version=version, suite=suite):
        converse(env, front)
        check(front, pki.servers[kind], version, suite)


@pytest.mark.parametrize("version, kind, suite", SUITE_CASES)
def test_nginx_is_reached_with_each_version_key_and_suite(front, pki, target, version, kind, suite):
    with tls_peers.Nginx(target, pki.servers[kind], version=version, suite=suite) as nginx:
        nginx.publish("page.txt", b"hello bitflow\n" * 10_000)
        url = f"http://{front.addresses['front']}/page.txt"
        # Otherwise curl would end first, and nginx answers that without a close_notify.
        done = programs.run(["curl", "-sSf", "--noproxy", "*", "-H", "Connection: close", url])
        assert done.stdout == "hello bitflow\n" * 10_000
        record = front.record("front")
        assert record["reason"] == "completed", record
        assert_leg(record["target_tls"], version, suite, "server.test", peer=pki.servers[kind])


@pytest.mark.parametrize("version, kind, suite", PYTHON_SUITE_CASES)
def test_python_is_reached_with_each_version_key_and_suite(env, front, pki, target, version, kind, suite):
    suites = tls_peers.openssl_name(suite) if version == "TLSv1.2" else None
    if version == "TLSv1.3":
        suite = None  # the two sides' own choice
    # Python lets the server's order decide, that of signatures included, and OpenSSL's begins with RSA-PSS, which it
    # signs with in TLS 1.2, too (RFC 8446 4.2.3).
    env.serve(tls_echo(tls_raw.server_context(pki.servers[kind], version=version, suites=suites)), target)
    converse(env, front)
    check(front, pki.servers[kind], version, suite)


def test_nginx_answers_an_ended_client_without_close_notify(front, pki, target):
    """The whole page has come; the record says that the target's stream was cut all the same."""
    with tls_peers.Nginx(target, pki.server) as nginx:
        nginx.publish("page.txt", b"hello bitflow\n")
        done = programs.run(["curl", "-sSf", "--noproxy", "*", f"http://{front.addresses['front']}/page.txt"])
        assert done.stdout == "hello bitflow\n"
        assert front.record("front")["reason"] == "target_truncated"


@pytest.mark.parametrize("signature", ["rsa_pss_rsae_sha256", "rsa_pss_rsae_sha384", "rsa_pss_rsae_sha512"])
@pytest.mark.parametrize("kind", ["rsa", "rsa-pss"])
def test_openssl_signs_with_pss_in_tls_1_2(env, front, pki, target, kind, signature):
    """In either kind of certificate the key is one for RSA; the signature in the second is PSS, too."""
    identity = pki.servers[kind]
    with tls_peers.openssl_server(target, identity, version="TLSv1.2", more=("-sigalgs", signature)):
        converse(env, front, answer=lambda line: line[::-1])
        check(front, identity, "TLSv1.2", None)


@pytest.mark.parametrize("version", VERSIONS)
def test_haproxy_is_reached_with_an_rsa_certificate(env, front, pki, target, version):
    """It goes by its own order, and so signs with RSA-PSS."""
    origin = env.serve(peers.echo).address
    pem = env.directory / "server.pem"
    pem.write_text(pki.servers["rsa"].certificate.read_text() + pki.servers["rsa"].key.read_text())
    env.enter(programs.Haproxy(target, origin, bind=f"ssl crt {pem} ssl-min-ver {version} ssl-max-ver {version}"))
    converse(env, front)
    check(front, pki.servers["rsa"], version, None)


@pytest.mark.parametrize("preference", ["on", "off"])
def test_nginx_of_tls_1_2_is_reached_with_either_order(env, front, pki, target, preference):
    more = f"ssl_prefer_server_ciphers {preference};"
    with tls_peers.Nginx(target, pki.servers["rsa"], version="TLSv1.2", more=more) as nginx:
        nginx.publish("page.txt", b"hello bitflow\n")
        done = programs.run(["curl", "-sSf", "--noproxy", "*", f"http://{front.addresses['front']}/page.txt"])
        assert done.stdout == "hello bitflow\n"
        assert_leg(front.record("front")["target_tls"], "TLSv1.2", server_name="server.test", peer=pki.servers["rsa"])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("group", ["X25519", "P-256", "P-384"])
def test_a_server_is_reached_with_each_group(env, front, pki, target, version, group):
    """A server of TLS 1.3 asks again if it wants another group than that of the key share that it got."""
    with tls_peers.openssl_server(target, pki.server, version=version, more=["-groups", group]):
        converse(env, front, answer=lambda line: line[::-1])
        check(front, pki.server, version, None)


@pytest.mark.parametrize("tickets", [0, 1, 20])
def test_session_tickets_are_passed_over(env, front, pki, target, tickets):
    with tls_peers.openssl_server(
        target, pki.server, version="TLSv1.3", more=["-num_tickets", str(tickets)]
    ):
        converse(env, front, answer=lambda line: line[::-1])
        check(front, pki.server, "TLSv1.3", None)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [1, 512, 16384])
def test_records_of_the_smallest_and_the_largest_size_pass(env, front, pki, target, version, size):
    """Many of them in a segment."""
    listener = env.listen(target)
    client = env.connect(front.addresses["front"])
    server = tls_accept(listener, tls_raw.server_context(pki.server, version=version))
    data = bytes(range(256)) * (size * 40 // 256 + 1)
    data = data[: size * 40]
    server.send(b"".join(server.protect(data[at : at + size]) for at in range(0, len(data), size)))
    assert sockets.receive_exactly(client, len(data)) == data
    client.sendall(data)
    assert server.read_exactly(len(data)) == data
    server.end()
    assert sockets.receive_to_end(client) == b""
    client.close()
    assert server.read_until_end() == (b"", "close_notify")
    assert front.record("front")["reason"] == "completed"


def test_data_in_one_segment_with_the_servers_last_flight_is_not_lost(env, front, pki, target):
    """In TLS 1.3 the last flight is the client's."""
    listener = env.listen(target)
    client = env.connect(front.addresses["front"])
    context = tls_raw.server_context(pki.server, version="TLSv1.2")
    server = tls_raw.Tls(listener.accept(), context, server_side=True)
    last = server.handshake_but_for_the_last_flight()
    server.send(last + server.protect(b"220 welcome\r\n"))
    assert sockets.receive_exactly(client, 13) == b"220 welcome\r\n"
    client.close()
    server.close()
    assert front.record("front")["bytes_from_target"] == 13


@pytest.mark.parametrize("version", VERSIONS)
def test_data_and_the_end_with_the_last_flight(env, front, pki, target, version):
    """In TLS 1.3 a server's last flight is its tickets."""
    listener = env.listen(target)
    client = env.connect(front.addresses["front"])
    server = tls_raw.Tls(listener.accept(), tls_raw.server_context(pki.server, version=version), server_side=True)
    last = server.handshake_but_for_the_last_flight()
    server.send(last + server.protect(b"answer" * 5000) + server.close_notify_record())
    server.socket.shutdown(socket.SHUT_WR)
    assert sockets.receive_to_end(client) == b"answer" * 5000
    client.close()
    record = front.record("front")
    assert (record["reason"], record["ended_by"], record["bytes_from_target"]) == ("completed", "target", 30_000)


def test_data_right_behind_session_tickets_is_not_lost(env, front, pki, target):
    """Sent byte by byte."""
    listener = env.listen(target)
    client = env.connect(front.addresses["front"])
    server = tls_raw.Tls(listener.accept(), tls_raw.server_context(pki.server, version="TLSv1.3"), True)
    tickets = server.handshake_but_for_the_last_flight()
    assert tickets, "this server sends no tickets"
    server.send_bytewise(tickets + server.protect(b"220 welcome\r\n"))
    assert sockets.receive_exactly(client, 13) == b"220 welcome\r\n"
    client.close()
    server.close()
    assert front.record("front")["reason"] == "completed"


def test_data_sent_before_the_targets_handshake_waits_for_it(env, front, pki, target):
    listener = env.listen(target)
    client = env.connect(front.addresses["front"])
    client.sendall(b"early bird")
    client.shutdown(socket.SHUT_WR)
    server = tls_accept(listener, tls_raw.server_context(pki.server))
    assert server.read_until_end() == (b"early bird", "close_notify")
    server.write(b"worm")
    server.end()
    assert sockets.receive_to_end(client) == b"worm"
    assert front.record("front")["reason"] == "completed"


@pytest.mark.parametrize(
    "more, words",
    [
        (["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], "version|protocol"),
        (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"], "alert|cipher|suite|handshake"),
        (["-tls1_3", "-groups", "X448"], "alert|group|handshake"),
    ],
    ids=["TLS 1.1", "CBC", "X448"],
)
def test_a_server_that_wants_something_weak_or_foreign_is_refused_in_words(env, front, pki, target, more, words):
    with tls_peers.openssl_server(target, pki.server, more=more):
        client = env.connect(front.addresses["front"])
        sockets.was_rejected(client)
    record = front.record("front")
    assert (record["reason"], record["ended_by"]) == ("target_handshake_failed", "target"), record
    assert any(word in record["error"].lower() for word in words.split("|")), record["error"]


def test_both_legs_may_have_tls_each_with_its_own_version_and_names(env, pki):
    back = env.serve(tls_echo(tls_raw.server_context(pki.servers["p384"], version="TLSv1.2"))).address
    address = env.address()
    bitflow = env.start(
        proxy(address, tls_target(back, pki.trusted), listener=tls_listener(pki.servers["rsa"]))
    )
    context = tls_raw.client_context(pki.trusted, version="TLSv1.3")
    client = tls_raw.Tls(env.connect(address), context, server_name="server.test").handshake()
    client.round_trip(bytes(100_000))
    client.close()
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["sni"]) == ("completed", "server.test")
    assert_leg(record["client_tls"], "TLSv1.3", server_name="server.test")
    assert_leg(record["target_tls"], "TLSv1.2", server_name="server.test", peer=pki.servers["p384"])


def test_a_target_is_reached_with_tls_over_a_unix_socket(env, pki):
    back = env.serve(tls_echo(tls_raw.server_context(pki.server)), env.unix("back.sock")).address
    bitflow = env.start(proxy(env.unix(), tls_target(back, pki.trusted)))
    client = env.connect(env.unix())
    sockets.round_trip(client, b"x" * 50_000)
    client.close()
    assert_leg(bitflow.wait_records(1)[0]["target_tls"], server_name="server.test", peer=pki.server)


def test_failover_goes_on_to_a_target_whose_handshake_succeeds(env, pki):
    """A handshake is a part of connecting."""
    bad = env.serve(tls_echo(tls_raw.server_context(pki.bad_servers["expired"]))).address
    plain = env.serve(peers.greeter("I speak no TLS")).address
    good = env.serve(tls_echo(tls_raw.server_context(pki.server))).address
    address = env.address()
    bitflow = env.start(
        proxy(
            address,
            *(tls_target(each, pki.trusted) for each in (bad, plain, good)),
            connection_load_balancer="failover",
        )
    )
    client = env.connect(address)
    sockets.round_trip(client)
    client.close()
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["target"]["name"], record["attempts"]) == ("completed", "target3", 3)
    warnings = [str(line) for line in bitflow.log_lines(True) if line["level"] == "warn"]
    assert any("expired" in line for line in warnings), warnings


def test_attempts_count_failed_handshakes(env, pki):
    server = env.serve(tls_echo(tls_raw.server_context(pki.bad_servers["stranger"])))
    address = env.address()
    target = tls_target(server.address, pki.trusted, target={"connect_attempts": 3, "connect_backoff": "10ms"})
    bitflow = env.start(proxy(address, target))
    sockets.was_rejected(env.connect(address))
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["attempts"]) == ("target_handshake_failed", 3)
    assert server.accepted == 3
