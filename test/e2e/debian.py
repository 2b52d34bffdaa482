"""What Debian's package database says of this machine."""

import re
import subprocess


def query(*arguments):
    return subprocess.run(["dpkg-query", *arguments], capture_output=True, text=True, check=False).stdout


def package_of(path):
    """The package that owns this file, which it may list below /usr/lib or below /lib; None: none does."""
    for place in (path, path.removeprefix("/usr"), "/usr" + path):
        if owner := query("-S", place).partition(":")[0]:
            return owner
    return None


def upstream_version(package):
    """Without Debian's epoch and revision."""
    return re.sub(r"^\d+:|-[^-]*$", "", query("-W", "-f", "${Version}\n", package).splitlines()[0])
