#!/usr/bin/python3
"""Measures bitflow beside other proxies and no proxy at all: same machine, same run, taking turns.

The program is that of the environment variable BITFLOW, or build/release/bitflow; the load generator that of
BITFLOW_BENCH_LOAD, or the one beside the program, or it is compiled on the spot. docs/benchmarks.md tells what the
figures are. Exit status: 0, 1 when a contender failed, 2 for wrong usage or a missing contender.
"""

import argparse
import contextlib
import dataclasses
import datetime
import fnmatch
import functools
import glob
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile

import certificates
import contenders as contending
import growth
import processes
import report
import scenarios

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

# A run is repeated when other processes kept more than this busy meanwhile.
MAX_FOREIGN_PROCESSORS = 0.15


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     epilog="scenarios: " + ", ".join(one.name for one in scenarios.ALL) +
                                     "; only on request: " + ", ".join(one.name for one in growth.ALL))
    parser.add_argument("--scenario", action="append", metavar="PATTERN",
                        help="only these, as in 'connect-*'; repeatable")
    parser.add_argument("--contenders", metavar="NAMES", help="comma separated, in place of each scenario's own")
    parser.add_argument("--root", default="", metavar="DIRECTORY",
                        help="take all but bitflow from the tree of another system, as debootstrap makes it")
    parser.add_argument("--rounds", type=int, help="timed runs of each contender (5)")
    parser.add_argument("--seconds", type=float, help="length of a timed run (2)")
    parser.add_argument("--idle-connections", type=int, help="for the memory scenario (2000)")
    parser.add_argument("--live-connections", type=int, help="open meanwhile, in the scenarios live-* (8000)")
    parser.add_argument("--neighbours", action="store_true",
                        help="beside a process on each processor that computes all the time; no memory scenarios then")
    parser.add_argument("--quick", action="store_true", help="a smoke test: one short round, figures mean little")
    parser.add_argument("--retries", type=int, help="of a run during which other processes were busy (3)")
    parser.add_argument("--tls-key", choices=certificates.KINDS, default="p256", help="of the certificate (p256)")
    parser.add_argument("--json", metavar="FILE", help="write every run and the medians there, after each scenario")
    arguments = parser.parse_args()
    quick = arguments.quick
    arguments.rounds = arguments.rounds or (1 if quick else 5)
    arguments.seconds = arguments.seconds or (0.2 if quick else 2.0)
    arguments.idle_connections = arguments.idle_connections or (200 if quick else 2000)
    arguments.live_connections = arguments.live_connections or (200 if quick else 8000)
    if arguments.retries is None:
        arguments.retries = 0 if quick else 3
    if quick and arguments.contenders is None:
        arguments.contenders = "bitflow,haproxy,direct"
    if min(arguments.rounds, arguments.seconds, arguments.idle_connections, arguments.live_connections) <= 0:
        parser.error("rounds, seconds and connections are positive")
    patterns = arguments.scenario or ["*"]
    among = [*scenarios.ALL, *growth.ALL] if arguments.scenario else scenarios.ALL
    arguments.chosen = [one for one in among if any(fnmatch.fnmatch(one.name, each) for each in patterns)]
    if arguments.neighbours:
        arguments.chosen = [one for one in arguments.chosen if not one.is_memory]
    if not arguments.chosen:
        parser.error(f"no scenario is named {' or '.join(patterns)}")
    return parser, arguments


def choose_contenders(parser, arguments):
    everyone = contending.all_contenders(os.environ.get("BITFLOW") or os.path.join(ROOT, "build/release/bitflow"),
                                        arguments.root)
    usual = [name for name in everyone if name not in contending.ON_REQUEST]
    for name in [name for name in usual if name in contending.OPTIONAL and everyone[name].missing()]:
        print(f"without {name}: {everyone[name].missing()}", file=sys.stderr)
        usual.remove(name)
    wanted = arguments.contenders.split(",") if arguments.contenders else usual
    for name in wanted:
        if name not in everyone:
            parser.error(f"no contender is named {name}; there are {', '.join(everyone)}")
        if everyone[name].missing():
            parser.error(f"{name}: {everyone[name].missing()}; --contenders leaves it out")
    return {name: contender for name, contender in everyone.items() if name in wanted}


def find_load(bitflow, directory):
    """The load generator: given, built beside the program and not older than its sources, or compiled now."""
    given = os.environ.get("BITFLOW_BENCH_LOAD")
    if given:
        return given
    sources = sorted(glob.glob(os.path.join(HERE, "*.c")))
    built = os.path.join(os.path.dirname(bitflow), "test/bench/bitflow_bench_load")
    newest = max(os.path.getmtime(path) for path in [*sources, os.path.join(HERE, "load.h")])
    if os.access(built, os.X_OK) and os.path.getmtime(built) >= newest:
        return built
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), "cc")
    path = os.path.join(directory, "bitflow_bench_load")
    subprocess.run([compiler, "-std=c11", "-D_GNU_SOURCE", "-O2", "-o", path, *sources, "-lssl", "-lcrypto"],
                   check=True)
    return path


class Runner:
    def __init__(self, bench, rounds, retries, contenders):
        self.bench = bench
        self.rounds = rounds
        self.retries = retries
        self.contenders = contenders
        self.failures = []

    def _attempt(self, scenario, name, action):
        """Runs one measurement; a failure is noted, and the contender sits out the rest of the scenario."""
        try:
            return action()
        except processes.Failure as failure:
            self.failures.append({"scenario": scenario.name, "contender": name, "error": str(failure)})
            print(f"FAILED {scenario.name} {name}: {failure}", file=sys.stderr, flush=True)
            return None

    def _quiet_run(self, action):
        """Runs once more, a few times at most, while others keep the machine busy; the quietest run counts."""
        best = action()
        for _ in range(self.retries):
            if best["foreign_processors"] <= MAX_FOREIGN_PROCESSORS:
                break
            best = min(best, action(), key=lambda result: result["foreign_processors"])
        return best

    def _take_turns(self, scenario, measures, rounds):
        """measures: {contender: function of one run}. Every contender has a run in every round."""
        results = {name: [] for name in measures}
        playing = dict(measures)
        for _ in range(rounds):
            for name, action in list(playing.items()):
                result = self._attempt(scenario, name, lambda action=action: self._quiet_run(action))
                if result is None:
                    del playing[name]
                else:
                    results[name].append(result)
        return {name: runs for name, runs in results.items() if name in playing}

    def _traffic(self, scenario, names):
        bench = self.bench
        with contextlib.ExitStack() as stack:
            origins = {}
            measures = {}

            def origin_for(contender):
                has_tls = scenario.origin_has_tls(contender)
                if has_tls not in origins:
                    origins[has_tls] = scenarios.start_origin(bench, scenario, has_tls)
                    stack.push(origins[has_tls][0])
                return origins[has_tls]

            def prepare(name):
                contender = self.contenders[name]
                origin, origin_port = origin_for(contender)
                child, port = scenarios.start_proxy(bench, scenario, contender, origin_port)
                if child is not None:
                    stack.push(child)
                arguments = scenario.client_arguments(contender)
                # A crowd that every timed run opens for itself warms up by that.
                scenarios.run_traffic(bench, dataclasses.replace(scenario, is_crowded=False), arguments, child, port,
                                      origin, min(0.5, bench.seconds / 2))
                return lambda: scenarios.run_traffic(bench, scenario, arguments, child, port, origin, bench.seconds)

            for name in names:
                action = self._attempt(scenario, name, lambda name=name: prepare(name))
                if action is not None:
                    measures[name] = action
            return self._take_turns(scenario, measures, self.rounds)

    def _memory(self, scenario, names):
        measures = {name: lambda name=name: scenarios.run_idle(self.bench, scenario, self.contenders[name])
                    for name in names}
        results = self._take_turns(scenario, measures, self.rounds)
        direct = results.get("direct")
        if not direct:
            self._attempt(scenario, "direct", self._no_direct)
            return {}
        connections = scenarios.idle_connections(self.bench, scenario)
        return {name: scenarios.per_connection(runs, direct, connections, name == "direct")
                for name, runs in results.items()}

    @staticmethod
    def _no_direct():
        raise processes.Failure("the kernel's memory cannot be told without the contender `direct`")

    def run(self, scenario):
        names = [name for name in scenario.contenders if name in self.contenders]
        if scenario.proxies:
            return self._take_turns(scenario, {name: functools.partial(growth.run_proxies, self.bench, scenario,
                                                                       self.contenders[name]) for name in names},
                                    self.rounds)
        return self._memory(scenario, names) if scenario.is_memory else self._traffic(scenario, names)


def describe_machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = {line.partition(":")[2].strip() for line in file if line.startswith("model name")}
    return {"processors": len(os.sched_getaffinity(0)), "model": ", ".join(sorted(models)) or platform.machine(),
            "kernel": platform.release(), "load_average_before": os.getloadavg()[0]}


def measure_all(arguments, contenders, directory):
    bitflow = contenders["bitflow"].program if "bitflow" in contenders else ""
    bench = scenarios.Bench(find_load(bitflow or ROOT, directory), directory,
                            certificates.create(directory, arguments.tls_key), arguments.seconds,
                            arguments.idle_connections, arguments.live_connections, processes.raise_descriptor_limit(),
                            arguments.quick, arguments.neighbours)
    runner = Runner(bench, arguments.rounds, arguments.retries, contenders)
    summary = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "settings": {"rounds": arguments.rounds, "seconds": arguments.seconds, "retries": arguments.retries,
                     "idle_connections": arguments.idle_connections,
                     "live_connections": arguments.live_connections, "tls_key": arguments.tls_key,
                     "neighbours": arguments.neighbours},
        "contenders": {name: contender.note for name, contender in contenders.items()},
        "scenarios": {},
        "failures": runner.failures,
    }
    report.print_header(summary)
    for scenario in arguments.chosen:
        results = runner.run(scenario)
        summary["scenarios"][scenario.name] = report.summarize(scenario, results)
        report.print_scenario(scenario, summary["scenarios"][scenario.name])
        save(summary, arguments.json)
    return summary


def save(summary, path):
    """After each scenario, so that what a run has measured before it is ended is there."""
    if path:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(summary, file, indent=2)
            file.write("\n")


def main():
    parser, arguments = parse_arguments()
    contenders = choose_contenders(parser, arguments)
    # A terminated benchmark unwinds as an interrupted one does, so that its children end with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="bitflow-bench-") as directory:
        summary = measure_all(arguments, contenders, directory)
    for failure in summary["failures"]:
        print(f"FAILED {failure['scenario']} {failure['contender']}: {failure['error']}")
    return 1 if summary["failures"] else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except processes.Failure as error:
        print(f"run.py: {error}", file=sys.stderr)
        sys.exit(1)
