"""Handshakes with keys that other tests do not have (larger RSA keys, another exponent, P-521), and with many kinds at
once. The peers are other implementations, in both roles: whatever does the arithmetic under mbedTLS gets the same
results."""

import threading

import pytest

import certificates
import peers
import programs
import sockets
import tls_peers
import tls_raw
from environment import proxy
from tls_cases import Shared, assert_leg, tls_echo, tls_listener, tls_target
from tls_peers import VERSIONS
from waiting import scale, wait_for

KINDS = {
    "rsa2048": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "rsa4096": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"],
    "rsa2048-e3": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-pkeyopt", "rsa_keygen_pubexp:3"],
    "p256": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "p384": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
    "p521": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"],
}
# Each kind of key, group and version is in one of them; test_tls_arithmetic_handshake.c has all combinations.
CASES = pytest.mark.parametrize("version, kind, group", [
    ("TLSv1.2", "rsa4096", "X25519"),
    ("TLSv1.3", "rsa4096", "P-256"),
    ("TLSv1.2", "rsa2048-e3", "P-256"),
    ("TLSv1.3", "rsa2048-e3", "P-384"),
    ("TLSv1.2", "p256", "P-256"),
    ("TLSv1.3", "p384", "P-384"),
    ("TLSv1.2", "p521", "X25519"),
    ("TLSv1.3", "p521", "P-521"),
])
GNUTLS_GROUPS = {"X25519": "X25519", "P-256": "SECP256R1", "P-384": "SECP384R1", "P-521": "SECP521R1"}


class Keys:
    """A server's and a client's certificate for each kind of key, by one root."""

    def __init__(self, directory):
        root = certificates.Authority(directory, "kinds", "p384")
        self.authority = root.certificate
        self.servers, self.clients = {}, {}
        for kind, options in KINDS.items():
            key = directory / f"{kind}.key"
            certificates.openssl("genpkey", *options, "-out", key)
            self.servers[kind] = root.issue(key, f"{kind} server")
            self.clients[kind] = root.issue(key, f"{kind} client", "DNS:client.test", certificates.CLIENT)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return Keys(tmp_path_factory.mktemp("kinds"))


@pytest.fixture(scope="module")
def shared(module_env, keys):
    """For each kind of key, a proxy that asks clients for a certificate, and one that is a TLS client to the origin,
    where a test starts its server."""
    target = module_env.enter(peers.Server(tls_peers.echo_or_page)).address
    entries = [
        proxy(
            module_env.address(), target, name=kind,
            listener=tls_listener(identity.entry(authority=str(keys.authority)), verify_mode="relaxed"),
        )
        for kind, identity in keys.servers.items()
    ]
    origin = f"127.0.0.1:{sockets.free_port()}"
    entries += [
        proxy(module_env.address(), tls_target(origin, keys.authority, identity), name=f"to-{kind}")
        for kind, identity in keys.clients.items()
    ]
    found = Shared(module_env, *entries)
    found.origin = origin
    return found


# As a server


def offered(version, kind, group):
    """In TLS 1.2 the groups must have the certificate's curve, too (RFC 8422 5.1), and its issuer's."""
    needs_curves = version == "TLSv1.2" and kind[0] == "p"
    return ":".join(dict.fromkeys([group, "P-256", "P-384", "P-521"])) if needs_curves else group


def check(front, kind, version, identity):
    record = front.record(kind)
    assert record["reason"] == "completed", record
    assert_leg(record["client_tls"], version, server_name="server.test", peer=identity)


@CASES
def test_an_openssl_client_with_the_servers_kind_of_key_is_verified_and_served(front, keys, version, kind, group):
    more = ["-groups", offered(version, kind, group)]
    with tls_peers.openssl_client(
        front.addresses[kind], keys.authority, version=version, identity=keys.clients[kind], more=more
    ) as client:
        client.wait_said("Verify return code: 0 ")
        client.echoes(b"hello bitflow")
        assert client.end_input() == 0
    check(front, kind, version, keys.clients[kind])


@CASES
def test_a_gnutls_client_with_the_servers_kind_of_key_is_verified_and_served(front, keys, version, kind, group):
    groups = [GNUTLS_GROUPS[each] for each in offered(version, kind, group).split(":")]
    # gnutls-cli goes by the last priority string.
    priority = ":".join([tls_peers.gnutls_priority(version), "-GROUP-ALL", *(f"+GROUP-{each}" for each in groups)])
    with tls_peers.gnutls_client(
        front.addresses[kind], keys.authority, identity=keys.clients[kind], more=["--priority", priority]
    ) as client:
        client.wait_said("Handshake was completed")
        client.echoes(b"hello bitflow")
        assert client.end_input() == 0, client.text()
    check(front, kind, version, keys.clients[kind])


JAVA = """
import java.io.*; import java.net.*; import java.security.*; import javax.net.ssl.*;
public class Client {
    public static void main(String[] a) throws Exception {
        KeyStore trust = KeyStore.getInstance("PKCS12");
        try (InputStream in = new FileInputStream(a[0])) { trust.load(in, "changeit".toCharArray()); }
        TrustManagerFactory t = TrustManagerFactory.getInstance("PKIX"); t.init(trust);
        for (int i = 1; i + 3 < a.length; i += 4) {
            KeyStore own = KeyStore.getInstance("PKCS12");
            try (InputStream in = new FileInputStream(a[i + 2])) { own.load(in, "changeit".toCharArray()); }
            KeyManagerFactory k = KeyManagerFactory.getInstance("PKIX"); k.init(own, "changeit".toCharArray());
            SSLContext c = SSLContext.getInstance("TLS"); c.init(k.getKeyManagers(), t.getTrustManagers(), null);
            for (String version : a[i + 3].split(",")) {
                SSLSocket s = (SSLSocket) c.getSocketFactory().createSocket("127.0.0.1", Integer.parseInt(a[i + 1]));
                s.setEnabledProtocols(new String[] {version});
                s.getOutputStream().write("hello bitflow\\n".getBytes()); s.getOutputStream().flush();
                String got = new BufferedReader(new InputStreamReader(s.getInputStream())).readLine();
                System.out.println(a[i] + " " + version + " " + s.getSession().getProtocol() + " " + got);
                s.close();
            }
        }
    }
}
"""


# In TLS 1.2 Java signs by a key of P-521 with SHA-512 only, for which mbedTLS does not ask.
JAVA_CASES = {kind: VERSIONS if kind != "p521" else ("TLSv1.3",) for kind in KINDS}


def test_a_java_client_with_each_kind_of_key_is_verified_and_served(front, keys, tmp_path):
    (tmp_path / "Client.java").write_text(JAVA)
    trust = tmp_path / "trust.p12"
    programs.run(["keytool", "-importcert", "-noprompt", "-file", str(keys.authority), "-alias", "root", "-keystore",
                  str(trust), "-storetype", "PKCS12", "-storepass", "changeit"])
    arguments = []
    for kind, identity in keys.clients.items():
        store = tmp_path / f"{kind}.p12"
        certificates.openssl("pkcs12", "-export", "-inkey", identity.key, "-in", identity.certificate, "-out", store,
                             "-passout", "pass:changeit")
        port = tls_peers.host_and_port(front.addresses[kind])[1]
        arguments += [kind, port, str(store), ",".join(JAVA_CASES[kind])]
    done = programs.run(["java", str(tmp_path / "Client.java"), str(trust), *arguments])
    cases = [(kind, version) for kind, versions in JAVA_CASES.items() for version in versions]
    wanted = [f"{kind} {version} {version} hello bitflow" for kind, version in cases]
    assert done.stdout.splitlines() == wanted
    wait_for(lambda: len(front.bitflow.records()) >= len(front.seen) + len(wanted), "the records")
    new = [record for record in front.bitflow.records() if record["id"] not in front.seen]
    assert all(record["client_tls"]["peer_subject"] for record in new), new


# As a client


@CASES
def test_an_openssl_server_is_verified_and_verifies_the_same_kind_of_key(env, front, keys, version, kind, group):
    with tls_peers.Server(
        tls_peers.openssl_server_command(
            front.origin, keys.servers[kind], version, authority=keys.authority,
            more=["-rev", "-groups", offered(version, kind, group)],
        ),
        tls_peers.host_and_port(front.origin)[1],
    ):
        client = env.connect(front.addresses[f"to-{kind}"])
        client.sendall(b"hello\n")
        assert sockets.receive_exactly(client, 6) == b"olleh\n"
        client.close()
    record = front.record(f"to-{kind}")
    assert_leg(record["target_tls"], version, server_name="server.test", peer=keys.servers[kind])


# Many at once


def test_handshakes_with_all_kinds_of_keys_at_once_do_not_disturb_each_other(env, keys):
    """Though their threads share keys and groups."""
    target = env.serve(tls_echo(tls_raw.server_context(keys.servers["rsa2048"], authority=keys.authority)))
    kinds = ["rsa2048", "p256", "p384", "p521"]
    address = {kind: env.address() for kind in kinds}
    bitflow = env.start(*(
        proxy(address[kind], tls_target(target.address, keys.authority, keys.clients[kind]), name=kind,
              listener=tls_listener(keys.servers[kind].entry(authority=str(keys.authority)), verify_mode="strict"))
        for kind in kinds
    ))
    failures, each = [], scale(8, 2)

    def work(number):
        kind = kinds[number % len(kinds)]
        for turn in range(each):
            version = VERSIONS[turn % 2]
            context = tls_raw.client_context(keys.authority, keys.clients[kind], version)
            try:
                end = tls_raw.Tls(sockets.connect(address[kind]), context, server_name="server.test").handshake()
                end.round_trip(b"%d" % number * 1000)
                end.close()
            except Exception as error:  # asserted below
                failures.append((kind, version, error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures, failures[:3]
    assert {record["reason"] for record in bitflow.wait_records(12 * each)} == {"completed"}
