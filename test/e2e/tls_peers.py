"""Real programs that speak TLS: openssl s_client and s_server, gnutls-cli and gnutls-serv, curl."""

import os
import re
import signal
import subprocess
import threading

import programs
from waiting import pace, wait_for

# By IANA's names, as the connection log has them.
SUITES_1_3 = {
    "TLS_AES_128_GCM_SHA256": "AES-128-GCM",
    "TLS_AES_256_GCM_SHA384": "AES-256-GCM",
    "TLS_CHACHA20_POLY1305_SHA256": "CHACHA20-POLY1305",
}
SUITES_1_2 = {
    "TLS_ECDHE_{}_WITH_AES_128_GCM_SHA256": "ECDHE-{}-AES128-GCM-SHA256",
    "TLS_ECDHE_{}_WITH_AES_256_GCM_SHA384": "ECDHE-{}-AES256-GCM-SHA384",
    "TLS_ECDHE_{}_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-{}-CHACHA20-POLY1305",
}
VERSIONS = ("TLSv1.2", "TLSv1.3")
KEY_KINDS = ("rsa", "rsa-pss", "p256", "p384")


def suites(version, key_kind):
    """IANA's names of the suites of a version that a certificate with this kind of key allows."""
    if version == "TLSv1.3":
        return list(SUITES_1_3)
    return [name.format("RSA" if key_kind.startswith("rsa") else "ECDSA") for name in SUITES_1_2]


# Every version with each kind of server's key, and each suite that it allows.
SUITE_CASES = [
    (version, kind, suite) for version in VERSIONS for kind in KEY_KINDS for suite in suites(version, kind)
]
# Python's ssl can choose the suites of TLS 1.2 only.
PYTHON_SUITE_CASES = [case for case in SUITE_CASES if case[0] == "TLSv1.2" or case[2] == "TLS_AES_256_GCM_SHA384"]


def openssl_name(suite):
    """OpenSSL's name of a suite."""
    if suite in SUITES_1_3:
        return suite
    kind = "RSA" if "_RSA_" in suite else "ECDSA"
    return next(
        theirs.format(kind) for name, theirs in SUITES_1_2.items() if name.format(kind) == suite
    )


def gnutls_priority(version=None, suite=None):
    text = "NORMAL"
    if version:
        text += ":-VERS-ALL:+VERS-" + version.replace("TLSv", "TLS")
    if suite:
        cipher = re.search(r"AES_128_GCM|AES_256_GCM|CHACHA20_POLY1305", suite).group().replace("_", "-")
        text += f":-CIPHER-ALL:+{cipher}"
    return text


class Conversation:
    """A program with its standard input in the test's hands, and all that it says, ended by its pid."""

    def __init__(self, command):
        self.process = subprocess.Popen(
            [programs.find(command[0]), *map(str, command[1:])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C"},
        )
        self.said = bytearray()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        while True:
            part = os.read(self.process.stdout.fileno(), 1 << 16)
            if not part:
                return
            self.said += part

    def text(self):
        return bytes(self.said).decode(errors="replace")

    def say(self, data):
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def wait_said(self, pattern, after=0, timeout=15.0):
        """Waits for a regular expression in the output from an offset on; returns the match."""
        pattern = re.compile(pattern if isinstance(pattern, bytes) else pattern.encode(), re.DOTALL)

        def look():
            return pattern.search(bytes(self.said), after)

        return wait_for(
            lambda: look() or (not self.is_running() and (self.reader.join(5) or look() or self.fail(pattern))),
            lambda: f"{pattern.pattern!r} from {self.process.args[0]}: {self.text()[-3000:]}",
            timeout,
        )

    def fail(self, pattern):
        raise AssertionError(
            f"{self.process.args[0]} ended ({self.process.returncode}) without {pattern.pattern!r}: "
            f"{self.text()[-3000:]}"
        )

    def echoes(self, line, answer=None):
        """Says a line and waits until it (or another answer) has come back."""
        before = len(self.said)
        self.say(line + b"\n")
        self.wait_said(re.escape(answer or line), after=before)

    def is_running(self):
        return self.process.poll() is None

    def wait_ended(self, timeout=15.0):
        """Waits for the program's own end; returns its status."""
        wait_for(lambda: not self.is_running(), lambda: f"its end: {self.text()[-3000:]}", timeout)
        self.reader.join(10)
        return self.process.returncode

    def end_input(self):
        """End of its input: it says goodbye and ends; returns its status."""
        self.process.stdin.close()
        return self.wait_ended()

    def close(self):
        if self.is_running():
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGKILL)
                self.process.wait()
        self.reader.join(10)
        if not self.process.stdin.closed:
            try:
                self.process.stdin.close()
            except BrokenPipeError:
                pass  # what it no longer took
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def host_and_port(address):
    host, _, port = address.rpartition(":")
    return host.strip("[]"), port


# Clients


def openssl_client(address, authority=None, name="server.test", version=None, suite=None, identity=None,
                   more=()):
    """s_client with its interactive commands; without an authority it takes any certificate."""
    command = ["openssl", "s_client", "-connect", address, "-no_ign_eof"]
    command += ["-servername", name] if name else ["-noservername"]
    if authority:
        command += ["-CAfile", authority, "-verify_return_error"]
        command += ["-verify_hostname", name] if name else []
    if version:
        command += ["-" + version.lower().replace("v", "").replace(".", "_")]
    if suite:
        command += ["-ciphersuites" if suite in SUITES_1_3 else "-cipher", openssl_name(suite)]
    if identity:
        command += ["-cert", identity.certificate, "-cert_chain", identity.certificate, "-key", identity.key]
    return Conversation([*command, *more])


def gnutls_client(address, authority=None, name="server.test", version=None, suite=None, identity=None,
                  more=()):
    host, port = host_and_port(address)
    command = ["gnutls-cli", "--port", port, "--priority", gnutls_priority(version, suite)]
    command += ["--sni-hostname", name, "--verify-hostname", name] if name else ["--disable-sni"]
    command += ["--x509cafile", authority] if authority else ["--insecure"]
    if identity:
        command += ["--x509certfile", identity.certificate, "--x509keyfile", identity.key]
    return Conversation([*command, *more, host])


def curl(address, authority=None, name="server.test", version=None, suite=None, identity=None, more=(),
         path=""):
    """Runs curl to its end; returns the completed process."""
    host, port = host_and_port(address)
    command = [programs.find("curl"), "--silent", "--show-error", "--fail", "--noproxy", "*"]
    command += ["--max-time", "100"]
    command += ["--resolve", f"{name}:{port}:{host}"]
    command += ["--cacert", authority] if authority else ["--insecure"]
    if version:
        number = version.removeprefix("TLSv")
        command += [f"--tlsv{number}", "--tls-max", number]
    if suite:
        command += ["--tls13-ciphers" if suite in SUITES_1_3 else "--ciphers", openssl_name(suite)]
    if identity:
        command += ["--cert", identity.certificate, "--key", identity.key]
    command += [*more, f"https://{name}:{port}/{path}"]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120 * pace())


# Servers


class Server(programs.Program):
    """A TLS server that answers each line; wait for its port, not for a connection, which it would take for
    a client."""

    def __init__(self, command, port):
        super().__init__()
        self.port = int(port)
        self.launch(list(map(str, command)))
        try:
            wait_for(self.answers, lambda: f"{command[:2]} listens: {self.said()}", 20)
        except BaseException:
            self.close()
            raise

    def answers(self):
        assert self.process.poll() is None, f"{self.process.args[0]} ended: {self.said()}"
        return self.listens(self.port)

    def said(self):
        return self.log.read_text(errors="replace")


def openssl_server_command(address, identity, version=None, suite=None, authority=None, more=()):
    command = ["openssl", "s_server", "-accept", address]
    command += ["-cert", identity.certificate, "-cert_chain", identity.certificate, "-key", identity.key]
    if version:
        command += ["-" + version.lower().replace("v", "").replace(".", "_")]
    if suite:
        command += ["-ciphersuites" if suite in SUITES_1_3 else "-cipher", openssl_name(suite)]
    if authority:
        command += ["-CAfile", authority, "-Verify", "3", "-verify_return_error"]
    return [*command, *more]


def openssl_server(address, identity, **settings):
    """s_server that sends each line back reversed, to one client after the other."""
    more = (*settings.pop("more", ()), "-rev")
    command = openssl_server_command(address, identity, more=more, **settings)
    return Server(command, host_and_port(address)[1])


def openssl_server_by_hand(address, identity, **settings):
    """s_server whose side of the conversation is the test's, interactive commands included."""
    conversation = Conversation(openssl_server_command(address, identity, **settings))
    conversation.wait_said("ACCEPT")
    return conversation


def gnutls_server(address, identity, version=None, suite=None, authority=None, more=()):
    """gnutls-serv that sends everything back."""
    port = host_and_port(address)[1]
    command = ["gnutls-serv", "--echo", "--port", port, "--priority", gnutls_priority(version, suite)]
    command += ["--x509certfile", identity.certificate, "--x509keyfile", identity.key]
    if authority:
        command += ["--require-client-cert", "--verify-client-cert", "--x509cafile", authority]
    else:
        command += ["--disable-client-cert"]
    return Server([*command, *more], port)


NGINX = """
daemon off; master_process off; pid nginx.pid; error_log stderr;
events {{ worker_connections 256; }}
http {{
    access_log off; sendfile on; client_max_body_size 0; client_body_temp_path temp;
    proxy_temp_path temp; fastcgi_temp_path temp; uwsgi_temp_path temp; scgi_temp_path temp;
    ssl_certificate {certificate}; ssl_certificate_key {key};
    {extra}
    server {{
        listen {address} ssl;
        root {root}/files;
        location /upload/ {{ root {root}; dav_methods PUT; }}
    }}
}}
"""


class Nginx(programs.Program):
    """Serves files and takes uploads over TLS."""

    def __init__(self, address, identity, version=None, suite=None, authority=None, more=""):
        super().__init__()
        for name in ("files", "upload", "temp"):
            (self.directory / name).mkdir()
        extra = f"ssl_protocols {version};" if version else "ssl_protocols TLSv1.2 TLSv1.3;"
        if suite in SUITES_1_3:
            extra += f" ssl_conf_command Ciphersuites {suite};"
        elif suite:
            extra += f" ssl_ciphers {openssl_name(suite)};"
        if authority:
            extra += f" ssl_verify_client on; ssl_client_certificate {authority};"
        extra += f" {more}"
        configuration = self.directory / "nginx.conf"
        configuration.write_text(
            NGINX.format(
                **{"certificate": identity.certificate, "key": identity.key},
                **{"address": address, "root": self.directory, "extra": extra},
            )
        )
        self.launch(["nginx", "-p", str(self.directory), "-e", "stderr", "-c", str(configuration)])
        self.wait_answering(address)

    def publish(self, name, content):
        (self.directory / "files" / name).write_bytes(content)

    def publish_file(self, path):
        (self.directory / "files" / path.name).symlink_to(path)

    def uploaded(self, name):
        return self.directory / "upload" / name


# A plain target for all of them


def echo_or_page(connection):
    """An echo, which answers curl in HTTP."""
    data = connection.recv(65536)
    if data.startswith(b"GET "):
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\nConnection: close\r\n\r\nhello bitflow\n")
        return
    while data:
        connection.sendall(data)
        data = connection.recv(65536)


