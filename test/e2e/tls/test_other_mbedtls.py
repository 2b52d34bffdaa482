"""bitflow does not start with an mbedTLS that it cannot rely on, whatever it was built with."""

import pytest

import bitflow_process
import compiled
import waiting
from environment import proxy

BUILT = "bitflow: mbedTLS was built otherwise than bitflow needs it: "


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    bitflow_process.note_sanitizer()
    if waiting.SANITIZED:
        pytest.skip("a sanitizer's library has to be loaded first")
    return compiled.shared_object("other_mbedtls", tmp_path_factory.mktemp("mbedtls"))


@pytest.mark.parametrize(
    "other, told",
    [
        ("old", "bitflow: mbed TLS 3.6.0 is too old: 3.6.1 or later is needed"),
        ("MBEDTLS_THREADING_PTHREAD", BUILT),
        ("MBEDTLS_SSL_KEEP_PEER_CERTIFICATE", BUILT),
        ("limiting", BUILT),
        ("as it was", None),
    ],
)
def test_an_mbedtls_that_is_not_as_needed_is_refused(env, library, other, told):
    config = env.config(proxy(env.address(), env.refusing()))
    environment = {"LD_PRELOAD": str(library), "OTHER_MBEDTLS": other}
    done = bitflow_process.run("--check", "--config", config, environment=environment)
    assert done.returncode == (1 if told else 0), done.stderr
    assert done.stderr.startswith(told or "")


# What the SSL library asks others for, and how the test has it ask in vain for bitflow's.
ASKED_FOR = {
    "mbedtls_x509_crt_parse_der": 1,
    "mbedtls_x509_crt_verify_restartable": 1,
    "mbedtls_pk_verify_restartable": 0,
}
NO_CERTIFICATES = "the cryptographic libraries do not fit together: mbedTLS does not leave certificates to libcrypto\n"
NO_SIGNATURES = "warning: mbedTLS does not leave signatures to bitflow: "


@pytest.fixture(scope="module")
def detour(library, tmp_path_factory):
    return compiled.shared_object("past_bitflow", tmp_path_factory.mktemp("detour"))


@pytest.mark.parametrize("function", ASKED_FOR)
def test_an_mbedtls_that_goes_past_bitflows_functions_is_found_out(env, detour, tmp_path, function):
    """It asks for a function by another name, which leads to mbedTLS's own."""
    before, after = (f"\0{name}\0".encode() for name in (function, function[:-1] + "_"))
    environment = compiled.changed_library("libmbedtls", tmp_path, before, after)
    config = env.config(proxy(env.address(), env.refusing()))
    done = bitflow_process.run("--check", "--config", config, environment={**environment, "LD_PRELOAD": str(detour)})
    assert done.returncode == ASKED_FOR[function], done
    assert (NO_CERTIFICATES if done.returncode else NO_SIGNATURES) in done.stderr


def test_an_ssl_library_that_calls_its_own_functions_is_warned_of(env, tmp_path):
    environment = compiled.changed_library("libmbedtls", tmp_path, compiled.AS_LINKED, compiled.AS_BY_BSYMBOLIC)
    config = env.config(proxy(env.address(), env.refusing()))
    for changed, warnings in (({}, 0), (environment, 1)):
        done = bitflow_process.run("--check", "--strict", "--config", config, environment=changed)
        assert done.returncode == 0 and done.stderr.count(NO_SIGNATURES) == warnings, done
