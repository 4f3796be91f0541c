"""Every shape in which records of public data sets are known, and the conversion of one record.

    {"question", "answer": "... #### 42"} --convert_record--> (Shape "gsm8k", Made), or LeftOut with the reason

A record is taken for the first shape of the table whose columns it has; a family named by the user (--format) is tried before.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...common.errors import UserError
from ...common.json_object import JsonObject
from . import coding, instruction_sets, mathematics, puzzle_sets, rewarded, science
from .fields import LeftOut, is_empty, maybe_object, maybe_parsed, plain_value
from .made import Made, OpenAnswer, Shape, has

PICTURES = ("images", "image", "image_1", "decoded_image")  # columns of questions that a text cannot ask
UNSPECIFIC = ("problem", "question")  # shapes whose columns other shapes have as well
FAMILIES = ("deepscaler", "eurus", "scp116k", "reasoning_gym", "ifeval", "code", "synthetic")


def _has_hashes(record: JsonObject) -> bool:
    answer = record.get("answer")
    return isinstance(answer, str) and "####" in answer


def _has_instructions(record: JsonObject) -> bool:
    return "instruction_id_list" in record or "instruction_id_list" in maybe_object(record.get("args"))


def _is_stub(record: JsonObject) -> bool:
    prompt = record.get("prompt")
    return isinstance(prompt, str) and "def " in prompt and has("test", "entry_point")(record) and "query" not in record


def _has_assertions(record: JsonObject) -> bool:
    tests = maybe_parsed(record.get("test_list", record.get("test_cases")))
    return isinstance(tests, list) and bool(tests) and all(isinstance(test, str) and "assert" in test for test in tests)


def _is_chat(record: JsonObject) -> bool:
    return any(isinstance(record.get(name), list) for name in ("prompt", "messages"))


def _choices(record: JsonObject) -> bool:
    listed = maybe_parsed(record.get("choices", record.get("options")))
    return not is_empty(listed) and isinstance(listed, list | dict)


def _question_and_any_answer(record: JsonObject) -> bool:
    asks = has("question|prompt|problem|query|instruction|input|messages|conversations")(record)
    return asks and any(not is_empty(record.get(name)) for name in (*mathematics.ANSWERS, "solution", "output", "response"))


SHAPES: tuple[Shape, ...] = (
    Shape(
        name="rewards of verl",
        sets="Eurus-2-RL, DAPO-Math-17k, Skywork-OR1, Klear, guru (Reasoning360), verl's examples",
        families=("eurus",),
        fits=has("prompt|raw_prompt", "reward_model"),
        takes=has("prompt", "ability|data_source"),
        convert=rewarded.rewarded,
    ),
    Shape(
        name="instructions",
        sets="IFEval, IFBench, Nemotron-RL-instruction_following, Llama-Nemotron",
        families=("ifeval",),
        fits=_has_instructions,
        convert=instruction_sets.ifeval,
    ),
    Shape(
        name="constraints",
        sets="IF_multi_constraints_upto5",
        families=("ifeval",),
        fits=instruction_sets.names_instructions,
        convert=instruction_sets.multi_constraints,
    ),
    Shape(
        name="functions of RLVR",
        sets="RLVR-IFeval",
        families=("ifeval",),
        fits=instruction_sets.names_function,
        convert=instruction_sets.functions,
    ),
    Shape(
        name="Reasoning Gym",
        sets="entries of Reasoning Gym",
        families=("reasoning_gym",),
        fits=puzzle_sets.is_entry,
        takes=has("question", "metadata"),
        convert=puzzle_sets.reasoning_gym,
    ),
    Shape(
        name="verification_info",
        sets="SYNTHETIC-1, SYNTHETIC-2, open-r1's and PrimeIntellect's verifiable problems",
        families=("synthetic",),
        fits=has("prompt|problem", "verification_info"),
        convert=rewarded.verification,
    ),
    Shape(
        name="LiveCodeBench",
        sets="LiveCodeBench",
        families=("code",),
        fits=has("question_content", "public_test_cases"),
        convert=coding.livecodebench,
    ),
    Shape(
        name="LeetCode",
        sets="LeetCodeDataset",
        families=("code",),
        fits=has("query|problem_description", "test", "entry_point"),
        convert=coding.leetcode,
    ),
    Shape(
        name="APPS",
        sets="APPS, TACO",
        families=("code",),
        fits=has("question|problem|prompt", "input_output"),
        convert=coding.apps,
    ),
    Shape(
        name="Codeforces",
        sets="open-r1/codeforces",
        families=("code",),
        fits=has("description|prompt", "official_tests|examples", "input_format|generated_checker"),
        convert=coding.codeforces,
    ),
    Shape(name="stub", sets="HumanEval", families=("code",), fits=_is_stub, convert=coding.humaneval),
    Shape(
        name="test file",
        sets="KodCode",
        families=("code",),
        fits=has("question", "test"),
        convert=coding.kodcode,
    ),
    Shape(name="assertions", sets="MBPP, AceCode", families=("code",), fits=_has_assertions, convert=coding.mbpp),
    Shape(
        name="DeepCoder", sets="DeepCoder", families=("code",), fits=has("problem|question", "tests"), convert=coding.deepcoder
    ),
    Shape(
        name="choices",
        sets="MMLU, ARC and the like",
        families=("scp116k",),
        fits=_choices,
        convert=science.multiple_choice,
    ),
    Shape(
        name="WebInstruct",
        sets="WebInstruct-verified",
        families=("scp116k",),
        fits=has("question|problem", "answer", "answer_type"),
        convert=science.webinstruct,
    ),
    Shape(
        name="SCP",
        sets="SCP-116K",
        families=("scp116k",),
        fits=has("problem|question", "matched_solution|extracted_solution"),
        takes=has("problem|question"),
        convert=science.scp116k,
    ),
    Shape(
        name="units",
        sets="SciBench, questions with a column for the unit",
        families=("scp116k",),
        fits=has("problem_text|question|problem", "answer_number|answer", "unit"),
        convert=science.question_with_unit,
    ),
    Shape(name="GSM8K", sets="GSM8K", families=("deepscaler",), fits=_has_hashes, convert=mathematics.gsm8k),
    Shape(
        name="problem",
        sets="DeepScaleR, MATH, MATH-500, NuminaMath-CoT, NuminaMath-1.5, OpenR1-Math-220k, Big-Math",
        families=("deepscaler",),
        fits=has("problem", "answer|solution|final_answer|expected_answer"),
        takes=has("problem"),
        convert=mathematics.problem_and_answer,
    ),
    Shape(
        name="question",
        sets="TRL's prompts with a solution, RLVR-GSM, RLVR-MATH, and plain questions with an answer",
        families=("deepscaler",),
        fits=_question_and_any_answer,
        takes=_question_and_any_answer,
        convert=science.question_and_answer,
    ),
)


@dataclass(frozen=True, slots=True)
class Conversion:
    """A record that became a prompt: its shape, and whether that is of the family that the user named."""

    shape: Shape
    made: Made
    as_told: bool


def convert_record(record: JsonObject, family: str = "", *, judge: bool = False) -> Conversion:
    """Convert one record. `family`: shapes to try first. `judge`: give open answers to the verifier `judge`.

    Raises: LeftOut with the reason, whatever the record holds.
    """
    plain = plain_value(record)
    assert isinstance(plain, dict)
    if any(not is_empty(plain.get(name)) for name in PICTURES):
        raise LeftOut("a question about a picture")
    shape, as_told = recognise(plain, family)
    try:
        return Conversion(shape, shape.convert(plain), as_told)
    except OpenAnswer as error:
        if not judge:
            raise
        return Conversion(shape, error.made, as_told)


def recognise(record: JsonObject, family: str = "") -> tuple[Shape, bool]:
    """The shape of a record, and whether it is of the family. Raises: LeftOut when its columns fit none."""
    told = [shape for shape in SHAPES if family in shape.families]
    fitting = [shape for shape in SHAPES if shape.fits(record)]
    # a question with an answer can be told from every other shape by what it lacks: it comes last, even where it was named
    for shape in [*(one for one in told if one in fitting and one.takes is None), *fitting]:
        if shape.name not in UNSPECIFIC:
            return shape, not family or shape in told
    for shape in [*(one for one in told if one.takes is not None and one.takes(record)), *fitting]:
        return shape, not family or shape in told
    columns = ", ".join(list(record)[:20]) or "none"
    raise LeftOut("columns of no known shape", f"it has {columns:.300}; docs/data.md lists the shapes")


def check_family(family: str) -> None:
    """Raises UserError for a --format that is not known."""
    if family and family not in FAMILIES:
        raise UserError(f"--format {family}: expected one of {', '.join(FAMILIES)}, or none: the columns tell it")
