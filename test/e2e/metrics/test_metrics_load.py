"""As many connections a second as the machine can make: at the end no count is missing."""

import pytest

from environment import proxy
from load import Load
from node_peers import Statsd
from programs import Program
from waiting import scale, wait_for

PROXY = "proxy.front"
TIMERS = ("connect", "first_byte", "lifetime")
SECONDS = 4


def receive_drops(port):
    """Datagrams for which the kernel had no room in the socket of that port."""
    with open("/proc/net/udp") as stream:
        return sum(int(line.split()[-1]) for line in stream if line.split()[1].endswith(f":{port:04X}"))


@pytest.mark.parametrize("transport", ["udp", "unix"])
def test_nothing_is_lost_without_being_counted(env, transport):
    load, statsd, address = env.keep(Load(env.directory)), env.keep(Statsd()), env.address()
    receiver, path = statsd.address, f"{env.directory}/statsd.sock"
    if transport == "unix":
        receiver = f"unix://{path}"
        env.keep(Program(["socat", "-b65536", f"UNIX-RECV:{path}", f"UDP-SENDTO:{statsd.address}"]))
    bitflow = env.start(
        proxy(address, load.address, connection_log=None),
        level="error",
        application={"metrics": {"address": receiver}},
        wait=False,
    )
    wait_for(lambda: "process.uptime" in statsd.gauges(), "the first report", 15)
    bitflow.resting = bitflow.descriptors()
    before = statsd.counter("statsd.packets_received")
    report = load.connections(address, 64, scale(SECONDS))
    made, rate = report["completed"], report["completed"] / report["seconds"]
    print(f"{made} connections, {rate:.0f} a second")
    assert made > 100

    def counted(name):
        return statsd.counter(f"{PROXY}.{name}")

    wait_for(
        lambda: counted("connections.closed.completed") == made, lambda: f"{made} in {statsd.counters()}", 20
    )
    wait_for(lambda: statsd.gauges()[f"{PROXY}.connections.active"] == 0, "none is left")
    assert counted("connections.accepted") == made
    assert counted("bytes.from_client") == counted("bytes.from_target") == made * load.SIZE
    assert counted("target.target1.dials.attempted") == made
    # The times that arrived, with their rates, and those that were dropped are all of them.
    bitflow.stop()
    wait_for(
        lambda: sum(statsd.timer_counts().get(f"{PROXY}.time.{name}", 0) for name in TIMERS)
        + statsd.counter("telemetry.dropped.timings")
        >= 3 * made - 0.01,
        lambda: f"3 x {made}: {statsd.timer_counts()} {statsd.counters()}",
    )
    dropped = statsd.counter("telemetry.dropped.timings")
    for name in TIMERS:
        count = statsd.timer_counts()[f"{PROXY}.time.{name}"]
        assert made - dropped - 0.01 <= count <= made + 0.01, (name, count, made, dropped)
        # However many there were, no more than this were sent.
        assert len(statsd.timers()[f"{PROXY}.time.{name}"]) <= 100 * (report["seconds"] + 3)
    assert receive_drops(statsd.port) == 0
    packets = statsd.counter("statsd.packets_received") - before
    assert packets <= 30 * (report["seconds"] + 3), f"{packets} datagrams"
    statsd.assert_clean()
