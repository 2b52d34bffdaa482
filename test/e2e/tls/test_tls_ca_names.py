"""The names of the authorities that a listener asks clients for certificates of. TLS 1.2's request has room for some
16 KiB of them: a list that does not fit is not cut, but left empty, which stands for any authority. In 1.3 none is
sent.
Peers: OpenSSL, GnuTLS, Java."""

import re

import pytest

import certificates
import peers
import programs
import tls_peers
from environment import proxy
from tls_cases import Shared, assert_leg, tls_listener
from tls_peers import VERSIONS

MODES = ("relaxed", "strict")
MANY = 200
# What is left of 16 KiB for the names: a message's header; two kinds of certificates, four signature algorithms, and
# the length of each of these lists.
ROOM = 16384 - 4 - (1 + 2) - (2 + 4 * 2) - 2
NAMES_SENT = r"Acceptable client certificate CA names\n"
NO_NAMES = "No client certificate CA names sent"


def make_authority(directory, key, subject):
    """A self-signed certificate."""
    path = directory / f"{abs(hash(subject)):x}.pem"
    certificates.openssl("req", "-x509", "-new", "-key", key, "-subj", subject, "-days", 30, "-out", path)
    return path.read_text()


def name_size(certificate):
    """Of a subject as it is sent: 2 bytes of length, and its DER."""
    listing = certificates.openssl("asn1parse", "-in", certificate)
    # The fifth field of the certificate (RFC 5280 4.1): all of depth 2 but for the version's and serial number's parts.
    fields = re.findall(r"d=2 +hl=(\d+) l= *(\d+) cons: SEQUENCE", listing)
    header, length = map(int, fields[3])
    return 2 + header + length


class Bundles:
    def __init__(self, directory, pki):
        self.directory, self.key = directory, pki.second_key
        self.own = pki.root.certificate.read_text()
        self.own_size = name_size(pki.root.certificate)
        self.many = self.write("many", [self.authority(f"authority number {number}") for number in range(MANY)])
        self.full = self.filled("full", ROOM)
        self.over = self.filled("over", ROOM + 1)

    def authority(self, name, units=1, padding=1):
        parts = "".join(f"/OU={number:02}{'x' * 58}" for number in range(units))
        return make_authority(self.directory, self.key, f"/O=bitflow/L={'l' * padding}{parts}/CN={name}")

    def write(self, name, others):
        """The clients' own authority comes last: a list that is cut lacks it."""
        path = self.directory / f"{name}.crt"
        path.write_text("".join([*others, self.own]))
        return path

    def size_of(self, text):
        (self.directory / "one").write_text(text)
        return name_size(self.directory / "one")

    def filled(self, name, size):
        """A bundle whose names take this many bytes."""
        big = self.authority("a", units=8)
        each = self.size_of(big)
        count, rest = divmod(size - self.own_size, each)
        if rest < 150:  # too little for another name
            count, rest = count - 1, rest + each
        units = (rest - 70) // 71
        padding, last = 1, self.authority("b", units)
        for _ in range(2):  # the header may grow with it
            padding += rest - self.size_of(last)
            last = self.authority("b", units, padding)
        assert count * each + self.size_of(last) + self.own_size == size
        return self.write(name, [big] * count + [last])


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, pki):
    return Bundles(tmp_path_factory.mktemp("names"), pki)


@pytest.fixture(scope="module")
def shared(module_env, pki, bundles):
    """Each bundle as the authority of the certificate that is asked for, and as the one of the whole context."""
    target = module_env.enter(peers.Server(tls_peers.echo_or_page)).address
    listeners = {
        f"{bundle}, {mode}, own": tls_listener(
            pki.server.entry(authority=str(getattr(bundles, bundle))), verify_mode=mode
        )
        for bundle in ("many", "full", "over")
        for mode in MODES
    }
    listeners |= {
        f"{bundle}, relaxed, shared": tls_listener(
            pki.server, {"authority": str(getattr(bundles, bundle))}, verify_mode="relaxed"
        )
        for bundle in ("many", "full", "over")
    }
    return Shared(module_env, *(
        proxy(module_env.address(), target, name=name, listener=listener) for name, listener in listeners.items()
    ))


@pytest.mark.parametrize("whose", ["own", "shared"])
@pytest.mark.parametrize("bundle, names", [("full", NAMES_SENT), ("over", NO_NAMES), ("many", NO_NAMES)])
def test_openssl_is_sent_all_names_or_none(front, pki, bundles, bundle, names, whose):
    address = front.addresses[f"{bundle}, relaxed, {whose}"]
    with tls_peers.openssl_client(address, version="TLSv1.2", identity=pki.client) as client:
        client.wait_said(names)
        client.echoes(b"hello bitflow")
        said = client.text()
    if names == NAMES_SENT:
        listed = said[said.index("CA names\n") + len("CA names\n"):]
        listed = listed[: listed.index("Client Certificate Types")].splitlines()
        assert len(listed) == getattr(bundles, bundle).read_text().count("-----BEGIN"), listed
        assert "CN = root authority" in listed[-1]
    assert front.record(f"{bundle}, relaxed, {whose}")["client_tls"]["peer_fingerprint"] == pki.client.fingerprint


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bundle", ["full", "many"])
def test_in_tls_1_3_no_names_are_sent(front, pki, bundle, mode):
    address = front.addresses[f"{bundle}, {mode}, own"]
    with tls_peers.openssl_client(address, version="TLSv1.3", identity=pki.client) as client:
        client.wait_said(NO_NAMES)
        client.echoes(b"hello bitflow")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bundle", ["many", "full", "over"])
def test_a_gnutls_client_finds_its_certificate(front, pki, bundle, mode, version):
    name = f"{bundle}, {mode}, own"
    with tls_peers.gnutls_client(front.addresses[name], version=version, identity=pki.client) as client:
        client.wait_said("Handshake was completed")
        client.echoes(b"hello bitflow")
        assert client.end_input() == 0, client.text()
    assert_leg(front.record(name)["client_tls"], version, server_name="server.test", peer=pki.client)


JAVA = """
import java.io.*; import java.security.*; import java.security.cert.X509Certificate; import javax.net.ssl.*;
public class Client {
    public static void main(String[] a) throws Exception {
        TrustManager any = new X509TrustManager() {
            public void checkClientTrusted(X509Certificate[] c, String s) { }
            public void checkServerTrusted(X509Certificate[] c, String s) { }
            public X509Certificate[] getAcceptedIssuers() { return new X509Certificate[0]; }
        };
        KeyStore own = KeyStore.getInstance("PKCS12");
        try (InputStream in = new FileInputStream(a[0])) { own.load(in, "changeit".toCharArray()); }
        KeyManagerFactory k = KeyManagerFactory.getInstance("PKIX"); k.init(own, "changeit".toCharArray());
        SSLContext c = SSLContext.getInstance("TLS"); c.init(k.getKeyManagers(), new TrustManager[] {any}, null);
        for (int i = 1; i < a.length; i++)
            for (String version : new String[] {"TLSv1.2", "TLSv1.3"}) {
                SSLSocket s = (SSLSocket) c.getSocketFactory().createSocket("127.0.0.1", Integer.parseInt(a[i]));
                s.setEnabledProtocols(new String[] {version});
                s.getOutputStream().write("hello bitflow\\n".getBytes()); s.getOutputStream().flush();
                System.out.println(new BufferedReader(new InputStreamReader(s.getInputStream())).readLine());
                s.close();
            }
    }
}
"""


def test_a_java_client_finds_its_certificate(front, pki, tmp_path):
    (tmp_path / "Client.java").write_text(JAVA)
    store = tmp_path / "own.p12"
    certificates.openssl("pkcs12", "-export", "-inkey", pki.client.key, "-in", pki.client.certificate, "-out", store,
                         "-passout", "pass:changeit")
    names = [f"{bundle}, {mode}, own" for bundle in ("many", "full", "over") for mode in MODES]
    ports = [tls_peers.host_and_port(front.addresses[name])[1] for name in names]
    before = len(front.bitflow.records())
    done = programs.run(["java", str(tmp_path / "Client.java"), str(store), *ports])
    assert done.stdout.splitlines() == ["hello bitflow"] * 2 * len(names)
    records = front.bitflow.wait_records(before + 2 * len(names))[before:]
    assert {record["client_tls"]["peer_fingerprint"] for record in records} == {pki.client.fingerprint}
