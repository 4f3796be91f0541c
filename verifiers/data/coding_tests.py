"""Tests of programs as public sets store them, and the parts of the verifier `code`'s answer that are made of them.

{"inputs": [...], "outputs": [...], "fn_name"?}        APPS, TACO, Eurus, Skywork, guru, DeepCoder
[{"input", "output", "testtype" or "type"}, ...]       LiveCodeBench, SYNTHETIC-1, open-r1, DeepCoder
base64 of zlib of a pickled text of such a list        LiveCodeBench's private tests
"""

from __future__ import annotations

import base64
import binascii
import json
import pickletools
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from ...common.json_object import JsonObject
from .fields import LeftOut, list_in, maybe_object, maybe_parsed, parsed_value, shown

MAX_TESTS = 50  # of one problem, spread over the list: sets put the largest last
MAX_TEST_CHARS = 256_000  # of all tests of one problem: they travel with every ticket
MAX_UNPACKED_BYTES = 512 << 20
_TEXT_OPCODES = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_OTHER_OPCODES = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"}
_ASSERTED = re.compile(r"\bassert\s+(?:not\s+)?(?:\w+\s*\(\s*)?(?:Solution\(\)\.)?([A-Za-z_]\w*)\s*\(")
_BUILTINS = frozenset({
    "abs", "all", "any", "dict", "float", "int", "isclose", "isinstance", "len", "list", "max", "min", "round", "set", "sorted",
    "str", "sum", "tuple", "type",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramTests:
    """The tests of one problem: keys of the verifier's answer, the function that they call, and what was left out."""

    answer: JsonObject
    function: str = ""
    notes: tuple[str, ...] = ()

    @property
    def is_method(self) -> bool:
        """Whether the tests call a method of a class Solution."""
        scripted = f"{self.answer.get('entry_point', '')}{self.answer.get('test_code', '')}{self.answer.get('asserts', '')}"
        return bool(self.function) and f"Solution().{self.function}" in scripted

    @property
    def reads_input(self) -> bool:
        """Whether the program reads standard input, and is no function."""
        return "tests" in self.answer and not self.function


def inputs_and_outputs(value: object, name: str) -> ProgramTests:
    """{"inputs", "outputs", "fn_name"?}: two lists of one length. Raises: LeftOut."""
    tests = maybe_object(value)
    inputs, outputs = maybe_parsed(tests.get("inputs")), maybe_parsed(tests.get("outputs"))
    if not isinstance(inputs, list) or not isinstance(outputs, list) or not inputs or len(inputs) != len(outputs):
        found = f"{name} = {shown(value)}: expected inputs and outputs, two lists of one length"
        raise LeftOut(f"{name} holds no tests", found)
    function = tests.get("fn_name") or tests.get("func_name")
    return calls(str(function), inputs, outputs) if function else runs(inputs, outputs)


def runs(inputs: Sequence[object], outputs: Sequence[object]) -> ProgramTests:
    """Tests with standard input and output; lists are lines. Raises: LeftOut."""
    pairs = zip(map(_lines, inputs), map(_lines, outputs), strict=True)
    tests, notes = within_limits([{"stdin": stdin, "stdout": stdout} for stdin, stdout in pairs])
    return ProgramTests(answer={"tests": tests}, notes=notes)


def calls(function: str, inputs: Sequence[object], outputs: Sequence[object]) -> ProgramTests:
    """Tests with arguments and a value. Raises: LeftOut."""
    given = [args if isinstance(args, list) else maybe_parsed(args) for args in inputs]
    values = list(outputs)
    if all(isinstance(output, list) and len(output) == 1 for output in outputs):
        # these sets wrap a function's result in a list
        values = [output[0] for output in outputs if isinstance(output, list)]
    listed = [
        {"args": args if isinstance(args, list) else [args], "output": value} for args, value in zip(given, values, strict=True)
    ]
    tests, notes = within_limits(listed)
    return ProgramTests(answer={"function": function, "tests": tests}, function=function, notes=notes)


def listed_tests(value: object, name: str, function: str = "") -> ProgramTests:
    """[{"input", "output", "type"}]: all of standard input, or all of one function. Raises: LeftOut."""
    cases = [one for one in list_in(value, name) if isinstance(one, dict) and "input" in one and "output" in one]
    if not cases:
        raise LeftOut(f"{name} holds no tests", shown(value))
    kinds = {str(case.get("type", case.get("testtype", "stdin"))) for case in cases}
    inputs, outputs = [case["input"] for case in cases], [case["output"] for case in cases]
    if len(kinds) > 1:
        raise LeftOut("tests of several kinds in one problem", ", ".join(sorted(kinds)))
    kind = kinds.pop()
    if "std" in kind:
        return runs(inputs, outputs)
    if kind not in ("functional", "function_call", "function"):
        raise LeftOut(f"tests of the kind {shown(kind)}", "expected standard input, or calls of a function")
    named = cases[0].get("fn_name") or cases[0].get("func_name") or maybe_object(cases[0].get("metadata")).get("func_name")
    name_of_function = function or str(named or "")
    if not name_of_function:
        raise LeftOut("tests that call a function without a name", shown(cases[0]))
    if kind == "functional":
        # one argument a line, each JSON, and so is the result
        lines = [_arguments(text) for text in inputs]
        return calls(name_of_function, lines, [[maybe_parsed(output)] for output in outputs])
    return calls(name_of_function, inputs, [maybe_parsed(output) for output in outputs])


def assertions(statements: list[str], setup: str = "") -> ProgramTests:
    """Statements `assert f(1) == 2`, each a test. Raises: LeftOut."""
    kept = [statement.strip() for statement in statements if statement.strip()]
    if not kept:
        raise LeftOut("no assertions")
    tests, notes = within_limits([{"assert": statement} for statement in kept])
    answer: JsonObject = {"asserts": [str(test["assert"]) for test in tests]} | ({"setup": setup} if setup.strip() else {})
    return ProgramTests(answer=answer, function=asserted_function("\n".join(kept)), notes=notes)


def script(code: str, entry_point: str = "", setup: str = "") -> ProgramTests:
    """A test script: `check(candidate)` with an entry point, test functions of pytest, or plain assertions. Raises: LeftOut."""
    if len(code) > MAX_TEST_CHARS:
        raise LeftOut(f"a test script of more than {MAX_TEST_CHARS} characters", f"{len(code)}")
    answer: JsonObject = {"test_code": code}
    if entry_point.strip():
        answer["entry_point"] = entry_point.strip()
    if setup.strip():
        answer["setup"] = setup
    method = re.search(r"Solution\(\)\.(\w+)", code)
    function = entry_point.strip().removeprefix("Solution().") or (method[1] if method else asserted_function(code))
    return ProgramTests(answer=answer, function=function)


def asserted_function(code: str) -> str:
    """The name of the function that assertions call; "" where they name none."""
    return next((name for name in _ASSERTED.findall(code) if name not in _BUILTINS and name != "candidate"), "")


def within_limits(tests: list[JsonObject]) -> tuple[list[JsonObject], tuple[str, ...]]:
    """At most MAX_TESTS tests and MAX_TEST_CHARS characters, spread over the list; a note where some were left out.

    Raises: LeftOut if no test is small enough.
    """
    step = max(1.0, len(tests) / MAX_TESTS)
    spread = [tests[round(index * step)] for index in range(min(len(tests), MAX_TESTS)) if round(index * step) < len(tests)]
    kept, chars = list[JsonObject](), 0
    for test in sorted(spread, key=_size):
        chars += _size(test)
        if chars <= MAX_TEST_CHARS:
            kept.append(test)
    if not kept:
        raise LeftOut(f"every test is larger than {MAX_TEST_CHARS} characters", f"{_size(tests[0])} in the first")
    if len(kept) == len(tests):
        return tests, ()
    chosen = set(map(id, kept))
    note = f"problems with more than {MAX_TESTS} tests or {MAX_TEST_CHARS} characters of them, of which some were kept"
    return [test for test in spread if id(test) in chosen], (note,)


def _size(test: JsonObject) -> int:
    return len(json.dumps(test, ensure_ascii=False, default=str))


def private_tests(value: object) -> list[object]:
    """LiveCodeBench's private tests: a list, its JSON text, or the packed form. Raises: LeftOut."""
    if not isinstance(value, str):
        return value if isinstance(value, list) else []
    if not value.strip():
        return []
    if value.lstrip().startswith("["):
        return list_in(value, "private_test_cases")
    unpacked = parsed_value(text_in_pickle(_unpacked(value)), "private_test_cases")
    return unpacked if isinstance(unpacked, list) else []


def _unpacked(value: str) -> bytes:
    try:
        stream = zlib.decompressobj()
        data = stream.decompress(base64.b64decode(value, validate=False), MAX_UNPACKED_BYTES)
    except (zlib.error, binascii.Error, ValueError) as error:
        raise LeftOut("private tests that cannot be unpacked", str(error)) from error
    if stream.unconsumed_tail or not stream.eof:
        raise LeftOut("private tests that are cut short, or larger than 512 MiB when unpacked")
    return data


def text_in_pickle(data: bytes) -> str:
    """The text of a stream that holds one text and nothing else. Nothing is unpickled: the opcodes are read one by one.

    Raises: LeftOut for a stream that holds any other object, which could run code where it is loaded.
    """
    if data.lstrip()[:1] in (b"[", b"{"):
        return data.decode("utf-8", "replace")
    found: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in _TEXT_OPCODES and isinstance(argument, str):
                found.append(argument)
            elif opcode.name not in _OTHER_OPCODES:
                raise LeftOut("private tests that hold more than one text", f"opcode {opcode.name}")
    except (ValueError, EOFError, UnicodeDecodeError) as error:
        raise LeftOut("private tests that cannot be unpacked", str(error)) from error
    if len(found) != 1:
        raise LeftOut("private tests that hold more than one text", f"{len(found)} texts")
    return found[0]


def _arguments(value: object) -> list[object]:
    if not isinstance(value, str):
        return value if isinstance(value, list) else [value]
    return [maybe_parsed(line) for line in value.split("\n") if line.strip()]


def _lines(value: object) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
