"""Where the proxy has nothing to answer, it acknowledges at once: a peer without TCP_NODELAY holds its next message
back until then, and a delayed acknowledgement takes 40 ms or more each time."""

import queue
import socket
import time

import pytest

import proxy_headers
import sockets
import socks_peers
from environment import proxy
from tls_cases import tls_listener, tls_target
from tls_peers import VERSIONS
from tls_raw import Tls, client_context, server_context
from waiting import pace

EXCHANGES = 16
# The kernel's shortest delay is 40 ms (TCP_DELACK_MIN).
AT_ONCE = 0.030
YES = b"\x05\x00\x00\x01" + bytes(6)


def gathering(sock):
    """Without TCP_NODELAY, as most programs are."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)


def assert_prompt(durations):
    """A busy machine may delay some of them, but hardly all; a delayed acknowledgement delays each."""
    assert sorted(durations)[EXCHANGES // 4] < AT_ONCE * pace(), sorted(durations)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_that_asks_after_its_handshake_is_answered_at_once(env, pki, version):
    echo, address = env.echo(), env.address()
    env.start(proxy(address, echo.address, listener=tls_listener(pki.servers["p256"])))
    durations = []
    for _ in range(EXCHANGES):
        client = Tls(env.connect(address), client_context(version=version), server_name="server.test")
        gathering(client.socket)
        client.handshake()
        begin = time.monotonic()
        client.round_trip()
        durations.append(time.monotonic() - begin)
        client.close()
    assert_prompt(durations)


def test_a_client_with_a_certificate_is_answered_at_once_over_ipv6(env, pki):
    """Its last flight is longer, and OpenSSL writes it in parts."""
    echo, address = env.echo(), env.address("::1")
    listener = tls_listener(pki.server.entry(authority=str(pki.trusted)), verify_mode="strict")
    env.start(proxy(address, echo.address, listener=listener))
    context, durations = client_context(identity=pki.middle_client), []
    for _ in range(EXCHANGES):
        begin = time.monotonic()
        with context.wrap_socket(env.connect(address), server_hostname="server.test") as client:
            sockets.round_trip(client)
            durations.append(time.monotonic() - begin)
    assert_prompt(durations)


def greetings_through(env, address, spoken):
    """How long the target's first words take to reach the client; `spoken` has the times when they were sent."""
    durations = []
    for _ in range(EXCHANGES):
        client = env.connect(address)
        assert sockets.receive_exactly(client, 5) == b"hello"
        durations.append(time.monotonic() - spoken.get(timeout=sockets.TIMEOUT * pace()))
        client.close()
    return durations


@pytest.mark.parametrize("version", VERSIONS)
def test_the_first_words_of_a_tls_target_arrive_at_once(env, pki, version):
    """TLS 1.2 servers have the last word of the handshake; those of 1.3 send tickets after it."""
    spoken = queue.Queue()

    def handler(connection):
        end = Tls(connection, server_context(pki.servers["p256"], version=version), server_side=True)
        gathering(connection)
        end.handshake()
        spoken.put(time.monotonic())
        end.write(b"hello")
        end.read_until_end()

    server, address = env.serve(handler), env.address()
    env.start(proxy(address, tls_target(server.address, pki.trusted)))
    assert_prompt(greetings_through(env, address, spoken))


def test_the_first_answer_of_a_target_that_sends_tickets_arrives_at_once(env, pki):
    """OpenSSL writes its two tickets one by one: the second waits until the first is acknowledged, the answer until
    both are."""
    ready = queue.Queue()
    context = server_context(pki.servers["p256"], version="TLSv1.3")

    def handler(connection):
        with context.wrap_socket(connection, server_side=True) as end:
            ready.put(True)
            while data := end.recv(65536):
                end.sendall(data)

    server, address = env.serve(handler), env.address()
    env.start(proxy(address, tls_target(server.address, pki.trusted)))
    durations = []
    for _ in range(EXCHANGES):
        client = env.connect(address)
        ready.get(timeout=sockets.TIMEOUT * pace())
        begin = time.monotonic()
        sockets.round_trip(client)
        durations.append(time.monotonic() - begin)
        client.close()
    assert_prompt(durations)


def test_the_first_words_of_a_target_behind_socks_arrive_at_once(env):
    spoken = queue.Queue()

    def handler(connection):
        socks_peers.read_greeting(connection)
        connection.sendall(b"\x05\x00")
        socks_peers.read_request(connection)
        connection.sendall(YES)
        spoken.put(time.monotonic())
        connection.sendall(b"hello")
        sockets.receive_to_end(connection)

    server, address = env.serve(handler), env.address()
    env.start(proxy(address, {"address": "target.test:25", "proxy": server.address}))
    assert_prompt(greetings_through(env, address, spoken))


def test_a_client_that_speaks_after_its_proxy_header_is_answered_at_once(env):
    echo, address = env.echo(), env.address()
    env.start(proxy(address, echo.address, listener={"proxy_protocol": True}))
    durations = []
    for _ in range(EXCHANGES):
        client = env.connect(address)
        begin = time.monotonic()
        client.sendall(proxy_headers.EXAMPLE)
        sockets.round_trip(client)
        durations.append(time.monotonic() - begin)
        client.close()
    assert_prompt(durations)
