// Reads a JSON list of Kubernetes objects from standard input, and prints a JSON list of what is wrong with them by the
// API's own schemas. Argument: the directory of the packages.

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const CORE = "kubernetes-models/_schemas/IoK8sApi";
const OPERATOR =
  "@kubernetes-models/prometheus-operator/_schemas/ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoring";
const SCHEMAS = {
  "v1 ConfigMap": `${CORE}CoreV1ConfigMap`,
  "v1 Namespace": `${CORE}CoreV1Namespace`,
  "v1 ResourceQuota": `${CORE}CoreV1ResourceQuota`,
  "v1 Service": `${CORE}CoreV1Service`,
  "apps/v1 DaemonSet": `${CORE}AppsV1DaemonSet`,
  "apps/v1 Deployment": `${CORE}AppsV1Deployment`,
  "networking.k8s.io/v1 NetworkPolicy": `${CORE}NetworkingV1NetworkPolicy`,
  "policy/v1 PodDisruptionBudget": `${CORE}PolicyV1PodDisruptionBudget`,
  "monitoring.coreos.com/v1 PodMonitor": `${OPERATOR}V1PodMonitor`,
  "monitoring.coreos.com/v1 PrometheusRule": `${OPERATOR}V1PrometheusRule`,
  "monitoring.coreos.com/v1 ServiceMonitor": `${OPERATOR}V1ServiceMonitor`,
};

// The schemas allow keys that they don't know, where the API (and kubectl) would refuse them. But a validator looks at
// each key that its schema has: those that it never looked at are unknown.
function watched(value, path, unread) {
  if (value === null || typeof value !== "object") return value;
  if (!Array.isArray(value)) Object.keys(value).forEach((key) => unread.add(`${path}/${key}`));
  const inner = new Map();
  return new Proxy(value, {
    get(target, key) {
      if (typeof key === "symbol" || !Object.hasOwn(target, key)) return target[key];
      unread.delete(`${path}/${key}`);
      if (!inner.has(key)) inner.set(key, watched(target[key], `${path}/${key}`, unread));
      return inner.get(key);
    },
  });
}

const problems = [];
for (const object of JSON.parse(readFileSync(0))) {
  const kind = `${object.apiVersion} ${object.kind}`;
  const name = `${kind} ${object.metadata.name}`;
  if (!SCHEMAS[kind]) {
    problems.push(`${name}: there is no schema of this kind`);
    continue;
  }
  const { validate } = await import(pathToFileURL(`${process.argv[2]}/${SCHEMAS[kind]}.js`));
  const unread = new Set();
  if (!validate(watched(object, "", unread)))
    problems.push(...validate.errors.map((error) => `${name}: ${error.instancePath}: ${JSON.stringify(error.params)}`));
  problems.push(...[...unread].map((path) => `${name}: ${path}: unknown key`));
}
console.log(JSON.stringify(problems));
