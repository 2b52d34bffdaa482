"""Metrics: receivers that come and go, reloads, tags."""

import re
import signal
import socket

import pytest

import node_peers
import sockets
from environment import proxy
from metrics_cases import PROXY, metrics, start, use, wait_counters
from node_peers import Statsd
from programs import Program
from waiting import Stopwatch, pace, wait_for


@pytest.fixture
def statsd(env):
    return env.keep(Statsd())


def test_metrics_that_a_reload_turns_on_count_from_then_on(env, statsd):
    """On, and off, and on again, while a connection lives."""
    listener, address = env.listen(), env.address()
    entry = proxy(address, listener.address)
    bitflow = env.start(entry)
    client, target = env.pair(address, listener)

    def send(size):
        """With an answer: bytes are counted once they are written, which the answer comes after."""
        client.sendall(bytes(size))
        sockets.receive_exactly(target, size)
        target.sendall(b"x")
        sockets.receive_exactly(client, 1)

    send(1000)
    assert "statsd" not in bitflow.thread_names()

    def switch(**settings):
        env.config(entry, **settings)
        bitflow.signal(signal.SIGHUP)

    switch(application=metrics(statsd.address))
    statsd.wait_gauge(f"{PROXY}.connections.active", 1)
    send(10)
    wait_counters(statsd, {f"{PROXY}.bytes.from_client": 10})
    switch()
    wait_for(lambda: "statsd" not in bitflow.thread_names(), "the thread has ended")
    send(100)
    switch(application=metrics(statsd.address, prefix="again"))
    wait_for(lambda: statsd.gauges().get(f"again.{PROXY}.connections.active") == 1, "it is reported again")
    send(5)
    wait_counters(statsd, {f"again.{PROXY}.bytes.from_client": 5, f"{PROXY}.bytes.from_client": 10})
    bitflow.quiet_check = False  # there is a socket more than at the start


def test_nothing_is_lost_while_the_receiver_is_away(env):
    echo, address = env.echo(), env.address()
    port = sockets.free_port()
    bitflow = env.start(proxy(address, echo.address), application=metrics(f"127.0.0.1:{port}"))
    wait_for(lambda: "metrics cannot be sent" in bitflow.stderr(), "it is said")
    for _ in range(5):
        use(address)
    bitflow.wait_records(5)
    first = env.keep(Statsd(port))
    wait_counters(first, {f"{PROXY}.connections.accepted": 5, f"{PROXY}.bytes.from_client": 5000})
    wait_for(lambda: first.timer_counts().get(f"{PROXY}.time.lifetime") == 5, "the times are kept, too")
    assert bitflow.stderr().count("metrics cannot be sent") == 1
    assert bitflow.stderr().count("metrics are sent again") == 1
    first.process.kill()
    first.process.wait()
    for _ in range(3):
        use(address)
    bitflow.wait_records(8)
    wait_for(lambda: bitflow.stderr().count("metrics cannot be sent") == 2, "it is said again", 15)
    second = env.keep(Statsd(port))
    wait_counters(second, {f"{PROXY}.connections.accepted": 3, f"{PROXY}.connections.closed.completed": 3})
    # What was in the datagrams that nobody received is either sent again or counted as dropped.
    wait_for(
        lambda: second.timer_counts().get(f"{PROXY}.time.lifetime", 0)
        + second.timer_counts().get(f"{PROXY}.time.connect", 0)
        + second.timer_counts().get(f"{PROXY}.time.first_byte", 0)
        + second.counter("telemetry.dropped.timings")
        == 9,
        lambda: f"{second.timer_counts()} {second.counters()}",
    )
    bitflow.quiet_check = False  # the socket was not there at the start


def test_metrics_reach_a_unix_socket_that_comes_and_goes(env, statsd):
    """socat hands each datagram on as it is."""
    echo, address, path = env.echo(), env.address(), f"{env.directory}/statsd.sock"
    entry = proxy(address, echo.address)
    bitflow = env.start(entry, application=metrics(f"unix://{path}"))
    wait_for(lambda: "metrics cannot be sent" in bitflow.stderr(), "it is said")
    for number in (1, 2, 3):
        use(address)
        bitflow.wait_records(number)
        # From the second round on, there is a socket file from which nobody reads.
        relay = env.keep(
            Program(["socat", "-b65536", f"UNIX-RECV:{path},unlink-early", f"UDP-SENDTO:{statsd.address}"])
        )
        wait_counters(statsd, {f"{PROXY}.connections.accepted": number})
        if number < 3:
            relay.process.kill()
            relay.process.wait()
    wait_counters(statsd, {f"{PROXY}.connections.accepted": 3, f"{PROXY}.bytes.from_client": 3000})
    statsd.assert_clean()
    bitflow.quiet_check = False  # the socket was not there at the start


def test_a_reload_changes_receiver_and_prefix(env, statsd):
    echo, address = env.echo(), env.address()
    entry = proxy(address, echo.address)
    bitflow = start(env, statsd, entry, prefix="one")
    use(address)
    wait_counters(statsd, {f"one.{PROXY}.connections.closed.completed": 1})
    env.config(entry, application=metrics(statsd.address, prefix="two"))
    bitflow.signal(signal.SIGHUP)
    wait_for(lambda: "two.process.uptime" in statsd.gauges(), "the other prefix")
    other = env.keep(Statsd())
    env.config(entry, application=metrics(other.address, prefix="two"))
    bitflow.signal(signal.SIGHUP)
    wait_for(lambda: "two.process.uptime" in other.gauges(), "the other receiver")
    use(address)
    ended = f"two.{PROXY}.connections.closed.completed"
    wait_counters(other, {f"two.{PROXY}.connections.accepted": 1, ended: 1})
    # A bad configuration changes nothing.
    env.config(entry, application=metrics("nowhere"))
    bitflow.signal(signal.SIGHUP)
    wait_for(lambda: "reload failed" in bitflow.stderr(), "it is refused")
    use(address)
    wait_counters(other, {f"two.{PROXY}.connections.accepted": 2})


def test_the_last_report_has_everything_up_to_the_end(env, statsd):
    listener, address = env.listen(), env.address()
    bitflow = start(env, statsd, proxy(address, listener.address))
    pairs = [env.pair(address, listener) for _ in range(3)]
    for client, target in pairs:
        client.sendall(bytes(333))
        sockets.receive_exactly(target, 333)
    bitflow.signal(signal.SIGTERM)
    for client, target in pairs:
        client.close()
        target.close()
    assert bitflow.wait_ended() == 0
    wait_counters(
        statsd,
        {f"{PROXY}.connections.accepted": 3, f"{PROXY}.connections.closed.completed": 3,
         f"{PROXY}.bytes.from_client": 999},
    )


def test_a_receiver_that_cannot_be_found_does_not_delay_the_end(env):
    echo = env.echo()
    bitflow = env.start(proxy(env.address(), echo.address), application=metrics("no-such-host.invalid:8125"))
    wait_for(lambda: "metrics cannot be sent" in bitflow.stderr(), "it is said", 15)
    watch = Stopwatch()
    bitflow.signal(signal.SIGTERM)
    assert bitflow.wait_ended() == 0
    watch.between(0, 5, "the end")


# Tags

DOGSTATSD_LINE = re.compile(  # Datadog's "DogStatsD protocol": metrics
    r"[A-Za-z][A-Za-z0-9_.]*:-?\d+(\.\d+)?\|(c|g|ms)(\|@0?\.\d+)?"
    r"(\|#[a-z_]+:[A-Za-z0-9_./-]+(,[a-z_]+:[A-Za-z0-9_./-]+)*)?"
)
INFLUXDB_LINE = re.compile(  # Telegraf's plugins/inputs/statsd, "Influx Statsd"
    r"[A-Za-z][A-Za-z0-9_.]*(,[a-z_]+=[A-Za-z0-9_.-]+)*:-?\d+(\.\d+)?\|(c|g|ms)(\|@0?\.\d+)?"
)


def test_statsd_understands_the_dogstatsd_tags(env, statsd):
    """statsd 0.9 makes Graphite's tags of them."""
    echo, address = env.echo(), env.address()
    start(
        env,
        statsd,
        proxy(address, {"name": "www.example.com", "address": echo.address}, name="front: door"),
        tag_format="dogstatsd",
        prefix="site",
    )
    use(address)
    wait_counters(
        statsd,
        {
            "site.proxy.connections.closed;proxy=front__door;reason=completed": 1,
            "site.proxy.bytes.from_client;proxy=front__door": 1000,
            "site.proxy.target.dials.attempted;proxy=front__door;target=www.example.com": 1,
        },
    )
    statsd.wait_gauge("site.proxy.connections.active;proxy=front__door", 0)
    assert statsd.timer_counts()["site.proxy.time.connect;proxy=front__door"] == 1
    statsd.assert_clean()


def received_lines(receiver, until):
    """The lines that arrive, until one of them begins with `until`."""
    lines = []
    receiver.settimeout(15 * pace())
    while not any(line.startswith(until) for line in lines):
        datagram = receiver.recv(65536)
        assert len(datagram) <= 1432
        lines += [line for line in datagram.decode("ascii").split("\n") if line]
    return lines


@pytest.mark.parametrize(
    "tag_format, grammar, until",
    [
        ("dogstatsd", DOGSTATSD_LINE, "proxy.time.lifetime:"),
        ("influxdb", INFLUXDB_LINE, "proxy.time.lifetime,proxy=front:"),
    ],
    ids=["dogstatsd", "influxdb"],
)
def test_every_line_is_in_the_grammar(env, tag_format, grammar, until):
    receiver = env.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    receiver.bind(("127.0.0.1", 0))
    echo, address = env.echo(), env.address()
    name = {"name": "tärget,a=b|c#d@e", "address": echo.address}
    bitflow = env.start(
        proxy(address, name, connection_load_balancer="failover"),
        application=metrics(sockets.local_name(receiver), tag_format=tag_format),
    )
    for _ in range(300):
        use(address, 10)
    bitflow.wait_records(300)
    lines = received_lines(receiver, until)
    for line in lines:
        assert grammar.fullmatch(line), line
    assert any("t_rget_a_b_c_d_e" in line for line in lines), lines
    bitflow.quiet_check = False  # the socket was not there at the start


def test_the_influxdb_tags_follow_the_name(env):
    """As Telegraf reads them; this statsd takes them for a part of the name."""
    statsd = env.keep(Statsd(keyNameSanitize=False))
    echo, address = env.echo(), env.address()
    start(env, statsd, proxy(address, echo.address), tag_format="influxdb")
    use(address)
    wait_counters(
        statsd,
        {
            "proxy.connections.closed,proxy=front,reason=completed": 1,
            "proxy.target.dials.attempted,proxy=front,target=target1": 1,
        },
    )
    statsd.assert_clean()


def test_every_name_is_documented(env, statsd):
    """Whatever arrives matches a pattern of docs/metrics.md."""
    text = (node_peers.HERE.parents[1] / "docs" / "metrics.md").read_text()
    patterns = re.findall(r"^\| `([a-z_.{}]+)` \| (?:counter|gauge|timer) \|", text, re.MULTILINE)
    assert len(patterns) > 25
    label = re.compile(r"\\\{[a-z]+\\\}")
    known = [re.compile(label.sub("[A-Za-z0-9_-]+", re.escape(pattern))) for pattern in patterns]
    echo, address = env.echo(), env.address()
    entry = proxy(address, env.refusing(), echo.address, connection_load_balancer="failover")
    bitflow = start(env, statsd, entry)
    for _ in range(3):
        use(address)
    bitflow.wait_records(3)
    wait_counters(statsd, {f"{PROXY}.connections.closed.completed": 3})
    names = {*statsd.counters(), *statsd.gauges(), *statsd.timers()}
    for name in names:
        assert name.startswith("statsd.") or any(pattern.fullmatch(name) for pattern in known), name
