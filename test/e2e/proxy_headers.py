"""The PROXY protocol for tests: headers made by hand from the specification's tables, and programs that send
and take them (HAProxy, nginx) and print what they were told."""

import pathlib
import re
import socket
import struct

import pytest

import sockets
from environment import proxy
from programs import Program

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
ALPN, AUTHORITY, CRC32C, NOOP, UNIQUE_ID, SSL = 1, 2, 3, 4, 5, 0x20
# The specification's own example (2.1).
EXAMPLE = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"

each_version = pytest.mark.parametrize("version", [1, 2], ids=["version 1", "version 2"])
TRUSTING = {"proxy_protocol": True}


def start_trusting(env, target, listener=None, address=None, **options):
    """bitflow with a proxy that begins with a header, and the address of it."""
    address = address or env.address()
    return env.start(proxy(address, target, listener={**TRUSTING, **(listener or {})}, **options)), address


def rejected(env, bitflow, address, data, **settings):
    """The record of a client that says this, and is rejected."""
    client = env.connect(address, **settings)
    own = sockets.local_name(client)
    client.sendall(data)
    sockets.was_rejected(client)
    return bitflow.record_of(own)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def v1(source, destination, source_port, destination_port):
    family = "TCP6" if ":" in source else "TCP4"
    return f"PROXY {family} {source} {destination} {source_port} {destination_port}\r\n".encode()


def addresses(source, destination, source_port=0, destination_port=0):
    """(the byte of the family, the address block)."""
    if source.startswith("/"):
        return 0x31, source.encode().ljust(108, b"\0") + destination.encode().ljust(108, b"\0")
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    block = socket.inet_pton(family, source) + socket.inet_pton(family, destination)
    block += struct.pack(">HH", source_port, destination_port)
    return (0x21 if family == socket.AF_INET6 else 0x11), block


def tlv(kind, value):
    return struct.pack(">BH", kind, len(value)) + value


def v2(*ends, tlvs=b"", command=0x21, crc=False):
    """A header of version 2; without ends of family UNSPEC."""
    family, block = addresses(*ends) if ends else (0, b"")
    if crc:
        tlvs += tlv(CRC32C, bytes(4))
    header = SIGNATURE + struct.pack(">BBH", command, family, len(block + tlvs)) + block + tlvs
    return header[:-4] + struct.pack(">I", crc32c(header)) if crc else header


def receive_v1(connection):
    """The line that a connection begins with, its CRLF included."""
    line = b""
    while not line.endswith(b"\r\n"):
        line += sockets.receive_exactly(connection, 1)
        assert len(line) <= 107, line
    return line


def receive_v2(connection):
    """(the whole header, the byte of the command, that of the family, the address block, a dict of the TLVs);
    the checksum must be right."""
    fixed = sockets.receive_exactly(connection, 16)
    assert fixed.startswith(SIGNATURE), fixed
    command, family, length = struct.unpack(">BBH", fixed[12:])
    rest = sockets.receive_exactly(connection, length)
    block = {0: 0, 1: 12, 2: 36, 3: 216}[family >> 4]
    fields, at = {}, block
    while at < length:
        kind, size = struct.unpack(">BH", rest[at : at + 3])
        if kind == CRC32C:
            blank = fixed + rest[: at + 3] + bytes(4) + rest[at + 7 :]
            assert struct.unpack(">I", rest[at + 3 : at + 7])[0] == crc32c(blank), "a wrong checksum"
        fields[kind] = rest[at + 3 : at + 3 + size]
        at += 3 + size
    assert at == length, "a TLV that is cut"
    return fixed + rest, command, family, rest[:block], fields


def read_ssl(value):
    """(bits, verify result, dict of the TLVs inside) of an SSL TLV."""
    bits, verify = struct.unpack(">BI", value[:5])
    fields, at = {}, 5
    while at < len(value):
        kind, size = struct.unpack(">BH", value[at : at + 3])
        fields[kind] = value[at + 3 : at + 3 + size].decode()
        at += 3 + size
    return bits, verify, fields


DEFAULTS = "defaults\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n"


class HaproxyReceiver(Program):
    """HAProxy that demands a header of either version, and answers HTTP requests with what it was told."""

    def __init__(self, certificate=None, address=None):
        super().__init__()
        self.address = address or f"127.0.0.1:{sockets.free_port()}"
        tls = f" ssl crt {certificate}" if certificate else ""
        (self.directory / "haproxy.cfg").write_text(
            f"{DEFAULTS} mode http\n"
            f"frontend told\n bind {self.address} accept-proxy{tls}\n"
            ' http-request return status 200 content-type text/plain lf-string "src=%[src] sport=%[src_port]'
            ' dst=%[dst] dport=%[dst_port] authority=%[fc_pp_authority] id=%[fc_pp_unique_id]\\n"\n'
        )
        self.launch(["haproxy", "-db", "-f", str(self.directory / "haproxy.cfg")])
        self.wait_answering(self.address)


class HaproxySender(Program):
    """HAProxy that hands connections on with a header; `options` as its server line takes them."""

    def __init__(self, back, options, front=None, bind=""):
        super().__init__()
        self.address = front or f"127.0.0.1:{sockets.free_port()}"
        (self.directory / "haproxy.cfg").write_text(
            f"{DEFAULTS} mode tcp\n"
            f"frontend in\n bind {self.address} {bind}\n unique-id-format id-%[src_port]\n"
            " default_backend out\n"
            f"backend out\n server back {back} {options}\n"
        )
        self.launch(["haproxy", "-db", "-f", str(self.directory / "haproxy.cfg")])
        self.wait_answering(self.address)


class NginxReceiver(Program):
    """nginx that demands a header of either version, and answers HTTP requests with what it was told."""

    def __init__(self, address=None):
        super().__init__()
        self.address = address or f"127.0.0.1:{sockets.free_port()}"
        names = "client_body proxy fastcgi uwsgi scgi".split()
        temporary = "".join(f" {name}_temp_path temp;" for name in names)
        (self.directory / "nginx.conf").write_text(
            "daemon off; master_process off; pid nginx.pid; error_log stderr; events {}\n"
            f"http {{ access_log off;{temporary}\n"
            f"server {{ listen {self.address} proxy_protocol;\n"
            ' location / { return 200 "src=$proxy_protocol_addr sport=$proxy_protocol_port'
            ' dst=$proxy_protocol_server_addr dport=$proxy_protocol_server_port\\n"; } } }\n'
        )
        self.launch(
            ["nginx", "-p", str(self.directory), "-e", "stderr", "-c", str(self.directory / "nginx.conf")]
        )
        self.wait_answering(self.address)


class ApacheReceiver(Program):
    """Apache that demands a header of either version, and tells the client's address under /told."""

    MODULES = pathlib.Path("/usr/lib/apache2/modules")

    def __init__(self):
        super().__init__()
        self.address = f"127.0.0.1:{sockets.free_port()}"
        modules = ("mpm_event", "authz_core", "remoteip", "include", "mime")
        page = self.directory / "told"
        page.write_text('src=<!--#echo var="REMOTE_ADDR" -->\n')
        (self.directory / "apache.conf").write_text(
            f"ServerRoot {self.directory}\nPidFile {self.directory}/pid\nErrorLog /dev/stderr\nServerName told.test\n"
            f"DefaultRuntimeDir {self.directory}\nListen {self.address}\nUser daemon\nGroup daemon\n"
            + "".join(f"LoadModule {name}_module {self.MODULES}/mod_{name}.so\n" for name in modules)
            + f"TypesConfig /dev/null\nRemoteIPProxyProtocol On\nDocumentRoot {self.directory}\n"
            f"<Directory {self.directory}>\n"
            " Require all granted\n Options +Includes\n ForceType text/html\n SetOutputFilter INCLUDES\n</Directory>\n"
        )
        self.launch(["apache2", "-X", "-f", str(self.directory / "apache.conf")])
        self.wait_answering(self.address)


class NginxSender(Program):
    """nginx that believes the header that it is told, and hands connections on with one of version 1."""

    MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"

    def __init__(self, back, front):
        super().__init__()
        self.address = front
        (self.directory / "nginx.conf").write_text(
            f"load_module {self.MODULE};\n"
            "daemon off; master_process off; pid nginx.pid; error_log stderr; events {}\n"
            f"stream {{ server {{ listen {front} proxy_protocol; set_real_ip_from 127.0.0.0/8; set_real_ip_from ::1;\n"
            f" proxy_pass {back}; proxy_protocol on; }} }}\n"
        )
        self.launch(
            ["nginx", "-p", str(self.directory), "-e", "stderr", "-c", str(self.directory / "nginx.conf")]
        )
        self.wait_answering(self.address)


def ask(client):
    """What the receiver behind a connection says it was told, as a dict."""
    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
    answer = sockets.receive_to_end(client).decode()
    assert " 200 " in answer.split("\n")[0], answer
    return dict(re.findall(r"(\w+)=(\S*)", answer.partition("\r\n\r\n")[2]))
