"""docs/deploy/prometheus: the alert rules, by Prometheus' own tool and against a real process's metrics."""

import pathlib
import re
import subprocess

import pytest
import yaml

import prometheus_peers
from environment import proxy
from programs import find
from tls_cases import tls_listener, tls_target

FOLDER = pathlib.Path(__file__).resolve().parents[3] / "docs/deploy/prometheus"
RULES = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]


def promtool(*arguments, folder=FOLDER):
    return subprocess.run(
        [find("promtool"), *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def test_rules_pass_their_own_tests():
    prometheus_peers.PROMETHEUS.need()
    for arguments in (("check", "rules", "alerts.yaml"), ("test", "rules", "alerts_test.yaml")):
        done = promtool(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", [rule["alert"] for rule in RULES])
def test_a_rule_that_never_fires_is_noticed(tmp_path, name):
    prometheus_peers.PROMETHEUS.need()
    rules = [rule | {"expr": f"({rule['expr']}) > Inf"} if rule["alert"] == name else rule for rule in RULES]
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump({"groups": [{"name": "bitflow", "rules": rules}]}))
    (tmp_path / "alerts_test.yaml").write_text((FOLDER / "alerts_test.yaml").read_text())
    assert promtool("test", "rules", "alerts_test.yaml", folder=tmp_path).returncode != 0


def test_the_documented_job_is_one_that_the_rules_ask_for():
    document = (FOLDER.parents[1] / "metrics.md").read_text()
    (job,) = re.findall(r"- job_name: (\S+)", document)
    asked = {matcher for rule in RULES for matcher in re.findall(r'job=~"(.*?)"', rule["expr"])}
    assert asked and all(re.fullmatch(matcher, job) for matcher in asked)


def test_a_process_has_what_the_rules_and_their_tests_name(env, pki):
    web = env.address()
    target = tls_target(env.refusing(), pki.trusted, pki.client)
    env.start(proxy(env.address(), target, listener=tls_listener(pki.server)),
              application={"control": {"address": web}})
    samples = prometheus_peers.parse(prometheus_peers.scrape(web)) | {("up", frozenset()): 1}
    labels = prometheus_peers.labels_of(samples)
    series = yaml.safe_load((FOLDER / "alerts_test.yaml").read_text())["tests"][0]["input_series"]
    for entry in series:
        prometheus_peers.assert_has(samples, entry["series"], "alerts_test.yaml")
    for rule in RULES:
        prometheus_peers.assert_has(samples, rule["expr"], rule["alert"])
        names = [name for name, _ in prometheus_peers.SELECTOR.findall(rule["expr"])]
        told = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert told <= set.intersection(*(labels[name] for name in names)), rule["alert"]
