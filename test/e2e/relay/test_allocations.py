"""One allocation fails: it may cost its own connection, never the next one; a start goes on, or says why not."""

import mmap
import re
import struct

import pytest

import bitflow_process
import compiled
import sockets
from environment import proxy
from tls_cases import tls_listener, tls_target
from waiting import wait_for

pytestmark = pytest.mark.skipif(
    bitflow_process.is_sanitized(bitflow_process.binary()), reason="a sanitizer has a malloc of its own"
)
COUNTDOWN, FAILED, CALLS = range(3)


class Allocations:
    """The test's side of failing_malloc.c."""

    def __init__(self, library, path):
        path.write_bytes(bytes(4096))
        with open(path, "r+b") as file:
            self.mapped = mmap.mmap(file.fileno(), 4096)
        self.environment = {"LD_PRELOAD": str(library), "ALLOCATIONS": str(path)}

    def get(self, field):
        return struct.unpack_from("l", self.mapped, field * 8)[0]

    def arm(self, number):
        struct.pack_into("l", self.mapped, COUNTDOWN * 8, number)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compiled.shared_object("failing_malloc", tmp_path_factory.mktemp("preload"))


@pytest.fixture
def allocations(env, library):
    return Allocations(library, env.directory / "allocations")


def is_served(address):
    try:
        with sockets.connect(address) as client:
            client.sendall(b"hello")
            return sockets.receive_exactly(client, 5) == b"hello"
    except (OSError, EOFError, AssertionError):
        return False


def test_a_failed_allocation_never_costs_the_next_connection(env, pki, allocations):
    """With TLS in both roles, libcrypto's records and a name to look up; all in one process, whose state no failure
    may spoil."""
    inner, outer = env.address(), env.address()
    port = env.echo().address.rpartition(":")[2]
    bitflow = env.start(
        proxy(inner, f"localhost:{port}", name="inner", listener=tls_listener(pki.server)),
        proxy(outer, tls_target(inner, pki.trusted), name="outer"),
        environment=allocations.environment,
        level="error",
        wait=False,
    )
    wait_for(lambda: is_served(outer), lambda: f"the first connection: {bitflow.stderr()}")
    before = allocations.get(CALLS)
    assert is_served(outer)
    count = allocations.get(CALLS) - before
    assert count > 1000, "the allocations are not counted"
    # The arithmetic in the middle makes thousands that are alike; those whose memory is kept are at both ends.
    numbers = [*range(1, 60), *range(60, count, max(1, count // 150)), *range(count - 60, count)]
    for number in numbers:
        allocations.arm(number)
        is_served(outer)
        allocations.arm(0)
        assert bitflow.is_running(), f"allocation {number}: {bitflow.stderr()[-3000:]}"
        assert is_served(outer), f"after allocation {number} failed: {bitflow.stderr()[-3000:]}"
    assert allocations.get(FAILED) > len(numbers) // 2


def test_a_check_whose_allocation_fails_passes_or_says_why_not(env, pki, allocations):
    """A sample of the allocations that --check makes: it starts the libraries and loads the keys."""
    listener = tls_listener(pki.server)
    path = env.config(proxy(env.address(), tls_target(env.address(), pki.trusted), listener=listener))

    def check():
        return bitflow_process.run("--check", "--config", path, environment=allocations.environment)

    assert check().returncode == 0
    count = allocations.get(CALLS)
    assert count > 1000, "the allocations are not counted"
    for number in range(1, count, max(1, count // 100)):
        allocations.arm(number)
        done = check()
        allocations.arm(0)
        if done.returncode != 0:
            assert done.returncode in (1, 2) and re.search("bitflow: |config.yaml", done.stderr), (number, done)
