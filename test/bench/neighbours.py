"""Neighbours that compute: a process on each processor that never waits, as a compiler would beside a proxy."""

import contextlib
import os
import sys
import time

import measure
import processes

# Ends by itself, too, should nobody end it.
COMPUTE = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    sum(range(100000))
"""


def _start(directory, processor, seconds):
    return processes.Child([sys.executable, "-c", COMPUTE, str(processor), str(seconds)], directory,
                           f"neighbour-{processor}")


def _wait_busy(children, seconds=10):
    """Until each has computed for a few ticks of the clock, and is past its own start."""
    deadline = time.monotonic() + seconds
    while any(measure.processor_seconds(child.pid) < 0.1 for child in children):
        for child in children:
            child.check_alive()
        if time.monotonic() > deadline:
            raise processes.Failure(f"the neighbours do not compute after {seconds} s")
        time.sleep(0.01)


@contextlib.contextmanager
def on_each_processor(directory, seconds):
    """During the block, and at most for so long, each processor that this process may use has one."""
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(_start(directory, processor, seconds))
                    for processor in sorted(os.sched_getaffinity(0))]
        _wait_busy(children)
        yield children
        for child in children:
            child.check_alive()
