"""Records of science and of general knowledge: a number with a unit, a choice, a formula or a phrase, judged by `stem`.

A phrase of many words can be said in other words, which no rule compares: such records are left out, or given to a model.
"""

from __future__ import annotations

import hashlib
import re

from ...common.json_object import JsonObject
from ..answers.extraction import last_boxed
from .fields import LeftOut, column, is_empty, parsed_value, question_in, scalar, shown, task_name, text_of
from .made import Made, OpenAnswer
from .mathematics import ANSWERS, HASHES, MAX_PLAIN_ANSWER_CHARS, accepted, boxed_in, mathematics, refuse_proofs, set_name
from .requests import BOX, Form, with_request

MAX_PHRASE_WORDS = 7
LETTERS = "ABCDEFGHIJ"
_TRUTHS = {"true": ("True", "Yes"), "yes": ("Yes", "True"), "false": ("False", "No"), "no": ("No", "False")}
_WORDS = re.compile(r"[^\W\d_]{2,}")
_MATHEMATICS = re.compile(r"[\\^_=+*/<>|]|\d")


def scp116k(record: JsonObject) -> Made:
    r"""{"domain", "problem", "matched_solution" or "extracted_solution", "answer"?}: SCP-116K.

    The stored answer is `answer`, else the last \boxed{} of the solution, else a solution so short that it is an answer.
    """
    refuse_proofs(record)
    answer = record.get("answer")
    solution = column(record, "matched_solution", "extracted_solution", "solution")
    if is_empty(answer) and isinstance(solution, str):
        answer = _final(solution)
    if is_empty(answer):
        expected = "expected a box, or an answer and nothing else"
        raise LeftOut("no final answer in the solution", f"{shown(solution)}: {expected}")
    return science(_subject(record, "scp116k"), question_in(record, "problem", "question"), answer, unit=record.get("unit"))


def webinstruct(record: JsonObject) -> Made:
    """{"question", "answer", "answer_type", "category"}: WebInstruct-verified."""
    kind = str(record.get("answer_type")).strip().lower()
    question = question_in(record, "question", "problem", "prompt")
    return science(_subject(record, "webinstruct"), question, record.get("answer"), kind=kind, unit=record.get("unit"))


def question_with_unit(record: JsonObject) -> Made:
    """{"question", "answer", "unit"}, {"problem_text", "answer_number", "unit"}: SciBench and the like."""
    question = question_in(record, "problem_text", "question", "problem", "prompt")
    return science(_subject(record, "science"), question, column(record, "answer_number", "answer"), unit=record.get("unit"))


def multiple_choice(record: JsonObject) -> Made:
    """{"question", "choices" or "options": texts, "answer": a letter, an index or the text}: MMLU, ARC and the like."""
    question = question_in(record, "question", "problem", "prompt")
    by_letter = _choices(parsed_value(column(record, "choices", "options"), "choices"))
    answer = column(record, "answer", "answerKey", "answer_index", "answer_idx", "label", "correct_option", "correct")
    letter = _letter(answer, by_letter)
    listed = "\n".join(f"{key}. {text}" for key, text in by_letter.items())
    prompt = question if all(text in question for text in by_letter.values()) else f"{question.rstrip()}\n{listed}"
    prompt = with_request(prompt, BOX, Form.box)
    spec = {"answer": letter, "choices": by_letter, "kind": "choice"}
    return Made(prompt=prompt, domain="stem", task=_subject(record, "choices"), verifier="stem", answer=spec)


def gpqa(record: JsonObject) -> Made:
    """{"Question", "Correct Answer", "Incorrect Answer 1" to 3}: GPQA.

    The order of the choices is drawn, with the question as its seed: the same in every conversion, and no letter is right more
    often than another.
    """
    question = text_of(record, "Question")
    texts = [text_of(record, name).strip() for name in ("Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3)))]
    if len(set(texts)) != len(texts):
        raise LeftOut("two of the choices are the same", shown(texts))
    listed = sorted(texts, key=lambda text: hashlib.sha256(f"{question}\n{text}".encode()).digest())
    subject = column(record, "High-level domain") or "gpqa"
    return multiple_choice({"question": question, "choices": listed, "answer": listed.index(texts[0]), "subject": subject})


def question_and_answer(record: JsonObject) -> Made:
    """{"question", "answer"}, {"prompt", "ground_truth"} and the like, of no set in particular: mathematics, or a phrase."""
    question = question_in(
        record, "question", "problem", "prompt", "query", "instruction", "input", "messages", "conversations"
    )
    answer = column(record, *ANSWERS, "solution", "output", "response")
    if isinstance(answer, str) and (found := HASHES.search(answer)):
        return mathematics(set_name(record, "gsm8k"), question, found[1], own_form=Form.hashes)
    if isinstance(answer, str) and "\\boxed" in answer:
        answer = boxed_in(answer, "solution")
    task = set_name(record, "questions")
    return mathematics(task, question, answer) if looks_mathematical(answer) else science(task, question, answer)


def science(task: str, question: str, answer: object, *, kind: str = "", unit: object = None) -> Made:
    """The prompt of a question of science. Raises: LeftOut, OpenAnswer."""
    if isinstance(answer, bool):
        answer = str(answer)
    first, *others = accepted(answer)
    prompt = with_request(question, BOX, Form.box)
    aliases = [str(one) for one in others]
    word = str(first).strip().strip(".").lower()
    if kind == "boolean" and (begun := re.match(r"(true|false|yes|no)\b", word)):
        word = begun[1]
    if word in _TRUTHS:
        first, alias = _TRUTHS[word]
        aliases.append(alias)
    elif is_open(str(first)):
        made = judged_by_model(task, question, str(first))
        raise OpenAnswer("an open answer, which no rule compares", made)
    spec: JsonObject = {"answer": first}
    if aliases:
        spec["aliases"] = aliases
    if isinstance(unit, str) and unit.strip():
        spec["unit"] = unit.strip().strip("$").strip()
    return Made(prompt=prompt, domain="stem", task=task, verifier="stem", answer=spec)


def judged_by_model(task: str, question: str, reference: str, domain: str = "stem") -> Made:
    """The prompt whose answer a model compares with the reference. It is told the question without our request."""
    prompt = with_request(question, BOX, Form.box)
    spec: JsonObject = {"answer": reference, "question": question.strip()}
    return Made(prompt=prompt, domain=domain, task=task, verifier="judge", answer=spec)


def is_open(answer: str) -> bool:
    """Whether an answer is a phrase that can be said in other words."""
    return len(_WORDS.findall(re.sub(r"\\[a-zA-Z]+", " ", answer))) > MAX_PHRASE_WORDS


def _choices(listed: object) -> dict[str, str]:
    """Texts by letter, of a list, an object, or texts beside labels. Raises: LeftOut."""
    labels = list(LETTERS)
    if isinstance(listed, dict) and isinstance(listed.get("text"), list):
        labels = [str(label) for label in listed.get("label") or labels]
        listed = listed["text"]
    pairs = (
        listed.items() if isinstance(listed, dict) else zip(labels, listed if isinstance(listed, list) else [], strict=False)
    )
    found = {str(key): text for key, text in pairs}
    if len(found) < 2 or not all(isinstance(text, str | int | float) and str(text).strip() for text in found.values()):
        raise LeftOut("no list of choices", f"choices = {shown(listed)}")
    # "A. one" for A: the letter is no part of the text
    bare = {key: re.sub(rf"^\(?{re.escape(key)}[.):]\s*", "", str(text)) for key, text in found.items()}
    is_labelled = all(bare[key] not in ("", str(text)) for key, text in found.items())
    return bare if is_labelled else {key: str(text) for key, text in found.items()}


def _letter(answer: object, choices: dict[str, str]) -> str:
    """The letter of the right choice. Raises: LeftOut."""
    letters = list(choices)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(letters):
        return letters[answer]
    said = str(scalar(answer, "answer")).strip()
    if said in choices:
        return said
    bare = said.strip("().: ").upper()
    if bare in choices:
        return bare
    same = [letter for letter, text in choices.items() if str(text).strip() == said]
    if len(same) != 1:
        raise LeftOut("the answer is none of the choices", f"answer = {shown(answer)}, choices = {shown(choices)}")
    return same[0]


def _final(solution: str) -> str | None:
    """The last box of a solution, or a solution so short that it is an answer."""
    if box := last_boxed(solution):
        return box
    plain = solution.strip()
    return plain if 0 < len(plain) <= MAX_PLAIN_ANSWER_CHARS and "\n" not in plain else None


def _subject(record: JsonObject, otherwise: str) -> str:
    return task_name(record, otherwise, "category", "domain", "subject", "source")


def looks_mathematical(answer: object) -> bool:
    """Whether an answer is a number or a formula, and no phrase."""
    if isinstance(answer, list):
        return bool(answer) and all(map(looks_mathematical, answer))
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        return False
    return bool(_MATHEMATICS.search(str(answer))) and not is_open(str(answer))
