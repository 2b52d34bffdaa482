"""What bitflow spends on an operation, counted, not timed: system calls by strace, instructions in user mode by
callgrind. Each is run N times and then 3N times, by a bitflow of its own, so that start and end cancel out."""

import collections
import pathlib
import re
import ssl

import launches
import peers
import programs
import sockets
import tls_cases
from environment import proxy
from waiting import wait_for

MESSAGE = b"m" * 64
RECORD = b"r" * 16384
PAGE = b"p" * 100


def respond(connection):
    """One request, one response, and the end, which the client waits for."""
    sockets.receive_exactly(connection, len(PAGE))
    connection.sendall(PAGE)


def request(connection):
    connection.sendall(PAGE)
    assert sockets.receive_exactly(connection, len(PAGE)) == PAGE
    assert connection.recv(1) == b""


def client_context():
    """TLS 1.3 with one suite and one group."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_ecdh_curve("prime256v1")
    return context


def short_connections(bitflow, address, count):
    for _ in range(count):
        with sockets.connect(address) as client:
            request(client)
        bitflow.wait_parked()


def tls_connections(bitflow, address, count):
    """A full handshake each: every client is a new one, with no session."""
    for _ in range(count):
        with client_context().wrap_socket(sockets.connect(address)) as client:
            request(client)
            client.unwrap()
        bitflow.wait_parked()


def round_trips(client, data, count):
    for _ in range(count):
        client.sendall(data)
        assert sockets.receive_exactly(client, len(data)) == data


def messages(bitflow, address, count):
    """Half of them in each direction."""
    with sockets.connect(address) as client:
        round_trips(client, MESSAGE, count // 2)
    bitflow.wait_parked()


def tls_records(bitflow, address, count):
    """Half of them opened, half of them sealed."""
    with client_context().wrap_socket(sockets.connect(address)) as client:
        round_trips(client, RECORD, count // 2)
        client.unwrap()
    bitflow.wait_parked()


class Operation:
    """`drive` runs it as often as it is told; `handler` is the target's."""

    def __init__(self, drive, handler, count, is_tls=False):
        self.drive = drive
        self.handler = handler
        self.count = count
        self.is_tls = is_tls


OPERATIONS = {
    "short connection": Operation(short_connections, respond, 40),
    "message of 64 bytes": Operation(messages, peers.echo, 400),
    "TLS connection": Operation(tls_connections, respond, 20, is_tls=True),
    "TLS record of 16 KiB": Operation(tls_records, peers.echo, 100, is_tls=True),
}


def run(env, operation, count, identity):
    """A bitflow with default options from its start to its end."""
    address = env.address()
    listener = tls_cases.tls_listener(identity, verify_mode="none") if operation.is_tls else None
    target = env.serve(operation.handler).address
    bitflow = env.start(proxy(address, target, listener=listener, connection_log=None))
    operation.drive(bitflow, address, count)
    bitflow.stop()


def difference(measure, operation):
    """The counts, by name, of one operation: those of 3N less those of N, over 2N."""
    few, many = measure(operation.count), measure(3 * operation.count)
    return {name: (many[name] - few[name]) / (2 * operation.count) for name in many}


def system_calls(env, monkeypatch, operation, identity):
    """Of each kind, for one operation."""
    output = env.directory / "strace.txt"

    def measure(count):
        output.unlink(missing_ok=True)
        with launches.traced(env, monkeypatch, "-c", "-o", output):
            run(env, operation, count, identity)
        wait_for(lambda: output.exists() and output.read_text().endswith("total\n"), "strace has written its table")
        rows = [line.split() for line in output.read_text().splitlines()[2:-2]]
        calls = collections.Counter({row[-1]: int(row[3]) for row in rows})
        if operation.drive is tls_connections:
            # A handshake looks before it waits: whether the client's answer is there already is the scheduler's affair.
            early = sum(int(row[4]) for row in rows if row[-1] == "recvfrom" and len(row) == 6)
            calls.subtract({"recvfrom": early, "poll": early})
        return calls

    return difference(measure, operation)


def instructions(env, monkeypatch, operation, identity):
    """In user mode for one operation: of all code, and of the program's own."""
    output = env.directory / "callgrind.out"
    options = ["--tool=callgrind", "-q", f"--log-file={env.directory}/valgrind.txt", f"--callgrind-out-file={output}"]

    def measure(count):
        with launches.behind(env, monkeypatch, programs.find("valgrind"), *options):
            run(env, operation, count, identity)
        return by_object(output)

    return difference(measure, operation)


def by_object(path):
    """What callgrind counted in each file of machine code, without what that code called."""
    costs, names, current, is_callee = collections.Counter(), {}, "", False
    for line in path.read_text().splitlines():
        if match := re.match(r"ob=\((\d+)\)(?: (.*))?$", line):
            current = names.setdefault(match[1], pathlib.Path(match[2] or "").name)
        elif match := re.match(r"cob=\((\d+)\) (.*)$", line):
            names.setdefault(match[1], pathlib.Path(match[2]).name)
        elif line.startswith("calls="):
            is_callee = True
        elif match := re.match(r"[+\-*\d]\S* (\d+)$", line):
            if not is_callee:
                costs[current] += int(match[1])
            is_callee = False
    return costs


def stack_kib(bitflow, thread):
    """What the thread has touched of its stack: the resident part of the mapping that its stack pointer is in."""
    text = pathlib.Path(f"/proc/{bitflow.pid}/task/{thread}/syscall").read_text()
    pointer = int(text.split()[-2], 16)
    for first, last, rest in re.findall(
        r"^([0-9a-f]+)-([0-9a-f]+) .*\n((?:[A-Z].*\n)+)", pathlib.Path(f"/proc/{bitflow.pid}/smaps").read_text(), re.M
    ):
        if int(first, 16) <= pointer < int(last, 16):
            return int(re.search(r"^Rss: +([0-9]+) kB$", rest, re.M)[1])
    raise AssertionError(f"no mapping has {pointer:x}")


def idle_stacks_kib(bitflow, address, count):
    """Of `count` plain connections that have passed a message each way and are idle."""
    clients = [sockets.connect(address) for _ in range(count)]
    for client in clients:
        round_trips(client, MESSAGE, 1)
    wait_for(lambda: len(bitflow.busy_threads()) == count, "each has a thread")
    found = [stack_kib(bitflow, thread) for thread, name in bitflow.tasks().items() if "#" in name]
    for client in clients:
        client.close()
    return found
