"""`reasoning_gym`: puzzles of Reasoning Gym (Apache-2.0), judged inside <answer> tags by its own scorers if they can be.

    REFUSED: the scorer cannot be mended            MENDED (mended.py): a scorer of ours judges instead
    UNSAFE (formulas.py): the answer is executed, by a scorer of ours, in the sandbox          all others: theirs, here

The answer specification is {"dataset": NAME, "entry": {"answer", "metadata"}}: entries are generated once and stored, because
several generators ignore their seed or vary with the hash seed. Which scorer is used was decided by reading all of them in
reasoning-gym 0.1.25; a name that this version does not know is refused where it is judged.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from ...common.errors import DataError, UserError, VerifierFailure
from ..answers.extraction import after_thinking, last_tagged
from ..api import Score, Task, Verifier
from ..sandbox.launcher import Limits, RunResult
from ..sandbox.outputs import plain_json
from ..sandbox.sandbox import Sandbox, shared
from . import formulas
from . import replaced_scorers as mended
from .replaced_scorers import MENDED

UNSAFE = frozenset(formulas.SCORERS)  # parse_expr() is eval()
REFUSED = {
    "composite": "it is a mixture of other datasets: give each of them by its own name",
    "propositional_logic": "its scorer pays in full for a premise that is copied, and for variables that follow from nothing",
}
RAISING = frozenset({"boxnet", "game_of_life"})  # on JSON of another shape
SETTINGS = {"word_ladder": {"min_word_length": 3, "max_word_length": 5}}  # what a scorer must know of every level
MAX_GIVEN_CHARS = 50_000
PRELOAD = ("sympy", formulas.__name__)
LIMITS = Limits(cpu_s=5, wall_s=10, memory_mb=4096)  # stored answers take .3 s at most


def load() -> None:
    import reasoning_gym  # noqa: F401  two seconds


@functools.cache
def _dataset(name: str) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(name, size=1, seed=0, **SETTINGS.get(name, {}))


def score(task: Task) -> Score:
    given = last_tagged(after_thinking(task))
    if given is None:
        return Score(reward=0.0, status="no_answer", detail="no <answer>...</answer> behind the thinking")
    if len(given) > MAX_GIVEN_CHARS:
        return Score(reward=0.0, status="input_rejected", detail=f"an answer of {len(given)} characters")
    if in_sandbox(task.answer):
        return _contained(given, task.answer)
    return Score(reward=judge(given, task.answer))


def probe(answer: dict[str, Any]) -> None:
    """Raises VerifierFailure if the sandbox is not known to work."""
    gold = str(answer["entry"]["answer"] or "")
    if not in_sandbox(answer):
        judge(gold, answer)
    elif (earned := _evaluated(gold, answer)) != 1.0:
        raise VerifierFailure(f"the stored answer {gold!r:.100} of {answer['dataset']} earned {earned} in the sandbox, not 1")


def _contained(given: str, answer: dict[str, Any]) -> Score:
    """Raises VerifierFailure if the sandbox fails twice."""
    if not formulas.is_formula(given, answer["entry"]):
        return Score(reward=0.0, detail="not a formula of numbers, known functions and the puzzle's variables")
    stamp = {"unsafe_code": 1.0} if _sandbox().unsafe else {}
    try:
        return Score(reward=_evaluated(given, answer), metrics=stamp)
    except ValueError as error:
        probe(answer)
        return Score(reward=0.0, status="input_rejected", detail=str(error), metrics=stamp)


def _evaluated(given: str, answer: dict[str, Any]) -> float:
    """Raises ValueError when sympy cannot handle this formula within the limits, VerifierFailure if the sandbox fails twice."""
    try:
        result = _call(given, answer)
    except VerifierFailure:  # the launcher died, perhaps by somebody else's hand
        result = _call(given, answer)
    if result.status != "ok":
        said = result.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(f"{result.status} {result.code} in the sandbox{': ' + said[-1][:150] if said else ''}")
    reward = plain_json(result.result)
    if type(reward) is not float or reward not in (0.0, 1.0):
        raise ValueError(f"the sandbox returned {reward!r:.100}: expected 0.0 or 1.0")
    return reward


def _call(given: str, answer: dict[str, Any]) -> RunResult:
    return _sandbox().call(formulas.__name__, "judge", [answer["dataset"], given, answer["entry"]], LIMITS)


def in_sandbox(answer: dict[str, Any]) -> bool:
    return answer.get("dataset") in UNSAFE


def _sandbox() -> Sandbox:
    return shared(PRELOAD)


def judge(given: str, answer: dict[str, Any]) -> float:
    """The reward of the text between the tags, 0 to 1. For the datasets in UNSAFE: of text of our own only.

    Raises ValueError when a scorer leaves that range; whatever a scorer of theirs raises, which the worker sees to.
    """
    dataset, entry = answer["dataset"], answer["entry"]
    if dataset in MENDED:
        reward = mended.score(dataset, given, entry)
    elif dataset in UNSAFE:
        reward = formulas.judge(dataset, given, entry)
    else:
        reward = _theirs(dataset, given, entry)
    if not (math.isfinite(reward) and 0.0 <= reward <= 1.0):
        raise ValueError(f"the scorer of {dataset} returned {reward}: expected 0 to 1")
    return reward


def _theirs(dataset: str, given: str, entry: dict[str, Any]) -> float:
    try:
        return float(_dataset(dataset).score_answer(given, entry))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        if dataset not in RAISING:
            raise
        return 0.0


def check(answer: dict[str, Any]) -> None:
    """Raises DataError for a broken entry, UserError for a dataset that cannot be judged."""
    name, entry = answer.get("dataset"), answer.get("entry")
    if not isinstance(name, str) or not isinstance(entry, dict) or "answer" not in entry:
        raise DataError(f'verifier reasoning_gym: got {answer!r:.200}; expected {{"dataset": NAME, "entry": the stored entry}}')
    if name in REFUSED:
        raise UserError(f"verifier reasoning_gym: dataset {name} cannot be used: {REFUSED[name]}")
    if name in UNSAFE and not formulas.is_formula(str(entry["answer"] or "?"), entry):
        raise DataError(
            f"verifier reasoning_gym: the stored answer {entry['answer']!r:.100} of {name} is no formula (an integral that was "
            f"given up is none); leave this entry out, or make others with verifiers/data/puzzles.py, which does"
        )


REASONING_GYM = Verifier(
    check=check, load=load, score=score, probe=probe, eager=True, in_sandbox=in_sandbox, open_sandbox=_sandbox
)
