"""docs/deploy/grafana: the dashboard, by the types of Grafana's own package, and by a real Prometheus that scrapes a
real bitflow: each panel has something to show."""

import itertools
import json
import math
import pathlib
import re
import subprocess

import pytest

import node_peers
import peers
import prometheus_peers
import sockets
import tls_raw
import upgrades
from environment import proxy
from tls_cases import tls_echo, tls_listener, tls_target
from waiting import pace, wait_for

FOLDER = pathlib.Path(__file__).resolve().parents[3] / "docs/deploy/grafana"
TEXT = (FOLDER / "bitflow.json").read_text()
DASHBOARD = json.loads(TEXT)
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [
    (f"{panel['title']}, {target['refId']}", target["expr"]) for panel in PANELS for target in panel["targets"]
]
ANNOTATIONS = [(entry["name"], entry["target"]["expr"]) for entry in DASHBOARD["annotations"]["list"]]
VARIABLES = {entry["name"]: entry for entry in DASHBOARD["templating"]["list"]}
# What Grafana puts in their places where all is chosen.
ALL = {"$instance": ".*", "$proxy": ".*", "$__rate_interval": "1m"}
NAMES = ("web", "inner", "dead", "closed")
# Each is a mistake that Grafana would pass over without a word.
MISTAKES = [
    ('"showLegend"', '"showLegends"'),
    ('"placement": "bottom"', '"placement": "below"'),
    ('"lineWidth"', '"linewidth"'),
    ('"type": "timeseries"', '"type": "graphs"'),
    ('"colorMode": "value"', '"colorMode": "text"'),
    ('"gridPos"', '"position"'),
    ('"includeAll"', '"include_all"'),
    ('"legendFormat"', '"legend"'),
    ('"refresh": 2', '"refresh": 7'),
    ('"schemaVersion": 39', '"schemaVersion": "39"'),
    ('"titleFormat"', '"title"'),
]


def substituted(expression, values):
    for name, value in values.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, f"a variable without a value: {expression}"
    return expression


def test_it_is_as_grafana_describes_dashboards(tmp_path):
    """By tsc, in one run, beside the same with a mistake each."""
    compiler = node_peers.package("typescript") / "lib/tsc.js"
    assert node_peers.package("@grafana/schema").parent.parent == node_peers.INSTALLED / "node_modules"
    (tmp_path / "node_modules").symlink_to(node_peers.INSTALLED / "node_modules")
    types = node_peers.HERE / "npm/dashboard.d.ts"
    (tmp_path / types.name).write_text(types.read_text())
    for number, (right, wrong) in enumerate([("", ""), *MISTAKES]):
        assert right in TEXT, right
        text = "import type {Dashboard} from './dashboard';\nexport const dashboard: Dashboard = "
        (tmp_path / f"{number}.ts").write_text(text + TEXT.replace(right, wrong, 1))
    options = "--noEmit --strict --skipLibCheck --module esnext --moduleResolution bundler --target es2022 --lib es2022"
    done = subprocess.run(
        [node_peers.node(), str(compiler), *options.split(), *(path.name for path in sorted(tmp_path.glob("*.ts")))],
        cwd=tmp_path, capture_output=True, text=True, timeout=120 * pace(), check=False,
    )  # fmt: skip
    said = {int(number): line for line in done.stdout.splitlines()[::-1]
            for number in re.findall(r"^(\d+)\.ts\(", line)}
    assert 0 not in said, done.stdout
    assert said.keys() == set(range(1, 1 + len(MISTAKES))), done.stdout + done.stderr


def test_panels_have_ids_of_their_own_and_do_not_overlap():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        fields = set(itertools.product(range(place["x"], place["x"] + place["w"]),
                                       range(place["y"], place["y"] + place["h"])))
        assert not fields & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= fields


def test_every_query_asks_the_chosen_data_source_and_keeps_to_the_chosen_processes():
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert VARIABLES["datasource"]["type"] == "datasource" and VARIABLES["datasource"]["query"] == "prometheus"
    asked = [*DASHBOARD["annotations"]["list"], VARIABLES["instance"], VARIABLES["proxy"]]
    for entry in [*PANELS, *(target for panel in PANELS for target in panel["targets"]), *asked]:
        assert entry["datasource"] == source, entry
    for title, expression in EXPRESSIONS + ANNOTATIONS:
        for name, matchers in prometheus_peers.SELECTOR.findall(expression):
            assert 'instance=~"$instance"' in matchers, title
            assert ('proxy=~"$proxy"' in matchers) == name.startswith("bitflow_proxy_"), title


class Traffic:
    """A bitflow of which there is something to tell in each panel: connections that end well and badly, over TLS and
    without, rejected ones, targets that are looked up, refuse, and speak no TLS."""

    def __init__(self, env, pki):
        self.env, self.pki = env, pki
        self.address = {name: env.address() for name in NAMES}
        self.web = env.address()
        echo = env.echo().address
        over_tls = env.serve(tls_echo(tls_raw.server_context(pki.server))).address
        targets = {
            "web": [{"name": "looked up", "address": echo.replace("127.0.0.1", "localhost")}],
            "inner": [tls_target(over_tls, pki.trusted, pki.client) | {"name": "inner"}],
            "dead": [
                {"name": "refuses", "address": env.refusing()},
                tls_target(env.serve(peers.source(b"220 no TLS\r\n")).address, pki.trusted) | {"name": "plain"},
            ],
            "closed": [echo],
        }
        listeners = {"web": tls_listener(pki.server), "closed": {"authorized_sources": ["10.0.0.0/8"]}}
        options = {"dead": {"connection_load_balancer": "failover"}}
        self.bitflow = env.start(
            *(
                proxy(address, *targets[name], name=name, listener=listeners.get(name), **options.get(name, {}))
                for name, address in self.address.items()
            ),
            application={"control": {"address": self.web}},
        )  # fmt: skip

    def once(self):
        with sockets.connect(self.address["web"]) as client:
            end = tls_raw.Tls(client, tls_raw.client_context(self.pki.trusted), server_name="server.test").handshake()
            end.round_trip()
            end.close_notify()
        with sockets.connect(self.address["inner"]) as client:
            sockets.round_trip(client)
        with sockets.connect(self.address["web"]) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            sockets.receive_until_broken(client)
        with sockets.connect(self.address["dead"]) as client:
            sockets.receive_until_broken(client)
        sockets.was_rejected(sockets.connect(self.address["closed"]))


@pytest.fixture(scope="module", autouse=True)
def reaping():
    with upgrades.reaping():
        yield


@pytest.fixture(scope="module")
def traffic(module_env, pki):
    return Traffic(module_env, pki)


def test_a_process_has_what_it_names(traffic):
    samples = prometheus_peers.parse(prometheus_peers.scrape(traffic.web))
    for title, expression in EXPRESSIONS + ANNOTATIONS:
        prometheus_peers.assert_has(samples, substituted(expression, ALL), title)
    legends = [(target["expr"], label) for panel in PANELS for target in panel["targets"]
               for label in re.findall(r"{{(\w+)}}", target.get("legendFormat", ""))]
    assert legends
    for expression, label in legends:
        grouped = prometheus_peers.groupings(expression)
        assert label in (set.intersection(*grouped) if grouped else {"instance"}), (label, expression)


def numbers(prometheus, expression):
    """The values of an expression that parses."""
    results = prometheus.api("query", query=expression).get("result", [])
    return [float(result["value"][1]) for result in results]


def shows(prometheus, expression):
    return any(not math.isnan(number) for number in numbers(prometheus, expression))


def test_every_panel_shows_something(traffic):
    """Also those of failures, of which there are some. Then the process is reloaded and upgraded, for annotations."""
    prometheus_peers.PROMETHEUS.need()
    config = f"scrape_configs: [{{job_name: bitflow, static_configs: [{{targets: ['{traffic.web}']}}]}}]\n"
    prometheus = traffic.env.keep(prometheus_peers.Prometheus(config))
    prometheus.wait_up()
    chosen = {**ALL, "$instance": re.escape(traffic.web).replace("\\", "\\\\"), "$proxy": f"({'|'.join(NAMES)})"}
    empty = {(title, substituted(expression, values)) for title, expression in EXPRESSIONS for values in (ALL, chosen)}

    def all_show():
        traffic.once()
        empty.difference_update([entry for entry in empty if shows(prometheus, entry[1])])
        return not empty

    wait_for(all_show, lambda: f"nothing is shown by {empty}", 60, every=0.3)
    for name, wanted in (("instance", {traffic.web}), ("proxy", set(NAMES))):
        query = VARIABLES[name]["query"]["query"]
        series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()
        found = prometheus.api(f"label/{label}/values", **{"match[]": substituted(series, ALL)})
        assert set(found) == wanted, query
    (started, reloaded, refused) = (substituted(expression, chosen) for _, expression in ANNOTATIONS)
    assert not any(shows(prometheus, expression) for expression in (started, reloaded, refused))
    config = traffic.env.directory / "config.yaml"
    text = config.read_text()
    config.write_text("server: nothing")
    traffic.bitflow.reload("reload failed")
    wait_for(lambda: shows(prometheus, refused), "the refused reload is shown", 60)
    assert not shows(prometheus, reloaded)
    config.write_text(text)
    traffic.bitflow.reload()
    wait_for(lambda: shows(prometheus, reloaded) and not shows(prometheus, refused), "the reload is shown", 60)
    upgrades.upgrade(traffic.env, traffic.bitflow)
    wait_for(lambda: shows(prometheus, started), "the upgrade is shown", 60)
