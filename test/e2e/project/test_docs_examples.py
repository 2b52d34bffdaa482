"""The documents show what the program does: their examples are valid, their links lead somewhere, and their list of
close reasons is the program's."""

import pathlib
import re
import textwrap

import pytest
import yaml

import bitflow_process
import certificates

ROOT = pathlib.Path(__file__).resolve().parents[3]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


# What examples that show only a part of a proxy leave out.
PROXY = {"name": "example", "listener": {"address": ":8080"}, "targets": [{"name": "t", "address": "host:80"}]}


def completed(text):
    """The configuration that a YAML block shows, or shows a part of; None if it is another program's."""
    if re.match(r"(#.*\n|\n)*(server|application):", text):
        return text
    if re.match(r"    (listener|targets|options):", text):
        proxy = {**PROXY, **yaml.safe_load(textwrap.dedent(text))}
        return yaml.safe_dump({"server": {"proxies": [proxy]}})
    return None


def examples():
    yield pytest.param((ROOT / "config.example.yaml").read_text(), id="config.example.yaml")
    for document in DOCUMENTS:
        text = document.read_text()
        for match in FENCE.finditer(text):
            config = completed(match.group(2)) if match.group(1) == "yaml" else None
            if config:
                line = text.count("\n", 0, match.start()) + 1
                yield pytest.param(config, id=f"{document.name}:{line}")


@pytest.fixture(scope="module")
def credentials(tmp_path_factory):
    """A key and a self-signed certificate in place of those that the examples name."""
    directory = tmp_path_factory.mktemp("credentials")
    certificates.self_signed(directory)
    return directory


@pytest.mark.parametrize("text", examples())
def test_an_example_is_valid_and_nothing_in_it_is_warned_of(tmp_path, credentials, text):
    """With a directory in place of those that the examples' sockets and logs are in."""
    config = tmp_path / "bitflow.yaml"
    places = r"/(?:etc/bitflow|run/credentials/bitflow\.service)/[\w-]+\.(key|crt)"
    text = re.sub(places, lambda match: f"{credentials}/{match.group(1)}", text)
    config.write_text(re.sub(r"/(run|var/log)/bitflow/", f"{tmp_path}/", text))
    done = bitflow_process.run("--check", "--strict", "--config", config)
    assert (done.returncode, done.stderr) == (0, ""), f"{done.stderr}\n{text}"


def test_there_are_examples_to_check():
    shown = {parameter.id.split(":")[0] for parameter in examples()}
    assert {"README.md", "configuration.md", "operations.md", "reaching-targets.md", "tls.md"} <= shown


def test_links_lead_somewhere():
    missing = [f"{document.name}: {link}" for document in DOCUMENTS
               for link in LINK.findall(FENCE.sub("", document.read_text()))
               if not (document.parent / link).exists()]
    assert not missing, missing


def test_every_close_reason_is_in_the_documents_table():
    source = (ROOT / "include/bitflow/relay/close_reason.h").read_text()
    reasons = re.findall(r'X\(CLOSE_\w+,\s*"(\w+)",\s*ENDED_BY_(\w+),\s*LOG_(\w+)', source)
    assert len(reasons) > 15
    table = dict(re.findall(r"^\| `(\w+)` \| ([a-z ]+ \| (?:yes|no)) \|", (ROOT / "docs/connection-log.md").read_text(),
                            re.MULTILINE))
    for name, by, level in reasons:
        ended_by = "client or target" if name == "completed" else by.lower()
        assert table.pop(name, None) == f"{ended_by} | {'yes' if level == 'ERROR' else 'no'}", name
    assert not table, f"these are not reasons: {table}"
