"""A run's own verifiers: code of the user, named in the configuration of the process that judges and nowhere else.

    verifiers.own = {boxed: "rewards:boxed"} --> pool (knows the name) --> worker (imports rewards, takes its `boxed`)

Prompts, messages and checkpoints say "boxed"; none of them can say "rewards:boxed". The import happens in the killable worker
alone, from the current directory or PYTHONPATH. The attribute is what an adapter made (adapters.py), or a plain function
f(completion, answer) -> reward.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ...common.errors import ConfigError
from ..api import Score, Task, Verifier
from ..registry import VERIFIERS
from .libraries import from_function

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
NO_TARGETS: Mapping[str, str] = MappingProxyType({})


def declared(targets: Mapping[str, str]) -> dict[str, Verifier]:
    """What a process that imports none of them knows: the names. Raises ConfigError for a bad name or target."""
    for name, target in targets.items():
        if not NAME.fullmatch(name) or name in VERIFIERS:
            raise ConfigError(
                f"verifiers.own.{name}: expected letters, digits, '_', '.', '-', and none of {', '.join(VERIFIERS)}"
            )
        if not TARGET.fullmatch(target):
            raise ConfigError(f"verifiers.own.{name} = {target!r}: expected MODULE:ATTRIBUTE such as rewards:boxed")
    return dict.fromkeys(targets, Verifier(check=_any_object, score=_elsewhere, probe=None))


def imported(targets: Mapping[str, str]) -> dict[str, Verifier]:
    """The verifiers themselves, loaded; runs the user's modules. Raises ConfigError for one that cannot be had."""
    return {name: _import(f"verifiers.own.{name} = {target!r}", target) for name, target in targets.items()}


def _import(where: str, target: str) -> Verifier:
    module, _, attribute = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
        if isinstance(found, Verifier):
            found.load()
            return found
    except Exception as error:  # it is their module that runs: whatever it raises is a reason
        raise ConfigError(
            f"{where}: cannot be imported from the current directory or PYTHONPATH: {type(error).__name__}: {error!s:.500}"
        ) from error
    if not callable(found):
        raise ConfigError(
            f"{where}: got {found!r:.100}, expected a function (completion, answer), or what an adapter made of one"
        )
    return from_function(found)


def _any_object(answer: dict[str, Any]) -> None:
    """What their code needs to know is theirs to say."""


def _elsewhere(task: Task) -> Score:
    raise AssertionError("a verifier of the run's own is imported in workers alone")
