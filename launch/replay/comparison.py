"""Comparison of one step in two recordings: its batch (input), its metrics and its checkpoint (output).

For `prolong replay` and `prolong diff`. Durations (names that end with `_s`) are never compared. torch is imported only to
say how far apart two files are that differ.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from ...common.config.run_files import RunPaths
from ...common.json_object import JsonObject
from ...common.metrics import MetricsRecord, read_metrics
from ...common.types import Batch, Group, Rollout, ValidationScore, float32_array, int32_array

DURATION = "_s"
MACHINE = ("perf/",)  # groups of numbers that the machine decides
# relative: machines, numbers of threads and builds of torch may differ by as much in any computed number
ROUNDING = 1e-6
# absolute: where large terms cancel, as in a loss, the small remainder may differ by as much
NEARLY_ZERO = 1e-6
# beginning of metrics that runs did not always record -> beginnings of those that were added, or changed their meaning, then
SINCE = {"agreement/": ("agreement/",), "policy/lag_": ("policy/lag_", "policy/ess")}
CHOSEN = ("learner/lr",)  # set, not computed: no rounding
STATE = "state.json"
STATE_DURATIONS = ("wall_s", "spent.")
Scalar = float | str | None
Sides = tuple[str, str]  # the left value and the right one


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first value in which two recordings of `step` differ. A None is missing, or not finite."""

    step: int
    what: str
    left: Scalar
    right: Scalar
    rounding: bool = False  # small enough to come from another machine
    detail: str = ""

    def sentence(self, left: str = "", right: str = "") -> str:
        """`left` and `right` name the recordings."""
        ours, theirs = ("nothing" if value is None else str(value) for value in (self.left, self.right))
        sides = f"{left} {ours}, {right} {theirs}" if left else f"{ours} against {theirs}"
        return f"step {self.step}: {self.what}: {sides}" + (f" ({self.detail})" if self.detail else "")

    def tree(self) -> JsonObject:
        """As a JSON object."""
        return asdict(self)


def is_rounding(left: Scalar, right: Scalar) -> bool:
    """Whether two numbers differ in their last bits only."""
    if not isinstance(left, int | float) or not isinstance(right, int | float):
        return False
    return math.isclose(left, right, rel_tol=ROUNDING, abs_tol=NEARLY_ZERO)


def flatten(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) for every leaf of nested dictionaries and lists. An empty one is a leaf, as text."""
    if isinstance(tree, dict):
        children = tree.items()
    elif isinstance(tree, list):
        children = enumerate(tree)
    else:
        yield key, tree
        return
    if not tree:
        yield key, str(tree)
    for name, child in children:
        yield from flatten(child, f"{key}.{name}" if key else str(name))


# --- batches ----------------------------------------------------------------------------------------------------------


def compare_batches(left: Batch, right: Batch) -> Difference | None:
    """The first difference of two batches of one version, in the order in which the learner reads them.

    The actor that generated a group, and how long that took, are not compared.
    """
    found = next(_batch_differences(left, right), None)
    if found is None:
        return None
    where, (one, other) = found
    return Difference(step=left.version + 1, what=f"the batch differs: {where}", left=one, right=other)


def _batch_differences(left: Batch, right: Batch) -> Iterator[tuple[str, Sides]]:
    for i, (ours, theirs) in enumerate(zip_longest(left.groups, right.groups), start=1):
        if sides := _compare_groups(ours, theirs):
            yield f"group {i}", sides
    for score, other in zip_longest(left.validation, right.validation):
        if score != other:
            yield "validation score", (_describe_score(score), _describe_score(other))
    if left.reset_requested != right.reset_requested:
        yield "reset asked for", (str(left.reset_requested), str(right.reset_requested))


def _compare_groups(left: Group | None, right: Group | None) -> Sides | None:
    if left is None or right is None or (left.ordinal, left.prompt) != (right.ordinal, right.prompt):
        return _describe_ticket(left), _describe_ticket(right)
    if left.sampling != right.sampling:
        return f"{_describe_ticket(left)} with {left.sampling}", f"{right.sampling}"
    if len(left.rollouts) != len(right.rollouts):
        return f"{_describe_ticket(left)} with {len(left.rollouts)} rollouts", f"{len(right.rollouts)}"
    for i, (ours, theirs) in enumerate(zip(left.rollouts, right.rollouts, strict=True)):
        if found := _compare_rollouts(ours, theirs):
            what, (one, other) = found
            return f"{_describe_ticket(left)}, rollout {i}: {what} {one}", other
    return None


def _compare_rollouts(left: Rollout, right: Rollout) -> tuple[str, Sides] | None:
    arrays = (
        ("token", int32_array(left.token_ids), int32_array(right.token_ids)),
        ("behaviour log-probability", float32_array(left.behaviour_logprobs), float32_array(right.behaviour_logprobs)),
    )
    for what, ours, theirs in arrays:
        for i, (one, other) in enumerate(zip_longest(ours.tolist(), theirs.tolist())):
            if one != other:
                return f"{what} {i}", (_describe_token(one), _describe_token(other))
    if left.verdict.reward != right.verdict.reward:
        return "reward", (str(left.verdict.reward), str(right.verdict.reward))
    if left.finish_reason != right.finish_reason:
        return "end", (left.finish_reason.value, right.finish_reason.value)
    if left.spans != right.spans:
        return "versions", (_describe_spans(left), _describe_spans(right))
    return None


def _describe_token(value: float | None) -> str:
    return "the end" if value is None else str(value)


def _describe_ticket(group: Group | None) -> str:
    if group is None:
        return "no group"
    prompt = group.prompt
    return f"prompt {prompt.domain}/{prompt.task} {prompt.uid} of ticket {group.ordinal}"


def _describe_score(score: ValidationScore | None) -> str:
    return "none" if score is None else f"{score.mean} of version {score.version}, {score.setting}"


def _describe_spans(rollout: Rollout) -> str:
    return ", ".join(f"{span.version} for tokens {span.start} to {span.end}" for span in rollout.spans)


# --- metrics ----------------------------------------------------------------------------------------------------------


def read_steps(paths: RunPaths) -> dict[int, MetricsRecord]:
    """Step -> its record; empty without a metrics.jsonl. Raises: UserError for a broken file."""
    records = read_metrics(paths.metrics) if paths.metrics.exists() else []
    return {int(record["step"]): record for record in records}


def compare_records(left: MetricsRecord, right: MetricsRecord, without: tuple[str, ...]) -> Difference | None:
    """The first number of a step that differs; one that differs by more than rounding comes before all others.

    `without`: beginnings of names that are not compared.
    """
    ours, theirs = exact_numbers(left, without), exact_numbers(right, without)
    names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    if not names:
        return None
    rounded = {name for name in names if name not in CHOSEN and is_rounding(ours.get(name), theirs.get(name))}
    name = next((name for name in names if name not in rounded), names[0])
    step = int(left["step"])
    return Difference(step=step, what=name, left=ours.get(name), right=theirs.get(name), rounding=name in rounded)


def unrecorded(record: MetricsRecord) -> tuple[str, ...]:
    """Beginnings of names that must not be compared, because the record is of a version of prolong without them."""
    missing = [names for sign, names in SINCE.items() if not any(name.startswith(sign) for name in record)]
    return tuple(chain.from_iterable(missing))


def exact_numbers(record: MetricsRecord, without: tuple[str, ...] = ()) -> dict[str, float]:
    """The numbers of a record that do not depend on the machine or its clock."""
    return {
        name: value
        for name, value in record.items()
        if value is not None and not name.endswith(DURATION) and not name.startswith((*MACHINE, *without))
    }


# --- checkpoints ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The part of a checkpoint that is compared."""

    folder: Path
    version: int
    digests: dict[str, str]  # file -> SHA-256
    state: JsonObject  # dotted name -> value, without durations


def fingerprint(version: int, folder: Path) -> Fingerprint | None:
    """None when the checkpoint was removed meanwhile: a live run keeps its newest ones only."""
    try:
        files = sorted(folder.glob("*.safetensors"))
        # beside the parts of several ranks, the model is one that was exported: every last checkpoint has it, no other
        parts = [path for path in files if not path.name.startswith("model")]
        digests = {path.name: sha256(path) for path in (parts if _of_ranks(parts) else files)}
        state = dict(flatten(json.loads((folder / STATE).read_text())))
    except FileNotFoundError:
        return None
    exact = {name: value for name, value in state.items() if not name.startswith(STATE_DURATIONS)}
    return Fingerprint(folder, version, digests, exact)


def _of_ranks(files: list[Path]) -> bool:
    return any(path.name.startswith("policy-") for path in files)


def compare_checkpoints(left: Fingerprint, right: Fingerprint) -> Difference | None:
    """The first file, or number of the learner's state, that differs."""
    for name in sorted({*left.digests, *right.digests}):
        one, other = left.digests.get(name), right.digests.get(name)
        if one != other:
            gap, detail = _file_gap(left.folder / name, right.folder / name) if one and other else (math.inf, "")
            what, rounding = f"checkpoint: SHA-256 of {name}", gap <= ROUNDING
            return Difference(step=left.version, what=what, left=one, right=other, rounding=rounding, detail=detail)
    for name in left.state | right.state:
        one, other = left.state.get(name), right.state.get(name)
        if one != other:
            what, rounding = f"checkpoint: {STATE}: {name}", is_rounding(one, other)
            return Difference(step=left.version, what=what, left=one, right=other, rounding=rounding)
    return None


def sha256(path: Path) -> str:
    """Of the content of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_gap(left: Path, right: Path) -> tuple[float, str]:
    """The largest `_tensor_gap` of two safetensors files, and where it is, in words."""
    from safetensors import SafetensorError, safe_open

    widest, where = 0.0, ""
    try:
        with safe_open(left, "pt") as ours, safe_open(right, "pt") as theirs:
            if names := sorted({*ours.keys()} ^ {*theirs.keys()}):
                return math.inf, f"tensor {names[0]} is in one of them only"
            for name in ours.keys():  # noqa: SIM118  a safetensors file is no mapping
                gap = _tensor_gap(ours.get_tensor(name), theirs.get_tensor(name))
                widest, where = max((widest, where), (gap, name))
    except (OSError, SafetensorError) as error:
        return math.inf, f"cannot be read: {error}"
    return widest, f"tensor {where} by {widest:.1e} of its largest number"


def _tensor_gap(left: Any, right: Any) -> float:
    """The largest difference of two tensors, divided by the largest number of the first; inf when they cannot be compared."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return math.inf
    if not left.numel():
        return 0.0
    gap = float((left.double() - right.double()).abs().max())
    if gap == 0.0:
        return 0.0
    largest = float(left.double().abs().max())
    return gap / largest if largest > 0 and math.isfinite(gap) else math.inf
