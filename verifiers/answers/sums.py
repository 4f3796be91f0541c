r"""Indices of sums and products: \sum_{i=1}^n i^2 is \sum_{k=1}^n k^2, and its i is no imaginary unit."""

from __future__ import annotations

import re

NAMES = "kmpqrst"
_BOUND = re.compile(r"\\(?:sum|prod) ?(?:\\limits ?)?_ ?\{ ?([a-zA-Z]) ?=")
_TOKEN = re.compile(r"\\[a-zA-Z]+|[a-zA-Z]")


def with_plain_indices(latex: str) -> str:
    """The text with the same name for the same index of every sum and product; names that it uses otherwise stay free."""
    bound = list(dict.fromkeys(_BOUND.findall(latex)))
    if not bound or "\\text" in latex:
        return latex
    free = set(_TOKEN.findall(latex)) - set(bound)
    names = [name for name in NAMES if name not in free]
    if len(names) < len(bound):
        return latex
    renamed = dict(zip(bound, names, strict=False))
    return _TOKEN.sub(lambda match: renamed.get(match[0], match[0]), latex)
