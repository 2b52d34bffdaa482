"""Revocation lists and longer chains: the anchor and each issuer below it need their own, a revoked intermediate takes
along what it issued, a reload brings what was missing. Clients and targets are Python's."""

import select
import ssl

import pytest

import certificates
import sockets
import tls_raw
from environment import proxy
from tls_cases import tls_client, tls_listener, tls_target
from waiting import pace

USAGES = {"listener": certificates.CLIENT, "target": certificates.SERVER}
ROLES = pytest.mark.parametrize("role", USAGES)
MISSING = "there is no revocation list of O=bitflow, CN={} authority"
NAMES = ["top", "middle", "low"]


class Tree:
    """top issues middle, which issues low; each has a leaf for either role, and an empty list."""

    def __init__(self, directory):
        self.directory = directory
        self.top = certificates.Authority(directory, "top", "p256")
        self.middle = certificates.Authority(directory, "middle", "p384", parent=self.top)
        self.low = certificates.Authority(directory, "low", "rsa", parent=self.middle)
        key = certificates.make_key(directory / "p256-leaf.key", "p256")
        issuers = (self.top, self.middle, self.low)
        self.leaves = {
            (issuer.name, role): issuer.issue(key, f"{issuer.name} {role}", usage=usage)
            for issuer in issuers for role, usage in USAGES.items()
        }
        self.revoked = {role: self.middle.issue(key, f"revoked {role}", usage=usage) for role, usage in USAGES.items()}
        self.clean = {issuer.name: issuer.revocation_list("clean.pem") for issuer in issuers}
        for identity in self.revoked.values():
            self.middle.revoke(identity)
        self.of_leaves = self.middle.revocation_list("of-leaves.pem")
        certificates.openssl("ca", "-batch", "-config", self.top.settings, "-revoke", self.middle.certificate)
        self.of_middle = self.top.revocation_list("of-middle.pem")

    def bundle(self, name, *paths):
        path = self.directory / f"{name}.pem"
        path.write_text("".join(each.read_text() for each in paths))
        return path


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return Tree(tmp_path_factory.mktemp("revocation"))


class Trial:
    """One bitflow that asks for revocation lists in one role."""

    def __init__(self, env, pki, role, authority, lists):
        self.env, self.role = env, role
        self.address, self.listener = env.address(), env.listen()
        if role == "listener":
            entry = pki.server.entry(authority=str(authority), revocation_list=str(lists))
            own = proxy(self.address, self.listener.address, listener=tls_listener(entry, verify_mode="strict"))
        else:
            own = proxy(self.address, tls_target(self.listener.address, authority, crl=lists))
        self.bitflow = env.start(own)

    def refusal(self, identity):
        """Why this peer is refused, by its record; None if it is let in."""
        count = len(self.bitflow.records())
        is_let_in = self.client_is_let_in(identity) if self.role == "listener" else self.target_is_let_in(identity)
        record = self.bitflow.wait_records(count + 1)[-1]
        side = "client" if self.role == "listener" else "target"
        assert record["reason"] == ("completed" if is_let_in else f"{side}_handshake_failed"), record
        return record["error"]

    def client_is_let_in(self, identity):
        end = tls_client(self.env, self.address, tls_raw.client_context(identity=identity, version="TLSv1.3"))
        end.write(b"hello")
        # Its own handshake is over before it is judged: either the target is dialled, or it reads an alert.
        ready, _, _ = select.select([self.listener.socket, end.socket], [], [], 10 * pace())
        assert ready, "neither served nor refused"
        if self.listener.socket not in ready:
            assert tls_raw.refusal(end) in ("certificate_unknown", "certificate_revoked")
            return False
        target = self.listener.accept()
        assert sockets.receive_exactly(target, 5) == b"hello"
        target.close()
        assert end.read_until_end() == (b"", "close_notify")
        end.end()
        return True

    def target_is_let_in(self, identity):
        client = self.env.connect(self.address)
        end = tls_raw.Tls(self.listener.accept(), tls_raw.server_context(identity), server_side=True)
        try:
            end.handshake()
        except ssl.SSLError as error:
            assert tls_raw.alert_of(error) in ("certificate_unknown", "certificate_revoked"), error
            sockets.was_rejected(client)
            return False
        client.sendall(b"hello")
        assert end.read_exactly(5) == b"hello"
        client.close()
        end.read_until_end()
        end.end()
        return True


@ROLES
def test_list_of_the_anchor_is_enough_for_its_own_leaf(env, pki, tree, role):
    trial = Trial(env, pki, role, tree.top.certificate, tree.clean["top"])
    for _ in range(2):  # one refusal does not touch the next
        assert trial.refusal(tree.leaves["top", role]) is None
        assert MISSING.format("middle") in trial.refusal(tree.leaves["middle", role])


@ROLES
def test_chain_of_three_with_all_three_lists_is_let_in(env, pki, tree, role):
    lists = tree.bundle("all", *tree.clean.values())
    assert Trial(env, pki, role, tree.top.certificate, lists).refusal(tree.leaves["low", role]) is None


@ROLES
@pytest.mark.parametrize("missing", NAMES)
def test_chain_of_three_without_one_of_the_lists_is_refused(env, pki, tree, role, missing):
    lists = tree.bundle(f"without-{missing}", *(tree.clean[name] for name in NAMES if name != missing))
    refusal = Trial(env, pki, role, tree.top.certificate, lists).refusal(tree.leaves["low", role])
    assert MISSING.format(missing) in refusal


@ROLES
def test_anchor_may_be_the_intermediate_itself(env, pki, tree, role):
    """Only the leaf is below it: no list is needed for what is above."""
    trial = Trial(env, pki, role, tree.middle.certificate, tree.clean["middle"])
    assert trial.refusal(tree.leaves["middle", role]) is None


@ROLES
@pytest.mark.parametrize("others", [["top"], ["top", "low"]], ids=" and ".join)
def test_an_intermediate_beside_its_root_is_not_where_lists_end(env, pki, tree, role, others):
    """As HAProxy's crl-file has it, whichever of the chain is in the bundle, too."""
    certificate = {"top": tree.top.certificate, "middle": tree.middle.certificate, "low": tree.low.certificate}
    authority = tree.bundle("beside", tree.middle.certificate, *(certificate[name] for name in others))
    leaf = tree.leaves["middle", role]
    both = tree.bundle("beside-both", tree.clean["top"], tree.clean["middle"])
    assert Trial(env, pki, role, authority, both).refusal(leaf) is None
    assert MISSING.format("top") in Trial(env, pki, role, authority, tree.clean["middle"]).refusal(leaf)
    assert MISSING.format("middle") in Trial(env, pki, role, authority, tree.clean["top"]).refusal(leaf)
    revoking = tree.bundle("beside-revoking", tree.of_middle, tree.clean["middle"])
    assert "revoked" in Trial(env, pki, role, authority, revoking).refusal(leaf)


@ROLES
def test_revoked_leaf_is_refused_and_its_sister_is_not(env, pki, tree, role):
    lists = tree.bundle("of-leaves", tree.clean["top"], tree.of_leaves)
    trial = Trial(env, pki, role, tree.top.certificate, lists)
    assert "revoked" in trial.refusal(tree.revoked[role])
    assert trial.refusal(tree.leaves["middle", role]) is None


@ROLES
def test_revoked_intermediate_takes_its_leaves_along(env, pki, tree, role):
    lists = tree.bundle("of-middle", tree.of_middle, tree.clean["middle"])
    trial = Trial(env, pki, role, tree.top.certificate, lists)
    assert "revoked" in trial.refusal(tree.leaves["middle", role])
    assert trial.refusal(tree.leaves["top", role]) is None


@ROLES
def test_reload_brings_the_list_that_was_missing_and_takes_one_away(env, pki, tree, role):
    lists, leaf = env.directory / "lists.pem", tree.leaves["middle", role]
    lists.write_text(tree.clean["top"].read_text())
    trial = Trial(env, pki, role, tree.top.certificate, lists)

    def reload(*names):
        lists.write_text("".join(tree.clean[name].read_text() for name in names))
        trial.bitflow.reload()

    assert MISSING.format("middle") in trial.refusal(leaf)
    reload("top", "middle")
    assert trial.refusal(leaf) is None
    reload("middle")
    assert MISSING.format("top") in trial.refusal(leaf)


def test_entry_without_a_list_is_judged_without_one(env, pki, tree):
    """The other entry, of the same authority, has one."""
    authority = {"authority": str(tree.top.certificate)}
    entries = [
        pki.server_for("listed.test").entry(**authority, revocation_list=str(tree.clean["top"])),
        pki.server_for("free.test").entry(**authority),
    ]
    echo, address = env.echo(), env.address()
    env.start(proxy(address, echo.address, listener=tls_listener(*entries, verify_mode="strict")))
    context = tls_raw.client_context(identity=tree.leaves["middle", "listener"])
    tls_client(env, address, context, server_name="free.test").round_trip()
    end = tls_raw.Tls(env.connect(address), context, server_name="listed.test")
    assert tls_raw.refusal(end) == "certificate_unknown"
