"""What happens to a connection in each phase of its dial, through each kind of listener: its client leaves or ends its
half, the lifetime or a drain is over, the configuration is read again."""

import contextlib
import signal
import socket
import threading
import time

import pytest

import hosts
import peers
import listener_kinds
import proxy_headers
import sockets
import tls_raw
from environment import proxy
from listener_kinds import LISTENER_KINDS, STATIONS, Client, StoppingSocks, said
from tls_cases import tls_listener
from waiting import Stopwatch, pace, wait_for

STEPS = {"connect": "connect", "backoff": "connect", "relay": "tls_handshake", "silent": "tls_handshake"}
FAILED = "cannot connect to the target"
PHASES = ("connect", "backoff", "silent", *STATIONS)


class Dials:
    """A bitflow with a proxy for each kind of listener and phase, a client for each, and every dial in its phase.
    `silent` and `relay` are targets that never answer a ClientHello, directly and behind SOCKS5."""

    def __init__(self, env, pki, kinds=LISTENER_KINDS, server=None, **options):
        self.env, self.pki = env, pki
        self.socks = {station: StoppingSocks(env, station) for station in STATIONS}
        self.full = env.listen(backlog=0)
        self.full.fill_queue()
        self.silent = env.listen()
        self.cases = [(kind, phase) for kind in kinds for phase in PHASES]
        self.address = {case: env.address() for case in self.cases}
        entries = [
            proxy(
                self.address[kind, phase],
                self.target(phase),
                name=f"{kind}/{phase}",
                listener=listener_kinds.listener(kind, pki),
                **options,
            )
            for kind, phase in self.cases
        ]
        self.bitflow = env.start(*entries, server=server)
        self.clients = {}
        threads = [threading.Thread(target=self.enter, args=(case,)) for case in self.cases]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(self.clients) == len(self.cases)
        for socks in self.socks.values():
            socks.wait_arrived(len(kinds))
        for _ in kinds:
            sockets.receive_exactly(self.silent.accept(), 1)  # of a ClientHello
        wait_for(lambda: listener_kinds.connecting(self.full.address) == len(kinds), "those are under way")
        wait_for(lambda: len(said(self.bitflow, FAILED)) == len(kinds), "those have failed")

    def enter(self, case):
        self.clients[case] = Client(self.env, self.address[case], case[0], self.pki)

    def target(self, phase):
        tls = {"tls_context": {"verify_mode": "none"}}
        if phase == "connect":
            return {"address": self.full.address, "connect_timeout": "60s"}
        if phase == "backoff":
            return {"address": self.env.refusing(), "connect_attempts": 100, "connect_backoff": "30s"}
        if phase == "silent":
            return {"address": self.silent.address, **tls}
        entry = listener_kinds.through(self.socks[phase].url, "192.0.2.1:80")
        return {**entry, **tls} if phase == "relay" else entry

    def assert_all_ended(self, reason, ended_by):
        records = listener_kinds.records_by_proxy(self.bitflow, len(self.cases))
        for kind, phase in self.cases:
            record = records[f"{kind}/{phase}"]
            told = record["reason"], record["ended_by"], record["phase"], record["step"]
            assert told == (reason, ended_by, "dialling", STEPS.get(phase, "socks")), record
            assert (record["attempts"], record["bytes_from_target"]) == (1, 0), record
            own = sockets.local_name(self.clients[kind, phase].socket) if self.lives(kind, phase) else None
            if kind in ("header", "both"):
                assert record["client"] == listener_kinds.DECLARED, record
            elif own:
                assert record["client"] == own, record
            if phase in STATIONS:
                assert record["target"]["via"] == self.socks[phase].server.address, record
        for socks in self.socks.values():
            socks.wait_left(len(self.cases) // len(PHASES))
            assert not socks.surprises
        for connection in self.silent.connections:
            sockets.receive_until_broken(connection)

    def lives(self, kind, phase):
        return self.clients[kind, phase].socket.fileno() >= 0


LEAVING = {
    "close": lambda client: client.socket.close(),
    "reset": lambda client: sockets.reset(client.socket),
    "data and reset": lambda client: (
        client.write(b"something"),
        sockets.wait_acknowledged(client.socket),
        sockets.reset(client.socket),
    ),
}


@pytest.mark.parametrize("way", LEAVING)
def test_a_client_that_leaves_stops_its_dial_in_any_phase(env, pki, way):
    """And the peers see the end of it."""
    dials = Dials(env, pki)
    watch = Stopwatch()
    for client in dials.clients.values():
        LEAVING[way](client)
    dials.assert_all_ended("client_left", "client")
    watch.between(0, 4, "the end of all dials")
    dials.bitflow.assert_quiet()


def test_the_lifetime_ends_a_dial_in_any_phase(env, pki):
    lifetime = int(2500 * pace())
    dials = Dials(env, pki, kinds=("plain", "both"), connection_lifetime=f"{lifetime}ms")
    dials.assert_all_ended("lifetime", "proxy")
    for record in dials.bitflow.records():
        assert record["total_ms"] >= lifetime - 1, record
    for client in dials.clients.values():
        assert sockets.receive_until_broken(client.socket)[1] in ("eof", "reset")
    dials.bitflow.assert_quiet()


@pytest.mark.parametrize("how", ["the bound", "a second signal"])
def test_the_end_of_a_drain_ends_a_dial_in_any_phase(env, pki, how):
    bound = "700ms" if how == "the bound" else "60s"
    dials = Dials(env, pki, kinds=("plain", "both"), server={"drain_timeout": bound})
    watch = Stopwatch()
    dials.bitflow.signal(signal.SIGTERM)
    if how == "a second signal":
        wait_for(lambda: said(dials.bitflow, "shutting down"), "it drains")
        dials.bitflow.signal(signal.SIGTERM)
    assert dials.bitflow.wait_ended() == 0
    watch.between(0.6 if how == "the bound" else 0, 4, "the end")
    dials.assert_all_ended("drain", "proxy")


# Before the dial, and while the name is looked up


def parts_of(hello):
    """Where a ClientHello is cut: within the record's header, the message's header, and here and there after them."""
    return [1, 4, 5, 6, 9, 43, len(hello) // 2, len(hello) - 1]


@pytest.mark.parametrize("leave", [socket.socket.close, sockets.reset], ids=["close", "reset"])
@pytest.mark.parametrize("step", ["tls_handshake", "client_hello"])
def test_nothing_is_dialled_for_a_client_that_leaves_before_it_is_let_in(env, pki, step, leave):
    """The header has come, the ClientHello or what has to follow it has not. The record has the client that the
    header declared."""
    target = env.listen()
    address = env.address()
    trusting = {"proxy_protocol": True}
    if step == "tls_handshake":
        entry = proxy(address, target.address, listener=listener_kinds.listener("both", pki))
    else:
        name = {"address": target.address, "name": "server.test"}
        entry = proxy(address, name, listener=trusting, connection_load_balancer="sni")
    bitflow = env.start(entry)
    context = tls_raw.client_context(pki.trusted)
    hello = tls_raw.Tls(env.keep(socket.socket(socket.AF_UNIX)), context, server_name="server.test").hello()
    cuts = [0, *parts_of(hello)] + ([len(hello)] if step == "tls_handshake" else [])
    clients = [env.connect(address) for _ in cuts]
    for client, cut in zip(clients, cuts):
        client.sendall(listener_kinds.HEADER + hello[:cut])
    for client in clients:
        sockets.wait_acknowledged(client)
    if step == "tls_handshake":
        sockets.receive_exactly(clients[-1], 5)  # the answer to the whole one
    wait_for(lambda: len(bitflow.busy_threads()) == len(clients), "all are waited for")
    for client in clients:
        leave(client)
    for record in bitflow.wait_records(len(clients)):
        assert record["reason"] in ("client_handshake_failed", "client_left", "client_reset"), record
        assert (record["ended_by"], record["phase"], record["step"]) == ("client", "admitting", step), record
        assert (record["client"], record["attempts"]) == (listener_kinds.DECLARED, 0), record
    assert not target.has_pending()
    bitflow.assert_quiet()


class Admissions:
    """A bitflow with a proxy for each step before the dial, and what clients have to say in it; `bound` is the step's
    own."""

    def __init__(self, env, pki, bound="0", server=None, **options):
        self.target = env.listen()
        context = tls_raw.client_context(pki.trusted)
        hello = tls_raw.Tls(env.keep(socket.socket(socket.AF_UNIX)), context, server_name="server.test").hello()
        long = proxy_headers.tlv(proxy_headers.NOOP, bytes(500))
        header = proxy_headers.v2("203.0.113.7", "203.0.113.8", 1, 2, tlvs=long)
        self.words = {"proxy_header": header, "tls_handshake": hello, "client_hello": hello}
        tls = tls_listener(pki.server, handshake_timeout=bound)
        kinds = {
            "proxy_header": ({"proxy_protocol": True, "proxy_protocol_timeout": bound}, "none"),
            "tls_handshake": (tls, "none"),
            "client_hello": ({"client_hello_timeout": bound}, "sni"),
        }
        address = {step: env.address() for step in kinds}
        target = {"address": self.target.address, "name": "server.test"}
        self.bitflow = env.start(
            *(proxy(address[step], target, name=step, listener=listener, connection_load_balancer=balancer, **options)
              for step, (listener, balancer) in kinds.items()),
            server=server,
        )
        self.clients = {step: env.connect(address[step]) for step in kinds}

    def say_half(self):
        for step, client in self.clients.items():
            client.sendall(self.words[step][:100])
        wait_for(lambda: len(self.bitflow.busy_threads()) == len(self.clients), "all are waited for")

    def ends(self):
        """{step: (reason, ended_by)}"""
        records = listener_kinds.records_by_proxy(self.bitflow, len(self.clients))
        for step, record in records.items():
            assert (record["phase"], record["step"], record["attempts"]) == ("admitting", step, 0), record
        assert not self.target.has_pending()
        return {step: (record["reason"], record["ended_by"]) for step, record in records.items()}


@pytest.mark.parametrize("how", ["the lifetime", "the drain", "a second signal"])
def test_a_bound_from_outside_is_over_before_a_client_is_let_in(env, pki, how):
    lifetime = {"connection_lifetime": f"{int(1500 * pace())}ms"} if how == "the lifetime" else {}
    drain = {"drain_timeout": "300ms" if how == "the drain" else "60s"}
    waiting = Admissions(env, pki, server=drain, **lifetime)
    waiting.say_half()
    if how != "the lifetime":
        waiting.bitflow.signal(signal.SIGTERM)
        wait_for(lambda: said(waiting.bitflow, "shutting down"), "it drains")
    if how == "a second signal":
        waiting.bitflow.signal(signal.SIGINT)
    reason = "lifetime" if how == "the lifetime" else "drain"
    assert set(waiting.ends().values()) == {(reason, "proxy")}
    for client in waiting.clients.values():
        sockets.was_rejected(client)


def test_a_client_that_dribbles_does_not_stretch_the_bounds_before_the_dial(env, pki):
    waiting = Admissions(env, pki, bound="600ms")
    for at in range(300):
        for step, client in waiting.clients.items():
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                client.sendall(waiting.words[step][at : at + 1])
        if len(waiting.bitflow.records()) == len(waiting.clients):
            break
        time.sleep(0.02)  # the pace of what is sent; nothing is awaited by it
    for record in waiting.bitflow.wait_records(len(waiting.clients)):
        assert 599 <= record["total_ms"] <= 4000 * pace(), record
    handshake = ("client_handshake_timeout", "proxy")
    header = ("proxy_header_timeout", "proxy")
    assert waiting.ends() == {"proxy_header": header, "tls_handshake": handshake, "client_hello": handshake}


def test_a_lookup_that_hangs_ends_with_its_client_its_lifetime_or_the_drain(env, pki):
    server = env.enter(hosts.SilentNameServer())
    ends = {"leaves": "client_left", "ages": "lifetime", "drains": "drain"}
    addresses = {name: env.address() for name in ends}
    target = {"address": "slow.test:80", "resolve_timeout": "60s", "connect_timeout": "60s"}
    bitflow = env.start(
        *[
            proxy(
                addresses[name],
                target,
                name=name,
                listener=listener_kinds.listener("header", pki),
                enable_dual_stack=True,
                connection_lifetime="1s" if name == "ages" else "60s",
            )
            for name in ends
        ],
        server={"drain_timeout": "500ms"},
        plan=hosts.plan(env, [], server.address),
    )
    clients = {name: Client(env, address, "header", pki) for name, address in addresses.items()}
    wait_for(lambda: server.questions, "the name server is asked")
    clients["leaves"].socket.close()
    bitflow.wait_records(2)
    bitflow.signal(signal.SIGTERM)
    assert bitflow.wait_ended() == 0
    for name, record in listener_kinds.records_by_proxy(bitflow, 3).items():
        assert (record["reason"], record["step"]) == (ends[name], "resolve"), record
        assert record["client"] == listener_kinds.DECLARED and record["connect_ms"] == 0, record


# Dials that succeed in the end


def echo_and_end(client, data):
    """The client gets its data back, ends its half and gets the end of the other."""
    client.write(data)
    assert client.read_exactly(len(data)) == data
    client.end()
    assert client.read_to_end() == b""
    client.socket.close()


def start_stopped(env, pki, kind, station, server=None):
    """(bitflow, its address, the SOCKS5 server at which the dial of its only client has stopped, the client)."""
    socks = StoppingSocks(env, station)
    address = env.address()
    entry = proxy(
        address,
        listener_kinds.through(socks.url, "192.0.2.1:80"),
        listener=listener_kinds.listener(kind, pki),
        enable_proxy_header=False,
    )
    bitflow = env.start(entry, server=server)
    client = Client(env, address, kind, pki)
    socks.wait_arrived(1)
    return bitflow, address, socks, client


@pytest.mark.parametrize("kind", ["plain", "both"])
@pytest.mark.parametrize("station", STATIONS[:4])
def test_all_that_a_client_says_during_its_dial_arrives(env, pki, kind, station):
    """A request and the end behind it."""
    bitflow, _, socks, client = start_stopped(env, pki, kind, station)
    data = bytes(range(256)) * 200
    client.write(data)
    client.end()
    wait_for(lambda: sockets.unacknowledged(client.socket) == 0, "the kernel has it all")
    assert socks.left == 0 and bitflow.records() == []
    socks.go_on()
    assert client.read_to_end() == data
    client.socket.close()
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["ended_by"]) == ("completed", "client"), record
    assert record["bytes_from_client"] == record["bytes_from_target"] == len(data)
    assert not socks.surprises


@pytest.mark.parametrize("station", STATIONS[:4])
def test_a_dial_goes_on_as_it_began_after_a_reload(env, pki, station):
    """With the server and the password that it began with; later clients get the new ones."""
    bitflow, address, socks, client = start_stopped(env, pki, "both", station)
    after = StoppingSocks(env, None, (b"new", b"word"))
    entry = proxy(address, listener_kinds.through(after.url, "192.0.2.2:80"))
    env.config(entry, level="info")
    bitflow.signal(signal.SIGHUP)
    wait_for(lambda: said(bitflow, "reloaded"), "the reload")
    later = Client(env, address, "plain", pki)
    later.write(b"by the new way")
    assert later.read_exactly(14) == b"by the new way"
    later.socket.close()
    assert bitflow.wait_records(1)[0]["target"]["address"] == "192.0.2.2:80"
    assert socks.left == 0
    socks.go_on()
    echo_and_end(client, b"by the old way")
    record = bitflow.wait_records(2)[1]
    assert record["target"] == {"name": "target1", "address": "192.0.2.1:80", "via": socks.server.address}
    assert record["reason"] == "completed" and not socks.surprises and not after.surprises
    bitflow.assert_quiet()


def test_a_dial_outlives_a_reload_that_removes_its_proxy(env, pki):
    """The listener is closed; the dial, and the connection that it becomes, go on."""
    bitflow, address, socks, client = start_stopped(env, pki, "header", "request")
    echo = env.echo()
    env.config(proxy(other := env.address(), echo.address, name="other"))
    bitflow.signal(signal.SIGHUP)
    bitflow.wait_listening(["other"])
    listener_kinds.wait_closed(bitflow, address)
    sockets.round_trip(env.connect(other))
    socks.go_on()
    client.write(b"still here")
    assert client.read_exactly(10) == b"still here"
    client.socket.close()
    record = bitflow.record_of(listener_kinds.DECLARED)
    assert (record["proxy"], record["reason"]) == ("front", "completed")


@pytest.mark.parametrize("station", ["greeting", "reply"])
def test_a_dial_ends_well_within_a_drain(env, pki, station):
    """It has the drain's time to connect and to be served."""
    bitflow, address, socks, client = start_stopped(
        env, pki, "both", station, server={"drain_timeout": "30s"}
    )
    bitflow.signal(signal.SIGTERM)
    listener_kinds.wait_closed(bitflow, address)
    assert bitflow.is_running()
    socks.go_on()
    echo_and_end(client, b"just in time")
    assert bitflow.wait_ended() == 0
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["bytes_from_client"]) == ("completed", 12)


def test_a_backoff_ends_well_within_a_drain(env, pki):
    held = env.enter(peers.Refusing())
    address = env.address()
    target = {"address": held.address, "connect_attempts": 200, "connect_backoff": "100ms"}
    bitflow = env.start(
        proxy(address, target, listener=listener_kinds.listener("header", pki), enable_proxy_header=True),
        server={"drain_timeout": "30s"},
    )
    client = Client(env, address, "header", pki)
    wait_for(lambda: said(bitflow, FAILED), "the first attempt has failed")
    bitflow.signal(signal.SIGTERM)
    listener_kinds.wait_closed(bitflow, address)
    held.listen()
    connection = env.keep(held.accept())
    line = b"PROXY TCP4 203.0.113.7 203.0.113.8 4711 443\r\n"
    client.write(b"abc")
    client.socket.shutdown(socket.SHUT_WR)
    assert sockets.receive_to_end(connection) == line + b"abc"
    connection.close()
    assert bitflow.wait_ended() == 0
    assert bitflow.wait_records(1)[0]["reason"] == "completed"
