"""Records of programming problems, judged by `code`: standard input, calls of a function, assertions, test scripts.

A reference solution becomes the record's `gold`, in a fenced block: with it `prolong data` proves that the tests can be passed.
"""

from __future__ import annotations

import re
from dataclasses import replace

from ...common.json_object import JsonObject
from . import coding_tests
from .coding_tests import ProgramTests
from .fields import (
    LeftOut,
    column,
    is_empty,
    list_in,
    maybe_object,
    maybe_parsed,
    object_in,
    question_in,
    shown,
    task_name,
    text_of,
    texts,
)
from .made import Made
from .requests import FUNCTION, METHOD, PROGRAM, STARTER, STDIN, Form, requested_forms

MAX_SOLUTIONS = 3  # reference solutions that are tried: sets have some in Python 2
MIN_TEST_LIMIT_S, MAX_TEST_LIMIT_S = 6.0, 60.0
_LANGUAGES = {"python": "python", "python3": "python", "py": "python", "cpp": "cpp", "c++": "cpp", "": "python"}


def apps(record: JsonObject) -> Made:
    """{"question", "input_output", "solutions", "starter_code"}: APPS and TACO."""
    tests = coding_tests.inputs_and_outputs(_named(record, "input_output"), "input_output")
    return _problem(record, question_in(record, "question", "problem", "prompt"), tests, _source(record, "apps"))


def livecodebench(record: JsonObject) -> Made:
    """{"question_content", "public_test_cases", "private_test_cases", "starter_code", "metadata"}: LiveCodeBench."""
    public = coding_tests.private_tests(record.get("public_test_cases"))
    cases = public + coding_tests.private_tests(record.get("private_test_cases"))
    function = str(maybe_object(record.get("metadata")).get("func_name") or "")
    tests = coding_tests.listed_tests(cases, "public_test_cases", function)
    return _problem(record, text_of(record, "question_content"), tests, "livecodebench")


def deepcoder(record: JsonObject) -> Made:
    """{"problem", "tests", "solutions"?, "starter_code"?, "metadata"?}: DeepCoder."""
    stored = maybe_parsed(record.get("tests"))
    function = str(maybe_object(record.get("metadata")).get("func_name") or "")
    if isinstance(stored, dict):
        tests = coding_tests.inputs_and_outputs(stored, "tests")
    else:
        tests = coding_tests.listed_tests(stored, "tests", function)
    return _problem(record, question_in(record, "problem", "question", "prompt"), tests, "deepcoder")


def verifiable_code(record: JsonObject) -> Made:
    """{"prompt", "verification_info": {"language", "test_cases"}, "gold_standard_solution"}: SYNTHETIC-1, open-r1."""
    info = object_in(record, "verification_info")
    language = _language(info.get("language"))
    tests = coding_tests.listed_tests(info.get("test_cases"), "test_cases", str(info.get("fn_name") or ""))
    return _problem(record, question_in(record, "prompt", "problem"), tests, _source(record, "verifiable_code"), language)


def codeforces(record: JsonObject) -> Made:
    """{"description", "input_format", "official_tests", "generated_checker", "time_limit", ...}: open-r1/codeforces."""
    if not is_empty(record.get("interaction_format")):
        raise LeftOut("an interactive problem")
    if record.get("input_mode") not in (None, "", "stdio"):
        raise LeftOut("a problem that reads and writes files", f"input_mode = {shown(record['input_mode'])}")
    cases = maybe_parsed(column(record, "official_tests", "public_tests", "examples"))
    tests = coding_tests.listed_tests(cases, "official_tests")
    answer = dict(tests.answer)
    if isinstance(checker := column(record, "generated_checker", "checker"), str):
        answer["checker"] = {"source": checker, "language": "python"}
    language = _language(record.get("language"))
    answer |= _limits(record, language)
    statement = _statement(record) if is_empty(record.get("prompt")) else question_in(record, "prompt")
    return _problem(record, statement, replace(tests, answer=answer), "codeforces", language)


def kodcode(record: JsonObject) -> Made:
    """{"question", "test": a pytest file, "solution", "test_info"}: KodCode."""
    tests = coding_tests.script(text_of(record, "test", "tests", "test_code"))
    info = maybe_parsed(record.get("test_info"))
    declared = [one for one in info if isinstance(one, dict)] if isinstance(info, list) else []
    names = texts(one.get("function_name") for one in declared)
    headers = texts(one.get("function_declaration") for one in declared)
    starter = "\n".join(header.rstrip().rstrip(":") + ":\n    ..." for header in headers)
    tests = replace(tests, function=names[0] if names else tests.function)
    question = question_in(record, "question", "prompt", "problem")
    return _problem(record | {"starter_code": starter}, question, tests, "kodcode")


def humaneval(record: JsonObject) -> Made:
    """{"prompt": a stub, "test": check(candidate), "entry_point", "canonical_solution"}: HumanEval and its kin."""
    stub, solution = text_of(record, "prompt"), record.get("canonical_solution")
    tests = coding_tests.script(text_of(record, "test"), text_of(record, "entry_point"))
    whole = record | {"starter_code": stub, "solution": f"{stub}{solution}" if isinstance(solution, str) else None}
    return _problem(whole, "Write the function that this stub describes.", tests, _source(record, "humaneval"))


def mbpp(record: JsonObject) -> Made:
    """{"text" or "prompt", "test_list": assertions, "code", "test_setup_code"?}: MBPP, AceCode."""
    statements = texts(list_in(column(record, "test_list", "test_cases"), "test_list"))
    imports = record.get("test_imports")
    setup = "\n".join(texts([*(imports if isinstance(imports, list) else []), record.get("test_setup_code")]))
    tests = coding_tests.assertions(statements, setup)
    question = f"{question_in(record, 'text', 'prompt', 'question').rstrip()}\n\nFor example:\n{statements[0].strip()}"
    return _problem(record, question, tests, _source(record, "mbpp"))


def leetcode(record: JsonObject) -> Made:
    """{"query" or "problem_description", "prompt": imports, "test", "entry_point", "completion"}: LeetCodeDataset."""
    tests = coding_tests.script(text_of(record, "test"), text_of(record, "entry_point"), str(record.get("prompt") or ""))
    query = question_in(record, "problem_description", "query")
    return _problem(record | {"prompt": None, "solution": record.get("completion")}, query, tests, "leetcode")


def tested_program(record: JsonObject, question: str, truth: object, task: str) -> Made:
    """verl's form, with tests in the ground truth: Eurus-2-RL, Skywork-OR1, Klear, guru. Raises: LeftOut."""
    given = maybe_object(truth)
    extra = maybe_object(record.get("extra_info"))
    if isinstance(code := given.get("test_code"), str):
        tests = coding_tests.script(code, str(given.get("entry_point") or ""), str(given.get("import_prefix") or ""))
    elif isinstance(code := given.get("functional"), str):
        tests = coding_tests.script(code, "", str(extra.get("prefix") or ""))
    elif isinstance(listed := maybe_parsed(truth), list) and texts(listed):
        tests = coding_tests.assertions(texts(listed))
    elif isinstance(listed, list):
        tests = coding_tests.listed_tests(listed, "ground_truth")
    else:
        tests = coding_tests.inputs_and_outputs(object_in({"ground_truth": truth}, "ground_truth"), "ground_truth")
    return _problem({"solution": extra.get("reference")} | extra, question, tests, task)


def holds_tests(truth: object) -> bool:
    """Whether a ground truth is that of a program."""
    if isinstance(truth, str) and not truth.lstrip().startswith(("{", "[{")):
        return False
    given = maybe_parsed(truth)
    keys = {"inputs", "test_code", "functional", "fn_name"}
    if isinstance(given, list):
        return bool(given) and isinstance(given[0], dict) and {"input", "output"} <= given[0].keys()
    return isinstance(given, dict) and bool(keys & given.keys())


def _problem(record: JsonObject, question: str, tests: ProgramTests, task: str, language: str = "python") -> Made:
    """The prompt of a programming problem, with its request for a block of code."""
    answer = {"language": language} | tests.answer | {"reward": "fraction"}
    golds = tuple(fenced(solution, language) for solution in _solutions(record))
    prompt = question.rstrip() + ("" if Form.fence in requested_forms(question) else _request(record, tests, language))
    return Made(prompt=prompt, domain="code", task=task, verifier="code", answer=answer, golds=golds, notes=tests.notes)


def _request(record: JsonObject, tests: ProgramTests, language: str) -> str:
    starter = record.get("starter_code")
    if isinstance(starter, str) and starter.strip():
        return STARTER.format(starter=starter.rstrip())
    if tests.reads_input:
        return STDIN if language == "python" else STDIN.replace("Python", "C++").replace("```python\n#", "```cpp\n//")
    if tests.is_method:
        return METHOD.format(name=tests.function)
    return FUNCTION.format(name=tests.function) if tests.function else PROGRAM


def _solutions(record: JsonObject) -> list[str]:
    stored = column(record, "solutions", "gold_standard_solution", "solution", "code", "reference")
    many = maybe_parsed(stored) if isinstance(stored, str) and stored.lstrip().startswith("[") else stored
    if isinstance(many, dict):
        many = many.get("solution") or []
    return texts(many if isinstance(many, list) else [many])[:MAX_SOLUTIONS]


def fenced(solution: str, language: str = "python") -> str:
    """A completion that gives this program."""
    return solution if "```" in solution else f"```{language}\n{solution.rstrip()}\n```"


def _named(record: JsonObject, name: str) -> JsonObject:
    """The tests of a column, with the function's name out of the starting code where they have none."""
    tests = object_in(record, name)
    starter = str(record.get("starter_code") or "")
    if not tests.get("fn_name") and "class Solution" in starter and (method := re.search(r"def (\w+)\(self", starter)):
        return tests | {"fn_name": method[1]}
    return tests


def _language(value: object) -> str:
    language = str(value or "").strip().lower()
    if language not in _LANGUAGES:
        raise LeftOut(f"a problem in the language {shown(language)}", "expected python or cpp")
    return _LANGUAGES[language]


def _limits(record: JsonObject, language: str) -> JsonObject:
    """The problem's own limits, with room for Python where they were made for C++."""
    limits: JsonObject = {}
    seconds, memory = record.get("time_limit"), record.get("memory_limit")
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds < 1000:
        least = MIN_TEST_LIMIT_S if language == "python" else seconds
        limits["test_time_limit_s"] = min(max(least, 2.0 * seconds), MAX_TEST_LIMIT_S)
    if isinstance(memory, int | float) and not isinstance(memory, bool) and 1024 < memory <= 16384:
        limits["memory_mb"] = int(memory)
    return limits


def _statement(record: JsonObject) -> str:
    """The parts of a Codeforces statement, in their order."""
    parts = [text_of(record, "description")]
    for title, name in (("Input", "input_format"), ("Output", "output_format"), ("Note", "note")):
        if isinstance(text := record.get(name), str) and text.strip():
            parts.append(f"{title}\n{text.strip()}")
    examples = maybe_parsed(record.get("examples"))
    for one in examples if isinstance(examples, list) else []:
        if isinstance(one, dict):
            parts.append(f"Example input\n{one.get('input')}\nExample output\n{one.get('output')}")
    return "\n\n".join(parts)


def _source(record: JsonObject, otherwise: str) -> str:
    return task_name(record, otherwise, "source")
