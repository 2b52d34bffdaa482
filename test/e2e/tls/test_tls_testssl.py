"""What testssl.sh finds at a listener: nothing but what the test's own certificate and target are to blame for."""

import json
import os
import subprocess

import pytest

import bitflow_process
import programs
import tls_peers
import waiting
from environment import proxy
from tls_cases import tls_listener
from waiting import IS_NIGHTLY, pace

# It reads "client's order" as a fault of TLS 1.2, since a client might put weak suites first; here there are none.
BY_DECISION = {"cipher_order"}
# The certificate is issued by an authority of the test's, is short-lived, and says nothing of revocation.
OF_THE_CERTIFICATE = {"cert_chain_of_trust", "cert_revocation", "cert_expirationStatus", "cert_trust", "DNS_CAArecord"}
# What is behind the listener, and the machine that testssl.sh runs on.
OF_OTHERS = {"HSTS", "security_headers", "engine_problem", "scanTime"}
FINE = {"OK", "INFO", "DEBUG"}
# Protocols, and what a flaw in the TLS stack itself would show: Heartbleed, CCS, Ticketbleed, renegotiation,
# compression.
CHECKS = ["--protocols", "-H", "-I", "-T", "-R", "-C"]


def findings(address, directory, checks, timeout):
    path = directory / "findings.json"
    command = [programs.find("testssl"), "--quiet", "--warnings", "off", "--color", "0", "--nodns", "none"]
    command += ["--connect-timeout", "20", "--openssl-timeout", "60", "--jsonfile", str(path), *checks, address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as run:
        try:
            said = run.communicate(timeout=timeout * pace())[0].decode(errors="replace")
        finally:
            if run.poll() is None:
                os.killpg(run.pid, 9)
    found = json.loads(path.read_text())
    assert len(found) > 10, said[-3000:]
    return found


@pytest.fixture(autouse=True)
def is_what_users_have():
    """A scan is hundreds of handshakes; what they do inside is looked at by other tests."""
    bitflow_process.note_sanitizer()
    if waiting.SANITIZED:
        pytest.skip("a scan shows nothing of a sanitizer's build")


ONLY_NIGHTLY = pytest.mark.skipif(not IS_NIGHTLY, reason="BITFLOW_NIGHTLY is not 1")


@pytest.mark.parametrize("checks, timeout", [
    pytest.param(CHECKS, 600, id="the stack"),
    pytest.param([], 3600, id="everything", marks=ONLY_NIGHTLY),
])
def test_testssl_finds_nothing(env, pki, checks, timeout):
    target = env.serve(tls_peers.echo_or_page)
    address = env.address()
    bitflow = env.start(proxy(address, target.address, listener=tls_listener(pki.servers["rsa"], pki.server)))
    found = findings(address, env.directory, checks, timeout)
    accepted = BY_DECISION | OF_THE_CERTIFICATE | OF_OTHERS
    bad = [each for each in found if each["severity"] not in FINE and each["id"].split(" ")[0] not in accepted]
    assert not bad, bad
    seen = {each["id"]: each["finding"] for each in found}
    for version in ("SSLv2", "SSLv3", "TLS1", "TLS1_1"):
        assert seen[version].startswith("not offered"), seen[version]
    for version in ("TLS1_2", "TLS1_3"):
        assert seen[version].startswith("offered"), seen[version]
    assert bitflow.process.poll() is None
