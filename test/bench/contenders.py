"""The contenders: how each is configured and started. A new one, or a new kind of leg, is added here."""

import dataclasses
import os
import random
import shutil
import socket
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
ON_REQUEST = {*BITFLOWS[1:], "nginx"}


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
                "  proxies:\n"
                "    - name: bench\n"
                f'      listener: {{address: "tcp://127.0.0.1:{link.listen_port}"{accept}}}\n'
                f'      targets: [{{name: origin, address: "tcp://127.0.0.1:{link.origin_port}"{connect}}}]\n'
                + options)
        return [self.program, "--config", path]


class Haproxy:
    is_proxy = True

    def __init__(self, splice=False):
        self.splice = splice
        self.name = "haproxy-splice" if splice else "haproxy"
        self.threads = len(os.sched_getaffinity(0))
        how = "option splice-request, splice-response" if splice else "no splice (default)"
        self.note = f"mode tcp, nbthread {self.threads}, {how}"
        self.program = _find("haproxy")

    def missing(self):
        return None if self.program else "haproxy is not installed"

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
                f"    nbthread {self.threads}\n"
                f"    maxconn {maxconn}\n"
                "defaults\n"
                "    mode tcp\n"
                f"    maxconn {maxconn}\n"
                "    timeout connect 10s\n"
                "    timeout client 1h\n"
                "    timeout server 1h\n"
                # Not splice-auto: its heuristic stays with recv and send on these streams.
                + ("    option splice-request\n    option splice-response\n" if self.splice else "") +
                "listen bench\n"
                f"    bind 127.0.0.1:{link.listen_port} backlog 4096{accept}\n"
                f"    server origin 127.0.0.1:{link.origin_port}{connect}\n")
        return [self.program, "-db", "-f", path]


class Nginx:
    name = "nginx"
    is_proxy = True
    module = "/usr/lib/nginx/modules/ngx_stream_module.so"

    def __init__(self):
        self.program = _find("nginx")
        self.workers = len(os.sched_getaffinity(0))
        self.note = f"stream, worker_processes {self.workers}"

    def missing(self):
        if not self.program:
            return "nginx is not installed"
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
                "    proxy_timeout 1h; proxy_half_close on;\n"
                f"    server {{ listen 127.0.0.1:{link.listen_port}{' ssl' if is_tls else ''} backlog=4096; {tls}\n"
                f"             proxy_pass 127.0.0.1:{link.origin_port}; }}\n"
                "}\n")
        return [self.program, "-e", "stderr", "-p", directory, "-c", path]


class Socat:
    name = "socat"
    note = "a process per connection"
    is_proxy = True

    def __init__(self):
        self.program = _find("socat")

    def missing(self):
        return None if self.program else "socat is not installed"

    def command(self, directory, link):
        del directory
        return [self.program, "-t", "30", "-b", "65536",
                f"TCP-LISTEN:{link.listen_port},bind=127.0.0.1,fork,reuseaddr,nodelay,backlog=4096",
                f"TCP:127.0.0.1:{link.origin_port},nodelay"]


def _find(program):
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/sbin")


def all_contenders(bitflow):
    """By name, in the order in which they take turns."""
    everyone = [*(Bitflow(bitflow, variant) for variant in VARIANTS),
                Haproxy(), Haproxy(splice=True), Nginx(), Socat(), Direct()]
    return {contender.name: contender for contender in everyone}


def free_port():
    """A port below the ephemeral ones, so that no outgoing connection can take it before the listener does."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        highest = int(file.read().split()[0]) - 1
    for _ in range(1000):
        port = random.randint(min(10000, highest // 2), highest)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise processes.Failure("found no free port on 127.0.0.1")


def _listens(port):
    """Whether something listens on 127.0.0.1:port (or on all addresses), without connecting to it."""
    wanted = (f"0100007F:{port:04X}", f"00000000:{port:04X}")
    with open("/proc/net/tcp", encoding="ascii") as file:
        return any(words[1] in wanted and words[3] == "0A" for words in map(str.split, file))


def start(contender, directory, link):
    """Starts a proxy and returns it once it listens."""
    child = processes.Child(contender.command(directory, link), directory, contender.name)
    try:
        deadline = time.monotonic() + 10
        while not _listens(link.listen_port):
            child.check_alive()
            if time.monotonic() > deadline:
                raise processes.Failure(f"{contender.name} does not listen after 10 s: {child.log_tail()}")
            time.sleep(0.01)
    except BaseException:
        child.stop()
        raise
    return child
