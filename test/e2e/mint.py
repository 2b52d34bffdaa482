"""Certificates and revocation lists of any shape, good or bad, made in memory: a thousand in a second. For what
certificates.py, with its openssl command, is too slow and too correct."""

import dataclasses
import datetime
import functools
import itertools
import warnings

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID, ObjectIdentifier

import chains

NOW = datetime.datetime.utcnow().replace(microsecond=0)
ANY_POLICY = "2.5.29.32.0"
# Key usage, by RFC 5280's names.
USAGES = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
          "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
CA_USAGE = ("key_cert_sign", "crl_sign")
LEAF_USAGE = ("digital_signature",)
CLIENT, SERVER, CODE = "1.3.6.1.5.5.7.3.2", "1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.3"
ANY_USAGE = "2.5.29.37.0"
BOTH = (CLIENT, SERVER)
HOST = "server.test"
HASHLESS = (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)
numbers = itertools.count(1000)


def day(offset):
    return NOW + datetime.timedelta(days=offset)


@functools.cache
def key(label, kind="p256"):
    """A private key; the same for the same label."""
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, int(kind[3:]))
    curves = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1, "p224": ec.SECP224R1,
              "p192": ec.SECP192R1, "secp256k1": ec.SECP256K1, "brainpool256": ec.BrainpoolP256R1}
    if kind in curves:
        return ec.generate_private_key(curves[kind]())
    return {"ed25519": ed25519.Ed25519PrivateKey, "ed448": ed448.Ed448PrivateKey}[kind].generate()


def name(common, organization="paths"):
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
    return x509.Name(parts + ([x509.NameAttribute(NameOID.COMMON_NAME, common)] if common else []))


def dns(*names):
    return [x509.DNSName(each) for each in names]


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """A certificate, and the key in it."""

    certificate: x509.Certificate
    key: object

    @property
    def subject(self):
        return self.certificate.subject

    @functools.cached_property
    def pem(self):
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @functools.cached_property
    def der(self):
        return self.certificate.public_bytes(serialization.Encoding.DER)


def signed(builder, signer, hash_function):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SHA-1: some are to be bad
        return builder.sign(signer, None if isinstance(signer, HASHLESS) else hash_function)


def extensions(is_ca, length, usage, extended, alternative, constraints, extra):
    """[(extension, critical)]. `is_ca` None: no basic constraints. `constraints`: (permitted, excluded, critical)."""
    found = []
    if is_ca is not None:
        found.append((x509.BasicConstraints(is_ca, length if is_ca else None), True))
    if usage:
        found.append((x509.KeyUsage(**{each: each in usage for each in USAGES}), True))
    if extended:
        found.append((x509.ExtendedKeyUsage([ObjectIdentifier(each) for each in extended]), False))
    if alternative:
        found.append((x509.SubjectAlternativeName(alternative), False))
    if constraints:
        permitted, excluded, critical = constraints
        found.append((x509.NameConstraints(permitted or None, excluded or None), critical))
    return [*found, *extra]


def make(subject, own, by=None, *, signer=None, issuer=None, days=(-30, 3000), is_ca=True, length=None, usage=None,
         extended=(), alternative=(), constraints=None, key_ids=True, hash_function=None, extra=()):
    """A Node with this subject and key, issued `by` another (None: by itself). `signer`, `issuer`: another key, or
    another name, than that one's."""
    subject = subject if isinstance(subject, x509.Name) else name(subject)
    signer = signer or (by.key if by else own)
    builder = (
        x509.CertificateBuilder().subject_name(subject).public_key(own.public_key()).serial_number(next(numbers))
        .issuer_name(issuer or (by.subject if by else subject)).not_valid_before(day(days[0]))
        .not_valid_after(day(days[1]))
    )  # fmt: skip
    if usage is None:
        usage = CA_USAGE if is_ca or is_ca is None else LEAF_USAGE
    for extension, critical in extensions(is_ca, length, usage, extended, alternative, constraints, extra):
        builder = builder.add_extension(extension, critical)
    if key_ids:
        above = (by.key if by else own).public_key()
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(above), False)
    return Node(signed(builder, signer, hash_function or hashes.SHA256()), own)


def leaf(by, common="leaf", alternative=None, extended=BOTH, **more):
    """An end's certificate, all of which have one key; for HOST and 127.0.0.1 in either role."""
    own = more.pop("own", None) or key("leaf")
    return make(common, own, by, is_ca=more.pop("is_ca", False), extended=extended,
                alternative=dns(HOST) if alternative is None else alternative, **more)


def revocation_list(by, revoked=(), days=(-10, 20), signer=None, extra=(), key_ids=True):
    """In PEM."""
    builder = (
        x509.CertificateRevocationListBuilder().issuer_name(by.subject).last_update(day(days[0]))
        .next_update(day(days[1]))
    )  # fmt: skip
    for node in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(node.certificate.serial_number)
            .revocation_date(day(days[0])).build()
        )  # fmt: skip
    for extension, critical in extra:
        builder = builder.add_extension(extension, critical)
    if key_ids:
        above = x509.AuthorityKeyIdentifier.from_issuer_public_key(by.key.public_key())
        builder = builder.add_extension(above, False)
    return signed(builder, signer or by.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


class Folder:
    """Where what was made becomes files."""

    def __init__(self, directory):
        self.directory, self.count, self.files, self.chains = directory, 0, {}, []

    def file(self, text):
        """The file with this text; the same one for the same text."""
        if text not in self.files:
            self.files[text] = self.directory / f"{len(self.files)}.pem"
            self.files[text].write_text(text)
        return self.files[text]

    def key_file(self, own):
        return self.file(own.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode())

    def trust(self, *anchors, lists=None, host=None):
        authority = self.file("".join(node.pem for node in anchors))
        return chains.Trust(authority, self.file("".join(lists)) if lists else None, host)

    def chain(self, title, sent, trust, is_usable=True, stricter=""):
        """What a peer sends, leaf first. Not usable: its key is of a kind that no handshake takes."""
        file = self.directory / f"chain{len(self.chains)}.pem"
        file.write_text("".join(node.pem for node in sent))
        made = chains.Chain(title, self.key_file(sent[0].key) if is_usable else None, file, trust, stricter)
        self.chains.append(made)
        return made
