"""Targets that fail: what the log says, how they are passed over for a while and tried again; least-connections."""

import collections
import contextlib

import pytest

import peers
import sockets
import socks_peers
import tls_cases
import tls_raw
from balancing_cases import held_at, in_order, visit
from environment import proxy
from listener_kinds import said
from waiting import Stopwatch, scale, wait_for

RULE = {"max_fails": 2, "fail_timeout": "30s"}


@pytest.mark.parametrize("policy", ["failover", "round-robin", "least-connections"])
def test_a_target_that_fails_is_passed_over(env, policy):
    good = env.serve(peers.greeter("good"))
    address = env.address()
    bitflow = env.start(
        proxy(address, {"address": env.refusing(), **RULE}, good.address, connection_load_balancer=policy)
    )
    for _ in range(8):
        assert visit(env, address) == "good"
    records = bitflow.wait_records(8)
    attempts = in_order(records)
    assert collections.Counter(attempts) == {2: 2, 1: 6}
    assert attempts[-3:] == [1, 1, 1]
    failures = said(bitflow, "cannot connect to the target")
    assert [line["target"] for line in failures] == ["target1", "target1"]
    assert all("Connection refused" in line["error"] for line in failures)
    (line,) = said(bitflow, "the target is passed over for now")
    assert (line["target"], line["failures"], line["for_ms"]) == ("target1", "2", "30000")


def test_by_default_every_connection_tries_a_target_that_fails(env):
    good = env.serve(peers.greeter("good"))
    address = env.address()
    bitflow = env.start(proxy(address, env.refusing(), good.address, connection_load_balancer="failover"))
    for _ in range(5):
        assert visit(env, address) == "good"
    assert {record["attempts"] for record in bitflow.wait_records(5)} == {2}


def test_a_target_that_is_out_is_tried_again_and_comes_back(env):
    """After fail_timeout one connection tries it: at first in vain, then it is back."""
    held = env.enter(peers.Refusing())
    spare = env.serve(peers.greeter("spare"))
    address = env.address()
    entry = {"address": held.address, "max_fails": 1, "fail_timeout": "1s"}
    bitflow = env.start(proxy(address, entry, spare.address, connection_load_balancer="failover"))
    assert visit(env, address) == "spare"
    watch = Stopwatch()
    wait_for(
        lambda: visit(env, address) == "spare" and len(said(bitflow, "cannot connect to the target")) == 2,
        "a second attempt at it",
    )
    watch.between(0.9, 3, "fail_timeout")
    held.listen()
    client = env.connect(address)
    holds = []

    def reached():
        holds.append(env.connect(address))
        return any_pending(held)

    wait_for(reached, "a connection that reaches it", timeout=5)
    wait_for(lambda: said(bitflow, "the target is back"), "the log says that it is back")
    holds.append(env.connect(address))
    held.accept().close()
    client.close()
    for each in holds:
        each.close()


def any_pending(held):
    held.socket.settimeout(0)
    try:
        connection, _ = held.socket.accept()
    except BlockingIOError:
        return False
    finally:
        held.socket.settimeout(15)
    connection.close()
    return True


def test_one_connection_tries_a_black_hole_while_others_pass_it_over(env):
    """Only the one that tries it waits for connect_timeout."""
    hole = env.listen(backlog=0)
    hole.fill_queue()
    good = env.serve(peers.greeter("good"))
    address = env.address()
    entry = {"address": hole.address, "max_fails": 1, "fail_timeout": "2s", "connect_timeout": "1500ms"}
    bitflow = env.start(proxy(address, entry, good.address, connection_load_balancer="failover"))
    assert visit(env, address) == "good"
    wait_for(lambda: said(bitflow, "the target is passed over for now"), "it is out")
    watch = Stopwatch()
    for _ in range(20):
        assert visit(env, address) == "good"
    watch.between(0, 1.2, "20 connections that pass it over")

    def waits():
        one = Stopwatch()
        assert visit(env, address) == "good"
        return one.seconds > 1

    wait_for(waits, "one connection tries it again", timeout=8)
    # It was out for the others while it was tried, and still is.
    watch = Stopwatch()
    for _ in range(20):
        assert visit(env, address) == "good"
    watch.between(0, 1.2, "20 connections that pass it over")


def test_when_all_targets_are_out_all_are_tried(env):
    held = env.enter(peers.Refusing())
    address = env.address()
    rule = {"max_fails": 1, "fail_timeout": "60s"}
    bitflow = env.start(
        proxy(
            address,
            {"address": env.refusing(), **rule},
            {"address": held.address, **rule},
            connection_load_balancer="failover",
        )
    )
    for _ in range(2):
        sockets.was_rejected(env.connect(address))
    for record in bitflow.wait_records(2):
        assert (record["attempts"], record["reason"]) == (2, "connect_refused")
        assert record["error"].startswith("all 2 targets failed, the last: cannot connect to ")
    held.listen()
    client = env.connect(address)
    client.sendall(b"x")
    assert sockets.receive_exactly(env.keep(held.accept()), 1) == b"x"
    client.close()


@pytest.mark.parametrize("policy", ["none", "failover"])
def test_a_lone_target_is_never_out(env, policy):
    held = env.enter(peers.Refusing())
    address = env.address()
    bitflow = env.start(
        proxy(address, {"address": held.address, "max_fails": 1}, connection_load_balancer=policy)
    )
    for _ in range(3):
        sockets.was_rejected(env.connect(address))
    assert {record["attempts"] for record in bitflow.wait_records(3)} == {1}
    assert not said(bitflow, "the target is passed over for now")
    held.listen()
    client = env.connect(address)
    env.keep(held.accept())
    client.close()


def test_the_turns_stay_even_without_a_target_that_is_out(env):
    servers = [env.serve(peers.greeter(f"server-{number}")) for number in range(2)]
    address = env.address()
    env.start(
        proxy(
            address,
            servers[0].address,
            {"address": env.refusing(), "max_fails": 1, "fail_timeout": "60s"},
            servers[1].address,
            connection_load_balancer="round-robin",
        )
    )
    for _ in range(3):  # until it is out
        visit(env, address)
    got = collections.Counter(visit(env, address) for _ in range(30))
    assert got == {"server-0": 15, "server-1": 15}


def test_a_reload_keeps_what_is_known_of_a_target(env):
    good = env.serve(peers.greeter("good"))
    address, bad = env.address(), {"address": env.refusing(), "max_fails": 1, "fail_timeout": "60s"}

    def configured(first):
        return proxy(address, first, good.address, connection_load_balancer="failover")

    bitflow = env.start(configured(bad))
    assert visit(env, address) == "good"
    env.config(configured(bad))
    bitflow.reload()
    assert visit(env, address) == "good"
    # The same name at another address is another target.
    env.config(configured({**bad, "address": env.refusing()}))
    bitflow.reload()
    assert visit(env, address) == "good"
    assert in_order(bitflow.wait_records(3)) == [2, 1, 2]


def goes_to_the_spare_until(env, before, after, correct=lambda: None):
    """The first target fails and is out for a minute; it is used again as soon as a reload corrects the mistake."""
    spare = env.serve(peers.greeter("spare"))
    address = env.address()

    def configured(first):
        rule = {"max_fails": 1, "fail_timeout": "60s"}
        return proxy(address, {**first, **rule}, spare.address, connection_load_balancer="failover")

    bitflow = env.start(configured(before))
    for _ in range(2):
        assert visit(env, address) == "spare"
    correct()
    env.config(configured(after))
    bitflow.reload()
    assert visit(env, address) == "first"
    assert in_order(bitflow.wait_records(3)) == [2, 1, 1]
    return bitflow


def test_a_corrected_password_works_at_once(env):
    server = env.enter(socks_peers.Microsocks("me", "s3cret"))
    first = {"address": env.serve(peers.greeter("first")).address}
    wrong, right = [{**first, "proxy": f"socks5://me:{word}@{server.address}"} for word in ("wr0ng", "s3cret")]
    bitflow = goes_to_the_spare_until(env, wrong, right)
    for secret in ("wr0ng", "s3cret"):
        assert secret not in bitflow.stderr() + env.records_path.read_text()


@pytest.mark.parametrize("where", ["in the configuration", "in the file"])
def test_a_corrected_authority_works_at_once(env, pki, where):
    """Also where the file was corrected and the configuration names the same one."""
    context = tls_raw.server_context(pki.server)

    def greet(connection):
        tls_raw.Tls(connection, context, server_side=True).handshake().write(b"first\n")
        sockets.receive_to_end(connection)

    def quiet(connection):
        with contextlib.suppress(OSError, EOFError):
            greet(connection)

    target = env.serve(quiet)
    bundle = env.write(pki.rsa.certificate.read_text(), "authority.pem")
    before = tls_cases.tls_target(target.address, bundle)
    if where == "in the file":
        goes_to_the_spare_until(env, before, before, lambda: bundle.write_text(pki.trusted.read_text()))
    else:
        goes_to_the_spare_until(env, before, tls_cases.tls_target(target.address, pki.trusted))


# least-connections


@pytest.fixture
def three(env):
    return [env.serve(peers.greeter(f"server-{number}")) for number in (1, 2, 3)]


def test_least_connections_takes_the_target_with_the_fewest(env, three):
    address = env.address()
    bitflow = env.start(
        proxy(address, *[server.address for server in three], connection_load_balancer="least-connections")
    )
    clients = held_at(env, address, 9)
    assert [len(clients[f"server-{number}"]) for number in (1, 2, 3)] == [3, 3, 3]
    for client in clients["server-2"]:
        client.close()
    bitflow.wait_records(3)
    more = held_at(env, address, 3)
    assert {name: len(held) for name, held in more.items()} == {"server-2": 3}


def test_least_connections_shares_evenly_under_concurrency(env, three):
    """Connections that are still dialled count, too."""
    address = env.address()
    env.start(
        proxy(address, *[server.address for server in three], connection_load_balancer="least-connections")
    )
    each = scale(60, 10)
    clients = [env.connect(address) for _ in range(3 * each)]
    for client in clients:
        assert sockets.receive_exactly(client, 9).startswith(b"server-")
    counts = [server.accepted for server in three]
    assert sum(counts) == 3 * each
    assert max(counts) - min(counts) <= each // 3, counts


def test_least_connections_moves_on_from_a_target_that_refuses(env, three):
    address = env.address()
    bitflow = env.start(
        proxy(
            address,
            env.refusing(),
            *[server.address for server in three[:2]],
            connection_load_balancer="least-connections",
        )
    )
    clients = held_at(env, address, 4)
    assert {name: len(held) for name, held in clients.items()} == {"server-1": 2, "server-2": 2}
    for held in clients.values():
        for client in held:
            client.close()
    assert {record["reason"] for record in bitflow.wait_records(4)} == {"completed"}
