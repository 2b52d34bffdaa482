"""Certificate messages that are made to hurt: garbage, emptiness, hundreds of certificates, keys and names without
measure, paths that branch at every step. Each is refused by an alert and in words, for little CPU; nobody else
notices."""

import re
import ssl

import pytest

import chains
import needs
import sockets
import tls_raw
from environment import proxy
from tls_cases import tls_client, tls_listener, tls_target
from tls_peers import VERSIONS
from waiting import pace

UNREADABLE = "decryption_failed_or_bad_record_mac"
# For one refusal, the honest part of the handshake included.
CPU_SECONDS = 0.1


class Front:
    """A listener and a target that ask for certificates."""

    def __init__(self, env, pki, anchor):
        self.env, self.pki, self.listener = env, pki, env.listen()
        authority = env.write(anchor + pki.root.certificate.read_text(), "authority.pem")
        self.addresses = {role: env.address() for role in chains.ROLES}
        entry = pki.server.entry(authority=str(authority))
        listener = tls_listener(entry, verify_mode="strict")
        self.bitflow = env.start(
            proxy(self.addresses[chains.LISTENER], env.echo().address, name="l", listener=listener),
            proxy(self.addresses[chains.TARGET], tls_target(self.listener.address, authority), name="t"),
        )

    def honest(self, role, version):
        """What a round trip through an honest connection is."""
        if role == chains.LISTENER:
            context = tls_raw.client_context(identity=self.pki.client, version=version)
            return tls_client(self.env, self.addresses[role], context).round_trip
        client = self.env.connect(self.addresses[role])
        context = tls_raw.server_context(self.pki.server, version=version)
        server = tls_raw.Tls(self.listener.accept(), context, server_side=True).handshake()

        def round_trip():
            client.sendall(b"hello")
            assert server.read_exactly(5) == b"hello"

        return round_trip

    def refusal(self, role, version, body):
        """(how, CPU seconds, record) of a peer with such a Certificate message."""
        import tls_splice

        is_server = role == chains.TARGET
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
        own = self.pki.server if is_server else self.pki.client
        tls_splice.splicing(context, version).load_cert_chain(own.certificate, own.key)
        count, before = len(self.bitflow.records()), self.bitflow.cpu_seconds()
        with sockets.connect(self.addresses[role]) as sock:
            connection = self.listener.accept() if is_server else sock
            end = tls_splice.Spliced(connection, context, body, self.env.directory, is_server)
            how = tls_raw.refusal(end)
            connection.close()
            record = self.bitflow.wait_records(count + 1)[-1]
        return how, self.bitflow.cpu_seconds() - before, record


@pytest.fixture(scope="module")
def front(module_env, pki):
    needs.CRYPTOGRAPHY.need()
    import hostile_chains

    return Front(module_env, pki, hostile_chains.ANCHOR.pem)


def complaints(side, version, words, how, spent, record):
    """What is wrong with a refusal."""
    error = record["error"] or ""
    # In TLS 1.3 mbedTLS as a server protects the alerts that it sends itself by the keys that its client is past.
    is_unreadable = how == UNREADABLE and (side, version) != ("client", "TLSv1.3")
    if how in ("cut", "reset", "close_notify") or is_unreadable:
        yield f"no alert, but {how}: {error}"
    if record["reason"] != f"{side}_handshake_failed":
        yield f"it ended as {record['reason']}: {error}"
    elif chains.RAW.search(error) or not re.search(words, error, re.IGNORECASE):
        yield f"in other words: {error}"
    if spent > CPU_SECONDS * pace():
        yield f"{spent:.2f} s of CPU"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", chains.ROLES)
def test_each_is_refused_cheaply_while_others_go_on(front, role, version):
    import hostile_chains

    bystander, wrong = front.honest(role, version), []
    side = "client" if role == chains.LISTENER else "target"
    for what, (body, words) in hostile_chains.cases(version).items():
        refusal = front.refusal(role, version, body)
        bystander()
        wrong += [f"{what}: {complaint}" for complaint in complaints(side, version, words, *refusal)]
    assert not wrong, "\n".join(wrong)
    front.honest(role, version)()
