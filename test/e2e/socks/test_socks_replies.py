"""SOCKS5 servers whose answers come in odd pieces, with the target's first words in the same segment; long and strange
credentials; every way of failing, with another target to go to."""

import socket
import threading
import urllib.parse

import pytest

import configs
import hosts
import peers
import programs
import proxy_headers
import listener_kinds
import sockets
import socks_peers
import tls_cases
import tls_peers
import tls_raw
from environment import proxy
from listener_kinds import dribble, each_way_to_send, said, through
from socks_peers import YES, answering
from waiting import Stopwatch, scale

BANNER = b"220 mail.example ready\r\n"
REPLIES = {
    "IPv4": YES,
    "IPv6": b"\x05\x00\x00\x04" + bytes(range(16)) + b"\x04\x38",
    "a name": b"\x05\x00\x00\x03\x0bbound.local\x04\x38",
    "the longest name": b"\x05\x00\x00\x03\xff" + b"n" * 255 + b"\x04\x38",
    "an empty name": b"\x05\x00\x00\x03\x00\x04\x38",
    "reserved": b"\x05\x00\xff" + YES[3:],
}


def dialogue(reply, send, credentials=True):
    """A handler that goes through the dialogue, with its answers sent by `send`, then echoes."""

    def handler(connection):
        socks_peers.read_greeting(connection)
        if credentials:
            send(connection, b"\x05\x02")
            socks_peers.read_credentials(connection)
            send(connection, b"\x01\x00")
        else:
            send(connection, b"\x05\x00")
        socks_peers.read_request(connection)
        send(connection, reply)
        peers.echo(connection)

    return handler


def greeted(env, address):
    """A client to whom the target has spoken first, and with whom it then exchanged a message."""
    client = env.connect(address)
    assert sockets.receive_exactly(client, len(BANNER)) == BANNER
    sockets.round_trip(client)
    return client


@each_way_to_send
@pytest.mark.parametrize("kind", REPLIES)
def test_a_banner_behind_the_reply_gets_through_to_the_byte(env, kind, send):
    """However long the reply is, and however it comes."""
    server = env.serve(dialogue(REPLIES[kind] + BANNER, send))
    address = env.address()
    bitflow = env.start(proxy(address, through(f"socks5://u:p@{server.address}", "192.0.2.1:25")))
    client = greeted(env, address)
    client.shutdown(socket.SHUT_WR)
    assert sockets.receive_to_end(client) == b""
    record = bitflow.wait_records(1)[0]
    assert record["reason"] == "completed"
    assert record["bytes_from_target"] == len(BANNER) + 14


def test_reply_and_banner_get_through_wherever_they_are_cut(env):
    """They come in two segments."""
    whole = REPLIES["a name"] + BANNER
    cuts = iter(range(1, len(whole)))
    lock = threading.Lock()

    def send(connection, data):
        if data != whole:
            connection.sendall(data)
            return
        with lock:
            cut = next(cuts)
        connection.sendall(data[:cut])
        sockets.wait_acknowledged(connection)
        connection.sendall(data[cut:])

    server = env.serve(dialogue(whole, send, credentials=False))
    address = env.address()
    bitflow = env.start(proxy(address, through(server.address, "192.0.2.1:25")))
    clients = [env.connect(address) for _ in range(1, len(whole))]
    for client in clients:
        client.sendall(b"HELO\r\n")
        client.shutdown(socket.SHUT_WR)
        assert sockets.receive_to_end(client) == BANNER + b"HELO\r\n"
    assert {record["reason"] for record in bitflow.wait_records(len(clients))} == {"completed"}
    bitflow.assert_quiet()


@pytest.mark.parametrize("end", ["end", "reset"])
def test_a_large_banner_gets_through_before_an_end_or_a_reset(env, end):
    """A megabyte right behind the reply, then the target is gone."""
    banner = bytes(range(256)) * 4096
    read = threading.Event()

    def handler(connection):
        socks_peers.read_greeting(connection)
        connection.sendall(b"\x05\x00")
        socks_peers.read_request(connection)
        connection.sendall(YES + banner)
        if end == "reset":
            read.wait(20)
            sockets.reset(connection)

    server = env.serve(handler)
    address = env.address()
    bitflow = env.start(proxy(address, through(server.address, "192.0.2.1:25")))
    client = env.connect(address)
    assert sockets.receive_exactly(client, len(banner)) == banner
    read.set()
    assert sockets.receive_until_broken(client) == (b"", "eof" if end == "end" else "reset")
    client.close()
    record = bitflow.wait_records(1)[0]
    expected = ("completed", "target") if end == "end" else ("target_reset", "target")
    assert (record["reason"], record["ended_by"], record["bytes_from_target"]) == (*expected, len(banner))


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_a_bytewise_dialogue_over_a_unix_socket_succeeds(env, kind):
    server = env.serve(
        dialogue(REPLIES["IPv6"] + BANNER, dribble),
        env.unix("socks.sock") if kind == "path" else env.abstract("socks"),
    )
    address = env.address()
    url = "socks5+unix://u:p@" + server.address[len("unix://") :]
    bitflow = env.start(proxy(address, through(url, "192.0.2.1:25")))
    greeted(env, address).close()
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["target"]["via"]) == ("completed", server.address)
    assert record["target_tcp"] is None


def test_answers_that_come_before_their_questions_are_taken(env):
    """All answers and the banner in one segment: each is taken for what it is."""

    def handler(connection):
        connection.sendall(b"\x05\x00" + YES + BANNER)
        socks_peers.read_greeting(connection)
        socks_peers.read_request(connection)
        peers.echo(connection)

    server = env.serve(handler)
    address = env.address()
    bitflow = env.start(proxy(address, through(server.address, "192.0.2.1:25")))
    greeted(env, address).close()
    assert bitflow.wait_records(1)[0]["reason"] == "completed"


@proxy_headers.each_version
def test_a_banner_does_not_hide_the_header(env, version):
    """The target speaks first, in the reply's segment; the header and the client's words get to it."""
    told = []

    def send(connection, data):
        connection.sendall(data)
        if data[:2] == b"\x05\x00":
            receive = proxy_headers.receive_v1 if version == 1 else proxy_headers.receive_v2
            told.append(receive(connection))

    server = env.serve(dialogue(YES + BANNER, send))
    address = env.address()
    env.start(
        proxy(
            address,
            through(f"socks5://u:p@{server.address}", "192.0.2.1:25"),
            enable_proxy_header=True,
            proxy_header_version=version,
        )
    )
    client = greeted(env, address)
    host, port = client.getsockname()
    ends = host, host, port, client.getpeername()[1]
    if version == 1:
        assert told == [proxy_headers.v1(*ends)]
    else:
        assert told[0][1:4] == (0x21, *proxy_headers.addresses(*ends))


def test_tls_behind_a_bytewise_reply_is_understood_bytewise(env, pki):
    """Dialogue, handshake and data of the target all in one-byte segments."""
    context = tls_raw.server_context(pki.server)

    def handler(connection):
        socks_peers.read_greeting(connection)
        dribble(connection, b"\x05\x00")
        assert socks_peers.read_request(connection) == (3, b"server.test", 443)
        dribble(connection, REPLIES["a name"])
        end = tls_raw.Tls(connection, context, server_side=True)
        end.send = end.send_bytewise
        end.handshake().write(BANNER)
        end.write(end.read_exactly(5))
        end.end()
        sockets.receive_until_broken(connection)

    server = env.serve(handler)
    address = env.address()
    target = tls_cases.tls_target("server.test:443", pki.trusted, name=None)
    bitflow = env.start(proxy(address, {**target, "proxy": server.address}), plan=hosts.no_names(env))
    client = env.connect(address)
    assert sockets.receive_exactly(client, len(BANNER)) == BANNER
    client.sendall(b"hello")
    assert sockets.receive_to_end(client) == b"hello"
    client.close()
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["target_tls"]["server_name"]) == ("completed", "server.test")


def test_a_banner_in_place_of_tls_ends_as_target_handshake_failed(env):
    server = env.serve(dialogue(YES + BANNER, socket.socket.sendall))
    address = env.address()
    target = through(f"socks5://u:p@{server.address}", "192.0.2.1:25", tls_context={"verify_mode": "none"})
    bitflow = env.start(proxy(address, target))
    sockets.was_rejected(env.connect(address))
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["step"]) == ("target_handshake_failed", "tls_handshake")


# Credentials

EVERY_BYTE = bytes(range(1, 256))
CREDENTIALS = {
    "every byte": (EVERY_BYTE, EVERY_BYTE[::-1]),
    "one byte each": (b"\xff", b":"),
    "what URLs are made of": (b"a:b@c/d?e#f%41", b"://@@%%25[]?#&=+ \"'\\"),
    "UTF-8": ("žluťoučký".encode(), "пароль🔑".encode()),
    "an empty password": (b"token", b""),
}


@pytest.mark.parametrize("name", CREDENTIALS)
def test_credentials_get_to_the_server_to_the_byte(env, name):
    user, password = CREDENTIALS[name]
    written = ":".join(urllib.parse.quote_from_bytes(part, safe="") for part in (user, password))
    seen = []

    def handler(connection):
        socks_peers.read_greeting(connection)
        dribble(connection, b"\x05\x02")
        seen.append(socks_peers.read_credentials(connection))
        dribble(connection, b"\x01\x00")
        socks_peers.read_request(connection)
        connection.sendall(YES)
        peers.echo(connection)

    server = env.serve(handler)
    address = env.address()
    bitflow = env.start(
        proxy(address, through(f"socks5://{written}@{server.address}", "192.0.2.1:80")), level="debug"
    )
    client = env.connect(address)
    sockets.round_trip(client)
    client.close()
    bitflow.wait_records(1)
    assert seen == [(user, password)]
    logs = bitflow.stderr() + env.records_path.read_text()
    assert written not in logs
    if len(password) > 1:
        assert password.decode(errors="replace") not in logs and written.split(":")[1] not in logs


def test_a_real_server_accepts_the_longest_credentials(env):
    user, password = "u" * 250 + "@:/%?", "p@:/%? " + "x" * 248
    server = env.enter(socks_peers.Microsocks(user, password))
    target = env.echo()
    written = ":".join(urllib.parse.quote(part, safe="") for part in (user, password))
    wrong = written[:-1] + "y"
    address, other = env.address(), env.address()
    bitflow = env.start(
        proxy(address, through(f"socks5://{written}@{server.address}", target.address)),
        proxy(other, through(f"socks5://{wrong}@{server.address}", target.address), name="wrong"),
    )
    client = env.connect(address)
    sockets.round_trip(client)
    client.close()
    sockets.was_rejected(env.connect(other))
    records = listener_kinds.records_by_proxy(bitflow, 2)
    assert records["front"]["reason"] == "completed"
    assert records["wrong"]["reason"] == "socks_auth_failed"
    assert "xxx" not in bitflow.stderr() + env.records_path.read_text()


def test_a_user_alone_has_an_empty_password_as_with_curl(env):
    seen = []

    def handler(connection):
        socks_peers.read_greeting(connection)
        connection.sendall(b"\x05\x02")
        seen.append(socks_peers.read_credentials(connection))
        connection.sendall(b"\x01\x00")
        socks_peers.read_request(connection)
        connection.sendall(YES)
        tls_peers.echo_or_page(connection)

    server, address = env.serve(handler), env.address()
    env.start(proxy(address, through(f"socks5://to%3Aken@{server.address}", "192.0.2.1:80")))
    client = env.connect(address)
    sockets.round_trip(client)
    client.close()
    by_curl = ["curl", "--silent", "--fail", "--noproxy", "", "--proxy", f"socks5h://to%3Aken@{server.address}"]
    assert programs.run([*by_curl, "http://192.0.2.1/"]).stdout == "hello bitflow\n"
    assert seen == [(b"to:ken", b"")] * 2


@pytest.mark.parametrize("part, count", [("user", 0), ("user", 256), ("password", 256)],
                         ids=["an empty user", "a user of 256 bytes", "a password of 256 bytes"])
def test_a_user_that_is_empty_and_credentials_that_are_too_long_are_configuration_errors(env, part, count):
    long = "%41" * count
    written = f"{long}:secretly" if part == "user" else f"somebody:{long}"
    url = f'proxy: "socks5://{written}@127.0.0.1:1080"'
    problems = configs.rejects(
        env, configs.with_line("target", url), path="server.proxies[0].targets[0].proxy", count=1
    )
    assert not any(word in problems[0][0] for word in ("secretly", "somebody", "%41", "AAAA"))


# Failing, with another target to go to


def no_tls(then):
    """A target that answers to a ClientHello with this, and closes."""

    def handler(connection):
        socks_peers.read_greeting(connection)
        connection.sendall(b"\x05\x00")
        socks_peers.read_request(connection)
        connection.sendall(YES)
        connection.recv(65536)
        connection.sendall(then)

    return handler


# (the server, or None where nobody listens; the words of the log)
FAILURES = {
    "refused": (None, "Connection refused"),
    "closes at once": (answering(None), "closed the connection instead"),
    "garbage": (answering(b"\x04\x00"), "does not speak SOCKS5"),
    "a method that was not offered": (answering(b"\x05\x03"), "method 0x03"),
    "no method": (answering(b"\x05\xff"), "neither a user and a password"),
    "wrong password": (answering(b"\x05\x02", b"\x01\x01"), "rejected the user"),
    "wrong password, by another code": (answering(b"\x05\x02", b"\x01\xff"), "rejected the user"),
    "closes after the password": (answering(b"\x05\x02", None), "closed the connection instead"),
    "closes before its reply": (answering(b"\x05\x02", b"\x01\x00", None), "closed the connection instead"),
    "half a method": (answering(b"\x05"), "did not answer in time"),
    "half a status": (answering(b"\x05\x02", b"\x01"), "did not answer in time"),
    "half a reply": (answering(b"\x05\x00", YES[:9]), "did not answer in time"),
    "half a name": (answering(b"\x05\x00", REPLIES["the longest name"][:-1]), "did not answer in time"),
    "a reply of SOCKS4": (answering(b"\x05\x00", b"\x04" + YES[1:]), "something else"),
    "an unknown address": (answering(b"\x05\x00", b"\x05\x00\x00\x02" + YES[4:]), "an unknown type"),
    "host unreachable": (answering(b"\x05\x00", b"\x05\x04" + YES[2:]), "the host is unreachable"),
    "a refusal with a name": (
        answering(b"\x05\x00", b"\x05\x05" + REPLIES["a name"][2:]),
        "answered: connection refused",
    ),
    "no TLS behind it": (answering(b"\x05\x00", YES + BANNER), "not TLS"),
    "TLS behind it is cut": (no_tls(b"\x16\x03\x03\x00"), "closed the connection during the TLS"),
}
LAST = ("socks_refused", "a refusal with a name")


def failing_target(env, script):
    """Behind it, were there anything, it would be TLS."""
    server = env.refusing() if script is None else env.serve(script).address
    return through(
        f"socks5://u:s3cret@{server}",
        "192.0.2.1:443",
        proxy_timeout="700ms",
        tls_context={"verify_mode": "none", "handshake_timeout": "5s"},
    )


@pytest.mark.parametrize("policy", ["failover", "round-robin", "least-connections"])
def test_each_failing_server_is_logged_and_a_direct_target_serves(env, policy):
    """It costs the client nothing but time."""
    good = env.serve(peers.greeter("good"))
    addresses = {name: env.address() for name in FAILURES}
    bitflow = env.start(
        *[
            proxy(
                addresses[name],
                failing_target(env, script),
                good.address,
                name=name,
                connection_load_balancer=policy,
            )
            for name, (script, _) in FAILURES.items()
        ]
    )
    watch = Stopwatch()
    clients = {name: env.connect(address) for name, address in addresses.items()}
    for client in clients.values():
        client.sendall(b"early")
    for client in clients.values():
        assert sockets.receive_exactly(client, 10) == b"good\nearly"
    watch.between(0.6, 3, "proxy_timeout, all at once")
    for client in clients.values():
        client.close()
    records = listener_kinds.records_by_proxy(bitflow, len(FAILURES))
    lines = {line["proxy"]: line for line in said(bitflow, "cannot connect to the target")}
    assert set(lines) == set(FAILURES)
    for name, (_, words) in FAILURES.items():
        record, line = records[name], lines[name]
        assert (record["reason"], record["attempts"]) == ("completed", 2), record
        assert record["target"] == {"name": "target2", "address": good.address, "via": None}, record
        assert (record["target_tls"], record["error"]) == (None, None), record
        assert (line["level"], line["target"], line["attempt"]) == ("warn", "target1", "1"), line
        assert words in line["error"], line
    assert "s3cret" not in bitflow.stderr() + env.records_path.read_text()
    bitflow.assert_quiet()


def test_the_last_failure_is_the_reason_when_all_targets_fail(env):
    """Each target fails in a way of its own."""
    names = [name for name in FAILURES if "in time" not in FAILURES[name][1]]
    names.sort(key=lambda name: name == LAST[1])
    address = env.address()
    bitflow = env.start(
        proxy(
            address,
            *[failing_target(env, FAILURES[name][0]) for name in names],
            connection_load_balancer="failover",
        )
    )
    sockets.was_rejected(env.connect(address), timeout=20)
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["attempts"]) == (LAST[0], len(names)), record
    assert record["target"]["name"] == f"target{len(names)}"
    assert record["error"].startswith(f"all {len(names)} targets failed, the last: "), record
    lines = said(bitflow, "cannot connect to the target")
    assert [line["target"] for line in lines] == [f"target{at}" for at in range(1, len(names) + 1)]
    for name, line in zip(names, lines):
        assert FAILURES[name][1] in line["error"], (name, line)
    bitflow.assert_quiet()


def test_a_bad_certificate_behind_socks_leads_to_the_next_target(env, pki):
    """Through a real SOCKS5 server to a stranger's certificate, then to a good one."""
    server = env.enter(socks_peers.Microsocks())
    bad = env.serve(tls_cases.tls_echo(tls_raw.server_context(pki.bad_servers["stranger"])))
    good = env.serve(tls_cases.tls_echo(tls_raw.server_context(pki.server)))
    targets = [
        {**tls_cases.tls_target(each.address, pki.trusted), "proxy": server.address} for each in (bad, good)
    ]
    address = env.address()
    bitflow = env.start(proxy(address, *targets, connection_load_balancer="failover"))
    client = env.connect(address)
    sockets.round_trip(client)
    client.close()
    record = bitflow.wait_records(1)[0]
    assert (record["target"]["name"], record["attempts"]) == ("target2", 2)
    assert record["target_tls"]["version"] == "TLSv1.3"
    (line,) = said(bitflow, "cannot connect to the target")
    assert (line["target"], "stranger server" in line["error"]) == ("target1", True), line


def test_rounds_of_failures_leave_nothing(env):
    """Neither descriptors nor threads, when servers fail in all ways at once, again and again."""
    names = [name for name in FAILURES if "in time" not in FAILURES[name][1]]
    address = env.address()
    bitflow = env.start(
        proxy(
            address,
            *[failing_target(env, FAILURES[name][0]) for name in names],
            connection_load_balancer="round-robin",
        ),
        level="error",
        wait=False,
    )
    bitflow.wait_bound(int(address.rpartition(":")[2]))
    held = []
    for _ in range(3):
        clients = [env.connect(address) for _ in range(scale(30, 5))]
        for client in clients:
            sockets.was_rejected(client, timeout=30)
        bitflow.assert_quiet()
        held.append((len(bitflow.thread_names()), bitflow.descriptors()))
    assert held[2][0] <= held[0][0] + 2, f"threads pile up: {held}"
    assert held[2][1] == held[0][1], f"descriptors pile up: {held}"
    records = bitflow.wait_records(3 * scale(30, 5))
    assert {record["attempts"] for record in records} == {len(names)}
