"""Prompt records from Reasoning Gym's generators, at the levels of their curricula.

    generator(settings of a level, seed) --> entry, stored as it is --> {"uid", "prompt", "domain", "task", ...}

The entry is stored, not the seed: several generators ignore the seed, or vary with Python's hash seed. An entry whose own
answer does not earn 1 is left out; `Entries.num_refused` counts them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ...common.errors import DataError, UserError
from ...common.json_object import JsonObject
from ..logic import reasoning_gym as logic
from .requests import TAGS
from .solutions import SOLVERS

BROKEN_CURRICULA = frozenset({"knight_swap"})  # its generator refuses the settings of every level
FAILURE = 20  # a generator's failure counts as this many misses, because it searched for long
MAX_MISSES = 50  # in a row; duplicates and unusable entries are misses


def datasets() -> list[str]:
    """Names of all datasets that can be judged, in the sandbox or outside."""
    from reasoning_gym.factory import DATASETS

    return sorted(name for name in DATASETS if name not in logic.REFUSED)


def levels(dataset: str) -> list[int]:
    """Levels of a dataset's curriculum that its generator accepts; [0], the default settings, if it has no curriculum."""
    _known(dataset)
    if (curriculum := _curriculum(dataset)) is None:
        return [0]
    most = max(len(attribute.levels) for attribute in curriculum.attributes.values())
    return [level for level in range(most) if _valid(dataset, level)]


def _known(dataset: str) -> None:
    if dataset not in datasets():
        raise UserError(f"Reasoning Gym dataset {dataset!r}: expected one of {', '.join(datasets())}")


def _curriculum(dataset: str) -> Any:
    from reasoning_gym.factory import create_curriculum, has_curriculum

    return create_curriculum(dataset) if has_curriculum(dataset) and dataset not in BROKEN_CURRICULA else None


def _settings(dataset: str, level: int, seed: int, size: int) -> Any:
    from reasoning_gym.factory import DATASETS

    if (curriculum := _curriculum(dataset)) is None:
        return DATASETS[dataset][1](seed=seed, size=size)
    curriculum.set_global_level(level)
    return curriculum.generate_configuration({"seed": seed, "size": size})


def _valid(dataset: str, level: int) -> bool:
    try:
        settings = _settings(dataset, level, 0, 1)
        if hasattr(settings, "validate"):
            settings.validate()
    except (AssertionError, ValueError):
        return False
    return True


class Entries:
    """Iterates over `count` different prompt records of one dataset at one level. num_refused: unusable entries so far."""

    def __init__(self, dataset: str, level: int, count: int, seed: int) -> None:
        """Raises UserError for an unknown dataset or level."""
        if level not in levels(dataset):
            raise UserError(f"level {level} of {dataset}: expected one of {', '.join(map(str, levels(dataset)))}")
        self._dataset, self._level, self._count, self._seed = dataset, level, count, seed
        self.num_refused = 0

    def __iter__(self) -> Iterator[JsonObject]:
        """Raises DataError when the generator yields no more usable entries."""
        from reasoning_gym.factory import DATASETS

        size = self._count * 2 + MAX_MISSES
        generator = DATASETS[self._dataset][0](_settings(self._dataset, self._level, self._seed, size))
        questions: set[str] = set()
        misses = 0
        for index in range(size):
            made = self._make(generator, index)
            if made is None or made["question"] in questions or not self._solvable(entry := stored(made)):
                misses += 1 if made else FAILURE
                if misses >= MAX_MISSES:
                    break
                continue
            misses = 0
            questions.add(made["question"])
            uid = f"logic/{self._dataset}/{self._level}/{self._seed}-{index}"
            yield record(self._dataset, uid, made["question"], entry)
            if len(questions) == self._count:
                return
        raise DataError(
            f"{self._dataset} at level {self._level}: {len(questions)} different usable puzzles were found, "
            f"{self._count} were asked for; ask for fewer, or for another level"
        )

    def _solvable(self, entry: JsonObject) -> bool:
        answer = {"dataset": self._dataset, "entry": entry}
        solvable = logic.judge_puzzle(entry["answer"].strip(), answer) == 1.0
        if not solvable:
            self.num_refused += 1
        return solvable

    def _make(self, generator: Any, index: int) -> JsonObject | None:
        try:
            return generator[index]
        except (AssertionError, ValueError):  # it accepted settings that it cannot meet
            self.num_refused += 1
            return None


def stored(made: JsonObject) -> JsonObject:
    """A generator's entry after a round trip through JSON: without the question, and with an answer if a solver knows one."""
    metadata, answer = made["metadata"], made["answer"]
    if answer is None and metadata.get("source_dataset") in SOLVERS:
        answer = SOLVERS[metadata["source_dataset"]](metadata)
    return json.loads(json.dumps({"answer": answer, "metadata": metadata}))


def record(dataset: str, uid: str, question: str, entry: JsonObject) -> JsonObject:
    """The prompt record of a stored entry."""
    return {
        "uid": uid,
        "prompt": question.rstrip() + TAGS,
        "domain": "logic",
        "task": dataset,
        "verifier": "reasoning_gym",
        "answer": {"dataset": dataset, "entry": entry},
    }
