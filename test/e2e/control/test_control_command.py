"""`bitflow control` and `bitflow health`: where they look, what they print, how they end."""

import json
import re

import pytest

import bitflow_process
import control_socket
import needs
import sockets
from environment import proxy


def front(env):
    return proxy(env.address(), env.echo().address)


def cells(text):
    """The rows of a table, each a list of its cells."""
    return [re.split(r"  +", line.rstrip()) for line in text.splitlines()]


def test_the_tables_tell_what_the_json_tells(env):
    entry = front(env)
    bitflow, control = control_socket.start(env, entry)
    client = env.connect(entry["listener"]["address"])
    sockets.round_trip(client, b"x" * 2345)
    headings, row = cells(control.command("connections").stdout)
    assert headings == ["ID", "PROXY", "CLIENT", "TARGET", "PHASE", "AGE", "FROM CLIENT", "FROM TARGET", "TLS"]
    assert row[:5] == ["1", "front", sockets.local_name(client), "target1", "relaying"]
    assert row[6:] == ["2.3k", "2.3k", "-"]
    headings, row = cells(control.command("proxies").stdout)
    assert dict(zip(headings, row)) == {
        "PROXY": "front", "LISTENS AT": "tcp://" + entry["listener"]["address"], "STATE": "open", "LIVE": "1",
        "LIMIT": "-", "TARGET": "target1", "ADDRESS": "tcp://" + entry["targets"][0]["address"], "CONNECTIONS": "1",
        "HEALTH": "-"}
    headings, row = cells(control.command("processes").stdout)
    assert (headings[0], row[:2]) == ("PID", [str(bitflow.pid), "serving"])
    told = json.loads(control.command("--json", "connection", "1").stdout)
    lines = control.command("connection", "1").stdout.splitlines()
    assert "id: 1" in lines and f'client: "{told["client"]}"' in lines and "target:" in lines
    assert '  name: "target1"' in lines


def test_json_is_what_the_socket_says(env):
    _, control = control_socket.start(env, front(env))
    for command in ("health", "ready", "proxies", "config"):
        done = control.command(command, "--json")
        assert (done.returncode, json.loads(done.stdout)) == (0, control.json(f"/{command}")), done
    done = control.command("--json", "connection", "7")
    assert (done.returncode, json.loads(done.stdout)) == (1, {"error": "no connection 7 is live"})
    assert json.loads(control.command("--json", "connections").stdout) == {
        "live": 0, "count": 0, "next": None, "connections": []}


def test_the_socket_is_found_by_each_way(env):
    entry = front(env)
    _, control = control_socket.start(env, entry)
    config = env.directory / "config.yaml"
    ways = [(["--socket", control.address], {}), (["--config", config], {}), ([], {"BITFLOW_CONTROL": control.address}),
            (["--config", config], {"BITFLOW_CONTROL": "unix:///nowhere"})]
    for options, environment in ways:
        for words in (["health"], ["control", "health"]):
            done = bitflow_process.run(*words, *options, environment=environment)
            assert (done.returncode, done.stdout, done.stderr) == (0, "healthy\n", ""), (words, options)
    # What else is wrong with the file is no matter; where the socket is, is.
    config.write_text(config.read_text().replace("targets:", "targetz:"))
    assert bitflow_process.run("health", "--config", config).returncode == 0
    for text, mention in (("a: [\n", "not valid YAML"), ("server: {}\n", "has no application.control.address"),
                          ("application: {control: {address: 'x'}}\n", ":1:34: application.control.address: "),
                          ("application: {control: {address: 'fd://3'}}\n", "name that by --socket")):
        done = bitflow_process.run("health", "--config", env.write(text, "other.yaml"))
        assert done.returncode == 1 and mention in done.stderr, done


def test_over_tcp_an_order_is_refused_and_an_answer_read(env):
    _, control = control_socket.start(env, front(env), address=env.address())
    assert control.command("ready").stdout == "ready\n"
    assert bitflow_process.run("control", "--socket", ":" + control.address.rpartition(":")[2], "ready").returncode == 0
    # Not by way of a proxy that the environment names.
    assert control.command("ready", environment={"http_proxy": "http://127.0.0.1:9"}).returncode == 0
    done = control.command("reload")
    assert done.returncode == 1 and "over TCP everything can be read and nothing ordered" in done.stderr


def test_why_nobody_answers_is_said(env):
    assert "there is no unix://" in (done := control_of(env.unix("none.sock"))).stderr and done.returncode == 1
    assert "nobody listens at tcp://" in control_of(env.address()).stderr
    dead = sockets.socket.socket(sockets.socket.AF_UNIX)
    dead.bind(str(env.directory / "dead.sock"))
    dead.close()
    assert "nobody listens at unix://" in control_of(env.unix("dead.sock")).stderr
    with env.listen(env.unix("deaf.sock")):
        assert "no answer at unix://" in control_of(env.unix("deaf.sock"), "--timeout", "1").stderr
    other = env.serve(lambda connection: (connection.recv(1000), connection.sendall(b"SSH-2.0-x\r\n")))
    assert "no answer at tcp://" in control_of(other.address).stderr


def control_of(address, *options):
    return bitflow_process.run("health", "--socket", address, *options)


def test_another_user_is_told_who_may(env):
    needs.ANOTHER_USER.need()
    _, control = control_socket.start(env, front(env))
    done = bitflow_process.run("health", "--socket", control.address, plan={"uid": 61000})
    assert done.returncode == 1 and "no permission for unix://" in done.stderr, done


@pytest.mark.parametrize("words, mention", [
    (["control"], "which command?"), (["control", "helth"], "there is no command 'helth'"),
    (["control", "end"], "takes a connection's id"), (["control", "end", "x"], "'x' is not a connection's id"),
    (["control", "end", "0"], "'0' is not a connection's id"), (["control", "health", "x"], "unexpected argument 'x'"),
    (["control", "end", "1", "2"], "unexpected argument '2'"), (["health", "x"], "unexpected argument 'x'"),
    (["control", "--proxy", "x", "proxies"], "--proxy goes with connections"),
    (["control", "--process", "0", "health"], "--process takes a process's number"),
    (["control", "--process", "7x", "health"], "--process takes a process's number"),
    (["control", "--process", "7", "processes"], "--process does not go with processes"),
    (["control", "--signal", "-1", "reload"], "--signal takes a process's number"),
    (["control", "--signal", "7", "drain"], "--signal goes with reload"),
    (["control", "--timeout", "0", "health"], "--timeout takes seconds"),
    (["control", "--timeout", "1s", "health"], "--timeout takes seconds"),
    (["control", "--socket", "x", "health"], "x: "), (["health", "--nonsense"], "--nonsense"),
])
def test_wrong_usage_is_told(words, mention):
    done = bitflow_process.run(*words)
    assert (done.returncode, done.stdout) == (2, "") and mention in done.stderr, done


def test_help_names_every_command():
    done = bitflow_process.run("control", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for command in ("health", "ready", "connections", "connection ID", "proxies", "processes", "config", "metrics",
                    "end ID", "reload", "reopen-logs", "drain"):
        assert f"\n  {command} " in done.stdout, command
    assert "bitflow control" in bitflow_process.run("--help").stdout


def test_what_peers_have_chosen_cannot_reach_the_terminal(env):
    """A server name, or an address of a Unix socket, with escapes in it."""
    path = env.directory / "odd\x1b[31m\x07name"
    entry = proxy(env.unix(), env.echo().address)
    _, control = control_socket.start(env, entry)
    client = sockets.socket.socket(sockets.socket.AF_UNIX)
    client.bind(str(path))
    client.connect(str(env.directory / "front.sock"))
    with client:
        sockets.round_trip(client)
        for command in (["connections"], ["connection", "1"], ["--json", "connections"]):
            done = control.command(*command)
            assert done.returncode == 0 and "\x1b" not in done.stdout and "\x07" not in done.stdout, done
