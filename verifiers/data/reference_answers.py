"""What a right completion of a prompt looks like, from its stored answer: to try a verifier on the answer that it keeps."""

from __future__ import annotations

from typing import Any

from ..math import gold_of


def gold_completion(verifier: str, answer: dict[str, Any], solution: str | None = None) -> str | None:
    """A completion that must earn 1; None where the answer does not tell (code, instructions).

    solution: a right completion that the record brings along, which wins.
    """
    if solution is not None:
        return solution
    if verifier in ("math", "number", "stem"):
        return f"\\boxed{{{gold_of(answer)}}}"
    if verifier == "reasoning_gym":
        gold = answer["entry"]["answer"]
        return None if gold is None else f"<answer>{gold}</answer>"
    return None
