"""The examples of docs/reaching-targets.md at work, as they stand: between two network namespaces that have the
addresses and names in them, with the peers that the text speaks of."""

import pathlib
import re

import pytest

import hosts
import networks
import peers
import proxy_headers
import sockets
import socks_peers
from listener_kinds import said
from programs import Program
from waiting import wait_for

DOCUMENT = pathlib.Path(__file__).resolve().parents[3] / "docs" / "reaching-targets.md"
EXAMPLES = {
    re.search(r"- name: (\S+)", text)[1]: text
    for text in re.findall(r"^```yaml\n(server:.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
}

BITFLOW, BITFLOW6, CLIENT = "10.0.9.1", "fd00::9:1", "10.0.9.9"
# The first one is the source of connections from there.
FAR = ["10.0.0.4", "10.0.0.1", "10.0.0.2", "10.0.0.5", "10.0.0.6", "10.0.0.9", "10.0.1.5"]
FAR6 = "fd00::5"


@pytest.fixture
def far():
    """The test, and bitflow, are in the near namespace; returns the name of the far one."""
    with networks.Networks() as both:
        for name, addresses in ((both.near, [BITFLOW, CLIENT]), (both.far, FAR)):
            for address in addresses:
                both.ip("-n", name, "address", "add", f"{address}/16", "dev", "cable")
        for name, address in ((both.near, BITFLOW6), (both.far, FAR6)):
            both.ip("-n", name, "address", "add", f"{address}/64", "dev", "cable", "nodad")
        with networks.inside(both.near):
            yield both.far


def start(env, name, names=()):
    """Runs the example whose first proxy has this name, with a log and its files in the test's directory."""
    text = EXAMPLES[name].replace("/var/log/bitflow/web.json", str(env.records_path))
    text = text.replace("/run/sidecar/", f"{env.directory}/")
    config = env.write("application: {log: {level: debug}}\n" + text)
    bitflow = env.launch(config, hosts.plan(env, names))
    bitflow.wait_listening([name])
    return bitflow


def test_the_document_has_no_other_examples():
    assert set(EXAMPLES) == {"web", "to-apache", "behind-a-balancer", "out", "both", "pool"}


@pytest.mark.parametrize(
    "name, address, kind",
    [
        ("web", "10.0.0.5:8080", proxy_headers.NginxReceiver),
        ("web", "10.0.0.5:8080", proxy_headers.HaproxyReceiver),
        ("to-apache", "10.0.0.6:8080", proxy_headers.HaproxyReceiver),  # whom the same header suits
    ],
)
def test_the_receiver_of_the_header_is_told_the_client(far, env, name, address, kind):
    with networks.inside(far):
        env.enter(kind(address=address))
    start(env, name)
    client = env.connect(f"{BITFLOW}:80", source=CLIENT)
    port = str(client.getsockname()[1])
    answer = proxy_headers.ask(client)
    told = {key: answer[key] for key in ("src", "sport", "dst", "dport")}
    assert told == {"src": CLIENT, "sport": port, "dst": BITFLOW, "dport": "80"}


@pytest.mark.parametrize("options", ["send-proxy", "send-proxy-v2"])
def test_only_a_trusted_balancers_header_declares_the_client(far, env, options):
    """HAProxy in front and behind: the one behind prints the client of the one in front."""
    bitflow = start(env, "behind-a-balancer", [("backend.example.com", "10.0.1.5")])
    with networks.inside(far):
        env.enter(proxy_headers.HaproxyReceiver(address="10.0.1.5:443"))
        env.enter(proxy_headers.HaproxySender(f"{BITFLOW}:8443", options, front="10.0.0.4:443"))
    client = env.connect("10.0.0.4:443", source=CLIENT)
    own = sockets.local_name(client)
    answer = proxy_headers.ask(client)
    client.close()
    assert f"{answer['src']}:{answer['sport']}" == own
    assert (answer["dst"], answer["dport"]) == ("10.0.0.4", "443")
    record = bitflow.record_of(own)
    assert record["local"] == "10.0.0.4:443" and record["proxy_header"]["peer"].startswith("10.0.0.4:")

    stranger = env.connect(f"{BITFLOW}:8443", source=CLIENT)
    own = sockets.local_name(stranger)
    sockets.was_rejected(stranger)
    assert bitflow.record_of(own)["reason"] == "proxy_source_not_trusted"


def test_the_socks_example_falls_back_to_the_sidecar(far, env):
    """First comes the server with credentials; without it, the sidecar's Unix socket."""
    names = [("api.example.com", "10.0.1.5")]
    with networks.inside(far):
        env.serve(peers.greeter("api"), "10.0.1.5:443")
        first = socks_peers.Microsocks("me", "s3cret", names, "10.0.0.9:1080")
        second = env.enter(socks_peers.Microsocks(names=names, address="10.0.0.9:1081"))
    with first:
        path = env.directory / "socks.sock"
        relay = env.enter(Program(["socat", f"UNIX-LISTEN:{path},fork", f"TCP:{second.address}"]))
        relay.wait_answering(f"unix://{path}")
        bitflow = start(env, "out")
        greeted(env, "127.0.0.1:8443", b"api\n")
        assert [line["target"] for line in said(bitflow, "connected")] == ["api"]
    greeted(env, "127.0.0.1:8443", b"api\n")
    assert [line["target"] for line in said(bitflow, "cannot connect to the target")] == ["api"]
    assert [line["target"] for line in said(bitflow, "connected")] == ["api", "by-a-sidecar"]
    assert "s3cret" not in bitflow.stderr()


def greeted(env, address, greeting, **settings):
    """A client that gets this greeting, and then its own bytes back."""
    client = env.connect(address, **settings)
    assert sockets.receive_exactly(client, len(greeting)) == greeting
    sockets.round_trip(client)
    return client


def test_the_dual_stack_example_keeps_to_the_clients_family(far, env):
    with networks.inside(far):
        env.serve(peers.greeter("four"), "10.0.1.5:443")
        env.serve(peers.greeter("six"), f"[{FAR6}]:443")
    start(env, "both", [("backend.example.com", "10.0.1.5"), ("backend.example.com", FAR6)])
    for _ in range(2):
        greeted(env, f"{BITFLOW}:443", b"four\n")
        greeted(env, f"[{BITFLOW6}]:443", b"six\n")


def test_the_pool_example_passes_over_a_target_that_fails(far, env):
    """Each has its share; when one is down, three connections find out."""
    with networks.inside(far):
        first = peers.Server(peers.greeter("a"), "10.0.0.1:5432")
        env.serve(peers.greeter("b"), "10.0.0.2:5432")
    with first:
        bitflow = start(env, "pool")
        clients = [env.connect(f"{BITFLOW}:5432") for _ in range(6)]
        greetings = [sockets.receive_exactly(client, 2) for client in clients]
        assert sorted(greetings) == [b"a\n"] * 3 + [b"b\n"] * 3
        for client in clients:
            client.close()
        wait_for(lambda: len(said(bitflow, "both sides finished")) == 6, "all of them end")
    # Those that are kept make the other one the target with the fewest connections.
    clients = [greeted(env, f"{BITFLOW}:5432", b"b\n") for _ in range(5)]
    failures = said(bitflow, "cannot connect to the target")
    assert [line["target"] for line in failures] == ["a"] * 3
    (line,) = said(bitflow, "the target is passed over for now")
    assert (line["target"], line["failures"], line["for_ms"]) == ("a", "3", "30000")
