"""What one test stands on: a directory, bitflows, peers and clients, all ended and checked when the test is
over."""

import contextlib
import os
import pathlib
import shutil
import tempfile

import yaml

import needs
import peers
import records_schema
import sockets
from bitflow_process import Bitflow


def proxy(listen, *targets, name="front", listener=None, **options):
    """One entry of server.proxies. A target is an address or a dict; options go under `options`."""
    entries = []
    for number, target in enumerate(targets, 1):
        entry = {"address": target} if isinstance(target, str) else dict(target)
        entries.append({"name": f"target{number}", **entry})
    entry = {"name": name, "listener": {"address": listen, **(listener or {})}, "targets": entries}
    if options:
        entry["options"] = options
    return entry


class Environment:
    def __init__(self):
        # Short, since the path of a Unix socket has room for 107 bytes only; open, since other users run
        # bitflow too.
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="bitflow-e2e-"))
        self.directory.chmod(0o755)
        self.records_path = self.directory / "connections.jsonl"
        self.records_are_checked = True
        self.bitflows = []
        self.stack = contextlib.ExitStack()

    # Addresses

    def address(self, host="127.0.0.1"):
        if ":" in host:
            needs.IPV6.need()
        return sockets.join(host, sockets.free_port())

    def unix(self, name="front.sock"):
        return f"unix://{self.directory / name}"

    def abstract(self, name="front"):
        return f"unix://@bitflow-e2e-{os.getpid()}-{self.directory.name}-{name}"

    # Configuration

    def config(self, *proxies, level="info", server=None, application=None, name="config.yaml"):
        """Writes a configuration; every proxy gets the shared connection log unless it says otherwise."""
        for entry in proxies:
            options = entry.setdefault("options", {})
            options.setdefault("connection_log", str(self.records_path))
            if options["connection_log"] is None:
                del options["connection_log"]
        tree = {"server": {"proxies": list(proxies), **(server or {})}}
        if level:
            tree["application"] = {"log": {"level": level}, **(application or {})}
        path = self.directory / name
        path.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
        return path

    def write(self, text, name="config.yaml"):
        path = self.directory / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    # Processes and peers

    def launch(self, config, plan=None, environment=None):
        """Starts bitflow with a configuration file and waits for nothing."""
        bitflow = Bitflow(config, self.directory, len(self.bitflows), self.records_path, plan, environment)
        self.bitflows.append(bitflow)
        return bitflow

    def start(self, *proxies, plan=None, environment=None, wait=True, **settings):
        """Starts bitflow with these proxies and waits until all of them listen."""
        bitflow = self.launch(self.config(*proxies, **settings), plan, environment)
        if wait:
            bitflow.wait_listening([entry["name"] for entry in proxies])
        return bitflow

    def fails_to_start(self, config, plan=None, timeout=10.0):
        """Starts bitflow, which must end with status 1; returns what it said."""
        bitflow = self.launch(config, plan)
        bitflow.expected_status = 1
        assert bitflow.wait_ended(timeout) == 1
        return bitflow.stderr()

    def serve(self, handler, address="127.0.0.1:0"):
        """A server that runs handler(connection) in a thread for each connection."""
        return self.stack.enter_context(peers.Server(handler, address))

    def echo(self, address="127.0.0.1:0"):
        return self.serve(peers.echo, address)

    def listen(self, address="127.0.0.1:0", **settings):
        """A listening socket whose connections the test accepts itself."""
        return self.stack.enter_context(peers.Listener(address, **settings))

    def refusing(self):
        """An address of 127.0.0.1 that refuses: the port is held, nobody listens."""
        return self.stack.enter_context(peers.Refusing()).address

    def keep(self, resource):
        """Closes the resource with the test."""
        return self.stack.enter_context(contextlib.closing(resource))

    def enter(self, context):
        return self.stack.enter_context(context)

    def connect(self, address, **settings):
        return self.keep(sockets.connect(address, **settings))

    def pair(self, address, listener, **settings):
        """A connection through bitflow: the client's end and the target's end."""
        client = self.connect(address, **settings)
        return client, listener.accept()

    # The end

    def finish(self):
        """Closes clients and peers, then asserts of each bitflow that nothing leaked and that it ends
        well."""
        try:
            self.stack.close()
            for bitflow in self.bitflows:
                if bitflow.is_running() and bitflow.resting is not None and bitflow.quiet_check:
                    bitflow.assert_quiet()
            for bitflow in self.bitflows:
                bitflow.stop()
            self.check_records()
        finally:
            for bitflow in self.bitflows:
                bitflow.kill()
            shutil.rmtree(self.directory, ignore_errors=True)

    def check_records(self):
        """Every connection log of the test has nothing but records as the schema describes them."""
        if not self.records_are_checked:
            return
        paths = {self.records_path}.union(*(bitflow.records_read for bitflow in self.bitflows))
        for path in paths:
            if path.is_file():
                records_schema.check_file(path)

    def abandon(self):
        """The end after a failed test: no more checks, only tidying."""
        with contextlib.suppress(Exception):
            self.stack.close()
        for bitflow in self.bitflows:
            bitflow.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
