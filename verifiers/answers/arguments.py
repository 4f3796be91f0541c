r"""Arguments of LaTeX commands that stand without braces: \frac12, \sqrt[3]5, \sqrt(x+1), exp(9) get their braces.

One pass over the tokens with a stack of open brackets, so that hostile text costs linear time.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\\[a-zA-Z]+|\\[\s\S]|\s+|[\s\S]")
_NEEDED = re.compile(r"\\(?:frac|binom|sqrt|exp|abs|floor|ceil|cbrt|factorial|max|min|gcd|lcm)(?![a-zA-Z])")
_ARGUMENTS = {"\\frac": 2, "\\binom": 2, "\\sqrt": 1}
# functions of an argument in round brackets, and what stands around it in LaTeX
_ROUND = {
    "\\exp": ("e^{", "}"),
    "\\abs": ("|", "|"),
    "\\floor": ("\\lfloor ", "\\rfloor "),
    "\\ceil": ("\\lceil ", "\\rceil "),
    "\\cbrt": ("\\sqrt[3]{", "}"),
    "\\factorial": ("(", ")!"),
}
_SETS = ("\\max", "\\min", "\\gcd", "\\lcm")  # \max\{a, b\} is \max(a, b)
_OPENERS = {"{": "}", "(": ")", "[": "]", "\\{": "\\}"}


class _Writer:
    """The output, with the number of arguments that the last command still waits for and the brackets that are open."""

    def __init__(self) -> None:
        self.out: list[str] = []
        self.wanted = 0
        # of each open bracket: the token that closes it, what is written then, and how many arguments are wanted behind it
        self.open: list[tuple[str, str, int]] = []

    def opens(self, closer: str, written: str, closing: str, wanted: int) -> None:
        self.out.append(written)
        self.open.append((closer, closing, wanted))
        self.wanted = 0

    def closes(self, token: str) -> None:
        while self.open and self.open[-1][0] == "":  # a bare command that never got its arguments
            self.finish_bare()
        if not self.open or self.open[-1][0] != token:
            self.out.append(token)
            self.wanted = 0
            return
        _, closing, self.wanted = self.open.pop()
        self.out.append(closing)
        self.finish_all_bare()

    def finish_bare(self) -> None:
        _, closing, self.wanted = self.open.pop()
        self.out.append(closing)

    def finish_all_bare(self) -> None:
        while not self.wanted and self.open and self.open[-1][0] == "":
            self.finish_bare()

    def argument(self, token: str) -> None:
        """A digit, a letter or a symbol as an argument; a command with arguments of its own opens one."""
        if token in _ARGUMENTS:
            self.opens("", "{" + token, "}", self.wanted - 1)
            self.wanted = _ARGUMENTS[token]
            return
        self.out.append("{" + token + "}")
        self.wanted -= 1
        self.finish_all_bare()


def with_braces(text: str) -> str:
    """The text with braces around the arguments of its commands."""
    if not _NEEDED.search(text):
        return text
    writer, held = _Writer(), ""  # held: a function whose round bracket may follow
    for token in _TOKEN.findall(text):
        if held:
            if token.isspace():
                continue
            held = _after_function(writer, held, token)
        elif token in _ROUND or token in _SETS or (token == "\\sqrt" and not writer.wanted):
            held = token
        else:
            _write(writer, token)
    if held:
        writer.out.append(held)
    while writer.open:
        _, closing, _ = writer.open.pop()
        writer.out.append(closing if closing == "}" else "")
    return "".join(writer.out)


def _after_function(writer: _Writer, held: str, token: str) -> str:
    """Write a function with the token behind it. Returns the function that is held then."""
    if held == "\\sqrt":
        writer.out.append(held)
        writer.wanted = 1
        if token == "(":
            writer.opens(")", "{", "}", 0)
        elif token == "[":
            writer.opens("]", "[", "]", 1)
        else:
            _write(writer, token)
    elif held in _SETS and token in ("\\{", "("):
        writer.opens(_OPENERS[token], held + "(", ")", 0)
    elif held in _ROUND and token == "(":
        before, after = _ROUND[held]
        writer.opens(")", before, after, 0)
    else:
        writer.out.append(held + " ")
        if token in _ROUND or token in _SETS or token == "\\sqrt":
            return token
        _write(writer, token)
    return ""


def _write(writer: _Writer, token: str) -> None:
    if writer.wanted and token.isspace():
        return
    if token == "(" and writer.wanted and writer.out and writer.out[-1] == "]":  # \sqrt[3](5)
        writer.opens(")", "{", "}", writer.wanted - 1)
    elif token in _OPENERS:
        writer.opens(_OPENERS[token], token, _OPENERS[token], max(0, writer.wanted - 1) if token == "{" else 0)
    elif token in _OPENERS.values():
        writer.closes(token)
    elif writer.wanted and (token.isalnum() or (len(token) > 2 and token[0] == "\\")):
        writer.argument(token)
    else:
        writer.wanted = 0
        writer.out.append(token)
        if token in _ARGUMENTS:
            writer.wanted = _ARGUMENTS[token]
