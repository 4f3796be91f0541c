"""The parts of Kubernetes manifests that all pods of a run share."""

from __future__ import annotations

import re
from dataclasses import dataclass

import yaml

from ...common.errors import UserError
from ...common.json_object import JsonObject

Manifest = JsonObject  # an object as YAML has it

CONFIG_FOLDER = "/etc/prolong"  # configuration and scripts, of the ConfigMap
SECRET_FOLDER = "/run/prolong/secret"  # keys, of the Secret
KEYS_FOLDER = "/run/prolong/keys"  # keys as prolong takes them: buffer.keys
WORK_FOLDER = "/prolong"  # of the image; relative paths of models and prompt files begin here
START = [f"{CONFIG_FOLDER}/start.sh"]
HTTP_PORT = 9100  # run.http_port: each pod has its ports to itself, and so the first one
START_S = 1200  # a process answers within this time after its start
USER = 1000  # of the image, and the group of its volumes


@dataclass(frozen=True, kw_only=True, slots=True)
class Pod:
    """A pod with one container, which runs `sh ARGS`."""

    args: list[str]
    labels: dict[str, str]
    image: str
    config_map: str
    config_hash: str  # pods are replaced when it changes
    secret: str
    secret_files: list[str]
    grace_s: int  # from SIGTERM to SIGKILL
    requests: dict[str, str]  # resource -> amount
    node_selector: dict[str, str]
    mounts: dict[str, str]  # claim -> where it is mounted, to be read
    env: dict[str, str]
    priority: str  # name of a PriorityClass, or ""
    tolerated: list[str]  # keys of taints
    claim: str = ""  # holds the run folder; "": it is as short-lived as the pod


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stay readable, and nothing is written as a reference to something above."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _Dumper.represent_text)


def to_yaml(objects: list[Manifest]) -> str:
    """A stream of documents."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=128, allow_unicode=True)


def document(api: str, kind: str, name: str) -> Manifest:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name}}


def kube_name(name: str, key: str, most: int) -> str:
    """`name` in lower-case letters, digits and hyphens, as Kubernetes and SkyPilot have it. Raises: UserError naming `key`."""
    allowed = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not allowed or len(allowed) > most:
        raise UserError(
            f"{key} = {name!r}: expected at most {most} letters, digits and hyphens, which name things in Kubernetes"
        )
    return allowed


def labels_of(run: str, component: str) -> dict[str, str]:
    """The labels of the objects of a run, or of one component of it."""
    labels = {"app.kubernetes.io/name": "prolong", "app.kubernetes.io/instance": run}
    return labels | ({"app.kubernetes.io/component": component} if component else {})


def data_key(file: str) -> str:
    """The name of a file in a Secret, whose keys hold no slash."""
    return file.replace("/", "_")


def secret(name: str, files: dict[str, str]) -> Manifest:
    data = {data_key(file): text for file, text in sorted(files.items())}
    return {**document("v1", "Secret", name), "type": "Opaque", "stringData": data}


def pod_template(pod: Pod) -> Manifest:
    """The template of a pod that the strictest of the Pod Security Standards, `restricted`, admits."""
    tolerations = [{"key": key, "operator": "Exists"} for key in pod.tolerated]
    spec: Manifest = {
        "terminationGracePeriodSeconds": pod.grace_s,
        "automountServiceAccountToken": False,
        "securityContext": {
            **{"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(pod)],
        "volumes": _volumes(pod),
    }
    spec |= {"nodeSelector": pod.node_selector} if pod.node_selector else {}
    spec |= {"tolerations": tolerations} if tolerations else {}
    spec |= {"priorityClassName": pod.priority} if pod.priority else {}
    annotations = {"prolong/config": pod.config_hash}
    annotations |= {"prometheus.io/scrape": "true", "prometheus.io/port": str(HTTP_PORT)}
    return {"metadata": {"labels": dict(pod.labels), "annotations": annotations}, "spec": spec}


def _container(pod: Pod) -> Manifest:
    own = {
        name: {"fieldRef": {"fieldPath": path}} for name, path in (("POD_NAME", "metadata.name"), ("POD_IP", "status.podIP"))
    }
    env: list[Manifest] = [{"name": name, "valueFrom": source} for name, source in own.items()]
    env += [{"name": name, "value": value} for name, value in ({"HOME": "/tmp"} | pod.env).items()]
    mounts: list[Manifest] = [{"name": name, "mountPath": path} for name, path in _OWN_MOUNTS]
    mounts += [{"name": _mounted(claim), "mountPath": path, "readOnly": True} for claim, path in pod.mounts.items()]
    # requests of a vendor's resources, such as GPUs, must be limits too
    limits = {name: amount for name, amount in pod.requests.items() if "/" in name}
    resources: Manifest = {"requests": dict(pod.requests)} | ({"limits": limits} if limits else {})
    return {
        "name": "prolong",
        "image": pod.image,
        "workingDir": WORK_FOLDER,
        "command": ["/bin/sh"],
        "args": pod.args,
        "env": env,
        "ports": [{"name": "http", "containerPort": HTTP_PORT}],
        **_probes(),
        "resources": resources,
        "volumeMounts": mounts,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }


def _probes() -> Manifest:
    """The kubelet starts a process again that is stuck, not one that waits for others (docs/monitoring.md)."""
    alive, ready = ({"httpGet": {"path": path, "port": "http"}, "timeoutSeconds": 5} for path in ("/healthz", "/readyz"))
    return {
        "startupProbe": {**alive, "periodSeconds": 5, "failureThreshold": START_S // 5},
        "livenessProbe": {**alive, "periodSeconds": 20, "failureThreshold": 3},
        "readinessProbe": {**ready, "periodSeconds": 10},
    }


_OWN_MOUNTS = (
    ("config", CONFIG_FOLDER),
    ("secret", SECRET_FOLDER),
    ("keys", KEYS_FOLDER),
    ("run", "/runs"),
    ("tmp", "/tmp"),
    ("shm", "/dev/shm"),
)


def _volumes(pod: Pod) -> list[Manifest]:
    items = [{"key": data_key(file), "path": file} for file in pod.secret_files]
    in_memory = {"medium": "Memory"}
    own: list[Manifest] = [
        {"name": "config", "configMap": {"name": pod.config_map}},
        {"name": "secret", "secret": {"secretName": pod.secret, "defaultMode": 0o440, "items": items}},
        {"name": "keys", "emptyDir": {**in_memory, "sizeLimit": "16Mi"}},
        {"name": "run", **({"persistentVolumeClaim": {"claimName": pod.claim}} if pod.claim else {"emptyDir": {}})},
        {"name": "tmp", "emptyDir": {}},
        # NCCL and engines of several GPUs share memory between processes
        {"name": "shm", "emptyDir": in_memory},
    ]
    return own + [
        {"name": _mounted(claim), "persistentVolumeClaim": {"claimName": claim, "readOnly": True}} for claim in pod.mounts
    ]


def _mounted(claim: str) -> str:
    """The name of the volume of a claim, which has other names than our own volumes, and no dots."""
    return f"claim-{claim.replace('.', '-')}"
