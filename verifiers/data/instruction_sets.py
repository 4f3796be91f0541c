"""Records of instruction following: instructions by the ids of IFEval and of its extensions, or by the names of functions."""

from __future__ import annotations

from ...common.errors import DataError
from ...common.json_object import JsonObject
from ..instructions.func_names import from_func_name
from ..instructions.rule import present_kwargs
from .fields import LeftOut, column, is_empty, list_in, maybe_object, maybe_parsed, object_in, parsed_value, question_in, shown
from .made import Made

Instruction = JsonObject  # {"id", "kwargs"}


def ifeval(record: JsonObject) -> Made:
    """{"prompt" or "input", "instruction_id_list", "kwargs"}: IFEval, IFBench, Nemotron's, Llama-Nemotron's (under "args")."""
    source = record | maybe_object(record.get("args"))
    names = parsed_value(source.get("instruction_id_list"), "instruction_id_list")
    kwargs = parsed_value(column(source, "kwargs", "instruction_kwargs"), "kwargs")
    prompt = column(source, "prompt", "input", "messages", "question") or maybe_object(source.get("responses_create_params"))
    asked = prompt.get("input") if isinstance(prompt, dict) else prompt
    return _made(question_in({"prompt": asked}, "prompt"), _instructions(names, kwargs), "ifeval")


def multi_constraints(record: JsonObject) -> Made:
    """{"messages", "ground_truth": [{"instruction_id": [...], "kwargs": [...]}]}: IF_multi_constraints_upto5."""
    found: list[Instruction] = []
    for one in list_in(_truth(record), "ground_truth"):
        if not isinstance(one, dict):
            raise LeftOut("ground_truth is no list of instructions", shown(one))
        names = one.get("instruction_id", one.get("instruction_id_list"))
        found += _instructions(names if isinstance(names, list) else [names], one.get("kwargs"))
    return _made(question_in(record, "messages", "prompt", "question"), found, "if_multi_constraints")


def functions(record: JsonObject) -> Made:
    """{"messages", "ground_truth": {"func_name", "N", "quantifier", ...}}: RLVR-IFeval."""
    truth = object_in({"ground_truth": _truth(record)}, "ground_truth")
    try:
        instruction = from_func_name(truth)
    except DataError as error:
        raise LeftOut("a constraint that names no function that is known, or lacks an argument", str(error)) from error
    return _made(question_in(record, "messages", "prompt", "question"), [instruction], "rlvr_ifeval")


def names_instructions(record: JsonObject) -> bool:
    """Whether the ground truth is a list of instruction ids, or the text of one."""
    truth = _truth(record)
    if isinstance(truth, str) and "instruction_id" not in truth:
        return False
    found = maybe_parsed(truth)
    return isinstance(found, list) and bool(found) and isinstance(found[0], dict) and "instruction_id" in str(list(found[0]))


def names_function(record: JsonObject) -> bool:
    """Whether the ground truth is an object with a func_name, or the text of one."""
    truth = _truth(record)
    if isinstance(truth, str) and "func_name" not in truth:
        return False
    return "func_name" in maybe_object(truth)


def _truth(record: JsonObject) -> object:
    return column(record, "ground_truth") or maybe_object(record.get("reward_model")).get("ground_truth")


def _instructions(names: object, kwargs: object) -> list[Instruction]:
    names, kwargs = maybe_parsed(names), maybe_parsed(kwargs)
    if isinstance(names, list) and is_empty(kwargs):
        kwargs = [None] * len(names)
    if not isinstance(names, list) or not isinstance(kwargs, list) or len(names) != len(kwargs) or not names:
        found = f"instruction_id_list = {shown(names)}, kwargs = {shown(kwargs)}: expected two lists of one length"
        raise LeftOut("ids and kwargs do not fit together", found)
    return [_instruction(name, own) for name, own in zip(names, kwargs, strict=True)]


def _instruction(name: object, kwargs: object) -> Instruction:
    present = present_kwargs(maybe_parsed(kwargs))
    if present is None or not isinstance(name, str):
        raise LeftOut(
            "the kwargs of an instruction are no object", f"kwargs of {shown(name)} = {shown(kwargs)}: expected an object"
        )
    return {"id": name, "kwargs": {key: value for key, value in present.items() if not is_empty(value)}}


def _made(prompt: str, instructions: list[Instruction], task: str) -> Made:
    answer = {"instructions": instructions, "reward": "average"}
    return Made(prompt=prompt, domain="instructions", task=task, verifier="instructions", answer=answer)
