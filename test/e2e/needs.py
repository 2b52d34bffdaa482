"""What a test takes that a machine may lack: programs, and what the kernel grants this process. Each is tried, not
guessed from who runs the tests. Where it is missing, the test says so and is left out; in CI (CI=true) it fails.
cmake/check.sh collects what was left out, by LEFT_OUT.

A helper that takes something asks for it, and so may a test: needs.TRACING.need().
"""

import ctypes
import functools
import json
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import tempfile

import pytest

LEFT_OUT = "left out for want of: "
# Root's paths are not in everybody's.
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
HERE = pathlib.Path(__file__).resolve().parent
PTRACE_SEIZE = 0x4206
SO_ATTACH_FILTER = 26


def missing(what, is_due=True):
    if is_due and os.environ.get("CI") == "true":
        pytest.fail(f"this machine lacks {what}", pytrace=False)
    pytest.skip(LEFT_OUT + what)


class Capability:
    """`trial` does the thing itself, and returns why it could not, or nothing. `is_due`: CI must have it."""

    def __init__(self, name, trial, is_due=True):
        self.name = name
        self.trial = trial
        self.is_due = is_due

    @functools.cached_property
    def lack(self):
        return self.trial()

    def need(self):
        if self.lack:
            missing(f"{self.name} ({self.lack})", self.is_due)


def installed(program):
    return None if shutil.which(program, path=PATH) else f"{program} is not installed"


def debian_release():
    """Its code name."""
    with open("/etc/os-release") as stream:
        return dict(line.rstrip("\n").split("=", 1) for line in stream if "=" in line).get("VERSION_CODENAME")


def made_container():
    """By buildah, without anything of its own between the container and the machine."""
    with tempfile.TemporaryDirectory() as directory:
        return said_by("buildah", "--root", f"{directory}/storage", "--runroot", f"{directory}/run", "--storage-driver",
                       "vfs", "from", "scratch")


def is_bookworm():
    return debian_release() == "bookworm"


def said_by(*command):
    """Nothing if it ends well, else its last words."""
    if lack := installed(command[0]):
        return lack
    path = shutil.which(command[0], path=PATH)
    done = subprocess.run([path, *command[1:]], capture_output=True, text=True, timeout=60, check=False)
    return (done.stderr.strip().splitlines() or ["it failed"])[-1] if done.returncode else None


def launched(**plan):
    """What launch.py, which starts bitflow and peers, has to say about such a plan."""
    plan["command"] = ["/bin/true"]
    return said_by(sys.executable, str(HERE / "launch.py"), json.dumps(plan))


def launched_with_own_files():
    with tempfile.NamedTemporaryFile() as file:
        return launched(binds={file.name: os.path.realpath("/etc/hosts")})


def bound(family, kind, *address):
    try:
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except OSError as error:
        return error.strerror
    return None


def made_networks():
    """Not only a namespace: also the cable, which takes a driver."""
    name = f"bitflow-{os.getpid()}-trial"
    cable = ("link", "add", "cable", "type", "veth", "peer", "name", "end")
    try:
        return said_by("ip", "netns", "add", name) or said_by("ip", "-n", name, *cable)
    finally:
        said_by("ip", "netns", "delete", name)


def traced():
    """A process that is not the tracer's child, as those of gdb and strace."""
    code = (
        "import ctypes, os, sys; libc = ctypes.CDLL(None, use_errno=True); "
        f"libc.ptrace({PTRACE_SEIZE}, int(sys.argv[1]), None, None) and sys.exit(os.strerror(ctypes.get_errno()))"
    )
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            return said_by(sys.executable, "-c", code, str(process.pid))
        finally:
            process.kill()


def attached_filter():
    with socket.socket() as probe:
        step = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
        try:
            probe.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HxxxxxxP", 1, ctypes.addressof(step)))
        except OSError as error:
            return error.strerror
    return None


def process_namespace_options():
    """unshare's; whoever is not root becomes it in a user namespace."""
    return [*([] if os.geteuid() == 0 else ["--user"]), "--pid", "--fork"]


IPV6 = Capability("IPv6", lambda: bound(socket.AF_INET6, socket.SOCK_STREAM, "::1", 0))
OWN_FILES = Capability("a mount namespace with files of its own", launched_with_own_files)
ANOTHER_USER = Capability("the right to become another user", lambda: launched(uid=61000))
NETWORKS = Capability("network namespaces", made_networks)
TRACING = Capability("the right to trace processes", traced)
PROCESS_NAMESPACE = Capability(
    "a process namespace", lambda: said_by("unshare", *process_namespace_options(), "true")
)
BUILDAH = Capability("buildah, and what it takes from the kernel", made_container)
SOCKET_FILTERS = Capability("the right to filter a socket", attached_filter)
CRYPTOGRAPHY = Capability("python3-cryptography", lambda: said_by(sys.executable, "-c", "import cryptography.x509"))
# Debian 13 has no package of it any more.
DANTE = Capability("dante", lambda: installed("danted"), is_due=is_bookworm())
# Of any loopback address: the tests' servers have one each.
NAME_SERVER_PORT = Capability("port 53", lambda: bound(socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.97", 53))


@functools.cache
def scheduling(policy, priority):
    """The right to start a process under a scheduling policy, by its name."""
    number = getattr(os, f"SCHED_{policy}")
    return Capability(f"SCHED_{policy}", lambda: launched(scheduling=[number, priority]))
