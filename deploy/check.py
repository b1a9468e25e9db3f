"""Reads what the chart renders (YAML on standard input) as strictly as it can, checks that its parts fit together, and
writes each file of its ConfigMap into a directory: `python check.py DIRECTORY < rendered.yaml`."""

import pathlib
import sys
import tomllib

import yaml


class Strict(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            assert keys.count(key) == 1, f"key {key!r} stands twice, {node.start_mark}"
        return super().construct_mapping(node, deep)


documents = [document for document in yaml.load_all(sys.stdin, Strict) if document]
by_kind = {}
for document in documents:
    by_kind.setdefault(document["kind"], []).append(document)


def one(kind):
    assert len(by_kind.get(kind, [])) == 1, f"{kind}: {len(by_kind.get(kind, []))} of them, not 1"
    return by_kind[kind][0]


def same(what, one_side, other):
    assert one_side == other, f"{what}: {one_side!r} is not {other!r}"


stateful, config, budget = one("StatefulSet"), one("ConfigMap"), one("PodDisruptionBudget")
name, namespace, spec = stateful["metadata"]["name"], stateful["metadata"]["namespace"], stateful["spec"]
pod = spec["template"]["spec"]
(container,) = pod["containers"]
environment = {variable["name"]: variable for variable in container["env"]}
labels = spec["template"]["metadata"]["labels"]

# Who selects pods selects these.
services = {service["metadata"]["name"]: service for service in by_kind["Service"]}
selectors = [spec["selector"]["matchLabels"], budget["spec"]["selector"]["matchLabels"]]
selectors += [service["spec"]["selector"] for service in services.values()]
selectors += [policy["spec"]["podSelector"]["matchLabels"] for policy in by_kind.get("NetworkPolicy", [])]
for selector in selectors:
    assert selector and selector.items() <= labels.items(), f"{selector} does not select {labels}"
ports = {port["name"]: port["containerPort"] for port in container["ports"]}
same("ports", ports, {"native": 9170, "flight": 9171, "http": 9172})
for service in services.values():
    for port in service["spec"]["ports"]:
        same("port", port["port"], ports[port["targetPort"]])

# Founders see each other before they are ready, and all start at once.
headless = services[spec["serviceName"]]["spec"]
same("clusterIP", headless["clusterIP"], "None")
same("publishNotReadyAddresses", headless["publishNotReadyAddresses"], True)
same("podManagementPolicy", spec["podManagementPolicy"], "Parallel")
# An update with pods that start all at once goes on only with this.
same("updateStrategy", spec["updateStrategy"], {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
same("maxUnavailable", budget["spec"]["maxUnavailable"], 1)
# A service called levada must not put variables into the environment that the server does not know.
same("enableServiceLinks", pod["enableServiceLinks"], False)
assert pod["terminationGracePeriodSeconds"] >= 20, "a hand-over takes up to 18 s"
for monitor in by_kind.get("ServiceMonitor", []):
    matched = monitor["spec"]["selector"]["matchLabels"]
    (watched,) = [s for s in services.values() if matched.items() <= s["metadata"]["labels"].items()]
    assert "http" in [port["name"] for port in watched["spec"]["ports"]], "what is watched has no metrics"

# Pod NAME-1 reads NAME-1.toml and is node 1; everybody knows it by its name in the headless service.
same("ordinals", spec["ordinals"]["start"], 1)
numbers = range(1, spec["replicas"] + 1)
same("files", sorted(config["data"]), sorted(f"{name}-{number}.toml" for number in numbers))
same("LEVADA_CONFIG", environment["LEVADA_CONFIG"]["value"], "/etc/levada/$(POD_NAME).toml")
same("POD_NAME", environment["POD_NAME"]["valueFrom"]["fieldRef"]["fieldPath"], "metadata.name")
assert list(environment).index("POD_NAME") < list(environment).index("LEVADA_CONFIG"), "it must be known before"
mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
same("mounts", mounts, {"config": "/etc/levada", "data": "/var/lib/levada"})
same("volume", pod["volumes"], [{"name": "config", "configMap": {"name": config["metadata"]["name"]}}])
suffix = f".{spec['serviceName']}.{namespace}.svc."
seeds = []
for number in numbers:
    file = f"{name}-{number}.toml"
    node = tomllib.loads(config["data"][file])
    same("node_id", node["node_id"], number)
    assert node["data_dir"].startswith("/var/lib/levada/"), "the root of a volume may have a lost+found"
    for door, address in node["advertised"].items():
        host, port = address.rsplit(":", 1)
        assert host.startswith(f"{name}-{number}{suffix}"), address
        same(door, int(port), ports[door])
        same(door, node["listen"][door].rsplit(":", 1)[1], port)
    seeds.append(f"{number}@{node['advertised']['native']}")
    pathlib.Path(sys.argv[1], file).write_text(config["data"][file])
for number in numbers:
    same("seed_nodes", tomllib.loads(config["data"][f"{name}-{number}.toml"])["seed_nodes"], seeds)
print(f"{len(documents)} documents, {spec['replicas']} nodes")
