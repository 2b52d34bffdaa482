"""Certificates, keys and authorities as files: --check, reload by SIGHUP. What a listener offers to sslscan. Limits of
the handshake. Peers: OpenSSL, sslscan, Python's ssl."""

import os
import re
import ssl
import xml.etree.ElementTree

import pytest

import bitflow_process
import configs
import programs
import sockets
import tls_peers
import tls_raw
from environment import proxy
from tls_cases import NOT_TLS, tls_client, tls_echo, tls_listener, tls_target
from waiting import Stopwatch, wait_for


def check(env, *proxies):
    path = env.config(*proxies)
    done = bitflow_process.run("--check", "--config", path)
    return done.returncode, done.stderr.splitlines(), path


def assert_problem(lines, path, key, words):
    found = [line for line in lines if f" {key}: " in line and re.search(words, line)]
    assert found and re.match(rf"{re.escape(str(path))}:\d+:\d+: ", found[0]), "\n".join(lines)
    assert configs.LINE.match(found[0])


def test_every_problem_is_told_at_its_place(env, pki):
    directory = env.directory
    (directory / "text").write_text("no PEM at all\n")
    os.mkfifo(directory / "fifo")
    encrypted = directory / "encrypted.key"
    programs.run(["openssl", "pkcs8", "-topk8", "-in", str(pki.keys["rsa"]), "-out", str(encrypted),
                  "-passout", "pass:secret"])
    server = pki.server
    entries = [
        {"key": str(directory / "missing.key"), "certificate": str(server.certificate)},
        {"key": str(server.key), "certificate": str(directory / "text")},
        {"key": str(pki.second_key), "certificate": str(server.certificate)},
        {"key": str(encrypted), "certificate": str(pki.servers["rsa"].certificate)},
        {"key": str(server.key), "certificate": str(directory / "fifo")},
        server.entry(authority=str(directory / "nowhere.pem")),
    ]
    target = tls_target("127.0.0.1:1", directory / "text")
    status, lines, path = check(env, proxy(env.address(), target, listener=tls_listener(*entries)))
    assert status == 2
    context = "server.proxies[0].listener.tls_context.certificates"
    assert_problem(lines, path, f"{context}[0].key", "No such file")
    assert_problem(lines, path, f"{context}[1].certificate", "not a PEM")
    assert_problem(lines, path, f"{context}[2].key", "does not belong")
    assert_problem(lines, path, f"{context}[3].key", "encrypted")
    assert_problem(lines, path, f"{context}[4].certificate", "not a regular file")
    assert_problem(lines, path, f"{context}[5].authority", "No such file")
    assert_problem(lines, path, "server.proxies[0].targets[0].tls_context.certificates[0].authority", "not a PEM")
    assert len(lines) == 7
    assert "secret" not in "".join(lines) and "BEGIN" not in "".join(lines)


def test_a_certificate_too_large_to_be_sent_is_told_at_its_place(env, pki):
    """mbedTLS sends no handshake message above 16 KiB, so no peer would ever see it."""
    names = ",".join(["DNS:server.test", *(f"DNS:host-{number:04}.service.example.test" for number in range(500))])
    big = pki.root.issue(pki.server.key, "big server", names, "serverAuth,clientAuth")
    small = pki.root.issue(pki.server.key, "small server", names[: len(names) // 2].rpartition(",")[0])
    target = tls_target("127.0.0.1:1", pki.trusted, big)
    listener = tls_listener(small, big)
    status, lines, path = check(env, proxy(env.address(), target, listener=listener))
    assert status == 2 and len(lines) == 2, lines
    words = r"the certificate would take \d{5} bytes in a handshake, more than the 16383 that mbedTLS can send"
    assert_problem(lines, path, "server.proxies[0].listener.tls_context.certificates[1].certificate", words)
    assert_problem(lines, path, "server.proxies[0].targets[0].tls_context.certificates[0].certificate", words)


def test_a_start_with_a_bad_file_fails_the_same_way(env, pki):
    entry = {"key": str(pki.second_key), "certificate": str(pki.server.certificate)}
    bitflow = env.launch(env.config(proxy(env.address(), env.refusing(), listener=tls_listener(entry))))
    bitflow.expected_status = 2
    assert bitflow.wait_ended() == 2
    assert "certificates[0].key" in bitflow.stderr() and "does not belong" in bitflow.stderr()


@pytest.mark.parametrize("kind, words", [("expired", "expired on 2021-01-01"), ("not yet valid", "not valid before")],
                         ids=["expired", "not yet valid"])
def test_a_certificate_outside_its_validity_period_is_a_warning(env, pki, kind, words):
    status, lines, _ = check(env, proxy(env.address(), env.refusing(), listener=tls_listener(pki.bad_servers[kind])))
    assert status == 0
    assert len([line for line in lines if "warning" in line and words in line]) == 1, lines


def test_an_authority_that_verifies_nobody_is_a_warning(env, pki):
    entry = pki.server.entry(authority=str(pki.root.certificate))
    status, lines, _ = check(env, proxy(env.address(), env.refusing(), listener=tls_listener(entry)))
    assert status == 0
    assert any("the authority is not used" in line for line in lines), lines


def line_and_column(path, value):
    """Where a configuration that env.config() has written names something."""
    (place,) = [(number, line.index(value)) for number, line in enumerate(path.read_text().splitlines(), 1)
                if value in line]
    return f"{place[0]}:{place[1] + 1}"


def test_a_warning_of_a_file_tells_where_it_is_named(env, pki):
    """With --check and in the log; --strict makes it an error."""
    identity = pki.bad_servers["expired"]
    path = env.config(proxy(env.address(), env.refusing(), listener=tls_listener(identity)))
    place = f"{path}:{line_and_column(path, str(identity.certificate))}"
    done = bitflow_process.run("--check", "--config", path)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 0
    assert line.startswith(f"{place}: warning: proxy front: {identity.certificate}: the certificate "), line
    assert bitflow_process.run("--check", "--strict", "--config", path).returncode == 2
    bitflow = env.launch(path)
    bitflow.wait_listening(["front"])
    (entry,) = [entry for entry in bitflow.log_lines(True) if "expired on" in entry["msg"]]
    assert (entry["file"], entry["named_at"]) == (str(identity.certificate), place)


@pytest.mark.parametrize("feature, is_warned_of", [("status_request", True), ("1, 5", True), ("1", False)])
def test_a_must_staple_certificate_is_a_warning_at_a_listener(env, feature, is_warned_of):
    key, certificate = env.directory / "staple.key", env.directory / "staple.crt"
    programs.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                  "-days", "90", "-subj", "/CN=staple", "-addext", f"tlsfeature = {feature}",
                  "-keyout", str(key), "-out", str(certificate)])
    key.chmod(0o600)
    entry = {"key": str(key), "certificate": str(certificate)}
    status, lines, _ = check(env, proxy(env.address(), env.refusing(), listener=tls_listener(entry)))
    assert status == 0
    assert len([line for line in lines if "must-staple" in line]) == len(lines) == is_warned_of, lines
    target = {"address": "127.0.0.1:1", "tls_context": {"verify_mode": "none", "certificates": [entry]}}
    assert check(env, proxy(env.address(), target))[:2] == (0, [])


def test_a_refused_configuration_is_not_warned_of_expiry(env, pki):
    """Its files will not be in force: the start, --check and a reload only say why it is refused."""
    live = pki.server.copy(env.directory)
    entries = [
        proxy(env.address(), env.refusing(), name="old", listener=tls_listener(pki.bad_servers["expired"])),
        proxy(env.address(), env.refusing(), name="live", listener=tls_listener(live)),
    ]
    bitflow = env.start(*entries)
    assert bitflow.stderr().count("expired on") == 1
    live.certificate.write_bytes(pki.second_server.certificate.read_bytes())
    bitflow.reload("reload failed")
    assert bitflow.stderr().count("expired on") == 1
    status, lines, path = check(env, *entries)
    assert status == 2 and len(lines) == 1
    assert_problem(lines, path, "server.proxies[1].listener.tls_context.certificates[0].key", "does not belong")


# Reload


def served(env, address):
    client = tls_client(env, address)
    fingerprint = client.peer_fingerprint()
    client.close()
    return fingerprint


def test_reload_serves_the_new_certificate(env, pki):
    """Where nobody watches the files; test_tls_rotation.py has those that are watched."""
    live, address = pki.server.copy(env.directory), env.address()
    entry = proxy(address, env.echo().address, listener=tls_listener(live))
    bitflow = env.start(entry, application={"watch_files": False})
    old = tls_client(env, address)
    assert old.peer_fingerprint() == pki.server.fingerprint
    live.certificate.write_bytes(pki.second_server.certificate.read_bytes())
    live.key.write_bytes(pki.second_server.key.read_bytes())
    assert served(env, address) == pki.server.fingerprint
    bitflow.reload()
    assert served(env, address) == pki.second_server.fingerprint
    old.round_trip(bytes(100_000))
    old.close()


@pytest.mark.parametrize(
    "content, words",
    [(b"", "is empty"), (b"text", "not a PEM file"), (None, "No such file")],
    ids=["empty", "text", "missing"],
)
def test_a_broken_file_leaves_the_old_ones(env, pki, content, words):
    live, address = pki.server.copy(env.directory), env.address()
    bitflow = env.start(proxy(address, env.echo().address, listener=tls_listener(live)))
    if content is None:
        live.certificate.unlink()
    else:
        live.certificate.write_bytes(content)
    bitflow.reload("reload failed")
    assert str(live.certificate) in bitflow.stderr() and words in bitflow.stderr()
    assert served(env, address) == pki.server.fingerprint


def test_a_fifo_in_place_of_a_file_hangs_nothing(env, pki):
    live, address = pki.server.copy(env.directory), env.address()
    bitflow = env.start(proxy(address, env.echo().address, listener=tls_listener(live)))
    live.key.unlink()
    os.mkfifo(live.key)
    bitflow.reload("reload failed")
    assert served(env, address) == pki.server.fingerprint


def test_a_reload_takes_a_new_authority_and_revocation_list(env, pki):
    authority, crl = env.directory / "ca.pem", env.directory / "crl.pem"
    authority.write_bytes(pki.root.certificate.read_bytes())
    crl.write_bytes(pki.clean_list.read_bytes())
    entry = pki.server.entry(authority=str(authority), revocation_list=str(crl))
    address = env.address()
    bitflow = env.start(
        proxy(address, env.echo().address, listener=tls_listener(entry, verify_mode="strict"))
    )
    revoked = tls_raw.client_context(identity=pki.bad_clients["revoked"])
    client = tls_client(env, address, revoked)
    client.round_trip()
    crl.write_bytes(pki.revocation_list.read_bytes())
    bitflow.reload()
    client.round_trip()
    client.close()
    end = tls_raw.Tls(env.connect(address), revoked, server_name="server.test")
    assert tls_raw.refusal(end) == "certificate_revoked"
    authority.write_bytes(pki.other.certificate.read_bytes())
    crl.write_bytes(pki.other.revocation_list("other-crl.pem").read_bytes())
    bitflow.reload()
    end = tls_raw.Tls(env.connect(address), tls_raw.client_context(identity=pki.client), server_name="server.test")
    assert tls_raw.refusal(end) == "unknown_ca"


# What a listener offers


def test_sslscan_finds_nothing_weak(env, pki):
    address = env.address()
    identities = [pki.servers["rsa"], pki.server]
    env.start(proxy(address, env.echo().address, listener=tls_listener(*identities)))
    report = programs.run(["sslscan", "--xml=-", "--no-colour", "--show-sigs", address]).stdout
    test = xml.etree.ElementTree.fromstring(report[report.index("<?xml") :]).find("ssltest")
    enabled = {(p.get("type"), p.get("version")) for p in test.findall("protocol") if p.get("enabled") == "1"}
    assert enabled == {("tls", "1.2"), ("tls", "1.3")}
    ciphers = {(cipher.get("sslversion"), cipher.get("cipher")) for cipher in test.findall("cipher")}
    assert {version for version, _ in ciphers} == {"TLSv1.2", "TLSv1.3"}
    for version, name in ciphers:
        assert re.fullmatch(r"TLS_(AES|CHACHA)\w+" if version == "TLSv1.3" else
                            r"ECDHE-(RSA|ECDSA)-(AES(128|256)-GCM-SHA(256|384)|CHACHA20-POLY1305)", name), name
    assert {name for version, name in ciphers if version == "TLSv1.3"} == set(tls_peers.SUITES_1_3)
    assert {group.get("name") for group in test.findall("group")} <= {"x25519", "secp256r1", "secp384r1", "secp521r1",
                                                                      "secp256r1 (NIST P-256)",
                                                                      "secp384r1 (NIST P-384)",
                                                                      "secp521r1 (NIST P-521)"}
    assert all(item.get("supported") == "0" for item in test.findall("compression"))
    assert test.find("renegotiation").get("supported") == "0"
    assert all(item.get("vulnerable") == "0" for item in test.findall("heartbleed"))


# Limits


@pytest.mark.parametrize("first, words", NOT_TLS.values(), ids=NOT_TLS)
def test_what_is_not_tls_is_dropped_at_once(env, pki, first, words):
    address = env.address()
    bitflow = env.start(proxy(address, env.refusing(), listener=tls_listener(pki.server)))
    watch = Stopwatch()
    sock = env.connect(address)
    sock.sendall(first)
    sockets.receive_until_broken(sock)
    watch.between(0, 3, "dropped")
    record = bitflow.wait_records(1)[0]
    assert record["reason"] == "client_handshake_failed" and words in record["error"], record


@pytest.mark.parametrize("kind", ["nothing", "half a hello", "a trickle"])
def test_the_clients_handshake_has_its_own_timeout(env, pki, kind):
    address = env.address()
    listener = tls_listener(pki.server, handshake_timeout="1s", listener={"read_timeout": "50s"})
    bitflow = env.start(proxy(address, env.refusing(), listener=listener))
    sock = env.connect(address)
    hello = tls_raw.Tls(sock, tls_raw.client_context(), server_name="server.test").hello()
    watch = Stopwatch()
    if kind == "half a hello":
        sock.sendall(hello[: len(hello) // 2])
    while kind == "a trickle" and watch.seconds < 10:
        try:
            sock.sendall(hello[:1])
            hello = hello[1:]
        except OSError:
            break
        if not sockets.is_open(sock):
            break
        sock.settimeout(0.05)
        try:
            sock.recv(1)
            break
        except TimeoutError:
            sock.settimeout(10)
        except ConnectionError:  # the byte came as the proxy closed
            break
    sockets.receive_until_broken(sock)
    watch.between(0.9, 3, "dropped")
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["ended_by"]) == ("client_handshake_timeout", "proxy"), record
    assert re.search("timed out|in time", record["error"])


def test_client_that_leaves_stops_a_hanging_handshake_with_the_target(env):
    silent, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, tls_target(silent.address, verify_mode="none", handshake_timeout="50s")))
    client = env.connect(address)
    name = sockets.local_name(client)
    env.keep(silent.accept())
    watch = Stopwatch()
    sockets.reset(client)
    record = bitflow.record_of(name)
    watch.between(0, 3, "stopped")
    assert record["reason"] == "client_left", record


@pytest.mark.parametrize(
    "keys, reason",
    [
        ({"target": {"connect_timeout": "700ms"}}, "connect_timeout"),
        ({"handshake_timeout": "700ms"}, "target_handshake_timeout"),
        ({"target": {"connect_timeout": "700ms"}, "handshake_timeout": "9s"}, "connect_timeout"),
        ({"target": {"connect_timeout": "9s"}, "handshake_timeout": "700ms"}, "target_handshake_timeout"),
    ],
    ids=["connect_timeout alone", "handshake_timeout alone", "connect_timeout first", "handshake_timeout first"],
)
def test_a_targets_hanging_handshake_ends_by_the_shorter_timeout(env, keys, reason):
    silent, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, tls_target(silent.address, verify_mode="none", **keys)))
    watch = Stopwatch()
    client = env.connect(address)
    env.keep(silent.accept())
    assert sockets.receive_until_broken(client)[0] == b""
    watch.between(0.6, 4, "bounded")
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["ended_by"]) == (reason, "proxy") and "TLS" in record["error"], record


def test_failover_goes_on_after_a_failed_handshake(env, pki):
    plain = env.serve(lambda connection: connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n"))
    address = env.address()
    good = env.serve(tls_echo(tls_raw.server_context(pki.server)))
    bitflow = env.start(
        proxy(address, tls_target(plain.address, pki.root.certificate),
              tls_target(good.address, pki.root.certificate), connection_load_balancer="failover")
    )
    client = env.connect(address)
    sockets.round_trip(client)
    client.close()
    record = bitflow.wait_records(1)[0]
    assert (record["target"]["name"], record["attempts"]) == ("target2", 2)
    assert any("plain HTTP" in line.get("error", "") for line in bitflow.log_lines())


def test_a_hanging_handshake_does_not_hold_up_the_end(env, pki):
    address = env.address()
    bitflow = env.start(
        proxy(address, env.refusing(), listener=tls_listener(pki.server)), server={"drain_timeout": "500ms"}
    )
    env.connect(address).sendall(b"\x16\x03\x01")
    wait_for(lambda: bitflow.busy_threads(), "the connection has its thread")
    watch = Stopwatch()
    bitflow.stop()
    watch.between(0.4, 5, "ended")
    assert bitflow.records()[0]["reason"] == "drain"
