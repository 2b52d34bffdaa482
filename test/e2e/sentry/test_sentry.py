"""Errors in Sentry: what becomes an event, what is in it, and that a server that fails costs nobody anything."""

import re
import signal
import time

import pytest

import bitflow_process
import sockets
from environment import proxy
from listener_kinds import said
from sentry_peers import HANG, Scripted, Spotlight
from waiting import Stopwatch, holds_for, wait_for

KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def spotlight():
    with Spotlight() as receiver:
        yield receiver


def start(env, receiver, *proxies, level="debug", **settings):
    """bitflow with that receiver."""
    application = {"sentry_dsn": receiver.dsn, **settings}
    return env.start(*proxies, application=application, level=level)


def fail(env, *addresses):
    """A connection to each of them, whose target is dead."""
    for address in addresses:
        sockets.was_rejected(env.connect(address))


def dead(env, name="front", target="blue", **settings):
    """A proxy whose target refuses, and its address."""
    address = env.address() if name != "unix" else env.unix()
    return proxy(address, {"name": target, "address": env.refusing(), **settings}, name=name), address


def wait_trying_again(bitflow):
    wait_for(lambda: said(bitflow, "cannot send to Sentry, trying again"), bitflow.stderr)


def assert_lost(bitflow, count):
    (line,) = said(bitflow, "events for Sentry were lost")
    assert line["count"] == str(count)


def release_of(bitflow):
    return "bitflow@" + bitflow_process.run("--version").stdout.split()[1]


# What an event has


def test_an_event_agrees_with_the_log_line_and_the_record(env, spotlight):
    entry, address = dead(env, name="shop", target="blue", connect_attempts=2)
    bitflow = start(env, spotlight, entry, sentry_environment="staging")
    fail(env, address)
    record = bitflow.wait_records(1)[0]
    event = spotlight.wait_event(proxy="shop", target="blue", reason="connect_refused")
    assert re.fullmatch("[0-9a-f]{32}", event["event_id"])
    assert event["platform"] == "native" and event["level"] == "error" and event["logger"] == "bitflow"
    assert event["release"] == release_of(bitflow) and event["environment"] == "staging"
    with open("/proc/sys/kernel/hostname") as stream:
        assert event["server_name"] == stream.read().strip()
    (line,) = [line for line in bitflow.log_lines(True) if line["level"] == "error"]
    assert event["logentry"]["message"] == line["msg"]
    assert event["logentry"]["formatted"] == f"{line['msg']}: {line['error']}"
    assert event["timestamp"] == line["ts"]
    assert event["tags"]["connection"] == str(record["id"]) == line["conn"]
    assert event["fingerprint"] == [line["msg"], "shop", "blue", "connect_refused"]
    assert event["sdk"] == {"name": "bitflow", "version": event["release"].removeprefix("bitflow@")}
    facts = event["contexts"]["connection"]
    assert facts.pop("id") == record["id"]
    assert facts == {key: value for key, value in line.items() if key not in ("ts", "level", "msg", "conn")}
    assert facts["client"] == record["client"] and facts["error"] == record["error"]


def test_breadcrumbs_are_the_lines_of_the_connection_and_the_process(env, spotlight):
    """Those before the error, from level info on."""
    entry, address = dead(env, name="crumbs", connect_attempts=3)
    bitflow = start(env, spotlight, entry)
    fail(env, address)
    event = spotlight.wait_event(proxy="crumbs")
    crumbs = event["breadcrumbs"]["values"]
    assert [crumb["message"] for crumb in crumbs] == ["listening"] + ["cannot connect to the target"] * 3
    assert [crumb["level"] for crumb in crumbs] == ["info"] + ["warning"] * 3
    assert [crumb["category"] for crumb in crumbs] == ["process"] + ["connection"] * 3
    assert [crumb["data"]["attempt"] for crumb in crumbs[1:]] == ["1", "2", "3"]
    assert {crumb["data"]["conn"] for crumb in crumbs[1:]} == {int(event["tags"]["connection"])}
    assert crumbs == sorted(crumbs, key=lambda crumb: crumb["timestamp"])
    lines = {(line["ts"], line["msg"]) for line in bitflow.log_lines(True)}
    assert {(crumb["timestamp"], crumb["message"]) for crumb in crumbs} <= lines


def test_events_do_not_depend_on_the_application_log(env, spotlight):
    entry, address = dead(env, name="quiet")
    path = env.config(entry, level="error", application={"sentry_dsn": spotlight.dsn, "log": {}})
    bitflow = env.launch(path)
    bitflow.wait_bound(int(address.rpartition(":")[2]))
    fail(env, address)
    event = spotlight.wait_event(proxy="quiet")
    assert [crumb["message"] for crumb in event["breadcrumbs"]["values"]][-1] == "cannot connect to the target"
    assert bitflow.stderr() == ""


def test_a_failed_reload_is_an_event_with_its_errors_as_breadcrumbs(env, spotlight):
    entry, _ = dead(env)
    bitflow = start(env, spotlight, entry)
    path = bitflow.config
    path.write_text(path.read_text() + "nonsense: 1\nrubbish: 2\n")
    bitflow.signal(signal.SIGHUP)
    event = spotlight.wait_event(message="reload failed, the old configuration stays in force")
    assert event["contexts"]["details"] == {"file": str(path)} and event["tags"] == {}
    crumbs = [crumb for crumb in event["breadcrumbs"]["values"] if crumb["message"] == "configuration error"]
    assert ["nonsense" in crumbs[0]["data"]["error"], "rubbish" in crumbs[1]["data"]["error"]] == [True, True]
    assert {crumb["level"] for crumb in crumbs} == {"error"}


def test_a_failed_start_is_an_event(env, spotlight):
    taken = env.listen()
    path = env.config(
        proxy(taken.address, env.address(), name="late"), application={"sentry_dsn": spotlight.dsn}, level="info"
    )
    env.fails_to_start(path)
    event = spotlight.wait_event(message="cannot start")
    assert taken.address in event["contexts"]["details"]["error"]


def test_a_reached_connection_limit_is_an_event(env, spotlight):
    listener, address = env.listen(), env.address()
    bitflow = start(env, spotlight, proxy(address, listener.address, name="full", connection_limit=1))
    env.pair(address, listener)
    fail(env, address)
    assert spotlight.wait_event(proxy="full")["tags"]["reason"] == "connection_limit"
    (line,) = said(bitflow, "rejected")
    assert line["level"] == "error"


def test_clients_mistakes_are_not_events(env, pki):
    with Scripted() as receiver:
        listener, plain, denied, tls = env.listen(), env.address(), env.address(), env.address()
        entry, address = dead(env, name="marker")
        bitflow = start(
            env,
            receiver,
            proxy(plain, listener.address, name="plain", listener={"read_timeout": "200ms"}),
            proxy(denied, listener.address, name="denied", listener={"authorized_sources": ["192.0.2.0/24"]}),
            proxy(tls, listener.address, name="tls", listener={"tls_context": {"certificates": [pki.server.entry()]}}),
            entry,
        )
        client, target = env.pair(plain, listener)
        client.sendall(b"x")
        assert target.recv(1) == b"x"
        sockets.reset(client)
        silent, _ = env.pair(plain, listener)
        sockets.receive_to_end(silent)
        fail(env, denied)
        garbage = env.connect(tls)
        garbage.sendall(b"this is no TLS\r\n\r\n")
        sockets.receive_until_broken(garbage)
        records = bitflow.wait_records(4)
        assert {record["reason"] for record in records} == {
            "client_reset", "client_read_timeout", "source_not_authorized", "client_handshake_failed"
        }
        fail(env, address)
        receiver.wait_event(proxy="marker")
        bitflow.stop()
        assert [event["tags"]["proxy"] for event in receiver.events()] == ["marker"]


# How it is sent


def test_the_request_is_as_sentry_wants_it_and_the_key_is_told_nowhere_else(env):
    with Scripted() as receiver:
        entry, address = dead(env)
        bitflow = start(env, receiver, entry)
        fail(env, address)
        event = receiver.wait_event()
        (path, headers), = receiver.requests
        version = release_of(bitflow).removeprefix("bitflow@")
        assert path == "/api/1/envelope/"
        assert headers["Content-Type"] == "application/x-sentry-envelope"
        assert headers["Content-Encoding"] == "gzip"  # the peer has unpacked it
        assert headers["User-Agent"] == f"bitflow/{version}"
        assert headers["X-Sentry-Auth"] == f"Sentry sentry_version=7, sentry_client=bitflow/{version}, sentry_key={KEY}"
        ((header, _),) = receiver.envelopes
        assert header["event_id"] == event["event_id"] and "dsn" not in header
        wait_for(lambda: bitflow.descriptors()["socket"] <= bitflow.resting["socket"], "the connection is closed")
        assert bitflow.thread_names().count("sentry") == 1
        assert KEY not in str(receiver.envelopes) and KEY not in bitflow.stderr()


def test_an_error_that_repeats_is_one_event(env):
    with Scripted() as receiver:
        entry, address = dead(env)
        other, other_address = dead(env, name="other")
        bitflow = start(env, receiver, entry, other)
        fail(env, *[address] * 200, other_address)
        bitflow.wait_records(201, timeout=30)
        receiver.wait_event(proxy="other")
        bitflow.stop()
        assert [event["tags"]["proxy"] for event in receiver.events()] == ["front", "other"]


def test_queued_events_are_sent_before_the_end(env):
    with Scripted(lambda number: (time.sleep(0.3), (200, {}))[1]) as receiver:
        pairs = [dead(env, name=f"p{number}") for number in range(5)]
        bitflow = start(env, receiver, *(entry for entry, _ in pairs))
        fail(env, *(address for _, address in pairs))
        bitflow.wait_records(5)
        bitflow.stop()
        assert {event["tags"]["proxy"] for event in receiver.events()} == {f"p{number}" for number in range(5)}


# Servers that limit, fail, hang or are gone

MANY_LIMITS = ", ".join(f"50:category{number}:organization" for number in range(40))


@pytest.mark.parametrize(
    "status, headers",
    [
        (429, {"Retry-After": "2"}),
        (429, {"X-Sentry-Rate-Limits": "2:error;default:organization"}),
        (200, {"X-Sentry-Rate-Limits": "2::organization, 50:transaction:key"}),
        (200, {"X-Sentry-Rate-Limits": MANY_LIMITS + ", 2:error:key"}),
        (429, {"X-Sentry-Rate-Limits": "2:error:key\r\nX-Sentry-Rate-Limits: 50:transaction:key"}),
        (503, {"Retry-After": "2"}),
    ],
    ids=["429 Retry-After", "429 X-Sentry-Rate-Limits", "200 X-Sentry-Rate-Limits", "a long list", "two lines",
         "503 Retry-After"],
)
def test_rate_limits_are_kept(env, status, headers):
    with Scripted(lambda number: (status, headers) if number == 1 else (200, {})) as receiver:
        (entry, address), (other, other_address) = dead(env), dead(env, name="other")
        start(env, receiver, entry, other)
        fail(env, address)
        receiver.wait_requests(1)
        watch = Stopwatch()
        fail(env, other_address)
        receiver.wait_event(proxy="other")
        watch.between(1.8, 6, "the pause")
        wanted = {429: ["other"], 200: ["front", "other"], 503: ["front", "other"]}[status]
        assert [event["tags"]["proxy"] for event in receiver.events()] == wanted


def test_429_without_a_time_pauses_and_the_loss_is_logged(env):
    with Scripted(lambda number: (429, {})) as receiver:
        (entry, address), (other, other_address) = dead(env), dead(env, name="other")
        bitflow = start(env, receiver, entry, other)
        fail(env, address)
        wait_for(lambda: said(bitflow, "Sentry accepts no events for now"), "the log tells it")
        fail(env, other_address)
        bitflow.wait_records(2)
        holds_for(1.5, lambda: len(receiver.requests) == 1, "nothing is sent within the minute")
        bitflow.stop()
        assert_lost(bitflow, 1)
        assert len(receiver.requests) == 1


def test_an_event_is_sent_again_after_a_server_error(env):
    with Scripted(lambda number: (500, {}) if number <= 2 else (200, {})) as receiver:
        entry, address = dead(env)
        bitflow = start(env, receiver, entry)
        fail(env, address)
        receiver.wait_event(proxy="front")
        assert len(receiver.requests) == 3 and len(receiver.events()) == 1
        wait_for(
            lambda: [line["msg"] for line in bitflow.log_lines(True) if "Sentry" in line["msg"]]
            == ["cannot send to Sentry, trying again", "Sentry can be reached again"],
            lambda: bitflow.stderr(),
        )


@pytest.mark.parametrize("status", [400, 403, 302])
def test_refused_events_are_not_tried_again(env, status):
    script = lambda number: (status, {"Location": "/elsewhere/"}) if number == 1 else (200, {})  # noqa: E731
    with Scripted(script) as receiver:
        (entry, address), (other, other_address) = dead(env), dead(env, name="other")
        bitflow = start(env, receiver, entry, other)
        fail(env, address)
        receiver.wait_requests(1)
        fail(env, other_address)
        receiver.wait_event(proxy="other")
        assert [path for path, _ in receiver.requests] == ["/api/1/envelope/"] * 2
        (report,) = receiver.items("client_report")
        assert report["discarded_events"] == [{"reason": "send_error", "category": "error", "quantity": 1}]
        (line,) = said(bitflow, "Sentry refused an event")
        assert line["level"] == "warn" and str(status) in line["error"]


def test_a_server_that_comes_back_gets_the_event(env):
    with Scripted() as receiver:
        port = receiver.port
    entry, address = dead(env)
    bitflow = start(env, receiver, entry)
    fail(env, address)
    wait_trying_again(bitflow)
    with Scripted(port=port) as receiver:
        receiver.wait_event(proxy="front", timeout=20)


def test_the_end_does_not_wait_for_a_server_that_is_gone(env):
    """But if it has come back in the meantime, it gets everything."""
    with Scripted() as receiver:
        port = receiver.port
    pairs = [dead(env, name=f"p{number}") for number in range(3)]
    proxies, addresses = [entry for entry, _ in pairs], [address for _, address in pairs]
    first = start(env, receiver, *proxies)
    fail(env, *addresses)
    wait_trying_again(first)
    watch = Stopwatch()
    first.stop()
    watch.between(0, 2.5, "the end")
    assert_lost(first, 3)
    second = start(env, receiver, *proxies)
    fail(env, *addresses)
    wait_trying_again(second)
    with Scripted(port=port) as receiver:
        second.stop()
        assert {event["tags"]["proxy"] for event in receiver.events()} == {"p0", "p1", "p2"}


def test_a_server_that_hangs_holds_nobody_up(env):
    with Scripted(lambda number: HANG) as receiver:
        echo, good = env.echo(), env.address()
        pairs = [dead(env, name=f"p{number}") for number in range(20)]
        bitflow = start(env, receiver, proxy(good, echo.address, name="good"), *(entry for entry, _ in pairs))
        fail(env, pairs[0][1])
        receiver.wait_requests(1)
        watch = Stopwatch()
        for _, address in pairs:
            fail(env, address)
            client = sockets.connect(good)
            sockets.round_trip(client)
            client.close()
        watch.between(0, 5, "forty connections")
        bitflow.wait_records(41)
        watch = Stopwatch()
        bitflow.stop()
        watch.between(2, 6, "the end with a flush")
        assert_lost(bitflow, 20)


def test_the_queue_is_bounded_and_its_losses_are_reported(env):
    """Sentry itself is told, as soon as it answers."""
    with Scripted(lambda number: HANG if number == 1 else (200, {})) as receiver:
        count = 80
        addresses = [env.unix(f"{number}.sock") for number in range(count)]
        target = env.refusing()
        proxies = [proxy(address, target, name=f"p{number}") for number, address in enumerate(addresses)]
        bitflow = start(env, receiver, *proxies)
        fail(env, addresses[0])
        receiver.wait_requests(1)
        fail(env, *addresses[1:])
        bitflow.wait_records(count)
        receiver.over.set()  # the first one is cut, and tried again
        wait_for(
            lambda: sum(loss["quantity"] for report in receiver.items("client_report")
                        for loss in report["discarded_events"]) == count - 64 and len(receiver.events()) == 64,
            lambda: f"{len(receiver.events())} events, {receiver.items('client_report')}", 20,
        )
        assert {loss["reason"] for report in receiver.items("client_report")
                for loss in report["discarded_events"]} == {"queue_overflow"}


# TLS


def https(receiver, host="127.0.0.1"):
    return f"https://{KEY}@{host}:{receiver.port}/1"


def test_sentry_authority_is_trusted(env, pki):
    with Scripted(identity=pki.server) as receiver:
        entry, address = dead(env)
        start(env, receiver, entry, sentry_authority=str(pki.server.authority))
        fail(env, address)
        receiver.wait_event(proxy="front")


@pytest.mark.parametrize("case", ["no authority", "another authority", "another name"])
def test_the_servers_certificate_is_verified(env, pki, case):
    identity = pki.wildcard if case == "another name" else pki.server
    authority = {"another authority": pki.other.certificate, "another name": identity.authority}.get(case)
    with Scripted(identity=identity) as receiver:
        entry, address = dead(env)
        settings = {"sentry_authority": str(authority)} if authority else {}
        bitflow = start(env, receiver, entry, **settings)
        fail(env, address)
        (line,) = wait_for(
            lambda: [line for line in bitflow.log_lines(True) if line["msg"].startswith("cannot send to Sentry")],
            lambda: bitflow.stderr(),
        )
        assert line["level"] == "warn" and "certificate" in line["error"], line
        bitflow.stop()
        assert not receiver.requests


@pytest.mark.parametrize("content", [None, "no PEM"], ids=["no file", "no PEM"])
def test_sentry_authority_is_checked_at_the_start(env, content):
    file = env.directory / "authority.pem"
    if content:
        file.write_text(content)
    entry, _ = dead(env)
    application = {"sentry_dsn": "https://key@sentry.example/1", "sentry_authority": str(file)}
    path = env.config(entry, application=application)
    for command in (["--check", "--config", path], ["--config", path]):
        done = bitflow_process.run(*command)
        assert done.returncode == 2
        assert re.match(rf"{re.escape(str(path))}:\d+:\d+: application.sentry_authority: .*authority.pem", done.stderr)


# Reload


def reload(env, bitflow, entry, **application):
    bitflow.config.write_text(env.config(entry, application=application, level="debug", name="next.yaml").read_text())
    bitflow.reload()


def test_a_reload_turns_sentry_on_and_off_and_to_another_server(env):
    """Off, on, to another server, off."""
    with Scripted() as first, Scripted() as second:
        address = env.address()
        target = [{"name": name, "address": env.refusing()} for name in ("a", "b", "c", "d")]
        bitflow = env.start(proxy(address, target[0]), level="debug")
        assert "sentry" not in bitflow.thread_names()
        fail(env, address)
        bitflow.wait_records(1)
        reload(env, bitflow, proxy(address, target[1]), sentry_dsn=first.dsn)
        fail(env, address)
        first.wait_event(target="b")
        reload(env, bitflow, proxy(address, target[2]), sentry_dsn=second.dsn, sentry_environment="next")
        fail(env, address)
        assert second.wait_event(target="c")["environment"] == "next"
        reload(env, bitflow, proxy(address, target[3]))
        fail(env, address)
        bitflow.wait_records(4)
        bitflow.stop()
        assert [len(first.events()), len(second.events())] == [1, 1]
