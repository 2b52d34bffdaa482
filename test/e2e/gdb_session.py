"""gdb run over a bitflow, alive or as a core file, with what its commands say as tables."""

import re
import subprocess

import bitflow_process
import needs
import programs
from waiting import pace

PROXIES_OF_TARGETS = 4  # columns of `bitflow proxies` that only a proxy's first line has


def gdb(*arguments, trusted=True, timeout=60.0):
    """The output of one run of gdb without anybody's configuration."""
    path = bitflow_process.binary()
    if "-p" in arguments:
        needs.TRACING.need()
    command = [programs.find("gdb"), "-q", "-nx", "-batch", "-iex", "set debuginfod enabled off"]
    if trusted:
        command += ["-iex", f"add-auto-load-safe-path {path}"]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout * pace(),
    )
    return done.stdout


def sections(where, commands, **settings):
    """{command: what it printed}, of one run; `where` are gdb's arguments that name the process."""
    arguments = []
    for number, command in enumerate(commands):
        arguments += ["-ex", f"echo \\n=== {number}\\n", "-ex", command]
    output = gdb(*where, *arguments, "-ex", "echo \\n=== end\\n", **settings)
    parts = re.split(r"^=== (?:\d+|end)$\n?", output, flags=re.MULTILINE)
    assert len(parts) == len(commands) + 2, output
    return {command: part.strip("\n") for command, part in zip(commands, parts[1:])}


def live(bitflow, commands, **settings):
    return sections(["-p", bitflow.pid], commands, **settings)


def core(path, commands, **settings):
    return sections([bitflow_process.binary(), "-core", path], commands, **settings)


def rows(text, head):
    """The lines of the table that begins with this word, each as the list of its cells."""
    lines = text.splitlines()
    start = next((number for number, line in enumerate(lines) if line.split()[:1] == [head]), None)
    assert start is not None, f"no table of {head}: {text}"
    return [re.split(r"\s{2,}", line.strip()) for line in lines[start + 1 :] if "  " in line]


class Row:
    """A line of `bitflow connections`."""

    def __init__(self, cells):
        self.id, self.proxy, self.client, self.target, self.phase = int(cells[0]), *cells[1:5]
        self.from_client, self.from_target, self.age, self.threads = int(cells[5]), int(cells[6]), *cells[7:]
        self.lwps = {mark: int(lwp) for mark, lwp in re.findall(r"([<>])\d+ \(LWP (\d+)\)", self.threads)}
        self.numbers = {mark: int(number) for mark, number in re.findall(r"([<>])(\d+) ", self.threads)}

    def seconds(self):
        match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:([\d.]+)s)?", self.age)
        assert match and self.age, self.age
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return hours * 3600 + minutes * 60 + seconds


def connections(text):
    """{id: Row} of what `bitflow connections` printed."""
    found = [Row(cells) for cells in rows(text, "ID")]
    assert len({row.id for row in found}) == len(found), text
    assert f"{len(found)} connections" in text, text
    return {row.id: row for row in found}


def threads(text):
    """{LWP: (gdb's number, name, what it does, function, connection)} of `bitflow threads`."""
    found = {}
    for number, lwp, name, does, function, connection in rows(text, "GDB"):
        found[int(lwp)] = (int(number), name, does, function, connection)
    return found


def proxies(text):
    """{proxy: (address, active, accepted, {target: (address, active, health)})} of `bitflow proxies`."""
    found, name = {}, None
    for cells in rows(text, "PROXY"):
        if len(cells) > PROXIES_OF_TARGETS:
            name, address, active, accepted = cells[:PROXIES_OF_TARGETS]
            found[name] = (address, int(active), int(accepted), {})
        target, address, active, health = cells[-4:]
        found[name][3][target] = (address, int(active), health)
    return found

