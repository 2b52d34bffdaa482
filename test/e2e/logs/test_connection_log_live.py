"""Records of live connections: when their target has answered, and from time to time."""

import collections
import ctypes
import itertools
import socket
import struct
import threading
import time

import needs
import proxy_headers
import sockets
from environment import proxy
from waiting import holds_for, pace, scale, wait_for

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
LIVE = {"connection_log_connect": True, "connection_log_interval": "1s"}


def events(bitflow, client=None):
    return [record["event"] for record in bitflow.records() if client in (None, record["client"])]


def last(bitflow, event):
    found = [record for record in bitflow.records() if record["event"] == event]
    return found[-1] if found else None


def wait_active(bitflow, condition, what):
    """The first record of a live connection for which the condition is true."""

    def find():
        return next(
            (record for record in bitflow.records() if record["event"] == "active" and condition(record)), None
        )

    return wait_for(find, lambda: f"{what}; there are: {bitflow.records()}")


def test_a_connection_is_recorded_once_when_its_target_answers(env):
    """Before anything was said."""
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address, connection_log_connect=True))
    client, target = env.pair(address, listener)
    record = bitflow.wait_records(1)[0]
    assert (record["event"], record["phase"], record["reason"]) == ("connected", "relaying", None)
    assert record["client"] == sockets.local_name(client)
    assert record["target"]["address"] == listener.address
    assert (record["bytes_from_client"], record["bytes_from_target"]) == (0, 0)
    assert record["client_tcp"]["rtt_ms"] is not None and record["target_tcp"]["rtt_ms"] is not None
    client.sendall(b"hello")
    assert sockets.receive_exactly(target, 5) == b"hello"
    client.close()
    target.close()
    end = bitflow.wait_records(2)[1]
    assert (end["event"], end["id"], end["bytes_from_client"]) == ("connection", record["id"], 5)
    assert end["timings"]["dial_ms"] == record["timings"]["dial_ms"]
    assert events(bitflow) == ["connected", "connection"]


def test_a_failed_connection_is_never_recorded_as_connected(env):
    address = env.address()
    bitflow = env.start(proxy(address, env.refusing(), **LIVE))
    sockets.was_rejected(env.connect(address))
    bitflow.wait_records(1)
    assert events(bitflow) == ["connection"]


def test_an_idle_connection_is_reported_every_second(env):
    """Each report has what was counted until then; the end comes last."""
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address, connection_log_interval="1s"))
    client, target = env.pair(address, listener)
    first = wait_active(bitflow, lambda record: True, "a first report")
    assert (first["bytes_from_client"], first["timings"]["first_byte_ms"]) == (0, None)
    client.sendall(b"x" * 1000)
    assert len(sockets.receive_exactly(target, 1000)) == 1000
    target.sendall(b"y" * 50)
    assert len(sockets.receive_exactly(client, 50)) == 50
    wait_active(bitflow, lambda record: record["total_ms"] > 3000, "more reports")
    counted = wait_active(bitflow, lambda record: record["bytes_from_target"] == 50, "a report of the bytes")
    assert counted["bytes_from_client"] == 1000
    assert counted["client_tcp"]["bytes_received"] == 1000
    assert 0 < counted["timings"]["first_byte_ms"] <= counted["timings"]["relay_ms"]
    client.close()
    target.close()
    wait_for(lambda: events(bitflow)[-1] == "connection", "the end")
    records = bitflow.records()
    assert [record["event"] for record in records[:-1]] == ["active"] * (len(records) - 1)
    ages = [record["total_ms"] for record in records[:-1]]
    assert all(age >= 1000 * number for number, age in enumerate(ages, 1)), f"more often than configured: {ages}"
    gaps = [later - earlier for earlier, later in itertools.pairwise(ages)]
    assert gaps and min(gaps) < 1000 + 500 * pace(), ages


def test_live_connections_are_not_recorded_unless_configured(env):
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address))
    env.pair(address, listener)
    holds_for(1.5, lambda: not bitflow.records(), "nothing is written about a live connection")
    assert "reports" not in bitflow.thread_names()


def test_a_connection_that_is_still_dialled_is_not_reported(env):
    listener, address = env.listen(backlog=0), env.address()
    listener.fill_queue()
    bitflow = env.start(proxy(address, listener.address, **LIVE))
    client = env.connect(address)
    client.sendall(b"waiting")  # an end of stream is a half-close then
    wait_for(bitflow.busy_threads, "it is being dialled")
    holds_for(1.5, lambda: not bitflow.records(), "nothing is written before the target answers")
    sockets.reset(client)
    assert bitflow.wait_records(1)[0]["phase"] == "dialling"


def test_a_crowd_is_reported_while_it_moves_bytes(env):
    """Each connection is, in whole lines, in the order of its own life, and not more often than configured."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address, **LIVE))
    count, stop = scale(120, 20), threading.Event()
    clients = [env.connect(address) for _ in range(count)]
    names = {sockets.local_name(client) for client in clients}

    def talk(mine):
        while not stop.is_set():
            for client in mine:
                sockets.round_trip(client, b"x" * 3000)

    threads = [threading.Thread(target=talk, args=(clients[number::4],)) for number in range(4)]
    for thread in threads:
        thread.start()

    def reported():
        return collections.Counter(
            record["client"] for record in bitflow.records() if record["event"] == "active"
        )

    def is_each_reported_twice():
        counts = reported()
        return all(counts[name] >= 2 for name in names)

    wait_for(is_each_reported_twice, lambda: f"everyone is reported twice: {reported()}", 20)
    # Some end while the reports go on, so that ends meet reports.
    stop.set()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    wait_for(lambda: events(bitflow).count("connection") == count, "the ends")
    lives = collections.defaultdict(list)
    for record in bitflow.records():
        lives[record["id"]].append(record)
    assert len(lives) == count
    for records in lives.values():
        order = [record["event"] for record in records]
        assert order == ["connected", *["active"] * (len(records) - 2), "connection"], order
        for earlier, later in itertools.pairwise(records):
            assert earlier["bytes_from_client"] <= later["bytes_from_client"]
            assert earlier["total_ms"] <= later["total_ms"]
        assert len(records) - 2 <= records[-1]["total_ms"] / 1000


def test_no_report_follows_the_end_of_a_connection(env):
    """The connections live for about an interval, so that many end just when a report is due."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address, connection_log_interval="1s"))
    count = scale(80, 16)
    clients = []
    begin = time.monotonic()
    for number in range(count):
        clients.append((env.connect(address), begin + 0.995 + 0.0005 * number))
        sockets.round_trip(clients[-1][0])
    for client, due in clients:
        time.sleep(max(0, due - time.monotonic()))
        client.close()
    wait_for(lambda: events(bitflow).count("connection") == count, "the ends")
    ended = set()
    for record in bitflow.records():
        assert record["id"] not in ended, f"a record after the end: {record}"
        if record["event"] == "connection":
            ended.add(record["id"])
    bitflow.assert_quiet()


def test_a_reload_turns_reports_on_and_off_for_new_connections(env):
    """Those that live keep what they began with."""
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address))

    def reload(**options):
        env.config(proxy(address, listener.address, **options))
        bitflow.reload()

    def named_pair():
        client, target = env.pair(address, listener)
        return sockets.local_name(client)

    before = named_pair()
    reload(connection_log_interval="1s")
    between = named_pair()
    assert "reports" in bitflow.thread_names()
    reload()
    after = named_pair()
    wait_for(lambda: events(bitflow, between).count("active") >= 2, "reports of the one that has them")
    assert events(bitflow, before) == events(bitflow, after) == []


def test_live_records_without_a_log_are_a_warning(env):
    """And cost nothing: there is no thread for what is never due."""
    address = env.address()
    settings = {"connection_log": None, "connection_log_connect": True, "connection_log_interval": "1s"}
    bitflow = env.start(proxy(address, env.echo().address, **settings))
    sockets.round_trip(env.connect(address))
    for key in ("connection_log_connect", "connection_log_interval"):
        assert f"{key}: means nothing without connection_log" in bitflow.stderr()
    assert "reports" not in bitflow.thread_names()


# The kernel's figures


def drop_all(sock):
    """The socket receives nothing more from the network, as if the path were cut."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0
    filter_of_one = struct.pack("@HP", 1, ctypes.addressof(program))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_of_one)


def cannot_drop():
    with socket.socket() as sock:
        try:
            drop_all(sock)
        except OSError as error:
            return error.strerror
    return None


DROPPING = needs.Capability("the right to filter what a socket takes", cannot_drop)


def take_again(sock):
    sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def test_a_record_shows_the_retransmits_of_a_lossy_path(env):
    """The path to the target is cut for a while; then everything is delivered."""
    DROPPING.need()
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address, connection_log_interval="1s"))
    client, target = env.pair(address, listener)
    drop_all(target)
    client.sendall(b"x" * 5000)
    record = wait_active(
        bitflow,
        lambda record: record["target_tcp"]["retransmits"] > 0 and record["target_tcp"]["unacked"] > 0,
        "a record shows that nothing arrives",
    )
    assert record["client_tcp"]["retransmits"] == 0
    assert record["target_tcp"]["bytes_acked"] <= 1 and record["client_tcp"]["bytes_received"] == 5000
    take_again(target)
    assert len(sockets.receive_exactly(target, 5000)) == 5000
    client.close()
    target.close()
    wait_for(lambda: events(bitflow)[-1] == "connection", "the end", 30)
    end = bitflow.records()[-1]
    assert end["target_tcp"]["retransmits"] > 0 and 5000 <= end["target_tcp"]["bytes_acked"] <= 5002


def test_a_record_shows_what_waits_for_a_client_that_does_not_read(env):
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address, connection_log_interval="1s"))
    client, target = env.pair(address, listener)
    sockets.fill(target)
    record = wait_active(bitflow, lambda record: record["client_tcp"]["unsent_bytes"] > 0, "bytes wait")
    assert record["target_tcp"]["bytes_received"] >= record["bytes_from_target"] > 0


def test_records_of_unix_sockets_have_no_tcp_figures(env):
    echo = env.echo(env.unix("back.sock"))
    bitflow = env.start(proxy(env.unix(), echo.address, **LIVE))
    client = env.connect(env.unix())
    sockets.round_trip(client)
    wait_active(bitflow, lambda record: True, "a report")
    client.close()
    wait_for(lambda: events(bitflow)[-1] == "connection", "the end")
    assert all(record["client_tcp"] is record["target_tcp"] is None for record in bitflow.records())


# One id everywhere


def test_every_record_of_a_connection_has_the_id_of_its_thread_and_header(env):
    """The application log has it, too."""
    listener, address = env.listen(), env.address()
    bitflow = env.start(
        proxy(address, listener.address, enable_proxy_header=True, proxy_header_version=2, **LIVE), level="debug"
    )
    for _ in range(3):
        client, target = env.pair(address, listener)
        *_, fields = proxy_headers.receive_v2(target)
        told = fields[proxy_headers.UNIQUE_ID].decode()
        name = sockets.local_name(client)
        assert f"front#{told}>" in bitflow.busy_threads()
        wait_for(lambda: "active" in events(bitflow, name), "a report")
        client.close()
        target.close()
        wait_for(lambda: "connection" in events(bitflow, name), "the end")
        assert {str(record["id"]) for record in bitflow.records() if record["client"] == name} == {told}
        lines = [line for line in bitflow.log_lines(True) if line.get("client") == name]
        assert len(lines) >= 2 and {line["conn"] for line in lines} == {told}


def test_the_second_threads_name_has_the_id_too(env):
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address, connection_log_connect=True))
    client, target = env.pair(address, listener)
    sockets.fill(target)  # a write that waits takes a second thread
    number = bitflow.wait_records(1)[0]["id"]
    wait_for(
        lambda: set(bitflow.busy_threads()) == {f"front#{number}>", f"front#{number}<"},
        lambda: f"both threads: {bitflow.busy_threads()}",
    )
