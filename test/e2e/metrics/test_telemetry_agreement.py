"""All telemetry at once, under crowds whose connections end in every way: the connection log, statsd, Sentry and the
log agree."""

import concurrent.futures
import random
import signal
import ssl

import pytest

import hosts
import telemetry_cases
import sockets
import tls_raw
from environment import proxy
from metrics_cases import family, wait_counters
from node_peers import Statsd
from telemetry_cases import Datagrams, all_on, ends, wait_sums
from sentry_peers import Scripted, Spotlight
from tls_cases import tls_listener, tls_target
from waiting import scale, wait_for

RECORDS = {"connection_log_connect": True, "connection_log_interval": "1s"}


def obeying(connection):
    """A target that does what the client's first byte says."""
    order = connection.recv(1)
    if order == b"R":
        sockets.reset(connection)
    elif order == b"E":
        while data := connection.recv(65536):
            connection.sendall(data)
    elif order == b"B":
        connection.sendall(bytes(int(sockets.receive_exactly(connection, 8))))
    else:
        connection.recv(1)


class Crowd:
    """Proxies for every kind of end, and clients that bring them about."""

    def __init__(self, env, pki):
        self.env = env
        self.target = env.serve(obeying)
        self.refusing = env.refusing()
        names = ("web", "few", "closed", "tls", "dead", "over", "nameless", "hasty", "header", "doubt", "gone")
        self.address = {name: env.address() for name in names}
        self.is_plain_at_tls = self.says("tls", b"GET / HTTP/1.1\r\n\r\n")
        self.kinds = [
            self.echoes, self.resets, self.says("web", b"R"), self.downloads, self.is_plain_at_tls, self.knocks,
            *(self.comes_to(name) for name in ("few", "closed", "dead", "nameless", "doubt", "gone")),
            self.goes_over, self.says("hasty", b"S"), self.says("header", b"HELO who is there\r\n"),
            self.speaks_tls, self.distrusts,
        ]
        self.pki = pki

    def proxies(self):
        good = {"name": "good", "address": self.target.address}
        dead = {"name": "dead", "address": self.refusing, "connect_attempts": 2}
        missing = {"name": "missing", "address": self.env.unix("nothing.sock")}
        nameless = {"name": "nameless", "address": "no-such-host.invalid:80"}
        doubt = tls_target(self.target.address, self.pki.trusted, handshake_timeout="150ms") | {"name": "doubt"}

        def entry(name, *targets, **settings):
            return proxy(self.address[name], *targets, name=name, **RECORDS, **settings)

        return [
            entry("web", good),
            entry("few", good, connection_limit=2),
            entry("closed", good, listener={"authorized_sources": ["10.0.0.0/8"]}),
            entry("tls", good, listener=tls_listener(self.pki.server)),
            entry("dead", dead, missing, connection_load_balancer="failover"),
            entry("over", dead, missing, good, connection_load_balancer="failover"),
            entry("nameless", nameless),
            entry("hasty", good | {"read_timeout": "60ms"}),
            entry("header", good, listener={"proxy_protocol": True}),
            entry("doubt", doubt),
            entry("gone", good),
        ]

    def run(self, count, at_a_time=40, seed=1):
        order = random.Random(seed)
        kinds = [self.kinds[number % len(self.kinds)] for number in range(count)]
        order.shuffle(kinds)
        with concurrent.futures.ThreadPoolExecutor(at_a_time) as pool:
            for done in [pool.submit(kind, random.Random(number)) for number, kind in enumerate(kinds)]:
                done.result()

    # Clients

    def echoes(self, some):
        with sockets.connect(self.address["web"]) as client:
            client.sendall(b"E")
            sockets.round_trip(client, some.randbytes(some.randrange(1, 200_000)))

    def resets(self, some):
        client = sockets.connect(self.address["web"])
        client.sendall(b"E")
        sockets.round_trip(client, some.randbytes(some.randrange(1, 5000)))
        sockets.reset(client)

    def downloads(self, some):
        size = some.randrange(2_000_000)
        with sockets.connect(self.address["web"]) as client:
            client.sendall(b"B%08d" % size)
            assert len(sockets.receive_to_end(client)) == size

    def says(self, name, data):
        """A client that sends this and waits for the end."""

        def client(_):
            with sockets.connect(self.address[name]) as sock:
                sock.sendall(data)
                sockets.receive_until_broken(sock)

        return client

    def knocks(self, some):
        sockets.connect(self.address[some.choice(["tls", "header"])]).close()

    def comes_to(self, name):
        def client(_):
            with sockets.connect(self.address[name]) as sock:
                try:
                    sock.sendall(b"Ehello")
                except OSError:
                    return  # it was turned away already
                try:
                    if sock.recv(1):
                        sockets.receive_exactly(sock, 4)
                except ConnectionResetError:
                    pass

        return client

    def goes_over(self, some):
        with sockets.connect(self.address["over"]) as client:
            client.sendall(b"E")
            sockets.round_trip(client, some.randbytes(100))

    def speaks_tls(self, some):
        with sockets.connect(self.address["tls"]) as client:
            end = tls_raw.Tls(client, tls_raw.client_context(), server_name="server.test").handshake()
            end.write(b"E" + some.randbytes(1000))
            end.end()
            sockets.receive_until_broken(client)

    def distrusts(self, _):
        with sockets.connect(self.address["tls"]) as client:
            with pytest.raises(ssl.SSLError):
                tls_raw.Tls(client, ssl.create_default_context(), server_name="server.test").handshake()


def test_records_metrics_errors_and_log_agree_about_a_crowd(env, pki):
    """By what real receivers, a statsd server and Sentry's Spotlight, have heard."""
    crowd, statsd, spotlight = Crowd(env, pki), env.keep(Statsd()), env.keep(Spotlight())
    bitflow = env.start(
        *crowd.proxies(), application=all_on(statsd, spotlight), plan=hosts.no_names(env)
    )
    count = scale(400, 150)
    crowd.run(count)
    records = wait_for(
        lambda: (found := bitflow.records()) and len(ends(found)) == count and found,
        lambda: f"{count} ends, there are {len(ends(bitflow.records()))}",
        20,
    )
    wait_sums(bitflow, statsd)
    telemetry_cases.assert_each_ends_once(records)
    telemetry_cases.check_schema(records, every=3)
    sums = telemetry_cases.sums_of_records(records)
    for proxy_name, what in (
        ("web", "closed.client_reset"), ("web", "closed.target_reset"), ("web", "closed.completed"),
        ("few", "rejected.connection_limit"), ("closed", "rejected.source_not_authorized"),
        ("tls", "closed.client_handshake_failed"), ("dead", "closed.connect_refused"),
        ("nameless", "closed.resolve_failed"), ("hasty", "closed.target_read_timeout"),
        ("header", "closed.proxy_header_invalid"),
    ):
        assert sums[proxy_name, what] > 0, (proxy_name, what, sums)
    tried = [record for record in ends(records) if record["proxy"] in ("dead", "over") and record["attempts"]]
    assert statsd.counter("proxy.dead.target.dead.dials.failed.connect_refused") == 2 * sum(
        record["proxy"] == "dead" for record in tried
    )
    assert statsd.counter("proxy.over.target.missing.dials.failed.connect_refused") == sum(
        record["proxy"] == "over" for record in tried
    )
    statsd.assert_clean()
    for gauge, value in ((f"proxy.{name}.connections.active", 0) for name in crowd.address):
        statsd.wait_gauge(gauge, value)
    timers = statsd.timer_counts()
    accepted = sum(value for (_, what), value in sums.items() if what == "accepted")
    lifetimes = sum(value for name, value in timers.items() if name.endswith(".time.lifetime"))
    assert round(lifetimes, 3) == accepted
    first = [record for record in ends(records) if record["timings"]["first_byte_ms"] is not None]
    assert round(sum(value for name, value in timers.items() if name.endswith(".time.first_byte")), 3) == len(first)
    bitflow.stop()
    telemetry_cases.assert_log_tells(bitflow.log_lines(), records)
    telemetry_cases.assert_sentry_got(spotlight, records)
    assert not family(statsd, "telemetry.dropped"), family(statsd, "telemetry.dropped")


def test_what_a_reload_removes_is_still_counted_to_its_last_connection(env, pki):
    """A proxy and a target are removed: what they had counted and what their last connections still do arrives, and
    the proxy's gauge goes back to 0."""
    crowd, statsd, listener = Crowd(env, pki), env.keep(Datagrams()), env.listen()
    entries = {entry["name"]: entry for entry in crowd.proxies()}
    waiting = {"name": "waiting", "address": listener.address}
    entries["gone"]["targets"] = [waiting]
    entries["over"]["targets"].append(waiting)
    bitflow = env.start(
        *entries.values(), application=all_on(statsd), plan=hosts.no_names(env), server={"drain_timeout": "5s"}
    )
    pairs = [env.pair(crowd.address["gone"], listener) for _ in range(3)]
    for client, target in pairs:
        client.sendall(bytes(500))
        sockets.receive_exactly(target, 500)
    statsd.wait_gauge("proxy.gone.connections.active", 3)
    crowd.kinds = [crowd.echoes, crowd.downloads, crowd.goes_over, crowd.is_plain_at_tls]
    count = scale(120, 60)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        load = pool.submit(crowd.run, count, 10)
        wait_for(lambda: len(ends(bitflow.records())) > count // 4, "some have ended")
        del entries["gone"]
        del entries["over"]["targets"][1]  # "missing"
        env.config(*entries.values(), application=all_on(statsd))
        bitflow.reload()
        load.result()
    for client, target in pairs[:2]:
        target.sendall(bytes(70_000))
        sockets.receive_exactly(client, 70_000)
        client.sendall(bytes(11))
        sockets.receive_exactly(target, 11)
    wait_counters(statsd, {"proxy.gone.bytes.from_client": 1522, "proxy.gone.bytes.from_target": 140_000})
    for client, target in pairs:
        client.close()
        target.close()
    wait_for(lambda: len(ends(bitflow.records())) == count + 3, "all have ended")
    wait_sums(bitflow, statsd)
    wait_counters(statsd, {"proxy.gone.connections.closed.completed": 3})
    missing = sum(record["proxy"] == "over" and record["attempts"] == 4 for record in ends(bitflow.records()))
    assert missing > 0 and statsd.counter("proxy.over.target.missing.dials.failed.connect_refused") == missing
    statsd.wait_gauge("proxy.gone.connections.active", 0)
    bitflow.quiet_check = False  # there is a listener fewer than at the start


def test_a_drain_sends_all_telemetry_before_the_exit(env, pki):
    """The ends of connections that it cut, their bytes, and an error that came during the drain."""
    crowd, listener = Crowd(env, pki), env.listen()
    statsd, receiver = env.keep(Datagrams()), env.keep(Scripted())
    full = env.listen(backlog=0)
    full.fill_queue()
    slow = env.address()
    late = {"name": "late", "address": full.address, "connect_timeout": "700ms"}
    hold = env.address()
    bitflow = env.start(
        *crowd.proxies(),
        proxy(slow, late, name="slow", **RECORDS),
        proxy(hold, listener.address, name="hold", **RECORDS),
        application=all_on(statsd, receiver),
        server={"drain_timeout": "1500ms"},
        plan=hosts.no_names(env),
    )
    pairs = [env.pair(hold, listener) for _ in range(scale(60, 20))]
    count = scale(100, 40)
    crowd.run(count, 20)
    dialling = env.connect(slow)
    wait_for(lambda: any(name.startswith("slow#") for name in bitflow.thread_names()), "it is dialling")
    bitflow.signal(signal.SIGTERM)
    for client, target in pairs:
        client.sendall(bytes(1234))
        sockets.receive_exactly(target, 1234)
    for client, target in pairs[::2]:
        client.close()
        target.close()
    assert bitflow.wait_ended(15) == 0
    dialling.close()
    records = bitflow.records()
    sums = telemetry_cases.sums_of_records(records)
    assert len(ends(records)) == count + len(pairs) + 1
    assert sums["hold", "closed.drain"] == len(pairs) // 2 and sums["slow", "closed.connect_timeout"] == 1
    assert sums["hold", "from_client"] == 1234 * len(pairs)
    wait_sums(bitflow, statsd)
    telemetry_cases.assert_each_ends_once(records)
    telemetry_cases.assert_log_tells(bitflow.log_lines(), records)
    telemetry_cases.assert_sentry_got(receiver, records)
