"""docs/deploy/kubernetes: by the API's own schemas, and each part against the others, the image and the program."""

import copy
import ipaddress
import re

import pytest
import yaml

import bitflow_process
import deployments
import networks
import programs
from deployments import CONFIG_PATH, CONTROL, SECRETS, container, of_kind, rendered

NAMES = ["deployment", "monitoring", "daemonset", "daemonset-monitoring", "sidecar"]
WORKLOADS = ["deployment", "daemonset", "sidecar"]
README = (deployments.FOLDER / "README.md").read_text()
OPERATIONS = (deployments.ROOT / "docs/operations.md").read_text()
ALL_ADDRESSES = re.compile(r"^:(\d+)$")


def workload(name):
    """(the workload, its pod's template, bitflow's container, the configuration)"""
    objects = rendered(name)
    found = of_kind(objects, "Deployment", "DaemonSet")
    config = yaml.safe_load(of_kind(objects, "ConfigMap")["data"]["config.yaml"])
    return found, *container(found), config


def port_of(address):
    return int(address.rpartition(":")[2])


def reached_ports(config):
    """Those of the configuration that others than the pod itself can reach: {port: whether it is the control's}."""
    addresses = [(config["application"]["control"]["address"], True),
                 *((entry["listener"]["address"], False) for entry in config["server"]["proxies"])]
    return {int(match[1]): is_control for address, is_control in addresses
            if (match := ALL_ADDRESSES.match(address))}


def test_every_manifest_is_valid_by_the_apis_schemas():
    objects = [item for name in NAMES for item in rendered(name)]
    assert len(objects) == 17
    problems = deployments.schema_problems(objects)
    assert not problems, "\n".join(problems)


def test_the_schemas_refuse_what_is_wrong():
    """Which the test above relies on: one fault in each object."""
    faults = {
        "Namespace": lambda item: item["metadata"].update(label={}),
        "ConfigMap": lambda item: item["data"].update(number=1),
        "Deployment": lambda item: item["spec"].pop("selector"),
        "Service": lambda item: item["spec"].update(type="Balancer"),
        "NetworkPolicy": lambda item: item["spec"]["ingress"][0].update({"form": []}),
        "PodDisruptionBudget": lambda item: item["spec"].update(maxUnavailabel=1),
        "PodMonitor": lambda item: item["spec"]["podMetricsEndpoints"][0].update(ports="control"),
        "ResourceQuota": lambda item: item["spec"]["scopeSelector"]["matchExpressions"][0].pop("operator"),
    }
    others = [of_kind(rendered("daemonset-monitoring"), "PodMonitor"), of_kind(rendered("daemonset"), "ResourceQuota")]
    objects = copy.deepcopy([*rendered("deployment"), *others])
    for item in objects:
        faults[item["kind"]](item)
    problems = deployments.schema_problems(objects)
    assert {problem.split()[1] for problem in problems} == set(faults), problems


@pytest.mark.parametrize("path", deployments.config_texts())
def test_a_configuration_is_valid(tmp_path, path):
    """That whoever connects can read the control socket is warned of; a NetworkPolicy says who can. Nothing else is."""
    secret = deployments.self_signed_secret(tmp_path)
    text = deployments.with_secrets(deployments.config_texts()[path], secret.directory)
    config = tmp_path / "config.yaml"
    config.write_text(text)
    done = bitflow_process.run("--check", "--strict", "--config", config)
    address = yaml.safe_load(text)["application"]["control"]["address"]
    if ALL_ADDRESSES.match(address):
        warning, refused = done.stderr.splitlines()
        assert path.startswith("kubernetes/") and done.returncode == 2
        assert f"warning: {CONTROL}: can be read by whoever can connect" in warning
        assert refused.endswith("refused because of the warning (--strict)")
    else:
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", WORKLOADS)
def test_ports_are_those_of_the_configuration(name):
    _, _, bitflow, config = workload(name)
    ports = {port["containerPort"]: port["name"] == "control" for port in bitflow.get("ports", [])}
    assert ports == reached_ports(config)
    assert len({port["name"] for port in bitflow.get("ports", [])}) == len(ports)
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        if (probe := bitflow.get(kind)) and "httpGet" in probe:
            assert probe["httpGet"]["port"] == "control"


@pytest.mark.parametrize("name", ["deployment", "daemonset"])
def test_a_pod_is_asked_for_its_health_and_whether_it_is_ready(name):
    _, _, bitflow, _ = workload(name)
    assert bitflow["startupProbe"]["httpGet"]["path"] == bitflow["livenessProbe"]["httpGet"]["path"] == "/health"
    assert bitflow["readinessProbe"]["httpGet"]["path"] == "/ready"
    # The main thread has 5 s to answer.
    assert bitflow["livenessProbe"]["timeoutSeconds"] > 5 and bitflow["livenessProbe"]["failureThreshold"] > 1


def services_of(pod, name):
    """Those by which clients come to the pods."""
    labels = pod["metadata"]["labels"].items()
    return [item["spec"] for item in rendered(name) if item["kind"] == "Service"
            and item["spec"]["selector"].items() <= labels]


@pytest.mark.parametrize("name", ["deployment", "daemonset"])
def test_who_is_still_sent_to_a_pod_that_ends_is_served_for_the_whole_delay(name):
    """With externalTrafficPolicy: Local a node's only pod gets clients after its deletion only while its readiness
    probe counts as passed (KEP-1669), and the balancer finds out without the probe. Everywhere else it is the probe
    that must have failed before the delay is over."""
    _, pod, bitflow, config = workload(name)
    delay = deployments.seconds(config["server"]["drain_delay"])
    probe = bitflow["readinessProbe"]
    # From the first no, which may be at once, to the last one.
    soonest = probe["periodSeconds"] * (probe["failureThreshold"] - 1)
    latest = probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]
    is_local = [service["externalTrafficPolicy"] == "Local" for service in services_of(pod, name)]
    assert is_local == ([True] if name == "deployment" else [])
    if is_local:
        assert soonest > delay
        assert delay >= 3 * 10 + 5, "a cloud's check: three noes, 10 s apart, and what it does then"
    else:
        assert latest < delay


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_configurations_bounds_are_within_the_time_to_end(name):
    _, pod, bitflow, config = workload(name)
    assert pod["spec"]["terminationGracePeriodSeconds"] >= deployments.time_to_end(config)
    assert "preStop" not in bitflow.get("lifecycle", {})


@pytest.mark.parametrize("name", WORKLOADS)
def test_all_connections_in_bulk_are_within_the_limit_of_memory(name):
    """Beyond it the kernel kills the process."""
    _, _, bitflow, config = workload(name)
    assert deployments.memory(bitflow["resources"]["limits"]["memory"]) >= deployments.memory_bound(config)


def test_a_connection_takes_no_more_with_the_documented_bounds_of_sockets(tmp_path):
    """Which the host of a network namespace takes: a direction has a socket that sends and one that receives."""
    told = re.search(r"^### How much memory to grant\n(.*?)^## ", OPERATIONS, re.M | re.S)[1]
    command = tmp_path / "bounds.sh"
    command.write_text(re.search(r"^```sh\n(.*?)^```$", told, re.M | re.S)[1])
    with networks.Networks() as hosts, networks.inside(hosts.near):
        programs.run(["sh", "-e", str(command)])
        in_force = [programs.run(["sysctl", "-n", f"net.ipv4.{name}"]).stdout for name in ("tcp_rmem", "tcp_wmem")]
    own = int(re.search(r"own buffers and pipes \| (\d+) KiB a direction", told)[1]) << 10
    assert deployments.CONNECTION_MEMORY == 2 * (own + sum(int(values.split()[2]) for values in in_force))
    assert f"{deployments.CONNECTION_MEMORY >> 20} MiB a connection" in told
    assert f"{deployments.PROCESS_MEMORY >> 20} MiB for the process" in told


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_pod_is_what_the_restricted_standard_wants_and_more(name):
    """But for the daemonset's hostPort, for which its namespace is of its own."""
    _, pod, bitflow, _ = workload(name)
    spec = pod["spec"]
    (user,) = re.findall(r"^USER (\d+):(\d+)$", (deployments.ROOT / "Dockerfile").read_text(), re.M)
    security = {**spec["securityContext"], **bitflow["securityContext"]}
    assert (security["runAsUser"], security["runAsGroup"]) == tuple(map(int, user))
    assert security["runAsNonRoot"] is True and security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security["readOnlyRootFilesystem"] is True and security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert spec["automountServiceAccountToken"] is False
    assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
    assert "cpu" in bitflow["resources"]["requests"]
    host_ports = {port["name"]: port["hostPort"] for port in bitflow.get("ports", []) if "hostPort" in port}
    assert host_ports == ({"tls": 443, "control": 9180} if name == "daemonset" else {})


def test_namespaces_enforce_what_their_pods_keep_to():
    for name, level in (("deployment", "restricted"), ("daemonset", "privileged")):
        namespace = of_kind(rendered(name), "Namespace")
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == level
        others = {item["metadata"]["namespace"] for item in rendered(name) if item is not namespace}
        assert others == {namespace["metadata"]["name"]}


@pytest.mark.parametrize("name", WORKLOADS)
def test_what_the_configuration_names_is_mounted(name):
    """In folders, which are renewed; keys by a secret's name alone, readable to bitflow's group."""
    _, pod, bitflow, config = workload(name)
    mounts = {mount["name"]: mount for mount in bitflow["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert set(mounts) == set(volumes)
    assert all(mount["readOnly"] and "subPath" not in mount for mount in mounts.values())
    places = [mount["mountPath"] for mount in mounts.values()]
    assert not any(one.startswith(f"{other}/") for one in places for other in places)
    assert bitflow["args"] == ["--config", CONFIG_PATH] and mounts["config"]["mountPath"] == "/etc/bitflow"
    config_map = of_kind(rendered(name), "ConfigMap")
    assert volumes["config"]["configMap"]["name"] == config_map["metadata"]["name"]
    assert list(config_map["data"]) == ["config.yaml"] and config["application"]["watch_configuration"] is True
    files = re.findall(r"(/\S+/)tls\.key|(/\S+/)(?:tls|ca)\.crt", config_map["data"]["config.yaml"])
    folders = {one or other for one, other in files}
    assert folders == ({f"{mounts['tls']['mountPath']}/"} if "tls" in mounts else set())
    if "tls" in volumes:
        assert mounts["tls"]["mountPath"] == SECRETS
        assert volumes["tls"]["projected"]["defaultMode"] == 0o440
        assert pod["spec"]["securityContext"]["fsGroup"] == 10000


@pytest.mark.parametrize("name, own, peers", [("deployment", "bitflow-tls", "bitflow-clients"),
                                              ("sidecar", "app-bitflow-tls", "app-bitflow-servers")])
def test_who_is_believed_is_not_said_by_the_secret_of_the_own_certificate(name, own, peers):
    """Whose ca.crt, if it has one, is the issuer of that certificate."""
    _, pod, _, _ = workload(name)
    (volume,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "tls"]
    files = {source["secret"]["name"]: [(item["key"], item["path"]) for item in source["secret"]["items"]]
             for source in volume["projected"]["sources"]}
    assert files == {own: [("tls.key", "tls.key"), ("tls.crt", "tls.crt")], peers: [("ca.crt", "ca.crt")]}
    if name == "deployment":
        made = re.findall(r"^kubectl -n bitflow create secret (tls|generic) (\S+) (.*)$", README, re.M)
        assert made == [("tls", own, "--key=tls.key --cert=tls.crt"), ("generic", peers, "--from-file=ca.crt")]


def test_there_is_no_secret_in_the_folder():
    for path in deployments.FOLDER.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert "PRIVATE KEY" not in text and not re.search(r"^kind: Secret$", text, re.M), path


@pytest.mark.parametrize("name", WORKLOADS)
def test_selectors_are_the_pods_labels(name):
    found, pod, _, _ = workload(name)
    labels = pod["metadata"]["labels"]
    selectors = [found["spec"]["selector"]["matchLabels"]]
    selectors += [entry["labelSelector"]["matchLabels"] for entry in pod["spec"].get("topologySpreadConstraints", [])]
    for item in rendered(name):
        if item["kind"] == "Service":
            selectors.append(item["spec"]["selector"])
        if item["kind"] == "PodDisruptionBudget":
            selectors.append(item["spec"]["selector"]["matchLabels"])
        if item["kind"] == "NetworkPolicy":
            selectors.append(item["spec"]["podSelector"]["matchLabels"])
    assert selectors and all(selector == labels for selector in selectors)


def test_clients_are_let_in_by_the_same_addresses_everywhere():
    objects = rendered("deployment")
    _, _, bitflow, config = workload("deployment")
    service, policy = of_kind(objects, "Service")["spec"], of_kind(objects, "NetworkPolicy")["spec"]
    listener = config["server"]["proxies"][0]["listener"]
    blocks = [entry["ipBlock"]["cidr"] for entry in policy["ingress"][0]["from"]]
    assert listener["authorized_sources"] == service["loadBalancerSourceRanges"] == blocks
    assert service["externalTrafficPolicy"] == "Local"
    # The control port is none of the balancer's.
    assert [port["targetPort"] for port in service["ports"]] == ["tls"]
    names = {port["name"]: port["containerPort"] for port in bitflow["ports"]}
    assert names["tls"] == port_of(listener["address"])


@pytest.mark.parametrize("name", ["deployment", "daemonset"])
def test_a_policy_lets_in_clients_and_prometheus_and_out_to_targets_and_dns(name):
    _, _, bitflow, config = workload(name)
    policy = of_kind(rendered(name), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    let_in = [[port["port"] for port in rule["ports"]] for rule in policy["ingress"]]
    host_ports = {port["name"] for port in bitflow["ports"] if "hostPort" in port}
    assert let_in == [["tls"], ["control"], *([["control"]] if "control" in host_ports else [])]
    for rule in policy["ingress"][2:]:  # what asks /ready at the node's port: some addresses, not everybody
        assert all(ipaddress.ip_network(entry["ipBlock"]["cidr"]).num_addresses <= 16 for entry in rule["from"])
    assert {port["name"] for port in bitflow["ports"]} == {"tls", "control"}
    (prometheus,) = policy["ingress"][1]["from"]
    assert prometheus["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}
    assert prometheus["podSelector"]["matchLabels"]
    targets, dns = policy["egress"]
    addresses = [target["address"] for entry in config["server"]["proxies"] for target in entry["targets"]]
    assert {port_of(address) for address in addresses} == {port["port"] for port in targets["ports"]}
    (to,) = targets["to"]
    namespace = to["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    assert all(address.split(".", 1)[1].startswith(f"{namespace}.svc.") for address in addresses)
    assert {(port["port"], port["protocol"]) for port in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    pods, cache = dns["to"]
    assert pods["podSelector"]["matchLabels"] == {"k8s-app": "kube-dns"}
    assert cache == {"ipBlock": {"cidr": "169.254.20.10/32"}}


def test_a_nodes_balancer_asks_at_the_port_that_the_node_has():
    """As HAProxy's documented file does."""
    _, _, bitflow, _ = workload("daemonset")
    haproxy = (deployments.FOLDER / "haproxy/haproxy.cfg").read_text()
    (asked,) = re.findall(r"^ *default-server check port (\d+) ", haproxy, re.M)
    assert int(asked) in [port.get("hostPort") for port in bitflow["ports"] if port["name"] == "control"]


def test_a_critical_priority_is_allowed_where_it_takes_a_quota():
    _, pod, _, _ = workload("daemonset")
    quota = of_kind(rendered("daemonset"), "ResourceQuota")["spec"]
    (scope,) = quota["scopeSelector"]["matchExpressions"]
    assert scope == {"scopeName": "PriorityClass", "operator": "In", "values": [pod["spec"]["priorityClassName"]]}
    assert set(quota["hard"]) == {"pods"} and int(quota["hard"]["pods"]) > 5000  # the nodes of the largest clusters


def test_the_nodes_pods_are_monitored():
    monitor = of_kind(rendered("daemonset-monitoring"), "PodMonitor")
    found, pod, bitflow, _ = workload("daemonset")
    assert monitor["metadata"]["namespace"] == found["metadata"]["namespace"] == "bitflow-gateway"
    assert monitor["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["path"] == "/metrics" and endpoint["port"] in {port["name"] for port in bitflow["ports"]}


def test_the_monitor_finds_the_pods_control_port():
    service, monitor = (of_kind(rendered("monitoring"), kind) for kind in ("Service", "ServiceMonitor"))
    _, pod, _, config = workload("deployment")
    assert service["metadata"]["namespace"] == monitor["metadata"]["namespace"] == "bitflow"
    assert service["spec"]["selector"] == pod["metadata"]["labels"]
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= service["metadata"]["labels"].items()
    # And not the clients' service, which has no such port.
    assert not wanted.items() <= of_kind(rendered("deployment"), "Service")["metadata"]["labels"].items()
    (endpoint,), (port,) = monitor["spec"]["endpoints"], service["spec"]["ports"]
    assert endpoint["port"] == port["name"] and endpoint["path"] == "/metrics"
    assert port["targetPort"] == "control" and port["port"] == port_of(config["application"]["control"]["address"])


def test_the_operator_gets_the_alert_rules_of_prometheus():
    alerts = yaml.safe_load((deployments.FOLDER / "prometheus/alerts.yaml").read_text())
    assert of_kind(rendered("monitoring"), "PrometheusRule")["spec"] == alerts
    # The job's name is the service's; the rules ask for it.
    jobs = {matcher for rule in alerts["groups"][0]["rules"] for matcher in re.findall(r'job=~"(.*?)"', rule["expr"])}
    (service,) = {of_kind(rendered("monitoring"), "Service")["metadata"]["name"]}
    assert jobs and all(re.fullmatch(job, service) for job in jobs)


def test_all_run_one_image_of_this_version_with_known_arguments():
    images = {workload(name)[2]["image"] for name in WORKLOADS}
    compose = yaml.safe_load((deployments.FOLDER / "compose/compose.yaml").read_text())
    images.add(compose["services"]["bitflow"]["image"])
    (image,) = images
    version = bitflow_process.run("--version").stdout.split()[1]
    assert image.endswith(f"/bitflow:{version}")
    known = bitflow_process.run("--help").stdout
    for name in WORKLOADS:
        assert all(f" {argument} " in known for argument in workload(name)[2]["args"] if argument.startswith("-"))


def test_a_rollout_and_a_disruption_leave_pods_that_serve():
    found, pod, _, _ = workload("deployment")
    budget = of_kind(rendered("deployment"), "PodDisruptionBudget")["spec"]
    assert found["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert 0 < budget["maxUnavailable"] < found["spec"]["replicas"]
    spread = {entry["topologyKey"]: entry for entry in pod["spec"]["topologySpreadConstraints"]}
    assert set(spread) == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    assert spread["kubernetes.io/hostname"]["whenUnsatisfiable"] == "DoNotSchedule"
    # Nodes that the pods can't be on would count as empty ones.
    assert all(entry["nodeTaintsPolicy"] == "Honor" for entry in spread.values())


def test_a_sidecar_is_up_before_the_application_and_ends_after_it():
    found, pod, bitflow, config = workload("sidecar")
    assert bitflow in pod["spec"]["initContainers"] and bitflow["restartPolicy"] == "Always"
    (application,) = pod["spec"]["containers"]
    (listener,) = [entry["listener"]["address"] for entry in config["server"]["proxies"]]
    assert {"name": "DATABASE_ADDRESS", "value": listener} in application["env"]
    assert listener.startswith("127.0.0.1:") and "volumeMounts" not in application
    assert application["securityContext"]["runAsUser"] != bitflow["securityContext"]["runAsUser"]
    commands = [bitflow[kind]["exec"]["command"] for kind in ("startupProbe", "livenessProbe")]
    assert commands[1] == ["bitflow", "health", "--config", CONFIG_PATH]
    # 30 s are the application's own.
    period = found["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert period >= 30 + deployments.time_to_end(config)
