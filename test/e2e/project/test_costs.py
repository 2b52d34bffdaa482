"""What an operation costs is what the tables here say, to a tenth: counted, and so the same on a busy machine.

A test that fails because bitflow spends more has found a change that is to be thought over; where the price is wanted,
or where bitflow spends less, the table gets what the message says, so that nobody can lose it again unseen.
"""

import platform

import pytest

import bitflow_process
import costs
import needs
import waiting
from environment import proxy

BOUND = 0.1
# System calls of a kind, for one operation: fewer are the memory's, of a thread pool that grows now and then.
LEAST = 0.1
# How often a hand-over between threads has to wait is up to the scheduler.
IGNORED = {"futex"}

SYSTEM_CALLS = {
    "short connection": {
        "accept4": 2, "close": 2, "connect": 1, "getsockname": 2, "poll": 6, "prctl": 2, "recvfrom": 4, "sendto": 2,
        "setsockopt": 3, "shutdown": 2, "socket": 1, "write": 1,
    },
    "message of 64 bytes": {"poll": 1, "recvfrom": 1, "sendto": 1},
    "TLS connection": {
        "accept4": 2, "close": 2, "connect": 1, "getpid": 2, "getsockname": 2, "poll": 6, "prctl": 2, "recvfrom": 10,
        "sendto": 4, "setsockopt": 4, "shutdown": 2, "socket": 1, "write": 1,
    },
    "TLS record of 16 KiB": {"getsockopt": 0.5, "recvfrom": 1, "sendto": 1},
}  # fmt: skip
# By gcc's release build: of the program's own code, which the compiler's version changes a little, and of all, which
# depends on the libraries (libcrypto, mbedTLS, libc). valgrind shows them one processor, on all machines with AVX2.
INSTRUCTIONS = {
    "bookworm": {
        "short connection": {"bitflow": 14100, "all": 31100},
        "message of 64 bytes": {"bitflow": 464, "all": 644},
        "TLS connection": {"bitflow": 21000, "all": 2965000},
        "TLS record of 16 KiB": {"bitflow": 803, "all": 45400},
    },
    "trixie": {
        "short connection": {"bitflow": 14000, "all": 28100},
        "message of 64 bytes": {"bitflow": 477, "all": 666},
        "TLS connection": {"bitflow": 20700, "all": 2870000},
        "TLS record of 16 KiB": {"bitflow": 801, "all": 44500},
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


# Of the stack of an idle connection: its top, the deepest of what has dialled, the relay with what it read from the
# client, what it read from the target. A thread begins with a page more where its first task finds it cold.
IDLE_STACK_KIB = 16


def test_an_idle_connection_has_touched_four_pages_of_stack(env):
    if waiting.SANITIZED or not is_release_build():
        pytest.skip("frames are those of a release build")
    needs.TRACING.need()
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    found = costs.idle_stacks_kib(bitflow, address, 20)
    assert sorted(found)[len(found) // 2] == IDLE_STACK_KIB, found


@pytest.mark.parametrize(
    "counted, is_off",
    [({"poll": 7, "write": 1}, False), ({"poll": 7.6, "write": 1.09}, False), ({"poll": 8, "write": 1}, True),
     ({"poll": 6, "write": 1}, True), ({"poll": 7, "write": 1, "read": 1}, True), ({"poll": 7}, True)],
)  # fmt: skip
def test_the_comparison_sees_more_less_and_other_calls(counted, is_off):
    assert bool(deviations(counted, {"poll": 7, "write": 1}, LEAST)) == is_off
