"""Formulas as answers: three datasets of Reasoning Gym whose scorers hand the answer to sympy's parser, which is eval().

    reasoning_gym.py --is_formula--> Sandbox.call ==text==> judge --> eval, without builtins --> 0.0 or 1.0

Text that is executed in the scorer's process could write any reward, and sympy executes strings wherever they stand. So only
formulas are evaluated: numbers, known functions and the puzzle's variables, without attributes, quotes, and brackets other than
(). Reasoning Gym itself cannot be imported in the sandbox, because it imports matplotlib, which must write files.
"""

from __future__ import annotations

import re
from tokenize import TokenError
from typing import Any

from .readings import bare, plain_fractions

Entry = dict[str, Any]  # of Reasoning Gym: question, answer, metadata

FUNCTIONS = frozenset({
    "exp", "log", "ln", "sqrt", "sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "sinh", "cosh", "tanh", "erf",
    "Abs",
})  # fmt: skip
CONSTANTS = frozenset({"E", "I", "pi"})
CONSTANT_OF_INTEGRATION = "C"
_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_TOKEN = re.compile(rf"{_NUMBER}|([A-Za-z_]\w*)|[-+*/(), \t\r\n]", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z]\d{0,2}", re.ASCII)
MAX_SPELLED_CHARS = 2_000
_SIGNS = str.maketrans({"\u2212": "-", "\u2013": "-", "\u00d7": "*", "\u00b7": "*", "\u22c5": "*"})
_KNOWN_COMMAND = re.compile(r"\\(exp|log|ln|sqrt|sin|cos|tan|sec|csc|cot|sinh|cosh|tanh|pi)(?![a-z])")
_EXPONENT = re.compile(r"\*\* *\{([^{}]*)\}")
# exceptions of sympy's parser
MALFORMED = (SyntaxError, TokenError, TypeError, ValueError, AttributeError, ArithmeticError)


def spelled(text: str) -> str:
    r"""A formula of LaTeX or of school in Python's signs: x^2 \cdot \frac{1}{2} is x**2 * ((1)/(2)). Other text stays."""
    text = bare(text)
    if len(text) > MAX_SPELLED_CHARS:
        return text
    text = _KNOWN_COMMAND.sub(r"\1", text.translate(_SIGNS).replace("\\left", "").replace("\\right", ""))
    text = text.replace("\\cdot", "*").replace("\\times", "*").replace("^", "**")
    return _EXPONENT.sub(r"**(\1)", plain_fractions(text))


def variables(entry: Entry) -> set[str]:
    """The variables of a stored entry; empty for a malformed entry."""
    metadata = entry.get("metadata")
    if not isinstance(metadata, dict):
        return set()
    named = metadata.get("variables")
    candidates = [metadata.get("variable"), *(named if isinstance(named, list) else [])]
    return {name for name in candidates if isinstance(name, str) and _VARIABLE.fullmatch(name)}


def is_formula(text: str, entry: Entry) -> bool:
    """Whether `text` may be evaluated, in linear time. An unevaluated Integral(...) is no antiderivative, so it may not."""
    known = FUNCTIONS | CONSTANTS | {CONSTANT_OF_INTEGRATION} | variables(entry)
    return not _TOKEN.sub("", text) and known.issuperset(name for name in _TOKEN.findall(text) if name)


def judge_formula(dataset: str, text: str, entry: Entry) -> float:
    """Return 1.0 for a right formula, else 0.0. To be called in the sandbox, or on text of our own.

    Raises whatever sympy raises on a formula that it cannot handle, and KeyError for an entry that is incomplete.
    """
    try:
        expression = _parsed(text, entry)
    except MALFORMED:
        return 0.0
    return 0.0 if expression is None else float(SCORERS[dataset](expression, entry))


def _parsed(text: str, entry: Entry) -> Any:
    """A sympy expression; None for another value, such as a tuple. Raises ValueError for text that is not a formula."""
    import sympy
    from sympy.parsing.sympy_parser import auto_number

    if not is_formula(text, entry):
        raise ValueError(f"{text!r:.100} is not a formula")
    names = {name: getattr(sympy, name) for name in FUNCTIONS | CONSTANTS}
    names |= {name: sympy.Symbol(name) for name in {CONSTANT_OF_INTEGRATION, *variables(entry)}}
    numbers = {"Integer": sympy.Integer, "Float": sympy.Float, "__builtins__": {}}
    value = sympy.parse_expr(text, names, (auto_number,), numbers)
    return value if isinstance(value, sympy.Expr) else None


def _antiderivative(expression: Any, entry: Entry) -> bool:
    """The library's rule, but the library takes every exception for a wrong answer, exhausted memory included."""
    import sympy

    metadata = entry["metadata"]
    integrand = _parsed(metadata["integrand"], entry)
    return sympy.simplify(sympy.diff(expression, sympy.Symbol(metadata["variable"])) - integrand) == 0


def _expanded(expression: Any, entry: Entry) -> bool:
    """The library's rule: equal as written, so that the unexpanded product earns nothing."""
    return expression == _parsed(entry["answer"], entry)


SCORERS = {
    "simple_integration": _antiderivative,
    "intermediate_integration": _antiderivative,
    "polynomial_multiplication": _expanded,
}
