"""A side of a handshake whose Certificate message is another than OpenSSL would send: whatever bytes a test likes, in
TLS 1.2, where it is in the clear, and in 1.3, where the flight is opened by the key that OpenSSL logs, and protected
again (RFC 8446 5.2, 7.3). What follows the message then fails, of course: that is for chains that are to be refused.
"""

import hashlib
import hmac
import itertools
import ssl

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

import tls_raw
import tls_wire as wire

APPLICATION_DATA = 23
numbers = itertools.count()
# TLS 1.3's suites: hash, cipher, length of its key.
SUITES = {
    0x1301: (hashlib.sha256, AESGCM, 16),
    0x1302: (hashlib.sha384, AESGCM, 32),
    0x1303: (hashlib.sha256, ChaCha20Poly1305, 32),
}
LABELS = {False: "CLIENT_HANDSHAKE_TRAFFIC_SECRET", True: "SERVER_HANDSHAKE_TRAFFIC_SECRET"}


def entry(der, extensions=b""):
    """A certificate in TLS 1.3's list."""
    return wire.vector(3, der) + wire.vector(2, extensions)


def list_of(ders, version):
    """The body of a Certificate message."""
    if version == "TLSv1.3":
        return b"\0" + wire.vector(3, b"".join(map(entry, ders)))
    return wire.vector(3, b"".join(wire.vector(3, der) for der in ders))


def messages(content):
    """[(kind, whole message)] of a flight."""
    found = []
    while content:
        end = 4 + int.from_bytes(content[1:4], "big")
        assert len(content) >= end
        found.append((content[0], content[:end]))
        content = content[end:]
    return found


def expanded(secret, hash_function, label, size):
    """HKDF-Expand-Label for what fits one block (RFC 8446 7.1)."""
    info = size.to_bytes(2, "big") + wire.vector(1, b"tls13 " + label) + wire.vector(1, b"")
    return hmac.new(secret, info + b"\x01", hash_function).digest()[:size]


class Protection:
    """A direction's records under its handshake key."""

    def __init__(self, secret, suite):
        hash_function, cipher, size = SUITES[suite]
        self.cipher = cipher(expanded(secret, hash_function, b"key", size))
        self.iv = int.from_bytes(expanded(secret, hash_function, b"iv", 12), "big")

    def nonce(self, number):
        return (self.iv ^ number).to_bytes(12, "big")

    def opened(self, number, record):
        inner = self.cipher.decrypt(self.nonce(number), record[5:], record[:5]).rstrip(b"\0")
        assert inner[-1] == wire.HANDSHAKE
        return inner[:-1]

    def sealed(self, number, content):
        head = bytes([APPLICATION_DATA, 3, 3]) + (len(content) + 17).to_bytes(2, "big")
        return head + self.cipher.encrypt(self.nonce(number), content + bytes([wire.HANDSHAKE]), head)


class Spliced(tls_raw.Tls):
    """`body`: the Certificate message's. `directory`: for the log of keys."""

    def __init__(self, sock, context, body, directory, server_side=False, server_name=None):
        self.keys = directory / f"keys-{next(numbers)}"
        context.keylog_filename = str(self.keys)
        super().__init__(sock, context, server_side, server_name)
        self.label, self.suite = LABELS[server_side], None
        self.certificate = wire.message(wire.CERTIFICATE, body)
        self.is_done = False
        self.send = self.send_spliced

    def send_spliced(self, data):
        if not self.is_done:
            data = self.in_1_3(data) if self.protects(data) else self.in_1_2(data)
        self.send_whole(data)

    def protects(self, data):
        return any(record[0] == APPLICATION_DATA for record in tls_raw.records(data))

    def spliced(self, content):
        flight = messages(content)
        self.is_done = any(kind == wire.CERTIFICATE for kind, _ in flight)
        return b"".join(self.certificate if kind == wire.CERTIFICATE else whole for kind, whole in flight)

    def in_1_2(self, data):
        """Also a flight of 1.3 that is not protected: hellos."""
        records = tls_raw.records(data)
        count = next((at for at, record in enumerate(records) if record[0] != wire.HANDSHAKE), len(records))
        content = self.spliced(b"".join(record[5:] for record in records[:count]))
        return wire.in_records(content, 16384) + b"".join(records[count:])

    def in_1_3(self, data):
        """Whole messages, one flight: [ServerHello,] what is protected."""
        records = tls_raw.records(data)
        plain = [record for record in records if record[0] != APPLICATION_DATA]
        protection = Protection(self.secret(), self.suite_of(plain))
        content = self.spliced(b"".join(
            protection.opened(number, record)
            for number, record in enumerate(record for record in records if record[0] == APPLICATION_DATA)
        ))
        pieces = [content[at : at + 16000] for at in range(0, len(content), 16000)]
        return b"".join([*plain, *(protection.sealed(number, piece) for number, piece in enumerate(pieces))])

    def suite_of(self, plain):
        for record in plain:  # a server's own hello has it
            if record[0] == wire.HANDSHAKE:
                at = 5 + 4 + 2 + 32
                at += 1 + record[at]
                return int.from_bytes(record[at : at + 2], "big")
        names = {"TLS_AES_128_GCM_SHA256": 0x1301, "TLS_AES_256_GCM_SHA384": 0x1302}
        return names.get(self.object.cipher()[0], 0x1303)

    def secret(self):
        lines = (line.split() for line in self.keys.read_text().splitlines() if not line.startswith("#"))
        return next(bytes.fromhex(fields[2]) for fields in lines if fields[0] == self.label)



def splicing(context, version):
    """The context with this version alone."""
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = tls_raw.VERSIONS[version]
    return context
