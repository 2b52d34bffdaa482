"""The manual's pages, the shell's completion and the rotation of logs that are installed: they agree with the program
and with docs/."""

import gzip
import os
import pathlib
import re
import subprocess

import pytest

import bitflow_process
import programs
import sockets
from environment import proxy

ROOT = pathlib.Path(__file__).resolve().parents[3]
PACKAGING = ROOT / "packaging"


@pytest.fixture(scope="module")
def made():
    """Where the build puts what it makes for an installation."""
    if bitflow_process.is_sanitized(bitflow_process.binary()):
        pytest.skip("a sanitizer's build makes no manual")
    return bitflow_process.binary().parent / "packaging"


def rendered(page):
    """As a terminal shows it, in one long line a paragraph, without bold and underlines."""
    environment = {**os.environ, "MANWIDTH": "1000", "MANROFFSEQ": "", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""}
    done = subprocess.run([programs.find("man"), "--warnings", "--encoding=UTF-8", "--local-file", str(page)],
                          capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return re.sub(r".\x08|\x1b\[[\d;]*m", "", done.stdout)


def options(*words):
    """The program's long options, or those of a command, as its help has them."""
    return set(re.findall(r"^ +(?:-\w, |    )(--\w+)", bitflow_process.run(*words, "--help").stdout, re.M))


def commands():
    """What follows `bitflow`, and what follows `bitflow control`, as the helps have it."""
    text = bitflow_process.run("control", "--help").stdout
    first = set(re.findall(r"bitflow ([a-z]+) \[", text.partition("\n\n")[0]))
    return first, set(re.findall(r"^  ([a-z-]+)(?: ID)? {2,}", text, re.M))


@pytest.mark.parametrize("page", ["bitflow.1.gz", "bitflow.yaml.5.gz"])
def test_a_page_is_shown_without_a_warning(made, page):
    text = rendered(made / page)
    version = re.match(r"bitflow (\S+)", bitflow_process.run("--version").stdout)[1]
    assert f"bitflow {version}" in text and "@" not in re.sub(r"unix://@|USER\S*@|KEY@", "", text)


def described(text):
    """The options that have a paragraph."""
    return set(re.findall(r"^ +(?:-\w, )?(--\w+)", text, re.M))


def test_the_page_of_the_program_has_its_options_and_signals(made):
    text = rendered(made / "bitflow.1.gz")
    options_there, commands_there, signals_there = (
        text.partition(f"\n{begin}\n")[2].partition(f"\n{end}\n")[0]
        for begin, end in (("OPTIONS", "COMMANDS"), ("COMMANDS", "SIGNALS"), ("SIGNALS", "EXIT STATUS")))
    assert described(options_there) == options() and len(options()) > 4
    assert described(commands_there) == options("control") and len(options("control")) > 4
    first, second = commands()
    assert set(re.findall(r"bitflow ([a-z]+)", text.partition("SYNOPSIS")[2].partition("DESCRIPTION")[0])) == first
    # What is short has its text in the same line.
    assert set(re.findall(r"^ {7}([a-z-]+)(?: ID)?(?:$| +[A-Z])", commands_there, re.M)) == second and len(second) > 8
    named = set(re.findall(r"SIG[A-Z0-9]+", bitflow_process.run("--help").stdout))
    assert set(re.findall(r"SIG[A-Z0-9]+", signals_there)) == named and "SIGUSR2" in named


def table():
    """docs/configuration.md's keys: (key, required, type and default, meaning)."""
    text = (ROOT / "docs/configuration.md").read_text()
    return re.findall(r"^\| `(\S+)` \| (yes|) ?\| (.*?) \| (.*) \|$", text, re.M)


def plain(text):
    """Markdown as the page shows it."""
    return re.sub(r"\s+", " ", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text).replace("`", "")).strip()


def test_the_page_of_the_configuration_has_every_key_and_says_what_the_reference_says(made):
    text = re.sub(r"\s+", " ", rendered(made / "bitflow.yaml.5.gz"))
    at = 0
    rows = table()
    assert len(rows) > 80
    for key, required, kind, meaning in rows:
        entry = f"{key}{' (required)' if required else ''} {plain(kind)} {plain(meaning)}"
        at = text.find(entry, at)
        assert at >= 0, f"the page lacks, or has elsewhere: {entry}"


def completed(*words):
    """What bash offers for the last of these words."""
    script = ('source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _bitflow; '
              'printf "%s\\n" "${COMPREPLY[@]}"')
    done = programs.run(["bash", "-c", script, "bash", str(PACKAGING / "completion/bitflow.bash"), *words])
    return set(done.stdout.split())


def test_the_shell_completes_the_programs_options(tmp_path):
    first, second = commands()
    assert completed("bitflow", "") == options() | first and first == {"control", "health"}
    assert completed("bitflow", "--check", "") == options()
    assert completed("bitflow", "control", "") == options("control") | second
    assert completed("bitflow", "control", "--json", "re") == {"ready", "reload", "reopen-logs"}
    assert completed("bitflow", "control", "end", "") == completed("bitflow", "control", "--proxy", "") == set()
    assert completed("bitflow", "health", "") == options("health")
    assert completed("bitflow", "--ch") == {"--check"}
    (tmp_path / "web.yaml").touch()
    (tmp_path / "web.txt").touch()
    (tmp_path / "folder").mkdir()
    for words in ([], ["--check"], ["control", "--json"], ["health"]):
        assert completed("bitflow", *words, "--config", f"{tmp_path}/") == {
            f"{tmp_path}/web.yaml", f"{tmp_path}/folder"}


def test_the_documented_rotation_is_the_installed_one():
    installed = (PACKAGING / "debian/logrotate").read_text()
    assert f"```\n{installed}```" in (ROOT / "docs/connection-log.md").read_text()


def test_logrotate_rotates_and_loses_nothing(env):
    """As installed, but for the directory, and the service manager in whose place the signal is sent by hand."""
    echo, address = env.echo(), env.address()
    logs = env.directory / "logs"
    logs.mkdir()
    bitflow = env.start(proxy(address, echo.address, connection_log=str(logs / "web.json")))
    text = (PACKAGING / "debian/logrotate").read_text().replace("/var/log/bitflow/", f"{logs}/")
    text, count = re.subn(r"if systemctl(.|\n)*fi\n", f"kill -USR1 {bitflow.pid}\n", text)
    assert count == 1
    rules = env.write(text, "logrotate.conf")
    rules.chmod(0o644)
    state = env.directory / "state"
    for _ in range(3):
        with sockets.connect(address) as client:
            sockets.round_trip(client)
        bitflow.wait_records(1, logs / "web.json")
        programs.run(["logrotate", "--force", "--state", str(state), str(rules)])
    with sockets.connect(address) as client:
        sockets.round_trip(client)
    bitflow.wait_records(1, logs / "web.json")
    older = gzip.decompress((logs / "web.json.2.gz").read_bytes()), gzip.decompress(
        (logs / "web.json.3.gz").read_bytes())
    assert [len(bitflow.records(logs / name)) for name in ("web.json", "web.json.1")] == [1, 1]
    assert [part.count(b"\n") for part in older] == [1, 1]
