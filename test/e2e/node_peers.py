"""Real receivers from npm: cmake/install-deps.sh installs those of npm/package.json into build/npm."""

import json
import pathlib

import needs
import sockets
from programs import Program, find
from waiting import wait_for

HERE = pathlib.Path(__file__).resolve().parent
INSTALLED = HERE.parents[1] / "build" / "npm"


def package(name):
    """The directory of an installed package."""
    path = INSTALLED / "node_modules" / name
    if not path.is_dir():
        needs.missing(f"{name}, of npm")
    wanted = json.loads((HERE / "npm" / "package.json").read_text())["dependencies"][name]
    version = json.loads((path / "package.json").read_text())["version"]
    if version != wanted:
        needs.missing(f"{name} {wanted}, of npm: it is {version}")
    return path


def node():
    """Node.js: the one that was installed because the machine's is too old, or else the machine's."""
    own = sorted(INSTALLED.glob("node_modules/node-linux-*/bin/node"))
    return str(own[0]) if own else find("node")


class Statsd(Program):
    """npm's statsd on a UDP port of 127.0.0.1; it flushes often, and all of it is read here."""

    FLUSH_MS = 200

    def __init__(self, port=None, **settings):
        super().__init__()
        self.port = port or sockets.free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.dump = self.directory / "flushes.jsonl"
        config = {
            "address": "127.0.0.1",
            "port": self.port,
            "mgmt_address": "127.0.0.1",
            "mgmt_port": sockets.free_port(),
            "flushInterval": self.FLUSH_MS,
            "deleteCounters": True,
            "deleteTimers": True,
            "backends": [str(HERE / "npm" / "statsd_to_file.js")],
            "dumpFile": str(self.dump),
            **settings,
        }
        path = self.directory / "config.js"
        path.write_text(json.dumps(config))
        self.launch([node(), str(package("statsd") / "stats.js"), str(path)])
        try:
            wait_for(self._is_ready, lambda: f"statsd flushes: {self.log.read_text()}", 30)
        except BaseException:
            self.close()
            raise

    def _is_ready(self):
        assert self.process.poll() is None, f"statsd ended: {self.log.read_text()}"
        with open("/proc/net/udp") as stream:
            is_bound = any(line.split()[1].endswith(f":{self.port:04X}") for line in stream)
        return is_bound and self.flushes()

    def flushes(self):
        """What it aggregated, a dict for each interval."""
        if not self.dump.exists():
            return []
        text = self.dump.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def counters(self):
        """The sums over all intervals."""
        sums = {}
        for flush in self.flushes():
            for name, value in flush["counters"].items():
                sums[name] = sums.get(name, 0) + value
        return sums

    def counter(self, name):
        return self.counters().get(name, 0)

    def gauges(self):
        flushes = self.flushes()
        return flushes[-1]["gauges"] if flushes else {}

    def timers(self):
        """Every value that came, by name."""
        values = {}
        for flush in self.flushes():
            for name, some in flush["timers"].items():
                values.setdefault(name, []).extend(some)
        return values

    def timer_counts(self):
        """How many values there were: those that came, each divided by its sample rate."""
        sums = {}
        for flush in self.flushes():
            for name, value in flush["timer_counters"].items():
                sums[name] = sums.get(name, 0) + value
        return sums

    def wait_counter(self, name, value, timeout=15.0):
        wait_for(
            lambda: self.counter(name) == value,
            lambda: f"{name} is {value}, but: {self.counters()}",
            timeout,
        )

    def wait_gauge(self, name, value, timeout=15.0):
        wait_for(
            lambda: self.gauges().get(name) == value,
            lambda: f"{name} is {value}, but: {self.gauges()}",
            timeout,
        )

    def assert_clean(self):
        """It understood every line."""
        bad = self.counter("statsd.bad_lines_seen")
        assert bad == 0, f"{bad} bad lines: {self.log.read_text()[:4000]}"
