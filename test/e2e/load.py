"""The benchmarks' load generator (test/bench), compiled for whoever asks."""

import json
import pathlib
import subprocess

from programs import Program, find
from waiting import pace, wait_for

SOURCES = pathlib.Path(__file__).resolve().parents[1] / "bench"


class Load:
    """Makes connections through bitflow to an origin of its own, which answers each with SIZE bytes."""

    SIZE = 100  # of a request, and of its response

    def __init__(self, directory):
        self.path = directory / "load"
        command = [find("cc"), "-std=c11", "-D_GNU_SOURCE", "-O2", "-o", str(self.path)]
        sources = sorted(str(path) for path in SOURCES.glob("*.c"))
        subprocess.run([*command, *sources, "-lssl", "-lcrypto"], check=True, timeout=120 * pace())
        self.origin = Program([str(self.path), "origin", "--address", "127.0.0.1:0", "--mode", "respond"])
        text = wait_for(self.origin.log.read_text, "the origin tells its port", 20)
        self.address = f"127.0.0.1:{json.loads(text.splitlines()[0])['port']}"

    def connections(self, address, at_a_time, seconds):
        """Short connections; the report, in which none has failed."""
        command = [str(self.path), "connections", "--address", address]
        done = subprocess.run(
            [*command, "--connections", str(at_a_time), "--seconds", str(seconds)],
            capture_output=True,
            text=True,
            timeout=seconds + 60 * pace(),
        )
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["errors"] == 0, report
        return report

    def close(self):
        self.origin.close()
