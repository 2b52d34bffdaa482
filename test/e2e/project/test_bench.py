"""The benchmark (test/bench/run.py) at work for a moment: its figures are complete, and it leaves nothing behind.
What it has measured becomes tables and plots (test/bench/publish.py)."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import xml.etree.ElementTree

import pytest

import bitflow_process
import programs
from waiting import pace

ROOT = pathlib.Path(__file__).resolve().parents[3]
RUN = ROOT / "test" / "bench" / "run.py"
EXCHANGE = {"rate", "p50_us", "p99_us", "cpu_per_exchange"}


def bench(directory, *arguments, contenders):
    """Its results of one short round; none of the processes that it started is left."""
    for name in ("haproxy", "nginx", "hitch", "stunnel", "socat", "openssl"):
        programs.find(name)
    result = directory / "result.json"
    done = subprocess.run(
        ["/usr/bin/python3", str(RUN), "--quick", "--json", str(result), "--contenders", contenders, *arguments],
        capture_output=True, text=True, timeout=200 * pace(), check=False,
        env={**os.environ, "BITFLOW": str(bitflow_process.binary()), "BITFLOW_BEFORE": str(bitflow_process.binary()),
             "TMPDIR": str(directory)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert not processes_in(directory)
    return json.loads(result.read_text()), done.stdout


def processes_in(directory):
    """The processes whose working directory is below it, as that of each of the benchmark's is."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if entry.readlink().is_relative_to(directory):
                found.append(int(entry.parent.name))
    return found


@pytest.fixture(autouse=True)
def not_under_sanitizers():
    if bitflow_process.is_sanitized(bitflow_process.binary()):
        pytest.skip("figures of a sanitizer's build mean nothing")


def test_figures_beside_busy_neighbours_are_complete(tmp_path):
    """A process on each processor computes during each run; what it gets done is a figure of its own."""
    summary, text = bench(
        tmp_path, "--neighbours", "--scenario", "pingpong-1", "--scenario", "connect-8", "--scenario", "idle",
        contenders="bitflow,haproxy,nginx,direct",
    )  # fmt: skip
    assert set(summary["scenarios"]) == {"pingpong-1", "connect-8"} and summary["settings"]["neighbours"]
    for scenario in summary["scenarios"].values():
        assert set(scenario["contenders"]) == {"bitflow", "haproxy", "nginx", "direct"}
        for name, contender in scenario["contenders"].items():
            figures = {key: figure["median"] for key, figure in contender["figures"].items()}
            assert set(figures) >= (EXCHANGE if name != "direct" else EXCHANGE - {"cpu_per_exchange"})
            assert 0 < figures["p50_us"] <= figures["p99_us"]
            assert 0.05 < figures["neighbour_processors"] <= len(os.sched_getaffinity(0))
    assert "beside a process on each processor that computes" in text and " neighbours " in text


def played(summary):
    return {name: set(scenario["contenders"]) for name, scenario in summary["scenarios"].items()}


def test_each_contender_plays_the_scenarios_that_it_can(tmp_path):
    """Streams in which one direction ends before the other are not for all of them with TLS."""
    bitflows = {"bitflow", "bitflow-normal", "bitflow-before"}
    everyone = {*bitflows, "haproxy", "nginx", "hitch", "stunnel", "socat", "direct"}
    summary, _ = bench(
        tmp_path, "--scenario", "tls-pingpong-64", "--scenario", "tls-up-1", "--scenario", "up-1", "--scenario",
        "tls-target-down-1", "--scenario", "tls-connect-16", contenders=",".join(everyone),
    )  # fmt: skip
    assert played(summary) == {
        "tls-pingpong-64": everyone - {"socat"},
        "tls-connect-16": everyone - {"socat"},
        "tls-up-1": everyone - {"socat", "nginx", "hitch"},
        "tls-target-down-1": bitflows | {"haproxy"},
        "up-1": everyone - {"hitch", "stunnel"},
    }
    assert not any("neighbour_processors" in contender["figures"]
                   for scenario in summary["scenarios"].values() for contender in scenario["contenders"].values())


def test_a_crowd_of_idle_connections_lives_through_the_run(tmp_path):
    summary, _ = bench(tmp_path, "--scenario", "live-*", "--live-connections", "300",
                       contenders="bitflow,haproxy,nginx,direct")
    everyone = {"bitflow", "haproxy", "nginx", "direct"}
    assert played(summary) == {"live-connect-1": everyone, "live-pingpong-64": everyone}
    assert summary["settings"]["live_connections"] == 300


def test_sessions_are_resumed_where_the_proxy_offers_it(tmp_path):
    summary, _ = bench(tmp_path, "--scenario", "tls-*resumed-*", "--scenario", "tls-connect-8",
                       contenders="bitflow,haproxy,nginx,hitch,stunnel,direct")
    for name, scenario in summary["scenarios"].items():
        for contender, results in scenario["contenders"].items():
            share = results["runs"][0]["resumed_share"]
            assert (share > 0) == ("resumed" in name and contender != "bitflow"), (name, contender, share)


def test_peers_come_from_the_tree_that_is_named(tmp_path):
    """That of this system does, whose loader is then named on the peers' command lines."""
    summary, _ = bench(tmp_path, "--root", "/", "--scenario", "tls-connect-8", "--scenario", "connect-8",
                       contenders="haproxy,nginx,hitch,stunnel,socat")
    assert played(summary) == {"tls-connect-8": {"haproxy", "nginx", "hitch", "stunnel"},
                               "connect-8": {"haproxy", "nginx", "socat"}}
    assert all(note[0].isdigit() for note in summary["contenders"].values()), "versions"


def publish(result, document):
    return subprocess.run(
        ["/usr/bin/python3", str(RUN.with_name("publish.py")), str(result), "--document", str(document)],
        capture_output=True, text=True, timeout=60 * pace(), check=False,
    )  # fmt: skip


def test_results_become_tables_and_plots_of_the_document(tmp_path):
    """Of the document as it is; its other text stays, also when it is written twice."""
    summary, _ = bench(tmp_path, "--scenario", "connect-8", "--scenario", "up-1", contenders="bitflow,haproxy,direct")
    document = pathlib.Path(shutil.copy(ROOT / "docs" / "benchmarks.md", tmp_path))
    before, _, rest = document.read_text().partition("<!-- results -->\n")
    after = rest.partition("<!-- end of results -->\n")[2]
    for _ in range(2):
        done = publish(tmp_path / "result.json", document)
        assert done.returncode == 0, done.stderr
    text = document.read_text()
    assert text.startswith(before) and text.endswith(after)
    rates = {name: f"{contender['figures']['rate']['median']:.0f}"
             for name, contender in summary["scenarios"]["connect-8"]["contenders"].items()}
    assert f"| `connect-8` | /s | {rates['bitflow']} | {rates['haproxy']} | {rates['direct']} |\n" in text
    plots = sorted(path.name for path in (tmp_path / "benchmarks").iterdir())
    assert plots == ["latency.svg", "processor-time.svg", "rate.svg"]
    assert all(f"(benchmarks/{name})" in text for name in plots)
    drawing = xml.etree.ElementTree.parse(tmp_path / "benchmarks" / "rate.svg").getroot()
    words = [element.text for element in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert {"connect-8, /s", "up-1, MB/s", "bitflow", "haproxy", rates["bitflow"], rates["haproxy"]} <= set(words)
    assert "direct" not in words


def test_failed_runs_and_documents_without_the_place_are_not_published(tmp_path):
    document, result = tmp_path / "document.md", tmp_path / "result.json"
    document.write_text("no place\n")
    summary = {"failures": [{"scenario": "up-1", "contender": "socat", "error": "gone"}]}
    result.write_text(json.dumps(summary))
    assert "failed" in publish(result, document).stderr
    summary = {"failures": [], "scenarios": {}, "contenders": {}}
    result.write_text(json.dumps(summary))
    done = publish(result, document)
    assert done.returncode == 1 and "<!-- results -->" in done.stderr
    assert document.read_text() == "no place\n"
