"""Certificate messages that are made to hurt: what test_tls_hostile_chains.py shows. Some come from whoever connects,
some from a CA below ANCHOR that has turned bad. What verifies is no use to the peer: it lacks the key."""

import random

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID, ObjectIdentifier

from mint import BOTH, HOST, dns, key, leaf, make
from tls_splice import entry, list_of
from tls_wire import vector

ANCHOR = make("hostile root", key("hostile root"))
BAD_CA = make("bad CA", key("bad CA"), ANCHOR)
NOISE = bytes(random.Random(13).randbytes(600))
SEQUENCE, SET, INTEGER, BITS, OCTETS, OID_TAG, NULL = 0x30, 0x31, 2, 3, 4, 6, b"\x05\x00"
P256_OID = "1.2.840.10045.3.1.7"
P256_PRIME = 2**256 - 2**224 + 2**192 + 2**96 - 1
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
P256_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
RULES = r"certificate|rules of TLS"
ANYTHING = r"certificate|chain|CA\b|signature"


# ---- DER


def tlv(tag, *contents):
    content = b"".join(contents)
    if len(content) < 128:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def integer(value):
    return tlv(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def oid(dotted):
    builder = x509.UnrecognizedExtension(ObjectIdentifier(dotted), b"")
    numbers = [int(part) for part in builder.oid.dotted_string.split(".")]
    content = bytes([numbers[0] * 40 + numbers[1]])
    for number in numbers[2:]:
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.insert(0, 0x80 | number & 0x7F)
        content += bytes(groups)
    return tlv(OID_TAG, content)


def inner(der):
    """Without its outermost tag and length."""
    return der[2 + (der[1] & 0x7F if der[1] & 0x80 else 0) :]


def edited(node, old, new, signer=None):
    """The certificate with other bytes in it, as a part of its outermost sequence, signed again."""
    assert node.certificate.tbs_certificate_bytes.count(old) == 1
    tbs = tlv(SEQUENCE, inner(node.certificate.tbs_certificate_bytes).replace(old, new))
    signature = (signer or BAD_CA.key).sign(tbs, ec.ECDSA(hashes.SHA256()))
    algorithm = tlv(SEQUENCE, oid("1.2.840.10045.4.3.2"))
    return tlv(SEQUENCE, tbs, algorithm, tlv(BITS, b"\0", signature))


def with_key(node, public, signer=None):
    """The certificate with another public key, which may be none."""
    own = node.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return edited(node, own, public, signer)


# ---- keys


def rsa_key(modulus, exponent=65537):
    numbers = tlv(SEQUENCE, integer(modulus), integer(exponent))
    return tlv(SEQUENCE, tlv(SEQUENCE, oid("1.2.840.113549.1.1.1"), NULL), tlv(BITS, b"\0", numbers))


def number_of(bits):
    """Of that many bits, odd, with no factor that anybody knows."""
    return random.Random(bits).getrandbits(bits) | 1 << bits - 1 | 1


def ec_key(parameters, point):
    return tlv(SEQUENCE, tlv(SEQUENCE, oid("1.2.840.10045.2.1"), parameters), tlv(BITS, b"\0", point))


def point_of(node):
    return node.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def explicit_curve(prime=P256_PRIME, order=P256_ORDER):
    """P-256 spelled out, or what resembles it."""
    generator = point_of(make("generator", key("generator")))
    curve = tlv(SEQUENCE, tlv(OCTETS, (prime - 3).to_bytes(32, "big")), tlv(OCTETS, P256_B.to_bytes(32, "big")))
    field = tlv(SEQUENCE, oid("1.2.840.10045.1.1"), integer(prime))
    return tlv(SEQUENCE, integer(1), field, curve, tlv(OCTETS, generator), integer(order), integer(1))


# ---- chains


def bad_keys():
    """{what: list of DER}: a leaf with such a key, and a chain in which a CA has it."""
    end = leaf(BAD_CA)
    point = point_of(end)
    ca = make("worse CA", key("worse CA"), BAD_CA)
    keys = {
        "RSA-16384": rsa_key(number_of(16384)),
        "RSA-16384 with an exponent of its length": rsa_key(number_of(16384), number_of(16380)),
        "RSA-3072 with an exponent of its length": rsa_key(number_of(3072), number_of(3071)),
        "RSA with 17,000 bits": rsa_key(number_of(17000)),
        "RSA of nothing": rsa_key(0, 0),
        "RSA of one": rsa_key(1, 1),
        "RSA with an even modulus": rsa_key(number_of(2048) - 1),
        "an explicit curve": ec_key(explicit_curve(), point),
        "a curve of its own": ec_key(explicit_curve(P256_PRIME - 188, P256_ORDER + 2), point),
        "a curve of a prime that is none": ec_key(explicit_curve(2**256 - 1), point),
        "a curve that nobody knows": ec_key(oid("1.2.3.4.5.6.7"), point_of(end)),
        "a point off its curve": ec_key(oid(P256_OID), point[:-1] + bytes([point[-1] ^ 1])),
        "a point at infinity": ec_key(oid(P256_OID), b"\0"),
        "an algorithm that nobody knows": tlv(SEQUENCE, tlv(SEQUENCE, oid("1.2.3.4")), tlv(BITS, b"\0", NOISE)),
        "a key that is noise": tlv(SEQUENCE, tlv(SEQUENCE, oid("1.2.840.113549.1.1.1"), NULL), tlv(BITS, b"\0", NOISE)),
    }
    found = {}
    for what, public in keys.items():
        found[f"a leaf with {what}"] = [with_key(end, public), BAD_CA.der]
        found[f"a CA with {what}"] = [leaf(ca).der, with_key(ca, public), BAD_CA.der]
        found[f"a CA of a stranger with {what}"] = [leaf(ca).der, with_key(ca, public, key("stranger"))]
    slow = rsa_key(number_of(3072), number_of(3071))
    path = [make("slow 0", key("slow"), BAD_CA, key_ids=False)]
    for number in range(1, 8):
        path.append(make(f"slow {number}", key("slow"), path[-1], key_ids=False))
    end = make("leaf", key("leaf"), path[-1], is_ca=False, extended=BOTH, alternative=dns(HOST), key_ids=False)
    found["eight CAs with slow keys"] = [end.der, *(with_key(node, slow) for node in reversed(path)), BAD_CA.der]
    return found


def many():
    """{what: list of DER}: of everything more than anybody needs."""
    end, stranger = leaf(BAD_CA), make("stranger", key("stranger"))
    small = [make(f"{number}", key("small"), stranger, key_ids=False).der for number in range(100)]
    long_name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "x" * 5000)])
    many_parts = x509.Name([x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, f"{at}") for at in range(900)])
    names = dns(*(f"{number}.test" for number in range(1000)))
    huge = x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), bytes(14000))
    found = {
        "100 certificates": [end.der, *small],
        "40 certificates": [end.der, *small[:40]],
        "the leaf 30 times": [end.der] * 30,
        "a name of 5000 bytes": [leaf(BAD_CA, common=long_name).der, BAD_CA.der],
        "a name of 900 parts": [leaf(BAD_CA, common=many_parts).der],
        "1000 names": [leaf(BAD_CA, alternative=[*names, *dns(HOST)]).der],
        "a huge extension": [leaf(BAD_CA, extra=[(huge, False)]).der, BAD_CA.der],
        "a huge critical extension": [leaf(BAD_CA, extra=[(huge, True)]).der, BAD_CA.der],
        "a serial number of 900 bytes": [edited(end, integer(end.certificate.serial_number), integer(number_of(7200))),
                                         BAD_CA.der],
    }
    return {**found, **mazes(), **explosions()}


def mazes():
    """Paths that branch at each step, none of which leads anywhere: names fit, keys don't."""
    def level(number, twin):
        issuer = f"level {number + 1}" if number < 5 else "hostile root"
        return make(f"level {number}", key(f"maze {twin}"), issuer=make(issuer, key("maze")).subject, key_ids=False).der

    maze = [level(number, twin) for number in range(6) for twin in range(4)]
    end = make("leaf", key("leaf"), make("level 0", key("maze")), is_ca=False, extended=BOTH, alternative=dns(HOST),
               key_ids=False)
    selves = [make("self", key(f"self {number}"), key_ids=False) for number in range(20)]
    ring = [make(f"ring {number}", key("ring"), make(f"ring {(number + 1) % 8}", key("ring"))) for number in range(8)]
    return {
        "a maze": [end.der, *maze], "a maze upside down": [end.der, *reversed(maze)],
        "twenty selves of one name": [leaf(selves[0], key_ids=False).der, *(node.der for node in selves)],
        "a ring": [leaf(ring[0]).der, *(node.der for node in ring)],
    }  # fmt: skip


def explosions():
    """What a bad CA may put into its certificates to keep others busy."""
    policies = [f"1.2.3.{number}" for number in range(20)]
    listed = x509.CertificatePolicies([x509.PolicyInformation(ObjectIdentifier(each), None) for each in policies])
    pairs = tlv(SEQUENCE, *(tlv(SEQUENCE, oid(one), oid(other)) for one in policies[:12] for other in policies[:12]))
    mapped = x509.UnrecognizedExtension(ObjectIdentifier("2.5.29.33"), pairs)
    explicit = x509.PolicyConstraints(0, None)
    path = [BAD_CA]
    for number in range(5):
        extra = [(listed, False), (mapped, False), (explicit, True)]
        path.insert(0, make(f"policy {number}", key("policy"), path[0], extra=extra))
    end = leaf(path[0], extra=[(listed, False)])
    trees = dns(*(f"t{number}.test" for number in range(350)))
    narrow = make("narrow", key("narrow"), BAD_CA, constraints=((), trees, True))
    nested = b""
    for _ in range(2000):
        nested = tlv(SEQUENCE, nested)
    other_name = tlv(SEQUENCE, tlv(0xA0, oid("1.2.3"), tlv(0xA0, nested)))
    deep = x509.UnrecognizedExtension(ObjectIdentifier("2.5.29.17"), other_name)
    return {
        "policies that multiply": [end.der, *(node.der for node in path)],
        "names times constraints": [leaf(narrow, alternative=dns(*(f"n{number}.test" for number in range(450)))).der,
                                    narrow.der, BAD_CA.der],
        "names without bottom": [leaf(BAD_CA, alternative=(), extra=[(deep, False)]).der, BAD_CA.der],
    }


def broken():
    """{what: list of DER}: what is no certificate."""
    end = leaf(BAD_CA)
    not_after = end.certificate.not_valid_after.strftime("%y%m%d%H%M%SZ").encode()
    return {
        "noise": [NOISE], "noise above": [end.der, NOISE], "noise between": [end.der, NOISE, BAD_CA.der],
        "text": [end.pem.encode()], "a byte": [b"\x30"], "a sequence of nothing": [b"\x30\x00"],
        "a leaf cut short": [end.der[:-20], BAD_CA.der], "a leaf with a tail": [end.der + bytes(4), BAD_CA.der],
        "a CA cut short": [end.der, BAD_CA.der[:-20]], "a CA with a tail": [end.der, BAD_CA.der + bytes(4)],
        "a length beyond all": [b"\x30\x84\xff\xff\xff\xff" + end.der[4:]],
        "a length without an end": [b"\x30\x80" + end.der[4:] + bytes(2)],
        "a date that is none": [edited(end, not_after, b"aaaaaaaaaaaaZ"), BAD_CA.der],
        "an extension that is noise": [leaf(BAD_CA, alternative=(), extra=[
            (x509.UnrecognizedExtension(ObjectIdentifier("2.5.29.17"), NOISE), False)]).der, BAD_CA.der],
        "constraints that are noise": [leaf(BAD_CA, extra=[
            (x509.UnrecognizedExtension(ObjectIdentifier("2.5.29.30"), NOISE), True)]).der, BAD_CA.der],
        "an empty certificate": [b""], "an empty one above": [end.der, b""],
    }  # fmt: skip


def misshapen(version):
    """{what: body}: messages whose lengths lie."""
    is_1_3 = version == "TLSv1.3"
    end = leaf(BAD_CA).der
    head = b"\0" if is_1_3 else b""
    whole = entry(end) if is_1_3 else vector(3, end)
    return {
        "nothing": b"", "a length alone": head + b"\0\0", "a list beyond the message": head + vector(3, whole)[:-9],
        "a certificate beyond the list": head + vector(3, whole[:-30]),
        "more than the list": head + vector(3, whole) + b"tail",
        "a list of one byte": head + vector(3, b"\0"),
    }  # fmt: skip


def cases(version):
    """{what: (body of the Certificate message, what the words must say)}"""
    lists = {**bad_keys(), **many(), **broken()}
    found = {what: (list_of(ders, version), ANYTHING) for what, ders in lists.items()}
    for what in ("a byte", "a sequence of nothing", "an empty certificate", "an empty one above"):
        found[what] = found[what][0], RULES  # less than mbedTLS takes for a certificate
    found["100 certificates"] = found["100 certificates"][0], r"larger than"
    # A CertificateVerify comes after it, which is out of turn.
    found["no certificate at all"] = list_of([], version), r"no certificate|out of turn|rules of TLS"
    return {**found, **{what: (body, RULES) for what, body in misshapen(version).items()}}
