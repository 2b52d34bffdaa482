"""Targets through SOCKS5 servers: real ones, with credentials, to names, IPv4 and IPv6, with TLS and the
PROXY protocol on top; servers that refuse, hang, speak nonsense or close half way."""

import socket
import threading

import pytest

import hosts
import peers
import proxy_headers
import socks_peers
import sockets
import tls_cases
import tls_raw
from environment import proxy
from listener_kinds import through
from programs import Program
from sockets import join
from socks_peers import YES, answering
from waiting import Stopwatch, holds_for, wait_for

# With what URLs have to escape, and what they need not.
USER, PASSWORD, WRITTEN = "us:er", "p@ss %/word", "us%3Aer:p%40ss%20%25%2Fword"


@pytest.fixture(scope="module")
def microsocks():
    with socks_peers.Microsocks() as server:
        yield server


@pytest.fixture(scope="module")
def guarded_microsocks():
    with socks_peers.Microsocks(USER, PASSWORD) as server:
        yield server


@pytest.fixture(scope="module")
def dante():
    names = [("name.test", "127.0.0.1"), ("name6.test", "::1")]
    with socks_peers.Dante("proxyuser", "s3cret:p@ss", names) as server:
        yield server


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
@pytest.mark.parametrize("scheme", ["", "socks5://", "socks5h://"], ids=["no scheme", "socks5", "socks5h"])
def test_microsocks_leads_to_addresses_and_names_by_either_scheme(env, microsocks, host, scheme):
    # microsocks dials a name's first address only, which for localhost may be ::1.
    target = env.echo(join(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0], 0))
    port = target.address.rpartition(":")[2]
    address = env.address()
    bitflow = env.start(proxy(address, through(scheme + microsocks.address, join(host, port))))
    client = env.connect(address)
    sockets.round_trip(client)
    client.close()
    record = bitflow.wait_records(1)[0]
    assert record["reason"] == "completed"
    assert record["target"]["via"] == microsocks.address
    assert record["target"]["address"] == join(host, port)


def test_credentials_get_to_microsocks_and_into_no_log(env, guarded_microsocks):
    target = env.echo()
    address = env.address()
    server = f"socks5://{WRITTEN}@{guarded_microsocks.address}"
    bitflow = env.start(proxy(address, through(server, target.address)), level="debug")
    client = env.connect(address)
    sockets.round_trip(client)
    client.close()
    bitflow.wait_records(1)
    for secret in ("us:er", "p@ss", "us%3Aer", "p%40ss"):
        assert secret not in bitflow.stderr()
        assert secret not in env.records_path.read_text()


@pytest.mark.parametrize(
    "credentials",
    ["", "us%3Aer:wrong@", "other:p%40ss%20%25%2Fword@"],
    ids=["no credentials", "another password", "another user"],
)
def test_a_rejection_by_microsocks_ends_as_socks_auth_failed(env, guarded_microsocks, credentials):
    target = env.listen()
    address = env.address()
    bitflow = env.start(
        proxy(address, through(f"socks5://{credentials}{guarded_microsocks.address}", target.address))
    )
    sockets.was_rejected(env.connect(address))
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["ended_by"]) == ("socks_auth_failed", "target")
    assert ("demands" if credentials == "" else "rejected") in record["error"], record["error"]
    assert "wrong" not in env.records_path.read_text() + bitflow.stderr()
    assert not target.has_pending()


@pytest.mark.parametrize("name", ["127.0.0.1", "::1", "name.test", "name6.test"])
def test_dante_leads_to_addresses_and_to_names_that_only_it_knows(env, dante, name):
    """The names are known to the server alone."""
    host = {"name.test": "127.0.0.1", "name6.test": "::1"}.get(name, name)
    target = env.echo(join(host, 0))
    port = target.address.rpartition(":")[2]
    address = env.address()
    bitflow = env.start(
        proxy(
            address,
            through(f"socks5://proxyuser:s3cret:p@ss@{dante.address}", join(name, port)),
        ),
        plan=hosts.no_names(env),
    )
    client = env.connect(address)
    sockets.round_trip(client)
    client.close()
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["resolve_ms"]) == ("completed", 0)
    assert "s3cret" not in bitflow.stderr() + env.records_path.read_text()


def test_each_refusal_by_dante_is_told_in_words(env, dante):
    """Its rules, a port where nobody listens, a wrong password, no credentials."""
    server = f"socks5://proxyuser:s3cret:p@ss@{dante.address}"
    wrong = f"socks5://proxyuser:no@{dante.address}"
    cases = [
        (through(server, "127.0.0.13:80"), "socks_refused", "not allowed by its rules"),
        (through(server, env.refusing()), "socks_refused", "connection refused"),
        (through(wrong, "127.0.0.1:80"), "socks_auth_failed", "rejected the user"),
        (through(dante.address, "127.0.0.1:80"), "socks_auth_failed", "demands"),
    ]
    for number, (target, reason, words) in enumerate(cases):
        address = env.address()
        bitflow = env.start(proxy(address, target, name=f"p{number}"), name=f"{number}.yaml")
        sockets.was_rejected(env.connect(address))
        record = bitflow.wait_records(number + 1)[number]
        assert record["proxy"] == f"p{number}"
        assert record["reason"] == reason and words in record["error"], record


def test_tls_to_the_target_goes_through_the_socks_server(env, pki, microsocks):
    outcomes = []
    target = env.serve(tls_cases.tls_echo(tls_raw.server_context(pki.server), outcomes))
    address = env.address()
    entry = tls_cases.tls_target(target.address, pki.trusted)
    bitflow = env.start(proxy(address, {**entry, "proxy": f"socks5://{microsocks.address}"}))
    client = env.connect(address)
    sockets.round_trip(client)
    client.close()
    assert bitflow.wait_records(1)[0]["target_tls"]["version"] == "TLSv1.3"


@proxy_headers.each_version
def test_the_header_comes_after_the_servers_reply(env, microsocks, version):
    """The PROXY protocol's header is for the target, not for the SOCKS5 server."""
    receiver = env.enter(proxy_headers.HaproxyReceiver())
    address = env.address()
    env.start(
        proxy(
            address,
            through(microsocks.address, receiver.address),
            enable_proxy_header=True,
            proxy_header_version=version,
        )
    )
    client = env.connect(address, source="127.0.0.8")
    answer = proxy_headers.ask(client)
    assert (answer["src"], answer["sport"]) == ("127.0.0.8", str(client.getsockname()[1]))


def test_a_socks_server_is_reached_over_a_unix_socket(env, guarded_microsocks):
    """socat hands the Unix socket's connections to microsocks."""
    path = env.directory / "socks.sock"
    relay = env.enter(Program(["socat", f"UNIX-LISTEN:{path},fork", f"TCP:{guarded_microsocks.address}"]))
    relay.wait_answering(f"unix://{path}")
    target = env.echo()
    address = env.address()
    bitflow = env.start(proxy(address, through(f"socks5+unix://{WRITTEN}@{path}", target.address)))
    client = env.connect(address)
    sockets.round_trip(client)
    client.close()
    assert bitflow.wait_records(1)[0]["target"]["via"] == f"unix://{path}"


def test_each_kind_of_target_is_asked_for_as_what_it_is(env):
    """By a scripted server that compares every byte; what the target says in the segment of the reply is not lost."""
    seen = []

    def serve(connection):
        assert socks_peers.read_greeting(connection) == b"\x00\x02"
        connection.sendall(b"\x05\x02")
        assert socks_peers.read_credentials(connection) == (b"u", b"p")
        connection.sendall(b"\x01\x00")
        seen.append(socks_peers.read_request(connection))
        connection.sendall(YES + b"220 ready\r\n")
        peers.echo(connection)

    server = env.serve(serve)
    expected = []
    for number, (target, host) in enumerate(
        [
            ("192.0.2.1:80", (1, bytes([192, 0, 2, 1]), 80)),
            ("[2001:db8::1]:443", (4, socket.inet_pton(socket.AF_INET6, "2001:db8::1"), 443)),
            ("a.name.example:65535", (3, b"a.name.example", 65535)),
        ]
    ):
        address = env.address()
        env.start(
            proxy(address, through(f"socks5://u:p@{server.address}", target)),
            name=f"{number}.yaml",
            plan=hosts.no_names(env),
        )
        client = env.connect(address)
        assert sockets.receive_exactly(client, 11) == b"220 ready\r\n"
        sockets.round_trip(client)
        client.close()
        expected.append(host)
    assert seen == expected


REPLIES = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "the network is unreachable",
    4: "the host is unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "the command is not supported",
    8: "the address type is not supported",
    9: "an unknown failure (reply code 0x09)",
    91: "an unknown failure (reply code 0x5b)",
    255: "an unknown failure (reply code 0xff)",
}


def cut_within_its_reply(connection):
    socks_peers.read_greeting(connection)
    connection.sendall(b"\x05\x00")
    socks_peers.read_request(connection)
    connection.sendall(YES[:7])


# (the server, the reason, words of the error)
FAILURES = {
    **{
        f"reply {code}": (answering(b"\x05\x00", bytes([5, code]) + YES[2:]), "socks_refused", words)
        for code, words in REPLIES.items()
    },
    "a short reply": (answering(b"\x05\x00", b"\x05\x05"), "socks_refused", "connection refused"),
    "no method": (answering(b"\x05\xff"), "socks_auth_failed", "demands authentication"),
    "GSSAPI": (answering(b"\x05\x01"), "socks_auth_failed", "GSSAPI"),
    "HTTP": (answering(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "socks_failed", "speaks HTTP"),
    "SOCKS4": (answering(b"\x00\x5b\0\0\0\0\0\0"), "socks_failed", "speaks SOCKS4"),
    "garbage": (answering(bytes(range(128, 228))), "socks_failed", "does not speak SOCKS5"),
    "a garbled reply": (answering(b"\x05\x00", bytes(50)), "socks_failed", "something else"),
    "an unknown address": (answering(b"\x05\x00", b"\x05\x00\x00\x07abcdef"), "socks_failed", "an unknown type"),
    "closes at once": (answering(None), "socks_failed", "closed the connection"),
    "closes half way": (answering(b"\x05\x00", None), "socks_failed", "closed the connection"),
    "closes within its reply": (cut_within_its_reply, "socks_failed", "closed the connection"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_server_that_fails_ends_the_attempt_at_once_and_in_words(env, name):
    script, reason, words = FAILURES[name]
    server = env.serve(script)
    address = env.address()
    bitflow = env.start(proxy(address, through(server.address, "192.0.2.1:80", connect_timeout="20s")))
    watch = Stopwatch()
    sockets.was_rejected(env.connect(address))
    watch.between(0, 2, "the failure")
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["ended_by"]) == (reason, "target")
    assert words in record["error"] and server.address in record["error"], record["error"]
    bitflow.assert_quiet()


# What a server that hangs has answered until then.
HANGS = {
    "at the greeting": [],
    "at the credentials": [b"\x05\x02"],
    "at the request": [b"\x05\x02", b"\x01\x00"],
    "within its reply": [b"\x05\x00", YES[:6]],
}
each_hang = pytest.mark.parametrize("answers", HANGS.values(), ids=HANGS)


@each_hang
def test_connect_timeout_bounds_the_whole_dialogue(env, answers):
    server = env.serve(answering(*answers))
    address = env.address()
    bitflow = env.start(
        proxy(address, through(f"socks5://u:p@{server.address}", "192.0.2.1:80", connect_timeout="700ms"))
    )
    watch = Stopwatch()
    sockets.was_rejected(env.connect(address))
    watch.between(0.6, 2, "connect_timeout")
    record = bitflow.wait_records(1)[0]
    assert record["reason"] == "connect_timeout" and "SOCKS5" in record["error"]


@each_hang
def test_proxy_timeout_bounds_the_dialogue_and_the_next_target_is_tried(env, answers):
    """Without any connect_timeout."""
    server = env.serve(answering(*answers))
    good = env.serve(peers.greeter("good"))
    hanging = through(f"socks5://u:p@{server.address}", "192.0.2.1:80", proxy_timeout="700ms")
    address, alone = env.address(), env.address()
    bitflow = env.start(
        proxy(address, hanging, good.address, connection_load_balancer="failover"),
        proxy(alone, hanging, name="alone"),
    )
    watch = Stopwatch()
    client = env.connect(address)
    assert sockets.receive_exactly(client, 5) == b"good\n"
    watch.between(0.6, 2, "proxy_timeout, and the next target")
    client.close()
    watch = Stopwatch()
    sockets.was_rejected(env.connect(alone))
    watch.between(0.6, 2, "proxy_timeout")
    records = {record["proxy"]: record for record in bitflow.wait_records(2)}
    assert (records["front"]["reason"], records["front"]["attempts"]) == ("completed", 2)
    assert (records["alone"]["reason"], records["alone"]["ended_by"]) == ("socks_timeout", "proxy")
    assert "did not answer in time" in records["alone"]["error"]


def test_proxy_timeout_does_not_bound_what_follows_the_dialogue(env):
    """The target may be silent for longer."""
    server = env.serve(answering(b"\x05\x00", YES))
    address = env.address()
    bitflow = env.start(proxy(address, through(server.address, "192.0.2.1:80", proxy_timeout="300ms")))
    client = env.connect(address)
    wait_for(lambda: server.live == 1, "the server is asked")
    holds_for(0.8, lambda: bitflow.records() == [], "the connection goes on")
    client.close()
    assert bitflow.wait_records(1)[0]["reason"] == "client_left"


def test_a_server_that_is_not_there_ends_as_connect_refused(env):
    address = env.address()
    bitflow = env.start(proxy(address, through(env.refusing(), "192.0.2.1:80")))
    sockets.was_rejected(env.connect(address))
    record = bitflow.wait_records(1)[0]
    assert record["reason"] == "connect_refused" and "the SOCKS5 server" in record["error"]


def test_failed_dialogues_are_repeated_after_the_backoff(env):
    """The first two attempts fail, each in its own way, the third one connects."""
    served = threading.Semaphore(0)
    scripts = [
        answering(b"\x05\x00", b"\x05\x04" + YES[2:]),
        answering(None),
        answering(b"\x05\x00", YES),
    ]

    def handler(connection):
        script = scripts.pop(0)
        served.release()
        script(connection)

    server = env.serve(handler)
    address = env.address()
    bitflow = env.start(
        proxy(address, through(server.address, "192.0.2.1:80", connect_attempts=3, connect_backoff="100ms"))
    )
    watch = Stopwatch()
    client = env.connect(address)
    for _ in range(3):
        assert served.acquire(timeout=15)
    watch.between(0.2, 3, "two waits")
    client.close()
    record = bitflow.wait_records(1)[0]
    assert record["attempts"] == 3


def test_failover_goes_on_after_a_target_behind_socks_refuses(env, microsocks):
    target = env.echo()
    address = env.address()
    bitflow = env.start(
        proxy(
            address,
            through(microsocks.address, env.refusing()),
            through(microsocks.address, target.address),
            connection_load_balancer="failover",
        )
    )
    client = env.connect(address)
    sockets.round_trip(client)
    client.close()
    assert bitflow.wait_records(1)[0]["target"]["name"] == "target2"
    failures = [line for line in bitflow.log_lines() if line["msg"] == "cannot connect to the target"]
    assert [line["target"] for line in failures] == ["target1"]
    assert "connection refused" in failures[0]["error"]


def test_a_client_that_leaves_stops_the_dialogue(env):
    server = env.serve(answering())
    address = env.address()
    bitflow = env.start(proxy(address, through(server.address, "192.0.2.1:80", connect_timeout="60s")))
    client = env.connect(address)
    wait_for(lambda: server.live == 1, "the server is asked")
    watch = Stopwatch()
    sockets.reset(client)
    assert bitflow.wait_records(1)[0]["reason"] == "client_left"
    watch.between(0, 1, "the end of the dialogue")
    bitflow.assert_quiet()
