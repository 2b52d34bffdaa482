"""Which target a client gets, as the target's greeting tells, and how often was tried before."""

import collections

import sockets


def visit(env, address):
    """The target that a client gets, by its greeting."""
    client = env.connect(address)
    name = b""
    while not name.endswith(b"\n"):
        name += sockets.receive_exactly(client, 1)
    client.close()
    return name.decode().strip()


def in_order(records):
    """The attempts of each connection, in the order of arrival."""
    return [record["attempts"] for record in sorted(records, key=lambda record: record["id"])]


def held_at(env, address, count):
    """Opens connections and keeps them; returns the lists of clients by the target's name."""
    clients = collections.defaultdict(list)
    for _ in range(count):
        client = env.connect(address)
        name = sockets.receive_exactly(client, 9).decode().strip()
        clients[name].append(client)
    return clients
