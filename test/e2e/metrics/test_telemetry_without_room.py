"""Telemetry when there is no room for it, when the process dies under load, and of a thousand idle connections."""

import collections
import concurrent.futures
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import threading
import time

import pytest

import bitflow_process
import telemetry_cases
import sockets
from environment import proxy
from metrics_cases import PROXY
from telemetry_cases import Datagrams, all_on, assert_each_ends_once, check_schema, ends, wait_sums
from sentry_peers import Scripted
from waiting import Stopwatch, pace, scale, wait_for

LOST = "connection log records are being lost"


def test_records_lost_to_a_full_disk_are_counted_and_sentry_hears_of_it_once(env):
    """The log says so once, too, and its lines stay whole."""
    statsd = env.keep(Datagrams())
    with Scripted() as receiver:
        address, bad = env.address(), env.address()
        full = {"connection_log": "/dev/full", "connection_log_connect": True}
        bitflow = env.start(
            proxy(address, env.echo().address, **full),
            proxy(bad, env.refusing(), name="bad", **full),
            application=all_on(statsd, receiver),
        )
        count = scale(100, 30)
        for number in range(count):
            with sockets.connect(address) as client:
                sockets.round_trip(client, random.Random(number).randbytes(2000))
        sockets.was_rejected(env.connect(bad))
        wait_for(lambda: not bitflow.busy_threads(), "all have ended")
        lost = "telemetry.dropped.connection_records"
        wait_for(lambda: statsd.counters()[lost] == 2 * count + 1, lambda: f"{statsd.counters()[lost]} {count}")
        assert statsd.counters()[f"{PROXY}.bytes.from_client"] == 2000 * count
        bitflow.stop()
        assert collections.Counter(receiver.messages()) == {LOST: 1, "the target refused the connection": 1}
        assert sum(line["msg"] == LOST for line in bitflow.log_lines()) == 1


class Unheard:
    """A bitflow whose standard error (or all of 0 to 2) is as the case says."""

    def __init__(self, env, case, path):
        self.ends = []
        command = [str(bitflow_process.binary()), "--config", str(path)]
        if case == "closed":
            closing = "import os, sys; [os.close(n) for n in (0, 1, 2)]; os.execv(sys.argv[1], sys.argv[1:])"
            command = ["/usr/bin/python3", "-c", closing, *command]
            stderr = subprocess.DEVNULL
        elif case == "a full disk":
            stderr = env.keep(open("/dev/full", "wb"))
        elif case == "a full pipe":
            reader, stderr = os.pipe()
            os.set_blocking(stderr, False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(stderr, bytes(4096))
            os.set_blocking(stderr, True)
            self.ends += [reader, stderr]
        else:
            reader, stderr = os.pipe()
            os.close(reader)
            self.ends.append(stderr)
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr)
        self.pid = self.process.pid

    def close(self):
        self.process.kill()
        self.process.wait()
        for end in self.ends:
            os.close(end)


def records_at(path):
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def be_unheard(env, case, receiver):
    statsd, address, bad = env.keep(Datagrams()), env.address(), env.address()
    log = env.directory / f"{case}.jsonl"
    options = {"connection_log_connect": True, "connection_log": str(log)}
    path = env.config(
        proxy(address, env.echo().address, **options),
        proxy(bad, {"name": case, "address": env.refusing()}, name="bad", **options),
        application=all_on(statsd, receiver),
        name=f"{case}.yaml",
    )
    unheard = env.keep(Unheard(env, case, path))
    wait_for(lambda: "process.uptime" in statsd.gauges(), "it runs", 20)
    count = scale(60, 20)
    for number in range(count):
        with sockets.connect(address) as client:
            telemetry_cases.timed_round_trips(client, 5)
            sockets.round_trip(client, random.Random(number).randbytes(5000))
    sockets.was_rejected(env.connect(bad))
    wait_for(lambda: len(ends(records_at(log))) == count + 1, lambda: f"{len(records_at(log))} records")
    telemetry_cases.wait_equal(
        lambda: telemetry_cases.sums_of_records(records_at(log)),
        lambda: telemetry_cases.sums_of_counters(statsd.counters()),
    )
    assert_each_ends_once(records_at(log))
    check_schema(records_at(log), every=10)
    receiver.wait_event(proxy="bad", target=case)
    if case != "closed":  # then /dev/null may have taken the place of standard error
        wait_for(
            lambda: statsd.counters()["telemetry.dropped.log_lines"] >= 3 * count,
            lambda: f"lost lines are counted: {statsd.counters()}",
        )
    watch = Stopwatch()
    unheard.process.send_signal(signal.SIGTERM)
    assert unheard.process.wait(20 * pace()) == 0
    watch.between(0, 5, "the end")


def test_a_log_that_nobody_takes_holds_nothing_up_and_its_lost_lines_are_counted(env):
    """And no line goes where a client's bytes should."""
    with Scripted() as receiver:
        telemetry_cases.all_of(
            ["closed", "a full disk", "a full pipe", "a pipe without a reader"],
            lambda case: be_unheard(env, case, receiver),
        )


@pytest.mark.skipif(
    bitflow_process.is_sanitized(bitflow_process.binary()), reason="a sanitizer's own handlers are in place"
)
def test_sigabrt_under_load_leaves_a_trace_an_event_and_whole_records(env):
    """With all telemetry on; the event has its breadcrumbs, and the log's lines are whole."""
    statsd = env.keep(Datagrams())
    with Scripted() as receiver:
        address, bad, idle, listener = env.address(), env.address(), env.address(), env.listen()
        live = {"connection_log_connect": True, "connection_log_interval": "1s"}
        bitflow = env.start(
            proxy(address, env.echo().address, **live),
            proxy(bad, env.refusing(), name="bad", **live),
            proxy(idle, listener.address, name="idle", **live),
            application=all_on(statsd, receiver),
            plan={"limits": {"CORE": 0}},
        )
        bitflow.expected_status = -signal.SIGABRT
        pairs = [env.pair(idle, listener) for _ in range(20)]
        dying, rounds = threading.Event(), collections.Counter()

        def load(number):
            while True:
                try:
                    with sockets.connect(address if number % 4 else bad) as client:
                        if number % 4:
                            sockets.round_trip(client, bytes(3000))
                        else:
                            sockets.receive_until_broken(client)
                    rounds[number] += 1
                except (OSError, AssertionError):
                    if dying.is_set():
                        return
                    raise

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            running = [pool.submit(load, number) for number in range(8)]
            wait_for(lambda: len(rounds) == 8 and min(rounds.values()) > 10, "all are at it")
            wait_for(lambda: statsd.counters()[f"{PROXY}.connections.accepted"], "metrics")
            dying.set()
            bitflow.signal(signal.SIGABRT)
            assert bitflow.wait_ended() == -signal.SIGABRT
            for each in running:
                each.result()
        event = receiver.wait_event(level="fatal", signal="SIGABRT")
        crumbs = event["breadcrumbs"]["values"]
        assert crumbs and {crumb.get("level") for crumb in crumbs} <= {"info", "warning", "error"}, crumbs
        assert receiver.wait_event(proxy="bad", reason="connect_refused")
        records = [json.loads(line) for line in env.records_path.read_text().splitlines()]
        check_schema(records, every=10)
        assert len({record["id"] for record in ends(records)}) == len(ends(records))
        assert all(line["ts"] for line in bitflow.log_lines(True))
        trace = [line for line in bitflow.stderr().splitlines() if "crashed: SIGABRT" in line]
        assert len(trace) == 1 and trace[0].startswith("bitflow "), trace
        for client, _ in pairs:
            assert sockets.receive_until_broken(client)[0] == b""


def test_a_thousand_idle_connections_are_each_reported_and_slow_nobody_down(env):
    """Each is reported again and again, but not more often than asked for."""
    statsd = env.keep(Datagrams())
    listener, address, busy, count = env.listen(), env.address(), env.address(), scale(1000, 150)
    live = {"connection_log_connect": True, "connection_log_interval": "1s"}
    bitflow = env.start(
        proxy(address, listener.address, name="idle", **live),
        proxy(busy, env.echo().address, name="busy", **live),
        level="info",
        application=all_on(statsd, level="info"),
    )

    def laps(seconds):
        with sockets.connect(busy) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            times, until = [], time.monotonic() + seconds
            while time.monotonic() < until:
                watch = Stopwatch()
                sockets.round_trip(client)
                times.append(watch.seconds)
            return statistics.median(times)

    before = laps(0.3)
    pairs = [env.pair(address, listener) for _ in range(count)]
    for number, (client, target) in enumerate(pairs):
        client.sendall(bytes(1 + number % 7))
        sockets.receive_exactly(target, 1 + number % 7)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        meanwhile = pool.submit(laps, 1.5)

        def reported():
            seen = collections.Counter(
                record["id"]
                for record in bitflow.records()
                if record["event"] == "active" and record["proxy"] == "idle" and record["bytes_from_client"] > 0
            )
            return sum(times >= 2 for times in seen.values()) == count

        wait_for(reported, "two records of each", 20)
        after = meanwhile.result()
    # The median of thousands of round trips; a lock or a write on their way would be milliseconds.
    assert after < 5 * before + 0.002 * pace(), (before, after)
    wait_for(lambda: statsd.gauges()["proxy.idle.connections.active"] == count, "the gauge")
    for client, target in pairs:
        client.close()
        target.close()
    wait_for(lambda: len(ends(bitflow.records())) == count + 2, "all have ended", 20)
    records = bitflow.records()
    by_id = assert_each_ends_once(records)
    for own in by_id.values():
        assert own[0]["event"] == "connected"
        for one, other in zip(own[1:], own[2:]):
            if other["event"] == "active":  # never more often than asked for
                assert other["total_ms"] - one["total_ms"] > 900, (one, other)
    check_schema(records, every=50)
    wait_sums(bitflow, statsd)
    assert not statsd.counters()["telemetry.dropped.connection_records"]
