"""The container image: its Dockerfile does what docs/operations.md says about the image. What can run outside of a
container engine is run so, and buildah makes the image of it."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess

import pytest
import yaml

import bitflow_process
import containers
import control_socket
import needs
import programs
import sockets
from environment import proxy
from waiting import pace, wait_for

ROOT = pathlib.Path(__file__).resolve().parents[3]
NIGHTLY = os.environ.get("BITFLOW_NIGHTLY") == "1"
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


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The image's file system, made of this machine's libraries as the build stage makes it of its own."""
    if bitflow_process.is_sanitized(bitflow_process.binary()):
        pytest.skip("an image has no sanitizer's library")
    (step,) = [step for step in steps(BUILD) if "make-root.sh" in step]
    assert step.endswith(" build/release /image") and values("COPY") == ["--from=build /image /"]
    place = tmp_path_factory.mktemp("image") / "root"
    programs.run(["sh", str(ROOT / "packaging/container/make-root.sh"), str(bitflow_process.binary().parent),
                  str(place)])
    return place


def test_the_image_runs_by_number_as_a_user_who_owns_no_file(root):
    assert values("USER") == ["10000:10000"] and "`10000:10000`" in CONTAINERS
    assert re.search(r"^bitflow:x:10000:10000:", (root / "etc/passwd").read_text(), re.M)
    assert not any("--chown" in copy for copy in values("COPY"))
    files = [path for path in root.rglob("*") if not path.is_symlink()]
    assert all(path.stat().st_mode & 0o004 and path.stat().st_uid != 10000 for path in files)
    assert [path for path in files if path.stat().st_mode & 0o002] == [root / "tmp"]


def test_the_image_is_small_and_has_no_shell(root):
    size = sum(path.lstat().st_size for path in root.rglob("*"))
    assert size < 40 * 1000 * 1000
    programs_there = {path.name for path in root.rglob("*bin/*")}
    assert programs_there == {"bitflow"}


def test_the_image_serves_as_process_1_without_rights_and_read_only(env, root):
    """With a configuration of the test's, in a process namespace; its stdout is a pipe of root's. The image's
    HEALTHCHECK, in there as the same user, says that it is well, and gdb sees it from outside."""
    echo, address = env.echo(), env.address()
    config = env.config(proxy(address, echo.address, connection_log="stdout"),
                        application=control_socket.setting(env.address()))
    command = ["/usr/local/bin/bitflow", "--config", "/etc/bitflow/config.yaml"]
    with containers.running(root, config, "10000:10000", command) as (process, pid):
        client = wait_for(lambda: reached(address), "it listens")
        sockets.round_trip(client)
        client.close()
        record = json.loads(process.stdout.readline())
        assert record["reason"] == "completed"
        containers.assert_process_1_without_rights(pid, "10000")
        checked = health(root, pid)
        assert (checked.returncode, checked.stdout) == (0, "healthy\n"), checked
        assert "waits for signals" in debugged(pid)
        os.kill(int(pid), signal.SIGTERM)
        assert process.wait(20 * pace()) == 0


def health_command():
    (check,) = values("HEALTHCHECK")
    return check, json.loads(check.partition("CMD ")[2])


def health(root, pid):
    """The command of HEALTHCHECK in a container's file system, with the image's PATH."""
    (path,) = values("ENV")
    return subprocess.run(
        ["nsenter", "--mount", "--target", pid, "env", f"{path}:{os.environ['PATH']}", "chroot",
         "--userspec=10000:10000", "--groups=", str(root), *health_command()[1]],
        capture_output=True, text=True, timeout=30 * pace(), check=False)


def test_the_health_check_is_the_documented_one_and_waits_longer_than_the_answer_may_take(root):
    """The main thread is given 5 s; the image's own configuration has the socket that is asked."""
    check, command = health_command()
    assert command == ["bitflow", "health", "--config", "/etc/bitflow/config.yaml"]
    documented = re.search(r"^HEALTHCHECK CMD (.*)$", (ROOT / "docs/control.md").read_text(), re.M)[1]
    assert json.loads(documented) == command
    durations = dict(re.findall(r"--(interval|timeout|start-period)=(\d+)s", check))
    assert int(durations["interval"]) > int(durations["timeout"]) > 5 and int(durations["start-period"]) > 0
    config = yaml.safe_load((root / "etc/bitflow/config.yaml").read_text())
    address = config["application"]["control"]["address"]
    assert address == "127.0.0.1:9090" and f"application.control.address: {address}" in CONTAINERS


def debugged(pid):
    """What gdb's command for threads says, started as docs/debugging.md says of a container."""
    needs.TRACING.need()
    programs.find("gdb")
    text = (ROOT / "docs/debugging.md").read_text().partition("\n## In a container\n")[2]
    command = re.search(r"^```sh\n(gdb .*?)```", text, re.M | re.S)[1].rstrip().replace("PID", pid)
    done = programs.run(["sh", "-c", f"{command} -batch -iex 'set debuginfod enabled off' -ex 'bitflow threads'"])
    return done.stdout


def reached(address):
    try:
        return sockets.connect(address)
    except OSError:
        return None


def test_the_images_own_configuration_listens_on_all_addresses(root):
    done = programs.run(["chroot", "--userspec=10000:10000", str(root), "/usr/local/bin/bitflow", "--check", "--strict",
                         "--config", "/etc/bitflow/config.yaml"])
    assert "is valid" in done.stdout
    assert "address: :8080\n" in (root / "etc/bitflow/config.yaml").read_text() and values("EXPOSE") == ["8080"]


def test_the_image_starts_bitflow_as_process_1_with_the_mounted_configuration():
    """There is no shell between, so that signals reach it; SIGTERM asks for the end."""
    (entry,), (arguments,) = values("ENTRYPOINT"), values("CMD")
    assert json.loads(entry) + json.loads(arguments) == ["bitflow", "--config", "/etc/bitflow/config.yaml"]
    assert ":/etc/bitflow/config.yaml:ro" in CONTAINERS and "mount yours at `/etc/bitflow/config.yaml`" in CONTAINERS
    assert values("STOPSIGNAL") == ["SIGTERM"]


def test_the_image_needs_no_volume():
    assert values("VOLUME") == [] and "--read-only" in CONTAINERS and "--cap-drop ALL" in CONTAINERS


@pytest.fixture(scope="module")
def image(tmp_path_factory, root):
    """(its root file system, what it says of itself). With BITFLOW_NIGHTLY=1 of the whole Dockerfile, whose base has
    this machine's packages; otherwise of its last stage. Nothing is fetched: FROM names what is in a storage here."""
    needs.BUILDAH.need()
    buildah = containers.Buildah(tmp_path_factory.mktemp("buildah"))
    try:
        if NIGHTLY:
            containers.build_all(buildah)
        else:
            containers.build_last_stage(buildah, root)
        told = json.loads(buildah("inspect", "--type", "image", "localhost/bitflow"))
        yield pathlib.Path(buildah("mount", buildah("from", "--pull-never", "localhost/bitflow"))), told["Docker"]
    finally:
        shutil.rmtree(buildah.directory, ignore_errors=True)


def test_the_built_image_says_how_it_is_to_be_run(image):
    files, told = image
    config = told["config"]
    assert (config["User"], config["StopSignal"]) == ("10000:10000", "SIGTERM")
    assert list(config["ExposedPorts"]) == ["8080/tcp"] and not config.get("Volumes")
    assert config["Labels"]["org.opencontainers.image.title"] == "bitflow"
    check = config["Healthcheck"]
    assert check["Test"] == ["CMD", "bitflow", "health", "--config", "/etc/bitflow/config.yaml"]
    assert check["Retries"] == 3 and check["Timeout"] == 8_000_000_000
    names = {path.name for path in files.rglob("*bin/*")}
    assert names == {"bitflow"} and sum(path.lstat().st_size for path in files.rglob("*")) < 40_000_000


def test_the_built_image_serves_as_process_1_as_it_says_read_only_and_without_rights(env, image):
    files, told = image
    config = told["config"]
    variables = dict(variable.split("=", 1) for variable in config["Env"])
    program, *arguments = config["Entrypoint"] + config["Cmd"]
    address = env.address()
    path = env.config(proxy(address, env.echo().address, connection_log="stdout"),
                      application=control_socket.setting(env.address()))
    command = [f"{variables['PATH']}/{program}", *arguments]
    with containers.running(files, path, config["User"], command) as (process, pid):
        client = wait_for(lambda: reached(address), "it listens")
        sockets.round_trip(client)
        client.close()
        assert json.loads(process.stdout.readline())["reason"] == "completed"
        containers.assert_process_1_without_rights(pid, config["User"].partition(":")[0])
        os.kill(int(pid), signal.SIGTERM)
        assert process.wait(20 * pace()) == 0
