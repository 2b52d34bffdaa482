"""The units that docs/operations.md shows: systemd takes them, and what ExecReload= runs checks before it reloads."""

import pathlib
import re
import shlex
import subprocess

import pytest

import bitflow_process
import programs
import sockets
from environment import proxy
from waiting import pace, wait_for

DOCUMENT = (pathlib.Path(__file__).resolve().parents[3] / "docs/operations.md").read_text()
UNITS = dict(re.findall(r"^```ini\n# /etc/systemd/system/(\S+)\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL))
PROGRAM, CONFIG = "/usr/local/bin/bitflow", "/etc/bitflow/config.yaml"


def commands(key, config, pid=None):
    """What the service runs for a key, in order, for this build and this configuration."""
    found = re.findall(rf"^{key}=(.*)$", UNITS["bitflow.service"], re.MULTILINE)
    assert found
    values = {PROGRAM: str(bitflow_process.binary()), CONFIG: str(config), "$MAINPID": str(pid)}
    return [[values.get(word, word) for word in shlex.split(line)] for line in found]


def run_in_turn(lines):
    """As systemd does, up to the first that fails. Returns the last one that ran."""
    for command in lines:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 * pace(), check=False)
        if done.returncode != 0:
            break
    return done


@pytest.mark.parametrize("unit", ["bitflow.service", "bitflow.socket"])
def test_systemd_accepts_the_documented_units(tmp_path, unit):
    for name, text in UNITS.items():
        (tmp_path / name).write_text(text.replace(PROGRAM, str(bitflow_process.binary())))
    done = programs.run(["systemd-analyze", "verify", "--man=no", str(tmp_path / unit)])
    # Of this unit only: what else is installed may have mistakes of its own.
    assert unit not in done.stderr and "Unknown" not in done.stderr, done.stderr


def test_the_verification_finds_mistakes(tmp_path):
    (tmp_path / "bitflow.service").write_text(UNITS["bitflow.service"].replace("ExecReload=", "ExecReloads=", 1))
    command = [programs.find("systemd-analyze"), "verify", "--man=no", str(tmp_path / "bitflow.service")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 * pace(), check=False)
    assert "bitflow.service" in done.stderr and "ExecReloads" in done.stderr


def test_a_reload_checks_first(env):
    """A broken configuration fails the reload, says why, and never gets to the process."""
    first, second, target = env.address(), env.address(), env.echo().address
    path = env.config(proxy(first, target))
    bitflow = env.launch(path)
    bitflow.wait_listening(["front"])
    reload = commands("ExecReload", path, bitflow.pid)
    assert reload[-1][1:] == ["-HUP", str(bitflow.pid)]

    good = path.read_text().replace(first, second)
    path.write_text(good.replace("listener:", "listner:"))
    done = run_in_turn(reload)
    assert done.returncode == 2 and done.args == reload[0]
    assert re.search(rf"^{re.escape(str(path))}:\d+:\d+: .*\.listner: unknown key", done.stderr, re.M), done.stderr
    sockets.round_trip(env.connect(first))

    path.write_text(good)
    assert run_in_turn(reload).returncode == 0
    wait_for(lambda: "msg=reloaded" in bitflow.stderr(), lambda: f"the reload: {bitflow.stderr()}")
    sockets.round_trip(env.connect(second))
    assert "listner" not in bitflow.stderr(), "it was told of the broken configuration"


def test_a_start_checks_first(env):
    path = env.write("server: {}\n")
    done = run_in_turn(commands("ExecStartPre", path))
    assert done.returncode == 2 and "server.proxies" in done.stderr
    path = env.config(proxy(env.address(), env.address()))
    assert run_in_turn(commands("ExecStartPre", path)).returncode == 0
