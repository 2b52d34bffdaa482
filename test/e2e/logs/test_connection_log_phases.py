"""What a record tells about the phases of a connection: in which one it ended, and how long each took."""

import time

import pytest

import hosts
import peers
import proxy_headers
import socks_peers
import sockets
import tls_cases
import tls_raw
from environment import proxy
from waiting import pace, wait_for

WAIT = 0.3  # what a slow peer takes, seconds
SLOW = WAIT + 0.1  # what it really takes: on a busy machine bitflow begins to wait a little later

TIMES = {
    "wait_ms",
    "admit_ms",
    "client_header_ms",
    "client_hello_ms",
    "client_handshake_ms",
    "dial_ms",
    "resolve_ms",
    "connect_ms",
    "socks_ms",
    "target_handshake_ms",
    "relay_ms",
    "first_byte_ms",
}


def one_record(bitflow):
    records = bitflow.wait_records(1)
    assert len(records) == 1, records
    return records[0]


def assert_ended(bitflow, reason, phase, step, *times):
    """`times`: those that are not null, beside wait_ms and admit_ms."""
    record = one_record(bitflow)
    assert (record["reason"], record["phase"], record["step"]) == (reason, phase, step), record
    told = {name for name, value in record["timings"].items() if value is not None}
    assert set(record["timings"]) == TIMES
    assert told == {f"{name}_ms" for name in ("wait", "admit", *times)}, record["timings"]
    return record


# Where it ended


def test_a_bad_proxy_header_ends_in_the_step_proxy_header(env):
    address = env.address()
    bitflow = env.start(proxy(address, env.refusing(), listener={"proxy_protocol": True}))
    client = env.connect(address)
    client.sendall(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    sockets.receive_until_broken(client)
    record = assert_ended(bitflow, "proxy_header_invalid", "admitting", "proxy_header", "client_header")
    assert record["client_tcp"]["bytes_received"] >= 31 and record["target_tcp"] is None


def test_a_missing_client_hello_ends_in_the_step_client_hello(env):
    address = env.address()
    listener = {"client_hello_timeout": f"{WAIT}s"}
    bitflow = env.start(
        proxy(address, env.refusing(), listener=listener, connection_load_balancer="sni")
    )
    client = env.connect(address)
    sockets.receive_until_broken(client)
    record = assert_ended(bitflow, "client_handshake_timeout", "admitting", "client_hello", "client_hello")
    assert WAIT * 1000 <= record["timings"]["client_hello_ms"] <= 3000 * pace()


def test_a_clients_failed_handshake_ends_in_the_step_tls_handshake(env, pki):
    address = env.address()
    bitflow = env.start(proxy(address, env.refusing(), listener=tls_cases.tls_listener(pki.server)))
    client = env.connect(address)
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
    sockets.receive_until_broken(client)
    assert_ended(bitflow, "client_handshake_failed", "admitting", "tls_handshake", "client_handshake")


def test_an_unknown_name_ends_in_the_step_resolve(env):
    address = env.address()
    bitflow = env.start(proxy(address, "nowhere.invalid:80"), plan=hosts.no_names(env))
    sockets.was_rejected(env.connect(address))
    record = assert_ended(bitflow, "resolve_failed", "dialling", "resolve", "dial", "resolve")
    assert record["target_tcp"] is None and record["client_tcp"] is not None


def test_a_refused_connect_ends_in_the_step_connect(env):
    address = env.address()
    bitflow = env.start(proxy(address, env.refusing()))
    sockets.was_rejected(env.connect(address))
    record = one_record(bitflow)
    assert (record["phase"], record["step"]) == ("dialling", "connect")
    assert record["timings"]["connect_ms"] is not None and record["timings"]["relay_ms"] is None


def test_a_connect_without_an_answer_ends_in_the_step_connect(env):
    listener, address = env.listen(backlog=0), env.address()
    listener.fill_queue()
    bitflow = env.start(proxy(address, {"address": listener.address, "connect_timeout": f"{WAIT}s"}))
    sockets.was_rejected(env.connect(address))
    record = one_record(bitflow)
    assert (record["reason"], record["phase"], record["step"]) == ("connect_timeout", "dialling", "connect")
    assert WAIT * 1000 - 1 <= record["timings"]["connect_ms"] <= 3000 * pace()


def test_a_socks_servers_refusal_ends_in_the_step_socks(env):
    server = env.serve(socks_peers.answering(b"\x05\x00", b"\x05\x05\x00\x01\0\0\0\0\0\0"))
    address = env.address()
    bitflow = env.start(proxy(address, {"address": "192.0.2.1:80", "proxy": server.address}))
    sockets.was_rejected(env.connect(address))
    record = one_record(bitflow)
    assert (record["reason"], record["phase"], record["step"]) == ("socks_refused", "dialling", "socks")
    assert record["timings"]["socks_ms"] is not None


def test_a_targets_failed_handshake_ends_in_the_step_tls_handshake(env, pki):
    server = env.serve(tls_cases.tls_echo(tls_raw.server_context(pki.bad_servers["expired"])))
    address = env.address()
    bitflow = env.start(proxy(address, tls_cases.tls_target(server.address, pki.trusted)))
    sockets.was_rejected(env.connect(address))
    record = one_record(bitflow)
    assert (record["phase"], record["step"]) == ("dialling", "tls_handshake")
    assert record["reason"] == "target_handshake_failed"
    assert record["timings"]["target_handshake_ms"] >= record["target_tls"]["handshake_ms"] > 0


def test_a_rejected_client_ends_in_the_phase_accepting(env):
    address = env.address()
    bitflow = env.start(proxy(address, env.refusing(), listener={"authorized_sources": ["192.0.2.1"]}))
    sockets.was_rejected(env.connect(address))
    record = one_record(bitflow)
    assert (record["event"], record["phase"], record["step"]) == ("rejected", "accepting", None)
    assert (record["client_tcp"], record["target_tcp"]) == (None, None)
    assert set(record["timings"].values()) == {None}


def test_a_served_connection_ends_in_the_phase_relaying(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    client = env.connect(address)
    sockets.round_trip(client)
    client.close()
    record = one_record(bitflow)
    assert (record["phase"], record["step"]) == ("relaying", None)
    told = {name for name, value in record["timings"].items() if value is not None}
    assert {"dial_ms", "connect_ms", "relay_ms", "first_byte_ms"} <= told
    assert told & {"client_header_ms", "client_hello_ms", "client_handshake_ms", "socks_ms"} == set()


# How long it took


def slowly(handler, seconds):
    def slow(connection):
        time.sleep(seconds)
        handler(connection)

    return slow


def test_each_phase_is_timed_for_itself(env, pki):
    """The client is slow with its header and its handshake, the target with both its handshake and its answer."""
    echo = tls_cases.tls_echo(tls_raw.server_context(pki.server))
    server, address = env.serve(slowly(echo, SLOW)), env.address()
    listener = tls_cases.tls_listener(pki.server, listener={"proxy_protocol": True})
    bitflow = env.start(proxy(address, tls_cases.tls_target(server.address, pki.trusted), listener=listener))
    client = env.connect(address)
    wait_for(bitflow.busy_threads, "it is accepted")
    time.sleep(SLOW)
    client.sendall(proxy_headers.EXAMPLE)
    time.sleep(SLOW)
    end = tls_raw.Tls(client, tls_raw.client_context(), server_name="server.test").handshake()
    time.sleep(2 * SLOW)  # the target's handshake takes the first half of it
    end.write(b"hello")
    assert end.read_exactly(5) == b"hello"
    end.end()
    sockets.receive_until_broken(client)
    record = one_record(bitflow)
    timings, least, most = record["timings"], WAIT * 1000 - 5, WAIT * 1000 + 1000 * pace()
    assert least <= timings["client_header_ms"] <= most
    assert least <= timings["client_handshake_ms"] <= most
    assert 2 * least <= timings["admit_ms"] <= 2 * most
    assert least <= timings["target_handshake_ms"] <= timings["dial_ms"] <= most
    assert timings["first_byte_ms"] <= timings["relay_ms"] <= most
    assert record["client_tls"]["handshake_ms"] == timings["client_handshake_ms"]
    assert record["target_tls"]["handshake_ms"] == timings["target_handshake_ms"]
    assert 4 * least <= record["total_ms"]


def test_waiting_for_the_client_hello_is_not_the_handshakes_time(env, pki):
    """Where the ClientHello chooses the target."""
    server, address = env.echo(), env.address()
    target = {"name": "server.test", "address": server.address}
    listener = tls_cases.tls_listener(pki.server)
    bitflow = env.start(proxy(address, target, listener=listener, connection_load_balancer="sni"))
    client = env.connect(address)
    wait_for(bitflow.busy_threads, "it is accepted")
    time.sleep(SLOW)
    end = tls_raw.Tls(client, tls_raw.client_context(), server_name="server.test").handshake()
    end.end()
    sockets.receive_until_broken(client)
    timings = one_record(bitflow)["timings"]
    assert timings["client_hello_ms"] >= WAIT * 1000 - 5
    assert 0 < timings["client_handshake_ms"] and timings["admit_ms"] >= timings["client_hello_ms"]


@pytest.mark.parametrize("delay", [0, WAIT], ids=["at once", "after a while"])
def test_first_byte_is_the_time_from_the_connect_to_the_first_byte(env, delay):

    def answer(connection):
        sockets.receive_exactly(connection, 5)
        time.sleep(delay)
        connection.sendall(b"answer")
        sockets.receive_until_broken(connection)

    server, address = env.serve(answer), env.address()
    bitflow = env.start(proxy(address, server.address))
    client = env.connect(address)
    client.sendall(b"hello")
    assert sockets.receive_exactly(client, 6) == b"answer"
    client.close()
    first = one_record(bitflow)["timings"]["first_byte_ms"]
    assert delay * 1000 <= first <= delay * 1000 + 1000 * pace()


def test_a_target_that_says_nothing_has_no_first_byte(env):
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address))
    client, target = env.pair(address, listener)
    client.sendall(b"hello")
    assert sockets.receive_exactly(target, 5) == b"hello"
    client.close()
    target.close()
    record = one_record(bitflow)
    assert record["timings"]["first_byte_ms"] is None and record["timings"]["relay_ms"] is not None


def test_pauses_between_attempts_count_as_dialling(env):
    """Each step's time is that of all attempts; the whole has the pauses, too."""
    address = env.address()
    target = {"address": env.refusing(), "connect_attempts": 3, "connect_backoff": "100ms"}
    bitflow = env.start(proxy(address, target))
    sockets.was_rejected(env.connect(address))
    record = one_record(bitflow)
    timings = record["timings"]
    assert record["attempts"] == 3
    assert timings["dial_ms"] >= 0.8 * (100 + 200)
    assert 0 < timings["connect_ms"] < timings["dial_ms"] / 2


def test_the_dialogue_with_a_slow_socks_server_is_timed(env):
    handler = slowly(socks_peers.answering(b"\x05\x00", socks_peers.YES), SLOW)
    with peers.Server(handler) as server:
        address = env.address()
        bitflow = env.start(proxy(address, {"address": "192.0.2.1:80", "proxy": server.address}))
        client = env.connect(address)
        client.sendall(b"hello")
        client.close()
        record = one_record(bitflow)
        assert WAIT * 1000 - 5 <= record["timings"]["socks_ms"] <= record["timings"]["dial_ms"]
        assert record["target"]["via"] == server.address
        assert record["target_tcp"]["bytes_received"] >= 12  # of the leg to the SOCKS5 server
