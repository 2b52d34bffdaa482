"""Servers as Sentry should never be: they answer without an end, byte by byte or with rubbish, send elsewhere, or prove
nothing. Connections are served as ever, memory does not grow, the end comes in time, and no secret goes astray."""

import contextlib
import itertools
import threading

import sockets
from environment import proxy
from listener_kinds import said
from sentry_peers import Scripted
from telemetry_cases import all_of, all_on, timed_round_trips
from waiting import Stopwatch, holds_for, pace, wait_for

KEY = "0123456789abcdef"


class Rude:
    """Takes a request, up to these bytes, then calls answer(self, connection)."""

    def __init__(self, env, answer, head_ends=b"\r\n\r\n"):
        self.over, self.seen, self.requests = threading.Event(), bytearray(), 0
        self.answer, self.head_ends = answer, head_ends
        self.server = env.serve(self.handle)
        env.stack.callback(self.over.set)
        self.address = self.server.address
        self.dsn = f"http://{KEY}@{self.address}/1"

    def handle(self, connection):
        head = bytearray()
        while not head or self.head_ends not in head:
            data = connection.recv(65536)
            self.seen += data
            if not data:
                return
            head += data
        self.requests += 1
        self.answer(self, connection)


def drips(rude, connection):
    for byte in itertools.cycle(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"):
        if rude.over.wait(1):
            return
        connection.sendall(bytes([byte]))


def endless(beginning, more):
    def answer(rude, connection):
        connection.sendall(beginning)
        while not rude.over.is_set():
            connection.sendall(more)

    return answer


def once(content):
    def answer(_, connection):
        connection.sendall(content)

    return answer


OK = b"HTTP/1.1 200 OK\r\n"
CHUNK = b"10000\r\n" + b"x" * 65536 + b"\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
RUDE = {
    "drips": drips,
    "endless body": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", CHUNK),
    "long body": endless(OK + b"Content-Length: 99999999999\r\n\r\n", CHUNK),
    "endless header": endless(OK + b"X-A: ", b"y" * 65536),
    "endless headers": endless(OK, b"X-Sentry-Rate-Limits: 0:error\r\n" * 1000),
    "endless 100": endless(b"", CONTINUE * 1000),
    "rubbish": once(bytes(range(256)) * 10),
    "nothing": once(b""),
    "odd limits": once(
        b"HTTP/1.1 429 No\r\nRetry-After: 99999999999999999999999\r\n"
        b"X-Sentry-Rate-Limits: -5:error,:::::,9999999999999999999:error;;;:x,\xff\xfe:,60\r\nContent-Length: 0\r\n\r\n"
    ),
}


def dead_and_good(env, number, **application):
    """A bitflow whose first proxy's target refuses, and whose second one works."""
    bad, good = env.address(), env.address()
    entries = [proxy(bad, env.refusing(), name="bad"), proxy(good, env.echo().address, name="good")]
    for entry in entries:
        entry["options"] = {"connection_log": str(env.directory / f"connections{number}.jsonl")}
    path = env.config(*entries, name=f"config{number}.yaml", application=application)
    bitflow = env.launch(path)
    bitflow.log_path = env.directory / f"connections{number}.jsonl"
    bitflow.wait_listening(["bad", "good"])
    return bitflow, bad, good


def test_a_rude_server_holds_up_neither_connections_nor_the_end(env):
    bitflows = {}
    for name, answer in RUDE.items():
        rude = Rude(env, answer)
        bitflows[name] = (rude, *dead_and_good(env, len(bitflows), **all_on(sentry=rude)))

    def provoke(name):
        rude, bitflow, bad, good = bitflows[name]
        with sockets.connect(good) as client:
            timed_round_trips(client, 5)
            before = bitflow.memory_kib("VmRSS")
            sockets.was_rejected(env.connect(bad))
            wait_for(lambda: rude.requests, f"{name}: a request")
            for _ in range(6):
                timed_round_trips(client, 5)
                rude.over.wait(0.1)
            assert bitflow.memory_kib("VmRSS") - before < 12_000 * pace(), name

    all_of(bitflows, provoke)

    def end(name):
        _, bitflow, _, _ = bitflows[name]
        watch = Stopwatch()
        bitflow.stop(30)
        watch.between(0, 8, f"the end with {name}")
        log = bitflow.stderr()
        assert KEY not in log
        warned = [line["msg"] for line in bitflow.log_lines() if "Sentry" in line["msg"] or "events" in line["msg"]]
        # A 200 is a 200, whatever comes behind it.
        assert warned or name in ("endless body", "long body"), f"{name}: nobody is told: {log}"

    all_of(bitflows, end)


def test_redirects_are_not_followed(env):
    """Neither the event nor the key reaches another host, whatever the status."""
    other = Rude(env, once(OK + b"Content-Length: 2\r\n\r\n{}"))
    for number, status in enumerate((301, 302, 303, 307, 308)):
        location = f"http://{other.address}/api/1/envelope/"
        with Scripted(lambda number: (status, {"Location": location, "Refresh": f"0; url={location}"})) as receiver:
            bitflow, bad, good = dead_and_good(env, number, **all_on(sentry=receiver))
            sockets.was_rejected(env.connect(bad))
            told = wait_for(lambda: said(bitflow, "Sentry refused an event"), bitflow.stderr)
            assert [line["level"] for line in told] == ["warn"] and str(status) in told[0]["error"]
            with sockets.connect(good) as client:
                timed_round_trips(client)
            bitflow.stop()
            assert len(receiver.requests) == 1
    assert other.server.accepted == 0 and not other.seen


def test_a_server_without_a_good_certificate_gets_neither_event_nor_key(env, pki):
    """Nothing but a handshake goes to a server whose certificate is bad, or that does not speak TLS."""
    bitflows = {}
    with contextlib.ExitStack() as stack:
        for name in ("expired", "not yet valid", "stranger", "wrong name", "wrong usage"):
            receiver = stack.enter_context(Scripted(identity=pki.bad_servers[name]))
            bitflows[name] = (receiver, receiver.dsn)
        # It answers whatever comes, which is a ClientHello.
        plain = Rude(env, once(OK + b"Content-Length: 2\r\n\r\n{}"), head_ends=b"")
        bitflows["plain"] = (plain, f"https://{KEY}@{plain.address}/1")
        started = {
            name: dead_and_good(env, number, **all_on(sentry=dsn), sentry_authority=str(pki.trusted))
            for number, (name, (_, dsn)) in enumerate(bitflows.items())
        }

        def check(name):
            receiver, _ = bitflows[name]
            bitflow, bad, good = started[name]
            sockets.was_rejected(env.connect(bad))
            told = wait_for(
                lambda: [line for line in bitflow.log_lines(True) if line["msg"].startswith("cannot send to Sentry")],
                lambda: f"{name}: {bitflow.stderr()}",
                15,
            )
            assert told[0]["level"] == "warn", told
            if name == "plain":
                # What it got, which was meant as TLS, has neither the key nor the connection's facts.
                assert KEY.encode() not in receiver.seen and b"connect_refused" not in receiver.seen
            else:
                assert "certificate" in told[0]["error"].lower(), (name, told)
            with sockets.connect(good) as client:
                timed_round_trips(client)
            if name != "plain":  # the second attempt, too
                holds_for(1.2, lambda: not receiver.requests, f"{name}: it got a request")
            bitflow.stop()
            assert KEY not in bitflow.stderr() and (name == "plain" or not receiver.requests)

        all_of(started, check)


def test_a_server_that_gets_well_gets_what_it_did_not_take(env):
    manners = {"bad": True}
    polite = once(OK + b"Content-Length: 2\r\n\r\n{}")

    def answer(rude, connection):
        (RUDE["rubbish"] if manners["bad"] else polite)(rude, connection)

    rude = Rude(env, answer)
    bitflow, bad, _ = dead_and_good(env, 0, **all_on(sentry=rude))
    sockets.was_rejected(env.connect(bad))
    wait_for(lambda: "cannot send to Sentry" in bitflow.stderr(), bitflow.stderr)
    manners["bad"] = False
    wait_for(lambda: "Sentry can be reached again" in bitflow.stderr(), bitflow.stderr)
    bitflow.stop()
    assert not said(bitflow, "events for Sentry were lost")
