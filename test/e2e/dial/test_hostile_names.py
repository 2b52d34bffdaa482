"""Proxies and targets with the most hostile names that the configuration accepts, in everything that is observed."""

import collections
import re

import pytest

import bitflow_process
import gdb_session
import sockets
from environment import proxy
from node_peers import Statsd
from telemetry_cases import Datagrams, all_on, assert_sentry_got, ends, sanitized, wait_sums
from sentry_peers import Scripted
from waiting import wait_for

NAMES = [
    "a.b:c|d@0.1|#e:f,g=h i;j",
    "prüfung ☃ \U0001f980 e\u0301",
    "x" * 64,
    "☃" * 21,  # 63 bytes: the limit of a thread's name falls within a letter
    "\"quoted\" \\back\\slash 'single'",
    "%s%n%99999d",
    "{proxy} ${1} $(reboot) `id`",
    "..",
    "-",
    "#1>",
    "web#7>",
    "\u202eright to left\u200b",
    "x:1|c\\n",
    "ends\\",
    "<b>&amp;</b>",
    "PROXY ADDRESS ACTIVE",
]
TAKES_TAGS = re.compile(r"[A-Za-z0-9_.-]+")


def entries(env, names, refusing=None, **options):
    """For each name a proxy of that name, whose target has another of them."""
    echo = env.echo()
    found = []
    for number, name in enumerate(names):
        target = {"name": names[-1 - number], "address": refusing or echo.address}
        found.append(proxy(env.unix(f"{number}.sock"), target, name=name, **options))
    return found


def serving(bitflow):
    """The threads of connections; a name may have a '#' of its own."""
    return [name for name in bitflow.thread_names() if re.search(r"#\d+[<>]$", name)]


def connect(env, entry):
    return env.connect(entry["listener"]["address"])


def test_hostile_names_stay_whole_in_logs_and_harmless_in_metrics(env):
    """Sentry has them as tags."""
    statsd, receiver = env.keep(Statsd()), env.keep(Scripted())
    good = entries(env, NAMES, connection_log_connect=True)
    bad = entries(env, [f"!{name[: 63 // len(name.encode()) * len(name)]}"[:20] for name in NAMES], env.refusing())
    for number, entry in enumerate(bad):
        entry["listener"]["address"] = env.unix(f"bad{number}.sock")
    assert len({entry["name"] for entry in good + bad}) == 2 * len(NAMES)
    bitflow = env.start(*good, *bad, application=all_on(statsd, receiver))
    clients = [connect(env, entry) for entry in good]
    for client in clients:
        sockets.round_trip(client)
    names = serving(bitflow)
    assert len(names) == len(good)
    # The kernel has room for 15 bytes: the id is whole, and the name is cut between characters.
    numbers = {record["id"]: record["proxy"] for record in bitflow.wait_records(len(good))}
    for name in names:
        beginning, number = re.fullmatch(r"(.*)#(\d+)>", name).groups()
        assert len(name.encode()) <= 15 and numbers[int(number)].startswith(beginning), (name, numbers)
        assert "\ufffd" not in name
    accepting = [name for name in bitflow.thread_names() if name.endswith(":accept")]
    assert len(accepting) == len(good + bad) and all(len(name.encode()) <= 15 for name in accepting)
    for entry in bad:
        sockets.was_rejected(connect(env, entry))
    for client in clients:
        client.close()
    wait_for(lambda: len(ends(bitflow.records())) == 2 * len(good), bitflow.stderr)
    bitflow.stop()
    records = bitflow.records()
    ended = collections.Counter(record["proxy"] for record in ends(records))
    assert ended == collections.Counter(entry["name"] for entry in good + bad)
    for record in ends(records):
        entry = next(each for each in good + bad if each["name"] == record["proxy"])
        assert record["target"]["name"] == entry["targets"][0]["name"]
    raw = env.records_path.read_bytes()
    assert raw.isascii()
    told = [(line["proxy"], line["target"]) for line in bitflow.log_lines() if "reason" in line]
    assert sorted(told) == sorted((record["proxy"], record["target"]["name"]) for record in ends(records))
    wait_sums(bitflow, statsd)
    statsd.assert_clean()
    assert_sentry_got(receiver, records)


def test_hostile_names_break_no_line_of_logfmt(env):
    good = entries(env, NAMES)
    bitflow = env.start(*good, level="debug")
    for entry in good:
        with connect(env, entry) as client:
            sockets.round_trip(client)
    bitflow.wait_records(len(good))
    bitflow.stop()
    told = {line["proxy"]: line["target"] for line in bitflow.log_lines() if line.get("reason") == "completed"}
    assert told == {entry["name"]: entry["targets"][0]["name"] for entry in good}
    for line in bitflow.stderr().splitlines():
        assert line.startswith("ts="), line
        assert not re.search("[\x00-\x1f\x7f-\x9f]", line), line


@pytest.mark.parametrize("tag_format, separator", [("none", None), ("dogstatsd", "|#"), ("influxdb", ",")])
def test_hostile_names_break_no_line_of_metrics(env, tag_format, separator):
    """Two that become the same name are counted together."""
    statsd = env.keep(Datagrams())
    names = NAMES + ["twin.", "twin:", "twin|"]
    good = entries(env, names)
    bitflow = env.start(*good, application=all_on(statsd, tag_format=tag_format, prefix="p.q"))
    for entry in good:
        with connect(env, entry) as client:
            sockets.round_trip(client)
        sockets.round_trip(connect(env, entry))
    bitflow.quiet_check = False  # a listener's thread with '#' in its name looks busy
    bitflow.wait_records(len(good))

    def made(name):
        return sanitized(name) if tag_format == "none" else re.sub(r"[^A-Za-z0-9_.-]", "_", name)

    wanted, active = collections.Counter(), collections.Counter()
    for name in names:
        wanted[made(name)] += 1
        active[made(name)] = 1
    line = {
        "none": r"p\.q\.proxy\.([A-Za-z0-9_-]+)\.connections\.{what}:(\d+)\|{kind}",
        "dogstatsd": r"p\.q\.proxy\.connections\.{what}:(\d+)\|{kind}\|#proxy:([A-Za-z0-9_.-]+)",
        "influxdb": r"p\.q\.proxy\.connections\.{what},proxy=([A-Za-z0-9_.-]+):(\d+)\|{kind}",
    }[tag_format]

    def seen(what, kind):
        """(name, value) of each such line."""
        pattern = re.compile(line.replace("{what}", what).replace("{kind}", kind))
        found = [match.groups() for match in map(pattern.fullmatch, statsd.poll()) if match]
        return [(b, int(a)) if tag_format == "dogstatsd" else (a, int(b)) for a, b in found]

    def accepted():
        sums = collections.Counter()
        for name, value in seen("accepted", "c"):
            sums[name] += value
        return sums

    twice = collections.Counter({name: 2 * count for name, count in wanted.items()})
    wait_for(lambda: accepted() == twice, lambda: f"{accepted()}, wanted {twice}")
    # Of a gauge that two proxies share, the last value counts.
    wait_for(lambda: dict(seen("active", "g")) == active, lambda: f"{dict(seen('active', 'g'))}, wanted {active}")
    if separator:
        assert all(line.count(separator) >= 1 for line in statsd.lines if ".proxy." in line)


@pytest.mark.parametrize(
    "name",
    ["y" * 200, "☃" * 22, "", "a\tb", "a\nb", "\x7f", "a\x00b", "a\x9bb"],
    ids=["200 letters", "66 bytes", "empty", "tab", "line feed", "delete", "null", "CSI"],
)
def test_a_name_that_is_too_long_empty_or_moves_the_cursor_is_rejected(env, name):
    """At its place, and without an echo of control characters."""
    path = env.config(proxy(env.address(), env.refusing(), name=name))
    done = bitflow_process.run("--check", "--config", path)
    assert done.returncode == 2, (name, done.stderr)
    assert re.match(rf"{re.escape(str(path))}:\d+:\d+: server\.proxies\[0\]\.name: ", done.stderr), done.stderr
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", done.stderr), repr(done.stderr)


@pytest.mark.skipif(
    bitflow_process.is_sanitized(bitflow_process.binary()),
    reason="gdb cannot show a sanitizer's stacks and shadow memory",
)
def test_gdbs_tables_have_a_row_for_each_hostile_name(env):
    """It begins with the id or the name."""
    good = entries(env, NAMES)
    bitflow = env.start(*good, environment={"MALLOC_ARENA_MAX": "1"})
    bitflow.quiet_check = False  # a listener's thread with '#' in its name looks busy
    for entry in good:
        sockets.round_trip(connect(env, entry))
    listed = gdb_session.live(
        bitflow, ["bitflow connections", "bitflow proxies", "bitflow threads", f"bitflow connections {NAMES[5]}"]
    )
    assert f"{len(NAMES)} connections" in listed["bitflow connections"]
    rows = listed["bitflow connections"].splitlines()
    for number, name in enumerate(NAMES, 1):
        (row,) = [row for row in rows if re.match(rf"\s*{number}\s(?!connections)", row)]
        assert name in row and NAMES[-number] in row and "relaying" in row, (name, row)
        (row,) = [row for row in listed["bitflow proxies"].splitlines() if row.startswith(name + "  ")]
        assert NAMES[-number] in row, row
    threads = gdb_session.threads(listed["bitflow threads"])
    assert {name for _, name, *_ in threads.values()} >= set(serving(bitflow))
    assert "1 connections" in listed[f"bitflow connections {NAMES[5]}"], listed
