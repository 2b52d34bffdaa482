"""One running bitflow: its start from a generated configuration, its logs, its descriptors and threads, its
end."""

import collections
import contextlib
import ctypes
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys

import needs
import waiting
from waiting import pace, wait_for

SANITIZER_REPORTS = (
    "ERROR: AddressSanitizer",
    "ERROR: LeakSanitizer",
    "WARNING: ThreadSanitizer",
    "runtime error:",
    "FATAL: ThreadSanitizer",
)
LOGFMT_PAIR = re.compile(r'([A-Za-z_][\w.]*)=("(?:[^"\\]|\\.)*"|[^\s"]*)(?:\s+|$)')
SYS_PIDFD_GETFD = 438
IS_X86_64 = os.uname().machine == "x86_64"
SYS_TGKILL = 234 if IS_X86_64 else 131
# epoll_wait and epoll_pwait; architectures with the generic numbers have the second only.
EPOLL_WAITS = {"232", "281"} if IS_X86_64 else {"22"}
PTRACE_DETACH = 17
PTRACE_INTERRUPT = 0x4207
WAIT_FOR_THREADS = 0x40000000  # __WALL
HERE = pathlib.Path(__file__).resolve().parent


def binary():
    path = pathlib.Path(os.environ.get("BITFLOW") or HERE.parents[1] / "build" / "release" / "bitflow")
    assert path.is_file(), f"there is no bitflow at {path}: build it, or name one in BITFLOW"
    return path.resolve()


def is_sanitized(path):
    content = path.read_bytes()
    return b"__asan_init" in content or b"__tsan_init" in content


def parse_logfmt(line):
    """The pairs of a logfmt line as a dict; fails on anything that is not logfmt."""
    pairs, position = {}, 0
    while position < len(line):
        match = LOGFMT_PAIR.match(line, position)
        assert match, f"not logfmt from column {position + 1}: {line!r}"
        value = match.group(2)
        pairs[match.group(1)] = json.loads(value, strict=False) if value.startswith('"') else value
        position = match.end()
    return pairs


def parse_json(line):
    """A line of the log as JSON; fails on a key that is there twice."""
    pairs = json.loads(line, object_pairs_hook=list)
    assert len(dict(pairs)) == len(pairs), f"a key twice: {line!r}"
    return dict(pairs)


class Bitflow:
    def __init__(self, config, directory, serial, log_path, plan=None, environment=None):
        self.config = config
        self.log_path = log_path
        self.records_read = set()  # connection logs beside that one
        self.stderr_path = directory / f"stderr-{serial}.txt"
        self.expected_status = 0
        self.quiet_check = True
        command = [str(binary()), "--config", str(config)]
        passed = []
        if plan:
            if plan.get("uid"):  # the checkout may lie where another user can't look
                command[0] = str(shutil.copy(command[0], directory / "bitflow-copy"))
            passed = [source for source, _ in plan.get("descriptors", [])]
            command = ["/usr/bin/python3", str(HERE / "launch.py"), json.dumps({**plan, "command": command})]
        with open(self.stderr_path, "wb") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                pass_fds=passed,
                env={**os.environ, **(environment or {})},
            )
        self.pid = self.process.pid
        self.resting = None

    # The process

    def state(self):
        """The kernel's letter: T is stopped, Z is a process that has ended."""
        with open(f"/proc/{self.pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0]

    def is_running(self):
        return self.process.poll() is None

    def wait_listening(self, names):
        """Waits until each named proxy has logged that it listens."""

        def ready():
            assert self.is_running(), f"bitflow ended with status {self.process.returncode}: {self.stderr()}"
            listening = {
                line.get("proxy") for line in self.log_lines(partial=True) if line.get("msg") == "listening"
            }
            return set(names) <= listening

        wait_for(ready, lambda: f"{names} listen; the log: {self.stderr()}", timeout=15)
        self.resting = self.descriptors()

    def wait_control(self, count=1):
        """Waits until the control socket has been opened so many times."""
        wait_for(
            lambda: sum("control socket listens" in line["msg"] for line in self.log_lines(partial=True)) >= count,
            lambda: f"the control socket listens; the log: {self.stderr()}",
        )
        self.resting = self.descriptors()

    def wait_bound(self, port):
        """Waits until the process holds a listening TCP socket on that port, without a look at its log."""
        wait_for(
            lambda: self.is_running() and self.listening_inodes(port),
            lambda: f"it listens on {port}; the log: {self.stderr()}",
            timeout=15,
        )
        self.resting = self.descriptors()

    def listening_inodes(self, port):
        """The inodes of this process's TCP sockets that listen on the port."""
        inodes = set()
        for table in ("tcp", "tcp6"):
            with open(f"/proc/{self.pid}/net/{table}") as stream:
                for line in list(stream)[1:]:
                    fields = line.split()
                    if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                        inodes.add(fields[9])
        held = {link[len("socket:[") : -1] for link in self.links() if link.startswith("socket:[")}
        return inodes & held

    def signal(self, number):
        self.process.send_signal(number)

    def reload(self, outcome="reloaded"):
        """Sends SIGHUP and waits until the log tells the outcome, by the words that the message begins with."""

        def told():
            return sum(line["msg"].startswith(outcome) for line in self.log_lines(partial=True))

        before = told()
        self.signal(signal.SIGHUP)
        wait_for(lambda: told() > before, lambda: f"{outcome}: {self.stderr()[-2000:]}")

    def wait_taken(self, number):
        """Waits until the process has taken a signal that was sent to it."""
        def is_pending():
            status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
            return int(re.search(r"^ShdPnd:\s*(\w+)", status, re.MULTILINE)[1], 16) >> (number - 1) & 1

        wait_for(lambda: not is_pending(), lambda: f"signal {number} is taken")

    def signal_thread(self, thread, number):
        """A signal for one thread; one for the process may hit any."""
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.syscall(SYS_TGKILL, self.pid, thread, number) == 0, os.strerror(ctypes.get_errno())

    @contextlib.contextmanager
    def stopped(self):
        """Everything of the process stands still meanwhile; what it is sent, it gets afterwards."""
        self.signal(signal.SIGSTOP)
        try:
            wait_for(lambda: self.state() == "T", "it is stopped")
            yield
        finally:
            self.signal(signal.SIGCONT)

    @contextlib.contextmanager
    def held_thread(self, name):
        """One thread stands still meanwhile, as by a debugger. The process may end within the block, but only after it
        can it be waited for."""
        needs.TRACING.need()
        libc = ctypes.CDLL(None, use_errno=True)
        thread = next(task for task, other in self.tasks().items() if other == name)
        for request in (needs.PTRACE_SEIZE, PTRACE_INTERRUPT):
            assert libc.ptrace(request, thread, None, None) == 0, os.strerror(ctypes.get_errno())
        os.waitpid(thread, WAIT_FOR_THREADS)
        try:
            yield
        finally:
            if libc.ptrace(PTRACE_DETACH, thread, None, None) != 0:
                os.waitpid(thread, WAIT_FOR_THREADS)  # it has ended, and the process has only when this is known

    def wait_ended(self, timeout=10.0):
        """Waits for the end; returns the exit status."""
        wait_for(lambda: not self.is_running(), lambda: f"bitflow ends; the log: {self.stderr()}", timeout)
        return self.process.returncode

    def stop(self, timeout=10.0):
        """Ends the process by SIGTERM and asserts that it ended well."""
        if self.is_running():
            self.signal(signal.SIGTERM)
        status = self.wait_ended(timeout)
        self.check_reports()
        assert status == self.expected_status, f"exit status {status}: {self.stderr()}"

    def kill(self):
        if self.is_running():
            self.process.kill()
        self.process.wait()

    def check_reports(self):
        text = self.stderr()
        for report in SANITIZER_REPORTS:
            assert report not in text, text[max(0, text.index(report) - 200) :][:8000]

    # What it says

    def stderr(self):
        return self.stderr_path.read_text(errors="replace")

    def log_lines(self, partial=False):
        """The application log as a list of dicts, of either format. partial: an unfinished last line is left
        out."""
        text = self.stderr()
        if partial:
            text = text[: text.rfind("\n") + 1]
        return [
            parse_json(line) if line.startswith("{") else parse_logfmt(line)
            for line in text.split("\n")
            if line.startswith(("ts=", "{"))
        ]

    def records(self, path=None):
        """The connection log's records; each line must be a whole JSON object."""
        file = pathlib.Path(path or self.log_path)
        self.records_read.add(file)

        def whole_lines():  # a reader may see a write half done at a page's boundary
            text = file.read_text() if file.exists() else ""
            return [text] if text == "" or text.endswith("\n") else None

        (text,) = wait_for(whole_lines, lambda: f"{file} ends with a whole line: {file.read_text()[-200:]!r}")
        return [json.loads(line) for line in text.splitlines()]

    def wait_records(self, count, path=None, timeout=10.0):
        wait_for(
            lambda: len(self.records(path)) >= count,
            lambda: f"{count} records, there are: {self.records(path)}\n{self.stderr()[-3000:]}",
            timeout,
        )
        return self.records(path)

    def record_of(self, client, timeout=10.0):
        """The record of the connection whose client address is given as the log shows it."""

        def find():
            return [record for record in self.records() if record["client"] == client]

        found = wait_for(
            find,
            lambda: f"a record of {client}, there are: {self.records()}\n{self.stderr()[-3000:]}",
            timeout,
        )
        assert len(found) == 1, f"more than one record of {client}: {found}"
        return found[0]

    # What it holds

    def links(self):
        links = []
        try:
            entries = list(os.scandir(f"/proc/{self.pid}/fd"))
        except PermissionError:
            if self.is_running():
                raise
            return []  # it has ended, and what is left of it is root's
        for entry in entries:
            try:
                links.append(os.readlink(entry.path))
            except FileNotFoundError:
                continue
        return links

    def descriptors(self):
        """Open descriptors counted by kind: socket, pipe, file and anon_inode."""
        kinds = collections.Counter()
        for link in self.links():
            kind = link.split(":")[0]
            kinds[kind if kind in ("socket", "pipe", "anon_inode") else "file"] += 1
        return kinds

    def lowest_free_descriptor(self):
        """With this as its limit the process can open nothing more."""
        taken = {int(name) for name in os.listdir(f"/proc/{self.pid}/fd")}
        return next(number for number in range(len(taken) + 1) if number not in taken)

    def limit(self, name, value):
        """Sets a soft resource limit of the running process; returns the one it had."""
        number, owner = getattr(resource, "RLIMIT_" + name), os.stat(f"/proc/{self.pid}")
        if owner.st_uid == os.geteuid():
            soft, hard = resource.prlimit(self.pid, number)
            resource.prlimit(self.pid, number, (value, hard))
            return soft
        code = (
            "import resource, sys; pid, number, value = map(int, sys.argv[1:]); "
            "soft, hard = resource.prlimit(pid, number); "
            "resource.prlimit(pid, number, (value, hard)); print(soft)"
        )
        # As the process's user: a root without all capabilities may not do it for another.
        done = subprocess.run(
            ["/usr/bin/python3", "-c", code, str(self.pid), str(number), str(value)],
            user=owner.st_uid,
            group=owner.st_gid,
            extra_groups=[],
            check=True,
            capture_output=True,
        )
        return int(done.stdout)

    def tasks(self):
        """{the kernel's id: name} of the threads."""
        names = {}
        for entry in os.scandir(f"/proc/{self.pid}/task"):
            try:
                with open(entry.path + "/comm") as stream:
                    names[int(entry.name)] = stream.read().rstrip("\n")
            except (FileNotFoundError, ProcessLookupError):
                continue
        return names

    def thread_names(self):
        return list(self.tasks().values())

    def busy_threads(self):
        """The threads that serve a connection: their names have its id after a '#'."""
        return [name for name in self.thread_names() if "#" in name]

    def wait_parked(self):
        """Until no thread serves a connection: whether the next one finds a thread is then no matter of luck."""
        wait_for(lambda: not self.busy_threads(), lambda: f"all are parked: {self.thread_names()}")

    def is_in_epoll(self, thread):
        """Whether the kernel has the thread in epoll_wait()."""
        try:
            with open(f"/proc/{self.pid}/task/{thread}/syscall") as stream:
                return stream.read().split()[0] in EPOLL_WAITS
        except (FileNotFoundError, ProcessLookupError):
            return False  # it has ended

    def resting_threads(self):
        """Of the threads with a connection's id in their names those whose connection is over, records and all: they
        wait for the next client."""
        needs.TRACING.need()
        return [name for thread, name in self.tasks().items() if "#" in name and self.is_in_epoll(thread)]

    def wait_resting(self):
        """Until no connection is left, without the 100 ms that wait_parked() takes: workers may wait for clients. What
        is done once in 50 ms, as with the records of a burst, may be still to come."""
        wait_for(
            lambda: len(self.resting_threads()) == len(self.busy_threads()),
            lambda: f"all rest: {self.thread_names()}",
            every=0.001,
        )

    def wait_crash_reporter(self, thread):
        """The pid of the crash reporter, once the thread that crashed has started it."""

        def reporter():
            with open(f"/proc/{self.pid}/task/{thread}/children") as stream:
                pids = stream.read().split()
            if pids and b"--report-crash" in pathlib.Path(f"/proc/{pids[0]}/cmdline").read_bytes():
                return int(pids[0])
            return None

        return wait_for(reporter, "the crash reporter runs")

    def cpu_seconds(self):
        with open(f"/proc/{self.pid}/stat") as stream:
            fields = stream.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_kib(self, key):
        with open(f"/proc/{self.pid}/status") as stream:
            return next(int(line.split()[1]) for line in stream if line.startswith(key + ":"))

    def borrow_sockets(self):
        """Duplicates of the process's sockets, to look at their options. The caller closes them."""
        needs.TRACING.need()
        libc = ctypes.CDLL(None, use_errno=True)
        handle = os.pidfd_open(self.pid)
        borrowed = []
        try:
            for entry in os.scandir(f"/proc/{self.pid}/fd"):
                if os.readlink(entry.path).startswith("socket:"):
                    descriptor = libc.syscall(SYS_PIDFD_GETFD, handle, int(entry.name), 0)
                    assert descriptor >= 0, f"pidfd_getfd: {os.strerror(ctypes.get_errno())}"
                    borrowed.append(socket.socket(fileno=descriptor))
        finally:
            os.close(handle)
        return borrowed

    def assert_quiet(self, timeout=10.0):
        """Asserts that no connection is left: sockets and files as at the start, no thread that serves
        one."""

        def quiet():
            now = self.descriptors()
            same = all(now[kind] <= self.resting[kind] for kind in ("socket", "file"))
            return same and not self.busy_threads()

        wait_for(
            quiet,
            lambda: f"nothing is left of the connections: at rest {dict(self.resting)}, now "
            f"{dict(self.descriptors())}, threads {self.thread_names()[:40]}, {self.stderr()[-3000:]}",
            timeout,
        )


def run(*arguments, timeout=30.0, plan=None, environment=None):
    """Runs bitflow to its end; returns the completed process with its output as text."""
    command = [str(binary()), *map(str, arguments)]
    passed = []
    if plan:
        passed = [source for source, _ in plan.get("descriptors", [])]
        command = [sys.executable, str(HERE / "launch.py"), json.dumps({**plan, "command": command})]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout * pace(),
        pass_fds=passed,
        env={**os.environ, **(environment or {})},
    )
    for report in SANITIZER_REPORTS:
        assert report not in done.stderr, done.stderr[:8000]
    return done


@contextlib.contextmanager
def running(config, **settings):
    """bitflow with Popen's settings, such as the standard streams, for as long as the block lasts; then it must end
    well."""
    streams = {name: subprocess.DEVNULL for name in ("stdin", "stdout", "stderr")}
    with subprocess.Popen([str(binary()), "--config", str(config)], **{**streams, **settings}) as process:
        try:
            yield process
            process.terminate()
            assert process.wait(10 * pace()) == 0
        finally:
            process.kill()


def signal_name(number):
    """Also of those that have none of their own."""
    if signal.SIGRTMIN < number < signal.SIGRTMAX:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    return signal.Signals(number).name


def note_sanitizer():
    """Sets the suite's pace and scale by the kind of the binary."""
    waiting.SANITIZED = is_sanitized(binary())
