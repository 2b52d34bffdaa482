"""docs/deploy/keepalived: by keepalived itself, and two hosts with one address. The file is the documented one but for
the program's path."""

import json
import subprocess

import deployments
import networks
import programs
from deployed_hosts import COMMON, Host, is_served, local_program
from deployments import replaced
from networks import inside
from programs import Program, find
from waiting import wait_for

TEXT = (deployments.FOLDER / "keepalived/keepalived.conf").read_text()


def moved(directory, text=TEXT):
    return replaced(text, {"/usr/bin/bitflow": str(local_program(directory))})


class Keepalived(Program):
    def __init__(self, host):
        super().__init__()
        self.host = host
        path = self.directory / "keepalived.conf"
        path.write_text(moved(self.directory))
        with inside(host):
            self.launch(["keepalived", "--dont-fork", "--log-console", "--log-detail", "--vrrp", "-f", str(path),
                         "-p", str(self.directory / "pid"), "-r", str(self.directory / "vrrp.pid")])

    def has_address(self):
        assert self.process.poll() is None, self.log.read_text()
        shown = json.loads(programs.run(["ip", "-n", self.host, "-json", "address", "show", "dev", "eth0"]).stdout)
        return COMMON in [entry["local"] for link in shown for entry in link["addr_info"]]

    def times_waiting(self):
        return self.log.read_text().count("Entering BACKUP STATE")


def test_keepalived_accepts_the_file_and_would_refuse_others(tmp_path):
    """2.2 ends itself by SIGTERM after it has read all, where a check's user is not root."""
    find("keepalived")
    with networks.Networks(device="eth0") as hosts:
        for text, fault in ((TEXT, ""), (TEXT.replace("nopreempt", "no_preempt"), "'no_preempt'")):
            path = tmp_path / "keepalived.conf"
            path.write_text(moved(tmp_path, text))
            with inside(hosts.near):
                done = subprocess.run([find("keepalived"), "--config-test", "-f", str(path)], capture_output=True,
                                      text=True, timeout=60, check=False, start_new_session=True)
            assert fault in done.stderr and bool(fault) == bool(done.stderr), done.stderr


def test_the_address_moves_to_the_host_that_is_ready(env):
    """Before the other stops serving, and not back when that is ready again."""
    for program in ("keepalived", "ip"):
        find(program)
    pair = env.enter(networks.Networks("192.0.2.1/24", "192.0.2.2/24", device="eth0"))
    addresses = {pair.near: "192.0.2.1", pair.far: "192.0.2.2"}
    target = env.echo(env.unix("target.sock"))
    hosts = {name: Host(env, name, target) for name in addresses}
    for host in hosts.values():
        host.start()
    watchers = {name: env.keep(Keepalived(name)) for name in addresses}

    def holders():
        return [name for name, watcher in watchers.items() if watcher.has_address()]

    def said():
        return "\n".join(watcher.log.read_text()[-1500:] for watcher in watchers.values())

    wait_for(lambda: len(holders()) == 1, said, 30)
    (first,) = holders()
    (second,) = set(addresses) - {first}
    wait_for(lambda: is_served(second, COMMON), said, 20)
    hosts[first].leave()
    wait_for(lambda: holders() == [second], said, 30)
    wait_for(lambda: is_served(first, COMMON), said, 20)
    assert is_served(second, addresses[first])
    hosts[first].end()
    waited = watchers[first].times_waiting()
    hosts[first].start()
    wait_for(lambda: watchers[first].times_waiting() > waited, said, 30)
    assert holders() == [second]
    for host in hosts.values():
        host.leave()
        host.end()
