"""Files of certificates that change under a running bitflow, which puts them in force by itself. Peers: Python's ssl.

A change settles for a second, so tests make theirs at the same time where they can.
"""

import datetime
import os
import shutil
import signal
import socket
import ssl
import threading

import pytest

import sockets
import tls_raw
from certificates import Identity
from environment import proxy
from kubelet_volumes import Volume
from tls_cases import tls_client, tls_echo, tls_listener, tls_target
from waiting import IS_NIGHTLY, Stopwatch, holds_for, pace, wait_for

ROTATIONS = 20 if IS_NIGHTLY else 3
SOON = 2  # s, from a change until the next client sees it
SETTLED = 1.4  # s, by which a change would have been noticed and put in force
REFUSED = "certificates are not reloaded, the old ones stay in force"
UNCHANGED = "files of certificates were written, and hold what is in force"


def served(address):
    """The fingerprint of the certificate that a new client gets."""
    with sockets.connect(address) as sock:
        return tls_raw.Tls(sock, tls_raw.client_context(), server_name="server.test").handshake().peer_fingerprint()


def await_served(bitflow, address, identity, watch):
    """The next clients get it soon enough."""
    wait_for(lambda: served(address) == identity.fingerprint,
             lambda: f"the new certificate of {address}: {bitflow.stderr()[-3000:]}", SOON)
    watch.between(0, SOON, "the new certificate")


def messages(bitflow, beginning):
    return [line for line in bitflow.log_lines(partial=True) if line["msg"].startswith(beginning)]


def await_message(bitflow, beginning, count=1):
    wait_for(lambda: len(messages(bitflow, beginning)) >= count,
             lambda: f"{count} times {beginning!r}: {bitflow.stderr()[-3000:]}", SOON)
    return messages(bitflow, beginning)


def put(identity, live, order=("key", "certificate")):
    """Writes another identity's files over those of `live`, in place."""
    for name in order:
        getattr(live, name).write_bytes(getattr(identity, name).read_bytes())


class Secret(Volume):
    """Of a certificate and its key."""

    def __init__(self, directory, identity):
        super().__init__(directory, self.contents(identity))
        self.live = Identity(self.directory / "tls.key", self.directory / "tls.crt", identity.authority, "")

    @staticmethod
    def contents(identity):
        return {"tls.crt": identity.certificate.read_bytes(), "tls.key": identity.key.read_bytes()}

    def renew(self, identity):
        self.write(self.contents(identity))


def split(address):
    host, port = address.rsplit(":", 1)
    return host, int(port)


class ShortConnections:
    """Clients that come one after the other, each with a handshake that verifies the certificate, and an echo."""

    def __init__(self, address, authority, at_a_time=3):
        self.address = split(address)
        self.context = tls_raw.client_context(authority)
        self.failures, self.counts, self.is_over = [], [0] * at_a_time, False
        self.threads = [threading.Thread(target=self.run, args=(number,)) for number in range(at_a_time)]
        for thread in self.threads:
            thread.start()

    def run(self, number):
        while not self.is_over:
            try:
                with socket.create_connection(self.address, timeout=10 * pace()) as plain:
                    with self.context.wrap_socket(plain, server_hostname="server.test") as client:
                        client.sendall(b"hello")
                        assert client.recv(5) == b"hello"
                self.counts[number] += 1
            except (OSError, AssertionError) as error:
                self.failures.append(repr(error))

    def close(self):
        self.is_over = True
        for thread in self.threads:
            thread.join()


def test_a_secret_is_rotated_under_load(env, pki):
    secret, address = Secret(env.directory / "secret", pki.server), env.address()
    bitflow = env.start(proxy(address, env.echo().address, listener=tls_listener(secret.live)))
    load = env.keep(ShortConnections(address, pki.root.certificate))
    slowest = 0
    for number in range(ROTATIONS):
        identity = (pki.second_server, pki.server)[number % 2]
        before, watch = sum(load.counts), Stopwatch()
        secret.renew(identity)
        await_served(bitflow, address, identity, watch)
        slowest = max(slowest, watch.seconds)
        wait_for(lambda before=before: sum(load.counts) > before, "clients come meanwhile")
    load.close()
    print(f"{ROTATIONS} rotations, {sum(load.counts)} connections, the slowest seen after {slowest:.2f} s")
    assert not load.failures, load.failures[:5]
    assert len(await_message(bitflow, "certificate in force", ROTATIONS)) == ROTATIONS
    assert not messages(bitflow, REFUSED)


def in_place(live, identity):
    put(identity, live)


def certificate_first(live, identity):
    put(identity, live, ("certificate", "key"))


def by_rename(live, identity):
    for name in ("key", "certificate"):
        path = getattr(live, name)
        new = path.with_suffix(".new")
        shutil.copy(getattr(identity, name), new)
        new.rename(path)


def by_an_editor(live, identity):
    """As vim does with a backup: the old file is renamed, and the new one written."""
    for name in ("key", "certificate"):
        path = getattr(live, name)
        path.rename(str(path) + "~")
        path.write_bytes(getattr(identity, name).read_bytes())
        os.unlink(str(path) + "~")


def whole_directory(live, identity):
    directory = live.key.parent
    aside, new = directory.with_suffix(".old"), directory.with_suffix(".new")
    new.mkdir()
    for name in ("key", "certificate"):
        shutil.copy(getattr(identity, name), new / getattr(live, name).name)
    directory.rename(aside)
    new.rename(directory)
    shutil.rmtree(aside)


def goes_and_comes_back(live, identity):
    shutil.rmtree(live.key.parent)
    live.key.parent.mkdir()
    in_place(live, identity)


WAYS = [in_place, certificate_first, by_rename, by_an_editor, whole_directory, goes_and_comes_back]


def test_each_way_to_replace_a_file_counts(env, pki):
    entries, lives, addresses = [], [], [env.address() for _ in WAYS]
    for way, address in zip(WAYS, addresses):
        directory = env.directory / way.__name__
        directory.mkdir()
        lives.append(pki.server.copy(directory))
        entries.append(proxy(address, env.refusing(), name=way.__name__, listener=tls_listener(lives[-1])))
    bitflow = env.start(*entries)
    watch = Stopwatch()
    for way, live in zip(WAYS, lives):
        way(live, pki.second_server)
    for address in addresses:
        await_served(bitflow, address, pki.second_server, watch)
    (*lines,) = await_message(bitflow, "certificate in force", len(WAYS))
    assert {(line["proxy"], line["file"]) for line in lines} == {
        (way.__name__, str(live.certificate)) for way, live in zip(WAYS, lives)}
    assert len(lines) == len(WAYS) and not messages(bitflow, REFUSED)
    for line in lines:
        assert line["level"] == "info" and "CN=second server" in line["subject"], line
        assert line["fingerprint"] == pki.second_server.fingerprint and "DNS:server.test" in line["names"], line
        assert int(line["serial"], 16) == serial_of(pki.second_server), line
        assert line["valid_until"] == end_of(pki.second_server), line


def serial_of(identity):
    return int(decoded(identity)["serialNumber"], 16)


def end_of(identity):
    seconds = ssl.cert_time_to_seconds(decoded(identity)["notAfter"])
    end = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return end.strftime("%Y-%m-%dT%H:%M:%SZ")


def decoded(identity):
    return ssl._ssl._test_decode_cert(str(identity.certificate))


# What is not usable


def missing(path):
    path.unlink()


def fifo(path):
    path.unlink()
    os.mkfifo(path)


def directory(path):
    path.unlink()
    path.mkdir()


def loop(path):
    path.unlink()
    path.symlink_to(path.name)


def huge(path):
    with open(path, "ab") as stream:
        stream.truncate(64 << 20)


def cut(path):
    path.write_bytes(path.read_bytes()[:-60])


def of_another(path, content):
    path.write_bytes(content)


BROKEN = {missing: "No such file", fifo: "not a regular file", directory: "is a directory", loop: "symbolic links",
          huge: "File too large", cut: "cut short", of_another: "does not belong"}


def remove(path):
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def test_a_broken_file_leaves_the_old_ones_until_it_is_mended(env, pki):
    """One bitflow each, since one broken file holds up all the others of its process."""
    running = []
    for way in BROKEN:
        place, address, second = env.directory / way.__name__, env.address(), env.address()
        place.mkdir()
        live, other = pki.server.copy(place), pki.server.copy(place, "other")
        bitflow = env.launch(env.config(
            proxy(address, env.refusing(), listener=tls_listener(live)),
            proxy(second, env.refusing(), name="second", listener=tls_listener(other)), name=f"{way.__name__}.yaml"))
        running.append((way, bitflow, live, other, address, second))
    for _, bitflow, *_ in running:
        bitflow.wait_listening(["front", "second"])
    for way, bitflow, live, other, _, _ in running:
        put(pki.second_server, other)
        way(live.certificate, *([pki.second_server.certificate.read_bytes()] if way is of_another else []))
    for way, bitflow, live, _, address, second in running:
        line = await_message(bitflow, REFUSED)[0]
        assert line["level"] == "warn" and BROKEN[way] in line["error"], line
        assert str(live.certificate) in line["error"] and "proxies[0].listener.tls_context" in line["key"], line
        assert served(address) == served(second) == pki.server.fingerprint
    for _, _, live, *_ in running:
        remove(live.certificate)
        put(pki.second_server, live)
    watch = Stopwatch()
    for _, bitflow, _, _, address, second in running:
        await_served(bitflow, address, pki.second_server, watch)
        assert served(second) == pki.second_server.fingerprint
        assert len(await_message(bitflow, "certificate in force", 2)) == 2


# Both sides, and what clients are held to


def handshake_of(env, address, identity):
    return tls_raw.Tls(env.connect(address), tls_raw.client_context(identity=identity), server_name="server.test")


def test_authorities_and_revocation_lists_count(env, pki):
    files = [env.directory / name for name in ("ca.pem", "crl.pem", "bundle.pem")]
    for path, source in zip(files, (pki.root.certificate, pki.clean_list, pki.other.certificate)):
        shutil.copy(source, path)
    authority, crl, bundle = map(str, files)
    listed, bundled = env.address(), env.address()
    strict = {"verify_mode": "strict"}
    bitflow = env.start(
        proxy(listed, env.echo().address, name="listed",
              listener=tls_listener(pki.server.entry(authority=authority, revocation_list=crl), **strict)),
        proxy(bundled, env.echo().address, name="bundled",
              listener=tls_listener(pki.server.entry(authority=bundle), **strict)))
    revoked = pki.bad_clients["revoked"]
    live = handshake_of(env, listed, revoked).handshake()
    live.round_trip()
    assert tls_raw.refusal(handshake_of(env, bundled, pki.client)) == "unknown_ca"
    shutil.copy(pki.revocation_list, crl)
    shutil.copy(pki.root.certificate, bundle)
    watch = Stopwatch()
    (line,) = await_message(bitflow, "revocation list in force")
    assert (line["proxy"], line["file"]) == ("listed", crl) and "authority" in line["subject"], line
    assert line["valid_until"] and line["count"] == "3", line
    (line,) = await_message(bitflow, "authority in force")
    assert (line["proxy"], line["file"]) == ("bundled", bundle) and "root authority" in line["subject"], line
    watch.between(0, SOON, "in force")
    assert tls_raw.refusal(handshake_of(env, listed, revoked)) == "certificate_revoked"
    handshake_of(env, bundled, pki.client).handshake().round_trip()
    live.round_trip()  # goes on with what it began with


def test_a_certificate_for_targets_is_rotated(env, pki):
    live, shown, address = pki.client.copy(env.directory), [], env.address()
    context = tls_raw.server_context(pki.server, pki.trusted)
    target = env.serve(tls_echo(context, shown))
    bitflow = env.start(proxy(address, tls_target(target.address, pki.trusted, live)))
    sockets.round_trip(env.connect(address), b"hello")
    put(pki.rsa_client, live)
    (line,) = await_message(bitflow, "certificate in force")
    assert (line["proxy"], line["target"], line["file"]) == ("front", "target1", str(live.certificate)), line
    sockets.round_trip(env.connect(address), b"hello")
    assert [end.peer_fingerprint() for end in shown] == [pki.client.fingerprint, pki.rsa_client.fingerprint]


# What is not to happen


def test_the_configuration_in_force_stays_in_force(env, pki):
    """Its file may be half edited, or say something else that nobody has asked for yet."""
    lives = [pki.server.copy(env.directory, name) for name in ("one", "two")]
    addresses = [env.address(), env.address()]
    bitflows = [env.launch(env.config(proxy(address, env.echo().address, listener=tls_listener(live)),
                                      name=f"{live.key.stem}.yaml")) for live, address in zip(lives, addresses)]
    for bitflow in bitflows:
        bitflow.wait_listening(["front"])
    bitflows[0].config.write_text(bitflows[0].config.read_text().replace(addresses[0], env.address()))
    bitflows[1].config.write_text("server: [")
    for live in lives:
        put(pki.second_server, live)
    watch = Stopwatch()
    for bitflow, address in zip(bitflows, addresses):
        await_served(bitflow, address, pki.second_server, watch)
        assert not messages(bitflow, "configuration error") and not messages(bitflow, "reloaded")
        assert len(messages(bitflow, "listening")) == 1


def test_what_does_not_change_a_file_changes_nothing(env, pki):
    live, address = pki.server.copy(env.directory), env.address()
    bitflow = env.start(proxy(address, env.refusing(), listener=tls_listener(live)), level="debug")
    # Written so shortly before, it may have changed after it was read.
    await_message(bitflow, UNCHANGED)
    os.utime(live.certificate)
    put(pki.server, live)
    await_message(bitflow, UNCHANGED, 2)
    assert not messages(bitflow, "certificate")


def test_nothing_is_watched_where_nobody_wants_it(env, pki):
    live, address = pki.server.copy(env.directory), env.address()
    entry = proxy(address, env.refusing(), listener=tls_listener(live))
    bitflow = env.start(entry, application={"watch_files": False})
    assert "files" not in bitflow.thread_names()
    put(pki.second_server, live)
    holds_for(SETTLED, lambda: served(address) == pki.server.fingerprint, "the old certificate stays")
    env.config(entry)
    bitflow.reload()
    assert served(address) == pki.second_server.fingerprint
    wait_for(lambda: "files" in bitflow.thread_names(), "from here on it is watched")
    put(pki.server, live)
    await_served(bitflow, address, pki.server, Stopwatch())


def test_a_reload_has_other_files_watched(env, pki):
    before, after, address = pki.server.copy(env.directory, "one"), pki.server.copy(env.directory, "two"), env.address()
    target = env.refusing()
    bitflow = env.start(proxy(address, target, listener=tls_listener(before)))
    env.config(proxy(address, target, listener=tls_listener(after)))
    bitflow.reload()
    before.certificate.unlink()  # would hold up everything if it were still read
    put(pki.second_server, after)
    await_served(bitflow, address, pki.second_server, Stopwatch())
    assert not messages(bitflow, REFUSED)


def test_a_drain_changes_nothing_any_more(env, pki):
    live, address = pki.server.copy(env.directory), env.address()
    bitflow = env.start(proxy(address, env.echo().address, listener=tls_listener(live)))
    client = tls_client(env, address)
    client.round_trip()
    bitflow.signal(signal.SIGTERM)
    await_message(bitflow, "shutting down")
    put(pki.second_server, live)
    holds_for(SETTLED, lambda: not messages(bitflow, "certificate"), "nothing is loaded")
    client.close()
    assert bitflow.wait_ended() == 0


# The configuration itself


def test_the_configuration_is_watched_where_that_is_wanted(env):
    application = {"watch_configuration": True, "watch_files": False}
    address, first, second = env.address(), env.echo(), env.refusing()
    settings = {"level": "debug", "application": application}
    env.config(proxy(address, first.address), **settings)
    bitflow = env.start(proxy(address, first.address), **settings)
    bitflow.config.write_text("server: [")
    await_message(bitflow, "reload failed")
    sockets.round_trip(env.connect(address), b"hello")
    env.config(proxy(address, second), **settings)
    await_message(bitflow, "reloaded")
    assert sockets.receive_until_broken(env.connect(address))[0] == b""
    os.utime(bitflow.config)
    await_message(bitflow, "the configuration was written, and says what is in force")
    assert len(messages(bitflow, "reloaded")) == 1


@pytest.mark.parametrize("name", ["watch_files", "watch_configuration"])
def test_a_switch_is_true_or_false(env, name):
    path = env.config(proxy(env.address(), env.refusing()), application={name: "sometimes"})
    bitflow = env.launch(path)
    bitflow.expected_status = 2
    assert bitflow.wait_ended() == 2
    assert f"application.{name}: must be true or false" in bitflow.stderr()
