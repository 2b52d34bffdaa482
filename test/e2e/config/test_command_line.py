"""The command line: options, exit statuses, --check, --version, --help."""

import re
import signal
import subprocess

import pytest

import bitflow_process
import compiled
import configs
import sockets
from environment import proxy
from waiting import wait_for

GOOD = configs.with_line("top", "")


def test_version_names_the_release_and_the_arithmetic():
    done = bitflow_process.run("--version")
    assert done.returncode == 0 and done.stderr == ""
    assert re.fullmatch(r"bitflow v?\d+\.\d+(\.\d+)?[^\n]*\n"
                        r"arithmetic: (libcrypto \(OpenSSL 3\.[\w.-]+\)|mbedTLS 3\.[\w.-]+)\n"
                        r"([\w ]+: [^\n]+\n)+",
                        done.stdout), done.stdout


REPLACED = ("mbedtls_ecp_mul", "mbedtls_ecp_mul_restartable", "mbedtls_ecp_muladd", "mbedtls_ecp_muladd_restartable",
            "mbedtls_rsa_public", "mbedtls_rsa_private", "mbedtls_ecdsa_write_signature_restartable",
            "mbedtls_internal_sha256_process", "mbedtls_internal_sha512_process")


def test_version_tells_whose_arithmetic_runs():
    """The dynamic linker says where mbedTLS's library finds each function that the program replaces."""
    done = bitflow_process.run("--version", environment={"LD_DEBUG": "bindings"})
    assert done.returncode == 0
    bound = {name: target for target, name in re.findall(
        r"binding file \S*/libmbedcrypto\S* \[0\] to (\S+) \[0\]: normal symbol `(\w+)'", done.stderr)}
    assert "mbedtls_ecp_mul" in bound or "mbedTLS" in done.stdout, done.stderr[-2000:]
    ours = [name for name in REPLACED if bound.get(name) == str(bitflow_process.binary())]
    assert ours == (list(REPLACED) if "arithmetic: libcrypto" in done.stdout else []), bound


def test_version_names_mbedtls_when_its_functions_cannot_be_replaced(tmp_path):
    """As in a library that was linked with -Bsymbolic."""
    environment = compiled.changed_library("libmbedcrypto", tmp_path, compiled.AS_LINKED, compiled.AS_BY_BSYMBOLIC)
    done = bitflow_process.run("--version", environment=environment)
    assert done.returncode == 0 and re.search(r"^arithmetic: mbedTLS 3\.[\d.]+$", done.stdout, re.M), done


def test_help_names_the_options_in_short_lines():
    done = bitflow_process.run("--help")
    assert done.returncode == 0 and done.stderr == ""
    for word in ("--config", "--check", "--strict", "--version", "--help"):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 110


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--unknown"],
        ["-z"],
        ["--config"],
        ["--check"],
        ["extra"],
        ["--config", "a", "extra"],
        ["--check", "--config"],
        ["--config="],
        ["--config", ""],
        ["--version=1"],
        ["--check=yes", "--config", "a"],
        ["--", "--config"],
        ["--strict", "--config", "a"],
        ["--check", "--strict"],
        ["--check", "--strict=yes", "--config", "a"],
    ],
    ids=lambda arguments: " ".join(argument or "''" for argument in arguments) or "none",
)
def test_a_wrong_command_line_ends_with_status_2_and_a_short_message(arguments):
    done = bitflow_process.run(*arguments)
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr != "" and len(done.stderr.splitlines()) < 10


@pytest.mark.parametrize(
    "settings, spares, place, what",
    [
        ({"resolve_timeout": "5s"}, 0, r"7: warning: .*targets\[0\]\.resolve_timeout", "means nothing without "),
        ({"proxy_timeout": "5s"}, 0, r"7: warning: .*targets\[0\]\.proxy_timeout", "means nothing without "),
        ({"connect_backoff": "5s"}, 0, r"7: warning: .*targets\[0\]\.connect_backoff", "means nothing without "),
        ({}, 1, r"5: warning: .*\[0\]\.targets", "only the first is used without connection_load_balancer"),
    ],
    ids=["resolve_timeout", "proxy_timeout", "connect_backoff", "targets"],
)
def test_a_setting_without_effect_is_a_warning(env, settings, spares, place, what):
    """On stderr with --check, in the log at the start and after a reload; the configuration is used all the same."""
    targets = [{"address": env.echo().address, **settings}, *[env.refusing()] * spares]
    address = env.address()
    path = env.config(proxy(address, *targets))
    done = bitflow_process.run("--check", "--config", path)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert re.match(rf"{re.escape(str(path))}:\d+:{place}: {what}", line), line
    bitflow = env.start(proxy(address, *targets))
    sockets.round_trip(env.connect(address))
    for count in (1, 2):
        logged = [entry["warning"] for entry in bitflow.log_lines(True) if entry["msg"] == "configuration warning"]
        assert logged == [line] * count
        bitflow.signal(signal.SIGHUP)
        wait_for(lambda: bitflow.stderr().count("msg=reloaded") == count, "the reload")


def test_each_proxy_of_several_targets_without_a_balancer_is_warned_of(env):
    """To choose a balancer, even `none`, avoids the warning."""
    balancers = ["none", "failover", "round-robin", "least-connections", "sni"]
    entries = [proxy(env.address(), *[env.refusing()] * 2, name=name) for name in ("one", "two")]
    entries += [proxy(env.address(), *[env.refusing()] * 2, name=each, connection_load_balancer=each)
                for each in balancers]
    done = bitflow_process.run("--check", "--config", env.config(*entries, proxy(env.address(), env.refusing())))
    assert done.returncode == 0
    warned_of = re.findall(r": warning: server\.proxies\[(\d+)\]\.targets", done.stderr)
    assert warned_of == ["0", "1"] and len(done.stderr.splitlines()) == 2, done.stderr


def test_every_form_of_the_config_option_is_accepted(env):
    path = env.write(GOOD)
    for arguments in (
        ["--check", "--config", path],
        ["--config", path, "--check"],
        ["--check", f"--config={path}"],
        ["--check", "--strict", "--config", path],
        ["--strict", "--config", path, "--check"],
    ):
        done = bitflow_process.run(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), arguments


def test_check_binds_nothing_and_creates_nothing(env):
    """A busy address, a live socket file or a log that cannot be opened is not the configuration's fault."""
    taken, live = env.listen(), env.listen(env.unix("live.sock"))
    path = env.config(
        proxy(taken.address, env.address(), name="a", connection_log=str(env.directory / "new.log")),
        proxy(live.address, env.address(), name="b"),
        proxy(env.unix("new.sock"), env.address(), name="c"),
        proxy("fd://99", env.address(), name="d"),
    )
    done = bitflow_process.run("--check", "--config", path)
    assert done.returncode == 0, done.stderr
    assert not (env.directory / "new.log").exists() and not (env.directory / "new.sock").exists()
    assert not taken.has_pending() and not live.has_pending(), "the check connected to something"


def test_check_finds_what_the_start_finds(env):
    path = env.write(configs.with_line("listener", "adress: x"))
    check, start = (bitflow_process.run(*extra, "--config", path) for extra in (["--check"], []))
    assert check.returncode == start.returncode == 2
    assert check.stderr == start.stderr


def test_a_relative_path_is_named_as_given(env, monkeypatch):
    env.write(configs.with_line("listener", "adress: x"), "relative.yaml")
    monkeypatch.chdir(env.directory)
    done = bitflow_process.run("--check", "--config", "relative.yaml")
    assert done.stderr.startswith("relative.yaml:6:9: "), done.stderr


def test_a_full_disk_behind_standard_output_ends_with_status_1(env):
    for option in ("--help", "--version"):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [str(bitflow_process.binary()), option], stdout=full, stderr=subprocess.PIPE, timeout=60
            )
        assert done.returncode == 1, f"{option} into a full disk: {done}"
