"""The application log's two formats, its limit on lines that repeat, and the id of a connection, which is the same
everywhere."""

import datetime
import json
import os
import re
import signal
import time

import pytest

import proxy_headers
import sockets
from environment import proxy
from waiting import wait_for

LIMIT = 10  # lines of a kind that are written in a second


def json_log(level):
    return {"log": {"level": level, "format": "json"}}


def test_every_line_is_json(env):
    echo, good, bad = env.echo(), env.address(), env.address()
    name = 'q"uote \\ m\u00fcnchen'
    bitflow = env.start(
        proxy(good, echo.address, name=name),
        proxy(bad, env.refusing(), name="bad"),
        application=json_log("debug"),
    )
    client = sockets.connect(good)
    sockets.round_trip(client)
    client.close()
    sockets.was_rejected(env.connect(bad))
    bitflow.wait_records(2)
    bitflow.signal(signal.SIGHUP)
    wait_for(lambda: "reloaded" in bitflow.stderr(), "it is reloaded")
    bitflow.stop()
    text = bitflow.stderr_path.read_bytes()
    lines = bitflow.log_lines()
    assert text.endswith(b"\n")
    assert len(lines) == len(text.decode("utf-8", "strict").splitlines()), "lines that do not belong to the log"
    for line in lines:
        assert list(line)[:3] == ["ts", "level", "msg"], line
        moment = datetime.datetime.strptime(line["ts"], "%Y-%m-%dT%H:%M:%S.%fZ")
        assert abs((datetime.datetime.utcnow() - moment).total_seconds()) < 600
        assert all(isinstance(value, str) for key, value in line.items() if key != "conn"), line
    ids = {record["id"] for record in bitflow.records()}
    assert {line["conn"] for line in lines if "conn" in line} == ids
    assert {line["proxy"] for line in lines if "proxy" in line} == {name, "bad"}
    assert [line["msg"] for line in lines if line["level"] == "error"] == ["the target refused the connection"]


@pytest.mark.parametrize("format", ["json", "logfmt"])
def test_a_peer_cannot_forge_a_line(env, format):
    """A client's Unix address is logged, and may have any bytes in it."""
    echo, address = env.echo(), env.unix()
    bitflow = env.start(
        proxy(address, echo.address), application={"log": {"level": "debug", "format": format}}
    )
    names = [
        b'\0x"}\n{"level":"error","msg":"forged"}\n',
        b"\0x\nts=2026 level=error msg=forged\n",
        b"\0\xff\xc3\x28\xc2\x85\xe2\x80\xa8\x1b[31m\\\r\t",
    ]
    for number, name in enumerate(names):
        client = sockets.connect(address, source=name + b"%d" % os.getpid())
        sockets.round_trip(client)
        client.close()
        bitflow.wait_records(number + 1)
    bitflow.stop()
    text = bitflow.stderr_path.read_bytes().decode("utf-8", "strict")
    lines = text.splitlines()  # at whatever a reader may take for the end of a line
    assert all(line.startswith('{"ts":' if format == "json" else "ts=") for line in lines), text
    accepted = [line for line in lines if "accepted" in line]
    assert len(accepted) == len(names)
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for line in lines for letter in line), text
    if format == "json":
        told = [line["client"] for line in bitflow.log_lines() if line["msg"] == "accepted"]
        assert [name.partition("@")[0] for name in told] == ["unix://"] * len(names), told
        assert all(line["level"] != "error" for line in bitflow.log_lines())


def test_a_reload_changes_format_and_level(env):
    echo, address = env.echo(), env.address()
    entry = proxy(address, echo.address)
    bitflow = env.start(entry, level="error", wait=False)
    bitflow.wait_bound(int(address.rpartition(":")[2]))
    client = sockets.connect(address)
    sockets.round_trip(client)
    client.close()
    bitflow.wait_records(1)
    assert bitflow.stderr() == ""

    def change(expected, **settings):
        before = len(bitflow.stderr())
        env.config(entry, **settings)
        bitflow.signal(signal.SIGHUP)
        line = wait_for(lambda: bitflow.stderr()[before:], "the log says that it is reloaded")
        assert re.fullmatch(expected, line), line

    change(r'\{"ts":"[^"]+","level":"info","msg":"reloaded","file":"[^"]+"\}\n', application=json_log("info"))
    change(r"ts=\S+ level=info msg=reloaded file=\S+\n", level="info")
    before = bitflow.stderr()
    env.config(entry, application=json_log("error"))
    bitflow.signal(signal.SIGHUP)
    bitflow.wait_taken(signal.SIGHUP)
    # What is wrong is logged at that level, in that format; then all that was to be logged before is there, too.
    env.write("server: {}\n")
    bitflow.signal(signal.SIGHUP)
    line = wait_for(lambda: "reload failed" in bitflow.stderr() and bitflow.stderr()[len(before):], "the reload fails")
    assert {json.loads(each)["level"] for each in line.splitlines()} == {"error"}, line
    bitflow.stop()
    assert bitflow.stderr() == before + line, "at level error neither the reload nor the end is logged"


def told(lines, **wanted):
    """(whole lines of this kind, how many more there were according to the lines that count them)."""
    of_kind = [line for line in lines if all(line.get(key) == value for key, value in wanted.items())]
    whole = [line for line in of_kind if "more" not in line]
    return whole, sum(int(line["more"]) for line in of_kind if "more" in line)


def test_a_storm_of_errors_is_logged_as_a_few_lines_and_a_count(env):
    """A target is down: one line counts the rest, even if nothing else is logged any more."""
    address, count = env.address(), 60
    bitflow = env.start(proxy(address, env.refusing(), name="shop"), level="warn", wait=False)
    bitflow.wait_bound(int(address.rpartition(":")[2]))
    start = time.monotonic()
    for _ in range(count):
        sockets.was_rejected(sockets.connect(address))
    bitflow.wait_records(count)
    for wanted in (
        {"level": "warn", "msg": "cannot connect to the target", "target": "target1"},
        {"level": "error", "reason": "connect_refused", "target": "target1"},
    ):

        def all_are_told():
            whole, more = told(bitflow.log_lines(True), proxy="shop", **wanted)
            return (whole, more) if len(whole) + more == count else None

        whole, more = wait_for(all_are_told, lambda: f"all {count} are accounted for: {bitflow.stderr()}")
        windows = int(time.monotonic() - start) + 1
        assert LIMIT <= len(whole) <= LIMIT * windows
        assert len({line["conn"] for line in whole}) == len(whole)
        assert more == count - len(whole)
    more = [line for line in bitflow.log_lines(True) if "more" in line]
    assert more and not any("conn" in line or "client" in line for line in more)


def test_the_lines_left_out_are_counted_at_the_end(env):
    address, count = env.address(), 30
    bitflow = env.start(proxy(address, env.refusing(), name="shop"))
    for _ in range(count):
        sockets.was_rejected(sockets.connect(address))
    bitflow.wait_records(count)
    bitflow.stop()
    lines = bitflow.log_lines()
    whole, more = told(lines, level="error", reason="connect_refused")
    assert len(whole) + more == count
    assert lines[-1]["msg"] == "ended"


def test_a_connection_has_one_id_in_threads_logs_and_header(env):
    address, target = env.address(), env.listen()
    bitflow = env.start(
        proxy(address, target.address, name="shop", enable_proxy_header=True, proxy_header_version=2),
        level="debug",
    )
    pairs = []
    for _ in range(3):
        client, connection = env.pair(address, target)
        _, _, _, _, fields = proxy_headers.receive_v2(connection)
        pairs.append((client, connection, fields[proxy_headers.UNIQUE_ID].decode()))
    assert len({number for _, _, number in pairs}) == len(pairs)
    for client, connection, number in pairs:
        assert bitflow.thread_names().count(f"shop#{number}>") == 1
        # A write that waits brings the second thread.
        sockets.fill(client, settle=0.1)
        wait_for(lambda: f"shop#{number}<" in bitflow.thread_names(), "the second thread has the id, too")
        name = sockets.local_name(client)
        accepted = [line for line in bitflow.log_lines(True) if line.get("client") == name]
        assert [line["conn"] for line in accepted] == [number], accepted
        sockets.reset(client)
        connection.close()
        record = bitflow.record_of(name)
        assert str(record["id"]) == number
        (end,) = [line for line in bitflow.log_lines(True) if line.get("client") == name and "reason" in line]
        assert end["conn"] == number and end["reason"] == record["reason"]
