"""`prolong replay`: run the learner of a run again on its recorded batches, and name the first result that differs.

    RUN/{config.yaml, journal/, checkpoints/} --> RUN/replay/ {config.yaml, learner.log, metrics.jsonl, checkpoints/}
    this process  --one per rank-->  launch/replay/rerun.py: the real learner on recorded batches
    RUN/{metrics.jsonl, checkpoints/}  <--compared, step by step-->  RUN/replay/{metrics.jsonl, checkpoints/}

Neither actors nor a buffer nor our sockets take part. The run itself is only read; it may be live.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...buffer.journal.journal import read_journal
from ...buffer.tickets.adaptive import LAW, WrongDecision, check_decisions
from ...common.config.run_files import RunPaths, find_checkpoints, load_config, save_config
from ...common.config.sections import Config
from ...common.errors import ProlongError, UserError
from ...common.json_object import JsonObject
from ...common.metrics import MetricsRecord, MetricsTail
from ..local.process import ChildProcess
from ..status import find_run
from .comparison import (
    Difference,
    Fingerprint,
    compare_checkpoints,
    compare_records,
    fingerprint,
    read_steps,
    unrecorded,
)
from .rerun import failure_reason, learner_process, running

REPLAY_FOLDER = "replay"  # in the folder of the run
NOT_REPLAYED = ("weights/",)  # no actor receives weights
STEP_POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """The steps that are run again, which make versions `start` + 1 to `until`, and their recorded results."""

    paths: RunPaths
    cfg: Config  # of the replay, with a run folder of its own
    start: int
    until: int
    records: dict[int, MetricsRecord]  # by step
    checkpoints: dict[int, Fingerprint]  # by version
    origins: dict[int, Path]  # checkpoints of the run that the replay starts from, by version
    num_decisions: int = 0  # about eta, which were made again from their numbers
    wrong_decisions: list[WrongDecision] = field(default_factory=list)

    @property
    def origin(self) -> str:
        """The starting point, for a person."""
        return f"the checkpoint {self.origins[self.start].name}" if self.origins else f"the model {self.cfg.model.path}"


def replay_run(name: str, *, until: int | None, keep: bool, as_json: bool) -> int:
    """Run again, compare and print; 0 when everything is the same, 1 when something differs.

    Raises: UserError when the run cannot be run again.
    """
    try:
        plan = make_plan(find_run(name), until)
        scratch = RunPaths(plan.paths.folder / REPLAY_FOLDER)
        with _hold(scratch.folder):
            found = _replay(plan, scratch)
            _print_result(plan, scratch, found, as_json=as_json)
            if found is None and not keep:
                shutil.rmtree(scratch.folder)
    except (ProlongError, OSError) as error:
        raise UserError(str(error)) from error
    return 0 if found is None else 1


def make_plan(paths: RunPaths, until: int | None) -> ReplayPlan:
    """The longest replay up to `until`. Raises: UserError when there is none; ConfigError, JournalError."""
    cfg = load_config(paths.config)
    with contextlib.closing(read_journal(paths.journal)) as journal:
        versions, decisions = journal.versions(), journal.eta_records()
    records, checkpoints = read_steps(paths), find_checkpoints(paths.checkpoints)
    start = starting_version(versions, list(checkpoints))
    recorded = min(versions[-1] + 1, max([*records, *checkpoints], default=0))
    last = min(recorded, recorded if until is None else until)
    if last <= start:
        raise UserError(
            f"nothing to run again: the recorded batches begin at version {start}, the steps to compare with end at {last}"
            + ("" if until is None else f" (--until {until})")
        )
    prints = {v: fingerprint(v, path) for v, path in checkpoints.items() if start < v <= last}
    cfg.run.root, cfg.run.name = str(paths.folder), REPLAY_FOLDER
    # a run is replayed as it was, also one from before the check
    cfg.learner.agreement_tolerance = 0.0
    return ReplayPlan(
        paths=paths,
        cfg=cfg,
        start=start,
        until=last,
        records={step: record for step, record in records.items() if start < step <= last},
        checkpoints={version: found for version, found in prints.items() if found is not None},
        num_decisions=sum(record.law == LAW and start < record.evidence.version <= last for record in decisions),
        wrong_decisions=[wrong for wrong in check_decisions(decisions) if start < wrong.version <= last],
        origins={version: path for version, path in checkpoints.items() if start and version <= start},
    )


def starting_version(versions: list[int], checkpoints: list[int]) -> int:
    """Version 0, or else that of the oldest checkpoint, after which every batch is recorded.

    `versions`: of the recorded batches, ascending. Raises: UserError when there is no such version.
    """
    recorded = set(versions)
    for start in (0, *checkpoints):
        if start in recorded and recorded.issuperset(range(start, versions[-1] + 1)):
            return start
    raise UserError(
        f"nothing to run again: of the versions {_list(checkpoints) or '(none)'} that have a checkpoint, none has "
        f"the batch of its next step in the journal ({_extent(versions)}); a run with buffer.keep_history=true keeps all"
    )


def _extent(versions: list[int]) -> str:
    return f"it holds those of versions {versions[0]} to {versions[-1]}" if versions else "it holds no batch"


@contextlib.contextmanager
def _hold(folder: Path) -> Iterator[None]:
    """Create or empty the folder, and lock it. Raises: UserError while another process holds it."""
    folder.mkdir(exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another `prolong replay` works in it; wait for its end") from None
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        yield
    finally:
        os.close(handle)


def _replay(plan: ReplayPlan, scratch: RunPaths) -> Difference | None:
    """The first difference, or None. Raises: UserError when the learner fails before one is found."""
    for path in plan.origins.values():
        shutil.copytree(path, scratch.checkpoints / path.name, copy_function=_link)
    save_config(plan.cfg, scratch.config)
    different, done = _follow(plan, scratch, learner_process(plan.cfg, plan.paths, plan.until))
    # those of an earlier step come first, although they are looked at last
    before = different.step if different else done + 1
    found = (_first_checkpoint(plan, scratch, before), _first_decision(plan, before))
    earlier = min((each for each in found if each is not None), key=lambda each: each.step, default=None)
    if earlier is not None:
        return earlier
    if different is None and done < plan.until:
        return _early_end(plan, done)
    return different


def _early_end(plan: ReplayPlan, done: int) -> Difference:
    """The difference when the learner took the run for ended. Raises: UserError when a batch was dropped meanwhile."""
    with contextlib.closing(read_journal(plan.paths.journal)) as journal:
        if journal.batch(done) is None:
            raise UserError(
                f"the run went on and dropped the batch of version {done} meanwhile: the steps before it are the same; a run "
                "that keeps its batches (buffer.keep_history=true) can be replayed while it lives"
            )
    return Difference(step=done + 1, what="the run", left="going on", right="over")


def _link(source: str, target: str) -> None:
    """A hard link to a file that is never written again; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _follow(plan: ReplayPlan, scratch: RunPaths, process: ChildProcess) -> tuple[Difference | None, int]:
    """Compare each step when it is done; return the first difference, or None, and the last step done. Ends the process.

    Blocks on the next step, for `learner.starve_s` at most. Raises: UserError when no step came in time, or the learner failed.
    """
    done, tail, step_timeout_s = plan.start, MetricsTail(scratch.metrics, exact=True), plan.cfg.learner.starve_s
    deadline, ended = monotonic() + step_timeout_s, False
    with running(process) as ending, _progress(plan) as advance:
        while not ended:
            # asked before the metrics are read: what the process wrote before its end is then read as well
            ended = bool(select.select([ending], [], [], STEP_POLL_S)[0])
            for record in tail.read()[0]:
                done, deadline = int(record["step"]), monotonic() + step_timeout_s
                advance(done)
                recorded = plan.records.get(done, record)
                different = compare_records(recorded, record, NOT_REPLAYED + unrecorded(recorded))
                if different is not None:
                    return different, done
            if not ended and monotonic() > deadline:
                raise UserError(
                    f"the replayed learner made no step in {step_timeout_s:g} s (learner.starve_s); see {process.log}"
                )
    if code := process.reap():
        raise UserError(f"the replayed learner failed at step {done + 1}: {failure_reason(process, code)}")
    return None, done


@contextlib.contextmanager
def _progress(plan: ReplayPlan) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal; yields a function that takes the last step done."""
    console = Console(stderr=True)
    console.print(
        f"replaying {plan.paths.folder.name} from version {plan.start} ({plan.origin}) to version {plan.until}",
        highlight=False,
        soft_wrap=True,
    )
    columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=plan.until - plan.start)
        yield lambda step: bar.update(task, completed=step - plan.start)


def _first_checkpoint(plan: ReplayPlan, scratch: RunPaths, before: int) -> Difference | None:
    """The difference of the first checkpoint that differs, of the versions below `before`."""
    for version, path in find_checkpoints(scratch.checkpoints).items():
        if version in plan.checkpoints and version < before and (replayed := fingerprint(version, path)):
            found = compare_checkpoints(plan.checkpoints[version], replayed)
            if found is not None:
                return found
    return None


def _first_decision(plan: ReplayPlan, before: int) -> Difference | None:
    """The first decision about eta that does not follow from its numbers, of the versions below `before`."""
    for wrong in plan.wrong_decisions:
        if wrong.version < before:
            return Difference(step=wrong.version, what="the decision about eta", left=wrong.recorded, right=wrong.made)
    return None


def _print_result(plan: ReplayPlan, scratch: RunPaths, found: Difference | None, *, as_json: bool) -> None:
    """One JSON object on one line, or a short page."""
    common = sorted({*plan.checkpoints} & {*find_checkpoints(scratch.checkpoints)})
    known: JsonObject = {
        "run": plan.paths.folder.name,
        "same": found is None,
        "start": plan.start,
        "origin": plan.origin,
        "until": plan.until,
        "records": len(plan.records),
        "checkpoints": common,
        "decisions": plan.num_decisions,
        "sha256": plan.checkpoints[common[-1]].digests if common and found is None else {},
        "difference": None if found is None else found.tree(),
    }
    text = json.dumps(known) if as_json else "\n".join(_page(plan, scratch, found, common))
    sys.stdout.write(text + "\n")


def _page(plan: ReplayPlan, scratch: RunPaths, found: Difference | None, common: list[int]) -> Iterator[str]:
    if found is None:
        count = plan.until - plan.start
        yield f"{count} steps are the same as recorded, from version {plan.start} ({plan.origin}) to version {plan.until}:"
        yield f"  all numbers of {len(plan.records)} records of metrics.jsonl, without durations"
        if plan.num_decisions:
            yield f"  {plan.num_decisions} decisions about eta, made again from their numbers"
        yield (
            f"  the checkpoints of version {_list(common)}"
            if common
            else "  no checkpoint: the run kept none of these versions"
        )
        if common:
            checkpoint = plan.checkpoints[common[-1]]
            yield from (f"SHA-256 {digest}  {checkpoint.folder.name}/{name}" for name, digest in checkpoint.digests.items())
        return
    yield found.sentence("recorded", "replayed")
    yield f"until version {found.step - 1} everything is the same, from version {plan.start} ({plan.origin}) on"
    if found.rounding:
        yield (
            "only the last bits of a number differ: another kind of processor, number of threads or build of torch may round "
            "differently; nothing needs to be damaged"
        )
    else:
        yield "the model, a setting, a recorded batch or the code is not what it was when this step was recorded"
    yield f"what was replayed is in {scratch.folder}; `prolong diff {plan.paths.folder} {scratch.folder}` compares further"


def _list(versions: list[int]) -> str:
    return ", ".join(map(str, versions))
