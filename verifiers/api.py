"""The interface of a verifier, with its input and output.

    rollout --> workers/ (pool, deadline, retry) --Task--> Verifier.quick, or .score --Score--> workers/ --> Verdict

A verifier judges one text. It does not decide what its own failure costs: the pool and its workers turn scores, silence and
death into verdicts, and a failure is never a reward of 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import msgspec

from ..common.json_object import JsonObject
from ..common.types import VerdictStatus

UNDECIDED = "undecided"  # metric of a score by which a worker asks the pool to ask a model; see verifiers/judge.py
Answer = JsonObject  # a prompt's answer specification: the JSON object that says what is right


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """A verifier's judgement of one completion."""

    reward: float
    status: VerdictStatus = VerdictStatus.ok
    detail: str = ""
    metrics: dict[str, float] = {}


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One completion to judge."""

    completion: str
    answer: Answer
    # the prompt itself ended with <think>, so the completion starts inside the thinking
    thinking_open: bool = False
    # the completion ran out of tokens, so its last words are not where it wanted to end
    cut_off: bool = False
    # the next three are filled in for the user's verifiers (user_verifiers.py) only
    prompt: str = ""
    prompt_ids: bytes = b""  # [P] int32
    completion_ids: bytes = b""  # [T] int32; empty where the caller did not give them


class Verifier(ABC):
    """A judge of completions. Prompts name it by its key in registry.py, or by a key of `verifiers.own`.

    `check`, `gold` and `needs_sandbox` run in every process that reads prompts, so they import none of the judge's libraries.
    All other methods run in the main thread of a worker process, one job at a time. They may block, because the pool kills the
    worker at the deadline. The completion is hostile text: take no longer than linear time where you can, and never execute it.

    If `quick` or `score` raises, the reward is None, or 0 with status "input_rejected" where `probe` shows that the completion
    is to blame. Raise VerifierFailure where the completion cannot be to blame. A job whose worker hangs or dies is tried once
    more.

    Example: the reward is 1 for the stored word and nothing else.

        class ExactVerifier(Verifier):
            def check(self, answer: Answer) -> None:
                if not isinstance(answer.get("word"), str):
                    raise DataError(f'verifier exact: got answer {answer!r}; expected {{"word": a text}}')

            def gold(self, answer: Answer) -> str | None:
                return answer["word"]

            def score(self, task: Task) -> Score:
                return Score(reward=float(task.completion.strip() == task.answer["word"]))
    """

    eager: ClassVar[bool] = False  # `load` when the worker starts; for verifiers without a `quick` path

    @abstractmethod
    def check(self, answer: Answer) -> None:
        """Raise UserError unless this answer specification can be judged. Called for every prompt before a run; cheap."""

    @abstractmethod
    def gold(self, answer: Answer) -> str | None:
        """Return a completion that must earn 1, made of the stored answer; None where the stored answer does not tell one.

        Called for an answer that passed `check`; `prolong data check` judges what it returns.
        """

    @abstractmethod
    def score(self, task: Task) -> Score:
        """Judge one completion in full, after `load`. It may hang, crash or exhaust memory: the worker can be killed."""

    def quick(self, task: Task) -> Score | None:
        """Judge without any slow import, in linear time; None when only `score` can tell."""
        return None

    def load(self) -> None:  # noqa: B027  an optional hook
        """Import what `score` and `probe` need. The time it takes never counts against a completion's deadline.

        Raises UserError where that cannot be had on this machine.
        """

    def probe(self, answer: Answer) -> bool:
        """Judge a harmless completion for this stored answer. True if that went well; raises whatever went wrong.

        True shows that a failure of `score` was the completion's doing. False, the default, says that this verifier cannot
        tell: a failure then gives no reward.
        """
        return False

    def needs_sandbox(self, answer: Answer) -> bool:
        """Whether judging this answer specification runs what the model wrote."""
        return False

    def check_machine(self, answer: Answer) -> None:  # noqa: B027  an optional hook
        """Raise UserError where this machine lacks what judging this answer takes. Called before a run and by workers."""

    def granted_s(self, answer: Answer) -> float:
        """CPU seconds that this answer grants to a program of the model's, on top of what judging takes."""
        return 0.0

    def report_to(self, alive: Callable[[], None]) -> None:  # noqa: B027  an optional hook
        """Call `alive` again and again while a program within limits of its own keeps the worker waiting; for `open_sandbox`.

        Every call restarts the deadline of the job in hand.
        """

    def open_sandbox(self, *, allow_unsafe: bool) -> None:  # noqa: B027  an optional hook
        """Open the sandbox of this verifier. Called once, before the first answer that needs it; no deadline runs meanwhile.

        allow_unsafe: go on without protection where no sandbox works. Raises UserError where none works and that is False.
        """
