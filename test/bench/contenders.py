"""The contenders: how each is configured and started. A new one, or a new kind of leg, is added here."""

import contextlib
import dataclasses
import functools
import glob
import os
import platform
import random
import re
import shutil
import socket
import subprocess
import time

import certificates
import processes


@dataclasses.dataclass(frozen=True)
class Link:
    """What a contender is to do: accept at one port of 127.0.0.1 and connect to another, by TLS on one side or none."""

    listen_port: int
    origin_port: int
    descriptors: int
    tls_side: str  # "client", "target" or none: ""
    certificate: certificates.Certificate
    proxies: int = 1  # so many, the first at that port and each further one at the next

    @property
    def listen_ports(self):
        return range(self.listen_port, self.listen_port + self.proxies)


class Direct:
    """No proxy at all: what the load generator and the kernel can do."""

    name = "direct"
    note = "no proxy"
    is_proxy = False

    @staticmethod
    def missing():
        return None


# What bitflow has beside the default options: metrics alone, the connection log, too; the usual scheduling; another
# build of it, to be compared with.
VARIANTS = ((), ("metrics",), ("metrics", "log"), ("normal",), ("before",))
BITFLOWS = tuple("-".join(["bitflow", *variant]) for variant in VARIANTS)
ON_REQUEST = set(BITFLOWS[1:])
# Left out where they are not installed, unless they are asked for.
OPTIONAL = {"nginx", "hitch", "stunnel"}


class Peers:
    """Where the programs that bitflow is measured beside come from: this system, or the tree of another one (`root`),
    whose loader and libraries they then have; no chroot, so that they see the files of the run and take no rights."""

    def __init__(self, root=""):
        self.root = os.path.abspath(root) if root else ""
        self.libraries = os.path.join(self.root, "usr/lib", f"{platform.machine()}-linux-gnu")
        self.loader = next(iter(sorted(glob.glob(os.path.join(self.libraries, "ld-linux-*.so.*")))), "")

    def path(self, absolute):
        return self.root + absolute

    def find(self, program):
        """The beginning of its command line; empty: it is not there."""
        own = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/sbin"
        among = ":".join(self.path(folder) for folder in ("/usr/sbin", "/usr/bin", "/sbin", "/bin"))
        found = shutil.which(program, path=among if self.root else own)
        if not found:
            return []
        return [self.loader, "--library-path", self.libraries, found] if self.root else [found]

    def missing(self, command, name):
        if self.root and not self.loader:
            return f"there is no loader in {self.libraries}"
        return None if command else f"{name} is not installed{f' in {self.root}' if self.root else ''}"


@functools.cache
def version(*command):
    """The first number with dots in what it says."""
    said = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False, timeout=10)
    found = re.search(r"\d+(\.\d+)+", said.stdout)
    return found[0] if found else "?"


class Peer:
    """Another program. `how` is the note on its settings."""

    is_proxy = True
    name = program = how = ""
    version_option = "-v"

    def __init__(self, peers):
        self.peers = peers
        self.start = peers.find(self.program or self.name)
        self.workers = len(os.sched_getaffinity(0))

    @property
    def note(self):
        return f"{version(*self.start, self.version_option)}, {self.how.format(workers=self.workers)}"

    def missing(self):
        return self.peers.missing(self.start, self.program or self.name)


class Bitflow:
    is_proxy = True

    def __init__(self, program, variant=()):
        self.variable = "BITFLOW_BEFORE" if "before" in variant else "BITFLOW"
        self.program = os.environ.get(self.variable, "") if "before" in variant else program
        self.variant = variant
        self.name = "-".join(["bitflow", *variant])
        self.note = f"default options{''.join(f', {each}' for each in variant)}"
        self.receiver = None

    def missing(self):
        if os.access(self.program, os.X_OK):
            return None
        return f"no program at '{self.program}' (build it, or name one in the environment variable {self.variable})"

    def _statsd(self):
        """The address of a receiver that nobody reads: what it has no room for, the kernel drops."""
        if self.receiver is None:
            self.receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.receiver.bind(("127.0.0.1", 0))
        return "127.0.0.1:%d" % self.receiver.getsockname()[1]

    def command(self, directory, link):
        path = os.path.join(directory, f"{self.name}.yaml")
        application = ""
        if "metrics" in self.variant:
            application = f"application: {{metrics: {{address: '{self._statsd()}'}}}}\n"
        scheduling = "  scheduling: normal\n" if "normal" in self.variant else ""
        log = f"{directory}/{self.name}.jsonl" if "log" in self.variant else ""
        options = f'      options: {{connection_log: "{log}"}}\n' if log else ""
        pair = f"{{key: {link.certificate.key}, certificate: {link.certificate.chain}}}"
        accept = f", tls_context: {{verify_mode: none, certificates: [{pair}]}}" if link.tls_side == "client" else ""
        connect = ", tls_context: {verify_mode: none}" if link.tls_side == "target" else ""
        with open(path, "w", encoding="ascii") as file:
            file.write(
                application +
                "server:\n" +
                scheduling +
                "  proxies:\n" +
                "".join(
                    f"    - name: bench-{port}\n"
                    f'      listener: {{address: "tcp://127.0.0.1:{port}"{accept}}}\n'
                    f'      targets: [{{name: origin, address: "tcp://127.0.0.1:{link.origin_port}"{connect}}}]\n'
                    + options for port in link.listen_ports))
        return [self.program, "--config", path]


class Haproxy(Peer):
    program = "haproxy"

    def __init__(self, peers, splice=False):
        super().__init__(peers)
        self.splice = splice
        self.name = "haproxy-splice" if splice else "haproxy"
        self.how = ("mode tcp, nbthread {workers}, " +
                    ("option splice-request, splice-response" if splice else "no splice (default)"))

    def command(self, directory, link):
        path = os.path.join(directory, f"{self.name}.cfg")
        # Two descriptors a connection, some for the threads; with splice two pipes more.
        maxconn = (link.descriptors - 200) // (6 if self.splice else 2)
        accept = f" ssl crt {link.certificate.both}" if link.tls_side == "client" else ""
        # It would resume sessions, which bitflow does not.
        connect = " ssl verify none no-ssl-reuse" if link.tls_side == "target" else ""
        with open(path, "w", encoding="ascii") as file:
            file.write(
                "global\n"
                f"    nbthread {self.workers}\n"
                f"    maxconn {maxconn}\n"
                "defaults\n"
                "    mode tcp\n"
                f"    maxconn {maxconn}\n"
                "    timeout connect 10s\n"
                "    timeout client 1h\n"
                "    timeout server 1h\n"
                # Not splice-auto: its heuristic stays with recv and send on these streams.
                + ("    option splice-request\n    option splice-response\n" if self.splice else "") +
                "".join(
                    f"listen bench-{port}\n"
                    f"    bind 127.0.0.1:{port} backlog 4096{accept}\n"
                    f"    server origin 127.0.0.1:{link.origin_port}{connect}\n" for port in link.listen_ports))
        return [*self.start, "-db", "-f", path]


class Nginx(Peer):
    name = "nginx"
    how = "stream, worker_processes {workers}"

    def __init__(self, peers):
        super().__init__(peers)
        self.module = peers.path("/usr/lib/nginx/modules/ngx_stream_module.so")

    def missing(self):
        if lack := super().missing():
            return lack
        return None if os.path.exists(self.module) else f"there is no {self.module} (libnginx-mod-stream)"

    def command(self, directory, link):
        path = os.path.join(directory, f"{self.name}.conf")
        is_tls = link.tls_side == "client"
        # Older releases do not offer 1.3 by themselves.
        tls = (f"ssl_certificate {link.certificate.chain}; ssl_certificate_key {link.certificate.key}; "
               "ssl_protocols TLSv1.2 TLSv1.3;" if is_tls else "")
        with open(path, "w", encoding="ascii") as file:
            file.write(
                f"load_module {self.module};\n"
                f"daemon off; pid {directory}/nginx.pid; error_log stderr;\n"
                f"worker_processes {self.workers}; worker_rlimit_nofile {link.descriptors};\n"
                f"events {{ worker_connections {link.descriptors - 200}; }}\n"
                "stream {\n"
                # With TLS that would be the end of the socket's stream without a close_notify.
                f"    proxy_timeout 1h; proxy_half_close {'off' if is_tls else 'on'};\n"
                + "".join(
                    f"    server {{ listen 127.0.0.1:{port}{' ssl' if is_tls else ''} backlog=4096; {tls}\n"
                    f"             proxy_pass 127.0.0.1:{link.origin_port}; }}\n" for port in link.listen_ports) +
                "}\n")
        return [*self.start, "-e", "stderr", "-p", directory, "-c", path]


class Hitch(Peer):
    """Accepts TLS, and passes on what it carries."""

    name = "hitch"
    how = "workers {workers}"
    version_option = "--version"

    def command(self, directory, link):
        path = os.path.join(directory, f"{self.name}.conf")
        with open(path, "w", encoding="ascii") as file:
            file.write(
                f'frontend = {{ host = "127.0.0.1" port = "{link.listen_port}" }}\n'
                f'backend = "[127.0.0.1]:{link.origin_port}"\n'
                f'pem-file = "{link.certificate.both}"\n'
                "tls-protos = TLSv1.2 TLSv1.3\n"
                f"workers = {self.workers}\n"
                "backlog = 4096\n"
                'daemon = off\nlog-level = 1\nocsp-dir = ""\n' +
                # It does not serve as root.
                ('user = "nobody"\n' if os.geteuid() == 0 else ""))
        return [*self.start, f"--config={path}"]


class Stunnel(Peer):
    """TLS on either side; a thread per connection, as bitflow."""

    name = "stunnel"
    how = "a thread per connection"
    version_option = "-version"

    def command(self, directory, link):
        path = os.path.join(directory, f"{self.name}.conf")
        # It would resume sessions, which bitflow does not.
        side = (f"cert = {link.certificate.chain}\nkey = {link.certificate.key}\n" if link.tls_side == "client"
                else "client = yes\nsessionResume = no\n")
        with open(path, "w", encoding="ascii") as file:
            file.write(
                "foreground = yes\npid =\ndebug = err\n"
                "socket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n"
                "[bench]\n"
                f"accept = 127.0.0.1:{link.listen_port}\n"
                f"connect = 127.0.0.1:{link.origin_port}\n" + side)
        return [*self.start, path]


class Socat(Peer):
    name = "socat"
    how = "a process per connection"
    version_option = "-V"

    def command(self, directory, link):
        del directory
        return [*self.start, "-t", "30", "-b", "65536",
                f"TCP-LISTEN:{link.listen_port},bind=127.0.0.1,fork,reuseaddr,nodelay,backlog=4096",
                f"TCP:127.0.0.1:{link.origin_port},nodelay"]


def all_contenders(bitflow, root=""):
    """By name, in the order in which they take turns."""
    peers = Peers(root)
    everyone = [*(Bitflow(bitflow, variant) for variant in VARIANTS), Haproxy(peers), Haproxy(peers, splice=True),
                Nginx(peers), Hitch(peers), Stunnel(peers), Socat(peers), Direct()]
    return {contender.name: contender for contender in everyone}


def free_ports(count=1):
    """The first of so many in a row, below the ephemeral ones, so that no outgoing connection can take one before the
    listener does."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        highest = int(file.read().split()[0]) - count
    for _ in range(1000):
        first = random.randint(min(10000, highest // 2), highest)
        with contextlib.ExitStack() as probes:
            try:
                for port in range(first, first + count):
                    probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
                return first
            except OSError:
                continue
    raise processes.Failure(f"found no {count} free ports in a row on 127.0.0.1")


def _listening():
    """The ports on which something listens at 127.0.0.1 or at all addresses, without connecting to them. Listening
    sockets come first in the table, whose rest may be long."""
    ports = set()
    with open("/proc/net/tcp", encoding="ascii") as file:
        next(file)
        for words in map(str.split, file):
            if words[3] != "0A":
                break
            address, _, port = words[1].partition(":")
            if address in ("0100007F", "00000000"):
                ports.add(int(port, 16))
    return ports


def start(contender, directory, link):
    """Starts a proxy and returns it once it listens at all of its ports."""
    child = processes.Child(contender.command(directory, link), directory, contender.name)
    try:
        deadline = time.monotonic() + 10
        while not _listening().issuperset(link.listen_ports):
            child.check_alive()
            if time.monotonic() > deadline:
                raise processes.Failure(f"{contender.name} does not listen after 10 s: {child.log_tail()}")
            time.sleep(0.001)
    except BaseException:
        child.stop()
        raise
    return child
