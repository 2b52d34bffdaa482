"""Bounded waits: every wait of this suite is for a condition and has a deadline."""

import os
import time

# Sanitized builds run several times slower: deadlines and upper bounds of durations stretch, lower ones do
# not.
SANITIZED = False


def pace():
    return float(os.environ.get("BITFLOW_TEST_PACE", "4" if SANITIZED else "1"))


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


class Stopwatch:
    def __init__(self):
        self.start = time.monotonic()

    @property
    def seconds(self):
        return time.monotonic() - self.start

    def between(self, least, most, what):
        """Asserts that the time since the start lies in [least, most], the upper bound stretched by the
        pace."""
        passed = self.seconds
        assert (
            least <= passed <= most * pace()
        ), f"{what}: took {passed:.3f} s, wanted {least} to {most * pace()} s"
