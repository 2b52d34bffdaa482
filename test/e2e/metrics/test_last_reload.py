"""Metrics of the last reload, of the configuration and of certificates, as /metrics has them and as statsd is told."""

import time

import control_socket
from environment import proxy
from prometheus_peers import parse, value_of
from telemetry_cases import Datagrams
from tls_cases import tls_listener
from waiting import wait_for

WRONG = "server: nothing"


class Seen:
    """A bitflow and the two who are told; its control socket takes orders."""

    def __init__(self, env, *proxies, **application):
        self.statsd = env.keep(Datagrams())
        self.started = int(time.time())
        self.bitflow, self.control = control_socket.start(
            env, *proxies, application={"metrics": {"address": self.statsd.address}, **application})
        self.config = env.directory / "config.yaml"
        self.text = self.config.read_text()

    def outcomes(self):
        """Whether the last reload was successful: (the configuration's, the certificates')."""
        samples = parse(self.control.ask("/metrics")[2])
        return tuple(value_of(samples, f"bitflow_{kind}_last_reload_successful") for kind in ("config", "certificates"))

    def times(self):
        samples = parse(self.control.ask("/metrics")[2])
        return tuple(value_of(samples, f"bitflow_{kind}_last_reload_success_timestamp_seconds")
                     for kind in ("config", "certificates"))

    def wait_told(self, config, certificates):
        """Until both have heard of these outcomes, and of the same times."""

        def differing():
            page, gauges = (*self.outcomes(), *self.times()), self.statsd.gauges()
            told = tuple(gauges.get(f"{kind}.last_reload.{what}") for what in ("successful", "success_timestamp")
                         for kind in ("config", "certificates"))
            return None if page[:2] == (config, certificates) and page == told else (page, told)

        wait_for(lambda: not differing(), lambda: f"wanted {config, certificates}, seen {differing()}", 20)


def test_a_reload_that_is_asked_for(env):
    seen = Seen(env, proxy(env.address(), env.echo().address))
    seen.wait_told(1, 1)
    at_start = seen.times()
    assert seen.started <= at_start[0] <= at_start[1] <= time.time()
    wait_for(lambda: int(time.time()) > at_start[1], "another second")
    seen.config.write_text(WRONG)
    seen.bitflow.reload("reload failed")
    seen.wait_told(0, 1)
    assert seen.times() == at_start
    seen.config.write_text(seen.text)
    before = int(time.time())
    assert seen.control.json("/reload", method="POST")["status"] == "reloaded"
    seen.wait_told(1, 1)
    config, certificates = seen.times()
    assert before <= config <= certificates <= time.time()
    seen.config.write_text(WRONG)
    seen.control.json("/reload", method="POST", status=422)
    seen.wait_told(0, 1)
    seen.config.write_text(seen.text)
    seen.bitflow.reload()
    seen.wait_told(1, 1)


def test_files_that_change(env, pki):
    """What is taken back counts as well as what is new, each for itself."""
    good = pki.server.certificate.read_bytes()
    certificate = env.write(good, "server.crt")
    listener = tls_listener(pki.server.entry() | {"certificate": str(certificate)})
    seen = Seen(env, proxy(env.address(), env.echo().address, listener=listener), watch_configuration=True)
    seen.wait_told(1, 1)
    at_start = seen.times()
    certificate.write_text("no certificate")
    seen.config.write_text(WRONG)
    seen.wait_told(0, 0)
    assert seen.times() == at_start
    seen.config.write_text(seen.text)
    seen.wait_told(1, 0)
    config, certificates = seen.times()
    assert config > at_start[0] and certificates == at_start[1]
    certificate.write_bytes(good)
    seen.wait_told(1, 1)
    assert seen.times()[0] == config and seen.times()[1] > config
