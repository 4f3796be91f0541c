"""The names that a program finds without importing them, as on LeetCode: they stand behind the builtins.

Modules of the standard library that solutions use, and what people import from them with a star. A name that Python has itself
stays Python's (`pow`). Standard library only, because this runs inside the sandbox.
"""

from __future__ import annotations

import bisect
import builtins
import collections
import copy
import decimal
import fractions
import functools
import heapq
import itertools
import json
import math
import operator
import os
import random
import re
import string
import sys
import time
import typing

MODULES = (
    bisect, collections, copy, decimal, fractions, functools, heapq, itertools, json, math, operator, os, random, re, string,
    sys, time, typing,
)  # fmt: skip
STARRED = (typing, collections, heapq, bisect, itertools, functools, math, string)
UNWANTED = {"e", "tau", "Text", "overload", "final", "singledispatch", "update_wrapper"}


class ListNode:
    """A node of a linked list, as LeetCode has it."""

    def __init__(self, val: object = 0, next: object = None) -> None:
        self.val = val
        self.next = next


class TreeNode:
    """A node of a binary tree, as LeetCode has it."""

    def __init__(self, val: object = 0, left: object = None, right: object = None) -> None:
        self.val = val
        self.left = left
        self.right = right


NODES = {"ListNode": ListNode, "TreeNode": TreeNode}


def names() -> dict[str, object]:
    """The names and what they stand for."""
    found: dict[str, object] = {"deepcopy": copy.deepcopy, "Decimal": decimal.Decimal, "Fraction": fractions.Fraction} | NODES
    for module in STARRED:
        listed = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
        found |= {name: getattr(module, name) for name in listed}
    found |= {module.__name__: module for module in MODULES}
    return {name: value for name, value in found.items() if name not in UNWANTED and name not in PYTHONS_OWN}


PYTHONS_OWN = frozenset(vars(builtins))


def add_names() -> None:
    """Put the names behind the builtins of this process."""
    for name, value in names().items():
        setattr(builtins, name, value)


def remove_names() -> None:
    """Take them away again, where a name that is not defined has another meaning."""
    for name in set(vars(builtins)) - PYTHONS_OWN:
        delattr(builtins, name)
