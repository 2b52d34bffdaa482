"""Telemetry across reloads and exits: a proxy that comes back, errors in the queue, exits of every kind."""

import json
import signal
import socket
import subprocess

import pytest

import bitflow_process
import telemetry_cases
import sockets
from environment import proxy
from telemetry_cases import Datagrams, all_on, assert_each_ends_once, ends, wait_sums
from sentry_peers import HANG, Scripted
from waiting import Stopwatch, pace, wait_for


@pytest.fixture
def statsd(env):
    return env.keep(Datagrams())


def reload(env, bitflow, *proxies, **settings):
    env.config(*proxies, **settings)
    bitflow.reload()


def test_a_proxy_that_comes_back_counts_its_old_connections_and_its_new_ones(env, statsd):
    """Also when metrics were off in between."""
    listener, stays = env.listen(), proxy(env.address(), env.refusing(), name="stays")
    comes = proxy(env.address(), listener.address, name="comes")
    address = comes["listener"]["address"]
    active, application = "proxy.comes.connections.active", all_on(statsd)
    bitflow = env.start(stays, comes, application=application)
    bitflow.quiet_check = False  # there is another socket when it was off and on
    old = [env.pair(address, listener) for _ in range(3)]
    wait_for(lambda: statsd.gauges().get(active) == 3, "three")
    reload(env, bitflow, stays, application=application)
    reload(env, bitflow, stays, comes, application=application)
    new = [env.pair(address, listener) for _ in range(2)]

    def settles_at(count):
        """Waits for a whole report that has the gauge once, at this value."""
        statsd.poll()
        statsd.lines.clear()
        said = f"{active}:{count}|g"

        def says():
            found = [line for line in statsd.poll() if line.startswith(active + ":")]
            uptimes = [line for line in statsd.lines if line.startswith("process.uptime:")]
            assert len(uptimes) < 8 * pace(), f"{count} wanted: {found}"
            return uptimes and found[-1:] == [said] and len(found) <= len(uptimes) + 1

        wait_for(says, lambda: f"{count}: {[line for line in statsd.lines if active in line]}")

    settles_at(5)
    for client, target in old + new:
        client.sendall(bytes(100))
        sockets.receive_exactly(target, 100)
    wait_for(lambda: statsd.counters()["proxy.comes.bytes.from_client"] == 500, statsd.counters)
    # Away, with metrics off, and back.
    reload(env, bitflow, stays, application=all_on())
    reload(env, bitflow, stays, comes, application=application)
    newest = [env.pair(address, listener)]
    settles_at(6)
    for client, target in old + new + newest:
        client.close()
        target.close()
    wait_for(lambda: len(ends(bitflow.records())) == 6, "their records")
    assert_each_ends_once(bitflow.records())


def test_an_error_that_waits_at_a_reload_is_sent_once_or_counted_as_lost(env):
    """What the old server has not taken goes to the new one."""
    with Scripted(lambda number: HANG) as hanging, Scripted() as good:
        entries = [proxy(env.address(), env.refusing(), name=f"p{number}") for number in range(6)]
        bitflow = env.start(*entries, application=all_on(sentry=hanging))

        def fail(entry):
            sockets.was_rejected(env.connect(entry["listener"]["address"]))

        for entry in entries[:5]:
            fail(entry)
        hanging.wait_requests(1)
        reload(env, bitflow, *entries, application=all_on(sentry=good))
        fail(entries[5])
        hanging.over.set()  # the first one is cut
        good.wait_event(proxy="p5", timeout=20)
        bitflow.stop(20)
        seen = [event["tags"]["proxy"] for event in good.events()]
        assert len(set(seen)) == len(seen)
        lost = [line for line in bitflow.log_lines() if line["msg"] == "events for Sentry were lost"]
        assert len(seen) + sum(int(line["count"]) for line in lost) == 6, (seen, lost)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_a_second_signal_ends_connections_at_once_and_loses_no_telemetry(env, statsd, number):
    with Scripted() as receiver:
        listener, address, bad = env.listen(), env.address(), env.address()
        bitflow = env.start(
            proxy(address, listener.address, connection_log_interval="1s", connection_log_connect=True),
            proxy(bad, env.refusing(), name="bad"),
            application=all_on(statsd, receiver),
            server={"drain_timeout": 0},
        )
        pairs = [env.pair(address, listener) for _ in range(30)]
        for client, target in pairs:
            client.sendall(bytes(77))
            sockets.receive_exactly(target, 77)
        sockets.was_rejected(env.connect(bad))
        bitflow.signal(number)
        wait_for(lambda: any(line["msg"] == "shutting down" for line in bitflow.log_lines(True)), bitflow.stderr)
        watch = Stopwatch()
        bitflow.signal(number)
        assert bitflow.wait_ended() == 0
        watch.between(0, 4, "the end")
        records = bitflow.records()
        assert sum(record["reason"] == "drain" for record in ends(records)) == 30
        assert_each_ends_once(records)
        assert statsd.counters()["proxy.front.bytes.from_client"] == 30 * 77
        wait_sums(bitflow, statsd)
        telemetry_cases.assert_sentry_got(receiver, records)
        telemetry_cases.assert_log_tells(bitflow.log_lines(), records)


def test_a_process_under_inetd_sends_its_counts_and_its_error_before_it_exits(env, statsd):
    """It ends with its only connection."""
    with Scripted() as receiver:
        for target, reason in ((env.echo().address, "completed"), (env.refusing(), "connect_refused")):
            path = env.config(
                proxy("fd://0", {"name": reason, "address": target}, name="inetd"),
                application=all_on(statsd, receiver),
            )
            with socket.create_server(("127.0.0.1", 0)) as server:
                client = env.connect(sockets.local_name(server))
                end, _ = server.accept()
            command = [str(bitflow_process.binary()), "--config", str(path)]
            with end, open(env.directory / "inetd.txt", "wb") as stderr:
                process = subprocess.Popen(command, stdin=end, stdout=end, stderr=stderr)
            if reason == "completed":
                sockets.round_trip(client, bytes(4321))
                client.shutdown(socket.SHUT_WR)
            sockets.receive_until_broken(client)
            assert process.wait(15 * pace()) == 0
            assert statsd.counters()[f"proxy.inetd.connections.closed.{reason}"] == 1, statsd.lines
        assert statsd.counters()["proxy.inetd.bytes.from_client"] == 4321
        assert [event["tags"]["reason"] for event in receiver.events()] == ["connect_refused"]
        records = [json.loads(line) for line in env.records_path.read_text().splitlines()]
        assert [record["reason"] for record in records] == ["completed", "connect_refused"]


@pytest.mark.parametrize("tag_format", ["none", "dogstatsd", "influxdb"])
def test_the_longest_names_are_whole_in_metrics_records_and_log(env, statsd, tag_format):
    """The longest prefix, proxy and target."""
    name, target = "p" * 60 + "☃x", "☃" * 66 + "t" * 57  # 64 and 255 bytes
    assert (len(name.encode()), len(target.encode())) == (64, 255)
    prefix = ("q" * 31 + ".") * 4
    with Scripted() as receiver:
        bad, good = {"name": target, "address": env.refusing()}, {"name": "good", "address": env.echo().address}
        first, second = env.address(), env.address()
        bitflow = env.start(
            proxy(first, bad, name=name),
            proxy(second, bad, good, name="other", connection_load_balancer="failover"),
            application=all_on(statsd, receiver, prefix=prefix[:-1], tag_format=tag_format),
        )
        sockets.was_rejected(env.connect(first))
        with sockets.connect(second) as client:
            sockets.round_trip(client)
        wait_for(lambda: len(ends(bitflow.records())) == 2, "records")
        event = receiver.wait_event(reason="connect_refused")
        # Sentry takes at most 200 characters of a tag: it gets the beginning of the target's name.
        assert event["tags"]["proxy"] == name and target.startswith(event["tags"]["target"])
        assert event["tags"]["target"] == target[:200]
        record = next(record for record in ends(bitflow.records()) if record["proxy"] == name)
        assert record["target"]["name"] == target
        assert [line["target"] for line in bitflow.log_lines(True) if line["level"] == "error"] == [target]
        short = "_" * 66 + "t" * 57
        line = {
            "none": f"proxy.other.target.{short}.dials.failed.connect_refused:1|c",
            "dogstatsd": f"proxy.target.dials.failed:1|c|#proxy:other,target:{short},cause:connect_refused",
            "influxdb": f"proxy.target.dials.failed,proxy=other,target={short},cause=connect_refused:1|c",
        }[tag_format]
        wait_for(lambda: prefix + line in statsd.poll(), lambda: f"{line}: {statsd.lines}")
        bitflow.stop()
        assert all(line.startswith(prefix) for line in statsd.poll() if line)
