"""authorized_sources and connection_limit: who is let in, and what the others see."""

import threading

import pytest

import sockets
from environment import proxy
from waiting import scale, wait_for


def is_served(env, address, **settings):
    client = env.connect(address, **settings)
    client.settimeout(5)
    try:
        client.sendall(b"let me in")
        answer = client.recv(9)
    except (ConnectionResetError, BrokenPipeError):
        answer = b""
    client.close()
    assert answer in (b"", b"let me in")
    return bool(answer)


CASES = [
    # sources, the client's address, let in
    (["127.0.0.0/8"], "127.0.0.1", True),
    (["127.0.0.1"], "127.0.0.1", True),
    (["127.0.0.1"], "127.0.0.2", False),
    (["127.0.0.1/32"], "127.0.0.2", False),
    (["127.0.0.0/30"], "127.0.0.3", True),
    (["127.0.0.0/30"], "127.0.0.4", False),
    (["127.0.0.0/9"], "127.127.255.254", True),
    (["127.0.0.0/9"], "127.128.0.1", False),
    (["0.0.0.0/0"], "127.1.2.3", True),
    (["::/0"], "127.0.0.1", False),
    (["10.0.0.0/8", "192.168.0.0/16"], "127.0.0.1", False),
    (["10.0.0.0/8", "127.0.0.0/8"], "127.0.0.1", True),
    (["::1"], "::1", True),
    (["::1/128"], "::1", True),
    (["::/127"], "::1", True),
    (["::2/127"], "::1", False),
    (["fd00::/8"], "::1", False),
    (["0.0.0.0/0"], "::1", False),
    (["::/0"], "::1", True),
]


@pytest.mark.parametrize(
    "sources, source, let_in", CASES, ids=[f"{source} of {' '.join(sources)}" for sources, source, _ in CASES]
)
def test_only_clients_of_authorized_sources_are_let_in(env, sources, source, let_in):
    echo, address = env.echo(), env.address("::1" if ":" in source else "127.0.0.1")
    bitflow = env.start(proxy(address, echo.address, listener={"authorized_sources": sources}))
    assert is_served(env, address, source=source) == let_in
    record = bitflow.wait_records(1)[0]
    assert record["client"].startswith(f"[{source}]:" if ":" in source else f"{source}:")
    if let_in:
        assert record["event"] == "connection"
    else:
        assert (record["event"], record["reason"], record["target"]) == (
            "rejected",
            "source_not_authorized",
            None,
        )
        assert echo.accepted == 0, "a rejected client reached the target"


@pytest.mark.parametrize(
    "sources, let_in",
    [
        (["127.0.0.0/8"], True),
        (["::/0"], None),
        (["10.0.0.0/8"], False),
        (["127.0.0.2"], False),
        (["::1"], False),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else {True: "in", False: "out", None: "either"}[value],
)
def test_mapped_clients_match_ipv4_blocks(env, sources, let_in):
    """A listener for both families may see an IPv4 client as ::ffff:127.0.0.1."""
    echo, port = env.echo(), sockets.free_port()
    env.start(proxy(f":{port}", echo.address, listener={"authorized_sources": sources}))
    served = is_served(env, f"127.0.0.1:{port}")
    if let_in is not None:  # whether ::/0 includes IPv4 clients is not specified
        assert served == let_in
    assert is_served(env, f"[::1]:{port}") == (sources in (["::1"], ["::/0"]))


def test_rejected_clients_leave_nothing_and_harm_nobody(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address, listener={"authorized_sources": ["127.0.0.1"]}))
    count = scale(300)
    for _ in range(count):
        sockets.was_rejected(sockets.connect(address, source="127.0.0.9"))
    assert is_served(env, address)
    reasons = [record["reason"] for record in bitflow.wait_records(count + 1)]
    assert reasons.count("source_not_authorized") == count
    bitflow.assert_quiet()


def test_what_a_rejected_client_sends_is_neither_counted_nor_passed_on(env):
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address, listener={"authorized_sources": ["10.0.0.0/8"]}))
    client = env.connect(address)
    try:
        client.sendall(b"x" * 100_000)
    except OSError:
        pass
    record = bitflow.wait_records(1)[0]
    assert record["reason"] == "source_not_authorized" and record["bytes_from_client"] in (0, None)
    assert not listener.has_pending()


def test_clients_over_the_limit_are_rejected_until_one_ends(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address, connection_limit=3))
    clients = [env.connect(address) for _ in range(3)]
    for client in clients:
        sockets.round_trip(client)
    for _ in range(5):
        sockets.was_rejected(env.connect(address))
    records = bitflow.wait_records(5)
    assert {(record["event"], record["reason"]) for record in records} == {("rejected", "connection_limit")}
    for client in clients:
        sockets.round_trip(client)
    for round_number in range(3):  # freed, and taken again
        clients[round_number].close()
        wait_for(
            lambda: len([r for r in bitflow.records() if r["event"] == "connection"]) == round_number + 1,
            "the end",
        )
        clients[round_number] = env.connect(address)
        sockets.round_trip(clients[round_number])
        sockets.was_rejected(env.connect(address))


def test_a_limit_of_one_serves_one_client_after_the_other(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address, connection_limit=1))
    for number in range(10):
        client = env.connect(address)
        sockets.round_trip(client)
        sockets.was_rejected(env.connect(address))
        client.close()
        wait_for(lambda: len(bitflow.records()) == 2 * (number + 1), "both records")


def test_limits_are_counted_per_proxy(env):
    echo, one, two = env.echo(), env.address(), env.address()
    env.start(proxy(one, echo.address, name="one", connection_limit=1), proxy(two, echo.address, name="two"))
    sockets.round_trip(env.connect(one))
    sockets.was_rejected(env.connect(one))
    for _ in range(5):
        sockets.round_trip(env.connect(two))


def test_a_dial_counts_towards_the_limit(env):
    address = env.address()
    entry = {"address": env.refusing(), "connect_attempts": 50, "connect_backoff": "30s"}
    bitflow = env.start(proxy(address, entry, connection_limit=2))
    waiting = [env.connect(address) for _ in range(2)]
    wait_for(lambda: len(bitflow.busy_threads()) >= 2, "both dial")
    sockets.was_rejected(env.connect(address))
    for client in waiting:
        sockets.reset(client)
    bitflow.wait_records(3)
    assert sorted(record["reason"] for record in bitflow.records()) == [
        "client_left",
        "client_left",
        "connection_limit",
    ]


def test_strangers_do_not_count_towards_the_limit(env):
    echo, address = env.echo(), env.address()
    env.start(
        proxy(address, echo.address, listener={"authorized_sources": ["127.0.0.1"]}, connection_limit=1)
    )
    for _ in range(5):
        sockets.was_rejected(env.connect(address, source="127.0.0.7"))
    sockets.round_trip(env.connect(address))


def test_each_client_of_a_rush_is_either_served_or_rejected(env):
    """And is on record; the target never has many more of them than the limit."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address, connection_limit=10))
    count, served = scale(400, 60), []

    def come():
        for _ in range(count // 20):
            served.append(is_served(env, address))

    rushers = [threading.Thread(target=come, daemon=True) for _ in range(20)]
    for each in rushers:
        each.start()
    for each in rushers:
        each.join(60)
    records = bitflow.wait_records(len(served))
    assert len(records) == len(served) == count // 20 * 20
    assert sum(record["event"] == "connection" for record in records) == sum(served)
    # The target may see an end later than bitflow does, so that it has some of those beside the ten.
    assert echo.most_live <= 20
    wait_for(lambda: is_served(env, address), "a place is free again")
