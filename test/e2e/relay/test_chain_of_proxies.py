"""Everything in one chain: HAProxy that declares the client, the client's TLS, a SOCKS5 server with credentials, the
header sent on, the target's TLS, and HAProxy again at the other end."""

import contextlib
import hashlib
import socket
import threading

import pytest

import hosts
import proxy_headers
import listener_kinds
import sockets
import socks_peers
import tls_cases
import tls_raw
from environment import proxy
from waiting import scale

USER, PASSWORD = "us:er@", "p@ss/%"
WRITTEN = "us%3Aer%40:p%40ss%2F%25"
V2 = "send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,authority,crc32c,unique-id"


def bundle(env, identity, name="bundle.pem"):
    return env.write(identity.certificate.read_text() + identity.key.read_text(), name)


def link(address, target, pki, socks=None, name="front", version=2, **listener):
    """A proxy that does everything: the header in, the client's TLS, SOCKS5, the header out, the target's TLS."""
    entry = tls_cases.tls_target(target, pki.trusted, application_protocols=["http/1.1"])
    if socks:
        entry["proxy"] = f"socks5://{WRITTEN}@{socks.address}"
    return proxy(
        address,
        {**entry, "connect_timeout": "20s"},
        name=name,
        listener=tls_cases.tls_listener(
            pki.server.entry(authority=str(pki.root.certificate)),
            listener={"proxy_protocol": True, **listener},
            verify_mode="relaxed",
            application_protocols=["http/1.1"],
        ),
        enable_proxy_header=True,
        proxy_header_version=version,
    )


@pytest.fixture(scope="module")
def socks():
    with socks_peers.Microsocks(USER, PASSWORD) as server:
        yield server


@pytest.fixture
def relaying(env):
    """A SOCKS5 server that passes half-closes on, which microsocks does not."""

    def pump(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def handler(connection):
        socks_peers.read_greeting(connection)
        connection.sendall(b"\x05\x02")
        assert socks_peers.read_credentials(connection) == (USER.encode(), PASSWORD.encode())
        connection.sendall(b"\x01\x00")
        _, host, port = socks_peers.read_request(connection)
        with sockets.connect(f"{socket.inet_ntoa(host)}:{port}", timeout=60) as target:
            connection.sendall(socks_peers.YES)
            back = threading.Thread(target=pump, args=(target, connection))
            back.start()
            pump(connection, target)
            back.join()

    return env.serve(handler)


def ask(client):
    client.write(b"GET / HTTP/1.0\r\n\r\n")
    data, how = client.read_until_end()
    assert how == "close_notify" and b" 200 " in data.split(b"\n")[0], (how, data)
    client.end()
    body = data.decode().partition("\r\n\r\n")[2]
    return dict(part.split("=", 1) for part in body.split())


@pytest.mark.parametrize("version", [1, 2])
def test_the_far_haproxy_is_told_the_client_of_the_near_one(env, pki, socks, version):
    """The record has every step of the chain."""
    receiver = env.enter(proxy_headers.HaproxyReceiver(bundle(env, pki.server)))
    address = env.address()
    bitflow = env.start(link(address, receiver.address, pki, socks, version=version))
    sender = env.enter(proxy_headers.HaproxySender(address, V2))
    context = tls_raw.client_context(pki.trusted, pki.client, protocols=["http/1.1"])
    client = tls_cases.tls_client(env, sender.address, context, source="127.0.0.9")
    host, port = client.socket.getsockname()
    answer = ask(client)
    client.socket.close()
    record = bitflow.record_of(f"{host}:{port}")
    assert (answer["src"], answer["sport"]) == (host, str(port))
    assert (answer["dst"], answer["dport"]) == tuple(sender.address.split(":"))
    if version == 2:
        assert (answer["authority"], answer["id"]) == ("server.test", str(record["id"]))
    assert (record["reason"], record["local"]) == ("completed", sender.address)
    assert record["proxy_header"]["unique_id"] == f"id-{port}"
    assert record["proxy_header"]["peer"].startswith("127.0.0.1:")
    assert record["target"] == {"name": "target1", "address": receiver.address, "via": socks.address}
    tls_cases.assert_leg(
        record["client_tls"], server_name="server.test", protocol="http/1.1", peer=pki.client
    )
    leg = record["target_tls"]
    assert (leg["version"], leg["server_name"]) == ("TLSv1.3", "server.test")
    assert record["timings"]["socks_ms"] > 0 and record["timings"]["client_header_ms"] >= 0
    assert not any(word in env.records_path.read_text() + bitflow.stderr() for word in ("p@ss", WRITTEN))
    bitflow.assert_quiet()


def test_a_connection_through_two_bitflows_can_be_traced_back_by_its_ids(env, pki, relaying):
    """The near HAProxy speaks TLS itself; what it declares of its client arrives behind the second bitflow."""
    receiver = env.enter(proxy_headers.HaproxyReceiver(bundle(env, pki.server)))
    near, far = env.address(), env.address()
    entries = [
        link(near, far, pki, relaying, name="near"),
        link(far, receiver.address, pki, relaying, name="far", proxy_protocol_sources=["127.0.0.1"]),
    ]
    bitflow = env.start(*entries)
    sender = env.enter(
        proxy_headers.HaproxySender(
            near,
            f"{V2} ssl ca-file {pki.trusted} verify required sni str(server.test) alpn http/1.1",
            bind=f"ssl crt {bundle(env, pki.second_server, 'near.pem')} alpn http/1.1",
        )
    )
    client = tls_cases.tls_client(
        env, sender.address, tls_raw.client_context(pki.trusted, protocols=["http/1.1"]), source="127.0.0.9"
    )
    host, port = client.socket.getsockname()
    answer = ask(client)
    client.socket.close()
    records = listener_kinds.records_by_proxy(bitflow, 2)
    for record in records.values():
        assert (record["client"], record["reason"]) == (f"{host}:{port}", "completed"), record
        assert record["local"] == sender.address
    assert records["near"]["proxy_header"]["unique_id"] == f"id-{port}"
    assert records["far"]["proxy_header"]["unique_id"] == str(records["near"]["id"])
    assert answer["id"] == str(records["far"]["id"])
    assert (answer["src"], answer["sport"], answer["authority"]) == (host, str(port), "server.test")
    assert records["far"]["bytes_from_target"] == records["near"]["bytes_from_target"] > 0


class Behind:
    """A target that reads the header, then speaks TLS: it answers what came with its hash and its reverse, and ends."""

    def __init__(self, env, pki):
        self.context = tls_raw.server_context(pki.server)
        self.lock = threading.Lock()
        self.told = []
        self.server = env.serve(self.serve)

    def serve(self, connection):
        _, _, family, block, fields = proxy_headers.receive_v2(connection)
        with self.lock:
            self.told.append((family, block, fields))
        end = tls_raw.Tls(connection, self.context, server_side=True).handshake()
        data, how = end.read_until_end()
        end.write(hashlib.sha256(data).digest() + how.encode().ljust(16) + data[::-1])
        end.end()
        sockets.receive_until_broken(connection)


def test_clients_that_share_the_chain_get_their_own_bytes_and_names(env, pki, relaying):
    """Each ends its data before the answer comes."""
    behind = Behind(env, pki)
    address = env.address()
    bitflow = env.start(link(address, behind.server.address, pki, relaying))
    sender = env.enter(proxy_headers.HaproxySender(address, V2))
    context = tls_raw.client_context(pki.trusted)
    outcomes = {}

    def run(number):
        data = hashlib.shake_256(bytes([number])).digest(scale(1_000_000) + number)
        client = tls_cases.tls_client(env, sender.address, context, source=f"127.0.1.{number}")
        name = sockets.local_name(client.socket)
        client.write(data)
        client.end()
        answer, how = client.read_until_end()
        client.socket.close()
        outcomes[name] = (data, answer, how)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 8
    for data, answer, how in outcomes.values():
        assert how == "close_notify"
        assert answer == hashlib.sha256(data).digest() + b"close_notify".ljust(16) + data[::-1]
    # HAProxy was asked once before whether it answers.
    records = {record["client"]: record for record in bitflow.wait_records(9) if record["attempts"]}
    assert set(records) == set(outcomes)
    told = {
        f"{socket.inet_ntoa(block[:4])}:{int.from_bytes(block[8:10], 'big')}": fields
        for _, block, fields in behind.told
    }
    assert set(told) == set(outcomes)
    for name, record in records.items():
        assert (record["reason"], record["ended_by"]) == ("completed", "client"), record
        assert record["bytes_from_client"] == len(outcomes[name][0])
        assert told[name][proxy_headers.UNIQUE_ID] == str(record["id"]).encode()
    bitflow.assert_quiet()


@pytest.mark.parametrize("end", ["cut", "reset"])
def test_a_broken_end_goes_through_the_chain(env, pki, relaying, end):
    """A stream that was cut off behind header, TLS and SOCKS5 is not taken for one that ended well."""
    context = tls_raw.server_context(pki.server)

    def handler(connection):
        proxy_headers.receive_v2(connection)
        end_of = tls_raw.Tls(connection, context, server_side=True).handshake()
        end_of.write(b"x" * 100_000 + end_of.read_exactly(4))
        end_of.read_exactly(4)
        if end == "reset":
            sockets.reset(connection)

    target = env.serve(handler)
    address = env.address()
    bitflow = env.start(link(address, target.address, pki, relaying if end == "cut" else None))
    client = listener_kinds.Client(env, address, "both", pki)
    client.write(b"ping")
    assert client.read_exactly(100_004) == b"x" * 100_000 + b"ping"
    client.write(b"over")
    assert client.tls.read_until_end()[1] == "reset"
    record = bitflow.record_of(listener_kinds.DECLARED)
    expected = {"cut": "target_truncated", "reset": "target_reset"}[end]
    assert (record["reason"], record["ended_by"]) == (expected, "target"), record
    assert (record["bytes_from_client"], record["bytes_from_target"]) == (8, 100_004)


FAULTS = {
    "the header": "proxy_header_invalid",
    "the client's TLS": "client_handshake_failed",
    "the password": "socks_auth_failed",
    "the target": "socks_refused",
    "the target's certificate": "target_handshake_failed",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_broken_link_of_the_chain_has_its_own_reason(env, pki, socks, fault):
    """Whatever works before and behind it; the next client is not harmed."""
    identity = pki.bad_servers["expired"] if fault == "the target's certificate" else pki.server
    target = env.serve(tls_cases.tls_echo(tls_raw.server_context(identity))).address
    address = env.address()
    entry = link(address, env.refusing() if fault == "the target" else target, pki, socks)
    if fault == "the password":
        entry["targets"][0]["proxy"] = entry["targets"][0]["proxy"].replace("p%40ss", "p%40sS")
    bitflow = env.start(entry, plan=hosts.no_names(env))
    for _ in range(3):
        sock = env.connect(address)
        sock.sendall(b"PROXY TCP5 \r\n" if fault == "the header" else listener_kinds.HEADER)
        if fault == "the client's TLS":
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        elif fault != "the header":
            tls_raw.Tls(sock, tls_raw.client_context(pki.trusted), server_name="server.test").handshake()
        sockets.receive_until_broken(sock)
        sock.close()
    for record in bitflow.wait_records(3):
        assert record["reason"] == FAULTS[fault] and record["error"], record
        assert (record["bytes_from_client"], record["bytes_from_target"]) == (0, 0), record
    bitflow.assert_quiet()
