"""docs/deploy/compose: by docker-compose itself, against the image and the configuration, and its health check run."""

import json
import re
import signal
import subprocess

import yaml

import bitflow_process
import deployments
import needs
import sockets
from deployments import CONFIG_PATH, SECRETS
from programs import find
from waiting import wait_for

FOLDER = deployments.FOLDER / "compose"
FILE = FOLDER / "compose.yaml"
COMPOSE = yaml.safe_load(FILE.read_text())
SERVICE = COMPOSE["services"]["bitflow"]
TEXT = (FOLDER / "bitflow/config.yaml").read_text()
CONFIG = yaml.safe_load(TEXT)
DOCKERFILE = (deployments.ROOT / "Dockerfile").read_text()
DOCKER_COMPOSE = needs.Capability("docker-compose", lambda: needs.installed("docker-compose"))


def composed(path):
    """What docker-compose makes of a file; it asks no engine for that."""
    DOCKER_COMPOSE.need()
    return subprocess.run([find("docker-compose"), "-f", str(path), "config"], capture_output=True, text=True,
                          timeout=60, check=False)


def test_compose_accepts_the_file():
    done = composed(FILE)
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) == {"bitflow", "application"}


def test_compose_would_refuse_what_is_wrong(tmp_path):
    """Which the test above relies on."""
    path = tmp_path / "compose.yaml"
    path.write_text(deployments.replaced(FILE.read_text(), {"pids_limit:": "pid_limit:"}))
    assert composed(path).returncode != 0


def test_the_service_has_no_rights_and_its_image_does():
    assert SERVICE["user"] == re.search(r"^USER (.*)$", DOCKERFILE, re.M)[1]
    assert SERVICE["read_only"] is True and SERVICE["cap_drop"] == ["ALL"]
    assert SERVICE["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in SERVICE and "cap_add" not in SERVICE
    check = SERVICE["healthcheck"]
    declared = re.search(r"^HEALTHCHECK (.*?)\\\n\s*CMD (.*)$", DOCKERFILE, re.M)
    assert check["test"] == ["CMD", *json.loads(declared[2])]
    times = dict(re.findall(r"--([\w-]+)=(\w+)", declared[1]))
    assert times == {key.replace("_", "-"): str(value) for key, value in check.items() if key != "test"}
    assert (FOLDER / SERVICE["build"]["context"] / "Dockerfile").samefile(deployments.ROOT / "Dockerfile")


def test_the_service_has_the_time_and_the_files_that_its_configuration_takes():
    assert deployments.seconds(SERVICE["stop_grace_period"]) >= deployments.time_to_end(CONFIG)
    assert SERVICE["command"] == ["--config", CONFIG_PATH]
    mounts = dict(volume.removesuffix(":ro").split(":")[::-1] for volume in SERVICE["volumes"])
    assert all(volume.endswith(":ro") for volume in SERVICE["volumes"])
    assert mounts == {"/etc/bitflow": "./bitflow", SECRETS: "./tls"}
    assert CONFIG["application"]["watch_configuration"] is True
    threads = 2 * CONFIG["server"]["proxies"][0]["options"]["connection_limit"]
    assert threads < SERVICE["pids_limit"] and threads < SERVICE["ulimits"]["nofile"]["soft"]


def test_bitflow_is_the_only_way_to_the_application():
    application, networks = COMPOSE["services"]["application"], COMPOSE["networks"]
    (entry,) = CONFIG["server"]["proxies"]
    (target,) = entry["targets"]
    assert SERVICE["ports"] == [f"443{entry['listener']['address']}"]
    assert f"application:{application['expose'][0]}" == target["address"]
    assert application["networks"] == ["isolated"] and networks["isolated"]["internal"] is True
    assert "isolated" in SERVICE["networks"] and "ports" not in application


def test_the_health_check_tells_whether_it_runs(env):
    control, front = (f"127.0.0.1:{sockets.free_port()}" for _ in range(2))
    secret = deployments.self_signed_secret(env.directory)
    text = deployments.replaced(TEXT, {"127.0.0.1:9090": control, "address: :8443": f"address: {front}",
                                       "application:8080": env.echo().address})
    config = env.write(deployments.with_secrets(text, secret.directory))
    program, *arguments = SERVICE["healthcheck"]["test"][1:]
    assert program == "bitflow"
    arguments = [str(config) if argument == CONFIG_PATH else argument for argument in arguments]
    assert bitflow_process.run(*arguments).returncode == 1
    bitflow = env.launch(config)
    wait_for(lambda: bitflow_process.run(*arguments).returncode == 0, lambda: bitflow.stderr(), 30)
    bitflow.signal(signal.SIGTERM)
    assert bitflow.wait_ended(deployments.seconds(SERVICE["stop_grace_period"])) == 0
    assert bitflow_process.run(*arguments).returncode == 1
