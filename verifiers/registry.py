"""Verifiers by the names that prompts give. Importing this is cheap: verifiers import their libraries in `load`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from types import MappingProxyType

from ..common.errors import DataError, UserError
from ..common.types import Prompt
from .api import Answer, Verifier
from .code import CODE
from .instructions.verifier import INSTRUCTIONS
from .json_value import JSON
from .judge import JUDGE
from .logic.reasoning_gym import REASONING_GYM
from .math import MATH, NUMBER
from .stem import STEM

VERIFIERS: dict[str, Verifier] = {
    "math": MATH,
    "number": NUMBER,
    "stem": STEM,
    "judge": JUDGE,
    "reasoning_gym": REASONING_GYM,
    "instructions": INSTRUCTIONS,
    "json": JSON,
    "code": CODE,
}

NO_VERIFIERS: Mapping[str, Verifier] = MappingProxyType({})


def find(name: str, own: Mapping[str, Verifier] = NO_VERIFIERS) -> Verifier:
    """Find a verifier among those of the user (`own`) and ours. Raises UserError for an unknown name."""
    if name in own:
        return own[name]
    if name not in VERIFIERS:
        nearest = difflib.get_close_matches(name, [*VERIFIERS, *own], n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        known = ", ".join([*VERIFIERS, *own])
        raise UserError(f"unknown verifier {name!r}: expected one of {known}, or a name that verifiers.own gives{hint}")
    return VERIFIERS[name]


def parse_answer(text: str) -> Answer:
    """Parse a prompt's answer specification. Raises DataError unless it is a JSON object."""
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"answer {text!r:.200} is not JSON: {error}") from error
    if not isinstance(answer, dict):
        raise DataError(f"answer {text!r:.200}: expected a JSON object such as {json.dumps({'answer': '932'})}")
    return answer


def check_prompt(prompt: Prompt, own: Mapping[str, Verifier] = NO_VERIFIERS) -> bool:
    """Check that the prompt's verifier can judge its answer. Returns whether judging it needs a sandbox.

    Raises UserError, naming the prompt.
    """
    try:
        verifier, answer = find(prompt.verifier, own), parse_answer(prompt.answer)
        verifier.check(answer)
        return verifier.needs_sandbox(answer)
    except UserError as error:
        raise type(error)(f"prompt {prompt.uid}: {error}") from error
