"""The Debian package that cpack makes of this build: what is in it, that lintian has nothing to say, that it comes and
goes without a trace. lintian, which takes ten seconds, with BITFLOW_NIGHTLY=1; at all times its overrides are those
that the scripts call for."""

import gzip
import json
import pathlib
import re
import subprocess

import pytest

import bitflow_process
import debian
import programs
from waiting import pace, takes_long

ROOT = pathlib.Path(__file__).resolve().parents[3]
DOC = "usr/share/doc/bitflow"


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The two packages, by name; made by one cpack from what is built."""
    build = bitflow_process.binary().parent
    if bitflow_process.is_sanitized(bitflow_process.binary()):
        pytest.skip("a sanitizer's build is not packed")
    directory = tmp_path_factory.mktemp("packages")
    programs.run(["cpack", "-G", "DEB", "--config", str(build / "CPackConfig.cmake"), "-B", str(directory)],
                 cwd=directory)
    made = {path.name.partition("_")[0]: path for path in directory.glob("*.deb")}
    assert set(made) == {"bitflow", "bitflow-dbgsym"}
    return made


@pytest.fixture(scope="module")
def tree(packages, tmp_path_factory):
    """What the package installs."""
    directory = tmp_path_factory.mktemp("tree")
    programs.run(["dpkg-deb", "--extract", str(packages["bitflow"]), str(directory)])
    return directory


def field(package, name):
    return programs.run(["dpkg-deb", "--field", str(package), name]).stdout.strip()


@takes_long
def test_lintian_has_nothing_to_say(packages):
    done = subprocess.run(
        [programs.find("lintian"), "--allow-root", "--fail-on", "error,warning", "--pedantic",
         *map(str, packages.values())],
        capture_output=True, text=True, timeout=120 * pace(), check=False)
    assert (done.returncode, done.stdout) == (0, ""), done


def test_an_override_gives_its_reason():
    lines = (ROOT / "packaging/debian/lintian-overrides").read_text().splitlines()
    tags = [number for number, line in enumerate(lines) if not line.startswith("#")]
    assert tags and all(number > 0 and lines[number - 1].startswith("#") for number in tags)


def test_the_package_has_its_files_and_no_others(tree):
    found = {str(path.relative_to(tree)) for path in tree.rglob("*") if not path.is_dir()}
    docs = {name for name in found if name.startswith(f"{DOC}/docs/")}
    assert {f"{DOC}/docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= docs
    units = {name for name in found if name.startswith("usr/lib/systemd/system/")}
    assert {pathlib.Path(unit).name for unit in units} <= {"bitflow.service", "bitflow.socket"}
    assert found - docs - units == {
        "usr/bin/bitflow", "etc/bitflow/config.yaml", "etc/logrotate.d/bitflow",
        "usr/share/bash-completion/completions/bitflow", "usr/share/lintian/overrides/bitflow",
        "usr/share/man/man1/bitflow.1.gz", "usr/share/man/man5/bitflow.yaml.5.gz",
        f"{DOC}/README.md", f"{DOC}/config.example.yaml", f"{DOC}/bitflow.spdx.json", f"{DOC}/copyright",
        f"{DOC}/changelog.gz", f"{DOC}/changelog.Debian.gz",
    }
    assert (tree / "etc/bitflow/config.yaml").read_bytes() == (ROOT / "config.example.yaml").read_bytes()
    modes = {path.stat().st_mode & 0o7777 for path in tree.rglob("*") if path.is_file()}
    assert modes <= {0o644, 0o755}


def test_the_package_needs_the_libraries_that_it_is_linked_with(packages):
    """By the names and versions that dpkg-shlibdeps gives them."""
    needed = field(packages["bitflow"], "Depends")
    for name in ("libc6", "libcurl", "libjansson", "libmbedtls", "libssl", "libyaml", "zlib1g"):
        assert re.search(rf"(^|, ){name}\S*( \(>= [^)]+\))?(,|$)", needed), needed


def test_the_version_is_that_of_the_program_and_of_the_changelog(packages, tree):
    version = re.match(r"bitflow (\S+)", bitflow_process.run("--version").stdout)[1]
    assert field(packages["bitflow"], "Version") == f"{version}-1"
    changelog = gzip.decompress((tree / DOC / "changelog.Debian.gz").read_bytes()).decode()
    assert changelog.startswith(f"bitflow ({version}-1) ")
    assert gzip.decompress((tree / DOC / "changelog.gz").read_bytes()) == (ROOT / "CHANGELOG.md").read_bytes()


def test_the_bill_of_materials_has_what_the_program_is_linked_with(tree):
    """What SPDX 2.3 requires is there; each relation is of packages that are; the libraries' packages are Debian's."""
    document = json.loads((tree / DOC / "bitflow.spdx.json").read_text())
    assert (document["spdxVersion"], document["dataLicense"], document["SPDXID"]) == (
        "SPDX-2.3", "CC0-1.0", "SPDXRef-DOCUMENT")
    assert document["documentNamespace"].startswith("https://") and "#" not in document["documentNamespace"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", document["creationInfo"]["created"])
    assert document["creationInfo"]["creators"] and document["name"]
    known = {package["SPDXID"]: package for package in document["packages"]}
    assert len(known) == len(document["packages"])
    assert all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", identifier) for identifier in known)
    assert all(package["name"] and package["downloadLocation"] for package in known.values())
    for relation in document["relationships"]:
        assert {relation["spdxElementId"], relation["relatedSpdxElement"]} <= {*known, "SPDXRef-DOCUMENT"}
    linked = programs.run(["ldd", str(bitflow_process.binary())]).stdout
    paths = [path.removeprefix("/usr") for path in re.findall(r"(?:=> |\t)(/\S+)", linked)]
    found = debian.query("-S", *paths, *(f"/usr{path}" for path in paths))
    owners = {line.partition(":")[0] for line in found.splitlines()}
    assert len(owners) > 8 and {package["name"] for package in known.values()} == {"bitflow", *owners}


def test_what_a_debugger_needs_is_in_a_package_of_its_own(packages, tree, tmp_path):
    """The program keeps the names of its functions; its build ID leads to the rest."""
    programs.run(["dpkg-deb", "--extract", str(packages["bitflow-dbgsym"]), str(tmp_path)])
    (debug,) = [path for path in tmp_path.rglob("*.debug")]
    program = tree / "usr/bin/bitflow"
    build_id = re.search(r"Build ID: ([0-9a-f]+)", programs.run(["readelf", "-n", str(program)]).stdout)[1]
    assert debug.relative_to(tmp_path) == pathlib.Path(
        f"usr/lib/debug/.build-id/{build_id[:2]}/{build_id[2:]}.debug")
    assert field(packages["bitflow-dbgsym"], "Build-Ids") == build_id
    sections = programs.run(["readelf", "-SW", str(program)]).stdout
    assert ".symtab" in sections and ".debug_info" not in sections
    assert ".debug_info" in programs.run(["readelf", "-SW", str(debug)]).stdout
    assert "connection_serve" in programs.run(["nm", str(program)]).stdout
    assert program.stat().st_size < bitflow_process.binary().stat().st_size / 2


def test_the_packed_program_works(tree):
    done = programs.run([str(tree / "usr/bin/bitflow"), "--version"])
    assert done.stdout == bitflow_process.run("--version").stdout
    programs.run([str(tree / "usr/bin/bitflow"), "--check", "--config", str(tree / "etc/bitflow/config.yaml")])


def test_the_packages_scripts_are_plain_shell_and_ask_for_systemctl_as_the_override_says(packages, tmp_path):
    """By dash, as they run; a script that needs no override has none."""
    programs.run(["dpkg-deb", "--control", str(packages["bitflow"]), str(tmp_path)])
    scripts = {name: (tmp_path / name).read_text() for name in ("postinst", "postrm", "prerm")}
    for name, text in scripts.items():
        assert text.startswith("#!/bin/sh\nset -e\n") or "\nset -e\n" in text
        programs.run(["dash", "-n", str(tmp_path / name)])
    asking = {name for name, text in scripts.items()
              if re.search(r"^ *(if )?systemctl (?!--system daemon-reload)", text, re.M)}
    overrides = (ROOT / "packaging/debian/lintian-overrides").read_text()
    assert asking == set(re.findall(r"maintainer-script-calls-systemctl \[(\w+):", overrides)) == {"postinst"}


# ---- into a root of its own, and out of it again

class Machine:
    """An empty root with a package database, whose packages' scripts run outside of it, as dpkg knows how to."""

    def __init__(self, root):
        self.root = root
        for name in ("info", "updates", "triggers"):
            (root / "var/lib/dpkg" / name).mkdir(parents=True)
        for name in ("status", "available"):
            (root / "var/lib/dpkg" / name).touch()
        for name in ("var/log/private", "etc", "tmp"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def dpkg(self, *arguments):
        return programs.run(["dpkg", f"--root={self.root}", "--force-script-chrootless", "--force-depends",
                             "--force-confold", *map(str, arguments)])

    def files(self):
        """All but dpkg's own."""
        found = {str(path.relative_to(self.root)) for path in self.root.rglob("*") if not path.is_dir()}
        return {name for name in found if not name.startswith(("var/lib/dpkg/", "var/log/dpkg", "var/log/alter"))}


def test_it_is_installed_upgraded_and_purged_without_a_trace(packages, tmp_path):
    machine = Machine(tmp_path)
    before = machine.files()
    machine.dpkg("--install", packages["bitflow"])
    assert (tmp_path / "usr/bin/bitflow").is_file()
    enabled = {name for name in machine.files() if re.search(r"etc/systemd/system/.*\.wants/", name)}
    assert not enabled, "a service whose configuration is an example is not enabled"

    config = tmp_path / "etc/bitflow/config.yaml"
    config.write_text("# mine\n")
    logs = tmp_path / "var/log/private/bitflow"
    logs.mkdir()
    (logs / "web.json").write_text("{}\n")
    machine.dpkg("--install", packages["bitflow"])
    assert config.read_text() == "# mine\n"

    machine.dpkg("--remove", "bitflow")
    assert config.read_text() == "# mine\n" and (logs / "web.json").exists()
    assert not (tmp_path / "usr/bin/bitflow").exists()

    machine.dpkg("--purge", "bitflow")
    assert machine.files() == before and not logs.exists() and not config.parent.exists()


def test_a_purge_leaves_what_the_administrator_put_there(packages, tmp_path):
    machine = Machine(tmp_path)
    machine.dpkg("--install", packages["bitflow"])
    key = tmp_path / "etc/bitflow/server.key"
    key.write_text("secret\n")
    machine.dpkg("--purge", "bitflow")
    assert key.read_text() == "secret\n"
