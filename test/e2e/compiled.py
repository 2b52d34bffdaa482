"""Shared objects that a test puts into a process: compiled by the test, from the C beside it, or a library that the
process has, changed."""

import pathlib
import re
import struct

import pytest

import bitflow_process
import programs

HERE = pathlib.Path(__file__).resolve().parent


def shared_object(name, directory, *libraries):
    """The path of HERE/<name>.c, compiled into `directory`."""
    path = pathlib.Path(directory) / f"{name}.so"
    programs.run(["cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-D_GNU_SOURCE", "-o", path, HERE / f"{name}.c",
                  *(f"-l{library}" for library in libraries)])
    return path


FLAGS, BIND_NOW, SYMBOLIC = 30, 8, 2  # DT_FLAGS, DF_BIND_NOW, DF_SYMBOLIC
AS_LINKED, AS_BY_BSYMBOLIC = struct.pack("=QQ", FLAGS, BIND_NOW), struct.pack("=QQ", FLAGS, BIND_NOW | SYMBOLIC)


def changed_library(name, directory, before, after):
    """Copies one of bitflow's libraries, with some bytes changed; returns the environment in which it is found."""
    linked = programs.run(["ldd", bitflow_process.binary()]).stdout
    file, path = re.search(rf"({name}\.\S*) => (\S+)", linked).groups()
    content = pathlib.Path(path).read_bytes()
    if content.count(before) != 1:
        pytest.skip(f"{name} is not as Debian's is")
    (pathlib.Path(directory) / file).write_bytes(content.replace(before, after))
    return {"LD_LIBRARY_PATH": str(directory)}
