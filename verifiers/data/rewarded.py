"""Records in verl's form: a chat, an ability, and the ground truth of a reward model. And those with a verification_info.

    {"data_source", "prompt": messages, "ability", "reward_model": {"ground_truth"}, "extra_info"}
        Eurus-2-RL, DAPO-Math-17k, Skywork-OR1, Klear, guru, GSM8K of verl's examples, ...
    {"prompt", "task_type", "verification_info", "gold_standard_solution"}
        SYNTHETIC-1, SYNTHETIC-2, open-r1's verifiable problems

What judges a record is read off the ground truth where that tells it (tests, instructions), else off the ability.
"""

from __future__ import annotations

from collections.abc import Callable

from ...common.json_object import JsonObject
from . import coding, instruction_sets, puzzle_sets
from .fields import LeftOut, column, is_empty, maybe_object, maybe_parsed, object_in, question_in, shown, text_of
from .made import Made, OpenAnswer
from .mathematics import mathematics, set_name
from .science import judged_by_model, looks_mathematical, science

Converter = Callable[[JsonObject, str, object, str], Made]  # the record, its question, its ground truth, its task


def rewarded(record: JsonObject) -> Made:
    """One record in verl's form. Raises: LeftOut."""
    asked = column(record, "prompt", "raw_prompt") or column(maybe_object(record.get("extra_info")), "prompt", "question")
    question = question_in({"prompt": asked}, "prompt")
    model = maybe_object(record.get("reward_model"))
    truth = model.get("ground_truth")
    if is_empty(truth):
        raise LeftOut(
            "no ground_truth", f"reward_model = {shown(record.get('reward_model'))}: expected an object with a ground_truth"
        )
    return CONVERTERS[_kind(record, truth)](record, question, truth, set_name(record, "eurus"))


def _kind(record: JsonObject, truth: object) -> str:
    """The key of CONVERTERS that fits."""
    if instruction_sets.names_function(record):
        return "functions"
    if instruction_sets.names_instructions(record) or "instruction_id_list" in maybe_object(truth):
        return "instructions"
    if puzzle_sets.is_entry(maybe_object(record.get("extra_info"))):
        return "puzzle"
    source = str(record.get("data_source") or "").lower()
    ability = str(record.get("ability") or "").strip().lower()
    kind = ABILITIES.get(ability) or ABILITIES.get(source.partition("__")[0], "")
    if kind not in ("logic", "simulation") and coding.holds_tests(truth):
        return "code"
    return kind or "unknown"


def _instructions(record: JsonObject, question: str, truth: object, task: str) -> Made:
    if "instruction_id_list" in (given := maybe_object(truth)):
        return instruction_sets.ifeval(
            {"prompt": question} | {key: given.get(key) for key in ("instruction_id_list", "kwargs")}
        )
    return instruction_sets.multi_constraints({"prompt": question, "ground_truth": truth})


def _functions(record: JsonObject, question: str, truth: object, task: str) -> Made:
    return instruction_sets.functions({"prompt": question, "ground_truth": truth})


def _puzzle(record: JsonObject, question: str, truth: object, task: str) -> Made:
    extra = maybe_object(record.get("extra_info"))
    entry = {"question": question, "answer": truth, "metadata": extra.get("metadata", extra)}
    return puzzle_sets.reasoning_gym(entry)


def _mathematics(record: JsonObject, question: str, truth: object, task: str) -> Made:
    return mathematics(task, question, truth)


def _science(record: JsonObject, question: str, truth: object, task: str) -> Made:
    return science(task, question, truth)


def _table(record: JsonObject, question: str, truth: object, task: str) -> Made:
    values = maybe_parsed(truth)
    if isinstance(values, list) and len(values) > 1:
        raise LeftOut("a question about a table with several values as its answer", shown(values))
    return science(task, question, truth)


def _unknown(record: JsonObject, question: str, truth: object, task: str) -> Made:
    """Without an ability: mathematics if the ground truth looks like it."""
    if looks_mathematical(truth):
        return mathematics(task, question, truth)
    if record.get("ability"):
        raise LeftOut(f"no rule for the ability {shown(record['ability'])}", f"ground_truth = {shown(truth)}")
    return science(task, question, truth)


CONVERTERS: dict[str, Converter] = {
    "mathematics": _mathematics,
    "code": coding.tested_program,
    "science": _science,
    "logic": puzzle_sets.logic,
    "simulation": puzzle_sets.simulation,
    "table": _table,
    "puzzle": _puzzle,
    "instructions": _instructions,
    "functions": _functions,
    "unknown": _unknown,
}
# Names of abilities, and the first words of guru's sources (codegen__taco), by what converts them.
ABILITIES = {
    **dict.fromkeys(("math", "mathematics", "maths", "math_word_problem"), "mathematics"),
    **dict.fromkeys(("code", "codegen", "coding", "programming"), "code"),
    **dict.fromkeys(("stem", "science", "physics", "chemistry", "biology", "mcq"), "science"),
    **dict.fromkeys(("logic", "logical_reasoning", "puzzle"), "logic"),
    "simulation": "simulation",
    "table": "table",
}


def verification(record: JsonObject) -> Made:
    """One record with a verification_info, JSON or the text of a Python literal. Raises: LeftOut."""
    kind = str(record.get("task_type") or "").strip().lower()
    info = object_in(record, "verification_info")
    question = text_of(record, "prompt", "problem")
    task = set_name(record, "synthetic")
    if "test_cases" in info or kind == "verifiable_code":
        return coding.verifiable_code(record)
    if puzzle_sets.is_entry(info):
        return puzzle_sets.reasoning_gym(
            {"question": question, "answer": info.get("answer"), "metadata": info.get("metadata", info)}
        )
    truth = column(info, "ground_truth", "answer", "expected_output")
    if kind == "code_output_prediction":
        return puzzle_sets.simulation(record, question, truth, kind)
    open_reference = column(record, "gold_standard_solution") or truth
    if kind.startswith("llm_judge") and isinstance(open_reference, str):
        raise OpenAnswer(
            f"{kind}: an open answer, which no rule compares", judged_by_model(task, question, open_reference, "open")
        )
    if kind not in ("", "verifiable_math", "math"):
        raise LeftOut(f"no rule for the task type {shown(kind)}", f"verification_info = {shown(info)}")
    if not kind and not looks_mathematical(truth):
        return science(task, question, truth)
    return mathematics(task, question, truth)
