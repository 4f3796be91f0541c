"""The target `skypilot`: a job group, whose tasks are the buffer, the learner, and each actor by itself.

    run.sky.yaml    a header, then a document for each task; it holds the keys, so only its owner may read it

An actor is a task of its own because SkyPilot recovers tasks: a spot machine that is taken away stops no other. The group ends
with the learner. Tasks find each other by the names TASK-NODE.GROUP.
Source: https://docs.skypilot.co/en/latest/examples/job-groups.html
"""

from __future__ import annotations

import shlex
from dataclasses import replace

from ...common.config.run_files import config_text, run_folder
from ...common.errors import UserError
from ...common.json_object import JsonObject
from .api import (
    BUFFER,
    CONFIG,
    LEARNER,
    PORT,
    RENDEZVOUS_PORT,
    SECRET,
    LaunchJob,
    Rendered,
    RenderedFile,
    actor_kinds,
    gpus_of_node,
    has_own_host,
)
from .manifests import kube_name, to_yaml

LEFT_EARLY = 143  # exit code of a learner that was told to leave: SkyPilot starts it again
END_S = 60  # buffer and actors leave within this time after the end of the learner
FOLDER = "$HOME/prolong-launch"  # on every machine: configuration and keys
MAX_NAME = 40
KNOWN = ("gpu", "cpus", "memory", "infra", "spot", "image", "disk", "setup")
KNOWN_BEGINNINGS = ("mount.", "volume.", "env.")

PREPARE = """\
set -eu
umask 077
mkdir -p {folder}/keys/allowed
cat > {folder}/config.yaml <<'END_OF_CONFIG'
{config}END_OF_CONFIG
"""

MY_ADDRESS = '$(echo "$SKYPILOT_NODE_IPS" | sed -n "$((SKYPILOT_NODE_RANK + 1))p")'


class SkyPilot:
    """SkyPilot's managed jobs, as a job group."""

    def render(self, job: LaunchJob) -> Rendered:
        """The group's file. Raises: UserError for settings that SkyPilot does not know, or lacks."""
        job.check_settings("SkyPilot", KNOWN, KNOWN_BEGINNINGS, only={})
        group = _group(job)
        header = {
            "name": group,
            "execution": "parallel",
            "primary_tasks": [LEARNER],
            "termination_delay": f"{END_S}s",
        }
        tasks = [_task(job, BUFFER, BUFFER, 0), _task(job, LEARNER, LEARNER, gpus_of_node(job.cfg), nodes=job.nodes)]
        for kind in actor_kinds(job.cfg):
            tasks += [_task(job, kind.component, f"{kind.component}-{i}", kind.gpus) for i in range(kind.count)]
        path = job.folder / "run.sky.yaml"
        files = {
            CONFIG: RenderedFile(text=_config(job)),
            path.name: RenderedFile(text=to_yaml([header, *tasks]), mode=SECRET),
        }
        notes = [f"{path.name} holds keys, which SkyPilot hides in what it prints", *_notes(job)]
        return Rendered(files=files, commands=[["sky", "jobs", "launch", "--yes", str(path)]], notes=notes)


def _group(job: LaunchJob) -> str:
    return kube_name(job.cfg.run.name, "run.name", MAX_NAME)


def _notes(job: LaunchJob) -> list[str]:
    kept = {BUFFER: "the buffer's journal is", LEARNER: "the learner's checkpoints are"}
    notes = [
        f"{what} lost with its machine: --set {component}:volume./runs=NAME keeps /runs on a volume"
        for component, what in kept.items()
        if "/runs" not in job.named_settings(component, "volume.")
    ]
    files = ", ".join(sorted({source.file for source in [*job.cfg.data.train, *job.cfg.data.heldout]}))
    return [
        *notes,
        f"every task reads the model {job.cfg.model.path}, the buffer also {files}: --set mount./PATH=s3://BUCKET/...",
    ]


def _config(job: LaunchJob) -> str:
    """The configuration as the tasks have it."""
    address = f"tcp://{BUFFER}-0.{_group(job)}:{PORT}"
    cfg = replace(job.cfg, run=replace(job.cfg.run, root="/runs"), buffer=replace(job.cfg.buffer, address=address))
    return config_text(cfg)


def _task(job: LaunchJob, component: str, name: str, gpus: int, *, nodes: int = 1) -> JsonObject:
    keys = job.keys_of(component)
    # SkyPilot shows no value of `secrets`
    secrets = {_variable(file): text.strip() for file, text in keys.items() if _is_secret(file)}
    task: JsonObject = {"name": name, "num_nodes": nodes, "resources": _resources(job, component, gpus)}
    mounts, volumes = job.named_settings(component, "mount."), job.named_settings(component, "volume.")
    task |= {"file_mounts": mounts} if mounts else {}
    task |= {"volumes": volumes} if volumes else {}
    task |= {"envs": job.named_settings(component, "env."), "secrets": secrets}
    if setup := job.setting(component, "setup"):
        task["setup"] = setup
    return task | {"run": _script(job, component, keys, nodes)}


def _resources(job: LaunchJob, component: str, gpus: int) -> JsonObject:
    found: JsonObject = {}
    if gpus:
        card = job.setting(component, "gpu")
        if not card:
            raise UserError(f"--set {component}:gpu=NAME is missing: SkyPilot asks for a kind of GPU, such as H100")
        found["accelerators"] = f"{card}:{gpus}"
    for key in ("cpus", "memory", "infra"):
        if value := job.setting(component, key):
            found[key] = value
    if image := job.setting(component, "image"):
        found["image_id"] = f"docker:{image}"
    elif not job.setting(component, "setup"):
        raise UserError("--set image=NAME, or --set setup=COMMAND, is missing: the machines of SkyPilot come without prolong")
    disk = job.setting(component, "disk", "256")
    if not disk.isdecimal():
        raise UserError(f"--set disk={disk}: expected a whole number of GB")
    found["disk_size"] = int(disk)
    # the buffer and the learner hold state: --set spot=true is for actors, unless it names them
    given = job.settings.get(component, {}) if component in (BUFFER, LEARNER) else job.settings_of(component)
    spot = given.get("spot", "false")
    if spot not in ("true", "false"):
        raise UserError(f"--set spot={spot}: expected true or false")
    found["use_spot"] = spot == "true"
    restarts = job.cfg.launch.max_restarts
    found["job_recovery"] = {"max_restarts_on_errors": restarts, "recover_on_exit_codes": [LEFT_EARLY]}
    return found


def _script(job: LaunchJob, component: str, keys: dict[str, str], nodes: int) -> str:
    """Writes the configuration and the keys, then becomes the component's process."""
    lines = [PREPARE.format(folder=FOLDER, config=_config(job)).rstrip("\n")]
    for file, text in keys.items():
        key = f'"${_variable(file)}"' if _is_secret(file) else shlex.quote(text.strip())
        lines.append(f"printf '%s\\n' {key} > {FOLDER}/keys/{file}")
    common = f"--recipe {FOLDER}/{CONFIG} buffer.keys={FOLDER}/keys"
    if component == BUFFER:
        return _joined([*lines, f"exec prolong buffer {common} buffer.address=tcp://0.0.0.0:{PORT}"])
    if component != LEARNER:
        pool = component if component in job.cfg.pools else ""
        chosen = f" --pool {pool}" if pool else ""
        host = "" if has_own_host(job.cfg, pool) else f' "weights.host={MY_ADDRESS}"'
        # unique, also when SkyPilot starts the task again on another machine
        return _joined([*lines, f'exec prolong actor{chosen} --name "$(hostname)-$$" {common}{host}'])
    together = ""
    if nodes > 1:
        node_0 = f"{LEARNER}-0.{_group(job)}:{RENDEZVOUS_PORT}"
        together = f' --nodes {nodes} --node-rank "$SKYPILOT_NODE_RANK" --rendezvous {node_0}'
    summary = shlex.quote(f"/runs/{run_folder(job.cfg).name}/summary.json")
    lines.append(f'prolong learner{together} {common} "weights.host={MY_ADDRESS}"')
    # it also ends with exit code 0 when it is told to leave, which is not the end of the run
    return _joined([*lines, f'[ "$SKYPILOT_NODE_RANK" != 0 ] || [ -e {summary} ] || exit {LEFT_EARLY}'])


def _joined(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def _is_secret(file: str) -> bool:
    return file.endswith(".key")


def _variable(file: str) -> str:
    """The environment variable that carries a secret key to a machine: PROLONG_CLIENT_KEY for client.key."""
    return "PROLONG_" + file.upper().replace(".", "_")
