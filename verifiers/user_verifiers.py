"""The user's own verifiers: code named in the configuration of the process that judges, and nowhere else.

    verifiers.own = {boxed: "rewards:boxed"} --> pool (knows the name) --> worker (imports rewards, takes its `boxed`)

Prompts, messages and checkpoints say "boxed"; none of them can say "rewards:boxed". The import happens in the killable worker
only, from the current directory or PYTHONPATH. The attribute is the result of an adapter (adapters.py), a Verifier, or a plain
function f(completion, answer) -> reward. A target "unix:PATH" imports nothing: the process that started the run serves the
function there (function_server.py).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from types import MappingProxyType

from ..common.errors import ConfigError
from .adapters import from_function
from .api import Answer, Score, Task, Verifier
from .registry import VERIFIERS
from .services.served import SERVED, ServedVerifier

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
NO_TARGETS: Mapping[str, str] = MappingProxyType({})


class NamedVerifier(Verifier):
    """A user's verifier in a process that knows its name but does not import it."""

    def check(self, answer: Answer) -> None:
        """Accepts every answer: only the user's code knows which fields it needs."""

    def gold(self, answer: Answer) -> str | None:
        return None

    def score(self, task: Task) -> Score:
        raise AssertionError("a user's verifier is imported in workers only")


def declared(targets: Mapping[str, str]) -> dict[str, Verifier]:
    """Check names and targets, and import nothing. Raises ConfigError for a bad name or target."""
    for name, target in targets.items():
        if not NAME.fullmatch(name) or name in VERIFIERS:
            raise ConfigError(
                f"verifiers.own.{name}: expected letters, digits, '_', '.', '-', and none of {', '.join(VERIFIERS)}"
            )
        if not TARGET.fullmatch(target) and not target.startswith(SERVED):
            raise ConfigError(f"verifiers.own.{name} = {target!r}: expected MODULE:ATTRIBUTE such as rewards:boxed")
    return dict.fromkeys(targets, NamedVerifier())


def imported(targets: Mapping[str, str]) -> dict[str, Verifier]:
    """Import the user's modules and load their verifiers. Raises UserError for one that cannot be imported or reached."""
    return {name: _load(name, target) for name, target in targets.items()}


def _load(name: str, target: str) -> Verifier:
    if not target.startswith(SERVED):
        return _import(f"verifiers.own.{name} = {target!r}", target)
    served = ServedVerifier(name, target.removeprefix(SERVED))
    served.load()
    return served


def _import(where: str, target: str) -> Verifier:
    module, _, attribute = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
        if isinstance(found, Verifier):
            found.load()
            return found
    except Exception as error:  # the user's module may raise anything
        reason = f"{type(error).__name__}: {error!s:.500}"
        raise ConfigError(f"{where}: cannot be imported from the current directory or PYTHONPATH: {reason}") from error
    if not callable(found):
        raise ConfigError(
            f"{where}: got {found!r:.100}, expected a function (completion, answer), or what an adapter made of one"
        )
    return from_function(found)
