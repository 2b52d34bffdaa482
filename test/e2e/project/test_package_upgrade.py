"""What the Debian package's script does to a service that runs: it hands over to the new program. The service manager
is a stand-in, which knows the commands that it is to be given, and no others."""

import pathlib

import pytest

import needs
import programs
import sockets
import upgrades
from environment import proxy
from upgrades import Installed, Successor

POSTINST = pathlib.Path(__file__).resolve().parents[3] / "packaging/debian/postinst"
RELOAD = "--system daemon-reload"
IS_ACTIVE = "--quiet is-active bitflow.service"
HAND_OVER = "kill --kill-whom=main --signal=USR2 bitflow.service"
SYSTEMCTL = f"""#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
"{RELOAD}") ;;
"{IS_ACTIVE}") exit "$INACTIVE" ;;
"{HAND_OVER}") kill -USR2 "$PID" ;;
*) exit 64 ;;
esac
"""
# In a mount namespace: the machine's own service manager and policy are not to be seen.
AS_UNDER_SYSTEMD = ('mount --make-rprivate /; mount -t tmpfs none /run; mkdir -p /run/systemd/system; '
                    'mount --bind "$1" /usr/sbin; shift; exec sh "$@"')


def configure(env, before="0.0.9-1", pid=0, inactive=0, policy=0):
    """What systemctl is asked when the package is configured, in place of the version `before`."""
    needs.PROCESS_NAMESPACE.need()
    sbin, calls = env.directory / "sbin", env.directory / "calls"
    sbin.mkdir()
    answer = f'#!/bin/sh\n[ "$*" = "bitflow.service restart" ] && exit {policy}\nexit 103\n'
    for name, text in (("systemctl", SYSTEMCTL), ("deb-systemd-helper", "#!/bin/sh\nexit 0\n"),
                       ("policy-rc.d", answer)):
        (sbin / name).write_text(text)
        (sbin / name).chmod(0o755)
    environment = {"PATH": "/usr/sbin:/usr/bin:/bin", "CALLS": str(calls), "PID": str(pid), "INACTIVE": str(inactive)}
    programs.run(["unshare", "--mount", "sh", "-ec", AS_UNDER_SYSTEMD, "sh", str(sbin), str(POSTINST), "configure",
                  before], env=environment)
    return calls.read_text().splitlines()


def test_an_upgraded_package_has_the_running_service_hand_over(env, monkeypatch):
    """The new program is another file at the same path by then, as dpkg leaves it."""
    installed = Installed(env, monkeypatch)
    address = env.address()
    with upgrades.reaping():
        bitflow = env.start(proxy(address, env.echo().address))
        client = env.connect(address)
        sockets.round_trip(client)
        installed.replace()
        assert configure(env, pid=bitflow.pid) == [RELOAD, IS_ACTIVE, HAND_OVER]
        upgrades.wait_said(bitflow, upgrades.SERVES)
        successor = Successor(bitflow, int(upgrades.said(bitflow, "upgrade begun")[-1]["process"]))
        env.bitflows.append(successor)
        assert pathlib.Path(f"/proc/{successor.pid}/exe").samefile(installed.path)
        sockets.round_trip(client)
        upgrades.serves(address)
        client.close()
        assert bitflow.wait_ended() == 0


@pytest.mark.parametrize("case, asked", [
    ({"before": ""}, [RELOAD]),
    ({"policy": 101}, [RELOAD]),
    ({"inactive": 3}, [RELOAD, IS_ACTIVE]),
], ids=["first installation", "the policy forbids it", "it does not run"])
def test_otherwise_nothing_is_started(env, case, asked):
    assert configure(env, **case) == asked
