"""The control socket as curl sees it, and the commands that ask it."""

import json
import subprocess

import bitflow_process
import programs
from waiting import pace


def setting(address, **keys):
    return {"control": {"address": address, **keys}}


class Control:
    """What curl gets from the socket at an address (unix:///path or HOST:PORT)."""

    def __init__(self, address):
        self.address = address
        self.path = address.removeprefix("unix://") if address.startswith("unix://") else None

    def curl(self, path, *options, method="GET", timeout=30):
        where = [f"http://{self.address}{path}"]
        if self.path:
            where = ["--unix-socket", self.path, f"http://localhost{path}"]
        verb = ["--head"] if method == "HEAD" else ["--request", method]
        return subprocess.run(
            [programs.find("curl"), "--silent", "--show-error", "--noproxy", "*", "--max-time", str(timeout * pace()),
             "--include", *verb, *options, *where],
            capture_output=True, text=True, timeout=(timeout + 10) * pace())

    def ask(self, path, *options, method="GET", timeout=30):
        """(status, headers in lower case, body) of an answer that must come."""
        done = self.curl(path, *options, method=method, timeout=timeout)
        assert done.returncode == 0, (done.returncode, done.stderr)
        head, _, body = done.stdout.replace("\r\n", "\n").partition("\n\n")
        while head.startswith("HTTP/1.1 100"):
            head, _, body = body.partition("\n\n")
        lines = head.split("\n")
        headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
        return int(lines[0].split()[1]), headers, body

    def json(self, path, *options, method="GET", status=200, timeout=30):
        """What an answer with that status says."""
        got, headers, body = self.ask(path, *options, method=method, timeout=timeout)
        assert (got, headers["content-type"]) == (status, "application/json"), body
        return json.loads(body)

    def connections(self, query=""):
        return self.json("/connections" + query)["connections"]

    def command(self, *arguments, timeout=60, environment=None):
        """`bitflow control` with these."""
        return bitflow_process.run("control", "--socket", self.address, *arguments, timeout=timeout,
                                   environment=environment)


def start(env, *proxies, address=None, keys=None, **settings):
    """(bitflow, its control socket)"""
    address = address or env.unix("control.sock")
    application = {**setting(address, **(keys or {})), **settings.pop("application", {})}
    bitflow = env.start(*proxies, application=application, **settings)
    bitflow.wait_control()
    return bitflow, Control(address)
