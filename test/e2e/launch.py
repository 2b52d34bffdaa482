"""Prepares a process as its JSON argument says (limits, user, descriptors, networks, scheduling), then becomes it.

A program of its own, because descriptors must get given numbers, LISTEN_PID must be the pid of the very
process, and a hook between fork and exec is no place for any of it in a process that has threads.
"""

import ctypes
import errno
import fcntl
import json
import os
import resource
import struct
import sys

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
SYS_SCHED_SETSCHEDULER = 144 if os.uname().machine == "x86_64" else 119


def own_files(binds):
    """A mount namespace in which some files, such as /etc/hosts, are the test's."""
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result, what):
        if result != 0:
            raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")

    check(libc.unshare(CLONE_NEWNS), "unshare")
    check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount private")
    for source, place in binds.items():
        check(libc.mount(source.encode(), place.encode(), None, MS_BIND, None), f"bind {place}")


def enter_network(name):
    """The network namespace that ip-netns(8) made under this name."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(descriptor)


def place_descriptors(pairs):
    """Gives each inherited descriptor its number, whatever the order, and lets it pass exec."""
    moved = [(fcntl.fcntl(source, fcntl.F_DUPFD, 200), target) for source, target in pairs]
    for source in {source for source, _ in pairs}:
        os.close(source)
    for source, target in moved:
        os.dup2(source, target, inheritable=True)
        os.close(source)


def refuse_scheduling():
    """From now on sched_setscheduler() fails with EPERM, as under a container's or systemd's filter."""
    load_number, equal, end, allow, refuse = 0x20, 0x15, 0x06, 0x7FFF0000, 0x00050000 | errno.EPERM
    steps = [(load_number, 0, 0, 0), (equal, 0, 1, SYS_SCHED_SETSCHEDULER), (end, 0, 0, refuse), (end, 0, 0, allow)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    header = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in [(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0)]:
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def allow_system_calls(names):
    """From now on any other system call ends the process (SIGSYS), where systemd's filter would let it fail."""
    kill, allow = 0x80000000, 0x7FFF0000
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(kill))
    for name in names:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # or this architecture has none of that name
            library.seccomp_rule_add(context, ctypes.c_uint32(allow), number, 0)
    if library.seccomp_load(context) != 0:
        raise OSError("seccomp_load")


def main():
    plan = json.loads(sys.argv[1])
    if plan.get("binds"):
        own_files(plan["binds"])
    if plan.get("namespace"):
        enter_network(plan["namespace"])
    place_descriptors(plan.get("descriptors", []))
    for name, value in plan.get("limits", {}).items():
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
    if plan.get("listen_names") is not None:
        names = plan["listen_names"]
        os.environ["LISTEN_FDS"] = str(len(names))
        os.environ["LISTEN_FDNAMES"] = ":".join(names)
        os.environ["LISTEN_PID"] = str(os.getpid() + plan.get("listen_pid_offset", 0))
    for number in plan.get("closed", []):
        os.close(number)
    if plan.get("scheduling"):
        policy, priority = plan["scheduling"]
        os.sched_setscheduler(0, policy, os.sched_param(priority))
    if plan.get("refuse_scheduling"):
        refuse_scheduling()
    if plan.get("uid"):
        os.setgroups([])
        os.setgid(plan["uid"])
        os.setuid(plan["uid"])
    if plan.get("system_calls"):
        allow_system_calls(plan["system_calls"])
    os.execv(plan["command"][0], plan["command"])


main()
