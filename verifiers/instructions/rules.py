"""All instruction types that can be judged, by id, and those that cannot, with the reason."""

from __future__ import annotations

import difflib

from ...common.errors import DataError
from ...common.json_object import JsonObject
from .ifbench_custom import IFBENCH_CUSTOM_RULES
from .ifbench_formats import IFBENCH_FORMAT_RULES
from .ifbench_words import IFBENCH_WORD_RULES
from .ifeval import IFEVAL_RULES
from .rule import InstructionRule, read_kwargs
from .training import TRAINING_RULES

IFBENCH_RULES = IFBENCH_WORD_RULES | IFBENCH_FORMAT_RULES | IFBENCH_CUSTOM_RULES
RULES: dict[str, InstructionRule] = IFEVAL_RULES | TRAINING_RULES | IFBENCH_RULES
REFUSED: dict[str, str] = {
    "words:start_verb": "whether a word is a verb takes a part-of-speech model",
    "words:odd_even_syllables": "the number of syllables takes a pronunciation dictionary",
}


def read_instruction(instruction: object) -> tuple[str, InstructionRule, JsonObject]:
    """The id, the rule and the kwargs of {"id", "kwargs"}. Raises DataError where it cannot be judged or never be followed."""
    if not isinstance(instruction, dict):
        raise DataError(f'verifier instructions: got {instruction!r:.200}; expected {{"id": NAME, "kwargs": {{...}}}}')
    name = instruction.get("id")
    if isinstance(name, str) and name in REFUSED:
        raise DataError(f"verifier instructions: {name} cannot be judged: {REFUSED[name]}")
    if not isinstance(name, str) or name not in RULES:
        nearest = difflib.get_close_matches(str(name), RULES, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise DataError(f"verifier instructions: unknown instruction {name!r}: expected one of {', '.join(RULES)}{hint}")
    rule = RULES[name]
    return name, rule, read_kwargs(name, rule, instruction.get("kwargs"))


def check_instruction(instruction: object) -> None:
    """Raise DataError unless an instruction can be judged and followed."""
    name, rule, kwargs = read_instruction(instruction)
    if problem := rule.impossible(kwargs):
        raise DataError(f"verifier instructions: {name}: {kwargs!r:.200} can never be followed: {problem}")
