"""NIST's PKITS through a listener and through a target, with and without its revocation lists: the same answers as
`openssl verify`, nothing invalid let in, and nothing valid turned away but what docs/tls.md names."""

import pytest

import chains
import pkits
from tls_peers import VERSIONS

LISTS = pytest.mark.parametrize("with_lists", [False, True], ids=["without lists", "with lists"])
ROLES = pytest.mark.parametrize("role", chains.ROLES)
TOO_WEAK = {"ValidDSASignaturesTest4", "ValidDSAParameterInheritanceTest5"}
# The list's own issuer has another path than the certificate, which libcrypto does not build.
INDIRECT = {"ValidcRLIssuerTest30"}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return pkits.Pkits(tmp_path_factory.mktemp("pkits"))


@pytest.fixture(scope="module")
def judge(module_env, pki, suite):
    return chains.Judge(module_env, pki.server, [suite.trust(with_lists) for with_lists in (False, True)])


def turned_away(answers):
    """Of the valid ones, without how they were shown."""
    return {name.partition(",")[0] for name, is_let_in in answers.items()
            if name.startswith("Valid") and not is_let_in}


@LISTS
@ROLES
def test_every_case_is_judged_as_openssl_judges_it(suite, judge, role, with_lists):
    answers = judge.agrees(role, suite.chains(with_lists), VERSIONS, most=len(suite.files))
    assert turned_away(answers) <= TOO_WEAK | (INDIRECT if with_lists else set())
    if with_lists:
        assert not [name for name, is_let_in in answers.items() if name.startswith("Invalid") and is_let_in]
