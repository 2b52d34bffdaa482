"""On a machine that lacks something, the suite leaves out what needs it, and says so; in CI it fails. A user without
rights runs cmake/check.sh on a copy of the tree, with a PATH that lacks programs."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

import needs
from waiting import pace

SUITE = pathlib.Path(__file__).resolve().parents[1]
ROOT = SUITE.parents[1]
UID = 61002
HIDDEN = {"sudo", "npm", "node", "nodejs", "clang-format-19"}


@pytest.fixture
def checkout(env):
    """A copy of the tree, with a directory of programs beside it."""
    copy, programs = env.directory / "tree", env.directory / "programs"
    # Of style's tests only those of the program that is hidden: the others are slow and beside the point.
    others = ["test_layers.py", "test_forbidden.py", "test_sizes.py"]
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns("build", ".git", "__pycache__", *others))
    programs.mkdir()
    for folder in ("/usr/bin", "/usr/sbin"):
        for entry in os.scandir(folder):
            if entry.name not in HIDDEN and not (programs / entry.name).is_symlink():
                (programs / entry.name).symlink_to(entry.path)
    if os.geteuid() == 0:
        needs.ANOTHER_USER.need()
        subprocess.run(["chown", "-hR", f"{UID}:{UID}", str(copy)], check=True)
    return copy


def check(checkout, **environment):
    """check.sh's style, which is its shortest stage."""
    plan = {"uid": UID if os.geteuid() == 0 else 0, "command": ["/bin/sh", "cmake/check.sh", "style"]}
    kept = {name: value for name, value in os.environ.items() if name != "CI"}
    return subprocess.run(
        [sys.executable, str(checkout / "test/e2e/launch.py"), json.dumps(plan)],
        cwd=checkout, capture_output=True, text=True, timeout=300 * pace(), check=False,
        env={**kept, "PATH": str(checkout.parent / "programs"), "HOME": str(checkout), **environment},
    )  # fmt: skip


def test_what_is_missing_is_named_and_left_out(checkout):
    done = check(checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "install-deps: error: " in done.stderr and "npm" in done.stderr
    summary, _, left = done.stdout.rpartition("==== summary\n")[2].partition("\n==== left out, for want of\n")
    assert summary.startswith("style ") and summary.endswith(" ok\n"), done.stdout
    assert left.split() == ["style", "1", "tests", "clang-format-19"], done.stdout


def test_in_ci_what_is_missing_is_a_failure(checkout):
    done = check(checkout, CI="true")
    assert done.returncode == 1 and "npm" in done.stderr, done.stdout + done.stderr
    assert "summary" not in done.stdout


@pytest.mark.parametrize(
    "ci, outcome", [("", "1 passed, 2 skipped"), ("true", "2 failed, 1 passed")], ids=["elsewhere", "in CI"]
)
def test_a_test_that_lacks_something_is_skipped_or_fails_in_ci(tmp_path, ci, outcome):
    """A program, or a capability that says why it is missing."""
    (tmp_path / "test_three.py").write_text(
        f"import sys\nsys.path.insert(0, {str(SUITE)!r})\nimport needs, programs\n"
        "def test_program(): programs.find('no-such-program')\n"
        "def test_capability(): needs.Capability('a miracle', lambda: 'it is too late').need()\n"
        "def test_others(): needs.Capability('nothing', lambda: None).need()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-ra", str(tmp_path)],
        capture_output=True, text=True, timeout=60 * pace(), check=False, env={**os.environ, "CI": ci},
    )  # fmt: skip
    assert outcome in done.stdout, done.stdout
    said = "this machine lacks " if ci else needs.LEFT_OUT
    assert f"{said}no-such-program" in done.stdout and f"{said}a miracle (it is too late)" in done.stdout
