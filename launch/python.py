"""prolong for Python programs and notebooks: start a run, wait for it, and look at what it recorded.

    from prolong.launch.python import train

    def exact(completion, answer):
        return float(completion.strip() == answer["text"])

    run = train("demo", {"run.name": "mine", "run.steps": 20}, rewards={"exact": exact}, prompts=[
        {"prompt": "12+7=", "answer": {"text": "19"}}, ...
    ])
    print(run.series("reward/mean")[-1], next(run.rollouts()).completion)

The processes are those of `prolong train`, which is this function with the settings of a command line. Functions stay here: the
workers that judge ask this process for each reward, over a socket (verifiers/function_server.py), so that lambdas, closures and
the functions of a notebook's cell will do. A text such as "rewards:exact" names a function that each worker imports instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from time import monotonic
from types import MappingProxyType
from typing import TypeAlias

from ..common.config.run_files import run_paths
from ..common.errors import ConfigError, DeadlineExceeded, ProlongError
from ..verifiers.adapters import RewardFunction
from ..verifiers.api import Verifier
from ..verifiers.function_server import FunctionServer
from .local.preflight import prepare
from .local.supervisor import RunOutcome
from .local.train import RunHere
from .own_prompts import write_own_prompts
from .recipes import compose
from .run_records import Run
from .status import find_run

Settings: TypeAlias = Mapping[str, object] | Sequence[str]  # {"buffer.eta": 1} or ["buffer.eta=1"]
Rewards: TypeAlias = Mapping[str, RewardFunction | Verifier | str]  # by the name that prompts give
Prompts: TypeAlias = Iterable[Mapping[str, object]]  # records as in a prompt file (docs/config.md)
JOIN_S = 0.5  # between two looks for a Ctrl-C
STOP_GRACE_S = 30.0  # beyond launch.stop_s
NO_REWARDS: Rewards = MappingProxyType({})


class RunFailed(ProlongError):
    """A run that did not get to its end: it failed, or was stopped. `outcome` says how, and `run` is what there is of it."""

    def __init__(self, outcome: RunOutcome, folder: Path) -> None:
        log = "".join(f"\n  | {line}" for line in outcome.log)
        shown = f"\nlast lines of {outcome.culprit}, the first to fail:{log}" if outcome.culprit else ""
        super().__init__(f"{folder}: {outcome.reason}{shown}")
        self.outcome, self.run, self.exit_code = outcome, Run(folder), outcome.code


class BackgroundRun:
    """A run that goes on while this program does something else. A program that ends takes its run with it: `wait` first."""

    def __init__(self, here: RunHere, server: FunctionServer) -> None:
        self.run = Run(here.paths.folder)
        self._here, self._server = here, server
        self._outcome: RunOutcome | BaseException | None = None
        self._thread = threading.Thread(target=self._carry_out, name=f"run {here.cfg.run.name}", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def wait(self, timeout_s: float = math.inf) -> Run:
        """Wait for the end. Ctrl-C stops the run first. Raises: RunFailed; DeadlineExceeded, and the run goes on."""
        deadline = monotonic() + timeout_s
        try:
            while self._thread.is_alive() and monotonic() < deadline:
                self._thread.join(min(JOIN_S, max(0.0, deadline - monotonic())))
        except KeyboardInterrupt:
            self.stop()
            raise
        if self._thread.is_alive():
            raise DeadlineExceeded(f"{self.run.folder}: the run has not ended within {timeout_s:g} s; it goes on")
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        assert self._outcome is not None
        return _finished(self._outcome, self.run.folder)

    def stop(self) -> Run:
        """End the run with the last finished step saved, within `launch.stop_s`; the same call of `start` resumes it.

        Raises: DeadlineExceeded when it has not ended half a minute later.
        """
        stop_s = self._here.cfg.launch.stop_s + STOP_GRACE_S
        self._here.stop()
        self._thread.join(stop_s)
        if self._thread.is_alive():
            raise DeadlineExceeded(f"{self.run.folder}: the run has not ended {stop_s:g} s after it was told to")
        return self.run

    def _carry_out(self) -> None:
        try:
            with _serving(self._server):
                self._outcome = self._here.carry_out()
        except BaseException as error:  # `wait` raises it in the thread of the caller
            self._outcome = error


def train(
    recipe: str = "",
    settings: Settings = (),
    *,
    rewards: Rewards = NO_REWARDS,
    prompts: Prompts | None = None,
    heldout: Prompts | None = None,
    show: bool = True,
) -> Run:
    """Train on this machine to the end of the run, which goes on where it was if its folder holds checkpoints.

    recipe: a name in launch/conf, or a YAML file. settings: those of docs/config.md, over the recipe; "model" and "preset" too.
    rewards: functions f(completion, answer) -> number, results of an adapter such as `from_trl`, or texts MODULE:FUNCTION;
    functions are called in a thread of this process, one at a time. prompts, heldout: records, read once, in place of all files
    of the recipe; where there is one reward they need not name it. show: a live view, or lines where there is no terminal.

    Ctrl-C stops the run, with the last finished step saved. Raises: UserError before a process is started; RunFailed.
    """
    here, server = _prepared(recipe, settings, rewards, prompts, heldout, show)
    if threading.current_thread() is not threading.main_thread() or _in_event_loop():
        return BackgroundRun(here, server).wait()
    with _serving(server):
        outcome = here.carry_out()
    return _finished(outcome, here.paths.folder)


def start(
    recipe: str = "",
    settings: Settings = (),
    *,
    rewards: Rewards = NO_REWARDS,
    prompts: Prompts | None = None,
    heldout: Prompts | None = None,
    show: bool = False,
) -> BackgroundRun:
    """As `train`, without waiting for the end. Raises: UserError before a process is started."""
    return BackgroundRun(*_prepared(recipe, settings, rewards, prompts, heldout, show))


def open_run(name: str) -> Run:
    """A run of this folder's `runs`, or the one in that folder, live or ended. Raises: UserError that lists the runs."""
    return Run(find_run(name).folder)


def _prepared(
    recipe: str, settings: Settings, rewards: Rewards, prompts: Prompts | None, heldout: Prompts | None, show: bool
) -> tuple[RunHere, FunctionServer]:
    """The run, checked and not started, and the server of its functions, which does not listen yet."""
    overrides, values = _split(settings)
    server = FunctionServer({name: reward for name, reward in rewards.items() if not isinstance(reward, str)})
    if rewards:
        values["verifiers.own"] = {name: reward for name, reward in rewards.items() if isinstance(reward, str)} | server.targets
    paths = run_paths(compose(recipe, overrides, values))
    if show:
        sys.stderr.write("checking the settings, the model and every prompt\n")
    verifier = next(iter(rewards)) if len(rewards) == 1 else ""
    # the recipe's held-out prompts say nothing about a run on other prompts
    for name, records in (("train", prompts), ("heldout", heldout if prompts is None else heldout or ())):
        if records is not None:
            file = paths.folder / "prompts" / f"{name}.jsonl"
            written = write_own_prompts(records, file, verifier=verifier, replace=not paths.journal.exists())
            values[f"data.{name}"] = [{"file": str(file)}] if written else []
    return RunHere(prepare(recipe, overrides, values), show=show), server


def _split(settings: Settings) -> tuple[list[str], dict[str, object]]:
    """Overrides as texts, and values by key. Presets are laid under the others, as on the command line."""
    if isinstance(settings, str):
        raise ConfigError(f"settings = {settings!r}: expected a mapping such as {{'buffer.eta': 1}}, or a list of key=value")
    if not isinstance(settings, Mapping):
        return list(settings), {}
    values = {key: str(value) if isinstance(value, PurePath) else value for key, value in settings.items()}
    preset = values.pop("preset", None)
    return ([] if preset is None else [f"preset={preset}"]), values


def _finished(outcome: RunOutcome, folder: Path) -> Run:
    if outcome.code:
        raise RunFailed(outcome, folder)
    return Run(folder)


@contextlib.contextmanager
def _serving(server: FunctionServer) -> Iterator[None]:
    server.open()
    try:
        yield
    finally:
        server.close()


def _in_event_loop() -> bool:
    """Whether this thread runs an event loop already, as a notebook's does."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
