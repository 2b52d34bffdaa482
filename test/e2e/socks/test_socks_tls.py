"""TLS to targets behind SOCKS5 servers, real ones on both: the name of the certificate is that of the target, whoever
resolves it."""

import random

import pytest

import hosts
import sockets
import socks_peers
import tls_cases
import tls_peers
from environment import proxy

# What the SOCKS5 servers know, and nobody else. The certificate is for the first two.
NAMES = [("server.test", "127.0.0.1"), ("localhost", "::1"), ("wrong.test", "127.0.0.1")]
BLOB = random.Random(5).randbytes(1 << 20)


SERVERS = {
    "microsocks": (lambda: socks_peers.Microsocks(names=NAMES), ""),
    "microsocks with credentials": (lambda: socks_peers.Microsocks("me", "s3cret", NAMES), "me:s3cret@"),
    "dante with credentials": (lambda: socks_peers.Dante("me", "s3cret", NAMES), "me:s3cret@"),
}


@pytest.fixture(scope="module", params=SERVERS)
def socks(request):
    """A server with the URL that leads through it."""
    start_server, credentials = SERVERS[request.param]
    with start_server() as server:
        server.url = f"socks5://{credentials}{server.address}"
        yield server


@pytest.fixture(scope="module")
def web(pki):
    """nginx with TLS, by the address that it listens at."""
    servers = {}
    for host, kind in (("127.0.0.1", "p256"), ("::1", "rsa")):
        port = sockets.free_port()
        servers[host] = tls_peers.Nginx(sockets.join(host, port), pki.servers[kind])
        servers[host].port = port
        servers[host].publish("blob", BLOB)
    yield servers
    for server in servers.values():
        server.close()


def start(env, socks, host, port, authority, **more):
    """bitflow, which resolves no name itself, with a target through the server; returns it and its address."""
    address = env.address()
    entry = tls_cases.tls_target(sockets.join(host, port), authority, name=None, target={"proxy": socks.url}, **more)
    return env.start(proxy(address, entry), plan=hosts.no_names(env)), address


def fetch(env, address, path="/blob"):
    client = env.connect(address)
    client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    head, _, body = sockets.receive_to_end(client).partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0], head
    client.close()
    return body


def assert_told(record, socks, host):
    tls = record["target_tls"]
    assert record["reason"] in ("completed", "target_truncated"), record
    assert record["target"]["via"] == socks.address
    assert tls["version"] == "TLSv1.3" and "DNS:server.test" in tls["peer_names"]
    is_name = host[0].isalpha()
    assert tls["server_name"] == (host if is_name else None)
    assert record["resolve_ms"] == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "server.test", "localhost"])
def test_a_file_of_nginx_comes_whole_and_verified(env, pki, web, socks, host):
    """By an address and by a name of each family."""
    server = web[dict(NAMES).get(host, host)]
    bitflow, address = start(env, socks, host, server.port, pki.trusted)
    assert fetch(env, address) == BLOB
    assert_told(bitflow.wait_records(1)[0], socks, host)
    assert "s3cret" not in bitflow.stderr() + env.records_path.read_text()


@pytest.mark.parametrize("host", ["127.0.0.1", "server.test"])
def test_a_dialogue_with_openssl_comes_through_verified(env, pki, socks, host):
    """s_server, which answers each line."""
    port = sockets.free_port()
    env.enter(tls_peers.openssl_server(f"127.0.0.1:{port}", pki.server))
    bitflow, address = start(env, socks, host, port, pki.trusted)
    client = env.connect(address)
    for line in (b"one line\n", b"and another\n"):
        client.sendall(line)
        answer = line[-2::-1] + b"\n"
        assert sockets.receive_exactly(client, len(line)) == answer
    client.close()
    assert_told(bitflow.wait_records(1)[0], socks, host)


@pytest.mark.parametrize("case", ["another name", "another authority"])
def test_a_certificate_that_does_not_verify_ends_as_target_handshake_failed(env, pki, web, socks, case):
    """The server resolves wrong.test to where server.test is: what is verified is the name that was asked for."""
    host = "wrong.test" if case == "another name" else "server.test"
    authority = pki.trusted if case == "another name" else pki.other.certificate
    bitflow, address = start(env, socks, host, web["127.0.0.1"].port, authority)
    client = env.connect(address)
    client.sendall(b"GET /blob HTTP/1.0\r\n\r\n")
    sockets.was_rejected(client)
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["ended_by"]) == ("target_handshake_failed", "target")
    assert ("wrong.test" if case == "another name" else "authorit") in record["error"], record["error"]
    assert record["bytes_from_client"] == 0


def test_server_name_is_what_is_sent_and_verified(env, pki, web, socks):
    """Whatever the SOCKS5 server is asked for."""
    bitflow, address = start(env, socks, "wrong.test", web["127.0.0.1"].port, pki.trusted, server_name="server.test")
    assert fetch(env, address) == BLOB
    record = bitflow.wait_records(1)[0]
    assert record["target_tls"]["server_name"] == "server.test"
    assert record["target"]["address"] == f"wrong.test:{web['127.0.0.1'].port}"
