"""The scenarios: what is run against each contender, and which figures come of it."""

import contextlib
import dataclasses
import json
import statistics
import subprocess
import time

import certificates
import contenders as contending
import measure
import neighbours
import processes


@dataclasses.dataclass(frozen=True)
class Metric:
    key: str
    unit: str
    scale: float = 1.0  # a value in the JSON times this is what the table shows
    digits: int = 0


@dataclasses.dataclass(frozen=True)
class Scenario:
    name: str
    text: str
    mode: str  # the origin's
    contenders: tuple
    metrics: tuple
    arguments: tuple = ()  # the load generator's
    is_memory: bool = False
    has_half_close: bool = False  # a direction ends before the other, and its end has to come through
    tls_side: str = ""  # "client" or "target": the proxies speak TLS there
    tls_version: str = "1.3"
    is_crowded: bool = False  # many more connections are open, and idle
    live: int = 0  # how many are, or whose memory is measured, in place of what the command line says
    proxies: int = 0  # so many in one configuration, started afresh for each run

    # Without a proxy the client and the origin speak it to each other.

    def client_has_tls(self, contender):
        return self.tls_side == "client" or (self.tls_side != "" and not contender.is_proxy)

    def origin_has_tls(self, contender):
        return self.tls_side == "target" or (self.tls_side != "" and not contender.is_proxy)

    def client_arguments(self, contender):
        return (*self.arguments, "--tls", self.tls_version) if self.client_has_tls(contender) else self.arguments


@dataclasses.dataclass
class Bench:
    """What the scenarios need of the driver."""

    load: str  # the load generator
    directory: str
    certificate: certificates.Certificate
    seconds: float
    idle_connections: int
    live_connections: int
    descriptors: int
    is_quick: bool
    has_neighbours: bool


def start_origin(bench, scenario, has_tls):
    command = [bench.load, "origin", "--address", "127.0.0.1:0", "--mode", scenario.mode]
    if has_tls:
        command += ["--tls", scenario.tls_version, "--certificate", bench.certificate.both]
        command += ["--resume", "yes"] if "--resume" in scenario.arguments else []
    child = processes.Child(command, bench.directory, f"origin-{scenario.mode}", pipe_stdout=True)
    try:
        return child, child.read_line(5)["port"]
    except BaseException:
        child.stop()
        raise


def start_proxy(bench, scenario, contender, origin_port):
    """Returns the process and the port that clients connect to: the origin's, where there is no proxy."""
    if not contender.is_proxy:
        return None, origin_port
    link = contending.Link(contending.free_ports(), origin_port, bench.descriptors, scenario.tls_side,
                           bench.certificate)
    return contending.start(contender, bench.directory, link), link.listen_port


def run_load(bench, port, arguments, seconds):
    """Runs a client to its end and returns what it reports."""
    command = [bench.load, *arguments, "--address", f"127.0.0.1:{port}", "--seconds", str(seconds)]
    with processes.Child(command, bench.directory, "load", pipe_stdout=True) as child:
        try:
            output, _ = child.process.communicate(timeout=seconds + 30)
        except subprocess.TimeoutExpired:
            raise processes.Failure(f"the load generator did not end: {' '.join(command[1:])}") from None
        try:
            result = json.loads(output)
        except ValueError:
            raise processes.Failure(f"the load generator failed: {child.log_tail()}") from None
    if result["errors"]:
        raise processes.Failure(f"{result['errors']} errors, the first: {result['first_error']}")
    return result


class ForeignLoad:
    """How many processors were busy with what is not ours, since this began."""

    def __init__(self, own):
        self.own = own
        self.began = time.monotonic()
        self.busy = self._foreign_seconds()

    def _foreign_seconds(self):
        ours = sum(measure.processor_seconds(child.pid) for child in self.own) + time.process_time()
        return measure.busy_seconds() - ours

    def read(self, ended_seconds=0.0):
        """ended_seconds: of processes of ours that have ended meanwhile."""
        return max(0.0, self._foreign_seconds() - self.busy - ended_seconds) / (time.monotonic() - self.began)


def run_traffic(bench, scenario, arguments, child, port, origin, seconds):
    """One timed run, in a crowd or beside neighbours if they are wanted."""
    with contextlib.ExitStack() as stack:
        beside = crowd = ()
        if scenario.is_crowded:
            crowd = (stack.enter_context(idle_crowd(bench, port, scenario.live or bench.live_connections)),)
        if bench.has_neighbours:
            beside = stack.enter_context(neighbours.on_each_processor(bench.directory, seconds + 60))
        return timed_run(bench, arguments, child, port, origin, seconds, beside, crowd)


@contextlib.contextmanager
def idle_crowd(bench, port, connections):
    """As many connections as are wanted, each of which has echoed; after the block each has to echo once more."""
    command = [bench.load, "idle", "--connections", str(connections), "--seconds", "600", "--address",
               f"127.0.0.1:{port}"]
    with processes.Child(command, bench.directory, "crowd", pipe_stdout=True) as crowd:
        crowd.read_line(120)
        yield crowd
        end_idle(crowd, connections)


def end_idle(load, connections):
    load.end_input()
    end = load.read_line(60)
    if end["errors"] or end["alive"] != connections:
        raise processes.Failure(f"only {end['alive']} idle connections still worked: {end['first_error']}")


def timed_run(bench, arguments, child, port, origin, seconds, beside, crowd):
    """One timed run, and the processor time it took: the proxy's, the neighbours', and that of everybody else on the
    machine."""
    own = [member for member in (child, origin, *beside, *crowd) if member is not None]
    began = time.monotonic()
    computed = sum(measure.processor_seconds(one.pid) for one in beside)
    foreign = ForeignLoad(own)
    before = measure.processor_seconds(child.pid) if child else 0
    result = run_load(bench, port, arguments, seconds)
    if child is not None:
        child.check_alive()
        result["proxy_cpu_seconds"] = measure.processor_seconds(child.pid) - before
    result["foreign_processors"] = foreign.read(result["cpu_seconds"])
    if beside:
        computed = sum(measure.processor_seconds(one.pid) for one in beside) - computed
        result["neighbour_processors"] = computed / (time.monotonic() - began)
    if result.get("bytes") and child is not None:
        result["cpu_per_gigabyte"] = result["proxy_cpu_seconds"] / (result["bytes"] / 1e9)
    if "resumed" in result and result["completed"]:
        result["resumed_share"] = result["resumed"] / result["completed"]
    if result.get("completed") and child is not None:
        result["cpu_per_exchange"] = result["proxy_cpu_seconds"] / result["completed"]
    return result


def settled_memory(seconds, tolerance=64 * 1024):
    """Reads until two readings 0.2 s apart agree, or the time is up; returns the last."""
    deadline = time.monotonic() + seconds
    last = measure.system_memory()
    while time.monotonic() < deadline:
        time.sleep(0.2)
        current = measure.system_memory()
        if all(abs(current[key] - last[key]) <= tolerance for key in current):
            return current
        last = current
    return last


def wait_for_time_wait(limit, seconds=65):
    """Sockets in TIME_WAIT from earlier runs would end during the measurement and give back memory."""
    deadline = time.monotonic() + seconds
    while measure.time_wait_sockets() > limit and time.monotonic() < deadline:
        time.sleep(0.5)


def idle_connections(bench, scenario):
    return scenario.live or bench.idle_connections


# A connection that was silent for so long is idle: who gives memory back after a while has done so.
IDLE_SECONDS = 6


def run_idle(bench, scenario, contender):
    """Memory with all connections idle less that with none of them, everything started afresh."""
    connections = idle_connections(bench, scenario)
    with contextlib.ExitStack() as stack:
        origin, origin_port = start_origin(bench, scenario, scenario.origin_has_tls(contender))
        stack.push(origin)
        child, port = start_proxy(bench, scenario, contender, origin_port)
        if child is not None:
            stack.push(child)
        tls = scenario.client_arguments(contender)
        # What the first connections bring (code pages, pools) is no cost of the others.
        run_load(bench, port, ("pingpong", "--connections", "4", *tls), 0.05)
        if not bench.is_quick and any(metric.key == "kernel" for metric in scenario.metrics):
            wait_for_time_wait(connections / 10)
        settling = 0.5 if bench.is_quick else 3
        command = [bench.load, "idle", "--connections", str(connections), "--seconds", "60", "--address",
                   f"127.0.0.1:{port}", *tls]
        user = measure.proportional_set_size(child.pid) if child else 0
        ends = measure.proportional_set_size(origin.pid, "Pss_Anon:")
        before = settled_memory(settling)
        foreign = ForeignLoad([member for member in (child, origin) if member is not None])
        load = stack.enter_context(processes.Child(command, bench.directory, "load", pipe_stdout=True))
        load.read_line(60)
        time.sleep(0 if bench.is_quick else IDLE_SECONDS)
        after = settled_memory(settling)
        ends = sum(measure.proportional_set_size(one.pid, "Pss_Anon:") for one in (origin, load)) - ends
        result = {
            "user": measure.proportional_set_size(child.pid) - user if child else 0,
            "kernel": after["kernel"] - before["kernel"],
            "used": after["used"] - before["used"] - ends,
            "threads": measure.thread_count(child.pid) if child else 0,
            "foreign_processors": foreign.read(measure.processor_seconds(load.pid)),
        }
        end_idle(load, connections)
        return result


def per_connection(results, direct, connections, is_direct):
    """Takes from the system's figures what the same connections cost without a proxy; all per connection.

    The direct runs themselves keep theirs: they show what was taken from the others."""
    taken = {key: 0 if is_direct else statistics.median(run[key] for run in direct) for key in ("kernel", "used")}
    return [{
        "user": run["user"] / connections,
        "kernel": (run["kernel"] - taken["kernel"]) / connections,
        "used": (run["used"] - taken["used"]) / connections,
        "threads": run["threads"],
        "foreign_processors": run["foreign_processors"],
    } for run in results]


RATE = Metric("rate", "/s")
RESUMED = Metric("resumed_share", "resumed", digits=2)
NEIGHBOURS = Metric("neighbour_processors", "neighbours", digits=2)
EXCHANGE = (RATE, Metric("p50_us", "us p50", digits=1), Metric("p99_us", "us p99", digits=1),
            Metric("cpu_per_exchange", "us CPU each", 1e6, 1), NEIGHBOURS)
STREAM = (Metric("rate", "MB/s", 1e-6), Metric("cpu_per_gigabyte", "s CPU/GB", digits=3), NEIGHBOURS)
MEMORY = (Metric("user", "KiB user", 1 / 1024, 1), Metric("kernel", "KiB kernel", 1 / 1024, 1),
          Metric("used", "KiB all", 1 / 1024, 1))

FEW = (*contending.BITFLOWS, "haproxy", "nginx", "socat", "direct")
MANY = (*contending.BITFLOWS, "haproxy", "nginx", "direct")
TLS_BITFLOWS = ("bitflow", "bitflow-normal", "bitflow-before")
TLS = (*TLS_BITFLOWS, "haproxy", "nginx", "hitch", "stunnel", "direct")
# nginx ends the socket's stream without a close_notify, hitch ends the other direction, too.
TLS_HALF_CLOSE = (*TLS_BITFLOWS, "haproxy", "stunnel", "direct")
# stunnel, as the client, does not pass the end on.
TLS_TARGET = (*TLS_BITFLOWS, "haproxy")
BULK = (*contending.BITFLOWS, "haproxy", "haproxy-splice", "nginx", "socat", "direct")


def _connections(count):
    return Scenario(f"connect-{count}", f"short connections, {count} at a time", "respond", FEW, EXCHANGE,
                    ("connections", "--connections", str(count)))


def _pingpong(count):
    return Scenario(f"pingpong-{count}", f"64-byte messages to and fro, {count} connections", "echo", FEW, EXCHANGE,
                    ("pingpong", "--connections", str(count)))


def _crowded(scenario):
    """The same while `--live-connections` more are open."""
    return dataclasses.replace(scenario, name=f"live-{scenario.name}", text=f"{scenario.text}, many others being open",
                               mode="mixed", contenders=MANY, is_crowded=True)


def _resumed(scenario):
    """The same with a client that resumes its last session, where the proxy offers that."""
    return dataclasses.replace(scenario, name=scenario.name.replace("connect", "resumed-connect"),
                               text=f"{scenario.text}, resumed", metrics=(*scenario.metrics, RESUMED),
                               arguments=(*scenario.arguments, "--resume", "yes"))


def _stream(direction, count):
    mode = "sink" if direction == "up" else "source"
    return Scenario(f"{direction}-{count}", f"bulk, {direction}stream, {count} connections", mode, BULK, STREAM,
                    ("stream", "--direction", direction, "--connections", str(count)), has_half_close=True)


def _tls(scenario, version="1.3"):
    """The same with TLS between the client and the proxy."""
    name = f"tls-{scenario.name}" if version == "1.3" else f"tls-{version}-{scenario.name}"
    return dataclasses.replace(scenario, name=name, text=f"{scenario.text}, TLS {version} from the client",
                               contenders=TLS_HALF_CLOSE if scenario.has_half_close else TLS, tls_side="client",
                               tls_version=version)


def _tls_target(scenario):
    """The same with TLS between the proxy and the origin."""
    return dataclasses.replace(scenario, name=f"tls-target-{scenario.name}", text=f"{scenario.text}, TLS to the origin",
                               contenders=TLS_TARGET, tls_side="target")


IDLE = Scenario("idle", "memory per idle connection", "echo",
                ("bitflow", "bitflow-before", "haproxy", "nginx", "direct"), MEMORY, is_memory=True)
STREAMS = (_stream("up", 1), _stream("down", 1), _stream("up", 4), _stream("down", 4))

CROWDED_CONNECT, CROWDED_PINGPONG = _crowded(_connections(1)), _crowded(_pingpong(64))

# Memory comes first, before the others leave sockets in TIME_WAIT and full caches.
ALL = (
    IDLE, _tls(IDLE),
    _connections(1), _connections(8), _connections(32), _connections(64),
    _pingpong(1), _pingpong(64), _pingpong(512),
    CROWDED_CONNECT, CROWDED_PINGPONG,
    *STREAMS,
    _tls(_connections(8)), _tls(_connections(16)), _tls(_connections(8), "1.2"), _tls(_pingpong(64)),
    _resumed(_tls(_connections(8))), _resumed(_tls(_connections(8), "1.2")),
    *map(_tls, STREAMS),
    *map(_tls_target, STREAMS[:2]),
)
