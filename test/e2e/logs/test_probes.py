"""Empty probes: clients that connect and close without a byte, at each kind of listener, in each form and at each
stage. They have left; they are counted; the logs leave them out where they are told to."""

import socket

import pytest

import proxy_headers
import sockets
import tls_raw
from environment import proxy
from metrics_cases import start, wait_counters
from telemetry_cases import Datagrams, all_on
from tls_cases import tls_listener
from waiting import wait_for

ENDS = {"FIN": lambda client: client.close(), "RST": sockets.reset}
HEADER = {"proxy_protocol": True}
LOCAL = proxy_headers.SIGNATURE + b"\x20\x00\x00\x00"


class Kinds:
    """A proxy for each kind of listener, all to one target."""

    def __init__(self, env, pki, target, **options):
        sni = {"connection_load_balancer": "sni"}
        behind = tls_listener(pki.server, listener=HEADER)
        named = {"name": "server.test", "address": target}
        plain = {"name": "target1", "address": target}
        self.address, self.proxies = {}, []
        for name, to, listener, more in (
            ("plain", plain, {}, {}),
            ("tls", plain, tls_listener(pki.server), {}),
            ("passed", named, {}, sni),
            ("sni", named, tls_listener(pki.server), sni),
            ("header", plain, HEADER, {}),
            ("header-tls", plain, behind, {}),
            ("header-sni", named, HEADER, sni),
            ("unix", plain, {}, {}),
            ("unix-tls", plain, tls_listener(pki.server), {}),
            ("unix-passed", named, {}, sni),
        ):
            self.address[name] = env.unix(f"{name}.sock") if name.startswith("unix") else env.address()
            self.proxies.append(proxy(self.address[name], to, name=name, listener=listener, **more, **options))

    def probe(self):
        """(proxy, what it said, how it ended) of each probe that was made."""
        made = []
        for name, address in self.address.items():
            for end, close in ENDS.items():
                for said in (b"", *((LOCAL, proxy_headers.EXAMPLE) if name.startswith("header") else ())):
                    client = sockets.connect(address)
                    client.sendall(said)
                    close(client)
                    made.append((name, said, end))
        return made


def counted(made):
    names = [name for name, _, _ in made]
    return {
        f"proxy.{name}.connections.{what}": names.count(name)
        for name in names
        for what in ("accepted", "closed.client_left")
    }


def test_a_probe_has_left_at_every_listener(env, pki):
    statsd = env.keep(Datagrams())
    kinds = Kinds(env, pki, env.echo().address)
    bitflow = start(env, statsd, *kinds.proxies)
    made = kinds.probe()
    records = bitflow.wait_records(len(made))
    told = sorted((record["proxy"], record["reason"], record["ended_by"]) for record in records)
    assert told == sorted((name, "client_left", "client") for name, _, _ in made)
    assert {record["bytes_from_client"] + record["bytes_from_target"] for record in records} == {0}
    wait_counters(statsd, counted(made))
    others = {name: value for name, value in statsd.counters().items()
              if ("failed." in name or "closed." in name) and not name.endswith(".client_left")}
    assert not others, "no handshake has failed, no dial either"


@pytest.mark.parametrize("end", ENDS)
def test_a_probe_has_left_while_its_target_is_dialled(env, end):
    full, address = env.listen(backlog=0), env.address()
    full.fill_queue()
    bitflow = env.start(proxy(address, {"address": full.address, "connect_timeout": "20s"}, log_probes=False))
    silent, speaks = env.connect(address), env.connect(address)
    own = sockets.local_name(speaks)
    speaks.sendall(b"hello")
    sockets.wait_acknowledged(speaks)
    wait_for(lambda: len(bitflow.busy_threads()) == 2, "both are dialled for")
    ENDS[end](silent)
    wait_for(lambda: len(bitflow.busy_threads()) == 1, "the probe has gone", 15)
    sockets.reset(speaks)
    record, = bitflow.wait_records(1)
    assert (record["client"], record["reason"], record["phase"]) == (own, "client_left", "dialling"), "no probe"


def test_probes_are_left_out_of_both_logs_and_counted(env, pki):
    statsd, echo = env.keep(Datagrams()), env.echo()
    kinds = Kinds(env, pki, echo.address, log_probes=False)
    bitflow = env.start(*kinds.proxies, application=all_on(statsd, level="info"))
    made = kinds.probe()
    expected = counted(made)
    wait_counters(statsd, expected)
    # What has said or heard something is logged as ever.
    with sockets.connect(kinds.address["plain"]) as client:
        sockets.round_trip(client)
    with sockets.connect(kinds.address["tls"]) as client:
        client.sendall(b"\x16")
    with sockets.connect(kinds.address["sni"]) as client:
        tls_raw.Tls(client, tls_raw.client_context(), server_name="server.test").handshake().end()
        sockets.receive_until_broken(client)
    with sockets.connect(kinds.address["header"]) as client:
        client.sendall(b"PROXY ")
    records = bitflow.wait_records(4)
    told = {(record["proxy"], record["reason"]) for record in records}
    assert told == {("plain", "completed"), ("tls", "client_handshake_failed"), ("sni", "completed"),
                    ("header", "proxy_header_invalid")}
    bitflow.stop()
    assert len(bitflow.records()) == 4
    lines = [(line["proxy"], line["reason"]) for line in bitflow.log_lines() if "reason" in line]
    assert sorted(lines) == sorted(told)


def test_a_probe_that_has_a_record_has_its_last_one(env):
    listener, quiet, chatty = env.listen(), env.address(), env.address()
    bitflow = env.start(
        proxy(quiet, listener.address, name="quiet", log_probes=False),
        proxy(chatty, listener.address, name="chatty", log_probes=False, connection_log_connect=True),
    )
    for address in (quiet, chatty):
        client, target = env.pair(address, listener)
        client.close()
        target.close()
    records = bitflow.wait_records(2)
    bitflow.wait_parked()
    assert [(record["proxy"], record["event"], record["reason"]) for record in bitflow.records()] == [
        ("chatty", "connected", None), ("chatty", "connection", "client_left")
    ], records
    assert not [line for line in bitflow.log_lines() if "reason" in line]


def test_a_target_that_greets_finds_a_probe_gone(env):
    """What is sent to a client that has closed is answered by a reset; it is a probe all the same. A client that reads
    on, or was greeted before it closed, is none."""
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address))

    def greeted(end):
        client, target = env.pair(address, listener)
        own = sockets.local_name(client)
        end(client, target)
        target.close()
        client.close()
        return bitflow.record_of(own)["reason"]

    def gone(client, target):
        client.close()
        assert sockets.receive_to_end(target) == b""
        target.sendall(b"220 hello\r\n")
        sockets.receive_until_broken(target)

    def reads_on(client, target):
        client.shutdown(socket.SHUT_WR)
        target.sendall(b"220 hello\r\n")
        assert sockets.receive_exactly(client, 11)

    def was_greeted(client, target):
        target.sendall(b"220 hello\r\n")
        assert sockets.receive_exactly(client, 11)
        sockets.reset(client)
        sockets.receive_until_broken(target)

    assert [greeted(end) for end in (gone, reads_on, was_greeted)] == ["client_left", "completed", "client_reset"]
