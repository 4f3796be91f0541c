"""Every shape in which records of public data sets are known, and the conversion of one record.

    {"question", "answer": "... #### 42"} --convert_record--> Conversion(Shape "GSM8K", Made), or LeftOut with the reason

A record is taken for the first shape of the table whose columns it has; a family named by the user (--format) is tried first.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...common.errors import UserError
from ...common.json_object import JsonObject
from . import coding, instruction_sets, mathematics, puzzle_sets, rewarded, science
from .fields import LeftOut, is_empty, maybe_object, maybe_parsed, plain_value
from .made import Made, OpenAnswer, Shape, has
from .pictures import refuse_linked_pictures, refuse_picture_columns

UNSPECIFIC = ("problem", "question")  # shapes whose columns other shapes have as well

_names_its_task = has("prompt", "ability|data_source")
_has_codeforces_tests = has("description|prompt", "official_tests|examples", "input_format|generated_checker")
_has_matched_solution = has("problem|question", "matched_solution|extracted_solution")
_has_unit = has("problem_text|question|problem", "answer_number|answer", "unit")
_has_answer = has("problem", "answer|solution|final_answer|expected_answer")


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


def _has_choices(record: JsonObject) -> bool:
    listed = maybe_parsed(record.get("choices", record.get("options")))
    return not is_empty(listed) and isinstance(listed, list | dict)


def _question_and_any_answer(record: JsonObject) -> bool:
    asks = has("question|prompt|problem|query|instruction|input|messages|conversations")(record)
    return asks and any(not is_empty(record.get(name)) for name in (*mathematics.ANSWERS, "solution", "output", "response"))


# The comment above each names the sets that have it.
SHAPES: tuple[Shape, ...] = (
    # Eurus-2-RL, DAPO-Math-17k, Skywork-OR1, Klear, guru (Reasoning360), verl's examples
    Shape("rewards of verl", "eurus", rewarded.rewarded, has("prompt|raw_prompt", "reward_model"), _names_its_task),
    # IFEval, IFBench, Nemotron-RL-instruction_following, Llama-Nemotron
    Shape("instructions", "ifeval", instruction_sets.ifeval, _has_instructions),
    # IF_multi_constraints_upto5
    Shape("constraints", "ifeval", instruction_sets.multi_constraints, instruction_sets.names_instructions),
    # RLVR-IFeval
    Shape("functions of RLVR", "ifeval", instruction_sets.functions, instruction_sets.names_function),
    # entries of Reasoning Gym
    Shape("Reasoning Gym", "reasoning_gym", puzzle_sets.reasoning_gym, puzzle_sets.is_entry, has("question", "metadata")),
    # SYNTHETIC-1, SYNTHETIC-2, open-r1's and PrimeIntellect's verifiable problems
    Shape("verification_info", "synthetic", rewarded.verification, has("prompt|problem", "verification_info")),
    # LiveCodeBench
    Shape("LiveCodeBench", "code", coding.livecodebench, has("question_content", "public_test_cases")),
    # LeetCodeDataset
    Shape("LeetCode", "code", coding.leetcode, has("query|problem_description", "test", "entry_point")),
    # APPS, TACO
    Shape("APPS", "code", coding.apps, has("question|problem|prompt", "input_output")),
    # open-r1/codeforces
    Shape("Codeforces", "code", coding.codeforces, _has_codeforces_tests),
    # HumanEval
    Shape("stub", "code", coding.humaneval, _is_stub),
    # KodCode
    Shape("test file", "code", coding.kodcode, has("question", "test")),
    # MBPP, AceCode
    Shape("assertions", "code", coding.mbpp, _has_assertions),
    # DeepCoder
    Shape("DeepCoder", "code", coding.deepcoder, has("problem|question", "tests")),
    # GPQA
    Shape("GPQA", "scp116k", science.gpqa, has("Question", "Correct Answer", "Incorrect Answer 1")),
    # MMLU, ARC and the like
    Shape("choices", "scp116k", science.multiple_choice, _has_choices),
    # WebInstruct-verified
    Shape("WebInstruct", "scp116k", science.webinstruct, has("question|problem", "answer", "answer_type")),
    # SCP-116K
    Shape("SCP", "scp116k", science.scp116k, _has_matched_solution, has("problem|question")),
    # SciBench, questions with a column for the unit
    Shape("units", "scp116k", science.question_with_unit, _has_unit),
    # GSM8K
    Shape("GSM8K", "deepscaler", mathematics.gsm8k, _has_hashes),
    # DeepScaleR, MATH, MATH-500, NuminaMath-CoT, NuminaMath-1.5, OpenR1-Math-220k, Big-Math
    Shape("problem", "deepscaler", mathematics.problem_and_answer, _has_answer, has("problem")),
    # TRL's prompts with a solution, RLVR-GSM, RLVR-MATH, and plain questions with an answer
    Shape("question", "deepscaler", science.question_and_answer, _question_and_any_answer, _question_and_any_answer),
)
FAMILIES = tuple(sorted({shape.family for shape in SHAPES}))


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
    plain = _spelt_as_known(plain_value(record))
    refuse_picture_columns(plain)
    shape, as_told = recognise(plain, family)
    try:
        made = shape.convert(plain)
    except OpenAnswer as error:
        if not judge:
            raise
        made = error.made
    refuse_linked_pictures(made.prompt)
    return Conversion(shape, made, as_told)


def _spelt_as_known(record: object) -> JsonObject:
    """The record, its columns in small letters where only so they fit a shape: AIME's "Problem" and "Answer"."""
    assert isinstance(record, dict)
    small = {str(name).lower(): value for name, value in record.items()}
    if any(shape.fits(record) for shape in SHAPES) or not any(shape.fits(small) for shape in SHAPES):
        return record
    return small


def recognise(record: JsonObject, family: str = "") -> tuple[Shape, bool]:
    """The shape of a record, and whether it is of the family. Raises: LeftOut when its columns fit none."""
    named = [shape for shape in SHAPES if shape.family == family]
    fitting = [shape for shape in SHAPES if shape.fits(record)]
    specific = [shape for shape in fitting if shape.name not in UNSPECIFIC]
    taking = [shape for shape in named if shape.takes is not None and shape.takes(record)]
    # a question with an answer can be told from every other shape by what it lacks: it comes last, even where it was named
    for shape in [*(one for one in specific if one in named), *specific, *taking, *fitting]:
        return shape, not family or shape in named
    columns = ", ".join(list(record)[:20]) or "none"
    raise LeftOut("columns of no known shape", f"it has {columns:.300}; docs/data.md lists the shapes")


def check_family(family: str) -> None:
    """Raises UserError for a --format that is not known."""
    if family and family not in FAMILIES:
        raise UserError(f"--format {family}: expected one of {', '.join(FAMILIES)}, or none: the columns tell it")
