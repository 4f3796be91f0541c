"""Conversion of records of public data sets to prompt records: pure functions, one a format.

    {"problem", "answer", ...} --FORMATS["deepscaler"]--> {"prompt", "domain", "task", "verifier", "answer", "uid"?}

Each domain asks for its answer in the words of its template (ProRL, arXiv 2507.12507: math and science in a box, puzzles in
<answer> tags, code in a fenced block, instructions as they are). System messages of other recipes are left out. Every function
raises DataError with the reason for a record that cannot be used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from ...common.errors import DataError
from ...common.json_object import JsonObject
from ..answers.extraction import last_boxed
from ..instructions.rule import present_kwargs
from . import puzzles

Record = JsonObject
BOX = "\n\nLet's think step by step and put the final answer within \\boxed{}."
STDIN = (
    "\n\nWrite a Python program that reads from standard input and writes to standard output. "
    "Put it in one block:\n```python\n# your code\n```"
)
FUNCTION = "\n\nWrite a Python function `{name}` that solves the problem. Put it in one block:\n```python\n# your code\n```"
_ASKS = re.compile(r"\\boxed|```python|final answer", re.IGNORECASE)
MAX_PLAIN_ANSWER_CHARS = 120


def deepscaler(record: Record) -> Record:
    """{"problem", "answer", "solution"?}: competition mathematics, a LaTeX answer."""
    return _math("deepscaler", _text(record, "problem"), _scalar(record, "answer"))


def eurus(record: Record) -> Record:
    """{"data_source", "prompt": messages, "ability", "reward_model": {"ground_truth"}}: Eurus-2-RL, mathematics or code."""
    question = _last_user_message(record.get("prompt"), "prompt")
    model = record.get("reward_model")
    truth = model.get("ground_truth") if isinstance(model, dict) else None
    if not isinstance(truth, str) or not truth.strip():
        raise DataError(f"reward_model = {model!r:.200}: expected an object with a ground_truth text")
    ability, task = record.get("ability"), str(record.get("data_source") or "eurus")
    if ability == "math":
        return _math(task, question, truth)
    if ability == "code":
        return _code(task, question, truth)
    raise DataError(f"ability = {ability!r}: expected math or code")


def scp116k(record: Record) -> Record:
    r"""{"domain", "problem", "matched_solution" or "extracted_solution", "answer"?}: SCP-116K, science.

    The stored answer is `answer`, else the last \boxed{} of the solution, else a solution so short that it is an answer.
    """
    solution = next((record[key] for key in ("matched_solution", "extracted_solution", "solution") if record.get(key)), None)
    answer = record.get("answer")
    if answer in (None, "") and isinstance(solution, str):
        answer = _final(solution)
    if answer in (None, ""):
        raise DataError(f"no final answer in the solution {solution!r:.100}: expected a box, or an answer and nothing else")
    return {
        "prompt": _ask(_text(record, "problem"), BOX),
        "domain": "stem",
        "task": str(record.get("domain") or "scp116k").strip().lower().replace(" ", "_"),
        "verifier": "stem",
        "answer": {"answer": answer},
    }


def reasoning_gym(record: Record) -> Record:
    """{"question", "answer", "metadata": {"source_dataset", ...}}: an entry as Reasoning Gym makes it."""
    metadata = record.get("metadata")
    metadata = _object(metadata, "metadata") if isinstance(metadata, str) else metadata
    if not isinstance(metadata, dict) or not isinstance(metadata.get("source_dataset"), str):
        raise DataError(f"metadata = {metadata!r:.200}: expected an object with the name of its source_dataset")
    entry = puzzles.stored({"answer": record.get("answer"), "metadata": metadata})
    made = puzzles.record(metadata["source_dataset"], "", _text(record, "question"), entry)
    return {key: value for key, value in made.items() if key != "uid"}


def ifeval(record: Record) -> Record:
    """{"prompt" or "input", "instruction_id_list", "kwargs"}: IFEval, and Llama-Nemotron's instructions (under "args")."""
    source = record | record["args"] if isinstance(record.get("args"), dict) else record
    names = source.get("instruction_id_list")
    kwargs = source.get("kwargs", source.get("instruction_kwargs"))
    kwargs = _object(kwargs, "kwargs") if isinstance(kwargs, str) else kwargs
    if not isinstance(names, list) or not isinstance(kwargs, list) or len(names) != len(kwargs):
        raise DataError(f"instruction_id_list = {names!r:.200}, kwargs = {kwargs!r:.200}: expected two lists of one length")
    instructions = [_instruction(name, own) for name, own in zip(names, kwargs, strict=True)]
    prompt = source.get("prompt", source.get("input"))
    return {
        "prompt": prompt if isinstance(prompt, str) and prompt else _last_user_message(prompt, "prompt"),
        "domain": "instructions",
        "task": "ifeval",
        "verifier": "instructions",
        "answer": {"instructions": instructions, "reward": "average"},
    }


FORMATS: dict[str, Callable[[Record], Record]] = {
    "deepscaler": deepscaler,
    "eurus": eurus,
    "scp116k": scp116k,
    "reasoning_gym": reasoning_gym,
    "ifeval": ifeval,
}


def _math(task: str, question: str, answer: Any) -> Record:
    return {"prompt": _ask(question, BOX), "domain": "math", "task": task, "verifier": "math", "answer": {"answer": answer}}


def _code(task: str, question: str, truth: str) -> Record:
    """Tests of the APPS kind: {"inputs", "outputs", "fn_name"?}."""
    tests = _object(truth, "ground_truth")
    tests = tests if isinstance(tests, dict) else {}
    inputs, outputs, name = tests.get("inputs"), tests.get("outputs"), tests.get("fn_name")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or not inputs or len(inputs) != len(outputs):
        raise DataError(f"ground_truth = {truth!r:.200}: expected inputs and outputs, two lists of one length")
    answer: Record = {"language": "python", "tests": [], "reward": "fraction"}
    if name:
        if all(isinstance(output, list) and len(output) == 1 for output in outputs):
            # these sets wrap a function's result in a list
            outputs = [output[0] for output in outputs]
        answer["function"] = name
        answer["tests"] = [{"args": args, "output": output} for args, output in zip(inputs, outputs, strict=True)]
    else:
        pairs = zip(map(_lines, inputs), map(_lines, outputs), strict=True)
        answer["tests"] = [{"stdin": stdin, "stdout": stdout} for stdin, stdout in pairs]
    template = FUNCTION.format(name=name) if name else STDIN
    return {"prompt": _ask(question, template), "domain": "code", "task": task, "verifier": "code", "answer": answer}


def _ask(question: str, template: str) -> str:
    """The question with the template behind it, unless its end already says how to answer."""
    return question.rstrip() if _ASKS.search(question[-400:]) else question.rstrip() + template


def _final(solution: str) -> str | None:
    """The last box of a solution, or a solution so short that it is an answer."""
    if box := last_boxed(solution):
        return box
    plain = solution.strip()
    return plain if 0 < len(plain) <= MAX_PLAIN_ANSWER_CHARS and "\n" not in plain else None


def _instruction(name: Any, kwargs: Any) -> Record:
    present = present_kwargs(kwargs)
    if present is None:
        raise DataError(f"kwargs of {name!r} = {kwargs!r:.200}: expected an object")
    return {"id": name, "kwargs": present}


def _lines(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _text(record: Record, key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{key} = {value!r:.200}: expected a text")
    return value


def _scalar(record: Record, key: str) -> str | int | float:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise DataError(f"{key} = {value!r:.200}: expected a text or a number")
    return value


def _object(text: str, key: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{key} = {text!r:.200} is not JSON") from error


def _last_user_message(messages: Any, key: str) -> str:
    said = [m for m in messages if isinstance(m, dict) and m.get("role") == "user"] if isinstance(messages, list) else []
    if not said or not isinstance(said[-1].get("content"), str) or not said[-1]["content"].strip():
        raise DataError(f"{key} = {messages!r:.200}: expected chat messages with one of the user's")
    return said[-1]["content"]
