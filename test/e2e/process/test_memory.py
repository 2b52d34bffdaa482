"""What the process reserves and keeps of memory, beside what its connections need."""

import os

import pytest

import bitflow_process
import sockets
import tls_cases
import waiting
from environment import proxy

ARENA = 64 << 20
CLIENTS = 60


def arenas(bitflow):
    """malloc()'s arenas beside the first: each has 64 MiB of address space, of which the first part can be written."""
    with open(f"/proc/{bitflow.pid}/maps") as stream:
        bounds = [[int(part, 16) for part in line.split()[0].split("-")] for line in stream]
    starts, ends = {low for low, _ in bounds}, {high for _, high in bounds}
    return sum(low % ARENA == 0 and low + ARENA in ends | starts for low in starts)


@pytest.mark.parametrize(
    "environment, expected",
    [({}, os.cpu_count()), ({"MALLOC_ARENA_MAX": "1"}, 1), ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=3"}, 3)],
    ids=["by default", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"],
)
def test_there_are_no_more_arenas_than_processors_unless_asked_for(env, pki, environment, expected):
    bitflow_process.note_sanitizer()
    if waiting.SANITIZED:
        pytest.skip("a sanitizer has a malloc of its own")
    echo, address = env.echo(), env.address()
    bitflow = env.start(
        proxy(address, echo.address, listener=tls_cases.tls_listener(pki.server)), environment=environment
    )
    clients = [tls_cases.tls_client(env, address) for _ in range(CLIENTS)]
    for client in clients:
        client.round_trip()
    assert len(bitflow.busy_threads()) == CLIENTS
    assert arenas(bitflow) == min(expected, CLIENTS) - 1
