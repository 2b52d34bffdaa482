"""Fixtures of the end-to-end suite. Run by Debian's pytest: /usr/bin/python3 -m pytest test/e2e

The binary is the one named in BITFLOW, else build/release/bitflow of the checkout. BITFLOW_TEST_SCALE scales
volumes and counts, BITFLOW_TEST_PACE stretches deadlines; both follow the kind of the binary when not set.
BITFLOW_NIGHTLY=1 runs what has too many cases for each run in full.
"""

import pathlib
import resource
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import bitflow_process  # noqa: E402  (the path comes first)
import certificates  # noqa: E402
from environment import Environment  # noqa: E402

OUTCOME = pytest.StashKey()


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if call.when == "call":
        item.stash[OUTCOME] = report.passed


@pytest.fixture(scope="session", autouse=True)
def many_descriptors():
    """The suite holds thousands of sockets itself."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.fixture(scope="session", autouse=True)
def bitflow_binary():
    bitflow_process.note_sanitizer()
    return bitflow_process.binary()


@pytest.fixture
def env(request):
    environment = Environment()
    yield environment
    if request.node.stash.get(OUTCOME, False):
        environment.finish()
        return
    for number, bitflow in enumerate(environment.bitflows):
        text = bitflow.stderr()
        request.node.add_report_section("call", f"bitflow {number} stderr", text[-6000:])
        print(f"--- stderr of bitflow {number}, its end:\n{text[-6000:]}")
    environment.abandon()


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    return certificates.Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def module_env():
    """An environment that a module's tests share."""
    environment = Environment()
    yield environment
    environment.finish()
