"""What docs/deploy describes, run: bitflow with the containers' arguments and configurations, on addresses and in
folders of the test's, asked by the probes as a kubelet asks."""

import signal

import pytest

import bitflow_process
import deployments
import sockets
import tls_raw
from deployments import container, of_kind, rendered
from kubelet_volumes import Volume
from tls_cases import tls_client, tls_echo
from waiting import pace, wait_for


class Pod:
    """One of a workload: its volumes, and bitflow in it once it is started."""

    def __init__(self, env, name, files, changes):
        self.env = env
        self.objects = rendered(name)
        self.spec, self.container = container(of_kind(self.objects, "Deployment", "DaemonSet"))
        self.control = sockets.free_port()
        (old,) = [entry["containerPort"] for entry in self.container.get("ports", []) if entry["name"] == "control"] \
            or [9090]
        self.text = of_kind(self.objects, "ConfigMap")["data"]["config.yaml"]
        host = "127.0.0.1" if f"address: 127.0.0.1:{old}\n" in self.text else ""
        self.changes = {f"address: {host}:{old}\n": f"address: 127.0.0.1:{self.control}\n", **changes}
        self.secret = Volume(env.directory / "tls", files, mode=0o440)
        self.configuration = Volume(env.directory / "etc", {"config.yaml": self.moved(self.text)})
        self.bitflow = None

    def moved(self, text):
        text = deployments.replaced(text, self.changes)
        return deployments.with_secrets(text, self.secret.directory).encode()

    def path(self, argument):
        return argument.replace("/etc/bitflow/", f"{self.configuration.directory}/")

    def start(self):
        option, path = map(self.path, self.container["args"])
        assert option == "--config"
        self.bitflow = self.env.launch(path)

    def probe(self, kind):
        return deployments.http_probe(self.container[kind], self.control)

    def command(self, kind):
        """The exit status of a probe that is a command."""
        program, *arguments = self.container[kind]["exec"]["command"]
        assert program == "bitflow"
        timeout = self.container[kind]["timeoutSeconds"] * pace()
        return bitflow_process.run(*map(self.path, arguments), timeout=timeout).returncode

    def wait(self, kind, status, ask=None):
        wait_for(lambda: (ask or self.probe)(kind) == status,
                 lambda: f"{kind} says {status}: {(ask or self.probe)(kind)} {self.bitflow.stderr()[-2000:]}", 30)


def moved_to(old, new):
    return {f"address: {old}\n": f"address: {new}\n"}


@pytest.fixture
def front():
    return f"127.0.0.1:{sockets.free_port()}"


def deployed(env, pki, front, **changes):
    """A pod of the deployment, ready."""
    pod = Pod(env, "deployment", deployments.secret(pki.server, pki.root.certificate), {
        **moved_to(":8443", front), **moved_to("backend.app.svc.cluster.local:8080", env.echo().address),
        "authorized_sources: [10.0.0.0/8]": "authorized_sources: [127.0.0.0/8]", **changes,
    })
    pod.start()
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        pod.wait(kind, 200)
    pod.bitflow.resting = pod.bitflow.descriptors()
    return pod


def test_a_deployments_pod_leaves_as_its_probes_and_its_configuration_say(env, pki, front):
    """Told to end, it is not ready at once, serves who still comes during drain_delay, and ends within the time that
    Kubernetes gives it. A second signal cuts the delay short."""
    pod = deployed(env, pki, front)
    context = tls_raw.client_context(pki.root.certificate, pki.client)
    live = tls_client(env, front, context)
    live.round_trip()
    pod.bitflow.signal(signal.SIGTERM)
    pod.wait("readinessProbe", 503)
    late = tls_client(env, front, context)
    late.round_trip()
    live.round_trip()
    assert (pod.probe("livenessProbe"), pod.probe("readinessProbe")) == (200, 503)
    late.close()
    pod.bitflow.signal(signal.SIGTERM)
    wait_for(lambda: sockets.refuses(front), "the delay is over")
    live.round_trip()
    live.close()
    assert pod.bitflow.wait_ended(pod.spec["spec"]["terminationGracePeriodSeconds"]) == 0


def test_a_renewed_secret_and_a_changed_configmap_come_into_force(env, pki, front):
    """As the kubelet swaps them; who is connected stays so. Who has no certificate is refused before and after."""
    pod = deployed(env, pki, front, **{"drain_delay: 40s": "drain_delay: 0s"})
    context = tls_raw.client_context(pki.root.certificate, pki.client)
    live = tls_client(env, front, context)
    assert live.peer_fingerprint() == pki.server.fingerprint
    assert refused_without_a_certificate(env, front)
    pod.secret.write(deployments.secret(pki.second_server, pki.root.certificate))
    pod.configuration.write({"config.yaml": pod.moved(pod.text.replace("name: backend", "name: other"))})

    def is_renewed():
        client = tls_client(env, front, context)
        client.close()
        return client.peer_fingerprint() == pki.second_server.fingerprint

    wait_for(is_renewed, lambda: pod.bitflow.stderr()[-3000:], 30, every=0.1)
    wait_for(lambda: '"name": "other"' in config_in_force(pod), lambda: pod.bitflow.stderr()[-3000:], 30, every=0.1)
    assert refused_without_a_certificate(env, front)
    live.round_trip()
    live.close()


def refused_without_a_certificate(env, front):
    stranger = tls_raw.Tls(env.connect(front), tls_raw.client_context(), server_name="server.test")
    return tls_raw.refusal(stranger) == "certificate_required"


def config_in_force(pod):
    done = bitflow_process.run("control", "--socket", f"127.0.0.1:{pod.control}", "--json", "config")
    return done.stdout


def test_a_sidecar_takes_the_applications_plain_connection_to_a_tls_server(env, pki):
    """Its probes are commands. Until bitflow runs they say no, so that the application does not start."""
    outcomes = []
    target = env.serve(tls_echo(tls_raw.server_context(pki.server, pki.root.certificate), outcomes))
    address = f"127.0.0.1:{sockets.free_port()}"
    pod = Pod(env, "sidecar", deployments.secret(pki.client, pki.root.certificate),
              {**moved_to("127.0.0.1:5432", address), **moved_to("db.isolated.example.com:5432", target.address)})
    assert pod.command("startupProbe") == 1
    pod.start()
    pod.wait("startupProbe", 0, pod.command)
    assert pod.command("livenessProbe") == 0
    pod.bitflow.resting = pod.bitflow.descriptors()
    client = env.connect(address)
    sockets.round_trip(client)
    client.close()
    (end,) = outcomes
    assert end.version_and_cipher()[0] == "TLSv1.3"
    pod.bitflow.signal(signal.SIGTERM)
    assert pod.bitflow.wait_ended(pod.spec["spec"]["terminationGracePeriodSeconds"]) == 0
