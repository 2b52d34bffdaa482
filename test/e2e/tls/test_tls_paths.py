"""Chains of every shape that a test can make, in the manner of BetterTLS, through a listener and through a target:
bitflow lets in whom `openssl verify` accepts with the same settings, refuses the others with an alert and in fitting
words, and logs the certificate that it has verified."""

import pytest

import chains
import needs
from environment import Environment

FAMILIES = ["twins", "meshes", "constraints", "orders", "depths", "anchors", "usages", "kinds", "hosts", "lists"]


CASES = [(family, role) for family in FAMILIES for role in chains.ROLES
         if (family, role) != ("hosts", chains.LISTENER)]  # clients are for none


@pytest.fixture(scope="module")
def family(request, tmp_path_factory, pki):
    """Its chains, and a bitflow that judges them."""
    needs.CRYPTOGRAPHY.need()
    import chain_cases
    import mint

    folder = mint.Folder(tmp_path_factory.mktemp(request.param))
    getattr(chain_cases, request.param)(folder)
    environment = Environment()
    judge = chains.Judge(environment, pki.server, [chain.trust for chain in folder.chains])
    yield judge, folder.chains
    environment.finish()


@pytest.mark.parametrize("family, role", CASES, indirect=["family"], scope="module")
def test_judged_as_openssl_judges(family, role):
    judge, made = family
    assert {True, False} <= set(judge.agrees(role, made).values()), "some are good, and some are not"
