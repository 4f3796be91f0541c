"""A run as one Slurm job of heterogeneous components, and for each kind of actors a job of one actor that joins the run.

    job.sbatch          component 0: buffer and learner | component 1: the actors of one pool | component 2: ...
    join-POOL.sbatch    one actor, on resources that may be taken away; any number of them, at any time

srun places the processes, torchrun and vLLM share the work of each, slurm_job.py supervises them inside the job.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from ...common.config.sections import Config
from ...common.errors import DataError, UserError
from ...common.transport.sockets import is_loopback
from ..local.preflight import check_run_folder
from ..local.train import process_environment
from ..model_check import check_model
from ..resume_check import check_resume
from .api import BUFFER, CONFIG, KEYS, LEARNER, ActorKind, LaunchJob, Rendered, RenderedFile, actor_kinds, gpus_of_node
from .held_task import MODULE as HELD_TASK
from .slurm_job import MODULE as SLURM_JOB

# from the signal to the time limit; `launch.stop_s` is added
NOTICE_S = 60
# of the ports of buffers; each job has one of its own by its number
FIRST_PORT, NUM_PORTS = 10_000, 10_000
LEARNER_CORES = 4  # for each rank, and for the buffer
ACTOR_CORES = 4  # for an engine; its verifiers get one each
OPTION = re.compile(r"[a-z][a-z-]*")
# options of sbatch that the job relies on
OURS = (
    "array",
    "chdir",
    "het-group",
    "job-name",
    "ntasks",
    "ntasks-per-node",
    "open-mode",
    "requeue",
    "no-requeue",
    "signal",
    "wrap",
)


class Slurm:
    """Renders job.sbatch and the jobs of actors that join. Login node and compute nodes share the file system."""

    def render(self, job: LaunchJob) -> Rendered:
        """The scripts. Reads model and data folders of this machine, which the nodes see as well."""
        _check(job)
        kinds = actor_kinds(job.cfg)
        run = RenderedFile(text=_run_script(job, kinds), mode=0o755)
        joining = {f"join-{kind.component}.sbatch": RenderedFile(text=_joining_script(job, kind), mode=0o755) for kind in kinds}
        more = [f"more actors, at any time: sbatch --array=1-8 {shlex.quote(str(job.folder / name))}" for name in joining]
        return Rendered(files={"job.sbatch": run, **joining}, commands=[["sbatch", str(job.folder / "job.sbatch")]], notes=more)


def _check(job: LaunchJob) -> None:
    """Raise UserError for what would fail only when the job has waited for its turn."""
    if job.settings.get(BUFFER):
        raise UserError(f"--set {BUFFER}:...: under Slurm the buffer runs on the first node of the component {LEARNER}")
    for component, settings in job.settings.items():
        for key, value in settings.items():
            where = f"{component}:" if component else ""
            if not value.isprintable():
                raise UserError(f"--set {where}{key}={value!r}: expected one line of printable characters")
            if not OPTION.fullmatch(key) or key in OURS:
                raise UserError(f"--set {where}{key}: expected a long option of sbatch other than {', '.join(OURS)}")
            if key == "nodes" and component in ("", LEARNER):
                raise UserError(f"--set {where}nodes: give --learner-nodes for the learner, and POOL:nodes for a pool")
    check_run_folder(job.cfg)
    check_model(job.cfg)
    check_resume(job.cfg)
    for source in [*job.cfg.data.train, *job.cfg.data.heldout]:
        if not Path(source.file).exists():
            raise DataError(f"{source.file}: no such prompt file here; compute nodes see the same file system")


def _run_script(job: LaunchJob, kinds: list[ActorKind]) -> str:
    here = [kind for kind in kinds if kind.count]
    parts = ["buffer and learner", *(f"{kind.component} x {kind.count}" for kind in here)]
    headers = [
        _header(job, LEARNER, _learner_options(job)),
        *(_header(job, kind.component, _pool_options(job, kind)) for kind in here),
    ]
    common = _common_options(job, f"prolong-{job.cfg.run.name}", "slurm-%j.log")
    return "\n".join(
        [
            "#!/bin/bash",
            f"# the run {job.cfg.run.name}: {' | '.join(parts)}",
            *common,
            "\n#SBATCH hetjob\n".join(headers),
            "set -euo pipefail",
            *_environment(job.cfg),
            *_endpoint(job.cfg),
            "# standard input of the supervisor: a name and a command for each process, whose log goes to the run folder",
            f"exec {_python(SLURM_JOB)} supervise {_quoted(job.folder / CONFIG)} << STEPS",
            *_steps(job, here),
            "STEPS\n",
        ]
    )


def _joining_script(job: LaunchJob, kind: ActorKind) -> str:
    common = _common_options(job, f"prolong-{job.cfg.run.name}-{kind.component}", f"{kind.component}-%j.log")
    return "\n".join(
        [
            "#!/bin/bash",
            f"# an actor that joins the run {job.cfg.run.name}, wherever its buffer is; it may be taken away and come back",
            *common,
            _header(job, kind.component, {**_pool_options(job, kind), "ntasks": "1"}),
            "set -euo pipefail",
            *_environment(job.cfg),
            f"exec {_python(SLURM_JOB)} join {_quoted(job.folder / CONFIG)} \\",
            f"  {_actor_command(job, kind)} --name {kind.component}-$SLURM_JOB_ID\n",
        ]
    )


def _common_options(job: LaunchJob, name: str, log: str) -> list[str]:
    """Of the first component, which hold for the others."""
    notice_s = NOTICE_S + round(job.cfg.launch.stop_s)
    options = {"job-name": name, "chdir": str(Path.cwd()), "requeue": "", "open-mode": "append"}
    options["output"] = str(job.folder / log)
    # to the supervisor alone, before the time limit; where the site has preempt_send_user_signal also before a preemption
    return _directives({**options, "signal": f"B:USR1@{notice_s}"})


def _header(job: LaunchJob, component: str, options: dict[str, str]) -> str:
    return "\n".join(_directives({**options, **job.settings_of(component)}))


def _directives(options: dict[str, str]) -> list[str]:
    return [f"#SBATCH --{key}={shlex.quote(value)}" if value else f"#SBATCH --{key}" for key, value in options.items()]


def _learner_options(job: LaunchJob) -> dict[str, str]:
    options = {
        "nodes": str(job.nodes),
        "ntasks-per-node": "1",
        "cpus-per-task": str(LEARNER_CORES * (1 + job.cfg.launch.learner_ranks)),
    }
    gpus = gpus_of_node(job.cfg)
    return {**options, "gpus-per-node": str(gpus)} if gpus else options


def _pool_options(job: LaunchJob, kind: ActorKind) -> dict[str, str]:
    options = {"ntasks": str(kind.count), "cpus-per-task": str(ACTOR_CORES + kind.cfg.verifiers.workers)}
    return {**options, "gpus-per-task": str(kind.gpus)} if kind.gpus else options


def _environment(cfg: Config) -> list[str]:
    wanted = ("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "HF_HUB_OFFLINE", "PYTHONUNBUFFERED")
    values = process_environment(cfg, None)
    return [f"export {name}={shlex.quote(values[name])}" for name in wanted if name in values]


def _endpoint(cfg: Config) -> list[str]:
    """The lines that set HOST and ADDRESS, which are known when the job has its nodes."""
    host = [f"HOST=$({_python(SLURM_JOB)} address)"]
    if not is_loopback(cfg.buffer.address.removeprefix("tcp://").rpartition(":")[0]):
        return [*host, f"ADDRESS={shlex.quote(cfg.buffer.address)}"]
    return [*host, f"ADDRESS=tcp://$HOST:$(({FIRST_PORT} + SLURM_JOB_ID % {NUM_PORTS}))"]


def _steps(job: LaunchJob, kinds: list[ActorKind]) -> list[str]:
    """The processes of job.sbatch, as lines of a here-document in which the shell replaces $ADDRESS and $HOST alone."""
    recipe = f"--recipe {_quoted(job.folder / CONFIG)}"
    group = "--het-group={} " if kinds else ""
    held = f"{_python(HELD_TASK)} {job.cfg.launch.stop_s:g}"
    srun = f"srun {group.format(0)}--ntasks={job.nodes} {_chosen(job, LEARNER, _learner_options(job))}"
    # as `prolong train` has it: no two micro-batches have the same shapes
    allocator = "env PYTORCH_ALLOC_CONF=expandable_segments:True " if gpus_of_node(job.cfg) else ""
    commands = {
        BUFFER: f"{_PROLONG} buffer {recipe} buffer.keys={_quoted(job.folder / KEYS)}",
        LEARNER: f"{srun} --mem=0 --kill-on-bad-exit=1 {held} {allocator}{_PROLONG} learner {recipe} {_keys_of(job, LEARNER)}",
    }
    for number, kind in enumerate(kinds, start=1):
        options = _chosen(job, kind.component, _pool_options(job, kind))
        srun = f"srun {group.format(number)}--nodes=1 --ntasks=1 {options} --exact --mem=0 {held}"
        names = [f"{kind.component}-{each}" for each in range(kind.count)]
        commands |= {name: f"{srun} {_actor_command(job, kind)} --name {name}" for name in names}
    lines = {name: re.sub(r"([\\$`])", r"\\\1", command) + " buffer.address=$ADDRESS" for name, command in commands.items()}
    lines[LEARNER] += " weights.host=$HOST"
    return [f"{name}: {line}" for name, line in lines.items()]


def _chosen(job: LaunchJob, component: str, options: dict[str, str]) -> str:
    """The options that srun does not take over from the job, with the values of --set."""
    chosen = {**options, **job.settings_of(component)}
    return " ".join(f"--{key}={shlex.quote(chosen[key])}" for key in options if key != "ntasks")


def _actor_command(job: LaunchJob, kind: ActorKind) -> str:
    pool = f" --pool {kind.pool}" if kind.pool else ""
    return f"{_PROLONG} actor --recipe {_quoted(job.folder / CONFIG)}{pool} {_keys_of(job, kind.component)}"


def _keys_of(job: LaunchJob, component: str) -> str:
    return f"buffer.keys={_quoted(job.folder / KEYS / 'hosts' / component)}"


def _python(module: str) -> str:
    return f"{_quoted(Path(sys.executable))} -m {module}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


_PROLONG = _python("prolong.launch.cli")
