"""docs/connection-log.schema.json describes the connection log's records: it accepts real ones of every kind (the
harness validates those of every test, too) and nothing else, and its lists are the program's."""

import copy
import json
import re
import threading

import pytest

import records_schema
import sockets
import tls_cases
import tls_raw
from environment import proxy
from records_schema import ROOT, problems
from waiting import wait_for


@pytest.fixture(scope="module")
def real_records(module_env, pki):
    """A record of every event and phase, with as much in each as there can be."""
    env = module_env
    target, front, limited, refused = env.listen(), env.address(), env.address(), env.address()
    live = {"connection_log_connect": True, "connection_log_interval": "1s"}
    front_tls = tls_cases.tls_listener(pki.server, listener={"proxy_protocol": True})
    bitflow = env.start(
        proxy(front, tls_cases.tls_target(target.address, pki.trusted), name="full", listener=front_tls, **live),
        proxy(limited, target.address, name="limited", listener={"authorized_sources": ["192.0.2.1"]}),
        proxy(refused, env.refusing(), name="refused"),
    )
    sockets.was_rejected(env.connect(limited))
    sockets.was_rejected(env.connect(refused))
    nonsense = env.connect(front)
    nonsense.sendall(b"no header at all\r\n" * 8)
    sockets.receive_until_broken(nonsense)
    client = env.connect(front)
    client.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
    end = tls_raw.Tls(client, tls_raw.client_context(), server_name="server.test")
    context = tls_raw.server_context(pki.server)
    accepted = []
    thread = threading.Thread(target=lambda: accepted.append(tls_cases.tls_accept(target, context)))
    thread.start()
    end.handshake()
    thread.join()
    end.write(b"hello")
    assert accepted[0].read_exactly(5) == b"hello"
    accepted[0].write(b"hello")
    assert end.read_exactly(5) == b"hello"
    wait_for(lambda: "active" in [record["event"] for record in bitflow.records()], "a record of a live connection")
    sockets.reset(client)
    wait_for(lambda: "client_reset" in [record["reason"] for record in bitflow.records()], "its end")
    return bitflow.records()


def kinds(records):
    return {f"{record['event']} {record['phase']}": record for record in records}


def test_real_records_are_valid(real_records):
    assert set(kinds(real_records)) == {
        "rejected accepting",
        "connection admitting",
        "connection dialling",
        "connection relaying",
        "connected relaying",
        "active relaying",
    }
    for record in real_records:
        records_schema.check(record)


def places(value, path=()):
    """The path of every value below this one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from places(inner, (*path, key))


def changed(record, path, change):
    """A copy in which change(object, key) was made at that place."""
    copied = copy.deepcopy(record)
    place = copied
    for key in path[:-1]:
        place = place[key]
    change(place, path[-1])
    return copied


def replace_by(value):
    return lambda place, key: place.__setitem__(key, value)


def test_every_change_of_form_is_found(real_records):
    """For every key: without it, with another beside it, with a value of another type."""
    tried = 0
    for record in kinds(real_records).values():
        for path in places(record):
            mutations = {
                "without": changed(record, path, lambda place, key: place.pop(key)),
                "renamed": changed(record, path, lambda place, key: place.__setitem__(key + "x", place.pop(key))),
                "beside": changed(record, path, lambda place, key: place.__setitem__(key + "x", None)),
                "a list": changed(record, path, replace_by([])),
                "an object": changed(record, path, replace_by({})),
                "negative": changed(record, path, replace_by(-1)),
            }
            if path[-1] != "local":
                mutations["empty"] = changed(record, path, replace_by(""))
            if path[-1] not in ("local", "truncated") or len(path) == 1:
                mutations["a truth value"] = changed(record, path, replace_by(True))
            for name, mutation in mutations.items():
                assert problems(mutation), f"{'.'.join(path)} {name}: {json.dumps(mutation)}"
                tried += 1
    assert tried > 1000


@pytest.mark.parametrize("kind, path, value", [
    ("connection relaying", "event", "closed"),
    ("connection relaying", "event", "active"),
    ("connection relaying", "event", "rejected"),
    ("connection relaying", "id", 0),
    ("connection relaying", "id", 1.5),
    ("connection relaying", "time", "2026-01-01 00:00:00.000Z"),
    ("connection relaying", "end", None),
    ("connection relaying", "phase", "dialling"),
    ("connection relaying", "phase", "relay"),
    ("connection relaying", "step", "connect"),
    ("connection relaying", "reason", "bored"),
    ("connection relaying", "reason", None),
    ("connection relaying", "ended_by", "me"),
    ("connection relaying", "ended_by", "target"),
    ("connection relaying", "attempts", 0),
    ("connection relaying", "bytes_from_client", 0.5),
    ("connection relaying", "timings.relay_ms", None),
    ("connection relaying", "timings.first_byte_ms", 1e9),
    ("connection relaying", "client_tls.version", "SSLv3"),
    ("connection relaying", "target_tls.peer_fingerprint", "00"),
    ("connection relaying", "proxy_header.version", 3),
    ("connection relaying", "client_tcp.retransmits", "3"),
    ("connection dialling", "step", "client_hello"),
    ("connection dialling", "bytes_from_target", 1),
    ("connection dialling", "timings.relay_ms", 1),
    ("connection dialling", "total_ms", 123456),
    ("connection admitting", "step", "resolve"),
    ("connection admitting", "target", {"name": "a", "address": "b", "via": None}),
    ("connection admitting", "attempts", 1),
    ("rejected accepting", "reason", "completed"),
    ("rejected accepting", "ended_by", "client"),
    ("rejected accepting", "timings.wait_ms", 1),
    ("rejected accepting", "event", "connection"),
    ("connected relaying", "end", "2026-01-01T00:00:00.000Z"),
    ("connected relaying", "reason", "completed"),
    ("active relaying", "error", "none"),
    ("active relaying", "target", None),
], ids=str)
def test_every_contradiction_is_found(real_records, kind, path, value):
    record = kinds(real_records)[kind]
    path = tuple(path.split("."))
    assert problems(record) == []
    assert problems(changed(record, path, replace_by(value))), record


def test_the_schemas_reasons_are_the_programs(real_records):
    schema = records_schema.validator().schema
    assert schema["$defs"]["reason"]["enum"] == list(records_schema.reasons())
    assert len(records_schema.reasons()) > 30
    assert set(schema["properties"]["ended_by"]["enum"]) == {*records_schema.reasons().values(), None}


def test_the_schemas_rejections_are_those_of_who_lets_clients_in():
    deciders = ["src/server/acceptor.c", "src/proxy/connection/admission.c", "src/proxy/source_counts.c"]
    source = "".join((ROOT / path).read_text() for path in deciders)
    header = (ROOT / "include/bitflow/relay/close_reason.h").read_text()
    names = dict(re.findall(r'X\((CLOSE_\w+),\s*"(\w+)"', header))
    used = {names[constant] for constant in re.findall(r"\bCLOSE_\w+", source) if constant in names}
    rule = next(
        rule["then"]["properties"]
        for rule in records_schema.validator().schema["allOf"]
        if rule["if"]["properties"].get("event") == {"const": "rejected"}
    )
    assert set(rule["reason"]["enum"]) == used


def field_names(schema):
    for name, inner in schema.get("properties", {}).items():
        yield name
        yield from field_names(inner)


def test_every_field_is_in_the_document():
    schema = records_schema.validator().schema
    fields = set(field_names(schema)).union(*(field_names(part) for part in schema["$defs"].values()))
    assert len(fields) > 50
    document = (ROOT / "docs/connection-log.md").read_text()
    documented = set(re.findall(r"`([\w.]+)`", " ".join(re.findall(r"^\|([^|]*)\|", document, re.MULTILINE))))
    assert fields <= {name.rpartition(".")[2] for name in documented}, fields - documented


def test_the_documents_examples_are_records():
    document = (ROOT / "docs/connection-log.md").read_text()
    blocks = re.findall(r"^```json\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert {json.loads(line)["event"] for line in lines} == {"connection", "rejected", "connected", "active"}
    for line in lines:
        records_schema.check(json.loads(line))
