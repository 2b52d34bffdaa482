"""NIST's Public Key Interoperability Test Suite (PKITS): 224 chains with the revocation lists that go with them, and in
most of their names whether they are valid. As Debian's python3-cryptography-vectors has it; what a test's chain is, is
taken from the message that was signed by it.
"""

import concurrent.futures
import email
import pathlib
import ssl

import certificates
import chains
import needs

FOLDER = pathlib.Path("/usr/lib/python3/dist-packages/cryptography_vectors/x509/PKITS_data")
HERE = needs.Capability(
    "python3-cryptography-vectors", lambda: None if FOLDER.is_dir() else "PKITS is not installed"
)


class Pkits:
    def __init__(self, directory):
        HERE.need()
        self.directory = pathlib.Path(directory)
        self.names = {path.read_bytes(): path.stem for path in FOLDER.glob("certs/*.crt")}
        self.anchor = self.directory / "anchor.pem"
        self.anchor.write_text(self.pem("TrustAnchorRootCertificate"))
        self.lists = self.directory / "lists.pem"
        self.lists.write_text("".join(
            ssl.DER_cert_to_PEM_cert(path.read_bytes()).replace("CERTIFICATE", "X509 CRL")
            for path in sorted(FOLDER.glob("crls/*.crl"))
        ))
        with concurrent.futures.ThreadPoolExecutor(4) as workers:
            self.files = dict(workers.map(self.unpack, sorted(FOLDER.glob("smime/*.eml"))))
        assert len(self.files) == 224

    def unpack(self, path):
        """(name, (key, certificate)) of a test."""
        name = path.stem.removeprefix("Signed")
        signature = next(part.get_payload(decode=True) for part in email.message_from_bytes(path.read_bytes()).walk()
                         if part.get_content_type() == "application/pkcs7-signature")
        # A SignedData has the certificates as they are, from the anchor's side downwards.
        places = {other: place for der, other in self.names.items() if (place := signature.find(der)) >= 0}
        (leaf,) = (other for other in places if other.endswith("EE"))
        order = [leaf, *sorted(places.keys() - {leaf}, key=places.get, reverse=True)]
        certificate = self.directory / f"{name}.pem"
        certificate.write_text("".join(self.pem(other) for other in order))
        return name, (self.key_of(leaf), certificate)

    def pem(self, name):
        return ssl.DER_cert_to_PEM_cert((FOLDER / f"certs/{name}.crt").read_bytes())

    def key_of(self, leaf):
        if "DSA" in leaf:
            return None
        key = self.directory / f"{leaf}.key"
        if not key.exists():
            certificates.openssl("pkcs12", "-in", FOLDER / f"pkcs12/{leaf}.p12", "-passin", "pass:password",
                                 "-nodes", "-nocerts", "-out", key)
        return key

    def trust(self, with_lists):
        return chains.Trust(self.anchor, self.lists if with_lists else None)

    def chains(self, with_lists):
        return [chains.Chain(name, *files, self.trust(with_lists)) for name, files in self.files.items()]
