"""The target `kubernetes`: one buffer, the learner's nodes, and a Deployment for each kind of actors.

    run.yaml   ConfigMap NAME                 the configuration, and the script that every container starts with
               StatefulSet NAME-buffer        one pod with a claim, behind a Service
               JobSet NAME-learner            an indexed Job, a pod for each node; PersistentVolumeClaim NAME-learner
               Deployment NAME-KIND           actors, which may come and go
               NetworkPolicy NAME             only the run's own pods reach each other: weights are broadcast unprotected
    keys.yaml  Secret NAME-COMPONENT          what `prolong keys` would copy to that component's host
    end.sh     waits for the end of the learner, then takes buffer and actors away

Plain manifests: what a cluster needs beyond --set is laid over them with kustomize.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

from ...common.config.run_files import config_text, run_folder
from ...common.config.sections import Config
from ...common.errors import UserError
from .api import (
    BUFFER,
    CONFIG,
    LEARNER,
    PORT,
    RENDEZVOUS_PORT,
    SECRET,
    ActorKind,
    LaunchJob,
    Rendered,
    RenderedFile,
    actor_kinds,
    component_names,
    gpus_of_node,
    has_own_host,
)
from .manifests import (
    HTTP_PORT,
    KEYS_FOLDER,
    SECRET_FOLDER,
    START,
    Manifest,
    Pod,
    document,
    kube_name,
    labels_of,
    pod_template,
    secret,
    to_yaml,
)

IMAGE = "prolong:latest"
ROOT = "/runs"  # of run folders, in every container
MAX_NAME = 40  # characters: Kubernetes adds to the names of our objects, and allows 63
# --set: keys as they are, and beginnings of keys whose rest is a name of the cluster's
KNOWN = ("image", "namespace", "queue", "disk", "storage_class", "gpu", "priority", "tolerate")
KNOWN_BEGINNINGS = ("request.", "select.", "mount.", "env.")
# one namespace holds the run, and actors have no claims
KNOWN_ONLY = {"namespace": (), "disk": (BUFFER, LEARNER), "storage_class": (BUFFER, LEARNER)}

START_SCRIPT = """\
#!/bin/sh
# The keys of a Secret can be read by the pod's group; prolong takes a secret from a file of its own user alone.
set -eu
umask 077
cp -rL {secret}/* {keys}/
exec prolong "$@"
"""

LEARNER_SCRIPT = """\
#!/bin/sh
# A learner that is told to leave saves and ends with exit code 0, which a Job would take for the end of the run.
set -eu
/bin/sh /etc/prolong/start.sh "$@" & child=$!
trap 'kill -TERM $child 2> /dev/null || true' TERM INT
code=0; wait $child || code=$?
while kill -0 $child 2> /dev/null; do code=0; wait $child || code=$?; done
[ $code -ne 0 ] || [ -e {summary} ] || code=143
exit $code
"""

END_SCRIPT = """\
#!/bin/sh
# Waits for the end of the run, then takes buffer and actors away; claims with journal and checkpoints stay.
set -eu
until kubectl -n {namespace} get jobset {name}-learner -o 'jsonpath={{.status.terminalState}}' | grep -q .; do sleep 20; done
kubectl -n {namespace} get jobset {name}-learner
kubectl -n {namespace} delete deployment,statefulset -l app.kubernetes.io/name=prolong,app.kubernetes.io/instance={name}
"""


class Kubernetes:
    """Kubernetes with the JobSet controller; Kueue where a queue is named."""

    def render(self, job: LaunchJob) -> Rendered:
        """Manifests for this job. Raises: UserError for settings, or names that Kubernetes would not take."""
        job.check_settings("Kubernetes", KNOWN, KNOWN_BEGINNINGS, KNOWN_ONLY)
        run = _Run(job)
        secrets = [run.object(secret(run.name_of(each), job.keys_of(each)), each) for each in component_names(job.cfg)]
        script = END_SCRIPT.format(namespace=run.namespace, name=run.name)
        files = {
            CONFIG: RenderedFile(text=run.config),
            "run.yaml": RenderedFile(text=to_yaml(run.objects())),
            "keys.yaml": RenderedFile(text=to_yaml(secrets), mode=SECRET),
            "end.sh": RenderedFile(text=script, mode=0o755),
        }
        commands = [["kubectl", "apply", "-f", str(job.folder / name)] for name in ("keys.yaml", "run.yaml")]
        return Rendered(files=files, commands=commands, notes=_notes(job, run))


def _notes(job: LaunchJob, run: _Run) -> list[str]:
    cfg = job.cfg
    files = sorted({source.file for source in [*cfg.data.train, *cfg.data.heldout]})
    notes = [
        f"every pod reads the model {cfg.model.path}, and the buffer also {', '.join(files)}: put them into the image "
        "(relative paths begin at /prolong), or mount a claim that holds them, --set mount.CLAIM=/PATH",
        f"image: {job.setting('', 'image', IMAGE)}, of the Containerfile of prolong's repository (--set image=...)",
        f"when the run is over: sh {job.folder}/end.sh; claims and Secrets stay until you delete them",
    ]
    if job.nodes > 1:
        notes.append(f"the claim {run.name}-learner is shared by {job.nodes} nodes: its storage class must offer ReadWriteMany")
    return notes


class _Run:
    """The objects of one run."""

    def __init__(self, job: LaunchJob) -> None:
        self.job = job
        self.name = kube_name(job.cfg.run.name, "run.name", MAX_NAME)
        self.namespace = job.setting("", "namespace", "default")
        self.kinds = actor_kinds(job.cfg)
        names = [self.name_of(each) for each in component_names(job.cfg)]
        if len(set(names)) < len(names):
            raise UserError(f"pools {', '.join(job.cfg.pools)}: two of these names are one name for Kubernetes ({names})")
        self.cfg = _configured(job.cfg, self.name)
        self.config = config_text(self.cfg)

    def name_of(self, component: str) -> str:
        return f"{self.name}-{kube_name(component, f'pools.{component}', 63 - MAX_NAME - 1)}"

    def objects(self) -> list[Manifest]:
        actors = [self.object(self._deployment(kind), kind.component) for kind in self.kinds]
        return [
            self.object(self._config_map(), ""),
            self.object(self._network_policy(), ""),
            self.object(self._service(), BUFFER),
            self.object(self._stateful_set(), BUFFER),
            self.object(self._claim(LEARNER, shared=self.job.nodes > 1), LEARNER),
            self.object(self._job_set(), LEARNER),
            *actors,
        ]

    def object(self, manifest: Manifest, component: str) -> Manifest:
        """`manifest` in the run's namespace, with its labels; and that of Kueue where a queue is named."""
        meta = manifest["metadata"]
        meta["namespace"] = self.namespace
        meta["labels"] = labels_of(self.name, component)
        queue = self.job.setting(component, "queue")
        if queue and manifest["kind"] in ("StatefulSet", "JobSet", "Deployment"):
            meta["labels"]["kueue.x-k8s.io/queue-name"] = queue
        return manifest

    # --- objects ---

    def _config_map(self) -> Manifest:
        summary = run_folder(self.cfg) / "summary.json"
        scripts = {
            "start.sh": START_SCRIPT.format(secret=SECRET_FOLDER, keys=KEYS_FOLDER),
            "learner.sh": LEARNER_SCRIPT.format(summary=f"'{summary}'"),
        }
        return {**document("v1", "ConfigMap", self.name), "data": {CONFIG: self.config, **scripts}}

    def _network_policy(self) -> Manifest:
        """Pods of the run are reached by pods of the run, and their numbers by whoever collects them."""
        mine = {"podSelector": {"matchLabels": labels_of(self.name, "")}}
        spec = {**mine, "policyTypes": ["Ingress"], "ingress": [{"from": [mine]}, {"ports": [{"port": HTTP_PORT}]}]}
        return {**document("networking.k8s.io/v1", "NetworkPolicy", self.name), "spec": spec}

    def _service(self) -> Manifest:
        spec = {"selector": labels_of(self.name, BUFFER), "ports": [{"name": "buffer", "port": PORT}]}
        return {**document("v1", "Service", self.name_of(BUFFER)), "spec": spec}

    def _stateful_set(self) -> Manifest:
        args = [*START, "buffer", *self._recipe(), f"buffer.address=tcp://0.0.0.0:{PORT}"]
        pod = self._pod(BUFFER, args, grace_s=30, gpus=0, requests={"cpu": "2", "memory": "8Gi"})
        template = pod_template(pod)
        container = template["spec"]["containers"][0]
        container["ports"].append({"name": "buffer", "containerPort": PORT})
        # clients reach a buffer that is not ready too: it tells them why
        container["readinessProbe"] = {"tcpSocket": {"port": "buffer"}, "periodSeconds": 5}
        template["spec"]["volumes"] = [volume for volume in template["spec"]["volumes"] if volume["name"] != "run"]
        claim = self._claim(BUFFER)
        spec = {
            "serviceName": self.name_of(BUFFER),
            "replicas": 1,
            "selector": {"matchLabels": labels_of(self.name, BUFFER)},
            "template": template,
            "volumeClaimTemplates": [{"metadata": {"name": "run"}, "spec": claim["spec"]}],
        }
        return {**document("apps/v1", "StatefulSet", self.name_of(BUFFER)), "spec": spec}

    def _job_set(self) -> Manifest:
        """The learner: a Job whose pods are its nodes. A mistake of the user (exit code 2) ends it at once."""
        name, cfg = self.name_of(LEARNER), self.cfg
        args = ["/etc/prolong/learner.sh", "learner", *self._recipe(), "weights.host=$(POD_IP)"]
        if self.job.nodes > 1:
            node_0 = f"{name}-node-0-0.{name}:{RENDEZVOUS_PORT}"
            args += [f"--nodes={self.job.nodes}", "--node-rank=$(JOB_COMPLETION_INDEX)", f"--rendezvous={node_0}"]
        ranks, grace_s = cfg.launch.learner_ranks, math.ceil(cfg.launch.stop_s) + 10
        requests = {"cpu": str(2 * ranks), "memory": f"{16 * ranks}Gi"}
        pod = self._pod(LEARNER, args, grace_s=grace_s, gpus=gpus_of_node(cfg), requests=requests)
        template = pod_template(replace(pod, claim=name))
        template["spec"]["restartPolicy"] = "Never"
        mistake = {"containerName": "prolong", "operator": "In", "values": [2]}
        evicted = [{"type": "DisruptionTarget", "status": "True"}]
        batch = {
            "completionMode": "Indexed",
            "completions": self.job.nodes,
            "parallelism": self.job.nodes,
            "backoffLimit": cfg.launch.max_restarts * self.job.nodes,
            "podFailurePolicy": {
                "rules": [
                    {"action": "FailJob", "onExitCodes": mistake},
                    {"action": "Ignore", "onPodConditions": evicted},
                ]
            },
            "template": template,
        }
        nodes = {"name": "node", "replicas": 1, "template": {"spec": batch}}
        return {**document("jobset.x-k8s.io/v1alpha2", "JobSet", name), "spec": {"replicatedJobs": [nodes]}}

    def _deployment(self, kind: ActorKind) -> Manifest:
        args = [*START, "actor", *self._recipe(), "--name=$(POD_NAME)"]
        if kind.pool:
            args.append(f"--pool={kind.pool}")
        if not has_own_host(self.cfg, kind.pool):
            args.append("weights.host=$(POD_IP)")
        cards = max(1, kind.gpus)
        requests = {"cpu": str(2 * cards + kind.cfg.verifiers.workers), "memory": f"{16 * cards}Gi"}
        grace_s = math.ceil(kind.cfg.actor.grace_s) + 10
        pod = self._pod(kind.component, args, grace_s=grace_s, gpus=kind.gpus, requests=requests)
        name, labels = self.name_of(kind.component), labels_of(self.name, kind.component)
        # one that leaves hands its work over before the next one comes, which may need its GPU
        strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
        spec = {
            "replicas": kind.count,
            "selector": {"matchLabels": labels},
            "strategy": strategy,
            "template": pod_template(pod),
        }
        return {**document("apps/v1", "Deployment", name), "spec": spec}

    def _claim(self, component: str, *, shared: bool = False) -> Manifest:
        mode = "ReadWriteMany" if shared else "ReadWriteOnce"
        size = self.job.setting(component, "disk", "200Gi")
        spec: Manifest = {"accessModes": [mode], "resources": {"requests": {"storage": size}}}
        if storage_class := self.job.setting(component, "storage_class"):
            spec["storageClassName"] = storage_class
        return {**document("v1", "PersistentVolumeClaim", self.name_of(component)), "spec": spec}

    def _recipe(self) -> list[str]:
        return [f"--recipe=/etc/prolong/{CONFIG}", f"run.http_port={HTTP_PORT}"]

    def _pod(self, component: str, args: list[str], *, grace_s: int, gpus: int, requests: dict[str, str]) -> Pod:
        """What all pods share, with the cluster's settings for this component."""
        job = self.job
        asked = {**requests, **job.named_settings(component, "request.")}
        if gpus:
            asked.setdefault(job.setting(component, "gpu", "nvidia.com/gpu"), str(gpus))
        tolerated = [key for key in job.setting(component, "tolerate").split(",") if key]
        return Pod(
            args=args,
            labels=labels_of(self.name, component),
            image=job.setting(component, "image", IMAGE),
            config_map=self.name,
            config_hash=hashlib.sha256(self.config.encode()).hexdigest()[:16],
            secret=self.name_of(component),
            secret_files=sorted(job.keys_of(component)),
            grace_s=grace_s,
            requests={name: amount for name, amount in asked.items() if amount != "0"},
            node_selector=job.named_settings(component, "select."),
            mounts=job.named_settings(component, "mount."),
            env=job.named_settings(component, "env."),
            priority=job.setting(component, "priority"),
            tolerated=tolerated,
        )


def _configured(cfg: Config, name: str) -> Config:
    """The run's configuration as its pods have it."""
    address = f"tcp://{name}-{BUFFER}:{PORT}"
    buffer = replace(cfg.buffer, address=address, keys=KEYS_FOLDER)
    return replace(cfg, run=replace(cfg.run, root=ROOT), buffer=buffer)
