"""docs/deploy/bgp: a host with the documented files, and a router; both have a real BIRD."""

import os
import subprocess

import pytest

import deployments
import needs
import networks
import programs
from deployed_hosts import COMMON, Host, is_served, local_program
from networks import inside
from programs import Program, find
from waiting import pace, wait_for

BGP = deployments.FOLDER / "bgp"
ROUTER = """
log stderr all;
router id 10.0.0.1;
protocol device { }
protocol kernel { ipv4 { export all; }; }
protocol bgp host {
    local 10.0.0.1 as 65000;
    neighbor 10.0.0.11 as 65001;
    connect delay time 1; connect retry time 1; error wait time 1, 2;
    ipv4 { import all; export none; };
}
"""


class Bird(Program):
    def __init__(self, host, text):
        super().__init__()
        self.socket = self.directory / "bird.ctl"
        (self.directory / "bird.conf").write_text(text)
        with inside(host):
            self.launch(["bird", "-f", "-c", str(self.directory / "bird.conf"), "-s", str(self.socket),
                         "-P", str(self.directory / "pid")])
        wait_for(self.socket.exists, lambda: self.log.read_text())


class Announcement(Program):
    """announce.sh."""

    def __init__(self, host, bird):
        super().__init__()
        local_program(self.directory)
        path = os.pathsep.join([str(self.directory), needs.PATH])
        with inside(host):
            self.launch(["sh", str(BGP / "announce.sh")],
                        environment={**os.environ, "PATH": path, "BIRD_SOCKET": str(bird.socket)})


def commands_to_bird(directory, answers):
    """What the script tells BIRD while bitflow gives these answers, before it is ended. It need not wait for them."""
    asked, told = directory / "answers", directory / "told"
    asked.write_text("".join(f"{answer}\n" for answer in answers))
    for name, text in {
        # Its parent is the script.
        "bitflow": f'read -r answer < {asked} || {{ kill -TERM "$PPID"; exit 1; }}\nsed -i 1d {asked}\n$answer',
        "birdc": f'echo "$3 $4" >> {told}',
        "sleep": "exit 0",
    }.items():
        (directory / name).write_text(f"#!/bin/sh\n{text}\n")
        (directory / name).chmod(0o755)
    done = subprocess.run(["sh", str(BGP / "announce.sh")], capture_output=True, text=True, timeout=60 * pace(),
                          check=False, env={**os.environ, "PATH": f"{directory}{os.pathsep}{os.environ['PATH']}"})
    assert (done.returncode, done.stderr) == (0, "")
    return told.read_text().replace(" anycast", "").split()


@pytest.mark.parametrize("answers, told", [
    ("true false true", "enable enable"),
    ("true false false true", "enable disable enable"),
    ("true false true false false false", "enable enable disable disable"),
    ("false true", "disable enable"),
])
def test_a_route_is_withdrawn_after_two_answers_and_at_the_end(tmp_path, answers, told):
    assert commands_to_bird(tmp_path, answers.split()) == [*told.split(), "disable"]


@pytest.mark.parametrize("text, status", [((BGP / "bird.conf").read_text(), 0), ("router id none;", 1)])
def test_bird_accepts_the_file_and_would_refuse_others(tmp_path, text, status):
    path = tmp_path / "bird.conf"
    path.write_text(text)
    done = subprocess.run([find("bird"), "-p", "-c", str(path)], capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == status, done.stderr


def test_the_route_is_announced_while_bitflow_is_ready(env):
    for program in ("bird", "birdc", "ip"):
        find(program)
    pair = env.enter(networks.Networks("10.0.0.11/24", "10.0.0.1/24", device="eth0"))
    pair.ip("-n", pair.near, "address", "add", f"{COMMON}/32", "dev", "lo")
    host = Host(env, pair.near, env.echo(env.unix("target.sock")))
    host.start()
    router = env.keep(Bird(pair.far, ROUTER))
    bird = env.keep(Bird(pair.near, (BGP / "bird.conf").read_text()))
    announcement = env.keep(Announcement(pair.near, bird))

    def has_route():
        return COMMON in programs.run(["ip", "-n", pair.far, "route", "show", "proto", "bird"]).stdout

    def said():
        return "\n".join(peer.log.read_text()[-1500:] for peer in (router, bird, announcement))

    wait_for(has_route, said, 40)
    wait_for(lambda: is_served(pair.far, COMMON), said, 20)
    host.leave()
    wait_for(lambda: not has_route(), said, 30)
    assert is_served(pair.near, COMMON)
    host.end()
    host.start()
    wait_for(has_route, said, 30)
    announcement.process.terminate()
    wait_for(lambda: announcement.process.poll() is not None and not has_route(), said, 30)
    host.leave()
    host.end()


def test_the_unit_runs_the_script_and_withdraws_what_it_leaves():
    unit = dict(line.split("=", 1) for line in (BGP / "bitflow-announce.service").read_text().splitlines()
                if "=" in line and not line.startswith("#"))
    assert unit["ExecStart"].endswith("/announce.sh") and unit["Restart"] == "always"
    assert unit["ExecStopPost"].endswith("birdc disable anycast")
    assert "protocol static anycast {" in (BGP / "bird.conf").read_text()
