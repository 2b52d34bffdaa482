"""Bounded waits: every wait of this suite is for a condition and has a deadline."""

import os
import threading
import time

import pytest

# Sanitized builds run several times slower: deadlines and upper bounds of durations stretch, lower ones do
# not.
SANITIZED = False


def pace():
    return float(os.environ.get("BITFLOW_TEST_PACE", "4" if SANITIZED else "1"))


IS_NIGHTLY = os.environ.get("BITFLOW_NIGHTLY") == "1"  # what takes long runs in full
takes_long = pytest.mark.skipif(not IS_NIGHTLY, reason="takes long: BITFLOW_NIGHTLY=1")


def scale(count, least=1):
    """A volume or a count, in full in a release build and smaller where BITFLOW_TEST_SCALE (or a sanitizer)
    says so."""
    factor = float(os.environ.get("BITFLOW_TEST_SCALE", "0.1" if SANITIZED else "1"))
    return max(least, int(count * factor))


def wait_for(condition, what, timeout=10.0, every=0.01):
    """Polls, each `every` seconds, until condition() is true and returns its value; fails when the deadline has
    passed."""
    deadline = time.monotonic() + timeout * pace()
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(
                f"waited {timeout * pace():.1f} s in vain: {what() if callable(what) else what}"
            )
        time.sleep(every)


def holds_for(seconds, condition, what):
    """Asserts that condition() stays true all through the given time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), what
        time.sleep(0.02)


class Lateness:
    """How late the machine is: a thread that is to wake up every 10 ms notes by how much later it does."""

    PERIOD = 0.01
    NEGLIGIBLE = 0.002  # timers have their slack

    def __init__(self):
        self.lock = threading.Lock()
        self.delays = []  # (due, woke), in order
        self.due = time.monotonic() + self.PERIOD
        threading.Thread(target=self.wake_up, daemon=True, name="lateness").start()

    def wake_up(self):
        while True:
            time.sleep(max(0.0, self.due - time.monotonic()))
            with self.lock:
                now = time.monotonic()
                if now - self.due > self.NEGLIGIBLE:
                    self.delays.append((self.due, now))
                self.due = now + self.PERIOD

    def between(self, start, end):
        """What came together between the two, in seconds."""
        with self.lock:
            pending = end - max(self.due, start)
            late = pending if pending > self.NEGLIGIBLE else 0.0
            for due, woke in reversed(self.delays):
                if woke < start:
                    break
                late += max(0.0, min(woke, end) - max(due, start))
        return late


lateness = None  # of this process, measured from the first stopwatch on


class Stopwatch:
    def __init__(self):
        global lateness
        lateness = lateness or Lateness()
        self.start = time.monotonic()

    @property
    def seconds(self):
        return time.monotonic() - self.start

    @property
    def late(self):
        """By how much the machine was late meanwhile, in seconds."""
        return lateness.between(self.start, time.monotonic())

    @property
    def seconds_on_time(self):
        """The seconds, less what the machine was late."""
        end = time.monotonic()
        return end - self.start - lateness.between(self.start, end)

    def between(self, least, most, what):
        """Asserts that the time since the start lies in [least, most], the upper bound stretched by the pace, and
        by as much as the machine was late meanwhile."""
        end = time.monotonic()
        passed, late = end - self.start, lateness.between(self.start, end)
        assert (
            least <= passed <= most * pace() + late
        ), f"{what}: took {passed:.3f} s, wanted {least} to {most * pace()} s, and the machine was late by {late:.3f} s"


def repeat_if_late(trial, step, tries=10):
    """For a trial that must do something every so often, before `step` seconds are over: where it failed, it says
    nothing if the machine was late by more than a little of that, and is repeated, but not for ever."""
    for _ in range(tries - 1):
        watch = Stopwatch()
        try:
            return trial()
        except (AssertionError, OSError):
            if watch.late <= step / 8:
                raise
    return trial()
