"""What is in docs/deploy, as its own tools read it, and as tests run it: with addresses and folders of theirs."""

import functools
import json
import pathlib
import re
import subprocess
import urllib.error
import urllib.request

import yaml

import certificates
import node_peers
import programs
from kubelet_volumes import Volume
from waiting import pace

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs/deploy"
KUBERNETES = FOLDER / "kubernetes"
# Where containers find what they are given.
CONFIG_PATH = "/etc/bitflow/config.yaml"
SECRETS = "/etc/ssl/bitflow"
CONTROL = "application.control.address"
# Seconds to write the last records in, after the connections' end, on a busy machine.
END_MARGIN = 10
# What a connection takes at most, and the process without any (docs/operations.md#how-much-memory-to-grant).
CONNECTION_MEMORY = 3 << 20
PROCESS_MEMORY = 16 << 20


@functools.cache
def rendered(name):
    """The objects of a kustomization, by kubectl."""
    done = programs.run(["kubectl", "kustomize", str(KUBERNETES / name)])
    return list(yaml.safe_load_all(done.stdout))


def schema_problems(objects):
    """What the API's schemas have against them."""
    packages = {node_peers.package(name).parents[name.count("/")]
                for name in ("kubernetes-models", "@kubernetes-models/prometheus-operator")}
    script = pathlib.Path(node_peers.HERE) / "npm/kubernetes_schema.mjs"
    done = subprocess.run([node_peers.node(), str(script), str(packages.pop())], input=json.dumps(objects),
                          capture_output=True, text=True, timeout=120 * pace(), check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def of_kind(objects, *kinds):
    """The only one of these kinds."""
    (found,) = [item for item in objects if item["kind"] in kinds]
    return found


def container(workload):
    """That of bitflow: (the pod's template, the container)."""
    pod = workload["spec"]["template"]
    (found,) = [item for item in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
                if item["name"] == "bitflow"]
    return pod, found


def config_texts():
    """Every configuration of docs/deploy, by its path there."""
    return {str(path.relative_to(FOLDER)): path.read_text() for path in sorted(FOLDER.rglob("config.yaml"))}


def replaced(text, changes):
    """The text with other values of keys; each must have been there once."""
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times:\n{text}"
        text = text.replace(old, new)
    return text


def with_secrets(text, directory):
    """With another folder of keys and certificates."""
    return text.replace(f"{SECRETS}/", f"{directory}/")


def secret(identity, authority):
    """The files of a Kubernetes secret as cert-manager makes it."""
    return {"tls.key": identity.key.read_bytes(), "tls.crt": identity.certificate.read_bytes(),
            "ca.crt": pathlib.Path(authority).read_bytes()}


def self_signed_secret(directory):
    """A volume of a secret whose certificate is its own authority."""
    made = directory / "self-signed"
    made.mkdir()
    identity = certificates.self_signed(made)
    return Volume(directory / "tls", secret(identity, identity.certificate), mode=0o440)


def seconds(duration):
    """Of a duration of the configuration or of Compose in whole seconds and minutes."""
    assert re.fullmatch(r"(\d+m)?(\d+s)?", duration) and duration, duration
    return sum(int(number) * {"m": 60, "s": 1}[unit] for number, unit in re.findall(r"(\d+)([ms])", duration))


def drain_bound(config):
    """How long the end may take by the configuration."""
    server = config["server"]
    return seconds(server.get("drain_delay", "0s")) + seconds(server["drain_timeout"])


def time_to_end(config):
    """What whoever ends it must give it at least, in seconds."""
    return drain_bound(config) + END_MARGIN


def memory(quantity):
    """Bytes of a quantity of Kubernetes in whole MiB or GiB."""
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()
    return int(number) << {"Mi": 20, "Gi": 30}[unit]


def memory_bound(config):
    """What it takes with all connections that it lets in, all of which take the most."""
    limits = [entry["options"]["connection_limit"] for entry in config["server"]["proxies"]]
    return PROCESS_MEMORY + sum(limits) * CONNECTION_MEMORY


def http_probe(probe, port):
    """The status that a kubelet gets; None if nobody answers in time."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{probe['httpGet']['path']}",
                                     headers={"User-Agent": "kube-probe/1.32", "Connection": "close"})
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=probe["timeoutSeconds"] * pace()) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
