"""The benchmark (test/bench/run.py) at work for a moment: its figures are complete, and it leaves nothing behind.
What it has measured becomes tables and plots (test/bench/publish.py)."""

import contextlib
import json
import os
import pathlib
import shutil
import socketserver
import subprocess
import threading
import xml.etree.ElementTree

import pytest

import bitflow_process
import load
import programs
import sockets
from waiting import pace, takes_long

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


@takes_long
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


@takes_long
def test_cost_is_measured_by_connections_and_proxies(tmp_path):
    summary, _ = bench(
        tmp_path, "--scenario", "grow-*-10", "--scenario", "grow-idle-1000", "--scenario", "grow-connect-100",
        "--scenario", "grow-proxies-1", contenders="bitflow,haproxy,nginx,direct",
    )  # fmt: skip
    proxies = {"bitflow", "haproxy", "nginx"}
    assert {name: played(summary)[name] - proxies for name in played(summary)} == {
        "grow-idle-10": {"direct"}, "grow-idle-1000": {"direct"}, "grow-connect-10": {"direct"},
        "grow-connect-100": {"direct"}, "grow-pingpong-10": {"direct"}, "grow-proxies-1": set(),
        "grow-proxies-10": set(),
    }  # fmt: skip
    assert all(names >= proxies for names in played(summary).values())
    expected = {"grow-idle-10": {"user"}, "grow-idle-1000": {"user", "kernel", "used"}}
    answer, message = {"answer_p50_us", "answer_p99_us"}, {"rate", "cpu_per_exchange"}
    for name, scenario in summary["scenarios"].items():
        for contender in proxies:
            figures = {key: each["median"] for key, each in scenario["contenders"][contender]["figures"].items()}
            if "idle" in name:
                assert set(figures) == expected[name]
                assert "1000" not in name or figures["user"] > 0
                continue
            usual = {"connect": answer, "pingpong": message,
                     "proxies": answer | message | {"start_seconds", "rest"}}[name.split("-")[1]]
            assert set(figures) == usual and all(value > 0 for value in figures.values()), (name, contender, figures)
            assert figures.get("answer_p50_us", 0) <= figures.get("answer_p99_us", 0)
    assert summary["scenarios"]["grow-idle-1000"]["contenders"]["bitflow"]["runs"][0]["threads"] > 1000


def test_growth_is_measured_on_request_only():
    code = "import sys, run; sys.argv[:] = ['run.py', *sys.argv[1:]]; " \
           "print(*(one.name for one in run.parse_arguments()[1].chosen))"
    chosen = [subprocess.run(["/usr/bin/python3", "-c", code, *arguments], cwd=RUN.parent, capture_output=True,
                             text=True, check=True, timeout=30 * pace()).stdout.split()
              for arguments in ((), ("--quick",), ("--scenario", "grow-proxies-*"))]
    assert "connect-8" in chosen[0] and chosen[0] == chosen[1]
    assert not [name for name in chosen[0] if name.startswith("grow-")]
    assert chosen[2] == ["grow-proxies-1", "grow-proxies-10", "grow-proxies-100"]


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(4096):
            self.request.sendall(data)


class EchoServer(socketserver.ThreadingTCPServer):
    connections = 0

    def verify_request(self, request, client_address):
        self.connections += 1
        return True


@contextlib.contextmanager
def echo_servers(count):
    """At ports in a row, of an address that no other test listens at; each counts its connections."""
    first = sockets.free_port()
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(EchoServer(("127.0.0.77", port), Echo))
                   for port in range(first, first + count)]
        for server in servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
        yield servers


def test_the_load_generator_connects_to_each_port_in_turn(tmp_path):
    with contextlib.closing(load.Load(tmp_path)) as generator, echo_servers(3) as servers:
        address = "{}:{}".format(*servers[0].server_address)
        done = subprocess.run(
            [str(generator.path), "pingpong", "--address", address, "--connections", "7", "--ports", "3",
             "--count", "50"], capture_output=True, text=True, timeout=60 * pace(), check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert [server.connections for server in servers] == [3, 2, 2]


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


def publish(*results, document):
    return subprocess.run(
        ["/usr/bin/python3", str(RUN.with_name("publish.py")), *map(str, results), "--document", str(document)],
        capture_output=True, text=True, timeout=60 * pace(), check=False,
    )  # fmt: skip


def test_results_become_tables_and_plots_of_the_document(tmp_path):
    """Of the document as it is; its other text stays, also when it is written twice."""
    summary, _ = bench(tmp_path, "--scenario", "connect-8", "--scenario", "up-1", contenders="bitflow,haproxy,direct")
    document = pathlib.Path(shutil.copy(ROOT / "docs" / "benchmarks.md", tmp_path))
    before, _, rest = document.read_text().partition("<!-- results -->\n")
    after = rest.partition("<!-- end of results -->\n")[2]
    for _ in range(2):
        done = publish(tmp_path / "result.json", document=document)
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


def figures(**values):
    """As run.py has them: a tenth less and a fifth more at the ends."""
    return {key: {"median": value, "min": value * 0.9, "max": value * 1.2} for key, value in values.items()}


def growth_summary():
    idle = {10: 18432, 8000: 20480}
    proxies = {1: 9000 * 1024, 10: 9180 * 1024, 100: 10980 * 1024}
    measured = {f"grow-idle-{count}": figures(user=size) for count, size in idle.items()}
    measured["grow-idle-8000"].update(figures(kernel=30 * 1024, used=80 * 1024))
    measured |= {f"grow-proxies-{count}": figures(rest=size, start_seconds=count / 1000)
                 for count, size in proxies.items()}
    return {
        "failures": [], "date": "2026-11-29T20:00:00+00:00",
        "machine": {"processors": 2, "model": "Model", "kernel": "6.1"},
        "settings": {"rounds": 3, "seconds": 1.0, "neighbours": False},
        "contenders": {"bitflow": "default options", "hitch": "does not play"},
        "scenarios": {name: {"contenders": {"bitflow": {"figures": each}}, "foreign_processors": 0.02}
                      for name, each in measured.items()},
    }  # fmt: skip


def test_growth_has_a_section_and_lines_of_its_own(tmp_path):
    """The results of the other scenarios stay as they are."""
    document = pathlib.Path(shutil.copy(ROOT / "docs" / "benchmarks.md", tmp_path))
    before, _, rest = document.read_text().partition("<!-- growth -->\n")
    after = rest.partition("<!-- end of growth -->\n")[2]
    result = tmp_path / "result.json"
    result.write_text(json.dumps(growth_summary()))
    for _ in range(2):
        done = publish(result, document=document)
        assert done.returncode == 0, done.stderr
    text = document.read_text()
    assert text.startswith(before) and text.endswith(after)
    section = text[len(before):-len(after)]
    assert "\n- bitflow: default options\n" in section and "hitch" not in section
    assert "| memory of a live one | KiB user | bitflow | 18.0 | 20.0 |\n" in section
    assert "| memory of a live one | KiB all | bitflow |  | 80.0 |\n" in section
    assert "| start, until it listens on all | ms | bitflow | 1.0 | 10.0 | 100.0 |  |\n" in section
    assert "| memory at rest | KiB user | bitflow | 9000 | 9180 | 10980 | 20.0 |\n" in section
    assert "until a new connection" not in section, "nothing was measured of it"
    plots = sorted(path.name for path in (tmp_path / "benchmarks").iterdir())
    assert plots == ["growth-connections.svg", "growth-proxies.svg"]
    assert all(f"(benchmarks/{name})" in section for name in plots)


def test_runs_in_parts_are_published_together(tmp_path):
    """As long as they had the same settings."""
    document = tmp_path / "document.md"
    document.write_text("<!-- growth -->\n<!-- end of growth -->\n")
    results = [tmp_path / "idle.json", tmp_path / "proxies.json"]
    for path in results:
        summary = growth_summary()
        summary["scenarios"] = {name: one for name, one in summary["scenarios"].items() if path.stem in name}
        path.write_text(json.dumps(summary))
    assert publish(*results, document=document).returncode == 0
    written = document.read_text()
    assert "growth-connections.svg" in written and "growth-proxies.svg" in written
    summary["settings"]["rounds"] = 9
    results[1].write_text(json.dumps(summary))
    assert "other settings" in publish(*results, document=document).stderr
    assert document.read_text() == written


def test_a_line_has_each_size_at_its_place(tmp_path):
    """Sizes on a logarithmic scale: 10 is half-way between 1 and 100; values on a linear one that begins at 0."""
    document, result = tmp_path / "document.md", tmp_path / "result.json"
    document.write_text("<!-- growth -->\n<!-- end of growth -->\n")
    result.write_text(json.dumps(growth_summary()))
    assert publish(result, document=document).returncode == 0
    drawing = xml.etree.ElementTree.parse(tmp_path / "document" / "growth-proxies.svg").getroot()
    svg = "{http://www.w3.org/2000/svg}"
    words = [element.text for element in drawing.iter(f"{svg}text")]
    assert {"bitflow", "start, until it listens on all, ms", "memory at rest, KiB user", "1", "10", "100"} <= set(words)
    places = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in drawing.iter(f"{svg}circle")][1:]
    assert len(places) == 6, "a point for each size in each of two panels, and one in the legend"
    (left, low), (middle, higher), (right, high) = places[:3]
    assert middle - left == pytest.approx(right - middle, abs=0.2)
    assert high < higher < low
    assert (low - high) / (low - higher) == pytest.approx(99 / 9, rel=0.02), "1, 10 and 100 ms"


def test_failed_runs_and_documents_without_the_place_are_not_published(tmp_path):
    document, result = tmp_path / "document.md", tmp_path / "result.json"
    document.write_text("no place\n")
    summary = {"failures": [{"scenario": "up-1", "contender": "socat", "error": "gone"}]}
    result.write_text(json.dumps(summary))
    assert "failed" in publish(result, document=document).stderr
    summary = {"failures": [], "scenarios": {}, "contenders": {}}
    result.write_text(json.dumps(summary))
    done = publish(result, document=document)
    assert done.returncode == 1 and "<!-- results -->" in done.stderr
    assert document.read_text() == "no place\n"
