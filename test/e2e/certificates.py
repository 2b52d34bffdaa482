"""The suite's own PKI, made by the openssl command: authorities, and certificates of every kind and defect.

    root          signs most; P-256
    middle        an intermediate of root's; P-384
    rsa           signs by RSA, PKCS #1 or PSS
    other         nobody's authority
"""

import dataclasses
import hashlib
import pathlib
import shutil
import ssl

import programs

SETTINGS = """
[ca]
default_ca = this
[this]
dir = {directory}
database = {directory}/index
new_certs_dir = {directory}
certificate = {certificate}
private_key = {key}
rand_serial = yes
unique_subject = no
default_md = sha256
policy = any
default_days = 30
default_crl_days = 30
[any]
organizationName = optional
commonName = supplied
[req]
distinguished_name = nothing
[nothing]
"""
AUTHORITY_EXTENSIONS = """\
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""
LEAF_EXTENSIONS = """\
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature{encipherment}
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""
ALGORITHMS = {
    "rsa": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "p256": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "p384": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
}
PSS = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"]
SERVER, CLIENT = "serverAuth", "clientAuth"
# The names that the servers' certificates are for, unless a test wants others.
NAMES = "DNS:server.test, DNS:localhost, IP:127.0.0.1, IP:::1"
EXPIRED = {"start": "20200101000000Z", "end": "20210101000000Z"}
NOT_YET = {"start": "20450101000000Z", "end": "20460101000000Z"}


def openssl(*arguments):
    return programs.run(["openssl", *map(str, arguments)]).stdout


@dataclasses.dataclass(frozen=True)
class Identity:
    """A certificate with its chain, its key, and the root that it leads to."""

    key: pathlib.Path
    certificate: pathlib.Path
    authority: pathlib.Path
    subject: str

    def entry(self, **more):
        """An item of tls_context.certificates."""
        return {"key": str(self.key), "certificate": str(self.certificate), **more}

    @property
    def der(self):
        """The certificate itself, without the chain that follows it in the file."""
        text = self.certificate.read_text()
        return ssl.PEM_cert_to_DER_cert(text[: text.index("-----END") + len("-----END CERTIFICATE-----\n")])

    @property
    def fingerprint(self):
        return hashlib.sha256(self.der).hexdigest()

    def copy(self, directory, name="live"):
        """Files of its own that a test may overwrite."""
        directory = pathlib.Path(directory)
        key, certificate = directory / f"{name}.key", directory / f"{name}.crt"
        shutil.copy(self.key, key)
        shutil.copy(self.certificate, certificate)
        return dataclasses.replace(self, key=key, certificate=certificate)


class Authority:
    def __init__(self, directory, name, algorithm, parent=None):
        self.directory = directory / f"authority-{name}"
        self.directory.mkdir()
        self.name, self.parent, self.issued = name, parent, 0
        self.key = make_key(self.directory / "key.pem", algorithm)
        self.certificate = self.directory / "certificate.pem"
        (self.directory / "index").touch()
        self.settings = self.directory / "settings"
        self.settings.write_text(
            SETTINGS.format(directory=self.directory, certificate=self.certificate, key=self.key)
        )
        request = make_request(self.directory, self.settings, self.key, f"/O=bitflow/CN={name} authority")
        extensions = self.directory / "extensions"
        extensions.write_text(AUTHORITY_EXTENSIONS)
        by = ["-selfsign", "-config", self.settings] if not parent else ["-config", parent.settings]
        openssl(
            *("ca", "-batch", "-notext", *by, "-keyfile", (parent or self).key, "-days", 3650),
            *("-in", request, "-extfile", extensions, "-out", self.certificate),
        )
        self.root = parent.root if parent else self
        self.chain = (self.certificate.read_text() + parent.chain) if parent else ""

    def issue(self, key, name, names=NAMES, usage=SERVER, start=None, end=None, options=()):
        """A leaf. `usage` None: no extended key usage at all."""
        self.issued += 1
        stem = self.directory / f"leaf{self.issued}"
        request = make_request(self.directory, self.settings, key, f"/O=bitflow/CN={name}")
        extensions = stem.with_suffix(".extensions")
        is_rsa = key.name.startswith("rsa")
        extensions.write_text(
            LEAF_EXTENSIONS.format(encipherment=", keyEncipherment" if is_rsa else "")
            + (f"subjectAltName = {names}\n" if names else "")
            + (f"extendedKeyUsage = {usage}\n" if usage else "")
        )
        dates = [*(["-startdate", start] if start else []), *(["-enddate", end] if end else [])]
        leaf = stem.with_suffix(".crt")
        openssl(
            *("ca", "-batch", "-notext", "-config", self.settings, *dates, *options),
            *("-in", request, "-extfile", extensions, "-out", leaf),
        )
        certificate = stem.with_suffix(".pem")
        certificate.write_text(leaf.read_text() + self.chain)
        return Identity(key, certificate, self.root.certificate, f"CN={name}")

    def revoke(self, identity):
        openssl("ca", "-batch", "-config", self.settings, "-revoke", identity.certificate)

    def revocation_list(self, name="crl.pem", *options):
        path = self.directory / name
        openssl("ca", "-batch", "-config", self.settings, "-gencrl", *options, "-out", path)
        return path


def make_key(path, algorithm):
    openssl("genpkey", *ALGORITHMS[algorithm], "-out", path)
    return path


def forge_key(path, own, signer):
    """A P-256 key that OpenSSL takes for `own`, whose public part it has, and that signs with another's
    private part."""
    own, signer = (
        ssl.PEM_cert_to_DER_cert(key.read_text().replace("PRIVATE KEY", "CERTIFICATE"))
        for key in (own, signer)
    )
    private = slice(36, 68)  # of PKCS #8 (RFC 5958) around RFC 5915's ECPrivateKey
    assert len(own) == len(signer) == 138 and own[34:36] == signer[34:36] == b"\x04\x20"
    forged = own[: private.start] + signer[private] + own[private.stop :]
    path.write_text(ssl.DER_cert_to_PEM_cert(forged).replace("CERTIFICATE", "PRIVATE KEY"))


def make_request(directory, settings, key, subject):
    request = directory / "request.pem"
    openssl("req", "-new", "-config", settings, "-key", key, "-subj", subject, "-out", request)
    return request


class Pki:
    """Everything that the tests share; made once. Nothing in it is written to afterwards."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.directory.chmod(0o755)
        self.keys = {name: make_key(self.directory / f"{name}.key", name) for name in ALGORITHMS}
        self.second_key = make_key(self.directory / "p256-second.key", "p256")
        self.root = Authority(self.directory, "root", "p256")
        self.middle = Authority(self.directory, "middle", "p384", parent=self.root)
        self.rsa = Authority(self.directory, "rsa", "rsa")
        self.other = Authority(self.directory, "other", "p256")
        # Both that are trusted, in one bundle.
        self.trusted = self.directory / "trusted.pem"
        self.trusted.write_text(self.root.certificate.read_text() + self.rsa.certificate.read_text())
        self.make_servers()
        self.make_clients()
        self.clean_list = self.root.revocation_list("clean.pem")
        for identity in (self.bad_servers["revoked"], self.bad_clients["revoked"]):
            self.root.revoke(identity)
        # Of all issuers in the trusted chains: without one of them, its certificates are refused.
        self.revocation_list = self.directory / "revoked.pem"
        self.revocation_list.write_text(
            "".join(
                authority.revocation_list("revoked.pem").read_text()
                for authority in (self.root, self.middle, self.rsa)
            )
        )
        self.stale_list = self.root.revocation_list(
            "stale.pem", "-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", "20210101000000Z"
        )

    def make_servers(self):
        p256 = self.keys["p256"]
        self.servers = {
            "rsa": self.rsa.issue(self.keys["rsa"], "rsa server"),
            "rsa-pss": self.rsa.issue(self.keys["rsa"], "pss server", options=PSS),
            "p256": self.root.issue(p256, "p256 server"),
            "p384": self.middle.issue(self.keys["p384"], "p384 server"),
        }
        self.server = self.servers["p256"]
        self.second_server = self.root.issue(self.second_key, "second server")
        self.wildcard = self.root.issue(p256, "wildcard server", "DNS:*.wild.test")
        self.bad_servers = {
            "stranger": self.other.issue(p256, "stranger server"),
            "expired": self.root.issue(p256, "expired server", **EXPIRED),
            "not yet valid": self.root.issue(p256, "future server", **NOT_YET),
            "wrong name": self.root.issue(p256, "wrong server", "DNS:elsewhere.test, IP:192.0.2.1"),
            "wrong usage": self.root.issue(p256, "misused server", usage=CLIENT),
            "revoked": self.root.issue(p256, "revoked server"),
        }

    def make_clients(self):
        p256, names = self.second_key, "DNS:client.test, IP:192.0.2.7"
        self.client = self.root.issue(p256, "a client", names, CLIENT)
        self.rsa_client = self.rsa.issue(self.keys["rsa"], "an rsa client", names, CLIENT)
        self.middle_client = self.middle.issue(self.keys["p384"], "a p384 client", names, CLIENT)
        self.bad_clients = {
            "stranger": self.other.issue(p256, "a stranger", names, CLIENT),
            "expired": self.root.issue(p256, "an expired client", names, CLIENT, **EXPIRED),
            "not yet valid": self.root.issue(p256, "a future client", names, CLIENT, **NOT_YET),
            "wrong usage": self.root.issue(p256, "a misused client", names, SERVER),
            "revoked": self.root.issue(p256, "a revoked client", names, CLIENT),
        }

    def server_for(self, *names):
        """A server's certificate for these DNS names and no other."""
        return self.root.issue(
            self.keys["p256"], f"{names[0]} server", ", ".join(f"DNS:{name}" for name in names)
        )


def self_signed(directory, name="example.com"):
    """A certificate for 90 days that is its own authority, and its key: `crt` and `key`. Made sooner than a Pki."""
    key, certificate = directory / "key", directory / "crt"
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", 90),
        *("-subj", f"/CN={name}", "-keyout", key, "-out", certificate),
    )
    key.chmod(0o600)
    return Identity(key, certificate, certificate, f"CN={name}")
