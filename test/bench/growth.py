"""How cost grows with the connections that are open, and with the proxies of one configuration."""

import contextlib
import dataclasses
import time

import contenders as contending
import measure
import scenarios
from scenarios import Metric

LIVE = (10, 100, 1000, 8000)
PROXIES = (1, 10, 100)

# Below so many, what else the machine does is more than what their connections take of the kernel.
LEAST_FOR_KERNEL = 1000

ANSWER = (Metric("answer_p50_us", "us p50", digits=1), Metric("answer_p99_us", "us p99", digits=1))
MESSAGE = (scenarios.RATE, Metric("cpu_per_exchange", "us CPU each", 1e6, 1))
START = (Metric("start_seconds", "ms", 1e3, 1), Metric("rest", "KiB user", 1 / 1024))


def _settled_size(pid, seconds, tolerance=16 * 1024):
    """Of a process that may still be starting threads and workers: when two readings agree, or the time is up."""
    deadline = time.monotonic() + seconds
    last = 0
    while True:
        size = measure.proportional_set_size(pid)
        if abs(size - last) <= tolerance or time.monotonic() > deadline:
            return size
        last = size
        time.sleep(0.2)


def run_proxies(bench, scenario, contender):
    """One run: the start, the memory at rest, and then short connections and messages, to each proxy in turn."""
    with contextlib.ExitStack() as stack:
        origin, origin_port = scenarios.start_origin(bench, scenario, False)
        stack.push(origin)
        port = contending.free_ports(scenario.proxies)
        link = contending.Link(port, origin_port, bench.descriptors, "", bench.certificate, scenario.proxies)
        child = stack.enter_context(contending.start(contender, bench.directory, link))
        started = {"start_seconds": time.monotonic() - child.began, "rest": _settled_size(child.pid, 3)}
        ports = ("--ports", str(scenario.proxies))

        def load(seconds, *arguments):
            return scenarios.run_traffic(bench, scenario, (*arguments, *ports), child, port, origin, seconds)

        load(min(0.5, bench.seconds / 2), "pingpong", "--connections", "64")
        new = load(bench.seconds, "connections", "--connections", "1")
        messages = load(bench.seconds, "pingpong", "--connections", "64")
        return {**messages, **{metric.key: new[metric.key] for metric in ANSWER}, **started,
                "foreign_processors": max(new["foreign_processors"], messages["foreign_processors"])}


def _beside(scenario, short, metrics, count):
    """The same while so many more connections are open."""
    return dataclasses.replace(scenario, name=f"grow-{short}-{count}", text=scenario.text.replace("many", str(count)),
                               metrics=metrics, live=count)


def _idle(count):
    return dataclasses.replace(scenarios.IDLE, name=f"grow-idle-{count}", text=f"{scenarios.IDLE.text}, of {count}",
                               live=count, contenders=scenarios.MANY,
                               metrics=scenarios.MEMORY if count >= LEAST_FOR_KERNEL else scenarios.MEMORY[:1])


def _proxies(count):
    return scenarios.Scenario(f"grow-proxies-{count}", f"{count} proxies in one configuration", "mixed",
                              tuple(name for name in scenarios.MANY if name != "direct"),
                              (*START, *ANSWER, *MESSAGE), proxies=count)


# Memory comes first, as in scenarios.ALL.
ALL = (
    *map(_idle, LIVE),
    *(_beside(scenarios.CROWDED_CONNECT, "connect", ANSWER, count) for count in LIVE),
    *(_beside(scenarios.CROWDED_PINGPONG, "pingpong", MESSAGE, count) for count in LIVE),
    *map(_proxies, PROXIES),
)
