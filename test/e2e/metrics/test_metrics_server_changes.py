"""Metrics whose receiver changes: another server under load, a socket that is made anew, a name that is not known at
first; transfers that are counted while they run."""

import concurrent.futures
import itertools
import os
import signal
import threading

import hosts
import sockets
from environment import proxy
from metrics_cases import PROXY, use, wait_counters
from telemetry_cases import Datagrams, all_on, timed_round_trips, wait_sums
from tls_cases import tls_client, tls_echo, tls_listener, tls_target
from tls_raw import server_context
from waiting import Stopwatch, pace, scale, wait_for

ACCEPTED = f"{PROXY}.connections.accepted"


def reload(env, bitflow, *proxies, application=None):
    env.config(*proxies, application=application)
    bitflow.reload()


class Load:
    """Short connections of known size, until it is closed."""

    def __init__(self, address, threads=4):
        self.address, self.over = address, threading.Event()
        self.pool = concurrent.futures.ThreadPoolExecutor(threads)
        self.done = itertools.count()
        self.count = 0
        self.running = [self.pool.submit(self.work) for _ in range(threads)]

    def work(self):
        while not self.over.wait(0.002):
            use(self.address, 700)
            self.count = next(self.done) + 1

    def wait_more(self, more):
        until = self.count + more
        wait_for(lambda: self.count >= until, "connections go on", 20)

    def close(self):
        self.over.set()
        for each in self.running:
            each.result()
        self.pool.shutdown()


def test_every_count_arrives_once_when_the_server_changes_under_load(env):
    first, second = env.keep(Datagrams()), env.keep(Datagrams())
    address, listener, long = env.address(), env.listen(), env.address()
    entries = [proxy(address, env.echo().address), proxy(long, listener.address, name="long")]
    bitflow = env.start(*entries, application=all_on(first))
    client, target = env.pair(long, listener)
    load = env.keep(Load(address))
    for number, statsd in enumerate([first, second]):
        before = statsd.counters()[ACCEPTED]
        if number:
            reload(env, bitflow, *entries, application=all_on(statsd))
        load.wait_more(scale(60, 20))
        client.sendall(bytes(1000 + number))
        sockets.receive_exactly(target, 1000 + number)
        wait_for(lambda statsd=statsd, before=before: statsd.counters()[ACCEPTED] > before, "this one's counters")
    load.close()
    client.close()
    target.close()
    wait_for(lambda: not bitflow.busy_threads(), "all have ended")
    wait_sums(bitflow, first, second)
    for statsd in (first, second):
        assert statsd.counters()["proxy.long.connections.closed.completed"] == (statsd is second)
    bitflow.quiet_check = False  # a socket more than at the start


def test_each_server_gets_what_was_counted_in_its_own_time(env):
    """What was counted until the end of one server arrives there; the other hears of what was after its beginning."""
    first, second = env.keep(Datagrams()), env.keep(Datagrams())
    address = env.address()
    entry = proxy(address, env.echo().address)
    bitflow = env.start(entry, application=all_on(first))
    wait_for(lambda: "process.uptime" in first.gauges(), "the first report")
    for _ in range(7):
        use(address)
    bitflow.wait_records(7)
    wait_for(lambda: not bitflow.busy_threads(), "all have ended")
    reload(env, bitflow, entry, application=all_on())
    wait_for(lambda: "statsd" not in bitflow.thread_names(), "nothing is sent any more")
    # At once: the last report is sent before the thread ends.
    assert first.counters()[f"{PROXY}.connections.closed.completed"] == 7
    assert first.counters()[f"{PROXY}.bytes.from_target"] == 7000
    for _ in range(5):
        use(address)
    bitflow.wait_records(12)
    wait_for(lambda: not bitflow.busy_threads(), "all have ended")
    reload(env, bitflow, entry, application=all_on(second, prefix="p", tag_format="none"))
    wait_for(lambda: "p.process.uptime" in second.gauges(), "the other's first report")
    use(address)
    ended = f"p.{PROXY}.connections.closed.completed"
    wait_for(lambda: second.counters()[ended] >= 1, lambda: second.lines)
    assert second.counters()[ended] == second.counters()[f"p.{PROXY}.connections.accepted"] == 1
    assert second.gauges()[f"p.{PROXY}.connections.active"] == 0
    assert first.counters()[f"{PROXY}.connections.accepted"] == 7
    bitflow.quiet_check = False


def test_no_count_is_lost_when_a_unix_socket_is_made_anew_under_load(env):
    """In every order of deleting, closing and binding."""
    path, beside, address = env.directory / "statsd.sock", env.directory / "new.sock", env.address()
    receivers = [env.keep(Datagrams(path))]
    bitflow = env.start(proxy(address, env.echo().address), application=all_on(f"unix://{path}"))
    load = env.keep(Load(address, threads=2))

    def has_come():
        return receivers[-1].counters()[ACCEPTED]

    wait_for(has_come, "the first counters")
    for order in ("delete retire more bind", "beside move retire"):
        load.wait_more(10)
        old = receivers[-1]
        for step in order.split():
            if step == "delete":
                os.unlink(path)
            elif step == "bind":
                receivers.append(env.keep(Datagrams(path)))
            elif step == "beside":
                receivers.append(env.keep(Datagrams(beside)))
            elif step == "move":
                os.rename(beside, path)
            elif step == "retire":
                old.retire()
            else:
                load.wait_more(10)
        wait_for(has_come, f"counters after: {order}", 15)
    load.close()
    wait_for(lambda: not bitflow.busy_threads(), "all have ended")
    wait_sums(bitflow, *receivers)
    bitflow.quiet_check = False  # the socket was not there at the start


def test_metrics_are_sent_when_the_receivers_name_is_known_at_last(env):
    """Until then neither data nor the end of a connection waits for it."""
    statsd, address = env.keep(Datagrams()), env.address()
    port = statsd.address.rpartition(":")[2]
    plan = hosts.plan(env, [("front.test", "127.0.0.1")])
    bitflow = env.start(
        proxy(address, env.echo().address), application=all_on(f"statsd.test:{port}"), plan=plan
    )
    wait_for(lambda: "metrics cannot be sent" in bitflow.stderr(), "it is said", 15)
    for _ in range(20):
        with sockets.connect(address) as client:
            timed_round_trips(client)
    bitflow.wait_records(20)
    hosts_file = next(path for path, place in plan["binds"].items() if place.endswith("/hosts"))
    with open(hosts_file, "w") as stream:
        stream.write("127.0.0.1 statsd.test\n")
    wait_counters(statsd, {f"{PROXY}.connections.accepted": 20}, timeout=70)
    wait_sums(bitflow, statsd)
    assert bitflow.stderr().count("metrics cannot be sent") == bitflow.stderr().count("metrics are sent again") == 1
    bitflow.quiet_check = False


def test_a_silent_name_server_delays_neither_data_nor_the_end(env):
    address = env.address()
    with hosts.SilentNameServer() as silent:
        bitflow = env.start(
            proxy(address, env.echo().address),
            application=all_on("statsd.test:8125"),
            plan=hosts.plan(env, [], silent.address, "timeout:20 attempts:3"),
        )
        wait_for(lambda: silent.questions, "it is asked for the receiver")
        for _ in range(20):
            with sockets.connect(address) as client:
                timed_round_trips(client)
        bitflow.wait_records(20)
        reload(env, bitflow, proxy(address, env.echo().address), application=all_on("other.test:8125"))
        with sockets.connect(address) as client:
            timed_round_trips(client)
        watch = Stopwatch()
        bitflow.signal(signal.SIGTERM)
        assert bitflow.wait_ended() == 0
        watch.between(0, 5, "the end")


def test_bulk_is_counted_while_it_runs(env, pki):
    """Both directions, plain and through TLS, in many steps, and exactly in the end."""
    statsd, plain, sealed = env.keep(Datagrams()), env.address(), env.address()
    server = env.serve(tls_echo(server_context(pki.server)))
    target = tls_target(server.address, pki.trusted)
    bitflow = env.start(
        proxy(plain, env.echo().address, name="plain"),
        proxy(sealed, target, name="sealed", listener=tls_listener(pki.server)),
        application=all_on(statsd),
    )
    client, end = env.connect(plain), tls_client(env, sealed)
    # No more at a time than the buffers hold.
    chunk, sent = os.urandom(100_000), 0
    counters = [f"proxy.{name}.bytes.from_{side}" for name in ("plain", "sealed") for side in ("client", "target")]
    seen = {counter: set() for counter in counters}

    def grown():
        for counter, values in seen.items():
            values.add(statsd.counters()[counter])
        return all(len(values) > 2 for values in seen.values())

    watch = Stopwatch()
    while not grown() and watch.seconds < 15 * pace():
        sockets.round_trip(client, chunk)
        end.round_trip(chunk)
        sent += len(chunk)
    assert grown(), seen
    # While the connections live, all of it is reported a second later.
    wait_for(lambda: all(statsd.counters()[counter] == sent for counter in counters), lambda: f"{sent} of each: {seen}")
    assert not any("connections.closed" in name for name in statsd.counters())
    end.end()
    sockets.receive_until_broken(end.socket)
    client.close()
    for record in bitflow.wait_records(2):
        assert (record["bytes_from_client"], record["bytes_from_target"]) == (sent, sent)
    wait_sums(bitflow, statsd)
