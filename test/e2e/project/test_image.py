"""The container image: its Dockerfile does what docs/operations.md says about the image. There is no container engine
here: the commands that can run outside of one are run."""

import json
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest

import bitflow_process
import programs

ROOT = pathlib.Path(__file__).resolve().parents[3]
CONTAINERS = re.search(r"^## Containers$(.*?)^## ", (ROOT / "docs/operations.md").read_text(), re.M | re.S)[1]


def stages():
    """The Dockerfile's stages: lists of (instruction, its arguments on one line)."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, _, arguments = line.partition(" ")
        if instruction == "FROM":
            found.append([])
        found[-1].append((instruction, re.sub(r"\s+", " ", arguments)))
    return found


BUILD, IMAGE = stages()


def values(instruction, stage=None):
    return [arguments for name, arguments in stage or IMAGE if name == instruction]


def steps(stage):
    """The commands of its RUN instructions."""
    return [step for command in values("RUN", stage) for step in command.split(" && ")]


def test_the_image_runs_by_number_as_a_user_and_group_of_its_own(tmp_path):
    """What makes the user is run on an empty /etc."""
    assert values("USER") == ["10000:10000"]
    assert "`10000:10000`" in CONTAINERS
    etc = tmp_path / "etc"
    etc.mkdir()
    shutil.copy("/etc/login.defs", etc)
    root = {"passwd": "root:x:0:0::/root:/bin/sh\n", "group": "root:x:0:\n", "shadow": "", "gshadow": ""}
    for name, line in root.items():
        (etc / name).write_text(line)
    made = [shlex.split(step) for step in steps(IMAGE) if re.match(r"(groupadd|useradd) ", step)]
    for command, *arguments in made:
        done = programs.run([command, "--prefix", str(tmp_path), *arguments])
        assert done.stderr == ""
    user = (etc / "passwd").read_text().splitlines()[-1].split(":")
    group = (etc / "group").read_text().splitlines()[-1].split(":")
    assert user[0] == group[0] == "bitflow" and (user[2], user[3], group[2]) == ("10000", "10000", "10000")
    assert user[6].endswith("nologin")


def test_the_images_user_owns_no_file_and_can_read_all(tmp_path):
    """The mode of the example in the checkout does not matter: the command that copies it is run on a private one."""
    assert not any("--chown" in copy for copy in values("COPY")) and not any("chown" in step for step in steps(IMAGE))
    assert set(values("COPY")) == {
        "cmake/install-deps.sh /tmp/",
        "--from=build /usr/local/bin/bitflow /usr/local/bin/",
        "--from=build /etc/bitflow/config.yaml /etc/bitflow/",
    }
    (example,) = [shlex.split(step) for step in steps(BUILD) if "config.example.yaml" in step]
    assert example[-1] == "/etc/bitflow/config.yaml"
    (tmp_path / "config.example.yaml").write_bytes((ROOT / "config.example.yaml").read_bytes())
    (tmp_path / "config.example.yaml").chmod(0o600)
    programs.run([*example[:-1], str(tmp_path) + example[-1]], cwd=tmp_path)
    assert (tmp_path / "etc/bitflow/config.yaml").stat().st_mode & 0o777 == 0o644


def test_the_image_starts_bitflow_as_process_1_with_the_mounted_configuration():
    """There is no shell between, so that signals reach it; SIGTERM asks for the end."""
    (entry,), (arguments,) = values("ENTRYPOINT"), values("CMD")
    assert json.loads(entry) + json.loads(arguments) == ["bitflow", "--config", "/etc/bitflow/config.yaml"]
    assert ":/etc/bitflow/config.yaml:ro" in CONTAINERS and "mount yours at `/etc/bitflow/config.yaml`" in CONTAINERS
    assert values("STOPSIGNAL") == ["SIGTERM"]


@pytest.mark.parametrize("instruction", ["EXPOSE", "HEALTHCHECK"])
def test_the_image_leaves_ports_and_health_to_the_configuration(instruction):
    assert values(instruction) == [] and f"has no {instruction}" in CONTAINERS


def test_the_image_needs_no_volume():
    assert values("VOLUME") == [] and "--read-only" in CONTAINERS and "--cap-drop ALL" in CONTAINERS


def dpkg(*arguments):
    return subprocess.run(["dpkg-query", *arguments], capture_output=True, text=True, check=False).stdout


def package_of(path):
    """The package that owns this file, which it may list below /usr/lib or below /lib."""
    owners = [dpkg("-S", place).partition(":")[0] for place in (path, path.removeprefix("/usr"), "/usr" + path)]
    return next(filter(None, owners))


def test_the_images_packages_have_every_library():
    """Each library that bitflow is linked with belongs to a package that `install-deps.sh run` installs, or to a
    dependency of one."""
    program = str(bitflow_process.binary())
    if bitflow_process.is_sanitized(bitflow_process.binary()):
        pytest.skip("an image has no sanitizer's library")
    assert "sh /tmp/install-deps.sh run" in steps(IMAGE)
    script = (ROOT / "cmake/install-deps.sh").read_text()
    packages = re.search(r'^RUN_PACKAGES="(.*)"$', script, re.M)[1].replace("|", " ").split()
    packages.append(re.search(r"MBEDTLS_PACKAGE=(libmbedtls\d+)$", script, re.M)[1])
    taken = set(re.findall(r"[\w.+-]+", dpkg("-W", "-f", "${Depends}\n", *packages)))
    needed = set(re.findall(r"NEEDED.*\[(lib.*)\]", programs.run(["readelf", "-d", program]).stdout))
    loaded = dict(re.findall(r"(\S+) => (\S+)", programs.run(["ldd", program]).stdout))
    owners = {name: package_of(loaded[name]) for name in needed}
    assert len(owners) > 5
    assert not {name: owner for name, owner in owners.items() if owner not in {*packages, *taken}}
