"""The names that a program finds without importing them, as on LeetCode: they stand among its builtins.

Modules of the standard library that solutions use, and what people import from them with a star. A name that Python has itself
stays Python's (`pow`). Libraries do not see them: sympy for one takes every builtin function for what a formula means by its
name. Standard library only, because this runs inside the sandbox.
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
import types
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


def _all_names() -> dict[str, object]:
    """The names and what they stand for."""
    found: dict[str, object] = {"deepcopy": copy.deepcopy, "Decimal": decimal.Decimal, "Fraction": fractions.Fraction} | NODES
    for module in STARRED:
        listed = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
        found |= {name: getattr(module, name) for name in listed}
    found |= {module.__name__: module for module in MODULES}
    return {name: value for name, value in found.items() if name not in UNWANTED and not hasattr(builtins, name)}


NAMES = _all_names()


def mentioned(code: types.CodeType) -> dict[str, object]:
    """The names of the prelude that occur in compiled code."""
    found = {name: NAMES[name] for name in code.co_names if name in NAMES}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= mentioned(constant)
    return found
