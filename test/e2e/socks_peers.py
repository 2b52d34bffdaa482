"""SOCKS5 servers: microsocks and dante, and one that a test scripts byte by byte."""

import json
import pathlib

import needs
import programs
import sockets

HERE = pathlib.Path(__file__).resolve().parent

YES = b"\x05\x00\x00\x01\0\0\0\0\0\0"


def launch_with_files(program, files, command, **plan):
    """Runs the command with files of /etc of its own (mount namespace)."""
    needs.OWN_FILES.need()
    binds = {}
    for name, text in files.items():
        path = program.directory / name
        path.write_text(text)
        path.chmod(0o644)
        binds[str(path)] = f"/etc/{name}"
    plan = {"binds": binds, "command": [programs.find(command[0]), *command[1:]], **plan}
    program.launch(["/usr/bin/python3", str(HERE / "launch.py"), json.dumps(plan)])


def names_files(names):
    return {
        "hosts": "".join(f"{address} {name}\n" for name, address in names),
        "nsswitch.conf": "passwd: files\nshadow: files\ngroup: files\nhosts: files\n",
    }


class Microsocks(programs.Program):
    """`names`: (name, address) pairs, the only ones that it knows; without them it knows the machine's."""

    def __init__(self, user=None, password=None, names=(), address=None):
        super().__init__()
        self.address = address or f"127.0.0.1:{sockets.free_port()}"
        host, _, port = self.address.rpartition(":")
        command = ["microsocks", "-i", host, "-p", port]
        if user:
            command += ["-u", user, "-P", password]
        if names:
            launch_with_files(self, names_files(names), command)
        else:
            self.launch(command)
        self.wait_answering(self.address)


DANTE = """\
logoutput: stderr
internal: 127.0.0.1 port = {port}
external.protocol: ipv4 ipv6
external: lo
clientmethod: none
socksmethod: {method}
user.privileged: root
user.unprivileged: nobody
client pass {{ from: 0/0 to: 0/0 }}
socks block {{ from: 0/0 to: 127.0.0.13/32 }}
socks pass {{ from: 0/0 to: 0/0 }}
"""


class Dante(programs.Program):
    """Checks users against the system's, which here is a file of the test's own (mount namespace)."""

    def __init__(self, user=None, password=None, names=()):
        needs.DANTE.need()
        needs.OWN_FILES.need()
        needs.ANOTHER_USER.need()
        super().__init__()
        port = sockets.free_port()
        self.address = f"127.0.0.1:{port}"
        files = {"passwd": "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"}
        files["shadow"] = "root:*:1::::::\nnobody:*:1::::::\n"
        files.update(names_files(names))
        if user:
            secret = programs.run(["openssl", "passwd", "-6", password]).stdout.strip()
            files["passwd"] += f"{user}:x:4711:65534::/:/bin/false\n"
            files["shadow"] += f"{user}:{secret}:1::::::\n"
        (self.directory / "danted.conf").write_text(
            DANTE.format(port=port, method="username" if user else "none")
        )
        launch_with_files(self, files, ["danted", "-f", "danted.conf", "-p", "danted.pid"])
        self.wait_answering(self.address)


def read_greeting(connection):
    version, count = sockets.receive_exactly(connection, 2)
    assert version == 5
    return sockets.receive_exactly(connection, count)


def read_credentials(connection):
    version, length = sockets.receive_exactly(connection, 2)
    assert version == 1
    user = sockets.receive_exactly(connection, length)
    return user, sockets.receive_exactly(connection, sockets.receive_exactly(connection, 1)[0])


def read_request(connection):
    """(the kind of address, the host's bytes, the port)."""
    version, command, reserved, kind = sockets.receive_exactly(connection, 4)
    assert (version, command, reserved) == (5, 1, 0)
    length = {1: 4, 4: 16}.get(kind) or sockets.receive_exactly(connection, 1)[0]
    host = sockets.receive_exactly(connection, length)
    return kind, host, int.from_bytes(sockets.receive_exactly(connection, 2), "big")


def answering(*answers):
    """A handler that gives one answer after each of the client's messages, then keeps silent; None: it
    closes."""

    def handler(connection):
        readers = [read_greeting, read_request]
        for answer in answers:
            (readers.pop(0) if readers else sockets.receive_to_end)(connection)
            if answer is None:
                return
            if answer[:2] == b"\x05\x02":
                readers.insert(0, read_credentials)
            connection.sendall(answer)
        sockets.receive_to_end(connection)

    return handler
