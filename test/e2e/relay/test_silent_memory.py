"""A connection that falls silent gives back what a handshake or a large message has taken, and goes on when asked."""

import pytest

import costs
import sockets
import waiting
from environment import proxy
from tls_cases import tls_listener
from waiting import scale, wait_for

LARGE = bytes(range(256)) * 60  # fits one record, and one read
# What each gives back at least, KiB: plain the pages of two buffers of 16 KiB that lie within them whole; TLS those
# of its two inputs and one output, and of the handshake.
RELEASED_KIB = {"plain": 20, "TLS": 40}


@pytest.mark.parametrize("kind", RELEASED_KIB)
def test_a_silent_connection_gives_its_memory_back(env, pki, kind):
    if waiting.SANITIZED:
        pytest.skip("a sanitizer's memory is not the program's")
    address = env.address()
    listener = tls_listener(pki.server, verify_mode="none") if kind == "TLS" else None
    bitflow = env.start(proxy(address, env.echo().address, listener=listener))
    clients = [sockets.connect(address) for _ in range(scale(40, least=20))]
    if kind == "TLS":
        clients = [costs.client_context().wrap_socket(client) for client in clients]
    for _ in range(2):
        for client in clients:
            costs.round_trips(client, LARGE, 1)
        busy = bitflow.memory_kib("RssAnon")
        wait_for(
            lambda busy=busy: busy - bitflow.memory_kib("RssAnon") >= RELEASED_KIB[kind] * len(clients),
            "each has given back what it can",
        )
    for client in clients:
        costs.round_trips(client, LARGE, 1)
        client.close()
    assert len(bitflow.wait_records(len(clients))) == len(clients)
