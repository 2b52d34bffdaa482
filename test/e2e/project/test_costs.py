"""What an operation costs is what the tables here say, to a tenth: counted, and so the same on a busy machine.

A test that fails because bitflow spends more has found a change that is to be thought over; where the price is wanted,
or where bitflow spends less, the table gets what the message says, so that nobody can lose it again unseen.
"""

import platform

import pytest

import bitflow_process
import costs
import needs
import tls_cases
import waiting
from environment import proxy
from waiting import wait_for

BOUND = 0.1
# System calls of a kind, for one operation: fewer are the memory's, of a thread pool that grows now and then.
LEAST = 0.1
# How often a hand-over between threads has to wait is up to the scheduler.
IGNORED = {"futex"}

SYSTEM_CALLS = {
    "short connection": {
        "close": 2, "connect": 1, "poll": 3, "prctl": 1, "recvfrom": 3, "sendto": 2, "setsockopt": 1, "shutdown": 1,
        "socket": 1, "write": 1,
    },
    "message of 64 bytes": {"poll": 1, "recvfrom": 1, "sendto": 1},
    "TLS connection": {
        "close": 2, "connect": 1, "getpid": 6, "poll": 3, "prctl": 1, "recvfrom": 10, "sendto": 4,
        "setsockopt": 4, "shutdown": 1, "socket": 1, "write": 1,
    },
    "TLS record of 16 KiB": {"getsockopt": 0.5, "recvfrom": 1, "sendto": 1},
}  # fmt: skip
# By gcc's release build: of the program's own code, which the compiler's version changes a little, and of all, which
# depends on the libraries (libcrypto, mbedTLS, libc). valgrind shows them one processor, on all machines with AVX2.
INSTRUCTIONS = {
    "bookworm": {
        "short connection": {"bitflow": 14600, "all": 21400},
        "message of 64 bytes": {"bitflow": 525, "all": 709},
        "TLS connection": {"bitflow": 31600, "all": 2120000},
        "TLS record of 16 KiB": {"bitflow": 803, "all": 45400},
    },
    "trixie": {
        "short connection": {"bitflow": 14400, "all": 20500},
        "message of 64 bytes": {"bitflow": 557, "all": 752},
        "TLS connection": {"bitflow": 31700, "all": 2010000},
        "TLS record of 16 KiB": {"bitflow": 802, "all": 44500},
    },
}


def deviations(counted, table, least=0.0):
    """A line for each count that is off by more than the bound."""
    return [
        f"{name}: {counted.get(name, 0):.5g}, in the table {table.get(name, 0):.5g}"
        for name in sorted({*counted, *table})
        if abs(counted.get(name, 0) - table.get(name, 0)) > max(BOUND * table.get(name, 0), least)
    ]


def compare(operation, counted, table, least=0.0):
    off = deviations(counted, table, least)
    wanted = {name: float(f"{count:.3g}") for name, count in sorted(counted.items()) if count > least}
    assert not off, f"the costs of a {operation} have changed: {'; '.join(off)}. The table's new row: {wanted}"


def is_release_build():
    cache = bitflow_process.binary().parent / "CMakeCache.txt"
    return cache.exists() and "CMAKE_BUILD_TYPE:STRING=Release\n" in cache.read_text()


@pytest.mark.parametrize("name", costs.OPERATIONS)
def test_an_operation_makes_the_system_calls_of_the_table(env, monkeypatch, pki, name):
    counted = costs.system_calls(env, monkeypatch, costs.OPERATIONS[name], pki.server)
    kinds = {kind: count for kind, count in counted.items() if kind not in IGNORED}
    compare(name, kinds, SYSTEM_CALLS[name], LEAST)


# A short plain connection with all that is done for it, by a worker that accepts it: beside those above, epoll_wait()
# and accept4(). Without the line of the log, one less.
ALL_CALLS_OF_A_SHORT_CONNECTION = 18


def test_a_short_connection_makes_few_system_calls_from_accepting_it_on(env, monkeypatch, pki):
    operation = costs.OPERATIONS["short connection"]
    turns = costs.calls_of_turns(costs.traced_threads(env, monkeypatch, operation, pki.server, operation.count))
    assert len(turns) > operation.count / 4, "workers accept most clients themselves"
    counts = [turn.total() for turn in turns]
    assert median(counts) <= ALL_CALLS_OF_A_SHORT_CONNECTION, turns


@pytest.mark.parametrize("name", costs.OPERATIONS)
def test_an_operation_takes_the_instructions_of_the_table(env, monkeypatch, pki, name):
    if waiting.SANITIZED or not is_release_build():
        pytest.skip("instructions are those of a release build")
    table = INSTRUCTIONS.get(needs.debian_release()) if platform.machine() == "x86_64" else None
    if table is None:
        needs.missing("a table of instructions for this system", is_due=False)
    counted = costs.instructions(env, monkeypatch, costs.OPERATIONS[name], pki.server)
    everything = {"bitflow": counted["bitflow"], "all": sum(counted.values())}
    compare(name, everything, table[name])


# Of the stack of an idle connection: its top, and the calls, the relay and its first buffers. A thread begins with a
# page more where its first task finds it cold. Debian 13's C library keeps more of its own at the top.
IDLE_STACK_KIB = {"bookworm": 8, "trixie": 12}
# With TLS, when it has been silent for a while: the same, and the relay's calls below its buffers.
SILENT_TLS_STACK_KIB = 12
CONNECTIONS = 20


def median(values):
    return sorted(values)[len(values) // 2]


def need_frames_of_a_release_build():
    if waiting.SANITIZED or not is_release_build():
        pytest.skip("frames are those of a release build")
    needs.TRACING.need()


def test_an_idle_connection_has_touched_few_pages_of_stack(env):
    need_frames_of_a_release_build()
    expected = IDLE_STACK_KIB.get(needs.debian_release())
    if expected is None:
        needs.missing("a count of pages for this system", is_due=False)
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    clients = costs.idle_clients(bitflow, address, CONNECTIONS)
    found = costs.stacks_kib(bitflow)
    assert len(found) == len(clients) and median(found) == expected, found


def test_a_silent_tls_connection_keeps_three_pages_of_stack(env, pki):
    need_frames_of_a_release_build()
    echo, address = env.echo(), env.address()
    listener = tls_cases.tls_listener(pki.server, verify_mode="none")
    bitflow = env.start(proxy(address, echo.address, listener=listener))
    clients = costs.idle_clients(bitflow, address, CONNECTIONS, is_tls=True)
    kept = [SILENT_TLS_STACK_KIB] * len(clients)
    for _ in range(2):  # after the handshake and a message, and after another message
        wait_for(lambda: costs.stacks_kib(bitflow) == kept, "each has given back what it can")
        for client in clients:
            costs.round_trips(client, costs.RECORD, 1)
        assert median(costs.stacks_kib(bitflow)) > SILENT_TLS_STACK_KIB


@pytest.mark.parametrize(
    "counted, is_off",
    [({"poll": 7, "write": 1}, False), ({"poll": 7.6, "write": 1.09}, False), ({"poll": 8, "write": 1}, True),
     ({"poll": 6, "write": 1}, True), ({"poll": 7, "write": 1, "read": 1}, True), ({"poll": 7}, True)],
)  # fmt: skip
def test_the_comparison_sees_more_less_and_other_calls(counted, is_off):
    assert bool(deviations(counted, {"poll": 7, "write": 1}, LEAST)) == is_off


THREAD = """\
rseq(0x7fdfba34c360, 0x20, 0, 0x53053053) = 0
set_robust_list(0x7fdfba34c9a0, 24)     = 0
rt_sigprocmask(SIG_SETMASK, ~[ILL RT_1], NULL, 8) = 0
gettid()                                = 29925
accept4(4, {sa_family=AF_INET}, [128 => 16], SOCK_CLOEXEC) = 13
rt_sigprocmask(SIG_SETMASK, ~[ILL RT_1], ~[ILL KILL RT_1], 8) = 0
mmap(NULL, 118784, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK, -1, 0) = 0x7fdfba2f6000
rt_sigprocmask(SIG_BLOCK, ~[], ~[ILL KILL RT_1], 8) = 0
clone3({flags=CLONE_VM}, 88) = 29966
rt_sigprocmask(SIG_SETMASK, ~[ILL KILL RT_1], NULL, 8) = 0
rt_sigprocmask(SIG_SETMASK, ~[ILL KILL RT_1], NULL, 8) = 0
rt_sigprocmask(SIG_BLOCK, [PIPE], NULL, 8) = 0
mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7fdfba2f5000
prctl(PR_SET_NAME, "parked")            = 0
sigaltstack({ss_sp=NULL, ss_flags=SS_DISABLE, ss_size=0}, NULL) = 0
rt_sigprocmask(SIG_BLOCK, ~[RT_1], NULL, 8) = 0
exit(0)                                 = ?
+++ exited with 0 +++
"""


def test_how_threads_come_and_go_is_not_a_connections_cost_but_their_number_is(tmp_path):
    thread, acceptor = tmp_path / "thread.1", tmp_path / "thread.2"
    thread.write_text(THREAD)
    acceptor.write_text('prctl(PR_SET_NAME, "front:accept") = 0\n' + THREAD)
    names = [line.partition("(")[0] for line in costs.calls_of([thread, acceptor])]
    assert names == ["clone3", "rt_sigprocmask", "mmap"]
