"""Network namespaces that a test makes itself, and enters."""

import contextlib
import ctypes
import os
import subprocess

import needs
import programs

CLONE_NEWNET = 0x40000000


class Networks:
    """Two network namespaces with a cable between them: bitflow's and the target's, or two hosts'. `device`: what each
    calls its end."""

    def __init__(self, near="198.18.7.1/30", far="198.18.7.2/30", device="cable"):
        needs.NETWORKS.need()
        self.near, self.far = (f"bitflow-{os.getpid()}-{side}" for side in ("near", "far"))
        self.near_address, self.far_address, self.device = near, far, device
        self.address = far.partition("/")[0]

    def __enter__(self):
        ip = self.ip
        ip("netns", "add", self.near)
        ip("netns", "add", self.far)
        ip(
            "-n",
            self.near,
            "link",
            "add",
            self.device,
            "type",
            "veth",
            "peer",
            "name",
            self.device,
            "netns",
            self.far,
        )
        for name, address in ((self.near, self.near_address), (self.far, self.far_address)):
            ip("-n", name, "address", "add", address, "dev", self.device)
            for device in ("lo", self.device):
                ip("-n", name, "link", "set", device, "up")
        return self

    def ip(self, *arguments):
        programs.run(["ip", *arguments])

    def cut(self):
        self.ip("-n", self.far, "link", "set", self.device, "down")

    def __exit__(self, *_):
        for name in (self.near, self.far):
            subprocess.run([programs.find("ip"), "netns", "delete", name], check=False, capture_output=True)


def enter(descriptor):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def inside(name):
    """This thread's sockets, and the processes and threads that it starts, are of that namespace."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    other = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        enter(other)
        yield
    finally:
        enter(own)
        os.close(own)
        os.close(other)
