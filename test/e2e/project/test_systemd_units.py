"""The units that are installed: systemd takes them, docs/operations.md shows what they say, they keep the service from
what it need not do, and what ExecReload= runs checks, reloads, and fails where it should."""

import os
import pathlib
import re
import shlex
import signal
import subprocess

import pytest

import bitflow_process
import programs
import sockets
import upgrades
from environment import proxy
from service_managers import ServiceManager
from tls_cases import tls_listener, tls_target
from waiting import pace, wait_for

DOCUMENT = (pathlib.Path(__file__).resolve().parents[3] / "docs/operations.md").read_text()
SHOWN = dict(re.findall(r"^```ini\n# (\S+)\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL))
CREDENTIALS = "/etc/systemd/system/bitflow.service.d/credentials.conf"
UNITS = ("bitflow.service", "bitflow.socket")
CONFIG = "/etc/bitflow/config.yaml"
# Of systemd-analyze: 0 is nothing, 10 everything.
EXPOSURE_MAX = 2.0
# What keeps the service from things, which the document describes as a whole.
RESTRICTION = re.compile(r"(Capability|Lock|Memory|NoNew|Private|Protect|Remove|Restrict(?!$)|SystemCall|UMask)")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Where cmake --install has put the build's files."""
    prefix = tmp_path_factory.mktemp("prefix")
    programs.run(["cmake", "--install", str(bitflow_process.binary().parent), "--prefix", str(prefix)])
    return prefix


@pytest.fixture(scope="module")
def units(installed):
    return {name: (installed / "lib/systemd/system" / name).read_text() for name in UNITS}


def settings(text):
    """The lines that set something, with their sections."""
    return [line for line in text.splitlines() if line and line[0] != "#"]


def service_settings(units):
    lines = settings(units["bitflow.service"])
    return lines[lines.index("[Service]") + 1 : lines.index("[Install]")]


def analyze(*arguments):
    command = [programs.find("systemd-analyze"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60 * pace(), check=False)


def verified(directory, files):
    """What systemd says of bitflow's units among these files, each {path below the directory: text}."""
    for name, text in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    done = [analyze("verify", "--man=no", directory / unit) for unit in UNITS]
    # Of these only: what else is installed may have mistakes of its own.
    lines = "".join(one.stderr for one in done).splitlines()
    return [line for line in lines if re.search(r"bitflow\.(service|socket)|credentials\.conf", line)]


def exposure(directory, text):
    (directory / "bitflow.service").write_text(text)
    done = analyze("security", "--offline=yes", "--no-pager", directory / "bitflow.service")
    return float(re.search(r"^→ Overall exposure level for bitflow\.service: ([\d.]+) ", done.stdout, re.M)[1])


def commands(units, key, config, pid=None):
    """What the service runs for a key, in order, for this build and this configuration."""
    found = [line.partition("=")[2] for line in service_settings(units) if line.startswith(f"{key}=")]
    assert found
    values = {CONFIG: str(config), "$MAINPID": str(pid)}
    return [[values.get(word, word) for word in shlex.split(line)] for line in found]


def run_in_turn(lines):
    """As systemd does, up to the first that fails. Returns the last one that ran."""
    for command in lines:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 * pace(), check=False)
        if done.returncode != 0:
            break
    return done


def test_systemd_accepts_the_installed_units(tmp_path, units):
    assert verified(tmp_path, units) == []


def test_systemd_accepts_the_documented_credentials(tmp_path, units):
    drop_in = "bitflow.service.d/credentials.conf"
    assert verified(tmp_path, {**units, drop_in: SHOWN[CREDENTIALS]}) == []
    assert verified(tmp_path, {**units, drop_in: SHOWN[CREDENTIALS].replace("web.key:", "web/key:")})


def test_the_verification_finds_mistakes(tmp_path, units):
    units = {**units, "bitflow.service": units["bitflow.service"].replace("ExecReload=", "ExecReloads=", 1)}
    assert "ExecReloads" in "".join(verified(tmp_path, units))


def test_the_service_runs_what_is_installed(installed, units):
    for key in ("ExecStart", "ExecReload"):
        assert commands(units, key, CONFIG)[0][0] == str(installed / "bin/bitflow")
    assert bitflow_process.binary().stat().st_size == (installed / "bin/bitflow").stat().st_size


def test_the_document_shows_the_units(installed, units):
    """But for the restrictions, of which it shows one."""
    shown = [line.replace("/usr/local", str(installed)) for line in settings(SHOWN["bitflow.service"])]
    said = service_settings(units)
    assert shown == ["[Service]", *(line for line in said if line in shown or not RESTRICTION.match(line))]
    shown = settings(SHOWN["bitflow.socket"])
    said = settings(units["bitflow.socket"])
    assert shown == said[said.index("[Socket]") : said.index("[Install]")]


def test_the_service_is_exposed_little(tmp_path, units):
    """By systemd's own measure, which is what the document says."""
    text = units["bitflow.service"]
    measured = exposure(tmp_path, text)
    assert measured <= EXPOSURE_MAX
    told, version = re.search(r"security bitflow` says ([\d.]+) \(systemd (\d+)\)", DOCUMENT).groups()
    if programs.run(["systemctl", "--version"]).stdout.split()[1] == version:
        assert measured == float(told)
    bare = "\n".join(line for line in text.splitlines() if not RESTRICTION.match(line))
    assert exposure(tmp_path, bare) > EXPOSURE_MAX


def group(name):
    """The system calls of a group, with those of the groups in it."""
    lines = programs.run(["systemd-analyze", "syscall-filter", name]).stdout.splitlines()[1:]
    members = [line.strip() for line in lines]
    calls = {member for member in members if member and member[0] not in "#@"}
    return calls.union(*(group(member) for member in members if member.startswith("@")))


def allowed_system_calls(units):
    """As systemd reads SystemCallFilter=: one line after the other, the first of which allows."""
    allowed = group("@default")
    for line in service_settings(units):
        key, _, value = line.partition("=")
        if key == "SystemCallFilter":
            words = value.lstrip("~").split()
            calls = set().union(*(group(word) if word[0] == "@" else {word} for word in words))
            allowed = allowed - calls if value[0] == "~" else allowed | calls
    return sorted(allowed)


def test_all_that_it_calls_is_allowed(env, units, pki):
    """Any other call would kill it here: TLS in both roles, a look-up, bulk, logs, metrics, sockets' modes, the
    scheduling of threads, a watchdog, reloads, the end."""
    manager, plain, tls = ServiceManager(env), env.address(), env.address()
    port = env.echo().address.rpartition(":")[2]
    file = env.directory / "s"
    bitflow = env.start(
        proxy(plain, tls_target(tls, pki.trusted), name="plain"),
        proxy(tls, f"localhost:{port}", name="tls", listener=tls_listener(pki.server), connection_log_interval="1s"),
        proxy(f"unix://{file}", f"127.0.0.1:{port}", name="local",
              listener={"unix_mode": "0660", "unix_group": os.getegid()}, connection_lifetime="1h"),
        plan={"system_calls": allowed_system_calls(units)}, environment=manager.environment(watchdog=2),
        application={"metrics": {"address": "127.0.0.1:9"}}, level="debug",
    )  # fmt: skip
    for address in (plain, f"unix://{file}"):
        with sockets.connect(address) as client:
            for _ in range(3):
                sockets.round_trip(client)
            sockets.round_trip(client, os.urandom(300_000))
    bitflow.signal(signal.SIGUSR1)
    bitflow.reload()
    with sockets.connect(plain) as client:
        sockets.round_trip(client)
    manager.wait(WATCHDOG="1")
    bitflow.stop()
    assert "SCHED_BATCH" not in bitflow.stderr() and len(bitflow.records()) >= 5


def test_the_control_socket_and_an_upgrade_call_nothing_else(env, units):
    """The process that takes over has the same filter."""
    address, control = env.address(), env.unix("control.sock")
    with upgrades.reaping():
        bitflow = env.start(
            proxy(address, env.echo().address), plan={"system_calls": allowed_system_calls(units)},
            application={"control": {"address": control}},
        )  # fmt: skip
        successor = upgrades.upgrade(env, bitflow)
        with sockets.connect(address) as client:
            sockets.round_trip(client)
            for words in (["connections"], ["proxies"], ["config"], ["metrics"], ["reload"], ["end", "1"], ["health"]):
                done = bitflow_process.run("control", "--socket", control, *words)
                assert done.returncode == 0, (words, done)
        successor.stop()


def test_a_crash_is_reported_within_what_is_allowed(env, units):
    """By another process, which has the same filter."""
    dsn = f"http://0123456789abcdef0123456789abcdef@{env.refusing()}/42"
    bitflow = env.start(proxy(env.address(), env.address()), plan={"system_calls": allowed_system_calls(units)},
                        application={"sentry_dsn": dsn})  # fmt: skip
    bitflow.signal(signal.SIGABRT)
    bitflow.wait_ended()
    bitflow.expected_status = -signal.SIGABRT
    assert bitflow.process.returncode == -signal.SIGABRT, bitflow.stderr()
    assert "the crash could not be reported to Sentry" in bitflow.stderr()


def test_a_call_that_is_not_allowed_ends_it(env, units):
    """So the test above would see it."""
    calls = [name for name in allowed_system_calls(units) if name != "sched_setscheduler"]
    bitflow = env.start(proxy(env.address(), env.echo().address), plan={"system_calls": calls})
    address = bitflow.log_lines()[0]["address"]
    with sockets.connect(address):
        bitflow.wait_ended()
    bitflow.expected_status = -signal.SIGSYS
    assert bitflow.process.returncode == -signal.SIGSYS


def test_a_reload_checks_first(env, units):
    """A broken configuration fails the reload, says why, and never gets to the process."""
    first, second, target = env.address(), env.address(), env.echo().address
    path = env.config(proxy(first, target))
    bitflow = env.launch(path)
    bitflow.wait_listening(["front"])
    reload = commands(units, "ExecReload", path, bitflow.pid)

    good = path.read_text().replace(first, second)
    path.write_text(good.replace("listener:", "listner:"))
    done = run_in_turn(reload)
    assert done.returncode == 2 and done.args == reload[0]
    assert re.search(rf"^{re.escape(str(path))}:\d+:\d+: .*\.listner: unknown key", done.stderr, re.M), done.stderr
    sockets.round_trip(env.connect(first))

    path.write_text(good)
    done = run_in_turn(reload)
    assert done.returncode == 0 and done.args == reload[-1], done
    assert "has no application.control.address; sent SIGHUP, the application log says" in done.stderr
    wait_for(lambda: "msg=reloaded" in bitflow.stderr(), lambda: f"the reload: {bitflow.stderr()}")
    sockets.round_trip(env.connect(second))
    assert "listner" not in bitflow.stderr(), "it was told of the broken configuration"


def test_a_reload_fails_where_there_is_a_control_socket(env, units):
    """With what no check can find. A socket that moves is not where the file says, and the reload is done all the
    same; a process that has gone cannot be told."""
    application = {"control": {"address": env.unix("control.sock")}}
    entry, busy = proxy(env.address(), env.echo().address), proxy(env.echo().address, "127.0.0.1:9", name="busy")
    path = env.config(entry, application=application)
    bitflow = env.launch(path)
    bitflow.wait_listening(["front"])
    reload = commands(units, "ExecReload", path, bitflow.pid)
    assert run_in_turn(reload).stdout == "reloaded\n"
    env.config(entry, busy, application=application)
    done = run_in_turn(reload)
    assert done.returncode == 1 and "Address already in use" in done.stderr, done
    env.config(entry, application={"control": {"address": env.unix("moved.sock")}})
    done = run_in_turn(reload)
    assert done.returncode == 0 and "there is no unix://" in done.stderr and "sent SIGHUP" in done.stderr
    wait_for((env.directory / "moved.sock").exists, "it has moved")
    bitflow.stop()
    done = run_in_turn(reload)
    assert done.returncode == 1 and "cannot send SIGHUP to process" in done.stderr


def test_a_start_is_tried_again_unless_the_configuration_is_wrong(env, units):
    """For as long as it takes, and not at once each time."""
    lines = service_settings(units)
    (prevented,) = (line.partition("=")[2].split() for line in lines if line.startswith("RestartPreventExitStatus="))
    done = run_in_turn(commands(units, "ExecStart", env.write("server: {}\n")))
    assert str(done.returncode) in prevented and "server.proxies" in done.stderr, done
    done = run_in_turn(commands(units, "ExecStart", env.config(proxy(env.listen().address, env.address()))))
    assert str(done.returncode) not in ["0", *prevented] and "Address already in use" in done.stderr, done
    assert {"Restart=on-failure", "RestartSec=1"} <= set(lines)
    assert "StartLimitIntervalSec=0" in settings(units["bitflow.service"])
    # Its status would count as no start's, so that a wrong configuration would be tried for ever.
    assert not [line for line in lines if line.startswith("ExecStartPre=")]


def test_a_reload_is_signalled_where_the_control_socket_takes_no_orders(env, units):
    """One by TCP, before and after the reload; and one that is a Unix socket's only from this reload on."""
    first, second, target = env.address(), env.address(), env.echo().address
    over_tcp = {"control": {"address": env.address()}}
    path = env.config(proxy(first, target), application=over_tcp)
    bitflow = env.launch(path)
    bitflow.wait_listening(["front"])
    reload = commands(units, "ExecReload", path, bitflow.pid)
    env.config(proxy(second, target), application=over_tcp)
    done = run_in_turn(reload)
    assert done.returncode == 0 and done.args == reload[-1], done
    assert "over TCP nothing can be ordered; sent SIGHUP" in done.stderr
    upgrades.wait_said(bitflow, "reloaded")
    sockets.round_trip(env.connect(second))
    env.config(proxy(second, target), application={"control": {"address": env.unix("control.sock")}})
    assert run_in_turn(reload).returncode == 0
    upgrades.wait_said(bitflow, "reloaded", 2)
    assert run_in_turn(reload).stdout == "reloaded\n"
