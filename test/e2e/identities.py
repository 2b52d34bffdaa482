"""Certificates as workloads have them: SPIRE's X.509-SVIDs, and others by which a peer can be told. Short-lived,
ECDSA P-256, made in memory."""

import base64
import hashlib
import itertools

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

import mint
from certificates import Identity

DOMAIN = "spiffe://example.org"
HOUR = 1 / 24
SVID_USAGE = ("digital_signature", "key_encipherment", "key_agreement")
NOBODY = x509.Name([])
numbers = itertools.count()


def uri(*texts):
    return [x509.UniformResourceIdentifier(text) for text in texts]


def named(*names):
    """A subject with these common names."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])


def pin(node):
    der = node.key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return "sha256/" + base64.b64encode(hashlib.sha256(der).digest()).decode()


class Domain:
    """A trust domain's authority, which signs for an hour at a time."""

    def __init__(self, directory, label="first", domain=DOMAIN):
        self.directory, self.label = directory, label
        self.root = mint.make(NOBODY, mint.key(f"{domain} {label}"), days=(-HOUR, 1), extra=[
            (x509.SubjectAlternativeName(uri(domain)), True)
        ])
        self.bundle = directory / f"bundle-{label}.pem"
        self.bundle.write_text(self.root.pem)

    def node(self, alternative, subject=NOBODY, own=None, **more):
        """A certificate for these names; its list of them is critical where the subject is empty (RFC 5280)."""
        extra = [(x509.SubjectAlternativeName(alternative), not list(subject))] if alternative else []
        settings = {"extended": mint.BOTH, "is_ca": False, "days": (-HOUR, HOUR), "usage": SVID_USAGE, **more}
        return mint.make(subject, own or mint.key(f"workload {next(numbers)}"), self.root, extra=extra, **settings)

    def identity(self, node, name=None):
        """Its files."""
        stem = self.directory / (name or f"identity-{next(numbers)}")
        key, certificate = stem.with_suffix(".key"), stem.with_suffix(".crt")
        key.write_bytes(node.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ))
        certificate.write_text(node.pem)
        return Identity(key, certificate, self.bundle, "")

    def issue(self, alternative, subject=NOBODY, **more):
        return self.identity(self.node(alternative, subject, **more))

    def svid(self, path, **more):
        return self.issue(uri(f"{DOMAIN}{path}"), **more)
