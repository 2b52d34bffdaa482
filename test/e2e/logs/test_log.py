"""The application log: levels, lines of logfmt, and what they say."""

import datetime
import signal

import pytest

import bitflow_process
import needs
import sockets
from environment import proxy
from programs import Program
from waiting import wait_for

LEVELS = ["debug", "info", "warn", "error"]


def traffic(env, address):
    """A connection that gets an echo and ends."""
    client = sockets.connect(address)
    sockets.round_trip(client)
    client.close()


@pytest.mark.parametrize("level", LEVELS)
def test_no_line_is_below_the_configured_level(env, level):
    echo, good, bad = env.echo(), env.address(), env.address()
    config = env.config(
        proxy(good, echo.address, name="good"), proxy(bad, env.refusing(), name="bad"), level=level
    )
    bitflow = env.launch(config)
    for address in (good, bad):
        bitflow.wait_bound(int(address.rpartition(":")[2]))
    traffic(env, good)
    sockets.was_rejected(env.connect(bad))
    bitflow.wait_records(2)
    bitflow.stop()
    seen = {line["level"] for line in bitflow.log_lines()}
    allowed = set(LEVELS[LEVELS.index(level) :])
    assert seen <= allowed, f"{seen} at level {level}"
    if level in ("debug", "info"):
        assert "info" in seen


def test_nothing_is_logged_when_the_log_is_off(env):
    echo, address = env.echo(), env.address()
    bitflow = env.launch(env.config(proxy(address, echo.address), level=None))
    bitflow.wait_bound(int(address.rpartition(":")[2]))
    traffic(env, address)
    bitflow.wait_records(1)
    bitflow.signal(signal.SIGHUP)
    bitflow.stop()
    assert bitflow.stderr() == ""


def names_asked_for(env, level, connection_log=None):
    """How often sockets are asked for their addresses while three connections come and end well."""
    echo, address = env.echo(), env.address()
    port = int(address.rpartition(":")[2])
    bitflow = env.launch(env.config(proxy(f":{port}", echo.address, connection_log=connection_log), level=level))
    bitflow.wait_bound(port)
    needs.TRACING.need()
    command = ["strace", "-f", "-e", "trace=getsockname,getpeername", "-p", str(bitflow.pid)]
    with Program(command) as strace:
        wait_for(lambda: "attached" in strace.log.read_text(), lambda: strace.log.read_text())
        for _ in range(3):
            traffic(env, address)
        bitflow.wait_parked()
        strace.process.terminate()
        strace.process.wait(10)
        return strace.log.read_text().count("name(")


def test_the_application_log_asks_for_no_addresses(env):
    """As the connection log does, where the listener has several."""
    silent = names_asked_for(env, None)
    assert names_asked_for(env, "error") == silent
    assert names_asked_for(env, "info") == silent
    assert names_asked_for(env, None, str(env.records_path)) > silent


def test_an_error_of_the_start_is_printed_when_the_log_is_off(env):
    taken = env.listen()
    bitflow = env.launch(env.config(proxy(taken.address, env.address()), level=None))
    bitflow.expected_status = 1
    assert bitflow.wait_ended() == 1
    assert taken.address in bitflow.stderr() and "in use" in bitflow.stderr()


def test_every_line_is_logfmt(env):
    echo, address, bad = env.echo(), env.address(), env.address()
    bitflow = env.start(
        proxy(address, echo.address, name="has spaces"), proxy(bad, env.refusing(), name="bad"), level="debug"
    )
    for _ in range(3):
        traffic(env, address)
        sockets.was_rejected(env.connect(bad))
    bitflow.wait_records(6)
    bitflow.signal(signal.SIGHUP)
    bitflow.stop()
    text = bitflow.stderr().splitlines()
    lines = bitflow.log_lines()
    assert len(lines) == len(text), "lines that do not belong to the log"
    for raw, line in zip(text, lines):
        assert list(line)[:2] == ["ts", "level"], raw
        moment = datetime.datetime.strptime(line["ts"], "%Y-%m-%dT%H:%M:%S.%fZ")
        assert len(line["ts"]) == 24 and abs((datetime.datetime.utcnow() - moment).total_seconds()) < 600
        assert line["level"] in LEVELS and line["msg"]


def test_lines_of_a_connection_carry_its_proxy_and_id(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address, name="shop"), level="debug")
    for _ in range(5):
        traffic(env, address)
    ids = {str(record["id"]) for record in bitflow.wait_records(5)}
    lines = [line for line in bitflow.log_lines(partial=True) if "conn" in line]
    assert {line["conn"] for line in lines} == ids
    assert {line["proxy"] for line in lines} == {"shop"}


def test_the_log_tells_why_a_dial_failed(env):
    address, target = env.address(), env.refusing()
    bitflow = env.start(proxy(address, target, name="shop"))
    sockets.was_rejected(env.connect(address))
    number = str(bitflow.wait_records(1)[0]["id"])
    wait_for(
        lambda: [
            line
            for line in bitflow.log_lines(True)
            if line.get("conn") == number
            and line["level"] in ("info", "warn", "error")
            and "refused" in str(line)
        ],
        "the log says why",
    )


def test_the_first_line_tells_version_and_arithmetic(env):
    bitflow = env.start(proxy(env.address(), env.echo().address), level="debug")
    version, arithmetic, *_ = bitflow_process.run("--version").stdout.splitlines()
    first = bitflow.log_lines()[0]
    assert first["msg"] == "starting" and first["level"] == "debug", first
    assert version == "bitflow " + first["version"] and arithmetic == "arithmetic: " + first["arithmetic"], first


def test_each_listener_is_logged_with_its_address(env):
    echo = env.echo()
    addresses = {
        "four": env.address(),
        "six": env.address("::1"),
        "file": env.unix(),
        "abstract": env.abstract(),
    }
    bitflow = env.start(*(proxy(address, echo.address, name=name) for name, address in addresses.items()))
    lines = {line["proxy"]: line for line in bitflow.log_lines(True) if line["msg"] == "listening"}
    assert {name: line["level"] for name, line in lines.items()} == dict.fromkeys(addresses, "info")
    for name, address in addresses.items():
        assert lines[name]["address"].removeprefix("tcp://") == address
