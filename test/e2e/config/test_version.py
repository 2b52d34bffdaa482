"""What --version says of the libraries and of the build, beside the release and the arithmetic (test_command_line)."""

import re
import subprocess

import pytest

import bitflow_process
import debian
import programs
import waiting


def version_lines(environment=None):
    done = bitflow_process.run("--version", environment=environment)
    assert done.returncode == 0, done
    return dict(line.split(": ", 1) for line in done.stdout.splitlines()[1:])


# How their files are named, behind the version that the library itself tells.
LIBRARY_FILES = {"libcurl": "libcurl", "jansson": "libjansson", "libyaml": "libyaml", "zlib": "libz"}


def test_version_tells_the_libraries_that_are_loaded():
    """Debian's package of the file that the dynamic linker takes has that version, too."""
    told = version_lines()
    assert told["arithmetic"] in (f"libcrypto (OpenSSL {told['OpenSSL'].split()[0]})",
                                  f"mbedTLS {told['mbedTLS'].split()[0]}")
    linked = subprocess.run(["ldd", bitflow_process.binary()], capture_output=True, text=True, check=True).stdout
    for name, file in {**LIBRARY_FILES, "mbedTLS": "libmbedtls", "OpenSSL": "libcrypto"}.items():
        path = re.search(rf"{file}\S* => (\S+)", linked)[1]
        version = re.match(r"[\d.]+", told[name])[0]
        package = debian.package_of(path)
        assert package, f"{path} belongs to no package"
        assert debian.upstream_version(package).startswith(version), f"{name}: {version}, and {package}"


def test_version_tells_what_differs_from_the_build(tmp_path):
    """Another libjansson, which says that it is of another version."""
    if waiting.SANITIZED:
        pytest.skip("a sanitizer's runtime has to be the first library")
    source = tmp_path / "other.c"
    source.write_text('const char *jansson_version_str(void) { return "2.99"; }\n')
    other = tmp_path / "other.so"
    programs.run(["cc", "-shared", "-fPIC", "-o", str(other), str(source)])
    built = version_lines()["jansson"]
    assert "built with" not in built
    assert version_lines({"LD_PRELOAD": str(other)})["jansson"] == f"2.99 (built with {built})"


def test_version_tells_how_it_was_built():
    told = version_lines()
    cache = (bitflow_process.binary().parent / "CMakeCache.txt").read_text()
    assert told["build type"] == re.search(r"^CMAKE_BUILD_TYPE:\w+=(.*)$", cache, re.M)[1]
    assert told["sanitizers"] == (re.search(r"^BITFLOW_SANITIZE:\w+=(.+)$", cache, re.M) or ["", "none"])[1]
    assert re.match(r"(gcc|Clang|Debian Clang|clang) ?\S*", told["compiler"], re.I)
    header = programs.run(["readelf", "-lWd", str(bitflow_process.binary())]).stdout
    hardening = told["hardening"].split(", ")
    assert ("RELRO" in hardening) == ("GNU_RELRO" in header)
    assert ("immediate binding" in hardening) == bool(re.search(r"FLAGS_1.*NOW", header))
    assert ("PIE" in hardening) == bool(re.search(r"FLAGS_1.*PIE", header))
    assert ("no executable stack" in hardening) == bool(re.search(r"GNU_STACK.* RW ", header))
    if told["build type"] == "Release":
        assert len(hardening) == 6 and any(measure.startswith("_FORTIFY_SOURCE=") for measure in hardening)
