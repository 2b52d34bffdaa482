"""The policy in openssl.cnf: a file that cannot be used ends the start, a cipher or a group that it leaves out is not
offered."""

import signal

import pytest

import bitflow_process
import compiled
import sockets
import tls_peers
from environment import proxy
from launches import traced
from tls_cases import assert_leg, tls_client, tls_listener, tls_target
from tls_peers import VERSIONS
from waiting import wait_for

pytestmark = pytest.mark.skipif(
    b"EVP_CIPHER_fetch" not in bitflow_process.binary().read_bytes(), reason="built without libcrypto"
)
BEGIN = "openssl_conf = main\n[main]\n"
LEFT_OUT = [
    "libcrypto has no ChaCha20-Poly1305 (is its configuration limiting it?): the cipher suites with it are not offered",
    "libcrypto has no X25519 (is its configuration limiting it?): the group is not offered",
]


def policy(env, text):
    return {"OPENSSL_CONF": str(env.write(text, "openssl.cnf"))}


def one_proxy(env, pki):
    return env.config(proxy(env.address(), env.refusing(), listener=tls_listener(pki.server)))


@pytest.mark.parametrize("more", [["--check"], []], ids=["check", "start"])
@pytest.mark.parametrize("text, words", [
    ("openssl_conf = main\n[main\n", "missing close square bracket"),
    ("openssl_conf = main\n", "missing section"),
    (BEGIN + "providers = none\n", "provider section error"),
    (BEGIN + "alg_section = these\n[these]\nnonsense = yes\n", "unknown option"),
    (BEGIN + "nonsense = these\n[these]\na = b\n", "could not load the shared library"),
    (BEGIN + "engines = these\n[these]\nx = it\n[it]\ndynamic_path = /nowhere/x.so\ninit = 1\n",
     "could not load the shared library"),
    ("\x01\x1b[31m no = \x7f\n[", "missing equal sign"),
], ids=["a bracket", "no section", "no providers", "an option", "a module", "an engine", "control characters"])
def test_a_file_that_cannot_be_used_ends_the_start(env, pki, text, words, more):
    environment = policy(env, text)
    done = bitflow_process.run(*more, "--config", one_proxy(env, pki), environment=environment)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"bitflow: libcrypto cannot use its configuration {environment['OPENSSL_CONF']}: "), line
    assert words in line and line.isprintable()


def test_a_file_that_is_configured_but_missing_fails_the_check(env, pki):
    environment = {"OPENSSL_CONF": str(env.directory / "nowhere.cnf")}
    done = bitflow_process.run("--check", "--config", one_proxy(env, pki), environment=environment)
    assert done.returncode == 1 and "nowhere.cnf: No such file" in done.stderr


@pytest.mark.parametrize("value", ["", "/dev/null"], ids=["no name", "an empty file"])
def test_an_empty_policy_is_accepted_without_a_word(env, pki, value):
    done = bitflow_process.run("--check", "--config", one_proxy(env, pki), environment={"OPENSSL_CONF": value})
    assert done.returncode == 0 and "libcrypto" not in done.stderr


@pytest.mark.parametrize("text", [
    BEGIN + "alg_section = these\n[these]\ndefault_properties = fips=yes\n",  # and no provider that is
    BEGIN + "providers = these\n[these]\nbase = it\n[it]\nactivate = 1\n",
    BEGIN + "providers = these\n[these]\nnull = it\n[it]\nactivate = 1\n",
    BEGIN + "providers = these\n[these]\nx = it\n[it]\nmodule = /nowhere/x.so\nactivate = 1\n",
], ids=["fips", "no provider", "the null provider", "a provider that is not there"])
@pytest.mark.parametrize("has_tls", [True, False], ids=["TLS", "plain"])
def test_a_policy_that_leaves_no_cipher_ends_the_start(env, pki, text, has_tls):
    config = one_proxy(env, pki) if has_tls else env.config(proxy(env.address(), env.refusing()))
    for more in (["--check"], []):
        done = bitflow_process.run(*more, "--config", config, environment=policy(env, text))
        assert done.returncode == 1
        assert done.stderr.startswith("bitflow: there is no cipher to protect TLS records with: "), done


LIBSSL = BEGIN + "ssl_conf = these\n[these]\nsystem_default = all\n[all]\n"


@pytest.mark.parametrize("text", [
    LIBSSL + "MinProtocol = TLSv1.3\n",
    LIBSSL + "CipherString = DEFAULT@SECLEVEL=5\n",
    BEGIN + "providers = these\n[these]\ndefault = it\nnonsense = it\n[it]\nactivate = 1\n",
], ids=["libssl's minimum", "libssl's level", "a provider too many"])
def test_settings_of_libssl_and_spare_providers_change_nothing(env, pki, text):
    """The peers are other processes, to which the policy does not apply."""
    address = env.address()
    config = env.config(proxy(address, env.echo().address, listener=tls_listener(pki.server)))
    bitflow = env.launch(config, environment=policy(env, text))
    bitflow.wait_listening(["front"])
    for version in VERSIONS:
        for suite in tls_peers.suites(version, "p256"):
            with tls_peers.openssl_client(address, pki.trusted, version=version, suite=suite) as client:
                client.echoes(b"hello")
    assert "libcrypto" not in bitflow.stderr()


def test_the_file_is_not_read_again_after_the_start(env, pki):
    """Before the first connection; a reload does not read it again."""
    environment, address = policy(env, ""), env.address()
    bitflow = env.start(
        proxy(address, env.echo().address, listener=tls_listener(pki.server)), environment=environment
    )
    policy(env, "openssl_conf = nowhere\n")
    tls_client(env, address).round_trip()
    bitflow.signal(signal.SIGHUP)
    wait_for(lambda: "msg=reloaded" in bitflow.stderr(), lambda: bitflow.stderr())
    tls_client(env, address).round_trip()


def test_the_file_is_read_before_the_first_listener_opens(env, pki, monkeypatch):
    environment, trace = policy(env, ""), env.directory / "trace.txt"
    config = env.config(proxy(env.address(), env.refusing(), listener=tls_listener(pki.server)))
    with traced(env, monkeypatch, "-e", "trace=openat,listen", "-o", trace):
        bitflow = env.launch(config, environment=environment)
    bitflow.wait_listening(["front"])
    lines = wait_for(lambda: "listen(" in trace.read_text() and trace.read_text().splitlines(), "the trace")
    opened = [at for at, line in enumerate(lines) if environment["OPENSSL_CONF"] in line]
    assert opened and opened[-1] < next(at for at, line in enumerate(lines) if "listen(" in line), lines


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    return compiled.shared_object("limiting_provider", tmp_path_factory.mktemp("provider"), "crypto")


@pytest.fixture
def limited(env, provider):
    return policy(env, BEGIN + f"providers = these\n[these]\nmine = it\n[it]\nmodule = {provider}\nactivate = 1\n")


def test_what_a_policy_leaves_out_is_a_warning(env, pki, limited):
    path = one_proxy(env, pki)
    done = bitflow_process.run("--check", "--config", path, environment=limited)
    assert done.returncode == 0
    told = [line for line in done.stderr.splitlines() if "libcrypto" in line]
    assert told == [f"bitflow: warning: {text}" for text in LEFT_OUT]
    bitflow = env.launch(path, environment=limited)
    bitflow.wait_listening(["front"])
    warnings = [line["msg"] for line in bitflow.log_lines(True) if line["level"] == "warn"]
    assert [text for text in warnings if "libcrypto" in text] == LEFT_OUT


@pytest.mark.parametrize("version", VERSIONS)
def test_a_listener_does_not_accept_a_suite_that_is_left_out(env, pki, limited, version):
    address = env.address()
    env.start(proxy(address, env.echo().address, listener=tls_listener(pki.server)), environment=limited)
    *others, foreign = tls_peers.suites(version, "p256")
    with tls_peers.openssl_client(address, version=version, suite=foreign) as client:
        client.wait_said("alert handshake failure")
    for suite in others:
        with tls_peers.openssl_client(address, pki.trusted, version=version, suite=suite) as client:
            client.echoes(b"hello")
    # A client that offers all of them gets another one.
    tls_client(env, address).round_trip()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_target_is_not_offered_a_suite_that_is_left_out(env, pki, limited, version):
    back, front = env.address(), env.address()
    bitflow = env.start(proxy(front, tls_target(back, pki.trusted)), environment=limited)
    *others, foreign = tls_peers.suites(version, "p256")
    for suite in others:
        with tls_peers.openssl_server(back, pki.server, version=version, suite=suite):
            client = env.connect(front)
            client.sendall(b"hello\n")
            assert sockets.receive_exactly(client, 6) == b"olleh\n"
            client.close()
    assert_leg(bitflow.wait_records(len(others))[-1]["target_tls"], version, others[-1], "server.test", peer=pki.server)
    with tls_peers.openssl_server(back, pki.server, version=version, suite=foreign):
        sockets.was_rejected(env.connect(front))
    record = bitflow.wait_records(len(others) + 1)[-1]
    assert record["reason"] == "target_handshake_failed" and "nothing acceptable in our offer" in record["error"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_listener_does_not_accept_x25519_if_it_is_left_out(env, pki, limited, version):
    address = env.address()
    env.start(proxy(address, env.echo().address, listener=tls_listener(pki.server)), environment=limited)
    with tls_peers.openssl_client(address, version=version, more=("-groups", "X25519")) as client:
        client.wait_said("alert handshake failure")
    for groups in ("P-256", "P-384:P-256", "X25519:P-256"):  # the last one by a HelloRetryRequest in 1.3
        with tls_peers.openssl_client(address, pki.trusted, version=version, more=("-groups", groups)) as client:
            client.echoes(b"hello")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_target_is_not_offered_x25519_if_it_is_left_out(env, pki, limited, version):
    back, front = env.address(), env.address()
    bitflow = env.start(proxy(front, tls_target(back, pki.trusted)), environment=limited)
    with tls_peers.openssl_server(back, pki.server, version=version, more=("-groups", "X25519")):
        sockets.was_rejected(env.connect(front))
    (record,) = bitflow.wait_records(1)
    assert record["reason"] == "target_handshake_failed" and "nothing acceptable in our offer" in record["error"]
    with tls_peers.openssl_server(back, pki.server, version=version, more=("-groups", "P-256")):
        client = env.connect(front)
        client.sendall(b"hello\n")
        assert sockets.receive_exactly(client, 6) == b"olleh\n"
