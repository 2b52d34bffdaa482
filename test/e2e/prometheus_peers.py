"""Prometheus and its parser, and collectd, which takes statsd's protocol: Debian's packages of them."""

import http.client
import json
import re
import socket
import subprocess
import threading
import urllib.parse

import needs
import sockets
from programs import Program, find
from waiting import pace, wait_for

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SAMPLE = re.compile(r'([a-z_]+)(?:\{(.*)\})? (\S+)')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
# In an expression: of bitflow's, of those that many programs have, and Prometheus' own of what it scrapes.
SELECTOR = re.compile(r"\b((?:bitflow|process)_\w+|up\b)(?:\{([^}]*)\})?")
MATCHER = re.compile(r"(\w+)\s*(?:=|!)")


def scrape(address):
    """The text of /metrics, as Prometheus would fetch it."""
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=10 * pace())
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    assert (response.status, response.getheader("Content-Type")) == (200, CONTENT_TYPE), body[:500]
    return body.decode()


def parse(text):
    """{(name, {(label, value), ...}): number}; asserts that it has no sample twice."""
    samples = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, labels, number = SAMPLE.fullmatch(line).groups()
        pairs = LABEL.findall(labels or "")
        assert ",".join(f'{key}="{value}"' for key, value in pairs) == (labels or ""), line
        key = name, frozenset(pairs)
        assert key not in samples, line
        samples[key] = float(number)
    return samples


def value_of(samples, name, **labels):
    return samples.get((name, frozenset(labels.items())))


def groupings(expression):
    """The labels that each of its aggregations keeps."""
    return [set(group.split(", ")) for group in re.findall(r"by \(([^)]*)\)", expression)]


def labels_of(samples):
    """{name: the labels that it has once Prometheus has scraped it}."""
    labels = {}
    for name, pairs in samples:
        labels.setdefault(name, {"instance", "job"}).update(key for key, _ in pairs)
    return labels


def assert_has(samples, expression, what):
    """A process's samples (parse()) have the names and the labels of an expression."""
    labels = labels_of(samples)
    selectors = SELECTOR.findall(expression)
    assert selectors, f"{what}: nothing of bitflow is in it"
    for name, matchers in selectors:
        assert name in labels, f"{what}: there is no {name}"
        named = set(MATCHER.findall(matchers)).union(*groupings(expression))
        assert named <= labels[name], f"{what}: {name} has not all of {named}"


def check(text):
    """What promtool says against it: an empty text."""
    done = subprocess.run(
        [find("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr if done.returncode else ""


class Prometheus(Program):
    """With what is to be scraped, as the configuration has it; short intervals, a storage that goes with it."""

    def __init__(self, config):
        super().__init__()
        self.address = f"127.0.0.1:{sockets.free_port()}"
        path = self.directory / "prometheus.yml"
        path.write_text("global:\n  scrape_interval: 250ms\n  scrape_timeout: 250ms\n" + config)
        self.launch(
            ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={self.directory}/data",
             "--storage.tsdb.retention.size=64MB", f"--web.listen-address={self.address}", "--log.level=warn"]
        )  # fmt: skip
        self.wait_answering(self.address)

    def api(self, path, **parameters):
        host, port = self.address.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10 * pace())
        try:
            connection.request("GET", f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status == 503:  # it is still starting
            return {}
        answer = json.loads(body)
        assert answer["status"] == "success", answer
        return answer["data"]

    def wait_up(self):
        """Until it has scraped its one target."""

        def targets():
            return self.api("targets").get("activeTargets", [])

        wait_for(
            lambda: [target["health"] for target in targets()] == ["up"],
            lambda: f"it has scraped: {targets()} {self.log.read_text()}",
            20,
        )

    def samples(self, selector):
        """As parse() has them, without what Prometheus adds itself."""
        found = {}
        for result in self.api("query", query=selector).get("result", []):
            labels = dict(result["metric"])
            name = labels.pop("__name__")
            del labels["job"], labels["instance"]
            found[name, frozenset(labels.items())] = float(result["value"][1])
        return found


COLLECTD = """
Hostname "here"
BaseDir "{directory}"
PIDFile "{directory}/pid"
Interval 0.5
LoadPlugin statsd
LoadPlugin csv
<Plugin statsd>
  Host "127.0.0.1"
  Port "{port}"
  TimerCount true
</Plugin>
<Plugin csv>
  DataDir "{directory}/data"
  StoreRates false
</Plugin>
"""


class Collectd(Program):
    """Its statsd plugin on a UDP port of 127.0.0.1; what it has added up is written to files."""

    def __init__(self):
        super().__init__()
        self.port = sockets.free_port()
        self.address = f"127.0.0.1:{self.port}"
        path = self.directory / "collectd.conf"
        path.write_text(COLLECTD.format(directory=self.directory, port=self.port))
        self.launch(["collectd", "-f", "-C", str(path)])
        try:
            wait_for(self._is_ready, lambda: f"collectd is bound: {self.log.read_text()}", 20)
        except BaseException:
            self.close()
            raise

    def _is_ready(self):
        assert self.process.poll() is None, f"collectd ended: {self.log.read_text()}"
        with open("/proc/net/udp") as stream:
            return any(line.split()[1].endswith(f":{self.port:04X}") for line in stream)

    def values(self, kind):
        """{name: the last value}; `kind`: derive (of counters: the sum), gauge."""
        found = {}
        for path in (self.directory / "data/here/statsd").glob(f"{kind}-*"):
            name = re.fullmatch(rf"{kind}-(.+)-\d{{4}}-\d\d-\d\d", path.name)[1]
            lines = path.read_text().splitlines()
            if len(lines) > 1 and not lines[-1].endswith("nan"):
                found[name] = float(lines[-1].split(",")[1])
        return found

    def counters(self):
        return self.values("derive")


class Splitter:
    """Passes each datagram on to several statsd servers."""

    def __init__(self, *addresses):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = sockets.local_name(self.socket)
        self.to = [sockets.parse(address)[1] for address in addresses]
        self.thread = threading.Thread(target=self._pass_on, daemon=True)
        self.thread.start()

    def _pass_on(self):
        while data := self.socket.recv(65536):
            for address in self.to:
                self.socket.sendto(data, address)

    def close(self):
        self.socket.sendto(b"", self.socket.getsockname())
        self.thread.join()
        self.socket.close()


# Whether a machine has them.
PROMETHEUS = needs.Capability("prometheus", lambda: needs.installed("prometheus") or needs.installed("promtool"))
COLLECTD_STATSD = needs.Capability("collectd", lambda: needs.installed("collectd"))
