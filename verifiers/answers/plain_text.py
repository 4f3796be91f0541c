r"""Mathematics typed without LaTeX: 3*pi/4, sqrt(2)/2, exp(9), x**2, arctan(2), >=, oo. Names become commands."""

from __future__ import annotations

import re

_GREEK = (
    "alpha beta gamma delta epsilon theta lambda mu sigma phi omega rho tau "
    "varphi vartheta varepsilon"
)  # fmt: skip
_FUNCTIONS = (
    "arcsin arccos arctan arccot sinh cosh tanh sin cos tan cot csc ln log exp sqrt cbrt abs floor ceil factorial gcd lcm"
)
_OTHER_NAMES = {
    "pi": "\\pi", "Pi": "\\pi", "PI": "\\pi", "asin": "\\arcsin", "acos": "\\arccos", "atan": "\\arctan", "acot": "\\arccot",
    "arctg": "\\arctan", "arcctg": "\\arccot", "tg": "\\tan", "ctg": "\\cot", "ceiling": "\\ceil", "binomial": "\\binomial",
    "binom": "\\binomial", "comb": "\\binomial", "nCr": "\\binomial", "nPr": "\\permutations", "perm": "\\permutations",
    "infty": "\\infty", "infinity": "\\infty", "inf": "\\infty", "oo": "\\infty", "varphi": "\\phi", "vartheta": "\\theta",
    "varepsilon": "\\epsilon", "sec": "\\sec", "max": "\\max", "min": "\\min",
}  # fmt: skip
_NAMES = {name: "\\" + name for name in (*_GREEK.split(), *_FUNCTIONS.split())} | _OTHER_NAMES
# names that are words or units as well need a bracket behind them
_CALLED = frozenset({"sec", "max", "min", "comb", "perm", "abs", "floor", "ceil", "ceiling", "factorial", "exp", "tg"})
_WORD = re.compile(r"\\[a-zA-Z]+\*?|[a-zA-Z]{2,}")
_WRAPPED = re.compile(
    r"\\(?P<box>operatorname\*?|mathrm|text|mathop|textrm|mathbf|rm) ?\{ ?(?P<name>arcsin|arccos|arctan|arccot|arctg|arcctg"
    r"|sinh|cosh|tanh|sin|cos|tan|cot|csc|tg|ctg|ln|log|lg|exp|gcd|lcm|max|min|sec|sh|ch|th) ?\}"
)
_ONLY_OPERATORS = frozenset({"max", "min", "sec", "sh", "ch", "th"})  # \text{min} is a unit, \text{th} ends an ordinal
_HYPERBOLIC = {"sh": "sinh", "ch": "cosh", "th": "tanh", "tg": "tan", "ctg": "cot", "arctg": "arctan", "arcctg": "arccot"}
_UNION = re.compile(r"(?<=[)\]}]) ?U ?(?=[(\[\\])")
_TIMES = re.compile(r"(?<=\d) [xX] (?=10\^)")
_RELATION = re.compile(r"<=|=<|>=|(?<![\d)])!=|<>|\+ ?/ ?- ?|^\+ ?- ?|(?<== )\+ ?- ?|(?<==)\+ ?- ?|\.\.\.\.?")
_RELATIONS = {"<=": "\\le ", "=<": "\\le ", ">=": "\\ge ", "!=": "\\neq ", "<>": "\\neq "}
_EXPONENT = re.compile(r"\^ ?([-+](?:\d+(?:\.\d+)?|[a-zA-Z]))")
_NATURAL = re.compile(r"\\log ?_ ?\{? ?e ?\}?(?![a-zA-Z])")
_CALL_ARGUMENT = re.compile(r"\\(?P<name>binomial|permutations) ?\( ?(?P<n>\w{1,9}) ?, ?(?P<k>\w{1,9}) ?\)")
MAX_CHARS = 4000


def as_latex(text: str) -> str:
    """Write plain-text mathematics as LaTeX. Words that are no names of functions, constants or Greek letters stay."""
    text = _RELATION.sub(_relation, text)
    if "\\" in text:
        text = _WRAPPED.sub(_unwrapped, text)
        text = _NATURAL.sub(r"\\ln ", text)
    text = _EXPONENT.sub(r"^{\1}", text)
    if "10^" in text:
        text = _TIMES.sub("\\\\times ", text)
    if "U" in text:
        text = _UNION.sub("\\\\cup ", text)
    if len(text) <= MAX_CHARS and _WORD.search(text):
        text = _WORD.sub(_named, text)
        if "\\binomial" in text or "\\permutations" in text:
            text = _CALL_ARGUMENT.sub(_counted, text)
    return text


def _relation(match: re.Match[str]) -> str:
    if match[0][0] == ".":
        return "\\ldots "
    return _RELATIONS.get(match[0], "\\pm ")


def _unwrapped(match: re.Match[str]) -> str:
    name = match["name"]
    if name in _ONLY_OPERATORS and not match["box"].startswith("operatorname"):
        return match[0]
    return "\\log_{10}" if name == "lg" else f"\\{_HYPERBOLIC.get(name, name)} "


def _named(match: re.Match[str]) -> str:
    word = match[0]
    command = _NAMES.get(word)
    if command is None:
        return word
    text, end = match.string, match.end()
    behind = text[end : end + 2].lstrip()[:1]
    if word in _CALLED and behind != "(":
        return word
    # a space keeps the command apart from a letter that follows
    return command + " " if text[end : end + 1].isalpha() else command


def _counted(match: re.Match[str]) -> str:
    n, k = match["n"], match["k"]
    return f"\\binom{{{n}}}{{{k}}}" if match["name"] == "binomial" else f"P({n},{k})"
