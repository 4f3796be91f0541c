"""One spelling for things that LaTeX and Unicode write in many ways, so that equal answers become equal texts.

    boxed text --tidy--> text for algebra --unwrap--> words between marks --squeeze--> text for comparison

Every step is a single pass, because the texts are the model's and may be hostile.
"""

from __future__ import annotations

import re

from .arguments import with_braces
from .plain_text import as_latex
from .siunitx import expanded
from .sums import with_plain_indices
from .symbols import COMMANDS, one_character

WORD, END = "\ue000", "\ue001"  # marks around words that stood in \text{} and the like
_PLAIN_NUMBER = re.compile(r"[-+]?[0-9]{1,30}(?:\.[0-9]{1,30})?")
_SPACES = re.compile(r"\s+")
_COMMAND = re.compile(r"\\[a-zA-Z]+|\\[\s\S]")
_OPENED = re.compile(r"\\(?P<name>[a-zA-Z]+)\s*\{|\\[\s\S]|[{}]")
_ROOT_SIGN = re.compile(r"√\s*(\d+(?:\.\d+)?)")
_ROOT_OF = re.compile(r"\\root ?\{?(\w{1,3})\}? ?\\of ?")
_CHOOSE = re.compile(r"\{ ?(\w{1,9}) ?\\(?:choose|atop) ?(\w{1,9}) ?\}|(\w{1,9}) ?\\choose ?(\w{1,9})")
_COLOUR = re.compile(r"\\(?:textcolor|color) ?\{[a-zA-Z]{1,20}\}")
_KEPT_SPACE = re.compile(r"(\\[a-zA-Z]+) (?=[a-zA-Z])|(\d) (?=\d)")
_BAR = re.compile(r"\\overline ?([a-zA-Z])(?![a-zA-Z])")
_SEGMENT = re.compile(r"\\overline\s*\{([A-Z]{1,4})\}")
_INTEGERS = re.compile(r"(?<=\S)(?:[, (]|, |, ?\(| \()[a-z] ?\\in ?\\mathbb ?\{?[ZN]\}?\)?\Z")
_BOLD = re.compile(r"\s*\*\*([^*]*)\*\*\s*")
_BARE_ACCENT = re.compile(r"\\(?:vec|mathbf|boldsymbol|bm)\s+([a-zA-Z])(?![a-zA-Z])")  # \vec F
_PREAMBLE = re.compile(r"(?:(?:thus|so|therefore),? )?(?:the )?(?:final |correct )?answer(?: is)?:? ?", re.IGNORECASE)

WORDS = frozenset({
    "text", "mathrm", "textrm", "textbf", "textit", "textsf", "texttt", "textnormal", "mbox", "hbox", "operatorname", "ce",
    "rm", "unit", "si", "mathsf",
})  # fmt: skip
PLAIN = frozenset({
    "mathbf", "boldsymbol", "bm", "vec", "mathit", "mathcal", "overrightarrow", "emph", "underline", "boxed", "fbox",
    "ensuremath",
})  # fmt: skip


def tidy(latex: str) -> str:
    """LaTeX without sizing, dollar signs and final full stop, with one spelling per symbol and short forms completed."""
    latex = _BARE_ACCENT.sub(r"\1", expanded(latex))
    if _PLAIN_NUMBER.fullmatch(latex):
        return latex
    text = one_character(_ROOT_SIGN.sub(r"\\sqrt{\1}", latex) if "√" in latex else latex)
    if "\\" in text:
        text = _COMMAND.sub(lambda match: COMMANDS.get(match[0], match[0]), text)
    text = text.replace("{,}", ",").replace("{:}", ":").replace("~", " ")
    text = bold[1] if (bold := _BOLD.fullmatch(text)) else text.replace("**", "^")
    text = _without_dollars(text).replace("^{\\prime}", "'").replace("^\\prime", "'")
    text = text.replace("^{\\circ}", "^\\circ").replace("^\\circ ", "^\\circ")
    text = as_latex(_SPACES.sub(" ", text).strip())
    if "\\" in text:
        text = with_braces(_ROOT_OF.sub(r"\\sqrt[\1]", _CHOOSE.sub(_binomial, _COLOUR.sub("", text))))
        text = with_plain_indices(_SEGMENT.sub(r"\1", _BAR.sub(r"\\overline{\1}", text)))
    return _INTEGERS.sub("", text.strip().rstrip(" .;,"))


def _binomial(match: re.Match[str]) -> str:
    n, k = match[1] or match[3], match[2] or match[4]
    return f"\\binom{{{n}}}{{{k}}}"


def _without_dollars(text: str) -> str:
    """Remove math delimiters; a dollar sign that stands for money becomes \\$."""
    bare = text.replace("\\$", "")
    if bare.count("$") == 1 and bare.lstrip()[:1] == "$" and bare.lstrip()[1:2].isdigit():
        return text.replace("$", "\\$", 1)
    if "$" in bare:
        text = text.replace("\\$", "\ue002").replace("$", "").replace("\ue002", "\\$")
    return text.replace("\\(", "").replace("\\)", "").replace("\\[", "").replace("\\]", "")


def unwrap(text: str) -> str:
    """Turn \\text{words} and the like into words between marks, and \\mathbf{x} and the like into x; nested ones too."""
    if "\\" not in text:
        return text
    out: list[str] = []
    closers: list[str] = []
    at = 0
    for match in _OPENED.finditer(text):
        token, name = match.group(), match["name"]
        out.append(text[at : match.start()])
        at = match.end()
        if name in WORDS:
            out.append(WORD)
            closers.append(END)
        elif name in PLAIN:
            closers.append("")
        elif token[-1] == "{" and (name or len(token) == 1):
            out.append(token)
            closers.append("}")
        elif token == "}":
            out.append(closers.pop() if closers else "}")
        else:
            out.append(token)
    out.append(text[at:])
    return "".join(out)


def plain(text: str) -> str:
    """Remove the marks that `unwrap` leaves, and a preamble such as "The answer is"."""
    text = _SPACES.sub(" ", text.replace(WORD, " ").replace(END, " ")).strip()
    return text[match.end() :] if (match := _PREAMBLE.match(text)) else text


def squeeze(text: str) -> str:
    """Remove spaces, except those that end a command or separate two numbers."""
    return _KEPT_SPACE.sub(lambda match: match.group()[:-1] + "\ue003", text).replace(" ", "").replace("\ue003", " ")


def clean(latex: str) -> str:
    """The form of an answer in which all its spellings are the same text."""
    return squeeze(plain(unwrap(tidy(latex))))


def split_top(text: str, separators: str = ",;") -> list[str]:
    """The parts between separators outside of brackets. Brackets need not match: those of intervals do not."""
    parts, depth, start = [], 0, 0
    escaped = False
    for at, char in enumerate(text):
        if char == "\\" and not escaped:
            escaped = True
            continue
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char in separators and depth == 0 and not escaped:
            parts.append(text[start:at].strip())
            start = at + 1
        escaped = False
    return [*parts, text[start:].strip()]
