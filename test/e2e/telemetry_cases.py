"""What the tests of everything that is observed share: all of it turned on, and the connection log's sums, against
which statsd's, Sentry's and the log's are held."""

import collections
import contextlib
import pathlib
import re
import socket
import threading

import records_schema
import sockets
from waiting import pace, wait_for

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"


def all_on(statsd=None, sentry=None, level="debug", format="json", **metrics):
    """application.* with everything in it."""
    tree = {"log": {"level": level, "format": format}}
    if statsd:
        tree["metrics"] = {"address": statsd if isinstance(statsd, str) else statsd.address, **metrics}
    if sentry:
        tree["sentry_dsn"] = sentry if isinstance(sentry, str) else sentry.dsn
    return tree


def error_reasons():
    """The reasons that are errors, as docs/connection-log.md has them."""
    text = (DOCS / "connection-log.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (yes|no) \|", text, re.MULTILINE)
    assert len(rows) > 30 and dict(rows)["completed"] == "no"
    return {reason for reason, is_error in rows if is_error == "yes"}


def sanitized(name):
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


def ends(records):
    return [record for record in records if record["event"] in ("connection", "rejected")]


def assert_each_ends_once(records):
    """Every id has one end, which is its last record; nothing of it shrinks or changes on the way."""
    by_id = collections.defaultdict(list)
    for record in records:
        by_id[record["id"]].append(record)
    for number, own in by_id.items():
        events = [record["event"] for record in own]
        assert re.fullmatch(r"rejected|(connected )?(active )*connection", " ".join(events)), (number, events)
        for before, after in zip(own, own[1:]):
            for key in ("bytes_from_client", "bytes_from_target", "total_ms"):
                assert before[key] <= after[key], (key, before, after)
            for key in ("proxy", "client", "local", "start", "target", "attempts"):
                assert before[key] == after[key], (key, before, after)
    assert sorted(by_id) == list(range(1, len(by_id) + 1)), "an id is missing"
    return by_id


def sums_of_records(records):
    """{(proxy, what): how many}"""
    sums = collections.Counter()
    for record in ends(records):
        name, reason = sanitized(record["proxy"]), record["reason"]
        if record["event"] == "rejected":
            sums[name, f"rejected.{reason}"] += 1
            continue
        sums[name, "accepted"] += 1
        sums[name, f"closed.{reason}"] += 1
        sums[name, "from_client"] += record["bytes_from_client"]
        sums[name, "from_target"] += record["bytes_from_target"]
        sums[name, "attempted"] += record["attempts"]
        sums[name, "failed"] += record["attempts"] - (record["phase"] == "relaying")
    return +sums


COUNTER = re.compile(
    r"proxy\.(?P<proxy>[^.]+)\."
    r"(?:connections\.(?P<fate>accepted|(?:rejected|closed)\.\w+)"
    r"|bytes\.(?P<way>\w+)"
    r"|target\.[^.]+\.dials\.(?P<dials>attempted|failed)(?:\.\w+)?)"
)


def sums_of_counters(*counters):
    """The same from what one statsd received, or several together."""
    sums = collections.Counter()
    for name, value in (pair for each in counters for pair in each.items()):
        match = COUNTER.fullmatch(name)
        if match:
            sums[match["proxy"], match["fate"] or match["way"] or match["dials"]] += value
    return +sums


def wait_equal(wanted, seen, timeout=15.0):
    """Both functions return the same; what differs is told."""

    def differing():
        left, right = wanted(), seen()
        return {key: (left.get(key), right.get(key)) for key in {*left, *right} if left.get(key) != right.get(key)}

    wait_for(lambda: not differing(), lambda: f"wanted and seen: {differing()}", timeout)


def wait_sums(bitflow, *statsds, timeout=15.0):
    """The connection log's sums are what arrived at these statsds, together."""
    wait_equal(
        lambda: sums_of_records(bitflow.records()),
        lambda: sums_of_counters(*(statsd.counters() for statsd in statsds)),
        timeout,
    )


def facts(event):
    """(proxy, target, reason) of an event in Sentry."""
    return tuple(event.get("tags", {}).get(key) for key in ("proxy", "target", "reason"))


def errors_of(records):
    """How many ends there are of each kind that Sentry has to hear of, once."""
    reasons = error_reasons()
    return collections.Counter(
        (record["proxy"], (record["target"] or {}).get("name"), record["reason"])
        for record in ends(records)
        if record["reason"] in reasons
    )


def assert_sentry_got(receiver, records, others=()):
    """Each error once, under an id that ended so, and nothing else but these messages."""
    wanted = errors_of(records)
    reasons = error_reasons()

    def of_connections():
        return [event for event in receiver.items() if event["logentry"]["message"] not in others]

    wait_for(
        lambda: len(of_connections()) >= len(wanted),
        lambda: f"missing: {set(wanted) - {facts(event) for event in of_connections()}}",
    )
    seen = collections.Counter(facts(event) for event in of_connections())
    assert seen == collections.Counter(dict.fromkeys(wanted, 1))
    by_id = {record["id"]: record for record in ends(records)}
    for event in of_connections():
        record = by_id[int(event["tags"]["connection"])]
        assert record["reason"] == event["tags"]["reason"] and record["proxy"] == event["tags"]["proxy"]
        assert event["level"] == "error" and record["reason"] in reasons
    assert sorted({event["logentry"]["message"] for event in receiver.items()} & set(others)) == sorted(others)


def assert_log_tells(lines, records):
    """Each end has its line: those of info one by one, errors and rejections with how many were left out."""
    told, reasons = collections.Counter(), error_reasons()
    for line in lines:
        if "reason" in line and line["level"] != "debug":
            told[line["proxy"], line["reason"], line["level"]] += int(line.get("more", 1))
    wanted = collections.Counter()
    for record in ends(records):
        level = "error" if record["reason"] in reasons else "warn" if record["event"] == "rejected" else "info"
        wanted[record["proxy"], record["reason"], level] += 1
    ended = {key: count for key, count in told.items() if key in wanted}
    assert ended == dict(wanted)


def check_schema(records, every=1):
    for record in records[::every]:
        records_schema.check(record)


class Datagrams:
    """Reads what statsd would: lines off a UDP or Unix datagram socket, all that came until now."""

    def __init__(self, path=None):
        self.socket = socket.socket(socket.AF_UNIX if path else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(str(path) if path else ("127.0.0.1", 0))
        self.address = f"unix://{path}" if path else sockets.local_name(self.socket)
        self.socket.setblocking(False)
        self.lines = []

    def poll(self):
        with contextlib.suppress(BlockingIOError):
            while self.socket.fileno() >= 0 and (data := self.socket.recv(65536)):
                self.lines += data.decode("ascii").split("\n")
        return self.lines

    def retire(self):
        """Closes it so that no datagram is lost: nothing more can be sent to it, then the rest is read."""
        self.socket.shutdown(socket.SHUT_RD)
        self.poll()
        self.socket.close()

    def counters(self):
        sums = collections.Counter()
        for line in self.poll():
            match = re.fullmatch(r"([^:]+):(\d+)\|c", line)
            if match:
                sums[match[1]] += int(match[2])
        return sums

    def gauges(self):
        return {
            match[1]: int(match[2])
            for match in (re.fullmatch(r"([^:]+):(\d+)\|g", line) for line in self.poll())
            if match
        }

    def counter(self, name):
        return self.counters()[name]

    def wait_gauge(self, name, value):
        wait_for(lambda: self.gauges().get(name) == value, lambda: f"{name} is {value}, but: {self.gauges()}")

    def close(self):
        self.socket.close()


def timed_round_trips(sock, seconds_at_most=2.0):
    """A round trip that no telemetry may hold up."""
    sock.settimeout(seconds_at_most * pace())
    sockets.round_trip(sock)


def all_of(cases, check):
    """Runs check(case) of each at once, since most of it is waiting."""
    failed = []

    def run(case):
        try:
            check(case)
        except BaseException as error:  # told below
            failed.append((case, error))

    threads = [threading.Thread(target=run, args=[case]) for case in cases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise AssertionError(f"{[case for case, _ in failed]}") from failed[0][1]
