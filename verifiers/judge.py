r"""`judge`: an open science answer, judged by a model where `stem` cannot tell.

    {"answer": "The cell bursts because water enters by osmosis", "question": "...", "aliases": [...]}

No box, or an empty one, earns 0, and what `stem` accepts earns 1, both without a request. All other answers are left undecided:
the pool asks the model (workers/local_pool.py, services/model_judge.py), so that no worker waits for the network.
`question` is what the model is told; without it, the prompt.
"""

from __future__ import annotations

from msgspec.structs import replace

from ..common.errors import DataError
from ..common.types import VerdictStatus
from .answers.extraction import stored_answer
from .api import UNDECIDED, Answer, Score, Task, Verifier
from .math import MAX_ANSWER_CHARS
from .stem import STEM, final_answer

KEYS = {"answer", "question", "aliases"}


class JudgeVerifier(Verifier):
    """An open answer: the last box or `<answer>` tag, by `stem`, or else by a model behind HTTP (`verifiers.judge`)."""

    def check(self, answer: Answer) -> None:
        STEM.check(_science(answer))
        if unknown := set(answer) - KEYS:
            raise DataError(f"verifier judge: unknown keys {sorted(unknown)}; expected some of {sorted(KEYS)}")
        question = answer.get("question", "?")
        if not isinstance(question, str) or not question.strip():
            raise DataError(f"verifier judge: got question {question!r}; expected the text of the question")
        if len(stored_answer(answer)) > MAX_ANSWER_CHARS:
            raise DataError(f"verifier judge: got an answer of more than {MAX_ANSWER_CHARS} characters")

    def gold(self, answer: Answer) -> str | None:
        return STEM.gold(_science(answer))

    def quick(self, task: Task) -> Score | None:
        answer = final_answer(task)
        if not answer:
            return Score(reward=0.0, status=VerdictStatus.no_answer, detail="no balanced \\boxed{} behind the thinking")
        if len(answer) > MAX_ANSWER_CHARS:
            detail = f"an answer of {len(answer)} characters: at most {MAX_ANSWER_CHARS} go to the judge"
            return Score(reward=0.0, status=VerdictStatus.input_rejected, detail=detail, metrics={"over_bounds": 1.0})
        if answer.strip() == stored_answer(task.answer).strip():
            return Score(reward=1.0, metrics={"quick": 1.0})
        found = STEM.quick(_for_stem(task))
        if found is None:
            return None
        return found if found.reward == 1.0 else undecided(answer)

    def load(self) -> None:
        STEM.load()

    def score(self, task: Task) -> Score:
        found = STEM.score(_for_stem(task))
        return found if found.reward == 1.0 else undecided(final_answer(task) or "")

    def probe(self, answer: Answer) -> bool:
        return STEM.probe(_science(answer))


def undecided(answer: str) -> Score:
    """What the pool takes for a request to ask the model about this answer."""
    return Score(reward=0.0, detail=answer, metrics={UNDECIDED: 1.0})


def _science(answer: Answer) -> Answer:
    """The specification without what only the model needs."""
    return {name: answer[name] for name in ("answer", "aliases") if name in answer}


def _for_stem(task: Task) -> Task:
    return replace(task, answer=_science(task.answer))


JUDGE = JudgeVerifier()
