"""`prolong report RUN`: write the page of a run, live or ended, which is only read."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from ...common.config.run_files import RunPaths, find_checkpoints, load_config
from ...common.config.sections import Config
from ...common.errors import UserError
from ...common.files import atomic_replacement
from ...common.metrics import read_metrics
from ..diagnosis.diagnose import diagnose
from ..status import find_run
from ..summary import read_summary
from .curves import RunMark, columns_of, marks_of, restarts_of, sweeps_of
from .facts import facts_of
from .page import PageParts
from .rollouts import RolloutSample, sample_rollouts

MEGABYTES = 20.0  # of a page, unless --megabytes says otherwise
LEAST = 2.0  # megabytes: what is no rollout takes less in nearly every run


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenReport:
    """The file that was written, and what it shows of the rollouts."""

    path: Path
    num_bytes: int
    sample: RolloutSample


def report_run(run: str, out: Path | None, megabytes: float, *, predicts: bool) -> int:
    """Write the page and say where it is. Raises: UserError."""
    paths = find_run(run)
    if predicts:
        sys.stderr.write("simulating what changes of the run would gain: up to a minute (--quick leaves it out)\n")
    written = write_report(paths, out, megabytes, predicts=predicts)
    sample = written.sample
    shown = f"{sample.num_rollouts:,} rollouts, {len(sample.groups):,} of {sample.kept_groups:,} groups in the journal"
    sys.stdout.write(f"{written.path}: {written.num_bytes / 1e6:.1f} MB, {shown if sample.groups else 'no rollouts'}\n")
    if sample.why_none or sample.as_ids:
        sys.stdout.write(f"rollouts: {sample.why_none or 'tokens are shown as numbers: ' + sample.as_ids}\n")
    return 0


def write_report(
    paths: RunPaths, out: Path | None = None, megabytes: float = MEGABYTES, *, predicts: bool = True
) -> WrittenReport:
    """Write the page of a run to `out`, by default report.html in its folder. Raises: UserError.

    predicts: simulate what changes would gain, which takes most of the time.
    """
    if megabytes < LEAST:
        raise UserError(f"--megabytes {megabytes:g}: expected at least {LEAST:g}")
    path = out or paths.report
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.parent}; create it, or name another file")
    cfg = load_config(paths.config) if paths.config.exists() else None
    records = read_metrics(paths.metrics, exact=False) if paths.metrics.exists() else []
    summary = read_summary(paths.summary) if paths.summary.exists() else {}
    columns, sweeps = columns_of(records), sweeps_of(records, summary)
    marks = marks_of(records, cfg.stages if cfg else [])
    facts = {
        "run": facts_of(paths, cfg, records, sweeps),
        "columns": asdict(columns),
        "sweeps": {setting: asdict(curve) for setting, curve in sweeps.items()},
        "diagnosis": diagnose(paths.folder, predicts=predicts).as_json() if records and cfg else None,
        "config": paths.config.read_text(encoding="utf-8") if cfg else "",
    }
    page, title = PageParts.load(), f"{facts['run']['name']} - prolong report"
    spent = sum(map(len, page.render(title, facts, b"")))
    sample = sample_rollouts(paths.journal, _tokenizers(paths, cfg), int(megabytes * 1e6) - spent)
    facts["marks"] = [asdict(mark) for mark in [*marks, *restarts_of(paths.logs / "learner.log"), *_generations(sample)]]
    with atomic_replacement(path) as scratch, scratch.open("wb") as file:
        num_bytes = sum(file.write(part) for part in page.render(title, facts, sample.encoded()))
    return WrittenReport(path=path, num_bytes=num_bytes, sample=sample)


def _tokenizers(paths: RunPaths, cfg: Config | None) -> list[str]:
    """Where the tokenizer may be: a checkpoint has the run's own, wherever the model's folder is now.

    A relative path counts from the folder that the run was started in, which may be another one than this.
    """
    found = [str(path) for path in reversed(find_checkpoints(paths.checkpoints).values())][:1]
    if cfg is None:
        return found
    root, folder = Path(cfg.run.root), paths.folder.resolve()
    if not root.is_absolute():
        found.append(str(folder.parents[len(root.parts)] / cfg.model.path))
    return [*found, cfg.model.path]


def _generations(sample: RolloutSample) -> list[RunMark]:
    """A mark where a learner began that did not continue the recorded history."""
    begun = sample.generations[1:]
    words = "another generation began: the learner started from an older state"
    return [RunMark(step=step, last_step=step, kind="fault", words=f"{words} ({generation})") for step, generation in begun]
