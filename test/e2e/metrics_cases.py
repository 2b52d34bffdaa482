"""What the tests of metrics share."""

import sockets
from waiting import wait_for

PROXY = "proxy.front"


def metrics(address, **keys):
    return {"metrics": {"address": address, **keys}}


def start(env, receiver, *proxies, address=None, **keys):
    """A bitflow whose metrics have begun to arrive."""
    bitflow = env.start(*proxies, application=metrics(address or receiver.address, **keys))
    prefix = f"{keys['prefix']}." if "prefix" in keys else ""
    wait_for(lambda: f"{prefix}process.uptime" in receiver.gauges(), "the first report", 15)
    bitflow.resting = bitflow.descriptors()
    return bitflow


def use(address, size=1000):
    with sockets.connect(address) as client:
        sockets.round_trip(client, b"x" * size)


def wait_counters(statsd, expected, timeout=15.0):
    """All of these counters have these values."""

    def differing():
        counters = statsd.counters()
        return {name: (value, counters.get(name, 0)) for name, value in expected.items()
                if counters.get(name, 0) != value}

    wait_for(lambda: not differing(), lambda: f"wanted and seen: {differing()}", timeout)


def family(statsd, beginning):
    return {name: value for name, value in statsd.counters().items() if name.startswith(beginning) and value}
