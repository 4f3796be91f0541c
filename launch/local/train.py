"""`prolong train`: buffer, learner and actors of one run on this machine.

preflight  ->  runs/NAME/config.yaml  ->  supervisor { buffer, learner, actor-0, ... }  ->  scores before and after
                                               live view (metrics.jsonl, Status of the buffer)
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from time import monotonic

import psutil
from rich.live import Live

from ...buffer.client.observer import Observer
from ...common.config.actors import ActorHere, actors_here
from ...common.config.run_files import RunPaths, run_paths, save_config
from ...common.config.sections import Config
from ...common.config.stages import staged_configs, total_steps
from ...common.config.trees import largest_eta
from ...common.errors import UserError
from ...common.metrics import MetricsTail
from ...learner.drift import DriftWatch
from ..entry import without_controls
from ..gpus import visible_gpus
from ..model_check import is_folder_name
from ..placement import assign_cores, assign_gpus
from ..summary import closing_lines, read_summary, scores_table
from ..terminal import TerminalConsole
from .first_group import FirstGroup
from .live import RunProgress, last_step, live_line, live_page, starting_sentence
from .preflight import finished_steps
from .process import ChildProcess
from .supervisor import RunOutcome, Supervisor

REFRESH_S = 0.5
GUARD_S = 2.0  # pause between two looks for the first group


class RunHere:
    """A run of this machine, prepared and not started. `show`: a live view on a terminal, a line for each step elsewhere."""

    def __init__(self, cfg: Config, *, show: bool = True) -> None:
        self.cfg, self.paths = cfg, run_paths(cfg)
        self._show = show
        self._stop: Callable[[], object] | None = None
        self._stopped = False

    def carry_out(self) -> RunOutcome:
        """Start all processes and run to the end, also in a thread that is not the main one. Raises: UserError."""
        with locked_run(self.paths):
            save_config(self.cfg, self.paths.config)
            set_aside_summary(self.paths)
            return asyncio.run(self._supervise())

    def stop(self) -> None:
        """Ask `carry_out`, in whichever thread it runs, to end as Ctrl-C would."""
        self._stopped = True
        if self._stop is not None:
            with contextlib.suppress(RuntimeError):  # the run has ended, and its event loop with it
                self._stop()

    async def _supervise(self) -> RunOutcome:
        cfg, progress = self.cfg, _progress(self.cfg, self.paths)
        supervisor = Supervisor(
            run_processes(cfg, self.paths),
            leader="learner",
            last="buffer",
            limits=cfg.launch,
            finished=self.paths.summary.exists,
            note=progress.notes.append,
            step=lambda: last_step(self.paths.metrics),
        )
        loop = asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(supervisor.stop)
        tasks = [asyncio.create_task(_guard_first_group(cfg, supervisor))]
        if self._show:
            watching = asyncio.create_task(_watch(cfg, self.paths, progress))
            watching.add_done_callback(_report_failed_view)
            tasks.append(watching)
        if self._stopped:
            self.stop()
        try:
            return await supervisor.run()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


@contextlib.contextmanager
def locked_run(paths: RunPaths) -> Iterator[None]:
    """Lock the run folder: two supervisors in one folder would overwrite each other's files. Raises: UserError."""
    paths.logs.mkdir(parents=True, exist_ok=True)
    with (paths.folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{paths.folder}: another `prolong train` is running in it; choose another run.name") from None
        except OSError as error:
            raise UserError(
                f"{paths.folder}: its file system gives no locks ({error.strerror}), and two runs in it would go unseen; mount "
                "it with them (Lustre: -o flock), or give another run.root"
            ) from error
        yield


def set_aside_summary(paths: RunPaths) -> None:
    """Rename the summary of a finished run that goes on with more steps: the name gets the step at which it ended."""
    steps = finished_steps(paths)
    if steps is not None:
        paths.summary.rename(paths.folder / f"summary-step-{steps:08d}.json")


def run_processes(cfg: Config, paths: RunPaths) -> list[ChildProcess]:
    """The processes of a run on this machine, not started, each with its command, environment, cores and GPUs."""
    roles = {"buffer": ["buffer"], "learner": ["learner"]}
    roles |= {actor.name: _actor_command(actor) for actor in actors_here(cfg)}
    cores = assign_cores(cfg, sorted(os.sched_getaffinity(0)))
    gpus = assign_gpus(cfg, visible_gpus(os.environ))
    return [
        ChildProcess(
            name,
            [sys.executable, "-m", "prolong.launch.cli", *role, "--recipe", str(paths.config)],
            env=process_environment(cfg, gpus.get(name), learner=name == "learner"),
            log=paths.logs / f"{name}.log",
            cores=cores.get(name, frozenset()),
        )
        for name, role in roles.items()
    ]


def _actor_command(actor: ActorHere) -> list[str]:
    return ["actor", "--name", actor.name, *(["--pool", actor.pool] if actor.pool else [])]


def process_environment(cfg: Config, gpus: str | None, *, learner: bool = False) -> dict[str, str]:
    """The environment of the caller. Unless it says otherwise: one thread per process, and no look-ups of a model folder."""
    env = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"} | dict(os.environ) | {"PYTHONUNBUFFERED": "1"}
    if is_folder_name(cfg.model.path):
        env.setdefault("HF_HUB_OFFLINE", "1")
    if gpus is not None:
        env["CUDA_VISIBLE_DEVICES"] = gpus
        if learner and "PYTORCH_CUDA_ALLOC_CONF" not in env:
            # no two micro-batches have the same shapes: segments of fixed size would soon be fragments
            env.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    return env


def _progress(cfg: Config, paths: RunPaths) -> RunProgress:
    return RunProgress(
        run=cfg.run.name,
        steps=total_steps(cfg),
        eta=largest_eta(cfg.buffer),
        folder=paths.folder,
        adapts=bool(cfg.buffer.adaptive),
        drift=DriftWatch(eta=largest_eta(cfg.buffer), minibatches=cfg.learner.minibatches),
        objectives=[staged.objective for staged in staged_configs(cfg)],
        stages=[stage.name for stage in cfg.stages],
    )


def _report_failed_view(watching: asyncio.Task[None]) -> None:
    """An error of the live view does not end the run."""
    if not watching.cancelled() and (error := watching.exception()) is not None:
        sys.stderr.write(f"the live view failed ({error!r}); the run goes on without it, see `prolong status`\n")


async def _guard_first_group(cfg: Config, supervisor: Supervisor) -> None:
    """End the run when it stands still before its first group; see first_group.py."""
    watch, observer = FirstGroup(cfg.launch.first_group_s, monotonic()), Observer.open(cfg.buffer.address, cfg.buffer.keys)
    try:
        while not watch.over:
            await asyncio.sleep(GUARD_S)
            reason = watch.judge(monotonic(), observer.poll_status(), _cpu_seconds())
            if reason:
                supervisor.fail(reason)
                return
    finally:
        observer.close()


def _cpu_seconds() -> float:
    """Used so far by the living processes that this one started, and by theirs."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


async def _watch(cfg: Config, paths: RunPaths, progress: RunProgress) -> None:
    """Show the state of the run every REFRESH_S."""
    console = TerminalConsole()
    tail, observer = MetricsTail(paths.metrics, tell=progress.notes.append), Observer.open(cfg.buffer.address, cfg.buffer.keys)
    view = Live(console=console, auto_refresh=False, transient=False) if console.is_terminal else None
    progress.add(tail.read()[0])  # the steps before a resume
    progress.first_step = progress.step
    starting = ""
    try:
        with contextlib.nullcontext() if view is None else view:
            while True:
                status = observer.poll_status()
                if status is not None:
                    progress.status = status
                records, restarted = tail.read()
                if view is not None:
                    progress.add(records, restarted=restarted)
                    view.update(live_page(progress), refresh=True)
                else:
                    starting = print_start(progress, starting)
                    _print_lines(progress, records, restarted)
                await asyncio.sleep(REFRESH_S)
    finally:
        observer.close()


def print_start(progress: RunProgress, printed: str) -> str:
    """Print how the start gets on, where that has changed since `printed`; returns the sentence that is printed last."""
    sentence = starting_sentence(progress) if progress.step == progress.first_step else printed
    if sentence != printed:
        print(f"{progress.run}: {sentence}", flush=True)
    return sentence


def _print_lines(progress: RunProgress, records: list[dict[str, float]], restarted: bool) -> None:
    while progress.notes:
        print(f"! {progress.notes.popleft()}", flush=True)
    for record in records:
        progress.add([record], restarted=restarted)
        restarted = False
        print(live_line(progress), flush=True)


def report_outcome(outcome: RunOutcome, paths: RunPaths, command: str, *, resume: str) -> int:
    """Print how the run that `command` supervised ended, and what goes on with it. Returns its exit code."""
    if outcome.code == 0:
        summary = read_summary(paths.summary)
        console = TerminalConsole()
        if summary["before"] or summary["after"]:  # neither: the run had no held-out prompts
            console.print(scores_table(summary))
        for text in closing_lines(summary, paths.folder):
            console.print(text, highlight=False, soft_wrap=True, markup=False)
        return 0
    if outcome.culprit:
        sys.stderr.write(
            f"last lines of {outcome.culprit} (the first to fail; all of it in {paths.logs}/{outcome.culprit}.log):\n"
        )
        sys.stderr.write("".join(f"  | {without_controls(text)}\n" for text in outcome.log))
    sys.stderr.write(f"{command}: {outcome.reason}\n")
    print(f"resume with: {resume}", flush=True)
    return outcome.code
