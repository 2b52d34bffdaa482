"""Real programs as peers: nginx, redis, haproxy, and any other; each in its own directory, ended by its
pid."""

import pathlib
import shutil
import subprocess
import tempfile

import needs
import sockets
from waiting import pace, wait_for


def find(name):
    return shutil.which(name, path=needs.PATH) or needs.missing(name)


def run(command, **settings):
    """Runs a program to its end and asserts that it succeeded."""
    done = subprocess.run(
        [find(command[0]), *command[1:]], capture_output=True, text=True, timeout=60 * pace(), **settings
    )
    assert done.returncode == 0, f"{command[0]}: status {done.returncode}: {done.stderr}"
    return done


class Program:
    """A program that runs until the end of the block."""

    def __init__(self, command=None):
        # /dev/shm: transfers measure the proxy, not a disk.
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="bitflow-peer-", dir="/dev/shm"))
        self.directory.chmod(0o755)
        self.log = self.directory / "output.txt"
        self.process = None
        if command:
            self.launch(command)

    def launch(self, command, environment=None):
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [find(command[0]), *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=environment,
            )

    def wait_answering(self, *addresses):
        def answers():
            assert self.process.poll() is None, f"{self.process.args[0]} ended: {self.log.read_text()}"
            try:
                for address in addresses:
                    sockets.connect(address).close()
            except OSError:
                return False
            return True

        try:
            wait_for(answers, lambda: f"{self.process.args[0]} answers: {self.log.read_text()}", 20)
        except BaseException:
            self.close()
            raise

    def listens(self, port):
        with open("/proc/net/tcp") as stream:
            return any(
                line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in stream
            )

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


NGINX = """
daemon off; master_process off; pid nginx.pid; error_log stderr; worker_rlimit_nofile 4096;
events {{ worker_connections 2048; }}
http {{
    access_log off; sendfile on; client_max_body_size 0; client_body_temp_path temp;
    proxy_temp_path temp; fastcgi_temp_path temp; uwsgi_temp_path temp; scgi_temp_path temp;
    server {{
        listen {tcp}; {listen6} listen unix:{unix};
        root {root}/files;
        location /upload/ {{ root {root}; dav_methods PUT; }}
    }}
}}
"""


class Nginx(Program):
    """Serves files, takes uploads by PUT; on IPv4, IPv6 (where there is that) and a Unix socket."""

    def __init__(self):
        super().__init__()
        self.tcp, self.tcp6 = f"127.0.0.1:{sockets.free_port()}", f"[::1]:{sockets.free_port()}"
        self.unix = f"unix://{self.directory}/nginx.sock"
        listen6 = "" if needs.IPV6.lack else f"listen {self.tcp6};"
        for name in ("files", "upload", "temp"):
            (self.directory / name).mkdir()
        self.small = "a small page\n"
        (self.directory / "files" / "small.txt").write_text(self.small)
        (self.directory / "nginx.conf").write_text(
            NGINX.format(tcp=self.tcp, listen6=listen6, unix=self.unix[len("unix://") :], root=self.directory)
        )
        self.launch(
            ["nginx", "-p", str(self.directory), "-e", "stderr", "-c", str(self.directory / "nginx.conf")]
        )
        self.wait_answering(self.tcp, self.unix, *([self.tcp6] if listen6 else []))

    def publish(self, path):
        (self.directory / "files" / path.name).symlink_to(path)

    def uploaded(self, name):
        return self.directory / "upload" / name


class Redis(Program):
    def __init__(self):
        super().__init__()
        port = sockets.free_port()
        self.address, self.unix = f"127.0.0.1:{port}", f"unix://{self.directory}/redis.sock"
        self.launch(
            [
                "redis-server",
                "--port",
                str(port),
                "--bind",
                "127.0.0.1",
                "--unixsocket",
                self.unix[len("unix://") :],
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
                str(self.directory),
            ]
        )
        self.wait_answering(self.address, self.unix)


class Haproxy(Program):
    """Forwarding from one address to another; `bind`: what more is said of the first, such as its TLS."""

    def __init__(self, front, back, bind=""):
        super().__init__()
        (self.directory / "haproxy.cfg").write_text(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n"
            f"listen front\n bind {front} {bind}\n server back {back}\n"
        )
        self.launch(["haproxy", "-db", "-f", str(self.directory / "haproxy.cfg")])
        self.wait_answering(front)
