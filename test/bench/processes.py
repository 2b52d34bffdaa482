"""Child processes of the benchmark: started with a death signal, watched, and always ended by their own id."""

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import time

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


class Failure(Exception):
    """A contender, the origin or the load generator did not do what it was asked to."""


def raise_descriptor_limit(wanted=65536):
    """Returns the number of descriptors that each process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
        except (ValueError, OSError):
            wanted = hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    return max(soft, wanted)


def _die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """One process in a process group of its own, with its output in files (stdout optionally in a pipe)."""

    def __init__(self, arguments, directory, name, pipe_stdout=False):
        self.name = name
        self.log_path = os.path.join(directory, f"{name}.log")
        with open(self.log_path, "wb") as log:
            self.began = time.monotonic()
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE if pipe_stdout else log, stderr=log,
                cwd=directory, start_new_session=True, preexec_fn=_die_with_parent)

    @property
    def pid(self):
        return self.process.pid

    def log_tail(self, limit=600):
        with open(self.log_path, "r", encoding="utf-8", errors="replace") as log:
            return log.read()[-limit:].strip()

    def check_alive(self):
        if self.process.poll() is not None:
            raise Failure(f"{self.name} ended with status {self.process.returncode}: {self.log_tail()}")

    def read_line(self, seconds):
        """The next line of a piped stdout, parsed as JSON."""
        deadline = time.monotonic() + seconds
        line = b""
        descriptor = self.process.stdout.fileno()
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise Failure(f"{self.name} said nothing for {seconds} s")
            byte = os.read(descriptor, 1)
            if not byte:
                self.process.wait(5)
                raise Failure(f"{self.name} ended with status {self.process.returncode}: {self.log_tail()}")
            line += byte
        return json.loads(line)

    def end_input(self):
        self.process.stdin.close()

    def stop(self):
        """Ends the process and what it forked, waiting for both: the group is this child's own."""
        try:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                try:
                    self.process.wait(3)
                except subprocess.TimeoutExpired:
                    pass
        finally:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    try:
                        stream.close()
                    except OSError:
                        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.stop()
