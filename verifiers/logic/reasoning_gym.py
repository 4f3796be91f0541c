"""`reasoning_gym`: puzzles of Reasoning Gym (Apache-2.0), judged inside <answer> tags by its own scorers if they can be.

    text --bare (readings.py)--> UNSAFE (formulas.py): a scorer of ours executes the answer, in the sandbox
                                 OURS (exact.py, replaced_scorers.py, moves.py): a scorer of ours judges
                                 all others: the library's scorer, here; what it pays below 1 counts for PARTIAL only
    REFUSED: the library's scorer cannot be used, and there is none of ours

The answer specification is {"dataset": NAME, "entry": {"answer", "metadata"}}. Entries are generated once and stored, because
several generators ignore their seed or vary with the hash seed. The choice of scorers was made by reading all of them in
reasoning-gym 0.1.25; a name that this version does not know is refused when it is judged.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from ...common.errors import DataError, UserError, VerifierFailure
from ...common.json_object import JsonObject
from ...common.types import VerdictStatus
from ..answers.extraction import after_thinking, last_tagged
from ..api import Answer, Score, Task, Verifier
from ..sandbox.launcher import Limits, RunResult, RunStatus
from ..sandbox.opening import open_for_process
from ..sandbox.outputs import plain_json
from ..sandbox.sandbox import Sandbox, retry_once
from . import formulas
from .exact import EXACT, Scorer
from .moves import LEAST_PARTIAL, MOVES, PARTIAL, SPELLINGS
from .readings import bare
from .replaced_scorers import REPLACED

UNSAFE = frozenset(formulas.SCORERS)  # parse_expr() is eval()
OURS: dict[str, Scorer] = {**EXACT, **REPLACED, **MOVES}
REFUSED = {
    "composite": "it is a mixture of other datasets: give each of them by its own name",
    "propositional_logic": "its scorer pays in full for a premise that is copied, and for variables that follow from nothing",
}
# settings of a scorer that must cover every level
SETTINGS = {"word_ladder": {"min_word_length": 3, "max_word_length": 5}}
MAX_ANSWER_CHARS = 50_000
PRELOAD = ("sympy", formulas.__name__)
LIMITS = Limits(cpu_s=3, wall_s=10, memory_mb=4096)  # stored answers take .3 s at most


@functools.cache
def library_dataset(name: str) -> Any:
    """The library's dataset, for its scorer."""
    import reasoning_gym

    return reasoning_gym.create_dataset(name, size=1, seed=0, **SETTINGS.get(name, {}))


def judge_puzzle(text: str, answer: Answer) -> float:
    """The reward of the text between the tags, 0 to 1. For datasets in UNSAFE the text must be our own.

    The text counts as it is, or without what surrounds the answer in it, whichever is worth more, because a stored answer
    may itself have quotes. Raises ValueError when a scorer leaves that range, KeyError or TypeError for a stored entry that
    is incomplete.
    """
    dataset, entry = answer["dataset"], answer["entry"]
    if dataset in UNSAFE:
        return formulas.judge_formula(dataset, text if formulas.is_formula(text, entry) else formulas.spelled(text), entry)
    reward = max(_reward(dataset, reading, entry) for reading in dict.fromkeys((text, bare(text))))
    if not (math.isfinite(reward) and 0.0 <= reward <= 1.0):
        raise ValueError(f"the scorer of {dataset} returned {reward}: expected 0 to 1")
    return reward


def _reward(dataset: str, text: str, entry: JsonObject) -> float:
    """ValueError and OverflowError of reading a text are the answer's fault: it does not have the form that was asked for."""
    try:
        if dataset in OURS:
            return OURS[dataset](text, entry)
        text = SPELLINGS[dataset](text) if dataset in SPELLINGS else text
    except (ValueError, OverflowError):
        return 0.0
    reward = _library_score(dataset, text, entry)
    is_partial = dataset in PARTIAL and reward >= LEAST_PARTIAL
    return reward if reward >= 1.0 or is_partial or not math.isfinite(reward) else 0.0


def _library_score(dataset: str, text: str, entry: JsonObject) -> float:
    return float(library_dataset(dataset).score_answer(text, entry))


class ReasoningGymVerifier(Verifier):
    """The content of `<answer>` tags, judged by the data set's own scorer, which may give partial credit."""

    eager = True

    def __init__(self, sandbox: Sandbox | None = None) -> None:
        """sandbox: already open, with PRELOAD; otherwise `open_sandbox` opens one for this process."""
        self._sandbox = sandbox

    def check(self, answer: Answer) -> None:
        """Raises DataError for a broken entry, UserError for a dataset that cannot be judged."""
        name, entry = answer.get("dataset"), answer.get("entry")
        if not isinstance(name, str) or not isinstance(entry, dict) or "answer" not in entry:
            expected = '{"dataset": NAME, "entry": the stored entry}'
            raise DataError(f"verifier reasoning_gym: got {answer!r:.200}; expected {expected}")
        if name in REFUSED:
            raise UserError(f"verifier reasoning_gym: dataset {name} cannot be used: {REFUSED[name]}")
        if name in UNSAFE and not formulas.is_formula(str(entry["answer"] or "?"), entry):
            raise DataError(
                f"verifier reasoning_gym: the stored answer {entry['answer']!r:.100} of {name} is no formula (an integral that "
                f"was left unsolved is none); leave this entry out, or make others with verifiers/data/puzzles.py, which does"
            )

    def gold(self, answer: Answer) -> str | None:
        stored = answer["entry"]["answer"]
        return None if stored is None else f"<answer>{stored}</answer>"

    def load(self) -> None:
        """Import the library, which takes two seconds."""
        import reasoning_gym  # noqa: F401

    def needs_sandbox(self, answer: Answer) -> bool:
        return answer.get("dataset") in UNSAFE

    def granted_s(self, answer: Answer) -> float:
        return LIMITS.cpu_s if self.needs_sandbox(answer) else 0.0

    def open_sandbox(self, *, allow_unsafe: bool) -> None:
        if self._sandbox is None:
            self._sandbox = open_for_process(preload=PRELOAD, allow_unsafe=allow_unsafe)

    def report_to(self, alive: Callable[[], None]) -> None:
        self._open().on_look = alive

    def score(self, task: Task) -> Score:
        text = last_tagged(after_thinking(task))
        if text is None:
            return Score(reward=0.0, status=VerdictStatus.no_answer, detail="no <answer>...</answer> behind the thinking")
        if len(text) > MAX_ANSWER_CHARS:
            return Score(reward=0.0, status=VerdictStatus.input_rejected, detail=f"an answer of {len(text)} characters")
        if self.needs_sandbox(task.answer):
            return self._score_in_sandbox(text, task.answer)
        return Score(reward=judge_puzzle(text, task.answer))

    def probe(self, answer: Answer) -> bool:
        """Raises VerifierFailure if the stored answer does not earn 1 in the sandbox."""
        stored = str(answer["entry"]["answer"] or "")
        if not self.needs_sandbox(answer):
            judge_puzzle(stored, answer)
        elif (earned := self._evaluate(stored, answer)) != 1.0:
            dataset = answer["dataset"]
            raise VerifierFailure(f"the stored answer {stored!r:.100} of {dataset} earned {earned} in the sandbox, not 1")
        return True

    def _score_in_sandbox(self, text: str, answer: Answer) -> Score:
        """Raises VerifierFailure if the sandbox fails twice."""
        if not formulas.is_formula(text, answer["entry"]):
            text = formulas.spelled(text)
        if not formulas.is_formula(text, answer["entry"]):
            return Score(reward=0.0, detail="not a formula of numbers, known functions and the puzzle's variables")
        stamp = {"unsafe_code": 1.0} if self._open().unsafe else {}
        try:
            return Score(reward=self._evaluate(text, answer), metrics=stamp)
        except ValueError as error:
            self.probe(answer)
            return Score(reward=0.0, status=VerdictStatus.input_rejected, detail=str(error), metrics=stamp)

    def _evaluate(self, text: str, answer: Answer) -> float:
        """Raises ValueError if sympy cannot handle the formula in time, VerifierFailure if the sandbox fails twice."""
        result = retry_once(lambda: self._call(text, answer))
        if result.status is not RunStatus.ok:
            said = result.stderr.decode(errors="replace").strip().splitlines()
            raise ValueError(f"{result.status} {result.code} in the sandbox{': ' + said[-1][:150] if said else ''}")
        reward = plain_json(result.result)
        if type(reward) is not float or reward not in (0.0, 1.0):
            raise ValueError(f"the sandbox returned {reward!r:.100}: expected 0.0 or 1.0")
        return reward

    def _call(self, text: str, answer: Answer) -> RunResult:
        return self._open().call(formulas.__name__, "judge_formula", [answer["dataset"], text, answer["entry"]], LIMITS)

    def _open(self) -> Sandbox:
        assert self._sandbox is not None, "open_sandbox comes first"
        return self._sandbox


REASONING_GYM = ReasoningGymVerifier()
