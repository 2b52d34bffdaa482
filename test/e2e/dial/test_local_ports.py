"""A shortage of local ports: not the target's failure, explained with what to do about it, and over as soon as there
are ports again. Each test has a network namespace of its own, with a few ports."""

import socket

import pytest

import hosts
import networks
import programs
import sockets
import socks_peers
from environment import proxy
from waiting import pace, wait_for

PORTS = 8


@pytest.fixture
def few_ports(env):
    """This thread, and what it starts, is in a namespace that has PORTS local ports for connections to a target."""
    with networks.Networks() as made, networks.inside(made.near):
        set_ports(PORTS)
        yield
        env.stack.close()


def set_ports(count):
    with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as stream:
        stream.write(f"30000 {30000 + count - 1}")


class Clients:
    """From ports beyond those, so that only the proxy's connections run out."""

    def __init__(self, env, address):
        self.env, self.address, self.made = env, address, 0

    def connect(self):
        self.made += 1
        client = self.env.keep(socket.socket())
        client.settimeout(sockets.TIMEOUT * pace())
        client.bind(("127.0.0.1", 40000 + self.made))
        client.connect(sockets.parse(self.address)[1])
        return client

    def fill(self, count=PORTS):
        clients = [self.connect() for _ in range(count)]
        for client in clients:
            sockets.round_trip(client)
        return clients


def failures(bitflow):
    return [record for record in bitflow.records() if record["reason"] == "out_of_ports"]


def wait_connections(bitflow, count):
    """Until that many are left: when a record is written, the port is not free yet."""
    wait_for(lambda: len(bitflow.busy_threads()) == count, lambda: f"{count}: {bitflow.thread_names()}")


def passed_over(bitflow):
    return [line for line in bitflow.log_lines(partial=True) if line["msg"] == "the target is passed over for now"]


def test_a_shortage_of_ports_is_explained_and_ends_when_one_is_free(few_ports, env):
    target, address = env.echo(env.address()), env.address()
    bitflow = env.start(
        proxy(address, {"address": target.address, "max_fails": 1, "connect_attempts": 5, "connect_backoff": "9s"})
    )
    clients = Clients(env, address)
    held = clients.fill()
    sockets.was_rejected(clients.connect())
    (record,) = wait_for(lambda: failures(bitflow), lambda: bitflow.stderr())
    assert (record["ended_by"], record["attempts"]) == ("proxy", 1), "it is not tried again"
    assert f"cannot connect to {target.address}: no local port is left" in record["error"]
    assert "ip_local_port_range" in record["error"] and "tcp_tw_reuse" in record["error"]
    sockets.reset(held[0])  # which leaves no TIME_WAIT
    wait_connections(bitflow, PORTS - 1)
    clients.fill(1)
    assert passed_over(bitflow) == []


def set_tcp(name, value):
    with open(f"/proc/sys/net/ipv4/{name}", "w") as stream:
        stream.write(value)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_ports_that_wait_are_used_again(few_ports, env, host):
    """Where clients end first, the proxy is the first towards the target, and its port waits for a minute. A port that
    is reserved stays so."""
    ports, reserved = 16, 30007
    set_ports(ports)
    set_tcp("tcp_tw_reuse", "0")
    set_tcp("ip_local_reserved_ports", str(reserved))
    target, address = env.listen(env.address(host)), env.address()
    bitflow = env.start(proxy(address, {"address": target.address, "max_fails": 1}))
    clients, used = Clients(env, address), []
    for _ in range(4 * ports):
        client = clients.connect()
        connection = target.accept()
        used.append(connection.getpeername()[1])
        client.sendall(b"?")
        client.shutdown(socket.SHUT_WR)
        assert sockets.receive_to_end(connection) == b"?"
        connection.sendall(b"!")
        connection.close()
        assert sockets.receive_to_end(client) == b"!"
        client.close()
    assert {record["reason"] for record in bitflow.wait_records(4 * ports)} == {"completed"}
    assert set(used) <= set(range(30000, 30000 + ports)) - {reserved} and len(set(used)) > ports // 2


def test_ports_that_wait_are_not_used_again_without_timestamps(few_ports, env):
    """By which alone TCP could tell the two connections apart."""
    set_tcp("tcp_tw_reuse", "0")
    set_tcp("tcp_timestamps", "0")
    target, address = env.echo(env.address()), env.address()
    bitflow = env.start(proxy(address, target.address))
    clients = Clients(env, address)
    for number in range(2 * PORTS):
        client = clients.connect()
        if number < PORTS:
            sockets.round_trip(client)
        else:
            sockets.was_rejected(client)
        client.close()
        bitflow.wait_records(number + 1)
    assert len(failures(bitflow)) == PORTS


def test_another_target_has_other_ports(few_ports, env):
    target, spare, address = env.echo(env.address()), env.echo(env.address()), env.address()
    bitflow = env.start(
        proxy(
            address,
            {"address": target.address, "max_fails": 1, "fail_timeout": "1h"},
            spare.address,
            connection_load_balancer="failover",
        )
    )
    clients = Clients(env, address)
    held = clients.fill()  # first, for connections that begin at the same moment may come to either target
    clients.fill(3)
    assert (target.accepted, spare.accepted) == (PORTS, 3)
    sockets.reset(held[0])
    wait_connections(bitflow, PORTS + 2)
    clients.fill(1)
    assert (target.accepted, spare.accepted) == (PORTS + 1, 3), "the target was blamed"
    assert passed_over(bitflow) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("balancer", ["round-robin", "least-connections"])
def test_balancers_go_on_with_another_target_and_come_back(few_ports, env, balancer, host):
    target, spare, address = env.echo(env.address(host)), env.echo(env.address("127.0.0.2")), env.address()
    entries = [{"address": each.address, "max_fails": 1, "fail_timeout": "1h"} for each in (target, spare)]
    bitflow = env.start(proxy(address, *entries, connection_load_balancer=balancer))
    clients = Clients(env, address)
    held = clients.fill(2 * PORTS)
    assert (target.accepted, spare.accepted) == (PORTS, PORTS)
    sockets.was_rejected(clients.connect())
    wait_for(lambda: failures(bitflow), lambda: bitflow.stderr())
    for client in held:
        sockets.reset(client)  # which leaves no TIME_WAIT
    wait_connections(bitflow, 0)
    clients.fill(2 * PORTS)
    assert (target.accepted, spare.accepted) == (2 * PORTS, 2 * PORTS)
    assert passed_over(bitflow) == []


def test_another_address_of_the_name_has_other_ports(few_ports, env):
    port, address = sockets.free_port(), env.address()
    servers = [env.echo(f"127.0.0.{number}:{port}") for number in (2, 3)]
    names = [("two.test", server.address.rpartition(":")[0]) for server in servers]
    bitflow = env.start(proxy(address, f"two.test:{port}"), plan=hosts.plan(env, names))
    clients = Clients(env, address)
    clients.fill(2 * PORTS)
    assert [server.accepted for server in servers] == [PORTS, PORTS]
    sockets.was_rejected(clients.connect())
    (record,) = wait_for(lambda: failures(bitflow), lambda: bitflow.stderr())
    assert "all 2 addresses failed" in record["error"] and "no local port is left" in record["error"]


def test_a_shortage_of_ports_for_the_socks_server_is_explained(few_ports, env):
    admitting = socks_peers.answering(b"\x05\x00", b"\x05\x00\x00\x01" + bytes(6))
    server, address = env.serve(admitting, env.address()), env.address()
    bitflow = env.start(proxy(address, {"address": "a.test:1", "proxy": server.address, "max_fails": 1}))
    clients = Clients(env, address)
    held = [clients.connect() for _ in range(PORTS)]
    wait_for(lambda: server.accepted == PORTS, "the ports are taken")
    sockets.was_rejected(clients.connect())
    (record,) = wait_for(lambda: failures(bitflow), lambda: bitflow.stderr())
    assert "the SOCKS5 server: cannot connect to" in record["error"]
    assert len(held) == PORTS and passed_over(bitflow) == []


def test_a_missing_address_of_the_family_is_the_targets_failure(few_ports, env):
    """The errno is the same, where the host has a route to IPv6 addresses and none of its own."""
    programs.run(["ip", "-6", "address", "flush", "dev", "lo"])
    programs.run(["ip", "-6", "address", "flush", "dev", "cable"])
    programs.run(["ip", "-6", "route", "add", "2001:db8::/64", "dev", "lo"])
    with socket.socket(socket.AF_INET6) as probe, pytest.raises(OSError, match="Cannot assign requested address"):
        probe.connect(("2001:db8::1", 80))
    spare, address = env.echo(env.address()), env.address()
    bitflow = env.start(
        proxy(
            address,
            {"address": "[2001:db8::1]:80", "max_fails": 1, "connect_attempts": 2},
            spare.address,
            connection_load_balancer="failover",
        )
    )
    Clients(env, address).fill(1)
    assert [line["target"] for line in passed_over(bitflow)] == ["target1"]
    said = [line["error"] for line in bitflow.log_lines(partial=True) if "error" in line]
    assert said == ["cannot connect to [2001:db8::1]:80: no address of this host can reach it"] * 2
