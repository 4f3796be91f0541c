r"""Notations of binomial coefficients and permutations: {}^9C_4, C_9^4, C(9,4), 9C4, {}_8P_5, A_8^5, P(8,5), and 5!!."""

from __future__ import annotations

import re

_LETTER = r"(?:\\(?:mathrm|text|mathbf)? ?\{ ?)?(?P<letter{n}>[CPA])(?: ?\})?"
_INDEX = r"(?:\{{ ?(?P<{name}>\w{{1,6}}) ?\}}|(?P<{name}_bare>\w))"


def _index(name: str) -> str:
    return _INDEX.format(name=name)


_BEFORE = re.compile(
    rf"(?:\{{ ?\}} ?)?[_^] ?{_index('n')} ?{_LETTER.replace('{n}', '')} ?_ ?{_index('k')}"  # {}_9C_4, ^9C_4
)
_BOTH = re.compile(
    rf"(?<![a-zA-Z\\_^]){_LETTER.replace('{n}', '')} ?(?:_ ?{_index('low')} ?\^ ?{_index('high')}|"
    rf"\^ ?{_index('high2')} ?_ ?{_index('low2')})"
)
_CALLED = re.compile(r"(?<![a-zA-Z\\])(?P<letter>[CP]) ?\( ?(?P<n>\w{1,6}) ?, ?(?P<k>\w{1,6}) ?\)")
_PLAIN = re.compile(r"(?<![\w\\])(?P<n>\d{1,4}) ?(?P<letter>[CP]) ?(?P<k>\d{1,4})(?!\w)")
_DOUBLE_FACTORIAL = re.compile(r"(?<![\w.!])(\d{1,3})!!(?!!)")


def without_counts(text: str) -> str:
    r"""The text with \binom and quotients of factorials for these notations."""
    if "!!" in text:
        text = _DOUBLE_FACTORIAL.sub(lambda match: str(_double_factorial(int(match[1]))), text)
    if not any(letter in text for letter in "CPA"):
        return text
    for pattern in (_BEFORE, _BOTH):
        text = pattern.sub(_of_indices, text)
    for pattern in (_CALLED, _PLAIN):
        text = pattern.sub(lambda match: _written(match["letter"], match["n"], match["k"]), text)
    return text


def _of_indices(match: re.Match[str]) -> str:
    found = {name.removesuffix("_bare").rstrip("2"): text for name, text in match.groupdict().items() if text}
    n, k = found.get("n") or found["low"], found.get("k") or found["high"]
    if n.isdigit() and k.isdigit() and int(n) < int(k):  # some write the larger number above
        n, k = k, n
    if found["letter"] == "A" and not (n.isdigit() and k.isdigit()):
        return match[0]
    return _written(found["letter"], n, k)


def _written(letter: str, n: str, k: str) -> str:
    return f"\\binom{{{n}}}{{{k}}}" if letter == "C" else f"\\frac{{({n})!}}{{({n}-{k})!}}"


def _double_factorial(number: int) -> int:
    value = 1
    for factor in range(number, 1, -2):
        value *= factor
    return value
