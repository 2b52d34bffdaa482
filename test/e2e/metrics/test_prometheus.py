"""/metrics: as promtool reads it, as Prometheus scrapes it, and held against what statsd servers are told."""

import collections
import pathlib
import re

import pytest

import peers
import prometheus_peers
import sockets
from environment import proxy
from metrics_cases import metrics
from node_peers import Statsd
from prometheus_peers import Collectd, Prometheus, Splitter, parse, scrape, value_of
from telemetry_cases import sanitized
from tls_cases import tls_listener, tls_target
from waiting import wait_for

DOCUMENT = (pathlib.Path(__file__).resolve().parents[3] / "docs/metrics.md").read_text()
# As docs/metrics.md has it: statsd's pattern, Prometheus' name, the type, the labels.
TABLE = re.findall(r"^\| `([\w.{}]+)` \| `(\w+)` \| (counter|gauge|histogram) \| (.*) \|$", DOCUMENT, re.MULTILINE)


@pytest.fixture
def web(env):
    """An address for /metrics."""
    return env.address()


def application(web, statsd=None):
    return {"control": {"address": web}, **(metrics(statsd) if statsd else {})}


class Load:
    """Proxies on which much can happen, and clients that see to it."""

    def __init__(self, env, pki):
        names = ("front door", "tls", "dead", "closed")
        self.address = {name: env.address() for name in names}
        echo, plain = env.echo().address, env.serve(peers.source(b"220 not a word of TLS\r\n")).address
        self.proxies = [
            proxy(self.address["front door"], {"name": "www.example.com", "address": echo}, name="front door"),
            proxy(self.address["tls"], {"name": "t", "address": echo}, name="tls", listener=tls_listener(pki.server)),
            proxy(
                self.address["dead"],
                {"name": "refuses", "address": env.refusing(), "connect_attempts": 2},
                tls_target(plain, pki.trusted) | {"name": "plain"},
                name="dead",
                connection_load_balancer="failover",
            ),
            proxy(self.address["closed"], echo, name="closed", listener={"authorized_sources": ["10.0.0.0/8"]}),
        ]

    def run(self, rounds=5):
        """How many connections that makes, rejected ones included."""
        for number in range(rounds):
            with sockets.connect(self.address["front door"]) as client:
                sockets.round_trip(client, bytes(1 + 1000 * number))
            with sockets.connect(self.address["tls"]) as client:
                client.sendall(b"GET / HTTP/1.1\r\n\r\n")
                sockets.receive_until_broken(client)
            with sockets.connect(self.address["dead"]) as client:
                sockets.receive_until_broken(client)
            sockets.was_rejected(sockets.connect(self.address["closed"]))
            sockets.connect(self.address["tls"]).close()
        return 5 * rounds


def by_statsds_name(samples):
    """Counters that are not 0, and how many values each timer has had, under statsd's names."""
    found = {}
    for pattern, name, kind, _ in TABLE:
        for (sample, labels), number in samples.items():
            if sample == {"counter": name, "histogram": f"{name}_count"}.get(kind) and number:
                told = pattern
                for key, value in labels:
                    told = told.replace(f"{{{key}}}", sanitized(value))
                found[told] = number
    return found


def of_connections(counters):
    return {name: value for name, value in counters.items() if name.startswith("proxy.") and value}


def test_promtool_accepts_a_real_processs_metrics(env, pki, web):
    prometheus_peers.PROMETHEUS.need()
    load = Load(env, pki)
    bitflow = env.start(*load.proxies, application=application(web))
    assert prometheus_peers.check(scrape(web)) == "", "before anything has happened"
    count = load.run(2)
    bitflow.wait_records(count)
    text = scrape(web)
    assert prometheus_peers.check(text) == ""
    # It would have told of what is wrong.
    assert "_total" in prometheus_peers.check(text.replace("accepted_total", "accepted"))
    names = {name for name, _ in parse(text)}
    for pattern, name, kind, _ in TABLE:
        wanted = {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
        assert wanted <= names or "target.{target}.certificate" in pattern, wanted
    types = collections.Counter(re.findall(r"^# TYPE (\w+) \w+$", text, re.MULTILINE))
    helps = collections.Counter(re.findall(r"^# HELP (\w+) .{10,}$", text, re.MULTILINE))
    assert types == helps and set(types.values()) == {1}


def test_prometheus_and_statsd_servers_see_the_same_numbers(env, pki, web):
    """npm's statsd, collectd's, and Prometheus, of one process at once; Prometheus as docs/metrics.md shows it."""
    prometheus_peers.PROMETHEUS.need()
    prometheus_peers.COLLECTD_STATSD.need()
    statsd, collectd = env.keep(Statsd()), env.keep(Collectd())
    splitter = env.keep(Splitter(statsd.address, collectd.address))
    load = Load(env, pki)
    example = re.search(r"^```yaml\n# prometheus\.yml\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)[1]
    assert "127.0.0.1:9180" in example
    bitflow = env.start(*load.proxies, application=application(web, splitter.address))
    prometheus = env.keep(Prometheus(example.replace("127.0.0.1:9180", web)))
    prometheus.wait_up()
    count = load.run()
    bitflow.wait_records(count)
    selector = '{__name__=~"bitflow_proxy_.*"}'
    wanted = of_connections(by_statsds_name(parse(scrape(web))))
    for name, number in (
        ("proxy.front_door.connections.closed.completed", 5),
        ("proxy.front_door.target.www_example_com.dials.attempted", 5),
        ("proxy.front_door.bytes.from_client", 5 + 1000 * 10),
        ("proxy.tls.connections.closed.client_left", 5),
        ("proxy.tls.handshakes.failed.not_tls", 5),
        ("proxy.dead.target.refuses.dials.failed.connect_refused", 10),
        ("proxy.dead.target.plain.handshakes.failed.not_tls", 5),
        ("proxy.closed.connections.rejected.source_not_authorized", 5),
        ("proxy.front_door.time.lifetime", 5),
    ):
        assert wanted.get(name) == number, (name, wanted)

    def told():
        of_statsd = of_connections(statsd.counters()) | {k: round(v, 3) for k, v in statsd.timer_counts().items()}
        of_prometheus = of_connections(by_statsds_name(prometheus.samples(selector)))
        return {"statsd": of_statsd, "Prometheus": of_prometheus, "collectd": of_connections(collectd.counters())}

    counters = {name: value for name, value in wanted.items() if ".time." not in name}
    expected = {"statsd": wanted, "Prometheus": wanted, "collectd": counters}
    wait_for(lambda: told() == expected, lambda: f"wanted {expected} and seen {told()}", 20)
    # No value was left out, so the sums are the same, too: statsd's in ms.
    samples = parse(scrape(web))
    for name, values in statsd.timers().items():
        _, told_proxy, _, timer = name.split(".")
        seen = value_of(samples, f"bitflow_proxy_time_{timer}_seconds_sum", proxy=told_proxy.replace("_", " "))
        assert seen == pytest.approx(sum(values) / 1000, abs=1e-9), name
    days = value_of(samples, "bitflow_proxy_certificate_left_seconds", proxy="tls") // 86400
    assert statsd.gauges()["proxy.tls.certificate.days_left"] == days
    assert collectd.values("gauge")["proxy.tls.certificate.days_left"] == days
    statsd.assert_clean()


def test_names_are_labels_as_they_are_configured(env, web):
    """Quotes, backslashes and characters beyond ASCII included."""
    name, target = 'say "hi" \\ bär', 'a"b\\c'
    address = env.address()
    env.start(proxy(address, {"name": target, "address": env.echo().address}, name=name), application=application(web))
    with sockets.connect(address) as client:
        sockets.round_trip(client)
        text = scrape(web)
        assert f'bitflow_proxy_connections_active{{proxy="say \\"hi\\" \\\\ bär"}} 1\n' in text
        assert f'dials_attempted_total{{proxy="say \\"hi\\" \\\\ bär",target="a\\"b\\\\c"}} 1\n' in text
        prometheus_peers.PROMETHEUS.need()
        assert prometheus_peers.check(text) == ""
        config = f"scrape_configs: [{{job_name: b, static_configs: [{{targets: ['{web}']}}]}}]\n"
        prometheus = env.keep(Prometheus(config))
        prometheus.wait_up()
        wait_for(
            lambda: prometheus.samples("bitflow_proxy_target_dials_attempted_total")
            == {("bitflow_proxy_target_dials_attempted_total", frozenset({("proxy", name), ("target", target)})): 1},
            "Prometheus has the names",
        )


def test_a_removed_proxy_is_there_to_its_last_connection(env, web):
    listener, stays, goes = env.listen(), env.address(), env.address()
    both = [proxy(stays, listener.address, name="stays"), proxy(goes, listener.address, name="goes")]
    bitflow = env.start(*both, application=application(web))
    client, target = env.pair(goes, listener)
    env.config(both[0], application=application(web))
    bitflow.reload()
    client.sendall(b"hello")
    sockets.receive_exactly(target, 5)
    assert value_of(parse(scrape(web)), "bitflow_proxy_connections_active", proxy="goes") == 1
    wait_for(  # the target may have them before they are counted
        lambda: value_of(parse(scrape(web)), "bitflow_proxy_bytes_from_client_total", proxy="goes") == 5,
        lambda: f"5 bytes are counted: {scrape(web)}",
    )
    client.close()
    target.close()
    wait_for(lambda: 'proxy="goes"' not in scrape(web), "it goes")
    assert value_of(parse(scrape(web)), "bitflow_proxy_connections_active", proxy="stays") == 0
    bitflow.quiet_check = False  # there is a listener fewer than at the start


def test_statsd_that_a_reload_adds_hears_of_what_comes_then(env, web):
    """Prometheus goes on with the counters since the start."""
    statsd, address = env.keep(Statsd()), env.address()
    entry = proxy(address, env.echo().address)
    bitflow = env.start(entry, application=application(web))

    def accepted():
        return value_of(parse(scrape(web)), "bitflow_proxy_connections_accepted_total", proxy="front")

    def use(times):
        for _ in range(times):
            with sockets.connect(address) as client:
                sockets.round_trip(client)

    use(3)
    bitflow.wait_records(3)
    env.config(entry, application=application(web, statsd.address))
    bitflow.reload()
    use(2)
    statsd.wait_counter("proxy.front.connections.closed.completed", 2)
    assert accepted() == 5 and statsd.counter("proxy.front.connections.accepted") == 2
    env.config(entry, application=application(web))
    bitflow.reload()
    use(1)
    assert accepted() == 6
    assert "statsd" not in bitflow.thread_names()
    bitflow.quiet_check = False  # statsd's socket came and went
