"""The benchmark (test/bench/run.py) at work for a moment: its figures are complete, and it leaves nothing behind."""

import contextlib
import json
import os
import pathlib
import subprocess

import pytest

import bitflow_process
import programs
from waiting import pace

RUN = pathlib.Path(__file__).resolve().parents[2] / "bench" / "run.py"
EXCHANGE = {"rate", "p50_us", "p99_us", "cpu_per_exchange"}


def bench(directory, *arguments, contenders):
    """Its results of one short round; none of the processes that it started is left."""
    for name in ("haproxy", "nginx", "openssl"):
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


def test_each_contender_plays_the_scenarios_that_it_can(tmp_path):
    """nginx plays where no end of a TLS stream has to be passed on."""
    summary, _ = bench(
        tmp_path, "--scenario", "tls-pingpong-64", "--scenario", "tls-up-1", "--scenario", "up-1",
        contenders="bitflow,bitflow-normal,bitflow-before,nginx,direct",
    )  # fmt: skip
    played = {name: set(scenario["contenders"]) for name, scenario in summary["scenarios"].items()}
    everyone = {"bitflow", "bitflow-normal", "bitflow-before", "nginx", "direct"}
    assert played == {"tls-pingpong-64": everyone, "tls-up-1": everyone - {"nginx"}, "up-1": everyone}
    assert not any("neighbour_processors" in contender["figures"]
                   for scenario in summary["scenarios"].values() for contender in scenario["contenders"].values())
