"""How TLS streams end, and what they survive: half-closes, cuts, damaged records, alerts, KeyUpdates. Peers: Python's
ssl with its records in the test's hands, OpenSSL's s_client and s_server, gnutls-cli."""

import array
import contextlib
import fcntl
import hashlib
import http.server
import random
import select
import ssl
import subprocess
import termios
import threading
import time

import pytest

import programs
import sockets
import tls_peers
import tls_raw
from environment import proxy
from tls_cases import tls_accept, tls_client, tls_listener, tls_target
from waiting import Stopwatch, pace, scale, wait_for

LEGS = ["client", "target"]


class Pair:
    """A connection with TLS on one leg (or both); `tls` is that leg's far end, `other` the other one's."""

    def __init__(self, env, pki, leg, version="TLSv1.3", truncation=None, **options):
        self.listener, address = env.listen(), env.address()
        server = tls_raw.server_context(pki.server, version=version)
        client = tls_raw.client_context(version=version)
        is_client = leg in ("client", "both")
        more = {"truncation": truncation} if truncation else {}
        target = self.listener.address
        if leg != "client":
            target = tls_target(self.listener.address, verify_mode="none", **more)
        self.bitflow = env.start(
            proxy(address, target, listener=tls_listener(pki.server, **more) if is_client else None, **options)
        )
        if leg == "client":
            self.tls = tls_client(env, address, client)
            self.other = env.keep(self.listener.accept())
            self.name = sockets.local_name(self.tls.socket)
        elif leg == "target":
            self.other = env.connect(address)
            self.name = sockets.local_name(self.other)
            self.tls = tls_accept(self.listener, server)
            env.keep(self.tls.socket)
        else:
            self.tls = tls_client(env, address, client)
            self.name = sockets.local_name(self.tls.socket)
            self.other = tls_accept(self.listener, server)
            env.keep(self.other.socket)
        self.leg = leg

    def record(self):
        return self.bitflow.record_of(self.name)

    def assert_passes(self):
        self.tls.write(b"from tls")
        assert sockets.receive_exactly(self.other, 8) == b"from tls"
        self.other.sendall(b"to tls")
        assert self.tls.read_exactly(6) == b"to tls"

    def assert_breaks(self, reason, received=b"", words=None):
        """The other side gets what came before the break, then a reset; the record blames the TLS side."""
        assert sockets.receive_until_broken(self.other) == (received, "reset")
        record = self.record()
        assert (record["reason"], record["ended_by"]) == (f"{self.leg}_{reason}", self.leg), record
        assert words is None or words in record["error"], record


@pytest.mark.parametrize("leg", LEGS)
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_a_half_close_of_the_tls_side_reaches_the_plain_side_which_still_answers(env, pki, leg, version):
    pair = Pair(env, pki, leg, version)
    pair.assert_passes()
    pair.tls.write(b"last words")
    # After its close_notify OpenSSL still reads, in TLS 1.2 as in 1.3.
    pair.tls.socket.sendall(pair.tls.close_notify_record())
    assert sockets.receive_to_end(pair.other) == b"last words"
    pair.other.sendall(b"an answer, later")
    pair.other.close()
    assert pair.tls.read_until_end() == (b"an answer, later", "close_notify")
    pair.tls.socket.close()
    assert pair.record()["reason"] == "completed"


@pytest.mark.parametrize("leg", LEGS)
def test_a_half_close_of_the_plain_side_reaches_the_tls_side_which_still_sends(env, pki, leg):
    pair = Pair(env, pki, leg)
    pair.other.sendall(b"last words")
    pair.other.shutdown(1)
    assert pair.tls.read_until_end() == (b"last words", "close_notify")
    pair.tls.assert_fin()
    pair.tls.write(b"x" * 50_000)
    pair.tls.end()
    assert sockets.receive_to_end(pair.other) == b"x" * 50_000
    record = pair.record()
    assert record["reason"] == "completed"
    assert record["ended_by"] == ("target" if leg == "client" else "client")


RESETS = {"between two records": (0, "target_reset_at_end", "info"), "within one": (9, "target_reset", "error")}


@pytest.mark.parametrize("part, reason, level", RESETS.values(), ids=RESETS)
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_a_target_that_answers_the_clients_end_by_a_reset_has_failed_only_within_a_record(
    env, pki, version, part, reason, level
):
    pair = Pair(env, pki, "target", version)
    pair.tls.write(b"an answer")
    assert sockets.receive_exactly(pair.other, 9) == b"an answer"
    pair.other.shutdown(1)
    assert pair.tls.read_until_end() == (b"", "close_notify")
    pair.tls.socket.sendall(pair.tls.protect(b"more of it")[:part])
    sockets.wait_acknowledged(pair.tls.socket)
    sockets.reset(pair.tls.socket)
    assert sockets.receive_until_broken(pair.other) == (b"", "reset")
    assert pair.record()["reason"] == reason
    assert next(line for line in pair.bitflow.log_lines() if line.get("reason") == reason)["level"] == level


def assert_left_by_a_half_close(pair, watch):
    """The proxy has waited for the side that was left, and says so."""
    record = pair.record()
    watch.between(0.4, 2.5, "the silence")
    assert (record["reason"], record["ended_by"], record["error"]) == ("half_close_timeout", "proxy", None), record
    line = next(line for line in pair.bitflow.log_lines() if line.get("reason") == "half_close_timeout")
    assert (line["level"], line["msg"]) == ("info", HALF_CLOSED), line


HALF_CLOSED = "one side had ended, and nothing more came from the other"
VERSION = pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])


@pytest.mark.parametrize("leg", [*LEGS, "both"])
@VERSION
def test_after_a_close_notify_a_silent_other_side_is_not_waited_for(env, pki, leg, version):
    """The TLS side is still there to read: its TCP connection has not ended."""
    pair = Pair(env, pki, leg, version, half_close_timeout="600ms")
    pair.tls.write(b"last words")
    pair.tls.socket.sendall(pair.tls.close_notify_record())
    if leg == "both":
        assert pair.other.read_until_end() == (b"last words", "close_notify")
    else:
        assert sockets.receive_to_end(pair.other) == b"last words"
    watch = Stopwatch()
    assert pair.tls.read_until_end() == (b"", "cut"), "an answer that did not come has no orderly end"
    assert_left_by_a_half_close(pair, watch)


@pytest.mark.parametrize("leg", LEGS)
@VERSION
def test_after_a_plain_end_a_silent_tls_side_is_not_waited_for(env, pki, leg, version):
    pair = Pair(env, pki, leg, version, half_close_timeout="600ms")
    pair.other.sendall(b"last words")
    pair.other.shutdown(1)
    assert pair.tls.read_until_end() == (b"last words", "close_notify")
    watch = Stopwatch()
    assert sockets.receive_to_end(pair.other) == b""
    assert_left_by_a_half_close(pair, watch)


@pytest.mark.parametrize("leg", LEGS)
@VERSION
def test_records_of_a_tls_side_start_the_half_close_timeout_anew(env, pki, leg, version):
    pair = Pair(env, pki, leg, version, half_close_timeout=f"{600 * pace():.0f}ms")
    pair.other.shutdown(1)
    assert pair.tls.read_until_end() == (b"", "close_notify")
    watch, sent = Stopwatch(), 0
    while watch.seconds < 1.2 * pace():
        pair.tls.write(b"still here")
        sent += 10
        assert sockets.receive_exactly(pair.other, 10) == b"still here"
        time.sleep(0.1 * pace())
    pair.tls.end()
    assert sockets.receive_to_end(pair.other) == b""
    record = pair.record()
    assert record["reason"] == "completed" and sent in (record["bytes_from_client"], record["bytes_from_target"])


@pytest.mark.parametrize("leg", LEGS)
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_a_stream_cut_without_close_notify_is_reset_as_truncated(env, pki, leg, version):
    pair = Pair(env, pki, leg, version)
    pair.tls.write(b"half of it")
    pair.tls.socket.shutdown(1)
    pair.assert_breaks("truncated", b"half of it", "close_notify")


@pytest.mark.parametrize("leg", LEGS)
def test_a_stream_cut_in_the_middle_of_a_record_is_reset_as_truncated(env, pki, leg):
    pair = Pair(env, pki, leg)
    pair.tls.socket.sendall(pair.tls.protect(b"half of a record")[:-3])
    pair.tls.socket.shutdown(1)
    pair.assert_breaks("truncated")


@pytest.mark.parametrize("leg", [*LEGS, "both"])
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_an_accepted_end_without_close_notify_is_a_half_close(env, pki, leg, version):
    pair = Pair(env, pki, leg, version, truncation="accept")
    pair.tls.write(b"all of it")
    pair.tls.socket.shutdown(1)
    if leg == "both":
        assert pair.other.read_until_end() == (b"all of it", "close_notify")
        pair.other.write(b"an answer, later")
        pair.other.end()
    else:
        assert sockets.receive_to_end(pair.other) == b"all of it"
        pair.other.sendall(b"an answer, later")
        pair.other.close()
    assert pair.tls.read_until_end() == (b"an answer, later", "close_notify")
    pair.tls.socket.close()
    record = pair.record()
    side = "target" if leg == "target" else "client"
    assert (record["reason"], record["ended_by"], record["error"]) == ("completed", side, None)
    facts = {key: record[key]["truncated"] for key in ("client_tls", "target_tls") if record[key]}
    assert facts == {key: key.startswith(side) for key in facts} != {}


@pytest.mark.parametrize("leg", LEGS)
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_a_stream_cut_in_the_middle_of_a_record_is_never_accepted(env, pki, leg, version):
    pair = Pair(env, pki, leg, version, truncation="accept")
    pair.tls.socket.sendall(pair.tls.protect(b"whole") + pair.tls.protect(b"half of a record")[:-3])
    pair.tls.socket.shutdown(1)
    pair.assert_breaks("truncated", b"whole", "close_notify")
    assert pair.record()[f"{leg}_tls"]["truncated"]


@pytest.mark.parametrize("leg", LEGS)
def test_a_reset_is_never_accepted(env, pki, leg):
    pair = Pair(env, pki, leg, truncation="accept")
    pair.assert_passes()
    sockets.reset(pair.tls.socket)
    pair.assert_breaks("reset")
    assert not pair.record()[f"{leg}_tls"]["truncated"]


class Page(http.server.BaseHTTPRequestHandler):
    """HTTP/1.0, its end told by the connection's."""

    body = b"line\n" * 50_000

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *words):
        pass


@pytest.mark.parametrize("truncation, status", [(None, 56), ("reset", 56), ("accept", 0)])
def test_a_page_of_pythons_http_server_is_whole_where_its_end_is_accepted(env, pki, truncation, status):
    """It never sends a close_notify; curl's 56 is a failure to receive."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        server.daemon_threads = True
        server.socket = tls_raw.server_context(pki.server).wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address, more = env.address(), {"truncation": truncation} if truncation else {}
        target = tls_target(f"127.0.0.1:{server.server_port}", pki.root.certificate, **more)
        bitflow = env.start(proxy(address, target))
        page = env.directory / "page"
        command = [programs.find("curl"), "-sS", "--noproxy", "*", "--max-time", "60", "-o", str(page)]
        done = subprocess.run([*command, f"http://{address}/"], capture_output=True, text=True)
        server.shutdown()
    record = bitflow.wait_records(1)[0]
    assert done.returncode == status, done.stderr
    assert page.read_bytes() == Page.body or status != 0
    assert record["target_tls"]["truncated"]
    assert record["reason"] == ("completed" if status == 0 else "target_truncated")


@pytest.mark.parametrize("leg", LEGS)
def test_a_reset_of_the_tls_side_resets_the_plain_side(env, pki, leg):
    pair = Pair(env, pki, leg)
    pair.assert_passes()
    sockets.reset(pair.tls.socket)
    pair.assert_breaks("reset")


@pytest.mark.parametrize("leg", [*LEGS, "both"])
def test_what_comes_of_much_data_before_a_reset_is_counted(env, pki, leg):
    """The other side begins to read after the reset. What it gets is a part without a gap, and as much as is told."""
    pair = Pair(env, pki, leg)
    data = random.Random(8).randbytes(400_000)
    pair.tls.write(data)
    far = pair.other.socket if leg == "both" else pair.other
    assert select.select([far], [], [], 15 * pace())[0], "nothing comes"
    sockets.reset(pair.tls.socket)
    if leg == "both":
        received, how = pair.other.read_until_end()
    else:
        received, how = sockets.receive_until_broken(pair.other)
    assert data.startswith(received) and how in ("reset", "cut"), (len(received), how)
    record = pair.record()
    side = "target" if leg == "target" else "client"
    assert (record["reason"], record[f"bytes_from_{side}"]) == (f"{side}_reset", len(received)), record


@pytest.mark.parametrize("leg", LEGS)
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_a_damaged_record_ends_the_connection_with_bad_record_mac(env, pki, leg, version):
    pair = Pair(env, pki, leg, version)
    good = pair.tls.protect(b"before it")
    pair.tls.socket.sendall(good + tls_raw.damaged(pair.tls.protect(b"damaged")))
    pair.assert_breaks("tls_error", b"before it", "forged or damaged")
    assert pair.tls.read_until_end() == (b"", "bad_record_mac")


@pytest.mark.parametrize("leg", LEGS)
def test_garbage_after_the_handshake_ends_the_connection_with_an_alert(env, pki, leg):
    pair = Pair(env, pki, leg)
    pair.tls.socket.sendall(b"GET / HTTP/1.0\r\n\r\n")
    pair.assert_breaks("tls_error")
    assert pair.tls.read_until_end()[1] in ("unexpected_message", "unexpected_record")


def test_both_legs_pass_the_end_on(env, pki):
    pair = Pair(env, pki, "both")
    pair.tls.write(b"question")
    pair.tls.close_notify()
    assert pair.other.read_until_end() == (b"question", "close_notify")
    pair.other.write(b"answer")
    pair.other.end()
    assert pair.tls.read_until_end() == (b"answer", "close_notify")
    assert pair.record()["reason"] == "completed"


def test_a_client_that_closes_right_after_its_close_notify_has_sent_all(env, pki):
    """The proxy's own close_notify may find nobody there any more; the client's stream was whole all the same."""
    pair = Pair(env, pki, "client")
    pair.assert_passes()
    pair.other.sendall(b"bye")
    pair.other.shutdown(1)
    assert pair.tls.read_exactly(3) == b"bye"
    pair.tls.socket.sendall(pair.tls.close_notify_record())
    pair.tls.socket.close()
    assert sockets.receive_to_end(pair.other) == b""
    assert pair.record()["reason"] in ("completed", "client_reset")


@pytest.mark.parametrize("leg", LEGS)
def test_what_the_proxy_cuts_has_no_close_notify(env, pki, leg):
    pair = Pair(env, pki, leg, connection_lifetime="700ms")
    pair.assert_passes()
    assert pair.tls.read_until_end() == (b"", "cut")
    assert pair.record()["reason"] == "lifetime"


# KeyUpdates

# s_client's and s_server's commands: one asks the peer for a KeyUpdate of its own, the other does not.
REQUESTS = pytest.mark.parametrize("command", [b"K", b"k"], ids=["requested", "not requested"])


@REQUESTS
def test_key_updates_by_an_openssl_client_interrupt_nothing(env, pki, command):
    address = env.address()
    bitflow = env.start(proxy(address, env.echo().address, listener=tls_listener(pki.server)))
    with tls_peers.openssl_client(address, pki.trusted, version="TLSv1.3") as client:
        for number in range(5):
            client.echoes(b"before %d" % number)
            said = len(client.said)
            client.say(command + b"\n")
            client.wait_said("KEYUPDATE", after=said)
            client.echoes(b"after %d" % number)
        assert client.end_input() == 0, client.text()
    assert bitflow.wait_records(1)[0]["reason"] == "completed"


@REQUESTS
def test_key_updates_by_an_openssl_server_interrupt_nothing(env, pki, command):
    server_address, address = env.address(), env.address()
    with tls_peers.openssl_server_by_hand(server_address, pki.server, version="TLSv1.3") as server:
        env.start(proxy(address, tls_target(server_address, pki.root.certificate)))
        client = env.connect(address)
        for number in range(5):
            client.sendall(b"up %d\n" % number)
            server.wait_said(b"up %d" % number)
            server.say(command + b"\n")
            wait_for(lambda: unread(server) == 0, "it has read the command by itself")
            server.say(b"down %d\n" % number)
            assert sockets.receive_exactly(client, 7) == b"down %d\n" % number
        client.close()


def unread(conversation):
    """Bytes of its input that a program has not read yet."""
    value = array.array("i", [0])
    fcntl.ioctl(conversation.process.stdin.fileno(), termios.FIONREAD, value)
    return value[0]


def test_key_updates_by_a_gnutls_client_interrupt_nothing(env, pki):
    address = env.address()
    env.start(proxy(address, env.echo().address, listener=tls_listener(pki.server)))
    more = ["--inline-commands"]
    with tls_peers.gnutls_client(address, pki.trusted, version="TLSv1.3", more=more) as client:
        client.wait_said("Handshake was completed")
        for number in range(3):
            client.echoes(b"before %d" % number)
            client.say(b"^rekey^\n")
            client.echoes(b"after %d" % number)
        assert client.end_input() == 0, client.text()


# Much data, both ways at once


PAYLOAD = memoryview(random.Random(7).randbytes(1 << 20))
CHUNK = 1 << 16


def exchange(sock, is_tls, size):
    """Writes `size` bytes and reads as many, whichever is possible, on one thread: an SSL object cannot serve two.
    Returns the digests of what was (sent, received)."""
    sent, received, out, left = hashlib.sha256(), hashlib.sha256(), 0, size
    sock.setblocking(False)
    while out < size or left:
        moved = False
        if out < size:
            start = out % (len(PAYLOAD) - CHUNK)
            part = PAYLOAD[start : start + min(CHUNK, size - out)]
            with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                count = sock.send(part)
                sent.update(part[:count])
                out, moved = out + count, True
        if left:
            with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                part = sock.recv(min(1 << 17, left))
                assert part, f"the end, with {left} bytes to come"
                received.update(part)
                left, moved = left - len(part), True
        if not moved:
            ready = select.select([sock], [sock] if out < size else [], [], 60)
            assert ready[0] or ready[1], f"stuck: {out} bytes sent, {left} to come"
    sock.settimeout(60)
    (sock.unwrap() if is_tls else sock).close()
    return sent.hexdigest(), received.hexdigest()


def send_small_records(end):
    """Until the other side takes no more and is gone."""
    with contextlib.suppress(OSError):
        while True:
            end.socket.sendall(b"".join(end.protect(bytes(100)) for _ in range(500)))


@pytest.mark.parametrize("reader, version", [("client", "TLSv1.3"), ("target", "TLSv1.2")])
def test_whole_records_of_a_write_that_is_cut_are_counted(env, pki, reader, version):
    """The lifetime ends in the middle of a write of many records, of which the reader gets some."""
    pair = Pair(env, pki, "both", version, connection_lifetime=f"{int(800 * pace())}ms")
    taking, giving = (pair.tls, pair.other) if reader == "client" else (pair.other, pair.tls)
    sending = threading.Thread(target=send_small_records, args=(giving,), daemon=True)
    sending.start()
    record = pair.record()
    assert record["reason"] == "lifetime"
    data, how = taking.read_until_end()
    assert how == "cut"
    assert record[f"bytes_from_{'target' if reader == 'client' else 'client'}"] == len(data)
    sending.join(10)


@pytest.mark.parametrize("leg", ["client", "target", "both"])
def test_much_data_passes_both_ways_at_once(env, pki, leg):
    """500 MB, half of it each way, with OpenSSL (Python's ssl) at the far ends."""
    size = scale(250 * 1024 * 1024, least=1 << 20)
    listener, address = env.listen(), env.address()
    is_client, is_target = leg != "target", leg != "client"
    target = tls_target(listener.address, pki.root.certificate) if is_target else listener.address
    bitflow = env.start(proxy(address, target, listener=tls_listener(pki.server) if is_client else None))
    results = {}

    def run(side, sock):
        is_tls = is_client if side == "client" else is_target
        if is_tls and side == "client":
            sock = tls_raw.client_context().wrap_socket(sock, server_hostname="server.test")
        elif is_tls:
            sock = tls_raw.server_context(pki.server).wrap_socket(sock, server_side=True)
        results[side] = exchange(sock, is_tls, size)

    client = env.connect(address)
    client.settimeout(120)
    runner = threading.Thread(target=run, args=("client", client), daemon=True)
    runner.start()
    accepted = listener.accept()
    accepted.settimeout(120)
    run("target", accepted)
    runner.join(120)
    assert results["client"][0] == results["target"][1] and results["target"][0] == results["client"][1]
    record = bitflow.wait_records(1, timeout=30)[0]
    assert (record["bytes_from_client"], record["bytes_from_target"]) == (size, size)
