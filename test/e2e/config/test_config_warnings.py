"""Warnings: what --check, --check --strict and the start make of a configuration that says less than it seems to."""

import re
import signal
import socket

import pytest

import bitflow_process
import configs
import sockets
from environment import proxy
from waiting import wait_for


def check(path, *options):
    done = bitflow_process.run("--check", *options, "--config", path)
    return done.returncode, done.stdout, done.stderr.splitlines()


def test_strict_makes_a_warning_an_error(env):
    path = env.write(configs.with_line("listener", "client_hello_timeout: 10s"))
    status, stdout, lines = check(path)
    assert (status, len(lines)) == (0, 1) and "is valid" in stdout, lines
    strict_status, strict_stdout, strict_lines = check(path, "--strict")
    assert (strict_status, strict_stdout) == (2, "")
    assert strict_lines == [lines[0], f"{path}: refused because of the warning (--strict)"]


def test_strict_tells_errors_as_ever(env):
    path = env.write(configs.with_line("listener", "adress: x"))
    assert check(path, "--strict") == check(path)
    assert check(path)[0] == 2


def test_strict_accepts_what_is_not_warned_of(env):
    path = env.write(configs.with_line("listener", "write_timeout: 5m"))
    assert check(path, "--strict") == (0, f"{path}: the configuration is valid\n", [])


# Each with the words that warn of it, and their place.
ODD = [
    ("listener", "write_timeout: 5000", 6, 24, "this is 1h23m20s; milliseconds are written 5000ms"),
    ("options", "connection_log: ~/web.json", 13, 25, "nothing in this file is expanded"),
    ("options", "connection_log: '/tmp/web.json '", 13, 25, "has white space at its end"),
    ("options", "connection_log: /nowhere/web.json", 13, 25, 'the directory "/nowhere" does not exist'),
    ("target", "fail_timeout: 10s", 10, 11, "means nothing without max_fails"),
]


@pytest.mark.parametrize("place, line, at, column, words", ODD, ids=[odd[1] for odd in ODD])
def test_what_is_odd_is_told_at_its_place(env, place, line, at, column, words):
    path = env.write(configs.with_line(place, line))
    status, _, lines = check(path)
    assert status == 0 and len(lines) == 1, lines
    key = f"{configs.PLACES[place][0]}.{line.split(':')[0]}"
    assert lines[0].startswith(f"{path}:{at}:{column}: warning: {key}: ") and words in lines[0], lines
    assert check(path, "--strict")[0] == 2


# Unquoted, as somebody would write it first, with the words that help.
UNQUOTED = [
    ("name: front", "name: *.example.com", 3, "a text that begins with * needs quotes"),
    ("address: 127.0.0.1:8080", "address: [::1]:8080", 5, "an address that begins with [ needs quotes"),
    ("address: 127.0.0.1:8080", "address: [2001:db8::1]:8080", 5, "an address that begins with [ needs quotes"),
    ("address: 127.0.0.1:8080", "address: 8080", 5, "only a port; to listen on every address write :8080"),
    ("address: 127.0.0.1:9090", "address: 9090", 9, "only a port; a target is written HOST:9090"),
    ("address: 127.0.0.1:8080", "address: unix:/run/x.sock", 5, "a Unix socket is written unix:///path"),
    ("        address: 127.0.0.1:8080", "\taddress: 127.0.0.1:8080", 5, "a tab in the indentation"),
    ("connection_load_balancer: none", "connection_load_balancer: leastconn", 12, "did you mean least-connections?"),
]


@pytest.mark.parametrize("written, instead, line, words", UNQUOTED, ids=[case[1].strip() for case in UNQUOTED])
def test_what_cannot_be_read_is_told_in_words_that_help(env, written, instead, line, words):
    text = configs.with_line("top", "")
    assert written in text
    configs.rejects(env, text.replace(written, instead, 1), line=line, mentions=[words], count=1)


def test_a_log_level_in_capitals_is_understood(env):
    text = configs.with_line("top", "application: {log: {level: WARN}}")
    configs.rejects(env, text, line=14, mentions=["did you mean warn?"], count=1)


def test_a_warning_never_stops_a_start_or_a_reload(env):
    """A target that is its own listener: the warning is in the log, and bitflow listens."""
    address = env.address()
    looping = proxy(address, address.replace("127.0.0.1", "localhost"), name="looping")
    path = env.config(looping, proxy(env.address(), env.echo().address, name="good"))
    status, _, lines = check(path)
    assert status == 0 and len(lines) == 1 and "targets[0].address: is this proxy's own listener" in lines[0], lines
    bitflow = env.launch(path)
    bitflow.wait_listening(["looping", "good"])
    for count in (1, 2):
        logged = [entry["warning"] for entry in bitflow.log_lines(True) if entry["msg"] == "configuration warning"]
        assert logged == lines * count
        bitflow.signal(signal.SIGHUP)
        wait_for(lambda: bitflow.stderr().count("msg=reloaded") == count, "the reload")


def own_address():
    """One of this host's that is not the loopback's; None if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # which sends nothing
        except OSError:
            return None
        return probe.getsockname()[0]


def test_an_address_of_this_host_is_known_to_be_its_own(env):
    port = env.address().rsplit(":", 1)[1]
    for host in (socket.gethostname(), own_address() or "127.0.0.1"):
        _, _, lines = check(env.config(proxy(f":{port}", f"{host}:{port}")))
        assert len(lines) == 1 and "is this proxy's own listener" in lines[0], (host, lines)
        assert check(env.config(proxy(f":{port}", f"{host}:9")))[2] == []


@pytest.mark.parametrize("first, second, overlaps", [
    (":{}", "127.0.0.1:{}", True),
    ("127.0.0.1:{}", ":{}", True),
    ("0.0.0.0:{}", "127.0.0.1:{}", True),
    ("localhost:{}", "127.0.0.1:{}", True),
    ("127.0.0.2:{}", "127.0.0.1:{}", False),
])
def test_listeners_that_are_said_to_overlap_do(env, first, second, overlaps):
    """What is warned of fails to start; what is not, starts."""
    port = env.address().rsplit(":", 1)[1]
    target = env.echo().address
    path = env.config(proxy(first.format(port), target, name="a"), proxy(second.format(port), target, name="b"))
    status, _, lines = check(path)
    assert status == 0
    if overlaps:
        assert len(lines) == 1 and re.search(r"proxies\[1\]\.listener\.address: overlaps with that of", lines[0]), lines
        assert "ddress already in use" in env.fails_to_start(path)
    else:
        assert lines == []
        env.launch(path).wait_listening(["a", "b"])
        sockets.round_trip(env.connect(second.format(port)))


@pytest.mark.parametrize("kind", ["log", "socket"])
def test_a_directory_that_is_not_there_is_a_warning_until_it_is(env, kind):
    """The start fails without it: --check tells beforehand, and it may still be made."""
    directory = env.directory / "later"
    address = env.address() if kind == "log" else f"unix://{directory}/web.sock"
    log = str(directory / "web.json") if kind == "log" else None
    path = env.config(proxy(address, env.echo().address, connection_log=log))
    status, _, lines = check(path)
    assert status == 0 and len(lines) == 1 and f'the directory "{directory}" does not exist' in lines[0], lines
    assert "o such file or directory" in env.fails_to_start(path)
    directory.mkdir()
    assert check(path, "--strict")[0::2] == (0, [])
    env.launch(path).wait_listening(["front"])
