"""docs/deploy/haproxy at work: two replicas behind a real HAProxy under load, one drained, upgraded or killed.

A sample here; with BITFLOW_NIGHTLY=1 five rounds with each, and the drain's delay as it is in the document."""

import contextlib
import signal
import time

import pytest

import networks
import prometheus_peers
import proxy_headers
import replicas
import sockets
import upgrades
from waiting import IS_NIGHTLY, scale, takes_long, wait_for

ROUNDS = 5 if IS_NIGHTLY else 1
LONG = 20
# Between two things that happen.
SHORT = 500 if IS_NIGHTLY else scale(100, 10)


def turns(several):
    """Whose turn it is; a sample has one."""
    return several * ROUNDS if IS_NIGHTLY else several[:1]


@pytest.fixture(autouse=True)
def reaping():
    with upgrades.reaping():
        yield


def tell(text):
    """For whoever runs it by hand."""
    if IS_NIGHTLY:
        print(text)


def served_directly(replica):
    """One connection past HAProxy, with a header as HAProxy sends it."""
    with sockets.connect(replica.address) as client:
        client.sendall(proxy_headers.v2("203.0.113.7", "203.0.113.8", 4711, 443))
        sockets.round_trip(client)


def drain(site, replica):
    """Until HAProxy knows, and the listener is closed."""
    replica.bitflow.signal(signal.SIGTERM)
    site.haproxy.wait_status(replica.name, "DOWN")
    if not IS_NIGHTLY:
        served_directly(replica)  # who came late would be served still
        replica.bitflow.signal(signal.SIGTERM)
    wait_for(lambda: sockets.refuses(replica.address), "the listener is closed", 60)


def test_a_replica_drains_and_comes_back_without_a_client_that_fails(env):
    # The test ends the delay, by a second signal: only so is it sure on a busy machine that HAProxy knows before.
    site = replicas.Site(env, **({} if IS_NIGHTLY else {"drain_delay: 10s": "drain_delay: 1h"}))
    with replicas.Clients(site.front) as clients:
        for replica in turns(site.replicas):
            long = site.connect(LONG)
            clients.wait_more(SHORT)
            drain(site, replica)
            clients.wait_more(SHORT)
            on_it = replica.clients() & set(long)
            for client in long.values():
                sockets.round_trip(client)
                client.close()
            assert replica.bitflow.wait_ended(60) == 0
            tell(f"{len(on_it)} of {LONG} long connections went on while {replica.name} drained")
            replica.start()
            site.haproxy.wait_status(replica.name, "UP")
            clients.wait_more(SHORT)
    assert clients.failed == []
    if not IS_NIGHTLY:  # HAProxy knew in time: nobody had to be sent to the other one
        assert site.haproxy.sum("wretr", "wredis", "econ", "eresp") == 0, site.haproxy.servers()
    tell(f"{sum(clients.served)} connections, {2 * ROUNDS} drains, 0 failed")


def test_replicas_are_upgraded_without_a_client_that_fails(env):
    site = replicas.Site(env)
    long = site.connect(LONG)
    assert set.union(*(replica.clients() for replica in site.replicas)) >= set(long)
    with replicas.Clients(site.front) as clients:
        for replica in site.replicas * ROUNDS:
            clients.wait_more(SHORT)
            replica.bitflow = upgrades.upgrade(env, replica.bitflow)
            clients.wait_more(SHORT)
            for client in long.values():
                sockets.round_trip(client)
    assert clients.failed == []
    # Checks went on as well: it was never out.
    assert site.haproxy.sum("wretr", "wredis", "econ", "eresp", "chkdown") == 0, site.haproxy.servers()
    tell(f"{sum(clients.served)} connections, {2 * ROUNDS} upgrades, 0 failed, {LONG} long alive")


def closed(replica):
    """{reason: how many of its connections have ended so}, without those that have ended well."""
    samples = prometheus_peers.parse(prometheus_peers.scrape(replica.control.address))
    ended = {dict(labels)["reason"]: number for (name, labels), number in samples.items()
             if name == "bitflow_proxy_connections_closed_total"}
    return {reason: number for reason, number in ended.items() if reason != "completed"}


def test_a_replica_that_is_killed_takes_only_its_own_connections_along(env):
    site = replicas.Site(env)
    for dying, living in turns([site.replicas, site.replicas[::-1]]):
        long = site.connect(LONG)
        before = closed(living)
        with replicas.Clients(site.front) as clients:
            clients.wait_more(SHORT)
            on_it, elsewhere = (replica.clients() & set(long) for replica in (dying, living))
            assert len(on_it) + len(elsewhere) == LONG
            dying.kill()
            died = time.monotonic()
            clients.wait_more(SHORT)
            site.haproxy.wait_status(dying.name, "DOWN")
            clients.wait_more(SHORT)
            for address in elsewhere:
                sockets.round_trip(long[address])
            for address in on_it:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    assert sockets.receive_until_broken(long[address])[0] == b""
            if IS_NIGHTLY:  # it comes back, as the one that was drained does
                dying.start()
                site.haproxy.wait_status(dying.name, "UP")
                clients.wait_more(SHORT)
        # Whoever came once it was dead was served, though HAProxy had to find out: it was refused, and went elsewhere.
        assert [failed for failed in clients.failed if failed[0] > died] == []
        assert closed(living) == before, "nobody is lost at the other one"
        tell(f"{dying.name} killed: {len(on_it)} of {LONG} long connections and {len(clients.failed)} of "
             f"{sum(clients.served) + len(clients.failed)} short ones lost, of those after it 0; "
             f"{site.haproxy.sum('wredis')} tried the other one in all")
        for client in long.values():
            client.close()


@takes_long
def test_a_replica_whose_host_is_gone_is_left_within_a_minute(env):
    """With HAProxy's times as they stand: nothing answers, neither checks nor connections."""
    with networks.Networks() as both, networks.inside(both.near):
        hosts = (both.address, "198.18.7.1")
        site = replicas.Site(env, own=hosts[1], hosts=hosts, where={"one": both.far}, patience={})
        gone, living = site.replicas
        long = site.connect(LONG)
        on_it, elsewhere = (replica.clients() & set(long) for replica in site.replicas)
        before = closed(living)
        with replicas.Clients(site.front) as clients:
            clients.wait_more(SHORT)
            both.cut()
            cut = time.monotonic()
            site.haproxy.wait_status(gone.name, "DOWN")
            down = time.monotonic()
            clients.wait_more(SHORT)
            for address in elsewhere:
                sockets.round_trip(long[address])
            for address in on_it:
                long[address].settimeout(150)
                with contextlib.suppress(ConnectionResetError):
                    assert sockets.receive_until_broken(long[address])[0] == b""
            ended = time.monotonic()
        gone.kill()
        assert [failed for failed in clients.failed if failed[0] > cut] == []
        assert closed(living) == before, "nobody is lost at the other one"
        tell(f"{len(on_it)} of {LONG} long connections ended {ended - cut:.1f} s after the cut, and "
             f"{len(clients.failed)} short ones; it was out after {down - cut:.1f} s; of those that came after the cut "
             f"the slowest one took {max(clients.times(cut)):.1f} s")
