"""Hosts that docs/deploy puts bitflow on: network namespaces, each with a bitflow on the documented ports."""

import contextlib
import shutil
import signal

import bitflow_process
import deployments
import sockets
from networks import inside

COMMON = "192.0.2.10"


def local_program(directory):
    """bitflow where every user may run it."""
    return shutil.copy(bitflow_process.binary(), directory / "bitflow")


class Host:
    """A host's bitflow: its listener and its control socket are where the documented configuration has them."""

    def __init__(self, env, name, target):
        self.env, self.name = env, name
        text = deployments.replaced((deployments.FOLDER / "keepalived/config.yaml").read_text(), {
            "address: backend.example.com:443": f"address: {target.address}", "drain_delay: 10s": "drain_delay: 5m"})
        self.config = env.write(text, f"{name}.yaml")
        self.bitflow = None

    def start(self):
        with inside(self.name):
            self.bitflow = self.env.launch(self.config)
        self.bitflow.wait_listening(["app"])

    def leave(self):
        """It is told to end, and lets in clients until end() says no."""
        self.bitflow.signal(signal.SIGTERM)
        self.bitflow.wait_taken(signal.SIGTERM)

    def end(self):
        self.bitflow.signal(signal.SIGTERM)
        assert self.bitflow.wait_ended(40) == 0


def is_served(host, address):
    """Whether a client at a host is; who has no route, or has a neighbour's old one, is not."""
    with inside(host), contextlib.suppress(OSError, AssertionError):
        with sockets.connect(f"{address}:443", timeout=2) as client:
            sockets.round_trip(client)
            return True
    return False
