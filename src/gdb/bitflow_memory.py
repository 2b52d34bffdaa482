"""What gdb's commands for bitflow (bitflow_commands.py) read from a process: variables, lists, addresses, threads.

Everything is read from memory, and no function of the process is called: a live process and a core file are alike, and
so are debug and release builds. What is read may be half changed, or broken: lists are followed up to a bound, and what
cannot be read is left out and said.
"""

import ipaddress
import os
import re
import socket
import struct
import time

import gdb
from gdb.types import make_enum_dict

LIST_LIMIT = 1000000  # entries of a list; more than any process has threads or connections
FRAME_LIMIT = 24  # to find the innermost function of ours
STACK_LIMIT = 2 << 20  # between a thread's stack pointer and what it keeps at its stack's other end
NS = 1000000000

# What a thread does, by the function that it runs; of a connection's first thread, by the connection's phase.
TASKS = {
    "run_second_thread": "target to client",
    "run_carrier": "serves those that are carried",
    "run_acceptor": "accepts",
    "watch_lifetimes": "ends what is due",
    "run_resolver_jobs": "looks a name up",
    "run_reports": "reports live connections",
    "run_flusher": "writes the connection log",
    "run_statsd": "sends metrics",
    "run_sentry": "sends errors to Sentry",
}
PHASES = {
    "PHASE_ACCEPTING": "begins",
    "PHASE_ADMITTING": "admits its client",
    "PHASE_DIALLING": "connects to a target",
    "PHASE_CLOSING": "closes, writes the records",
}


class Failure(gdb.GdbError):
    """Ends a command with this text, without a trace."""


# Reading memory


def variable(name):
    symbol = gdb.lookup_static_symbol(name) or gdb.lookup_global_symbol(name)
    if symbol is None:
        raise Failure("The variable %s is unknown: are the program's debugging symbols there?" % name)
    try:
        value = symbol.value()
        value.fetch_lazy()
    except gdb.error as error:
        raise Failure("No process to look at: %s" % error)
    return value


def type_of(name):
    try:
        return gdb.lookup_type(name)
    except gdb.error as error:
        raise Failure("%s: are the program's debugging symbols there?" % error)


def container(address, type_name, field):
    """A pointer to the struct that has the field at this address."""
    outer = type_of(type_name)
    offset = next(each.bitpos // 8 for each in outer.fields() if each.name == field)
    return pointer(address - offset, outer)


def pointer(address, to):
    return gdb.Value(address & (1 << 64) - 1).cast(to.pointer())


def text_at(value, limit=300):
    """A zero-terminated string; what is not UTF-8 is escaped."""
    if int(value) == 0:
        return ""
    return value.string(encoding="utf-8", errors="backslashreplace", length=-1)[:limit]


def text_in(value):
    """A char array's text up to its zero."""
    memory = bytes(gdb.selected_inferior().read_memory(int(value.address), value.type.sizeof))
    return memory.split(b"\0")[0].decode("utf-8", "backslashreplace")


def enumerator(value):
    """The name of an enum's value: "PHASE_RELAYING"."""
    return str(value.cast(value.type.unqualified()))


def phase_words(phase):
    """The names that the program itself has for a phase, given as an enumerator's name, and for its step ("": none)."""
    number = make_enum_dict(type_of("enum phase")).get(phase)
    if number is None:
        return phase, ""  # not a phase: what was read is broken
    row = variable("phase_rows")[number]
    return text_at(row["name"]), text_at(row["step"])


def follow(head, problems, what):
    """A list's entries: a TAILQ's (sys/queue.h), by its link."""
    seen = set()
    try:
        entry = head["tqh_first"]
        while int(entry) != 0:
            if int(entry) in seen or len(seen) >= LIST_LIMIT:
                problems.append("The list of %s goes round in itself after %d entries." % (what, len(seen)))
                return
            following = entry["link"]["tqe_next"]
            following.fetch_lazy()
            seen.add(int(entry))
            yield entry.dereference()
            entry = following
    except gdb.MemoryError:
        problems.append("The list of %s is broken after %d entries." % (what, len(seen)))


def function_at(address):
    try:
        block = gdb.block_for_pc(int(address))
    except gdb.error:
        return None
    while block is not None and block.function is None:
        block = block.superblock
    return None if block is None else block.function.name


# Time


def core_file():
    """The core file's path, or None for a live process."""
    match = re.search(r"core dump file:\s*[`'](.+)', file type", gdb.execute("info files", to_string=True))
    return match.group(1) if match else None


class Clock:
    """How old something is: by this machine's clock, or at the time when a core file was written."""

    def __init__(self):
        path = core_file()
        self.wall = self.monotonic = None
        if path is None:
            self.monotonic = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        elif os.path.exists(path):
            self.wall = os.stat(path).st_mtime_ns

    def age(self, monotonic, wall):
        """ns since a moment that is known by both clocks; None: unknown."""
        passed = None
        if self.monotonic is not None:
            passed = self.monotonic - monotonic
        elif self.wall is not None:
            passed = self.wall - wall
        return passed if passed is not None and passed >= 0 else None


def age_text(age):
    if age is None:
        return "?"
    seconds = age / NS
    if seconds < 60:
        return "%.1fs" % seconds
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return "%dh%02dm" % (hours, minutes) if hours else "%dm%02ds" % (minutes, seconds)


# Addresses


def escaped(name):
    return "".join(chr(byte) if 32 < byte < 127 else "\\x%02x" % byte for byte in name)


def endpoint_text(endpoint):
    """A struct endpoint as the logs have it."""
    length = int(endpoint["length"])
    if not 2 <= length <= 128:
        return "none"
    data = bytes(gdb.selected_inferior().read_memory(int(endpoint["address"].address), length))
    family = struct.unpack_from("=H", data)[0]
    if family == socket.AF_INET and length >= 8:
        return "%s:%d" % (ipaddress.IPv4Address(data[4:8]), struct.unpack_from(">H", data, 2)[0])
    if family == socket.AF_INET6 and length >= 24:
        host = ipaddress.IPv6Address(data[8:24])
        host = host.ipv4_mapped or "[%s]" % host
        return "%s:%d" % (host, struct.unpack_from(">H", data, 2)[0])
    if family == socket.AF_UNIX:
        name = data[2:]
        if name.startswith(b"\0"):
            return "unix://@" + escaped(name[1:])
        return "unix://" + escaped(name.split(b"\0")[0]) if name else "unix:"
    return "family %d" % family


def address_text(address):
    """A struct address, as the configuration has it."""
    kind = enumerator(address["kind"])
    if kind == "ADDRESS_TCP":
        host = text_in(address["host"])
        return "%s:%d" % ("[%s]" % host if ":" in host else host, int(address["port"]))
    if kind == "ADDRESS_UNIX":
        return "unix://" + ("@" if address["is_abstract"] else "") + text_in(address["path"])
    return "fd://" + (str(int(address["fd"])) if int(address["fd"]) >= 0 else text_in(address["fd_name"]))


# Threads


def own_name():
    """The kernel's name of the process, which a core file does not give to its first thread."""
    return os.path.basename(gdb.current_progspace().filename or "")[:15]


class Thread:
    """One that gdb knows, that is in the process's own list, or both."""

    def __init__(self, native, listed):
        self.native = native  # gdb.InferiorThread; None: gdb has none for it
        self.number = native.num if native else None
        self.lwp = native.ptid[1] if native else int(listed["id"])
        self.is_main = native is not None and native.ptid[1] == gdb.selected_inferior().pid
        self.task, self.argument, self.is_listed = None, 0, listed is not None
        self.name = (native.name if native else None) or (own_name() if self.is_main else "")
        if listed is not None:
            self.name = text_in(listed["name"]) or self.name
            self.argument = int(listed["argument"])
            if int(listed["task"]) != 0:
                self.task = function_at(listed["task"]) or hex(int(listed["task"]))
        self.connection = None

    @property
    def is_parked(self):
        return self.is_listed and self.task is None

    def label(self):
        return "%s (LWP %d)" % ("-" if self.number is None else self.number, self.lwp)

    def does(self):
        if self.is_main and not self.is_listed:
            return "waits for signals"
        if not self.is_listed:
            return "-"
        if self.is_parked:
            return "waits for a task"
        if self.task == "connection_serve" and self.connection is not None:
            phase = self.connection.phase
            if phase != "PHASE_RELAYING":
                return PHASES.get(phase, phase)
            return "both ways" if self.connection.second is None else "client to target"
        return TASKS.get(self.task, self.task)


class Selected:
    """Keeps gdb's selected thread and frame as they were."""

    def __enter__(self):
        self.thread = gdb.selected_thread()
        try:
            self.frame = gdb.selected_frame() if self.thread is not None else None
        except gdb.error:
            self.frame = None

    def __exit__(self, *_):
        if self.thread is not None and self.thread.is_valid():
            self.thread.switch()
            if self.frame is not None and self.frame.is_valid():
                self.frame.select()


def innermost(native):
    """The innermost function of bitflow's own that the thread is in."""
    native.switch()
    try:
        frame = gdb.newest_frame()
        for _ in range(FRAME_LIMIT):
            if frame is None:
                return ""
            table = frame.find_sal().symtab
            if frame.function() is not None and table is not None and is_ours(table):
                if frame.function().name not in ("deadline_poll", "condition_wait"):  # the caller says for what
                    return frame.function().name
            frame = frame.older()
    except gdb.error:
        pass
    return ""


def is_ours(table):
    own = gdb.lookup_static_symbol("debugged_process")
    return own is not None and table.objfile == own.symtab.objfile and "/src/" in "/" + table.filename


def by_stack(natives, listed):
    """{a thread's number: its entry}, where the kernel's ids do not tell, since the process has a namespace of its
    own: what a thread keeps in the list lies on its stack."""
    found, places = {}, sorted((int(entry.address), entry) for entry in listed)
    for native in natives:
        native.switch()
        stack = int(gdb.newest_frame().read_register("sp"))
        above = next(((place, entry) for place, entry in places if place >= stack), None)
        if above is not None and above[0] - stack < STACK_LIMIT:
            found[native.num] = above[1]
    return found


def all_threads(problems):
    natives = sorted(gdb.selected_inferior().threads(), key=lambda native: native.ptid[1])
    if not natives:
        raise Failure("No process to look at.")
    listed = list(follow(variable("all_threads"), problems, "threads"))
    with Selected():
        by_id = {int(entry["id"]): entry for entry in listed}
        entries = {native.num: by_id[native.ptid[1]] for native in natives if native.ptid[1] in by_id}
        if listed and not entries:
            entries = by_stack(natives, listed)
    threads = [Thread(native, entries.get(native.num)) for native in natives]
    known = {int(entry.address) for entry in entries.values()}
    return threads + [Thread(None, entry) for entry in listed if int(entry.address) not in known]
