"""gdb's commands for bitflow, on a live process and on core files: they show the connections as they are."""

import os
import pathlib
import re
import signal
import subprocess

import pytest

import bitflow_process
import gdb_session
import programs
import sockets
import tls_cases
from environment import proxy
from waiting import pace, wait_for

LISTS = ["bitflow connections", "bitflow proxies", "bitflow threads"]

pytestmark = pytest.mark.skipif(
    bitflow_process.is_sanitized(bitflow_process.binary()),
    reason="gdb cannot show a sanitizer's stacks and shadow memory",
)
# One arena: gdb writes malloc()'s arenas to core files in full, 64 MiB each.
SMALL = {"MALLOC_ARENA_MAX": "1"}
LONG = {"connect_timeout": "2m", "connect_attempts": 1}


class Crowd:
    """Fifty connections in different phases, and what the commands have to show of each."""

    def __init__(self, env, pki):
        self.expected = {}  # the client's address: (proxy, phase, target, from client, from target, threads)
        self.echo, self.idle = env.echo(), env.listen()
        full = env.listen(backlog=0)
        full.fill_queue()
        addresses = {name: env.address() for name in ("web", "bulk", "slow", "hello", "named", "bad")}
        tls = tls_cases.tls_listener(pki.server, handshake_timeout="2m")
        self.bitflow = env.start(
            proxy(
                addresses["web"],
                {"name": "echo", "address": self.echo.address},
                name="web",
                connection_lifetime="2h",
            ),
            proxy(addresses["bulk"], {"name": "idle", "address": self.idle.address}, name="bulk"),
            proxy(
                addresses["slow"],
                {"name": "full", "address": full.address, **LONG},
                name="slow",
                source_connection_limit=50,
            ),
            proxy(addresses["hello"], self.echo.address, name="hello", listener=tls),
            proxy(
                addresses["named"],
                self.echo.address,
                name="named",
                listener={"proxy_protocol": True, "proxy_protocol_timeout": "2m"},
                connection_lifetime="1h",
            ),
            proxy(
                addresses["bad"],
                {"name": "out", "address": env.refusing(), "max_fails": 1, "fail_timeout": "1h"},
                {"name": "back", "address": self.echo.address},
                name="bad",
                connection_load_balancer="failover",
            ),
            level="debug",
            environment=SMALL,
        )
        self.addresses, self.clients = addresses, {}
        for number in range(20):
            client = self.begin(env, "web", "relaying", "echo", number * 7, number * 7, ">")
            if number:
                sockets.round_trip(client, b"x" * number * 7)
        for _ in range(8):
            client = self.begin(env, "bulk", "relaying", "idle", None, 5, "<>")
            self.idle.accept().sendall(b"hello")
            sockets.receive_exactly(client, 5)
            sockets.fill(client, settle=0.05)
        for _ in range(10):
            self.begin(env, "slow", "dialling", "full", 0, 0, ">")
        for _ in range(5):
            self.begin(env, "hello", "admitting", "-", 0, 0, ">")
        for _ in range(5):
            self.begin(env, "named", "admitting", "-", 0, 0, ">")
        for _ in range(2):
            sockets.round_trip(self.begin(env, "bad", "relaying", "back", 14, 14, ">"))
        self.wait_settled()
        self.ids = {
            line["client"]: int(line["conn"])
            for line in self.bitflow.log_lines(True)
            if line["msg"] == "accepted"
        }
        self.tasks = {}

    def look(self, commands):
        """What gdb says, and the threads at that time: a connection that rests goes on on another one."""
        for _ in range(5):
            self.tasks = self.bitflow.tasks()
            told = gdb_session.live(self.bitflow, commands)
            if self.bitflow.tasks() == self.tasks:
                return told
        raise AssertionError("the threads never stayed the same while gdb looked")

    def begin(self, env, name, *facts):
        # Bound, so that no two have the same port: clients of different proxies could have.
        client = env.connect(self.addresses[name], source="127.0.0.1")
        self.expected[sockets.local_name(client)] = (name, *facts)
        self.clients[sockets.local_name(client)] = client
        return client

    def wait_settled(self):
        assert len(self.expected) == 50
        counts = [sum(mark in facts[5] for facts in self.expected.values()) for mark in "><"]
        wait_for(
            lambda: [sum(name.endswith(mark) for name in self.bitflow.busy_threads()) for mark in "><"]
            == counts,
            lambda: f"the threads of fifty connections: {self.bitflow.thread_names()}",
        )

    def check_connections(self, text):
        told = gdb_session.connections(text)
        assert {row.client for row in told.values()} == set(self.expected)
        for row in told.values():
            name, phase, target, from_client, from_target, marks = self.expected[row.client]
            assert (row.id, row.proxy, row.phase, row.target) == (self.ids[row.client], name, phase, target)
            assert row.from_target == from_target, row.client
            assert row.from_client == from_client if from_client is not None else row.from_client > 0
            assert set(row.lwps) == set(marks), row.threads
            for mark, lwp in row.lwps.items():
                assert self.tasks[lwp] == f"{name}#{row.id}{mark}"
            assert 0 < row.seconds() < 60 * pace()

    def check_proxies(self, text):
        told = gdb_session.proxies(text)
        counts = {"web": 20, "bulk": 8, "slow": 10, "hello": 5, "named": 5, "bad": 2}
        assert {name: facts[1:3] for name, facts in told.items()} == {
            name: (count, count) for name, count in counts.items()
        }
        assert {name: facts[0] for name, facts in told.items()} == self.addresses
        assert told["web"][3] == {"echo": (self.echo.address, 20, "good")}
        assert told["bad"][3]["out"][1:] == (0, "out")
        assert told["bad"][3]["back"] == (self.echo.address, 2, "good")

    def check_threads(self, text, main):
        told = gdb_session.threads(text)
        assert set(told) == set(self.tasks)
        for lwp, (_, name, does, function, connection) in told.items():
            assert name == (main if lwp == self.bitflow.pid else self.tasks[lwp])
            if "#" not in name:
                assert connection == "-"
                continue
            prefix, number, mark = re.fullmatch(r"(\w+)#(\d+)([<>])", name).groups()
            assert connection == number
            assert (does, function) in {
                ("web", ">"): {("both ways", "wait_and_serve")},
                ("bad", ">"): {("both ways", "wait_and_serve")},
                ("bulk", ">"): {("client to target", "splice_out"), ("client to target", "write_pieces")},
                ("bulk", "<"): {("target to client", "direction_move"), ("target to client", "await_data")},
                ("slow", ">"): {("connects to a target", "client_watch_poll")},
            }.get((prefix, mark), {("admits its client", function)}), (name, does, function)
        assert {does for _, name, does, _, _ in told.values() if name.endswith(":accept")} == {"accepts"}

    def check(self, told, main):
        self.check_connections(told["bitflow connections"])
        self.check_proxies(told["bitflow proxies"])
        self.check_threads(told["bitflow threads"], main)


def test_fifty_connections_are_shown_as_they_are_live_and_in_a_core_file(env, pki, tmp_path):
    """gdb writes the core file in the run that looks at the live process."""
    crowd = Crowd(env, pki)
    path = tmp_path / "core"
    told = crowd.look([*LISTS, f"generate-core-file {path}"])
    crowd.check(told, "bitflow")

    client, one = next((client, crowd.expected[client]) for client in crowd.expected)
    assert one[0] == "web" and crowd.bitflow.is_running()
    sockets.round_trip(crowd.clients[client])  # it goes on as if nothing had happened

    bulk = next(crowd.ids[client] for client, facts in crowd.expected.items() if facts[0] == "bulk")
    slow = next(crowd.ids[client] for client, facts in crowd.expected.items() if facts[0] == "slow")
    number = gdb_session.connections(told["bitflow connections"])[bulk].numbers["<"]
    commands = [*LISTS, "bitflow connections slow", f"bitflow connection {bulk}", "print $connection->id"]
    commands += [f"bitflow connection {slow}", f"thread {number}", "bitflow connection", "bitflow connection 99"]
    told = gdb_session.core(path, commands)
    path.unlink()
    crowd.check(told, bitflow_process.binary().name)
    assert {row.proxy for row in gdb_session.connections(told["bitflow connections slow"]).values()} == {"slow"}
    check_one(told, bulk, slow)


def check_one(told, bulk, slow):
    """What `bitflow connection` says about two of them."""
    text = told[f"bitflow connection {bulk}"]
    assert re.search(rf"^connection +{bulk} of bulk, relaying for ", text, re.MULTILINE), text
    assert re.search(r"^ended by +nothing yet$", text, re.MULTILINE)
    assert re.search(r"^bytes +\d+ from the client, 5 from the target$", text, re.MULTILINE)
    assert re.search(r"^to target +\d+ bytes in its buffers, in a write", text, re.MULTILINE)
    assert re.search(r"^to client +0 bytes in its buffers$", text, re.MULTILINE)
    assert text.count("\nThread ") == 2 and "relay_run" in text and "run_second_thread" in text
    assert told["print $connection->id"] == f"$1 = {bulk}"
    assert f"connection   {bulk} of bulk" in told["bitflow connection"], "the selected thread's"
    text = told[f"bitflow connection {slow}"]
    assert f"{slow} of slow, dialling" in text and "\nattempts     1, the last one in connect" in text
    assert "\nsource       has 10 connections\n" in text and "\nsource " not in told[f"bitflow connection {bulk}"]
    assert "There is no connection 99." in told["bitflow connection 99"]


def test_a_connection_that_closes_is_found_by_its_thread(env):
    """Its socket is closed and the registry has let go of it; its thread still has it."""
    target, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, target.address, name="web"))
    client, connection = env.pair(address, target)
    command = [
        "gdb", "-q", "-nx", "-batch", "-iex", "set debuginfod enabled off",
        "-iex", f"add-auto-load-safe-path {bitflow_process.binary()}", "-p", str(bitflow.pid),
        "-ex", "break connection_write_records", "-ex", "echo waiting\\n", "-ex", "continue",
        "-ex", "bitflow connections", "-ex", "bitflow threads", "-ex", "bitflow connection",
    ]  # fmt: skip
    output = env.directory / "gdb.txt"
    with open(output, "wb") as stream:
        session = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
    try:
        wait_for(lambda: "waiting" in output.read_text(), "gdb has set its breakpoint", 30)
        client.close()
        connection.close()
        session.wait(30 * pace())
    finally:
        session.kill()
        session.wait()
    text = output.read_text()
    (row,) = gdb_session.connections(text[: text.index("\nGDB  ")]).values()
    assert (row.id, row.proxy, row.phase, set(row.lwps)) == (1, "web", "closing", {">"}), text
    assert "closes, writes the records" in text
    assert re.search(r"^ended by +client_left$", text, re.MULTILINE), text
    assert bitflow.wait_records(1)[0]["reason"] == "client_left"


BREAK_LISTS = """\
echo \\n=== moved\\n
set $thread = all_threads.tqh_first
while $thread != 0
  set var $thread->id = $thread->id + 1000000
  set $thread = $thread->link.tqe_next
end
bitflow connections
echo \\n=== loop\\n
set $registry = debugged_process.runtime->registry
set var $registry->unlimited.tqh_first->link.tqe_next = $registry->unlimited.tqh_first
bitflow connections
echo \\n=== wild\\n
set var $registry->unlimited.tqh_first->link.tqe_next = (struct registry_entry *)0x10
bitflow connections
echo \\n=== garbage\\n
set var $registry->unlimited.tqh_first = (struct registry_entry *)&debugged_process
bitflow connections
echo \\n=== proxies\\n
set var debugged_process.listeners->acceptors[0]->admission->generation = (struct generation *)0x10
bitflow proxies
echo \\n=== threads\\n
set var all_threads.tqh_first->link.tqe_next = all_threads.tqh_first
bitflow threads
kill
"""


def test_broken_lists_end_and_are_reported(env):
    """They loop or lead nowhere; ids of another namespace do not matter."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address, name="web"))
    clients = [env.connect(address) for _ in range(3)]
    for client in clients:
        sockets.round_trip(client)
    tasks = bitflow.tasks()
    script = env.write(BREAK_LISTS, "break.gdb")
    bitflow.expected_status, bitflow.quiet_check = -signal.SIGKILL, False
    text = gdb_session.gdb("-p", bitflow.pid, "-x", script)
    bitflow.wait_ended()
    parts = dict(zip(*[iter(re.split(r"^=== (\w+)$", text, flags=re.MULTILINE)[1:])] * 2))
    assert set(parts) == {"moved", "loop", "wild", "garbage", "proxies", "threads"}, text
    for row in gdb_session.connections(parts["moved"]).values():
        assert tasks[row.lwps[">"]] == f"web#{row.id}>", "found by their stacks"
    assert "The list of connections goes round in itself after 1 entries." in parts["loop"]
    assert "The list of connections is broken after 1 entries." in parts["wild"]
    for name in ("loop", "wild", "garbage"):
        # Their threads know them, too.
        assert set(gdb_session.connections(parts[name])) >= {1, 2, 3}, parts[name]
    assert "warning: " in parts["garbage"] and "Traceback" not in text and "Python Exception" not in text, text
    # A proxy that cannot be read does not hide another.
    assert f"The proxy at {address} cannot be read: Cannot access memory" in parts["proxies"]
    assert gdb_session.proxies(parts["proxies"])["web"][:2] == ("(closed)", 3)
    assert "The list of threads goes round in itself after 1 entries." in parts["threads"]


def test_a_proxy_that_a_reload_took_away_is_shown_as_closed(env):
    """It is there for the sake of its connection; the thread of one that has ended waits for another."""
    echo, old, new = env.echo(), env.address(), env.address()
    bitflow = env.start(proxy(old, echo.address, name="old"))
    client, brief = env.connect(old), env.connect(old)
    sockets.round_trip(client)
    brief.close()
    wait_for(lambda: "parked" in bitflow.thread_names(), "the second connection's thread parks")
    env.config(proxy(new, echo.address, name="new"))
    bitflow.signal(signal.SIGHUP)
    bitflow.wait_listening(["new"])
    told = gdb_session.live(bitflow, LISTS)
    proxies = gdb_session.proxies(told["bitflow proxies"])
    assert {name: facts[:2] for name, facts in proxies.items()} == {"new": (new, 0), "old": ("(closed)", 1)}
    assert set(gdb_session.connections(told["bitflow connections"])) == {1}
    threads = gdb_session.threads(told["bitflow threads"])
    parked = [facts for facts in threads.values() if facts[1] == "parked"]
    assert [(does, connection) for _, _, does, _, connection in parked] == [("waits for a task", "-")]


def test_the_script_is_loaded_only_where_gdb_allows(env, tmp_path):
    """Otherwise gdb says so; the script can be taken out of the program as docs/debugging.md says, and sourced."""
    path = bitflow_process.binary()
    text = gdb_session.gdb(path, "-ex", "bitflow threads", trusted=False)
    assert "auto-loading has been declined" in text and 'Undefined command: "bitflow"' in text
    assert "No process to look at." in gdb_session.gdb(path, "-ex", "bitflow threads")
    recipe = [command for command in shown("$ ") if "bitflow.section" in command]
    assert len(recipe) == 2
    (tmp_path / "bitflow").symlink_to(path)
    programs.run(["sh", "-ec", "\n".join(recipe)], cwd=tmp_path)
    text = gdb_session.gdb(path, "-x", tmp_path / "bitflow.py", "-ex", "help bitflow", trusted=False)
    assert "bitflow connections" in text and "bitflow proxies" in text


# The session of docs/debugging.md


DOCUMENT = pathlib.Path(__file__).resolve().parents[3] / "docs" / "debugging.md"


def documents_process(env):
    """The process that the document looks at."""
    echo, stuck, full = env.echo(), env.listen(), env.listen(backlog=0)
    full.fill_queue()
    addresses = {name: env.address() for name in ("web", "redis-cache", "mail")}
    web = {"name": "blue", "address": echo.address}, {"name": "green", "address": stuck.address}
    bitflow = env.start(
        proxy(addresses["web"], *web, name="web", connection_load_balancer="round-robin"),
        proxy(addresses["redis-cache"], {"name": "redis", "address": echo.address}, name="redis-cache"),
        proxy(addresses["mail"], {"name": "mx", "address": full.address, **LONG}, name="mail"),
        environment=SMALL,
    )
    first = env.connect(addresses["web"])
    sockets.round_trip(first, b"hello\n")
    second = env.connect(addresses["web"])
    stuck.accept()
    sockets.round_trip(env.connect(addresses["redis-cache"]), b"PING\r\n")
    env.connect(addresses["mail"])
    wait_for(lambda: "mail#4>" in bitflow.thread_names(), "the fourth connection")
    sockets.fill(second, settle=0.1)
    wait_for(lambda: "web#2<" in bitflow.thread_names(), "the second's second thread")
    return bitflow


def shown(prompt):
    """The document's commands after this prompt, without remarks."""
    lines = DOCUMENT.read_text().splitlines()
    return [line[len(prompt) :].split("  #")[0].rstrip() for line in lines if line.startswith(prompt)]


def test_every_gdb_command_of_the_document_works(env, tmp_path):
    """On a process like the one that docs/debugging.md shows."""
    bitflow = documents_process(env)
    commands = [command.replace("/tmp/bitflow.core", str(tmp_path / "core")) for command in shown("(gdb) ")]
    assert "bitflow connections" in commands and any("generate-core-file" in command for command in commands)
    # gdb numbers the threads, and not in the same way in each release.
    script = "numbers = {thread.name: thread.num for thread in gdb.selected_inferior().threads()}\n"
    for command in commands:
        run = "f'thread {numbers[\"web#2<\"]}'" if command == "thread 9" else repr(command)
        script += f"try: gdb.execute({run})\nexcept gdb.error as error: print('FAILED:', {run}, error)\n"
    assert "f'thread" in script
    path = env.write(script, "session.py")
    text = gdb_session.gdb("-p", bitflow.pid, "-x", path)
    assert "FAILED" not in text and "Error" not in text, text
    assert (tmp_path / "core").stat().st_size > 0
    in_core = gdb_session.core(tmp_path / "core", LISTS)
    assert set(gdb_session.connections(in_core["bitflow connections"])) == {1, 2, 3, 4}


def test_the_documents_shell_commands_work(env, tmp_path):
    """Except for perf, which needs the kernel's leave, and top. Commands without an end are stopped after a while."""
    bitflow = documents_process(env)
    (tmp_path / "gdb").mkdir()
    (path,) = re.findall("^add-auto-load-safe-path (.+)$", DOCUMENT.read_text(), re.MULTILINE)
    init = f"set debuginfod enabled off\nadd-auto-load-safe-path {path}\n"
    (tmp_path / "gdb" / "gdbinit").write_text(init.replace(path, str(bitflow_process.binary())))
    gdb_session.live(bitflow, [f"generate-core-file {tmp_path / 'bitflow.core'}"])
    commands = [command for command in shown("$ ") if re.match(r"(ps|tid=|strace|gdb) ?", command)]
    script = f"PID={bitflow.pid}\nset -e\n"
    for command in commands:
        command = command.replace("/tmp/bitflow.core", str(tmp_path / "bitflow.core"))
        command = command.replace("gdb bitflow ", f"gdb {bitflow_process.binary()} ")
        endless = command.startswith("strace")
        script += f"echo '--- {command.split()[0]}'\n"
        script += f"timeout -s INT 2 {command} || [ $? = 124 ]\n" if endless else command + "\n"
    output = programs.run(
        ["sh", "-c", f"{script}exit 0"],
        env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path)},
    )
    text = output.stdout + output.stderr
    assert len(commands) >= 6, commands
    assert re.search(r"^ *\d+ web#2> ", text, re.MULTILINE), text
    assert len(re.findall(r"^ 2 +web .* relaying .* >\d+ \(LWP \d+\) <\d+", text, re.MULTILINE)) == 2, text
    assert "splice(" in text and "Undefined" not in text, text
