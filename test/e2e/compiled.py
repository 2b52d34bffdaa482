"""Shared objects that a test puts into a process: compiled by the test, from the C beside it."""

import pathlib

import programs

HERE = pathlib.Path(__file__).resolve().parent


def shared_object(name, directory, *libraries):
    """The path of HERE/<name>.c, compiled into `directory`."""
    path = pathlib.Path(directory) / f"{name}.so"
    programs.run(["cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-D_GNU_SOURCE", "-o", path, HERE / f"{name}.c",
                  *(f"-l{library}" for library in libraries)])
    return path
