"""What a run that goes on from a checkpoint may change: every setting, and why some cannot.

`CHANGES` is the one source: docs/config.md shows it in a column, and `fixed_settings` compares two configurations by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from .choices import ResetSource
from .sections import Config
from .trees import largest_eta, to_tree


class Change(Enum):
    """When another value of a setting takes effect in a run that goes on."""

    free = "any time"  # it says where and how fast the run works, not what it learns
    next_step = "next step"  # tickets and steps from now on follow the new value; recorded ones keep theirs
    limited = "limited"  # some changes are impossible: `fixed_settings` says which, and why
    fixed = "never"  # what is recorded or under way depends on it


FREE, NEXT, LIMITED, FIXED = Change.free, Change.next_step, Change.limited, Change.fixed

# a section, for all its settings, or a setting: the longer name decides
CHANGES: dict[str, Change] = {
    "run": FREE,
    "run.seed": FIXED,
    "run.steps": NEXT,
    "model": FREE,
    "model.path": LIMITED,
    "model.dtype": NEXT,
    "model.max_context": NEXT,
    "model.lora": FIXED,
    "data": NEXT,
    "data.train": LIMITED,
    "data.train[]": NEXT,
    "data.train[].only": LIMITED,
    "data.train[].name": LIMITED,
    "sampling": NEXT,
    "buffer": FREE,
    "buffer.batch_groups": FIXED,
    "buffer.eta": LIMITED,
    "buffer.adaptive": LIMITED,
    "buffer.curriculum": NEXT,
    "buffer.straggler": FIXED,
    "buffer.preference": NEXT,
    "buffer.dispatch": NEXT,
    "buffer.dynamic_sampling": NEXT,
    "buffer.max_filtered": NEXT,
    "buffer.lease_s": NEXT,
    "validation": NEXT,
    "actor": FREE,
    "verifiers": FREE,
    "verifiers.own": NEXT,
    "verifiers.judge": NEXT,
    "learner": NEXT,
    "learner.token_budget": FREE,
    "learner.logprob_chunk": FREE,
    "learner.recompute": FREE,
    "learner.compile": FREE,
    "learner.offload": FREE,
    "learner.shard_ranks": FREE,
    "learner.context_parallel": FREE,
    "learner.max_skipped": FREE,
    "learner.starve_s": FREE,
    "learner.fsdp_reshard": FREE,
    "objective": NEXT,
    "objective.kl_beta": LIMITED,
    "rewards": NEXT,
    "reference": NEXT,
    "reference.source": LIMITED,
    "checkpoint": FREE,
    "weights": FREE,
    "launch": FREE,
    "pools": FREE,
    "alerts": NEXT,
    "trackers": FREE,
    "stages": LIMITED,
    "stages[]": LIMITED,
}


class FixedSetting(NamedTuple):
    """A setting that has another value than the run that would go on."""

    key: str
    recorded: object
    given: object
    why: str

    def sentence(self) -> str:
        """The key, both values, and why it cannot change."""
        return f"{self.key} = {self.given}, but this run has {self.recorded}: {self.why}"


def change_of(key: str) -> Change:
    """When a change of the setting `key`, as `section.name` or `data.train[].name`, takes effect. Raises: KeyError."""
    known = [name for name in CHANGES if key == name or key.startswith((f"{name}.", f"{name}["))]
    return CHANGES[max(known, key=len)] if known else CHANGES[key]


def fixed_settings(recorded: Config, given: Config, stage: int) -> Iterator[FixedSetting]:
    """Yield every setting that differs and cannot; `stage` is the index of the stage that the run is in.

    `model.path` is not compared here: the checkpoint tells whether the model is another one.
    """
    before, after = to_tree(recorded), to_tree(given)
    for key, why in _WHY_FIXED.items():
        section, name = key.split(".")
        if before[section][name] != after[section][name]:
            yield FixedSetting(key, before[section][name], after[section][name], why)
    before_eta, after_eta = largest_eta(recorded.buffer), largest_eta(given.buffer)
    if after_eta < before_eta:
        why = "groups under way may be older than a smaller bound allows; it may only grow"
        yield FixedSetting(_BOUND[bool(given.buffer.adaptive)], before_eta, after_eta, why)
    yield from _fixed_reference(recorded, given)
    yield from _fixed_lists(recorded, given, stage)


# whether eta adapts -> the setting that bounds it
_BOUND = {False: "buffer.eta", True: "buffer.adaptive.max"}
_WHY_FIXED = {
    "model.lora": "its checkpoints and the moments of AdamW are of these adapters, or of the whole model",
    "run.seed": "the order of the prompts and the noise of every ticket are drawn with it",
    "buffer.batch_groups": "its ledger counts steps in batches of this size",
    "buffer.straggler": "groups under way were issued under that rule",
}


def _fixed_reference(recorded: Config, given: Config) -> Iterator[FixedSetting]:
    if given.objective.kl_beta > 0 and recorded.objective.kl_beta == 0:
        why = "its checkpoints hold no reference for a KL term"
        yield FixedSetting("objective.kl_beta", recorded.objective.kl_beta, given.objective.kl_beta, why)
    source = given.reference.source
    if source is ResetSource.best and recorded.reference.source is not ResetSource.best:
        why = "the checkpoint with the best score was not kept so far"
        yield FixedSetting("reference.source", recorded.reference.source.name, source.name, why)


def _fixed_lists(recorded: Config, given: Config, stage: int) -> Iterator[FixedSetting]:
    """Sources and stages are counted by their place in the list."""
    before, after = ([(source.name, source.only) for source in cfg.data.train] for cfg in (recorded, given))
    if before != after:
        why = "prompts are counted by source, in this order; files and weights may change"
        yield FixedSetting("data.train", [name for name, _ in before], [name for name, _ in after], why)
    begun = slice(0, stage + 1)
    names, now = ([each.name for each in cfg.stages] for cfg in (recorded, given))
    if names[begun] != now[begun] or bool(names) != bool(now):
        yield FixedSetting("stages", names, now, f"the run is in stage {stage} (from 0); only later stages may change")
