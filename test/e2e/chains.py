"""Chains of certificates that are shown to bitflow, in either role, beside what `openssl verify` says of each with the
same settings. One bitflow serves them all: a proxy for each distinct setting, one connection for each chain.

With BITFLOW_NIGHTLY=1 each chain is shown in TLS 1.2 and in 1.3, and also with what follows the leaf turned around;
otherwise once, in the two versions by turns. Under a sanitizer it is a sample.
"""

import concurrent.futures
import dataclasses
import hashlib
import itertools
import os
import pathlib
import re
import ssl
import subprocess

import needs
import peers
import sockets
import tls_raw
from environment import proxy
from tls_cases import tls_listener, tls_target
from tls_peers import VERSIONS
from waiting import scale

NIGHTLY = os.environ.get("BITFLOW_NIGHTLY") == "1"
LISTENER, TARGET = "listener", "target"
ROLES = {LISTENER: "sslclient", TARGET: "sslserver"}
# Of more, each role sees a half.
MANY = 100
MARK = "-----BEGIN CERTIFICATE-----"
# How bitflow has libcrypto judge: any certificate of `authority` is an anchor, any policy will do, what is weaker than
# 112 bits is not accepted, nor more than eight CAs below the anchor.
SETTINGS = ["-no-CApath", "-no-CAstore", "-partial_chain", "-policy", "anyPolicy", "-auth_level", "2",
            "-verify_depth", "8"]
LIST_SETTINGS = ["-crl_check_all", "-extended_crl", "-use_deltas"]
# What is said of an error (x509_vfy.h's number), in the words of the connection log's `error`.
WORDS = {
    (2, 20, 21, 27): r"unknown CA|not an authority",
    (3, 44): r"revo(cation list|ked)|CRL",
    (9, 11): r"not (yet )?valid before",
    (10, 12): r"expired",
    (18, 19): r"self-signed",
    (7,): r"sign",
    (8, 35, 36): r"revocation list|CRL",
    (23,): r"revoked",
    (24, 79): r"CA",
    (25, 22): r"path|depth|chain|long",
    (26,): r"usage|purpose|not for (client|server)s",
    (34,): r"critical",
    (42, 43): r"polic",
    (47, 48, 49, 51, 52, 53): r"name",
    (54,): r"revocation list|CRL",
    (62, 64): r"is for .*, not for",
    (66, 67, 68): r"weak|short|kind",
    (94,): r"curve|parameters",
}
# Codes of libraries, that tell nobody anything.
RAW = re.compile(r"0x[0-9a-fA-F]{2}|\berror:?\s*-?\d+|:[0-9A-F]{8}:|X509_|MBEDTLS")


@dataclasses.dataclass(frozen=True)
class Trust:
    """What bitflow is told of the other side. Without a host a target's certificate may be for any."""

    authority: pathlib.Path
    lists: pathlib.Path | None = None
    host: str | None = None


@dataclasses.dataclass(frozen=True)
class Chain:
    """What a peer sends: a file with its leaf, then the rest in this order; and the leaf's key. None: it is of a kind
    that no handshake takes; such a chain is never let in, and only shown. `stricter`: what bitflow says (a pattern) of
    a chain that it refuses, whatever openssl says."""

    name: str
    key: pathlib.Path | None
    certificate: pathlib.Path
    trust: Trust
    stricter: str = ""


@dataclasses.dataclass
class Verdict:
    is_let_in: bool
    why: str = ""
    error: int = 0


@dataclasses.dataclass
class Trial:
    """One connection."""

    role: str
    chain: Chain
    version: str
    ours: Verdict | None = None
    theirs: Verdict | None = None
    record: dict | None = None

    def disagreement(self):
        """What is wrong with it, or nothing."""
        if self.ours.is_let_in != (self.theirs.is_let_in and not self.chain.stricter):
            return f"openssl: {self.theirs.why or 'good'}; here: {self.record['error'] or 'let in'}"
        side = "client" if self.role == LISTENER else "target"
        reason, error = self.record["reason"], self.record["error"]
        if self.ours.is_let_in:
            leaf = self.record[f"{side}_tls"]["peer_fingerprint"]
            if reason != "completed" or leaf != fingerprint(self.chain.certificate):
                return f"let in as {reason} with the leaf {leaf}"
            return None
        if reason != f"{side}_handshake_failed" or not error:
            return f"refused as {reason} with the words {error}"
        if not self.ours.why:
            return f"refused without an alert: {error}"
        words = self.chain.stricter or next(
            (words for errors, words in WORDS.items() if self.theirs.error in errors), "no words for this error"
        )
        if not self.chain.key:  # such a client of TLS 1.3 is judged once it has signed, and its signature is another's
            words += "|signature that does not match"
        if RAW.search(error) or not re.search(words, error, re.IGNORECASE):
            return f"openssl: {self.theirs.why}; in other words: {error}"
        return None


def ders_of(path):
    return [ssl.PEM_cert_to_DER_cert(MARK + text) for text in path.read_text().split(MARK)[1:]]


def fingerprint(path):
    return hashlib.sha256(ders_of(path)[0]).hexdigest()


def openssl_verify(chain, role):
    """The second opinion."""
    trust = chain.trust
    command = ["openssl", "verify", *SETTINGS, "-purpose", ROLES[role], "-CAfile", trust.authority]
    command += ["-untrusted", chain.certificate]
    if trust.lists:
        command += [*LIST_SETTINGS, "-CRLfile", trust.lists]
    if role == TARGET and trust.host:
        is_address = re.fullmatch(r"[0-9.]+|.*:.*", trust.host)
        command += ["-verify_ip" if is_address else "-verify_hostname", trust.host]
    done = subprocess.run([*command, chain.certificate], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 2), f"{chain.name}: {done.stderr}"
    found = re.search(r"error (\d+) at .*", done.stderr)
    return Verdict(done.returncode == 0, found[0] if found else done.stderr, int(found[1]) if found else 0)


def sample(items):
    """All, or some of them, spread evenly."""
    items = list(items)
    count = scale(len(items), min(len(items), 20))
    return [items[number * len(items) // count] for number in range(count)]


def turned_around(chain):
    """The same with what follows the leaf in the opposite order; None if there is nothing to turn."""
    leaf, *others = (MARK + text for text in chain.certificate.read_text().split(MARK)[1:])
    if len(others) < 2:
        return None
    path = chain.certificate.with_suffix(".turned.pem")
    path.write_text("".join([leaf, *reversed(others)]))
    return dataclasses.replace(chain, name=f"{chain.name}, turned around", certificate=path)


def in_full(chains, role, versions, most):
    """With their variants where there is time for them, without some of them where there is not: [(chain, version)]."""
    if NIGHTLY:
        shown = [*chains, *filter(None, map(turned_around, chains))]
        return list(itertools.product(shown, versions))
    if len(chains) > most:
        chains = chains[role == TARGET :: 2]
    return [(chain, versions[number % len(versions)]) for number, chain in enumerate(sample(chains))]


class Judge:
    """The bitflow that is asked. `trusts`: all that the chains will name."""

    def __init__(self, env, server, trusts):
        self.env, self.server, self.seen = env, server, 0
        welcome = env.serve(peers.source(b"in"))
        self.listener = env.listen(env.unix("target.sock"))
        self.addresses, proxies = {}, []
        for trust in dict.fromkeys(trusts):
            number = len(self.addresses)
            for role in ROLES:
                self.addresses[role, trust] = env.unix(f"{role}{number}.sock")
            keys = {"authority": str(trust.authority)}
            if trust.lists:
                keys["revocation_list"] = str(trust.lists)
            listener = tls_listener(server.entry(**keys), verify_mode="strict")
            target = tls_target(
                self.listener.address, trust.authority, name=trust.host, crl=trust.lists,
                verify_mode="strict" if trust.host else "relaxed",
            )  # fmt: skip
            proxies += [
                proxy(self.addresses[LISTENER, trust], welcome.address, name=f"l{number}", listener=listener),
                proxy(self.addresses[TARGET, trust], target, name=f"t{number}"),
            ]
        self.bitflow = env.start(*proxies)

    def try_all(self, role, shown):
        """The trials, with both verdicts. One at a time, so that records are told apart by their order."""
        trials = [Trial(role, chain, version) for chain, version in shown]
        assert trials
        ask = self.ask_listener if role == LISTENER else self.ask_target
        with concurrent.futures.ThreadPoolExecutor(2) as others:
            theirs = {chain: others.submit(openssl_verify, chain, role) for chain in {trial.chain for trial in trials}}
            for trial in trials:
                trial.ours = ask(trial)
            for trial in trials:
                trial.theirs = theirs[trial.chain].result()
        records = sorted(self.bitflow.wait_records(self.seen + len(trials)), key=lambda record: record["id"])
        for trial, record in zip(trials, records[self.seen :], strict=True):
            trial.record = record
        self.seen = len(records)
        return trials

    def agrees(self, role, chains, versions=VERSIONS, most=MANY):
        """Asserts that bitflow says what openssl says; returns who was let in."""
        trials = self.try_all(role, in_full(list(chains), role, versions, most))
        wrong = [f"{trial.chain.name} ({trial.version}): {words}"
                 for trial in trials if (words := trial.disagreement())]
        assert not wrong, f"{len(wrong)} of {len(trials)} as {role}:\n" + "\n".join(wrong[:40])
        return {trial.chain.name: trial.ours.is_let_in for trial in trials}

    def ask_listener(self, trial):
        with sockets.connect(self.addresses[LISTENER, trial.chain.trust]) as sock:
            end = self.presenting(trial, sock)
            try:
                end.handshake()
                data, how = end.read_until_end()
            except ssl.SSLError as error:
                data, how = b"", tls_raw.alert_of(error)
            assert (data, how) == (b"in", "close_notify") or not data, (trial.chain.name, data, how)
            if data:
                end.end()
            return Verdict(bool(data), "" if how in ("cut", "reset", "close_notify") else how)

    def ask_target(self, trial):
        with sockets.connect(self.addresses[TARGET, trial.chain.trust]) as client:
            with self.listener.accept() as connection:
                end = self.presenting(trial, connection)
                try:
                    end.handshake()
                except ssl.SSLError as error:
                    assert sockets.receive_until_broken(client)[0] == b""
                    return Verdict(False, tls_raw.alert_of(error))
                except (EOFError, ConnectionResetError):
                    return Verdict(False)
                end.write(b"in")
                assert sockets.receive_exactly(client, 2) == b"in"
                end.end()
                client.shutdown(1)
                sockets.receive_until_broken(connection)
                return Verdict(True)



    def presenting(self, trial, sock):
        """A side that shows the chain as it stands, whatever it thinks of it."""
        is_server = trial.role == TARGET
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        context.minimum_version = context.maximum_version = tls_raw.VERSIONS[trial.version]
        chain = trial.chain
        if chain.key:
            context.load_cert_chain(chain.certificate, chain.key)
            return tls_raw.Tls(sock, context, is_server)
        needs.CRYPTOGRAPHY.need()
        import tls_splice

        context.load_cert_chain(self.server.certificate, self.server.key)
        body = tls_splice.list_of(ders_of(chain.certificate), trial.version)
        return tls_splice.Spliced(sock, context, body, self.env.directory, is_server)
