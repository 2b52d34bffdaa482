"""Two bitflows behind a HAProxy, as docs/deploy/haproxy has them, and clients that count what becomes of them."""

import contextlib
import csv
import io
import pathlib
import signal
import socket
import threading
import time

import control_socket
import networks
import sockets
import upgrades
from programs import Program
from waiting import wait_for

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "docs/deploy/haproxy"
CLIENTS = 8
HOSTS = {"one": "10.0.0.11", "two": "10.0.0.12"}


def substituted(text, changes):
    """All of what is to be replaced must be there."""
    for old, new in changes.items():
        assert old in text, f"there is no {old} in it"
        text = text.replace(old, new)
    return text


class Haproxy(Program):
    """With haproxy.cfg, but for addresses, and for times that a busy machine could exceed."""

    PATIENCE = {"timeout check 2s": "timeout check 60s", "timeout connect 5s": "timeout connect 60s"}

    def __init__(self, front, changes):
        super().__init__()
        self.front = front
        self.socket = f"unix://{self.directory}/admin.sock"
        config = self.directory / "haproxy.cfg"
        changes = {
            "bind :443": f"bind {front}",
            "/run/haproxy/admin.sock": f"{self.directory}/admin.sock",
            **changes,
        }
        config.write_text(substituted((FOLDER / "haproxy.cfg").read_text(), changes))
        self.launch(["haproxy", "-db", "-f", str(config)])
        self.wait_answering(front)

    def servers(self):
        """{name: what HAProxy's statistics tell of it}."""
        with sockets.connect(self.socket) as client:
            client.sendall(b"show stat bitflow 4 -1\n")
            text = sockets.receive_to_end(client).decode().removeprefix("# ")
        return {row["svname"]: row for row in csv.DictReader(io.StringIO(text)) if row["svname"]}

    def wait_status(self, name, status):
        wait_for(lambda: self.servers()[name]["status"] == status, lambda: f"{name} is {status}: {self.servers()}", 60)

    def sum(self, *columns):
        return sum(int(row[column]) for row in self.servers().values() for column in columns)


class Replica:
    """One bitflow, with bitflow.yaml; it may end and be started again."""

    def __init__(self, env, name, host, changes):
        self.env, self.name = env, name
        self.config = env.write(substituted((FOLDER / "bitflow.yaml").read_text(), changes), f"{name}.yaml")
        self.address = f"{host}:{changes['8443']}"
        self.control = control_socket.Control(f"{host}:{changes['9180']}")
        self.start()

    def start(self):
        self.bitflow = self.env.launch(self.config)
        self.bitflow.wait_listening(["web"])

    def clients(self):
        """The addresses of those that it serves, as HAProxy's header declares them."""
        return {connection["client"] for connection in self.control.connections()}

    def kill(self):
        """Returns once nothing of it is left."""
        self.bitflow.expected_status = -signal.SIGKILL
        self.bitflow.kill()


class Site:
    """HAProxy, both replicas, and the backend, which echoes, at addresses of this network. `where`: a replica's own
    network, by its name. `patience`: what is changed of HAProxy's times, `changes`: of bitflow's configuration."""

    def __init__(self, env, own="127.0.0.1", hosts=("127.0.0.11", "127.0.0.12"), where=None, patience=None, **changes):
        backend = env.echo(f"{own}:0").address
        front, port, control = env.address(own), str(sockets.free_port()), str(sockets.free_port())
        ports, here = {"8443": port, "9180": control}, dict(zip(HOSTS.values(), hosts, strict=True))
        mine = {**ports, "10.0.0.2]": f"{own}]", "backend.example.com:443": backend, **changes}
        self.replicas = []
        for name, host in zip(HOSTS, hosts, strict=True):
            with networks.inside(where[name]) if where and name in where else contextlib.nullcontext():
                self.replicas.append(Replica(env, name, host, {HOSTS["one"]: host, **mine}))
        env.keep(self)
        patience = Haproxy.PATIENCE if patience is None else patience
        self.haproxy = env.keep(Haproxy(front, {**ports, **here, **patience}))
        self.env, self.front = env, front

    def close(self):
        """Begins the replicas' drain_delay; the test's end signals again, and so ends it."""
        for replica in self.replicas:
            if replica.bitflow.is_running():
                replica.bitflow.signal(signal.SIGTERM)
                upgrades.wait_said(replica.bitflow, "accepting until drain_delay is over")

    def connect(self, count):
        """{its own address: a connection that has been served, and lasts}."""
        found = {}
        for _ in range(count):
            client = self.env.connect(self.front)
            sockets.round_trip(client)
            found[sockets.local_name(client)] = client
        return found


class Clients:
    """Short connections, CLIENTS at a time, each with a message of its own that must come back, until they are told to
    stop. `took`: when each one began that was served, and how long it took; `failed`: when each began that failed, and
    how it did."""

    def __init__(self, address):
        self.address = address
        self.is_over, self.served, self.took, self.failed = False, [0] * CLIENTS, [], []
        self.threads = [threading.Thread(target=self.run, args=(number,)) for number in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def run(self, number):
        while not self.is_over:
            started = time.monotonic()
            try:
                self.serve(f"client {number}, connection {self.served[number]}\n".encode())
                self.served[number] += 1
                self.took.append((started, time.monotonic() - started))
            except (OSError, AssertionError) as error:
                self.failed.append((started, repr(error)))

    def serve(self, message):
        with sockets.connect(self.address, timeout=150) as client:
            sockets.round_trip(client, message)
            client.shutdown(socket.SHUT_WR)
            assert sockets.receive_to_end(client) == b"", "more came than was sent"

    def wait_more(self, count):
        """Until so many more have been served."""
        wanted = sum(self.served) + count
        wait_for(lambda: sum(self.served) >= wanted, lambda: f"{wanted}: {self.served} {self.failed[:5]}", 60)

    def times(self, since):
        """How long each of those took that have begun since then."""
        return [seconds for started, seconds in self.took if started > since]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.is_over = True
        for thread in self.threads:
            thread.join()
