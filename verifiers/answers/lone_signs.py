r"""Answers that begin with a sign of comparison: < 7 and \ge 7 are not 7, and are what x < 7 and x \ge 7 say."""

from __future__ import annotations

import re

_SIGN = re.compile(r"\s*(<|>|\\le|\\ge|\\neq)(?![a-zA-Z=])")
_SUBJECT = re.compile(r"\s*[a-zA-Z](?:_\{?\w{1,3}\}?)?\s*(?=[<>\\])")


def lone_sign(text: str) -> str:
    """The sign that a tidied text begins with; "" where there is none, and for vectors in <1,2>."""
    match = _SIGN.match(text)
    return match[1] if match and not text.rstrip().endswith(">") else ""


def without_subject(reference: str, answer: str) -> tuple[str, str] | None:
    """Two texts of which just one begins with a sign, in one form: x < 7 without its x. None where they cannot be equal."""
    first, second = lone_sign(reference), lone_sign(answer)
    longer = answer if first else reference
    subject = _SUBJECT.match(longer)
    if (first and second) or not subject or lone_sign(longer[subject.end() :]) != (first or second):
        return None
    bare = longer[subject.end() :]
    return (reference, bare) if first else (bare, answer)
