"""What came out of a step: in which numbers of metrics.jsonl, or in which checkpoint, two recordings of it differ.

For `prolong replay` and `prolong diff`. Clocks (names that end with `_s`) are never compared. torch is imported
only to say how far two files are apart that differ.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...buffer.journal.journal import Journal, read_journal
from ...common.config.run_files import RunPaths
from ...common.metrics import Record, read_metrics

CLOCK = "_s"
ROUNDING = 1e-6  # of a number: as much may differ between machines, numbers of threads, and builds of torch
# what is left of greater terms that cancel, such as a loss, may differ by as much whatever its own size
NEARLY_ZERO = 1e-6
CHOSEN = ("learner/lr",)  # a setting: small, and not computed
STATE = "state.json"
STATE_CLOCKS = ("wall_s", "spent.")
Scalar = float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first thing in which two recordings of `step` disagree. None: it is missing, or not finite."""

    step: int
    what: str
    left: Scalar
    right: Scalar
    rounding: bool = False  # as little as two machines may disagree in
    detail: str = ""

    def sentence(self, left: str = "", right: str = "") -> str:
        """`left` and `right` say whose values these are."""
        ours, theirs = ("nothing" if value is None else str(value) for value in (self.left, self.right))
        sides = f"{left} {ours}, {right} {theirs}" if left else f"{ours} against {theirs}"
        return f"step {self.step}: {self.what}: {sides}" + (f" ({self.detail})" if self.detail else "")

    def tree(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is compared of a checkpoint."""

    folder: Path
    version: int
    digests: dict[str, str]  # file -> SHA-256
    state: dict[str, Any]  # dotted name -> value, without clocks


def open_history(paths: RunPaths) -> Journal | None:
    """The journal of a run, live or not; None when it has none. Raises: JournalError."""
    return read_journal(paths.journal) if (paths.journal / "data.mdb").is_file() else None


def read_steps(paths: RunPaths) -> dict[int, Record]:
    """The record of every step; none when the run has no metrics.jsonl. Raises: UserError for a broken file."""
    records = read_metrics(paths.metrics) if paths.metrics.exists() else []
    return {int(record["step"]): record for record in records}


def compare_records(left: Record, right: Record, without: tuple[str, ...]) -> Difference | None:
    """The first number of a step that differs; one that differs by more than rounding comes before all others.

    `without`: beginnings of names that are not compared.
    """
    ours, theirs = exact_numbers(left, without), exact_numbers(right, without)
    names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    if not names:
        return None
    near = {name for name in names if name not in CHOSEN and is_rounding(ours.get(name), theirs.get(name))}
    name = next((name for name in names if name not in near), names[0])
    step = int(left["step"])
    return Difference(step=step, what=name, left=ours.get(name), right=theirs.get(name), rounding=name in near)


def exact_numbers(record: Record, without: tuple[str, ...] = ()) -> dict[str, float]:
    """What of a record no clock decides."""
    return {
        name: value
        for name, value in record.items()
        if value is not None and not name.endswith(CLOCK) and not name.startswith(without)
    }


def is_rounding(left: Scalar, right: Scalar) -> bool:
    """Whether two numbers differ in their last bits only."""
    if not isinstance(left, int | float) or not isinstance(right, int | float):
        return False
    return math.isclose(left, right, rel_tol=ROUNDING, abs_tol=NEARLY_ZERO)


def find_checkpoints(folder: Path) -> dict[int, Path]:
    """The whole checkpoints in `folder` by version, ascending: as `learner/checkpoints` finds them, without torch."""
    found = {path.parent.name.removeprefix("step-"): path.parent for path in folder.glob(f"step-*/{STATE}")}
    return dict(sorted((int(version), path) for version, path in found.items() if version.isdecimal()))


def fingerprint(version: int, folder: Path) -> Fingerprint | None:
    """None when the checkpoint was removed meanwhile: a run that lives keeps its newest ones only."""
    try:
        digests = {path.name: sha256(path) for path in sorted(folder.glob("*.safetensors"))}
        state = dict(flatten(json.loads((folder / STATE).read_text())))
    except FileNotFoundError:
        return None
    exact = {name: value for name, value in state.items() if not name.startswith(STATE_CLOCKS)}
    return Fingerprint(folder, version, digests, exact)


def compare_checkpoints(left: Fingerprint, right: Fingerprint) -> Difference | None:
    """The first file, or number of the learner's state, that differs."""
    for name in sorted({*left.digests, *right.digests}):
        one, other = left.digests.get(name), right.digests.get(name)
        if one != other:
            gap, detail = _distance(left.folder / name, right.folder / name) if one and other else (math.inf, "")
            what = f"checkpoint: SHA-256 of {name}"
            near = gap <= ROUNDING
            return Difference(step=left.version, what=what, left=one, right=other, rounding=near, detail=detail)
    for name in left.state | right.state:
        one, other = left.state.get(name), right.state.get(name)
        if one != other:
            near = is_rounding(one, other)
            return Difference(step=left.version, what=f"checkpoint: {STATE}: {name}", left=one, right=other, rounding=near)
    return None


def sha256(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flatten(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of all leaves of nested dictionaries and lists; an empty one is a leaf, as text."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if children is None:
        yield key, tree
    elif not tree:
        yield key, str(tree)
    else:
        for name, child in children:
            yield from flatten(child, f"{key}.{name}" if key else str(name))


def _distance(left: Path, right: Path) -> tuple[float, str]:
    """How far two safetensors files are apart, as a share of the largest number of the tensor where that is most; in words."""
    from safetensors import SafetensorError, safe_open

    widest, where = 0.0, ""
    try:
        with safe_open(left, "pt") as ours, safe_open(right, "pt") as theirs:
            if names := sorted({*ours.keys()} ^ {*theirs.keys()}):
                return math.inf, f"tensor {names[0]} is in one of them only"
            for name in ours.keys():  # noqa: SIM118  no mapping
                gap = _gap(ours.get_tensor(name), theirs.get_tensor(name))
                widest, where = max((widest, where), (gap, name))
    except (OSError, SafetensorError) as error:
        return math.inf, f"cannot be read: {error}"
    return widest, f"tensor {where} by {widest:.1e} of its largest number"


def _gap(left: Any, right: Any) -> float:
    """Largest difference of two tensors, as a share of the largest number of the first; inf when they cannot be compared."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return math.inf
    if not left.numel():
        return 0.0
    gap = float((left.double() - right.double()).abs().max())
    if gap == 0.0:
        return 0.0
    most = float(left.double().abs().max())
    return gap / most if most > 0 and math.isfinite(gap) else math.inf
