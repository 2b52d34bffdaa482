"""What the tests of TLS share: pieces of configuration, what the connection log must say, a bitflow that many
cases use one after the other."""

import re
import ssl

import sockets
import tls_raw
from waiting import wait_for

LEG_KEYS = {
    "version",
    "cipher",
    "server_name",
    "protocol",
    "handshake_ms",
    "truncated",
    "peer_subject",
    "peer_names",
    "peer_fingerprint",
}

# What is wrong with a certificate, in the words of the connection log's `error`.
WORDS = {
    "none sent": r"sent no certificate",
    "stranger": r"authorit|trusted|issuer",
    "expired": r"expired on 2021-01-01|expired on .*2021",
    "not yet valid": r"not (yet )?valid (before|until)|not yet valid|valid from",
    "wrong name": r"server\.test|127\.0\.0\.1|localhost",
    "wrong usage": r"usage|meant for|purpose|not for|use as",
    "revoked": r"revoked",
}
# What the side with the bad certificate is told. The exact one where the RFC leaves no choice.
ALERTS = {
    "none sent": {"certificate_required", "handshake_failure", "no_certificate", "bad_certificate"},
    "stranger": {"unknown_ca"},
    "expired": {"certificate_expired"},
    "not yet valid": {"certificate_expired", "bad_certificate", "certificate_unknown"},
    "wrong name": {"bad_certificate", "certificate_unknown"},
    "wrong usage": {"unsupported_certificate", "bad_certificate", "certificate_unknown"},
    "revoked": {"certificate_revoked"},
}


# What a client may send that is not TLS: its first bytes, and what the connection log's `error` says of them.
NOT_TLS = {
    "HTTP": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "plain HTTP"),
    "SSLv2": (b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10", "SSLv2"),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
    "PROXY protocol": (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "PROXY protocol"),
    "noise": (bytes(range(200, 240)), "not TLS"),
}


def tls_listener(*identities, listener=None, **keys):
    """The listener's part of a proxy: its certificates (identities, or items as they stand) and further keys
    of its tls_context."""
    entries = [item if isinstance(item, dict) else item.entry() for item in identities]
    return {"tls_context": {"certificates": entries, **keys}, **(listener or {})}


def tls_target(address, authority=None, identity=None, name="server.test", crl=None, target=None, **keys):
    """A target over TLS. `name` is the server_name (None: the address's own host)."""
    context = dict(keys)
    if name:
        context["server_name"] = name
    entry = identity.entry() if identity else {}
    if authority:
        entry["authority"] = str(authority)
    if crl:
        entry["revocation_list"] = str(crl)
    if entry:
        context["certificates"] = [entry]
    return {"address": address, "tls_context": context, **(target or {})}


def tls_echo(context, outcomes=None):
    """A handler for peers.Server that speaks TLS and sends everything back; how each handshake ended is put
    into a list: the end itself, or the failure."""

    def handler(connection):
        end = tls_raw.Tls(connection, context, server_side=True)
        try:
            end.handshake()
        except (ssl.SSLError, EOFError, OSError) as error:
            if outcomes is not None:
                outcomes.append(error)
            return
        if outcomes is not None:
            outcomes.append(end)
        while True:
            data = end.read()
            if not data:
                break
            end.write(data)
        end.end()
        sockets.receive_until_broken(connection)

    def quiet(connection):
        try:
            handler(connection)
        except (EOFError, ssl.SSLError):
            pass  # the other side broke off, which some tests are about

    return quiet


def tls_client(env, address, context=None, server_name="server.test", **settings):
    """A client's end of TLS, its handshake done."""
    sock = env.connect(address, **settings)
    return tls_raw.Tls(sock, context or tls_raw.client_context(), server_name=server_name).handshake()


def tls_accept(listener, context):
    """A target's end of TLS, its handshake done."""
    return tls_raw.Tls(listener.accept(), context, server_side=True).handshake()


# What the connection log says


def assert_leg(leg, version=None, cipher=None, server_name=None, protocol=None, peer=None):
    """client_tls or target_tls of a connection whose handshake went well."""
    assert leg is not None, "the record says nothing of TLS"
    assert LEG_KEYS <= set(leg), LEG_KEYS - set(leg)
    assert re.fullmatch(r"TLSv1\.[23]", leg["version"]) and leg["cipher"].startswith("TLS_"), leg
    if version:
        assert leg["version"] == version, leg
    if cipher:
        assert leg["cipher"] == cipher, leg
    assert (leg["server_name"], leg["protocol"]) == (server_name, protocol), leg
    assert isinstance(leg["handshake_ms"], (int, float)) and 0 < leg["handshake_ms"] < 20_000, leg
    if peer is None:
        assert [leg[key] for key in ("peer_subject", "peer_names", "peer_fingerprint")] == [None] * 3, leg
    else:
        assert peer.subject in leg["peer_subject"], leg
        assert leg["peer_fingerprint"] == peer.fingerprint, leg
        assert leg["peer_names"] and re.fullmatch(r"(DNS|IP):\S+(, (DNS|IP):\S+)*", leg["peer_names"]), leg


def assert_refused(record, side, words):
    """A handshake that failed on one side, and why."""
    ended_by = record["ended_by"]
    assert (record["reason"], ended_by) == (f"{side}_handshake_failed", side), record
    assert record["error"] and re.search(words, record["error"], re.IGNORECASE), record["error"]
    assert (record["bytes_from_client"], record["bytes_from_target"]) == (0, 0), record


class Shared:
    """A bitflow that a module's cases use one after the other, each reading the record that it caused."""

    def __init__(self, env, *proxies, **settings):
        self.env = env
        self.addresses = {entry["name"]: entry["listener"]["address"] for entry in proxies}
        self.bitflow = env.start(*proxies, **settings)
        self.seen = set()

    def begin(self):
        """What connections that came before left behind is no longer waited for."""
        wait_for(lambda: not self.bitflow.busy_threads(), "the connections of earlier tests are over")
        self.seen = {record["id"] for record in self.bitflow.records()}

    def record(self, name):
        """The one new record of a proxy."""

        def new():
            return [
                record
                for record in self.bitflow.records()
                if record["id"] not in self.seen and record["proxy"] == name
            ]

        found = wait_for(new, lambda: f"a record of {name}; the log: {self.bitflow.stderr()[-3000:]}")
        assert len(found) == 1, found
        self.seen.add(found[0]["id"])
        return found[0]
