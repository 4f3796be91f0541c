r"""Records of mathematics: a question, and a final answer in a column of its own, in a box, or behind ####.

All are judged by `math`, which reads a box; a record whose own prompt asks for "####" or "Answer:" and whose answer is a plain
number by `number`, which reads the number there as well, so that a model that has learned the set's own form is not punished.
"""

from __future__ import annotations

import re

from ...common.json_object import JsonObject
from ..answers.extraction import last_boxed
from ..answers.plain_numbers import number
from ..answers.sentinels import stands_for_no_answer
from ..answers.spelling import clean
from .fields import LeftOut, column, is_empty, list_in, question_in, scalar, shown, task_name, text_of
from .made import Made
from .requests import BOX, Form, requested_forms, with_request

# words that the verifiers take as answers, but that stand for a missing one in a column
MISSING = frozenset({"none", "na", "unknown", "error", "not provided"})
_PROOF = re.compile(r"proof|prove", re.IGNORECASE)
HASHES = re.compile(r"####\s*(.+?)\s*\Z")
_CALCULATION = re.compile(r"<<[^<>\n]*>>")
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s+([^\s{}$,;]+)")  # \boxed 7
_INVALID = "the set itself marks it as not valid"
MAX_PLAIN_ANSWER_CHARS = 120


def problem_and_answer(record: JsonObject) -> Made:
    """{"problem", "answer", "solution"?}: DeepScaleR, Big-Math, MATH-500, OpenR1-Math, NuminaMath-1.5.

    Without an answer, that of the solution's last box is taken: MATH, NuminaMath-CoT.
    """
    refuse_proofs(record)
    question = question_in(record, "problem", "question", "prompt", "messages")
    answer = column(record, "answer", "final_answer", "expected_answer", "ground_truth", "target")
    if answer is None and is_empty(record.get("solution")):
        raise LeftOut("no answer", "answer = None, and no solution")
    if answer is None or (is_missing(answer) and "\\boxed" in str(record.get("solution"))):
        answer = boxed_in(text_of(record, "solution"), "solution")
    return mathematics(set_name(record, "deepscaler"), question, answer)


ANSWERS = ("answer", "ground_truth", "final_answer", "expected_answer", "gold", "label", "target", "reference_answer")


def gsm8k(record: JsonObject) -> Made:
    """{"question", "answer": "... #### 1,234"}: GSM8K in its own form."""
    question = question_in(record, "question", "problem", "prompt")
    found = HASHES.search(text_of(record, "answer", "solution"))
    if not found:
        raise LeftOut("no answer behind ####", shown(record.get("answer")))
    return mathematics("gsm8k", question, _CALCULATION.sub("", found[1]).strip("$ "), own_form=Form.hashes)


def mathematics(task: str, question: str, answer: object, *, own_form: Form | None = None) -> Made:
    """The prompt of a question of mathematics. `own_form`: the form of the set's own answers. Raises: LeftOut."""
    first, *others = accepted(answer)
    forms = {own_form, *requested_forms(question)}
    prompt = with_request(question, BOX, Form.box)
    spec: JsonObject = {"answer": first}
    verifier = "math"
    if others:
        spec["aliases"] = [str(other) for other in others]
    elif forms & {Form.hashes, Form.line} and number(clean(str(first))) is not None:
        verifier = "number"
    return Made(prompt=prompt, domain="math", task=task, verifier=verifier, answer=spec)


def accepted(answer: object) -> list[str | int | float]:
    """The answers that are right, each once, taken out of a list, the text of a list, or a box. Raises: LeftOut."""
    if isinstance(answer, str) and re.match(r"\s*\[\s*\"", answer):
        answer = list_in(answer, "answer")
    if isinstance(answer, dict):
        answer = column(answer, "answer", "ground_truth", "target", "value")
    given = answer if isinstance(answer, list) else [answer]
    found: list[str | int | float] = []
    for one in given:
        value = scalar(one[0] if isinstance(one, list) and len(one) == 1 else one, "answer")
        value = last_boxed(value) or value if isinstance(value, str) else value
        if is_missing(value):
            raise LeftOut("a word in place of an answer", f"answer = {shown(value)}: it is no answer")
        if value not in found:
            found.append(value)
    if not found:
        raise LeftOut("no answer", f"answer = {shown(answer)}")
    return found


def is_missing(answer: object) -> bool:
    """Whether an answer is a text that stands for a missing one: "proof", "notfound" and their like."""
    return isinstance(answer, str) and stands_for_no_answer(answer, MISSING)


def boxed_in(solution: str, name: str) -> str:
    """The answer in the last box of a solution. Raises: LeftOut if there is none, or its line has several different ones."""
    answer = last_boxed(solution)
    if not answer and (bare := _BARE_BOX.findall(solution)):
        answer = bare[-1].rstrip(".")
    if not answer:
        raise LeftOut("no final answer in the solution", f"{name} = {shown(solution)}: expected a box")
    last_line = next(line for line in reversed(solution.split("\n")) if "\\boxed" in line or "\\fbox" in line)
    sentence = re.split(r"(?<=[.;])\s+(?=[A-Z])", last_line)[-1]
    boxes = {box for part in re.split(r"(?=\\boxed)", sentence) if (box := last_boxed(part))}
    if len(boxes) > 1:
        raise LeftOut("several different boxes in the last sentence of the solution", f"{', '.join(sorted(boxes))!r:.100}")
    return answer


def refuse_proofs(record: JsonObject) -> None:
    """Raises: LeftOut for a proof, and for a problem that its set marks as not valid."""
    kind, answer = record.get("question_type"), record.get("answer")
    is_proof = isinstance(kind, str) and _PROOF.search(kind)
    if is_proof or (isinstance(answer, str) and answer.strip().lower() == "proof"):
        raise LeftOut("it asks for a proof", f"question_type = {shown(kind)}, answer = {shown(answer)}")
    for name in ("problem_is_valid", "solution_is_valid"):
        valid = record.get(name)
        if not is_empty(valid) and str(valid).strip().lower() not in ("yes", "true"):
            raise LeftOut(_INVALID, f"{name} = {shown(valid)}")


def set_name(record: JsonObject, otherwise: str) -> str:
    """The name of the set that a record came from, where it says so."""
    return task_name(record, otherwise, "data_source", "dataset", "source")
