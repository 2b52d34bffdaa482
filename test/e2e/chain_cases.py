"""The chains that test_tls_paths.py shows: paths that branch, constraints by kind, lists, depths, anchors, usages,
kinds of keys. Each family is a function of a mint.Folder; which of its chains are good is openssl's to say."""

import ipaddress
import itertools

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ObjectIdentifier

from mint import ANY_USAGE, BOTH, CA_USAGE, CLIENT, CODE, HOST, SERVER, dns, key, leaf, make, name, revocation_list

UNKNOWN = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")
ROOT = make("root", key("root"))
STRANGER = make("stranger", key("stranger"))
# What may be wrong with one of several certificates of an intermediate.
FLAWS = {
    "expired": {"days": (-60, -30)},
    "not yet valid": {"days": (30, 60)},
    "no CA": {"is_ca": False, "usage": CA_USAGE},
    "without basic constraints": {"is_ca": None},
    "without certificate signing": {"usage": ("digital_signature",)},
    "for code": {"extended": (CODE,)},
    "names excluded": {"constraints": ((), dns(HOST), True)},
    "names elsewhere": {"constraints": (dns("elsewhere.test"), (), True)},
    "SHA-1": {"hash_function": hashes.SHA1()},
    "unknown critical extension": {"extra": [(UNKNOWN, True)]},
    "forged": {"signer": key("stranger")},
    "of a stranger": {"by": STRANGER},
    "another key": {"own": key("another")},
    "weak key": {"own": key("kind", "rsa1024")},
}


def intermediate(common="middle", **flaw):
    return make(common, flaw.pop("own", key(common)), flaw.pop("by", ROOT), **flaw)


def twins(folder):
    """One intermediate that has two certificates, of which none, one or both are flawed, in either order."""
    for key_ids in (True, False):
        trust = folder.trust(ROOT, host=HOST)
        made = {flaw: intermediate(**keys, key_ids=key_ids) for flaw, keys in FLAWS.items()}
        good = intermediate(key_ids=key_ids)
        end = leaf(good, key_ids=key_ids)
        about = "" if key_ids else ", no key identifiers"
        for flaw, bad in made.items():
            folder.chain(f"{flaw} alone{about}", [end, bad], trust)
            folder.chain(f"{flaw}, good{about}", [end, bad, good], trust)
            folder.chain(f"good, {flaw}{about}", [end, good, bad], trust)
        for one, other in itertools.combinations(made, 2):
            if key_ids:
                folder.chain(f"{one}, {other}", [end, made[one], made[other]], trust)


def meshes(folder):
    """An intermediate that two others have certified: of the two paths none, one or both lead to the anchor."""
    trust = folder.trust(ROOT, host=HOST)
    chosen = ("expired", "of a stranger", "names excluded", "no CA", "forged", "unknown critical extension")
    flaws = {"good": {}, **{flaw: FLAWS[flaw] for flaw in chosen}}
    lower = {side: make("lower", key("lower"), make(side, key(side), ROOT)) for side in ("left", "right")}
    end = leaf(lower["left"])
    for left, right in itertools.product(flaws, repeat=2):
        tops = [intermediate("left", **flaws[left]), intermediate("right", **flaws[right])]
        folder.chain(f"{left} or {right}", [end, *lower.values(), *tops], trust)
        folder.chain(f"{right} or {left}, upside down", [end, *reversed(tops), *reversed(lower.values())], trust)
    for length in (0, 1):
        tops = [intermediate("left", length=length), intermediate("right")]
        folder.chain(f"left with length {length}", [end, *lower.values(), *tops], trust)
    # Each certified by the other, and one of them by the root.
    one, two = make("one", key("one"), ROOT), make("two", key("two"), ROOT)
    ring = [make("one", key("one"), two), make("two", key("two"), one)]
    folder.chain("a ring", [leaf(one), *ring], trust)
    folder.chain("a ring with a way out", [leaf(one), *ring, two], trust)
    folder.chain("a ring with a way out, which is first", [leaf(one), two, *ring], trust)


def kinds_of_names():
    """{kind: (a tree of names, a name in it, one outside)}"""
    network = x509.IPAddress(ipaddress.ip_network("192.0.2.0/24"))
    network6 = x509.IPAddress(ipaddress.ip_network("2001:db8::/32"))
    return {
        "DNS": (x509.DNSName("good.test"), x509.DNSName("a.good.test"), x509.DNSName("bad.test")),
        "DNS, the domain itself": (x509.DNSName("good.test"), x509.DNSName("good.test"), x509.DNSName("xgood.test")),
        "DNS in capitals": (x509.DNSName("good.test"), x509.DNSName("A.GOOD.TEST"), x509.DNSName("GOOD.TEST.BAD")),
        "DNS with a dot": (x509.DNSName(".good.test"), x509.DNSName("a.good.test"), x509.DNSName("good.test")),
        "DNS wildcard": (x509.DNSName("good.test"), x509.DNSName("*.good.test"), x509.DNSName("*.test")),
        "IPv4": (network, address("192.0.2.7"), address("198.51.100.7")),
        "IPv6": (network6, address("2001:db8::7"), address("2001:db9::7")),
        "mail host": (x509.RFC822Name("good.test"), x509.RFC822Name("a@good.test"), x509.RFC822Name("a@x.good.test")),
        "mailbox": (x509.RFC822Name("a@good.test"), x509.RFC822Name("a@good.test"), x509.RFC822Name("b@good.test")),
        "URI": (x509.UniformResourceIdentifier(".good.test"),
                x509.UniformResourceIdentifier("https://a.good.test/"),
                x509.UniformResourceIdentifier("https://bad.test/")),
        "directory": tuple(x509.DirectoryName(name(common, organization)) for common, organization in
                           ((None, "good"), ("x", "good"), ("x", "bad"))),
        "registered": (x509.RegisteredID(ObjectIdentifier("1.2.3")), x509.RegisteredID(ObjectIdentifier("1.2.3")),
                       x509.RegisteredID(ObjectIdentifier("1.2.4"))),
    }


def address(text):
    return x509.IPAddress(ipaddress.ip_address(text))


def only(one):
    """The tree of names that has this one alone."""
    return x509.IPAddress(ipaddress.ip_network(one.value)) if isinstance(one, x509.IPAddress) else one


def constraints(folder):
    """Each kind of name, permitted or excluded, inside or outside, critical or not; on one level and on two."""
    trust = folder.trust(ROOT)
    for kind, (tree, inside, outside) in kinds_of_names().items():
        names = {"inside": [inside], "outside": [outside], "both": [inside, outside], "another kind":
                 [address("203.0.113.9")] if "IP" not in kind else dns("free.test")}
        for critical, rule in itertools.product((True, False), ("permitted", "excluded")):
            halves = ([tree], ()) if rule == "permitted" else ((), [tree])
            middle = intermediate(constraints=(*halves, critical))
            for place, alternative in names.items():
                folder.chain(f"{kind} {rule}, {place}{'' if critical else ', not critical'}",
                             [leaf(middle, alternative=alternative), middle], trust)
        wide = intermediate(constraints=([tree], (), True))
        narrow = make("narrow", key("narrow"), wide, constraints=((), [only(inside)], True))
        for place, alternative in names.items():
            folder.chain(f"{kind} permitted above, excluded below, {place}",
                         [leaf(narrow, alternative=alternative), narrow, wide], trust)
    constraints_of_subjects(folder, trust)


def constraints_of_subjects(folder, trust):
    """What is no alternative name, and yet a name: the subject's parts. And where constraints do not reach."""
    only_dns = intermediate(constraints=(dns("good.test"), (), True))
    for common in ("a.good.test", "a.bad.test", "no host", "a.good.test\0.bad.test"):
        folder.chain(f"a common name {common!r} alone", [leaf(only_dns, common, alternative=()), only_dns], trust)
        both = leaf(only_dns, common, alternative=dns("b.good.test"))
        folder.chain(f"a common name {common!r} beside a good one", [both, only_dns], trust)
    directory = [x509.DirectoryName(name(None, "good"))]
    for organization, rule in itertools.product(("good", "GOOD ", "bad"), ("permitted", "excluded")):
        halves = (directory, ()) if rule == "permitted" else ((), directory)
        middle = intermediate(constraints=(*halves, True))
        end = make(name("x", organization), key("leaf"), middle, is_ca=False, extended=BOTH)
        folder.chain(f"a subject of {organization} where good is {rule}", [end, middle], trust)
    inner = make("middle", key("inner"), only_dns)  # issued to itself: constraints pass it over
    folder.chain("a self-issued CA below", [leaf(inner, alternative=dns("a.good.test")), inner, only_dns], trust)
    anchor = make("narrow root", key("narrow root"), constraints=(dns("good.test"), (), True))
    for host in ("a.good.test", "a.bad.test"):
        folder.chain(f"the anchor's own, {host}", [leaf(anchor, alternative=dns(host))], folder.trust(anchor))


def orders(folder):
    """Chains with something missing, foreign, twice, or out of order."""
    trust = folder.trust(ROOT, host=HOST)
    top = intermediate("top")
    low = make("low", key("low"), top)
    end, foreign = leaf(low), intermediate("foreign")
    others = [make(f"other {number}", key("other"), STRANGER) for number in range(3)]
    shapes = {
        "in order": [low, top], "in reverse": [top, low], "with the root": [low, top, ROOT],
        "root first": [ROOT, low, top], "without the lower one": [top], "without the upper one": [low], "alone": [],
        "with a foreign one": [low, foreign, top],
        "behind strangers": [*others, STRANGER, low, top], "each twice": [low, low, top, top],
        "the leaf again": [end, low, top], "with another leaf": [leaf(top, "x"), low, top],
    }  # fmt: skip
    for shape, rest in shapes.items():
        folder.chain(f"a chain {shape}", [end, *rest], trust)
    folder.chain("a CA in the leaf's place", [low, end, top], trust, is_usable=False)
    # Two intermediates of one name, whose keys differ, and one more of that name that is a stranger's.
    first, second = (make("namesake", key(label), ROOT, key_ids=ids) for label, ids in (("n1", False), ("n2", False)))
    third = make("namesake", key("n3"), STRANGER, key_ids=False)
    ids = [make("namesake", key(label), ROOT) for label in ("n1", "n2")]
    for title, order in {"ours first": [first, second], "ours last": [second, first], "ours missing": [second, third],
                         "strangers between": [second, third, third, first]}.items():
        folder.chain(f"namesakes, {title}", [leaf(first, key_ids=False), *order], trust)
    for title, order in {"first": ids, "last": ids[::-1], "missing": ids[1:]}.items():
        folder.chain(f"namesakes with key identifiers, ours {title}", [leaf(ids[0]), *order], trust)
    spaced = make(name("  SPACED   out ", "Paths"), key("spaced"), ROOT)
    folder.chain("names that differ in case and space",
                 [leaf(spaced, issuer=name("spaced OUT", "PATHS")), spaced], trust)


def depths(folder):
    """Longer and longer chains, and what path lengths allow."""
    trust = folder.trust(ROOT, host=HOST)
    path = []
    for number in range(24):
        path.insert(0, make(f"level {number}", key("level"), path[0] if path else ROOT))
        folder.chain(f"{number + 1} intermediates", [leaf(path[0]), *path], trust)
    for length, below, is_self_issued in itertools.product((0, 1, 2), (0, 1, 2, 3), (False, True)):
        limited = [intermediate("limited", length=length)]
        for number in range(below):
            subject = "limited" if is_self_issued else f"below {number}"
            limited.insert(0, make(subject, key(f"below {number}"), limited[0]))
        folder.chain(f"length {length} with {below} below{', self-issued' if is_self_issued else ''}",
                     [leaf(limited[0]), *limited], trust)


def anchors(folder):
    """What `authority` may hold."""
    middle, end = intermediate(), leaf(intermediate())
    expired, future = (make("root", key("root"), days=days) for days in (FLAWS["expired"]["days"], (30, 60)))
    namesake = make("root", key("root's namesake"), key_ids=False)
    lone = make("lone", key("leaf"), is_ca=False, extended=BOTH, alternative=dns(HOST))
    plain = make("plain root", key("plain"), is_ca=None, usage=(), key_ids=False)
    for title, sent, held in [
        ("the intermediate", [end, middle], [middle]), ("the intermediate, which is not sent", [end], [middle]),
        ("the leaf itself", [end, middle], [end]), ("the leaf's sister", [end, middle], [leaf(middle, "sister")]),
        ("a lone leaf itself", [lone], [lone]), ("the root, of a lone leaf", [lone], [ROOT]),
        ("a root that has expired", [end, middle], [expired]), ("a root of the future", [end, middle], [future]),
        ("a root and its expired twin", [end, middle], [expired, ROOT]),
        ("a root before its expired twin", [end, middle], [ROOT, expired]),
        ("a root's namesake", [end, middle], [namesake]), ("a root and its namesake", [end, middle], [namesake, ROOT]),
        ("a root before its namesake", [end, middle], [ROOT, namesake]),
        ("a stranger", [end, middle, ROOT], [STRANGER]),
        ("a root and a stranger", [end, middle], [STRANGER, ROOT]),
        ("an expired intermediate and the root", [end, middle], [intermediate(**FLAWS["expired"]), ROOT]),
        ("a root without extensions", [leaf(plain, key_ids=False)], [plain]),
        ("a root's certificate by a stranger", [end, middle], [make("root", key("root"), STRANGER)]),
        ("an intermediate for code, an anchor", [end], [intermediate(**FLAWS["for code"])]),
        ("the old root, whose key has signed the new one's",
         [leaf(make("new", key("new"))), make("new", key("new"), ROOT)], [ROOT]),
    ]:  # fmt: skip
        folder.chain(f"anchor: {title}", sent, folder.trust(*held, host=HOST))


def usages(folder):
    """Key usage and extended key usage, of leaves and of those above. A leaf without digitalSignature is left out: it
    is not for these handshakes, whatever a verification says."""
    trust, middle = folder.trust(ROOT, host=HOST), intermediate()
    extended = {"none": (), "any": (ANY_USAGE,), "client": (CLIENT,), "server": (SERVER,), "both": BOTH,
                "code": (CODE,), "code and any": (CODE, ANY_USAGE)}
    for title, usage in extended.items():
        folder.chain(f"a leaf for {title}", [leaf(middle, extended=usage), middle], trust)
        above = intermediate(extended=usage)
        folder.chain(f"an intermediate for {title}", [leaf(above), above], trust)
    for title, usage in {"no key usage": (), "non-repudiation too": ("digital_signature", "content_commitment"),
                         "encipherment too": ("digital_signature", "key_encipherment"),
                         "certificates too": ("digital_signature", "key_cert_sign")}.items():
        folder.chain(f"a leaf with {title}", [leaf(middle, usage=usage), middle], trust)
    both = leaf(middle, is_ca=True, usage=("digital_signature", *CA_USAGE))
    folder.chain("a leaf that is a CA", [both, middle], trust)
    folder.chain("a leaf with an unknown extension", [leaf(middle, extra=[(UNKNOWN, False)]), middle], trust)
    folder.chain("a leaf with a critical one", [leaf(middle, extra=[(UNKNOWN, True)]), middle], trust)
    for flaw in ("expired", "not yet valid", "forged", "SHA-1"):
        folder.chain(f"a leaf: {flaw}", [leaf(middle, **FLAWS[flaw]), middle], trust)


def kinds(folder):
    """Keys and hashes of issuers; and leaves whose keys are too weak."""
    trust = folder.trust(ROOT, host=HOST)
    for kind in ("p256", "p384", "p521", "p224", "p192", "secp256k1", "brainpool256", "ed25519", "ed448", "rsa1024",
                 "rsa1536", "rsa2048", "rsa4096"):
        middle = intermediate(own=key("kind", kind))
        stricter = r"curve" if kind in ("p192", "p224", "secp256k1") else ""
        folder.chain(f"an issuer with {kind}", [leaf(middle), middle], trust, stricter=stricter)
        root = make("own root", key("kind", kind))
        if not stricter:
            folder.chain(f"an anchor with {kind}", [leaf(root)], folder.trust(root, host=HOST))
    for hash_function in (hashes.SHA1, hashes.SHA224, hashes.SHA256, hashes.SHA384, hashes.SHA512, hashes.SHA3_256):
        for kind in ("p256", "rsa2048") if hash_function is not hashes.SHA3_256 else ("rsa2048",):
            middle = intermediate(own=key("kind", kind))
            end = leaf(middle, hash_function=hash_function())
            folder.chain(f"signed by {kind} and {hash_function.name}", [end, middle], trust)
    root = make("old root", key("old"), hash_function=hashes.SHA1())
    folder.chain("an anchor that is signed by SHA-1", [leaf(root)], folder.trust(root, host=HOST))
    middle = intermediate()
    for kind, stricter in {"rsa1024": "", "rsa1536": "", "p192": "curve"}.items():
        end = leaf(middle, own=key("kind", kind))
        folder.chain(f"a leaf with {kind}", [end, middle], trust, is_usable=False, stricter=stricter)


def hosts(folder):
    """What a strict target's certificate is for. openssl takes the common name where there is no DNS name, bitflow only
    where there is no alternative name at all."""
    middle = intermediate()
    forms = {
        "the name": dns(HOST), "in capitals": dns("SERVER.TEST"), "another": dns("other.test"),
        "a wildcard": dns("*.test"),
        "a deeper one": dns("*.server.test"), "half a label": dns("ser*.test"), "a bare star": dns("*"),
        "the parent": dns("test"), "a name with a dot before": dns(".server.test"),
        "the name with NUL after": dns("server.test\0.evil.test"), "two": dns("other.test", HOST),
        "a hundred": dns(*(f"host{number}.test" for number in range(100)), HOST),
        "an address": [address("192.0.2.7")], "the address and a name": [address("127.0.0.1"), *dns("other.test")],
        "the address as a name": dns("127.0.0.1"), "IPv6": [address("::1")],
        "an IPv4-mapped one": [address("::ffff:127.0.0.1")],
        "a mailbox": [x509.RFC822Name("server.test"), *dns("x.test")],
        "a URI": [x509.UniformResourceIdentifier("https://server.test"), *dns("x.test")],
        "labels of two": dns("a.b.server.test"),
    }  # fmt: skip
    for host in (HOST, "a.server.test", "127.0.0.1", "::1"):
        trust = folder.trust(ROOT, host=host)
        for form, alternative in forms.items():
            folder.chain(f"{host}: {form}", [leaf(middle, alternative=alternative), middle], trust)
        alone, beside = (leaf(middle, HOST, alternative=names) for names in ((), [address("192.0.2.7")]))
        folder.chain(f"{host}: a common name alone", [alone, middle], trust)
        other = r"is for .*, not for"
        folder.chain(f"{host}: a common name beside an address", [beside, middle], trust, stricter=other)


def lists(folder):
    """The two lists of a chain with one intermediate, each in every state; then CAs of one name with a list each. Not
    an intermediate as anchor: openssl asks for a list of its issuer, too, bitflow does not."""
    middle = intermediate()
    end, sister = leaf(middle), leaf(middle, "sister")
    states = {
        "none": lambda by, below: "", "good": lambda by, below: revocation_list(by),
        "of another": lambda by, below: revocation_list(by, [sister]),
        "revoking": lambda by, below: revocation_list(by, [below]),
        "expired": lambda by, below: revocation_list(by, days=(-60, -30)),
        "of the future": lambda by, below: revocation_list(by, days=(30, 60)),
        "forged": lambda by, below: revocation_list(by, signer=key("stranger")),
        "expired beside a good one": lambda by, below: revocation_list(by, days=(-60, -30)) + revocation_list(by),
    }  # fmt: skip
    stranger = revocation_list(STRANGER)
    for upper, lower in itertools.product(states, repeat=2):
        if "good" in (upper, lower) or upper == lower:
            texts = [stranger, states[upper](ROOT, middle), states[lower](middle, end)]
            folder.chain(f"root's {upper}, the intermediate's {lower}", [end, middle], folder.trust(ROOT, lists=texts))
    no_usage = intermediate(usage=("key_cert_sign",))
    folder.chain("an intermediate that may not sign lists", [leaf(no_usage), no_usage],
                 folder.trust(ROOT, lists=[revocation_list(ROOT), revocation_list(no_usage)]))
    namesakes(folder)


def namesakes(folder):
    """CAs of one name whose keys differ, each with a list: by key identifiers they are told apart."""
    one, two = (make("namesake", key(label), ROOT) for label in ("n1", "n2"))
    ends = {"one": leaf(one), "two": leaf(two)}
    root = revocation_list(ROOT)
    for title, texts in {
        "both": [revocation_list(one), revocation_list(two)], "the other's": [revocation_list(two)],
        "both, the other's revoking": [revocation_list(one), revocation_list(two, [ends["one"]])],
        "both, its own revoking": [revocation_list(two), revocation_list(one, [ends["one"]])],
    }.items():  # fmt: skip
        folder.chain(f"namesakes: {title}", [ends["one"], one, two], folder.trust(ROOT, lists=[root, *texts]))
