r"""Completions that show whether a prompt and its verifier fit together: one that obeys the prompt, and one that is wrong.

    prompt that asks for "#### ...", gold \boxed{42} --> "#### 42" must earn 1, "#### -101" must earn 0

The answer stands in the very form that the rendered prompt asks for. For programs, the reference solution of the record is
tried, and a program that does nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...common.json_object import JsonObject
from ..answers.extraction import last_boxed, last_tagged
from ..answers.plain_numbers import number
from ..answers.spelling import clean
from ..instructions.obedience import disobeying_text
from .requests import Form, requested_forms

# The form that each verifier of ours reads; `number` also reads a number that stands alone.
READS = {
    "math": Form.box,
    "number": Form.box,
    "stem": Form.box,
    "judge": Form.box,
    "reasoning_gym": Form.tags,
    "json": Form.tags,
    "code": Form.fence,
}
GRADED = frozenset({"reasoning_gym", "code", "instructions"})  # a wrong answer may earn a part, but not 1
NOTHING = "```{language}\n{code}\n```"
_LETTER = re.compile(r"(?:\\text\{)?\(?([A-J])\)?\}?")
_OPPOSITE = {"yes": "No", "no": "Yes", "true": "False", "false": "True"}
_PUT: dict[Form, str] = {
    Form.box: "\\boxed{{{}}}",
    Form.hashes: "#### {}",
    Form.line: "Answer: {}",
    Form.tags: "<answer>{}</answer>",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """Completions to judge. right: one of them must earn 1. wrong: must not, "" where none can be made.

    form: where the prompt asks for the answer, None where it does not say. why: the reason why nothing is known to be right.
    """

    right: tuple[str, ...] = ()
    wrong: str = ""
    form: Form | None = None
    why: str = ""


def attempts(prompt: str, verifier: str, answer: JsonObject, gold: str | None, solutions: tuple[str, ...] = ()) -> Attempts:
    """What to try for one prompt. `gold`: what its verifier makes of the stored answer. `solutions`: what the record brings."""
    if verifier == "code":
        language = str(answer.get("language", "python"))
        wrong = NOTHING.format(language=language, code="int main() { return 0; }" if language == "cpp" else "pass")
        return Attempts(right=solutions, wrong=wrong, why="" if solutions else "no reference solution in the record")
    if verifier == "instructions":
        known = "" if gold else "no text that follows these instructions is known"
        return Attempts(right=(gold,) if gold else (), wrong=disobeying_text(answer) or "", why=known)
    if solutions:
        return Attempts(right=solutions)
    if gold is None:
        return Attempts(why=f"the stored answer of {verifier} tells no completion that is right")
    content = stated(gold)
    if content is None:
        return Attempts(right=(gold,))
    form, put = obedient(prompt, Form.box if last_boxed(gold) is not None else Form.tags)
    # only the model behind the verifier judge can tell that an open answer is wrong
    wrong = "" if verifier == "judge" else put.format(another(content, answer))
    return Attempts(right=(put.format(content),), wrong=wrong, form=form)


def stated(gold: str) -> str | None:
    """What stands in the box or between the tags of a gold completion."""
    boxed = last_boxed(gold)
    return boxed if boxed is not None else last_tagged(gold)


def obedient(prompt: str, otherwise: Form) -> tuple[Form | None, str]:
    """The form that a prompt asks for, and how an answer is put there; a box stands inside the other forms."""
    asked = [form for form in requested_forms(prompt) if form is not Form.fence]
    if not asked:
        return None, _PUT[otherwise]
    outer = [form for form in asked if form is not Form.box]
    inner = _PUT[Form.box] if Form.box in asked else "{}"
    if not outer:
        return Form.box, inner
    put = _PUT[outer[-1]]
    # a template in a template: its own braces have to outlive the first round
    return outer[-1], put.replace("{}", inner) if inner != "{}" else put


def another(content: str, answer: JsonObject) -> str:
    """An answer of the same kind as `content` that is certainly another one."""
    bare = content.strip()
    if letter := _LETTER.fullmatch(bare):
        others = [key for key in answer.get("choices", {}) or "ABCD" if key != letter[1]]
        return str(others[0])
    if opposite := _OPPOSITE.get(bare.strip(".").lower()):
        return opposite
    value = number(clean(bare)) if len(bare) < 100 else None
    if value is not None:
        # far from the value, from its hundredth and from its negative
        return str(-(2 * abs(value) + 17)) if value.denominator == 1 else f"-{2 * abs(int(value)) + 17}"
    return "987654321.5" if re.search(r"[\\^_=+*/]|\d", bare) else "nothing of the kind"
