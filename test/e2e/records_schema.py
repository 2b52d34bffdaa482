"""Records of the connection log against docs/connection-log.schema.json, by a real validator, and against the list of
close reasons."""

import functools
import json
import pathlib
import re

import jsonschema

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "docs" / "connection-log.schema.json"
# Of a long log these many records are validated, and of the rest the first of each kind of end: the validator takes
# half a millisecond for one.
CHECKED_OF_A_LOG = 200


@functools.cache
def validator():
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@functools.cache
def reasons():
    """Who ends a connection, by the reason's name; completed is the relay's to tell."""
    source = (ROOT / "include/bitflow/relay/close_reason.h").read_text()
    found = re.findall(r'X\(CLOSE_\w+,\s*"(\w+)",\s*ENDED_BY_(\w+),', source)
    return {name: by.lower() for name, by in found}


PARTS = {
    "admit_ms": ("client_header_ms", "client_hello_ms", "client_handshake_ms"),
    "dial_ms": ("resolve_ms", "connect_ms", "socks_ms", "target_handshake_ms"),
    "relay_ms": ("first_byte_ms",),
}
ROUNDED = 0.01  # ms; each time is cut to a whole microsecond


def sums(record):
    """Where the timings do not add up."""
    timings = {key: value or 0 for key, value in record["timings"].items()}
    for whole, parts in PARTS.items():
        for part in parts:
            if timings[part] > timings[whole] + ROUNDED:
                yield f"$.timings.{part}: is longer than {whole}"
    phases = sum(timings[key] for key in ("wait_ms", "admit_ms", "dial_ms", "relay_ms"))
    if abs(phases - record["total_ms"]) > ROUNDED:
        yield f"$.timings: the phases take {phases} ms, all together {record['total_ms']} ms"


def ends(record):
    """Where the list of close reasons says that somebody else ended it."""
    reason, by = record["reason"], record["ended_by"]
    if reason is None:
        return
    possible = ("client", "target") if reason == "completed" else (reasons()[reason],)
    if by not in possible:
        yield f"$.ended_by: {by} does not end a connection by {reason}"


def problems(record):
    """What is wrong with a record, in words."""
    found = [f"{error.json_path}: {error.message}" for error in validator().iter_errors(record)]
    return found or [*sums(record), *ends(record)]


def check(record):
    found = problems(record)
    assert not found, f"{found} in {json.dumps(record)}"


def check_file(path):
    seen = set()
    for number, line in enumerate(path.read_text().splitlines()):
        record = json.loads(line)
        kind = tuple(record.get(key) for key in ("event", "reason", "phase", "step"))
        if number < CHECKED_OF_A_LOG or kind not in seen:
            check(record)
            seen.add(kind)
