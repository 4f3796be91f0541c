"""Which stored answers can be compared: numbers and texts, but none that stands for a missing answer."""

from __future__ import annotations

from ...common.errors import DataError
from ..api import Answer
from .sentinels import refuse_sentinel


def check_stored(verifier: str, answer: Answer) -> None:
    """Raises DataError unless the stored answer and its aliases can be compared. `verifier`: its name, for the message."""
    value, aliases = answer.get("answer"), answer.get("aliases", [])
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise DataError(f'verifier {verifier}: got answer {answer!r}; expected {{"answer": a number or text}}')
    if not isinstance(aliases, list) or not all(isinstance(alias, str) and alias.strip() for alias in aliases):
        raise DataError(f"verifier {verifier}: got aliases {aliases!r}; expected a list of texts")
    for one in (value, *aliases):
        refuse_sentinel(verifier, {"answer": one})
