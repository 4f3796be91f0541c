"""Records of puzzles: entries of Reasoning Gym, and puzzles whose answer is one JSON value (guru's logic and simulation)."""

from __future__ import annotations

import json

from ...common.json_object import JsonObject
from . import puzzles
from .fields import LeftOut, is_empty, maybe_object, maybe_parsed, question_in, shown
from .made import Made
from .requests import TAGS, Form, requested_forms, with_request


def reasoning_gym(record: JsonObject) -> Made:
    """{"question", "answer", "metadata": {"source_dataset", ...}}: an entry as Reasoning Gym makes it."""
    metadata = maybe_object(record.get("metadata"))
    if not isinstance(metadata.get("source_dataset"), str):
        expected = "expected an object with the name of its source_dataset"
        raise LeftOut("no source_dataset in the metadata", f"metadata = {shown(record.get('metadata'))}: {expected}")
    question = question_in(record, "question", "prompt", "problem")
    name = metadata["source_dataset"]
    try:
        entry = puzzles.stored({"answer": record.get("answer"), "metadata": metadata})
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, StopIteration) as error:
        # the solver of this puzzle expects the metadata of the library
        raise LeftOut(f"an entry of {name} that its solver cannot read", f"{type(error).__name__}: {error}") from error
    made = puzzles.record(name, "", question, entry)
    return Made(prompt=made["prompt"], domain="logic", task=name, verifier="reasoning_gym", answer=made["answer"])


def is_entry(record: JsonObject) -> bool:
    """Whether a record tells the data set of Reasoning Gym that it is of."""
    return isinstance(maybe_object(record.get("metadata")).get("source_dataset", record.get("source_dataset")), str)


def logic(record: JsonObject, question: str, truth: object, task: str) -> Made:
    """A puzzle whose answer is a JSON value: a table of zebra puzzles, an order, a grid of ARC, a word. Raises: LeftOut."""
    value = maybe_parsed(truth)
    if isinstance(value, dict) and "solution_text_format" in value:
        raise LeftOut("knights and knaves, whose answer is prose", shown(value))
    if isinstance(value, float | int) and isinstance(truth, str):
        value = truth
    return _value(task, question, value)


def simulation(record: JsonObject, question: str, truth: object, task: str) -> Made:
    """The output of a program that the prompt shows. Its input, of which there may be many, is not judged. Raises: LeftOut."""
    if "predict the input" in question.lower() or task.partition("__")[2].endswith("-i"):
        raise LeftOut("the input of a program is asked for, and there may be many")
    return _value(task, question, maybe_parsed(truth))


def _value(task: str, question: str, value: object) -> Made:
    if is_empty(value):
        raise LeftOut("no answer", f"ground_truth = {shown(value)}")
    asked = requested_forms(question)
    wanted = next((form for form in (Form.tags, Form.box) if form in asked), Form.tags)
    request = TAGS
    if isinstance(value, dict):
        request = TAGS.rstrip(".") + f", as a JSON object with the keys {json.dumps(list(value), ensure_ascii=False)}."
    elif isinstance(value, list):
        request = TAGS.rstrip(".") + ", as a JSON list."
    prompt = with_request(question, request, wanted)
    return Made(prompt=prompt, domain="logic", task=task, verifier="json", answer={"value": value})
