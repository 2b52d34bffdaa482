"""What the documents show is what the program does: their examples are valid, their links lead somewhere, the list of
close reasons is the program's."""

import pathlib
import re

import pytest

import bitflow_process
import programs

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def whole_examples():
    """The YAML blocks that are a configuration by themselves; the others show a part of one."""
    for document in DOCUMENTS:
        text = document.read_text()
        for match in FENCE.finditer(text):
            if match.group(1) == "yaml" and re.match(r"(#.*\n|\n)*(server|application):", match.group(2)):
                line = text.count("\n", 0, match.start()) + 1
                yield pytest.param(match.group(2), id=f"{document.name}:{line}")


@pytest.fixture(scope="module")
def credentials(tmp_path_factory):
    """A key and a certificate that is its own authority, in place of those that the examples name."""
    directory = tmp_path_factory.mktemp("credentials")
    programs.run([
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "90",
        "-subj", "/CN=example.com", "-keyout", str(directory / "key"), "-out", str(directory / "crt"),
    ])
    (directory / "key").chmod(0o600)
    return directory


@pytest.mark.parametrize("text", whole_examples())
def test_example_is_valid(tmp_path, credentials, text):
    config = tmp_path / "bitflow.yaml"
    config.write_text(re.sub(r"/etc/bitflow/[\w-]+\.(key|crt)", lambda match: f"{credentials}/{match.group(1)}", text))
    done = bitflow_process.run("--check", "--config", config)
    assert done.returncode == 0, f"{done.stderr}\n{text}"


def test_there_are_examples_to_check():
    shown = {parameter.id.split(":")[0] for parameter in whole_examples()}
    assert {"README.md", "configuration.md", "operations.md", "reaching-targets.md", "tls.md"} <= shown


def test_links_lead_somewhere():
    missing = [f"{document.name}: {link}" for document in DOCUMENTS
               for link in LINK.findall(FENCE.sub("", document.read_text()))
               if not (document.parent / link).exists()]
    assert not missing, missing


def test_every_close_reason_is_in_the_documents_table():
    source = (ROOT / "include/bitflow/proxy/close_reason.h").read_text()
    reasons = re.findall(r'X\(CLOSE_\w+,\s*"(\w+)",\s*ENDED_BY_(\w+),\s*(true|false)', source)
    assert len(reasons) > 15
    table = dict(re.findall(r"^\| `(\w+)` \| ([a-z ]+ \| (?:yes|no)) \|", (ROOT / "docs/connection-log.md").read_text(),
                            re.MULTILINE))
    for name, by, is_error in reasons:
        ended_by = "client or target" if name == "completed" else by.lower()
        assert table.pop(name, None) == f"{ended_by} | {'yes' if is_error == 'true' else 'no'}", name
    assert not table, f"these are no reasons: {table}"
