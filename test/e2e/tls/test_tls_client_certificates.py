"""A listener's verify_mode: which client certificates are asked for, accepted and refused, what the client is told, and
what the connection log says."""

import dataclasses
import re

import pytest

import certificates
import peers
import tls_peers
import tls_raw
from environment import proxy
from tls_cases import ALERTS, WORDS, Shared, assert_leg, assert_refused, tls_client, tls_listener
from tls_peers import VERSIONS

MODES = ["none", "relaxed", "strict"]
BAD = ["stranger", "expired", "not yet valid", "wrong usage", "revoked"]
SENT = ["none sent", "good", *BAD]


def is_welcome(mode, sent):
    return mode == "none" or sent == "good" or (mode, sent) == ("relaxed", "none sent")


@pytest.fixture(scope="module")
def shared(module_env, pki):
    target = module_env.enter(peers.Server(tls_peers.echo_or_page)).address
    checked = pki.server.entry(authority=str(pki.trusted), revocation_list=str(pki.revocation_list))
    return Shared(
        module_env,
        *(
            proxy(module_env.address(), target, name=mode, listener=tls_listener(checked, verify_mode=mode))
            for mode in MODES
        ),
    )


def identity(pki, sent):
    return {"none sent": None, "good": pki.client, **pki.bad_clients}[sent]


def check(front, pki, mode, sent, version):
    record = front.record(mode)
    if not is_welcome(mode, sent):
        assert_refused(record, "client", WORDS[sent])
        assert record["sni"] == "server.test"
        assert record["target"] is None, "the target was dialled for a client that was refused"
        return
    assert record["reason"] == "completed", record
    verified = mode != "none" and sent == "good"
    assert_leg(record["client_tls"], version, None, "server.test", peer=pki.client if verified else None)
    if verified:
        assert record["client_tls"]["peer_names"] == "DNS:client.test, IP:192.0.2.7"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("sent", SENT)
@pytest.mark.parametrize("mode", MODES)
def test_python_gets_in_only_with_what_the_mode_allows(env, front, pki, mode, sent, version):
    context = tls_raw.client_context(pki.trusted, identity(pki, sent), version)
    address = front.addresses[mode]
    if is_welcome(mode, sent):
        client = tls_client(env, address, context)
        client.round_trip()
        client.close()
    else:
        end = tls_raw.Tls(env.connect(address), context, server_name="server.test")
        assert tls_raw.refusal(end) in ALERTS[sent]
    check(front, pki, mode, sent, version)


OPENSSL_ALERTS = {
    "none sent": "certificate required|handshake failure|no certificate|bad certificate",
    "stranger": "unknown ca",
    "expired": "certificate expired",
    "not yet valid": "certificate expired|bad certificate|certificate unknown",
    "wrong usage": "unsupported certificate|bad certificate|certificate unknown",
    "revoked": "certificate revoked",
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("sent", SENT)
@pytest.mark.parametrize("mode", MODES)
def test_openssl_gets_in_only_with_what_the_mode_allows(front, pki, mode, sent, version):
    address, own = front.addresses[mode], identity(pki, sent)
    with tls_peers.openssl_client(address, pki.trusted, version=version, identity=own) as client:
        if is_welcome(mode, sent):
            client.wait_said("Verify return code: 0 ")
            client.echoes(b"hello bitflow")
            assert client.end_input() == 0
        else:
            client.wait_said(f"alert ({OPENSSL_ALERTS[sent]})")
            assert client.wait_ended() != 0
        assert ("Requested Signature Algorithms" in client.text()) == (mode != "none"), client.text()
        if version == "TLSv1.2":  # optional in 1.3, where mbedTLS names none
            assert ("No client certificate CA names sent" in client.text()) == (mode == "none")
    check(front, pki, mode, sent, version)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("sent", SENT)
def test_gnutls_gets_in_only_with_a_good_certificate(front, pki, sent, version):
    # gnutls-cli sends no certificate whose issuer is not among those that the server names.
    words = f"{WORDS[sent]}|{WORDS['none sent']}" if sent == "stranger" else WORDS.get(sent)
    own = identity(pki, sent)
    with tls_peers.gnutls_client(
        front.addresses["strict"], pki.trusted, version=version, identity=own
    ) as client:
        if sent == "good":
            client.wait_said("Handshake was completed")
            client.echoes(b"hello bitflow")
            assert client.end_input() == 0
            check(front, pki, "strict", sent, version)
        else:
            client.wait_said(r"Received alert \[\d+\]")
            assert client.wait_ended() != 0
            assert_refused(front.record("strict"), "client", words)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("sent", SENT)
@pytest.mark.parametrize("mode", ["relaxed", "strict"])
def test_curl_gets_in_only_with_what_the_mode_allows(front, pki, mode, sent, version):
    done = tls_peers.curl(front.addresses[mode], pki.trusted, version=version, identity=identity(pki, sent))
    if is_welcome(mode, sent):
        assert (done.returncode, done.stdout) == (0, "hello bitflow\n"), done.stderr
    else:
        # It sends its request before it is told, so a reset may overtake the alert. Any "certificate expired" is
        # 60 to it, even if it is its own that has expired.
        statuses = (35, 55, 56, 60) if sent == "expired" else (35, 55, 56)
        assert done.returncode in statuses and done.stdout == "", done
    check(front, pki, mode, sent, version)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", ["relaxed", "strict"])
@pytest.mark.parametrize("kind", ["rsa", "p384 by an intermediate"])
def test_client_certificates_of_other_kinds_are_accepted(env, front, pki, mode, kind, version):
    own = pki.rsa_client if kind == "rsa" else pki.middle_client
    client = tls_client(env, front.addresses[mode], tls_raw.client_context(pki.trusted, own, version))
    client.round_trip()
    client.close()
    record = front.record(mode)
    assert_leg(record["client_tls"], version, server_name="server.test", peer=own)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", ["relaxed", "strict"])
def test_a_chain_without_its_intermediate_is_refused(env, front, pki, mode, version):
    own = pki.middle_client.copy(env.directory)
    text = own.certificate.read_text()
    own.certificate.write_text(text[: text.index("-----BEGIN", 10)])
    context = tls_raw.client_context(pki.trusted, own, version)
    end = tls_raw.Tls(env.connect(front.addresses[mode]), context, server_name="server.test")
    assert tls_raw.refusal(end) in ALERTS["stranger"]
    assert_refused(front.record(mode), "client", WORDS["stranger"])


@pytest.mark.parametrize("version", VERSIONS)
def test_extended_key_usage_may_be_missing(env, front, pki, version):
    """A certificate without the extension is good for every use."""
    own = pki.root.issue(pki.second_key, "any use", "DNS:client.test", usage=None)
    client = tls_client(env, front.addresses["strict"], tls_raw.client_context(pki.trusted, own, version))
    client.round_trip()
    client.close()
    assert front.record("strict")["reason"] == "completed"


def be_refused_with_a_stolen_certificate(env, front, pki, mode, version):
    """A client that has a certificate but not its key signs the handshake with another. Returns what it was told, and
    the record."""
    stolen = dataclasses.replace(pki.client, key=env.directory / "forged.key")
    certificates.forge_key(stolen.key, pki.client.key, signer=pki.keys["p256"])
    context = tls_raw.client_context(pki.trusted, stolen, version)
    end = tls_raw.Tls(env.connect(front.addresses[mode]), context, server_name="server.test")
    return tls_raw.refusal(end), front.record(mode)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", ["relaxed", "strict"])
def test_a_stolen_certificate_is_refused_and_its_subject_is_not_recorded(env, front, pki, mode, version):
    _, record = be_refused_with_a_stolen_certificate(env, front, pki, mode, version)
    assert_refused(record, "client", ".")
    assert record["target"] is None, "the target was dialled for a client that was refused"
    assert record["client_tls"]["peer_subject"] is None, "a subject that the client has not proven to be"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_record_of_a_stolen_certificate_blames_the_signature_in_words(env, front, pki, version):
    _, record = be_refused_with_a_stolen_certificate(env, front, pki, "strict", version)
    assert re.search("signature", record["error"]) and not re.search(r"0x|ECP|suite", record["error"])


@pytest.mark.parametrize("version", VERSIONS)
def test_the_sender_of_a_stolen_certificate_is_told_by_a_fitting_alert(env, front, pki, version):
    told, _ = be_refused_with_a_stolen_certificate(env, front, pki, "strict", version)
    assert told in {"decrypt_error", "bad_certificate", "handshake_failure"}


def test_an_expired_revocation_list_lets_nobody_in(env, pki):
    """It cannot tell who is revoked."""
    echo, address = env.echo(), env.address()
    entry = pki.server.entry(authority=str(pki.trusted), revocation_list=str(pki.stale_list))
    bitflow = env.start(proxy(address, echo.address, listener=tls_listener(entry, verify_mode="strict")))
    context = tls_raw.client_context(pki.trusted, pki.client)
    assert tls_raw.refusal(tls_raw.Tls(env.connect(address), context, server_name="server.test"))
    assert_refused(bitflow.wait_records(1)[0], "client", "revocation list|CRL")


def test_renamed_subject_cannot_forge_a_log_line(env, pki):
    """A subject with quotes, line ends and escapes stays one JSON string."""
    name = 'evil", "reason": "completed\\n'
    own = pki.root.issue(pki.second_key, name.replace("/", ""), "DNS:client.test", "clientAuth")
    echo, address = env.echo(), env.address()
    entry = pki.server.entry(authority=str(pki.trusted))
    bitflow = env.start(
        proxy(address, echo.address, listener=tls_listener(entry, verify_mode="strict")), level="debug"
    )
    client = tls_client(env, address, tls_raw.client_context(pki.trusted, own))
    client.round_trip()
    client.close()
    record = bitflow.wait_records(1)[0]
    assert "evil" in record["client_tls"]["peer_subject"]
    bitflow.log_lines()
