"""The PROXY protocol's header to targets: what it says, byte by byte and to HAProxy and nginx; when it is sent."""

import socket
import struct

import pytest

import proxy_headers
import sockets
import tls_cases
import tls_peers
import tls_raw
from environment import proxy
from waiting import Stopwatch, wait_for


def told(client, **more):
    host, port = client.getsockname()[:2]
    server_host, server_port = client.getpeername()[:2]
    return {"src": host, "sport": str(port), "dst": server_host, "dport": str(server_port), **more}


@pytest.mark.parametrize("version", [None, 1, 2], ids=["default version", "version 1", "version 2"])
@pytest.mark.parametrize(
    "kind", [proxy_headers.HaproxyReceiver, proxy_headers.NginxReceiver], ids=["haproxy", "nginx"]
)
def test_haproxy_and_nginx_read_the_client_from_the_header(env, kind, version):
    receiver = env.enter(kind())
    options = {} if version is None else {"proxy_header_version": version}
    for host in ("127.0.0.1", "::1"):
        address = env.address(host)
        env.start(
            proxy(address, receiver.address, enable_proxy_header=True, **options),
            name=f"{len(env.bitflows)}.yaml",
        )
        client = env.connect(address, source="127.0.0.7" if host == "127.0.0.1" else None)
        expected = told(client)
        answer = proxy_headers.ask(client)
        assert {key: answer[key] for key in expected} == expected


def test_version_1_is_the_default(env):
    target = env.listen()
    address = env.address()
    env.start(proxy(address, target.address, enable_proxy_header=True))
    client, connection = env.pair(address, target)
    client.sendall(b"and the rest")
    port, own = client.getsockname()[1], client.getpeername()[1]
    line = f"PROXY TCP4 127.0.0.1 127.0.0.1 {port} {own}\r\n".encode()
    assert sockets.receive_exactly(connection, len(line) + 12) == line + b"and the rest"


def test_the_header_does_not_wait_for_the_client(env):
    """A client may let the server speak first: the header comes at once, and the greeting goes back."""
    target = env.listen()
    address = env.address()
    env.start(proxy(address, target.address, enable_proxy_header=True))
    client, connection = env.pair(address, target)
    assert proxy_headers.receive_v1(connection).startswith(b"PROXY TCP4 ")
    connection.sendall(b"220 hello\r\n")
    assert sockets.receive_exactly(client, 11) == b"220 hello\r\n"


@proxy_headers.each_version
def test_a_dual_stack_listener_tells_ipv4_clients_as_ipv4(env, version):
    """To a socket of both families an IPv4 client is ::ffff:127.0.0.1, which no target is to see."""
    target = env.listen()
    port = sockets.free_port()
    env.start(proxy(f":{port}", target.address, enable_proxy_header=True, proxy_header_version=version))
    client, connection = env.pair(f"127.0.0.1:{port}", target)
    ends = ("127.0.0.1", "127.0.0.1", client.getsockname()[1], port)
    if version == 1:
        assert proxy_headers.receive_v1(connection) == proxy_headers.v1(*ends)
    else:
        assert proxy_headers.receive_v2(connection)[2:4] == proxy_headers.addresses(*ends)


def test_a_version_2_header_has_both_ends_the_id_and_a_checksum(env):
    target = env.listen()
    address = env.address("::1")
    bitflow = env.start(
        proxy(address, target.address, enable_proxy_header=True, proxy_header_version=2)
    )
    client, connection = env.pair(address, target)
    header, command, family, block, fields = proxy_headers.receive_v2(connection)
    ends = ("::1", "::1", client.getsockname()[1], client.getpeername()[1])
    assert (command, (family, block)) == (0x21, proxy_headers.addresses(*ends))
    assert set(fields) == {proxy_headers.UNIQUE_ID, proxy_headers.CRC32C}
    client.close()
    connection.close()
    record = bitflow.record_of(sockets.name_of(socket.AF_INET6, ("::1", ends[2])))
    assert fields[proxy_headers.UNIQUE_ID] == str(record["id"]).encode()


@proxy_headers.each_version
def test_a_unix_client_is_unknown_in_version_1_and_unix_in_version_2(env, version):
    target, address = env.listen(), env.unix()
    env.start(proxy(address, target.address, enable_proxy_header=True, proxy_header_version=version))
    _, connection = env.pair(address, target)
    if version == 1:
        assert proxy_headers.receive_v1(connection) == b"PROXY UNKNOWN\r\n"
    else:
        _, command, family, block, _ = proxy_headers.receive_v2(connection)
        assert (command, family) == (0x21, 0x31)
        assert block == bytes(108) + address[len("unix://") :].encode().ljust(108, b"\0")


def test_an_inherited_connection_is_told_as_unknown(env):
    """The ends of a socket pair have no names that could be told."""
    target = env.listen()
    ours, theirs = socket.socketpair()
    env.keep(ours)
    bitflow = env.launch(
        env.config(proxy("fd://5", target.address, enable_proxy_header=True)),
        plan={"descriptors": [[theirs.fileno(), 5]]},
    )
    theirs.close()
    connection = target.accept()
    assert proxy_headers.receive_v1(connection) == b"PROXY UNKNOWN\r\n"
    ours.sendall(b"x")
    assert sockets.receive_exactly(connection, 1) == b"x"
    ours.close()
    connection.close()
    assert bitflow.wait_ended() == 0


def test_each_attempt_sends_a_header_of_its_own(env):
    """The first target takes the header and closes, which fails its handshake; then the second one gets a header."""
    first, second = env.listen(), env.listen()
    address = env.address()
    env.start(
        proxy(
            address,
            {"address": first.address, "tls_context": {"verify_mode": "none"}},
            {"address": second.address},
            connection_load_balancer="failover",
            enable_proxy_header=True,
        )
    )
    client = env.connect(address)
    failing = first.accept()
    line = proxy_headers.receive_v1(failing)
    assert sockets.receive_exactly(failing, 1) == b"\x16"  # the ClientHello is behind it
    failing.close()
    connection = second.accept()
    assert proxy_headers.receive_v1(connection) == line
    client.sendall(b"the rest")
    assert sockets.receive_exactly(connection, 8) == b"the rest"


@proxy_headers.each_version
def test_the_header_comes_before_the_targets_tls(env, pki, version):
    """HAProxy takes the header in plain text, then the handshake."""
    bundle = env.write(pki.server.certificate.read_text() + pki.server.key.read_text(), "bundle.pem")
    receiver = env.enter(proxy_headers.HaproxyReceiver(certificate=bundle))
    address = env.address()
    bitflow = env.start(
        proxy(
            address,
            tls_cases.tls_target(receiver.address, pki.trusted),
            enable_proxy_header=True,
            proxy_header_version=version,
        )
    )
    client = env.connect(address)
    expected = told(client)
    answer = proxy_headers.ask(client)
    assert {key: answer[key] for key in expected} == expected
    client.close()
    assert bitflow.wait_records(1)[0]["target_tls"]["version"] == "TLSv1.3"


def test_connect_timeout_bounds_a_tls_target_that_takes_nothing(env):
    """The header always fits a new connection's buffer; what then keeps a TLS target waiting is the
    handshake."""
    target = env.listen()
    address = env.address()
    bitflow = env.start(
        proxy(
            address,
            {"address": target.address, "connect_timeout": "500ms", "tls_context": {"verify_mode": "none"}},
            enable_proxy_header=True,
        )
    )
    watch = Stopwatch()
    sockets.was_rejected(env.connect(address))
    watch.between(0.4, 2, "connect_timeout")
    assert bitflow.wait_records(1)[0]["reason"] == "connect_timeout"


def test_version_2_tells_the_clients_tls(env, pki):
    """Version 2: ALPN, server name, TLS version, cipher, and the CN of a verified certificate."""
    target = env.listen()
    address = env.address()
    listener = tls_cases.tls_listener(
        pki.server.entry(authority=str(pki.root.certificate)),
        verify_mode="relaxed",
        application_protocols=["h2", "http/1.1"],
    )
    env.start(
        proxy(address, target.address, listener=listener, enable_proxy_header=True, proxy_header_version=2)
    )
    for identity in (pki.client, None):
        context = tls_raw.client_context(pki.trusted, identity, protocols=["http/1.1"])
        client = tls_cases.tls_client(env, address, context)
        connection = target.accept()
        fields = proxy_headers.receive_v2(connection)[4]
        assert fields[proxy_headers.ALPN] == b"http/1.1"
        assert fields[proxy_headers.AUTHORITY] == b"server.test"
        bits, verify, inside = proxy_headers.read_ssl(fields[proxy_headers.SSL])
        assert (inside[0x21], inside[0x23]) == client.version_and_cipher()
        if identity:
            assert (bits, verify, inside[0x22]) == (7, 0, "a client")
        else:
            assert (bits, verify != 0, 0x22 in inside) == (1, True, False)
        client.write(b"behind it")
        assert sockets.receive_exactly(connection, 9) == b"behind it"
        connection.close()
        client.close()


@pytest.mark.parametrize("kind", ["rsa", "p256"])
def test_ciphers_are_told_by_openssls_names(env, pki, kind):
    """As the specification shows them and receivers print them; the log keeps IANA's names."""
    target = env.listen()
    address = env.address()
    bitflow = env.start(
        proxy(
            address,
            target.address,
            listener=tls_cases.tls_listener(pki.servers[kind]),
            enable_proxy_header=True,
            proxy_header_version=2,
        )
    )
    for suite in tls_peers.suites("TLSv1.2", kind):
        theirs = tls_peers.openssl_name(suite)
        context = tls_raw.client_context(pki.trusted, version="TLSv1.2", suites=theirs)
        client = tls_cases.tls_client(env, address, context)
        own = sockets.local_name(client.socket)
        connection = target.accept()
        inside = proxy_headers.read_ssl(proxy_headers.receive_v2(connection)[4][proxy_headers.SSL])[2]
        assert (inside[0x21], inside[0x23]) == ("TLSv1.2", theirs)
        connection.close()
        client.close()
        assert bitflow.record_of(own)["client_tls"]["cipher"] == suite


def test_without_enable_proxy_header_no_byte_is_added(env):
    target = env.listen()
    address = env.address()
    env.start(proxy(address, target.address, enable_proxy_header=False))
    client, connection = env.pair(address, target)
    client.sendall(b"x")
    assert sockets.receive_exactly(connection, 1) == b"x"


def test_a_lent_target_is_spent_by_its_header(env):
    """An inherited descriptor as a target is a single stream, which the header has begun."""
    ours, theirs = socket.socketpair()
    env.keep(ours)
    address = env.address()
    bitflow = env.start(
        proxy(address, "fd://5", enable_proxy_header=True), plan={"descriptors": [[theirs.fileno(), 5]]}
    )
    bitflow.quiet_check = False  # the descriptor that was there at rest is gone
    theirs.close()
    env.connect(address).close()
    wait_for(lambda: bitflow.records(), "the first connection ends")
    assert ours.recv(200).startswith(b"PROXY TCP4 ")
    sockets.was_rejected(env.connect(address))
    assert [record["reason"] for record in bitflow.wait_records(2)] == ["client_left", "connect_refused"]


def test_write_timeout_bounds_a_target_that_does_not_take_the_header(env):
    """A lent socket whose buffer is full; there is no connect_timeout."""
    ours, theirs = map(env.keep, socket.socketpair())
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            theirs.send(b"x")
    address = env.address()
    bitflow = env.start(
        proxy(address, {"address": "fd://5", "write_timeout": "700ms"}, enable_proxy_header=True),
        plan={"descriptors": [[theirs.fileno(), 5]]},
    )
    bitflow.quiet_check = False  # the descriptor that was there at rest is gone
    theirs.close()
    watch = Stopwatch()
    sockets.was_rejected(env.connect(address))
    watch.between(0.6, 3, "write_timeout")
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["ended_by"]) == ("target_write_timeout", "proxy")
    assert "did not take the PROXY protocol header" in record["error"]


def test_a_hundred_connections_at_once_each_have_a_header_of_their_own(env):
    target = env.serve(lambda connection: answer_with_header(connection))
    address = env.address()
    env.start(proxy(address, target.address, enable_proxy_header=True, proxy_header_version=2))
    clients = [env.connect(address) for _ in range(100)]
    for client in clients:
        port, own = struct.unpack(">HH", sockets.receive_exactly(client, 4))
        assert (port, own) == (client.getsockname()[1], client.getpeername()[1])


def answer_with_header(connection):
    connection.sendall(proxy_headers.receive_v2(connection)[3][8:12])
    sockets.receive_to_end(connection)
