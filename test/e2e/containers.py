"""Containers: the image as buildah builds it of the Dockerfile, and without an engine, a file system's program as
process 1 of a process namespace, read-only, without rights."""

import contextlib
import os
import pathlib
import re
import shutil
import subprocess

import needs
import programs
from waiting import pace, wait_for

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# What of this machine the build stage has as its own.
SHARED = ("/usr", "/etc", "/var/lib/dpkg")


class Buildah:
    """Its storage is below `directory`, and nowhere else."""

    def __init__(self, directory):
        self.directory = directory
        self.options = ["--root", directory / "storage", "--runroot", directory / "run", "--storage-driver", "vfs"]

    def __call__(self, command, *arguments):
        words = [programs.find("buildah"), *map(str, self.options), command, *map(str, arguments)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=900 * pace(), check=False,
                              env={**os.environ, "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(self.directory)})
        assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout.strip()

    def build(self, context, *options):
        self("bud", "--pull-never", "--format", "docker", "--tag", "localhost/bitflow", *options, context)


def make_base(buildah, name):
    """A Debian whose files come from this machine while it is built with."""
    base = buildah.directory / "base"
    for path in (*SHARED, "/tmp", "/proc", "/sys", "/dev", "/run"):
        (base / path[1:]).mkdir(parents=True, exist_ok=True)
    (base / "tmp").chmod(0o1777)
    for link in ("bin", "lib", "lib64", "sbin"):
        (base / link).symlink_to(f"usr/{link}")
    container = buildah("from", "scratch")
    buildah("copy", "--quiet", container, base, "/")
    buildah("commit", "--quiet", container, f"docker.io/library/{name}")
    buildah("rm", container)


def build_all(buildah):
    source = buildah.directory / "source"
    source.mkdir()
    for line in programs.run(["git", "-C", str(ROOT), "ls-files"]).stdout.splitlines():
        (source / line).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / line, source / line, follow_symlinks=False)
    make_base(buildah, re.match(r"FROM (\S+) AS build\n", DOCKERFILE)[1])
    buildah.build(source, *(f"--volume={path}:{path}:ro" for path in SHARED))


def build_last_stage(buildah, root):
    """`root`: what the build stage would have made."""
    context = buildah.directory / "context"
    context.mkdir()
    programs.run(["cp", "-a", str(root), str(context / "image")])
    last = DOCKERFILE[DOCKERFILE.rindex("\nFROM "):]
    (context / "Dockerfile").write_text("FROM scratch AS build\nCOPY image /image\n" + last)
    buildah.build(context)


SCRIPT = ('set -e; root=$1 config=$2 user=$3; shift 3; mount --make-rprivate /; mount --bind "$root" "$root"; '
          'mount --bind "$config" "$root/etc/bitflow/config.yaml"; mount -o remount,bind,ro "$root"; '
          'exec setpriv --bounding-set=-all,+sys_chroot,+setuid,+setgid --no-new-privs '
          'chroot "--userspec=$user" --groups= "$root" "$@"')


@contextlib.contextmanager
def running(root, config, user, command):
    """(the process of it that is our child, the number of process 1 out here). `command`: its program is bitflow."""
    needs.PROCESS_NAMESPACE.need()
    needs.ANOTHER_USER.need()
    whole = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", SCRIPT, "sh", str(root), str(config),
             user, *command]
    with subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
            wait_for(lambda: children.read_text().split() and b"bitflow" in pathlib.Path(
                f"/proc/{children.read_text().split()[0]}/comm").read_bytes(), "it is started")
            yield process, children.read_text().split()[0]
        finally:
            process.kill()


def assert_process_1_without_rights(pid, user):
    status = dict(line.split(":\t", 1) for line in
                  pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    assert status["NSpid"].split()[-1] == "1" and set(status["Uid"].split()) == {user}
    # What chroot itself needed is in the bounding set, and cannot be had any more.
    assert status["CapEff"] == status["CapPrm"] == status["CapAmb"] == "0" * 16
    assert status["CapBnd"] == f"{1 << 6 | 1 << 7 | 1 << 18:016x}" and status["NoNewPrivs"] == "1"
