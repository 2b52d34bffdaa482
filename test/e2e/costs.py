"""What bitflow spends on an operation, counted, not timed: system calls by strace, instructions in user mode by
callgrind. Each is run N times and then 3N times, by a bitflow of its own, so that start and end cancel out."""

import collections
import contextlib
import pathlib
import re
import shutil
import socket
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
    """One request, one response, and in the same segment the end, which the client waits for."""
    sockets.receive_exactly(connection, len(PAGE))
    connection.send(PAGE, socket.MSG_MORE)
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(1) == b""


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
    """One right after the other, so that the worker that has served one accepts the next."""
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
    # As services are: below the ports that the kernel chooses from, where a connection might meet itself.
    target = env.serve(operation.handler, env.address()).address
    bitflow = env.start(proxy(address, target, listener=listener, connection_log=None))
    operation.drive(bitflow, address, count)
    bitflow.stop()


def difference(measure, operation):
    """The counts, by name, of one operation: those of 3N less those of N, over 2N."""
    few, many = measure(operation.count), measure(3 * operation.count)
    return {name: (many[name] - few[name]) / (2 * operation.count) for name in many}


# How a client gets to a worker depends on how soon it comes after the last one's end: the acceptor hands it on, or a
# worker has waited for it. test_accepting_workers.py is about that.
ACCEPTING = re.compile(r'accept4|epoll_|prctl\(PR_SET_NAME, "parked"|write\(\d+, "\\1\\0')


# How many threads a pool makes depends on the same. What one takes to begin and to end is left out, and what its maker
# does around clone3; that stays, so that a thread for each connection would be seen.
THREAD_BEGINS = re.compile(r"\A(?:rseq|set_robust_list)\((?:.*\n)*?gettid\(.*\n")
THREAD_ENDS = re.compile(r"^sigaltstack\(\{ss_sp=NULL,(?:.*\n)*\Z", re.M)
THREAD_IS_MADE = re.compile(
    r"^rt_sigprocmask\(SIG_SETMASK, .*\n(?:(?:mmap|mprotect|rt_sigprocmask)\(.*\n)*(clone3\(.*\n)"
    r"(?:rt_sigprocmask\(SIG_SETMASK, .*\n){0,2}",
    re.M,
)


def calls_of(threads):
    """What strace has written of each thread, in a file of its own, but for acceptors, the accepting itself and how
    threads come and go."""
    texts = [path.read_text() for path in threads]
    texts = [THREAD_ENDS.sub("", THREAD_BEGINS.sub("", text)) for text in texts if ':accept"' not in text]
    lines = [line for text in texts for line in THREAD_IS_MADE.sub(r"\1", text).splitlines()]
    return [line for line in lines if re.match(r"\w+\(", line) and not ACCEPTING.match(line)]


def traced_threads(env, monkeypatch, operation, identity, count):
    """What strace has written of a run: a file for each thread."""
    folder = env.directory / "strace"

    def written():
        return all("+++ exited with" in path.read_text()[-60:] for path in folder.iterdir())

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with launches.traced(env, monkeypatch, "-ff", "-o", folder / "thread"):
        run(env, operation, count, identity)
    wait_for(written, "strace has written all")
    return list(folder.iterdir())


# From a worker's wait for a client to the next one.
TURN = re.compile(r"^epoll_wait\(.* = 1\n((?:(?!epoll_wait\().*\n)*)", re.M)


def calls_of_turns(threads):
    """All system calls of each connection whose worker has accepted it, and then waited for the next one: but for those
    that have made a thread."""
    turns = [match[1] for path in threads for match in TURN.finditer(path.read_text())]
    served = [turn for turn in turns if turn.startswith("accept4(") and "clone" not in turn and "exit(" not in turn]
    names = [re.findall(r"^(\w+)\(", turn, re.M) for turn in served if '"parked"' not in turn]
    return [collections.Counter(["epoll_wait", *(name for name in calls if name != "futex")]) for calls in names]


def system_calls(env, monkeypatch, operation, identity):
    """Of each kind, for one operation."""

    def measure(count):
        lines = calls_of(traced_threads(env, monkeypatch, operation, identity, count))
        calls = collections.Counter(line.partition("(")[0] for line in lines)
        if operation.drive is tls_connections:
            # A handshake looks before it waits: whether the client's answer is there already is the scheduler's affair.
            early = sum(line.startswith("recvfrom(") and "EAGAIN" in line for line in lines)
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
    state = pathlib.Path(f"/proc/{bitflow.pid}/task/{thread}/syscall")
    words = wait_for(lambda: (words := state.read_text().split()) != ["running"] and words, "the thread waits")
    pointer = int(words[-2], 16)
    for first, last, rest in re.findall(
        r"^([0-9a-f]+)-([0-9a-f]+) .*\n((?:[A-Z].*\n)+)", pathlib.Path(f"/proc/{bitflow.pid}/smaps").read_text(), re.M
    ):
        if int(first, 16) <= pointer < int(last, 16):
            return int(re.search(r"^Rss: +([0-9]+) kB$", rest, re.M)[1])
    raise AssertionError(f"no mapping has {pointer:x}")


def stacks_kib(bitflow):
    """Of all threads that serve a connection, but for one that ends in that moment."""
    found = []
    for thread, name in bitflow.tasks().items():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += [stack_kib(bitflow, thread)] if "#" in name else []
    return found


def idle_clients(bitflow, address, count, is_tls=False):
    """Connections that have passed a message each way and are idle."""
    clients = [sockets.connect(address) for _ in range(count)]
    if is_tls:
        clients = [client_context().wrap_socket(client) for client in clients]
    for client in clients:
        round_trips(client, MESSAGE, 1)
    wait_for(lambda: len(bitflow.busy_threads()) == count, "each has a thread")
    return clients
