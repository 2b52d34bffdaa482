"""A source that opens connections as fast as they end, and says nothing on them, while others are served."""

import contextlib
import threading

import sockets
import tls_raw
from waiting import scale, wait_for

SOURCE = "127.0.0.66"


@contextlib.contextmanager
def flood(address, held_at_once, opened_at_least):
    """The body runs once it has opened so many, and holds so many at a time; it has ended afterwards."""
    is_over, opened = threading.Event(), [0]

    def attack():
        held = []
        while not is_over.is_set():
            while len(held) < held_at_once:
                held.append(sockets.connect(address, source=SOURCE))
                opened[0] += 1
            still_open = [each for each in held if sockets.is_open(each)]
            for each in set(held) - set(still_open):
                each.close()
            held = still_open
        for each in held:
            each.close()

    attacker = threading.Thread(target=attack, daemon=True)
    attacker.start()
    try:
        wait_for(lambda: opened[0] > opened_at_least, "the attack goes on")
        yield
    finally:
        is_over.set()
        attacker.join(30)
    assert not attacker.is_alive()


def serve_honest(env, address, source=lambda number: None):
    """Sixty TLS clients, one after the other, each of which has to be served; `source` of the client's number."""
    context = tls_raw.client_context()
    for number in range(scale(60, 10)):
        with contextlib.closing(env.connect(address, source=source(number))) as client:
            end = tls_raw.Tls(client, context)
            end.handshake()
            end.round_trip()
