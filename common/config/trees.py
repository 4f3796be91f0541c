"""Plain trees (of YAML or JSON) to the dataclasses of sections.py and back, with an error that names the dotted key.

This is stricter than OmegaConf, which silently turns `buffer.eta=2.7` into 2 and `run.resume=1` into True.
Raises throughout: ConfigError "KEY = GOT: expected EXPECTED".
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ..errors import ConfigError, require
from .alerts import AlertsConfig
from .curriculum import CurriculumConfig
from .learner import LearnerConfig, LrScheduleConfig
from .sections import AdaptiveConfig, BufferConfig, Config, LoraConfig, ModelConfig
from .verifiers import JudgeConfig, VerifiersConfig

MISSING = "???"  # the default of a setting that the user must give
_hints = cache(get_type_hints)

T = TypeVar("T")
_PLAIN = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def build_section(schema: type[T], tree: Any, key: str = "") -> T:
    """`tree` as an instance of the dataclass `schema`; absent keys take their defaults; `key` is the section's dotted name."""
    names = [item.name for item in fields(schema)]  # pyright: ignore[reportArgumentType]
    require(isinstance(tree, Mapping), key, tree, f"a section with the keys {', '.join(names)}")
    for name in tree:
        if name not in names:
            raise _unknown(_join(key, str(name)), tree[name], [_join(key, known) for known in names])
    hints = _hints(schema)
    values = {name: convert_value(hints[name], tree[name], _join(key, name)) for name in names if name in tree}
    instance = schema(**values)
    for name in names:
        if getattr(instance, name) == MISSING:
            raise ConfigError(
                f"{_join(key, name)} is missing: expected {describe_type(hints[name])}; give {_join(key, name)}=VALUE"
            )
    return instance


def convert_value(schema: Any, value: Any, key: str) -> Any:
    """`value` as the type `schema`: a dataclass, an Enum (by member name), a list, a tuple, a mapping, or a plain type."""
    if is_dataclass(schema):
        return build_section(schema, value, key)  # pyright: ignore[reportArgumentType]
    if isinstance(schema, type) and issubclass(schema, Enum):
        # YAML reads true and false as booleans, also where they are names of an Enum's members
        name = str(value).lower() if isinstance(value, bool) else value
        require(isinstance(name, str) and name in schema.__members__, key, value, describe_type(schema))
        return schema[name]
    if get_origin(schema) in (list, tuple):
        return _convert_sequence(schema, value, key)
    if get_origin(schema) is dict:
        require(isinstance(value, Mapping), key, value, describe_type(schema))
        return {str(name): convert_value(get_args(schema)[1], item, f"{key}.{name}") for name, item in value.items()}
    # the part of a section that a stage changes: checked when the stage is built
    if schema is Any or schema is object:
        return to_tree(value)
    if schema is float and type(value) is int:
        return float(value)
    hint = f"; quote it: \"{key}='{value}'\"" if schema is str and isinstance(value, int | float) else ""
    require(type(value) is schema, key, value, describe_type(schema) + hint)
    require(schema is not float or math.isfinite(value), key, value, "a finite number")
    require(not isinstance(value, str) or _is_utf8(value), key, value, "text in UTF-8, which frames, files and logs can hold")
    return value


def _is_utf8(text: str) -> bool:
    """Whether UTF-8 can hold a text. Bytes of the command line that are not UTF-8 become halves of surrogate pairs."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _convert_sequence(schema: Any, value: Any, key: str) -> Any:
    require(isinstance(value, list | tuple), key, value, describe_type(schema))
    kinds = get_args(schema)
    if get_origin(schema) is list:
        return [convert_value(kinds[0], item, f"{key}.{index}") for index, item in enumerate(value)]
    require(len(value) == len(kinds), key, value, describe_type(schema))
    return tuple(
        convert_value(kind, item, f"{key}.{index}") for index, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def describe_type(schema: Any) -> str:
    """How a user writes a value of this type."""
    if is_dataclass(schema):
        return f"a section with the keys {', '.join(item.name for item in fields(schema))}"
    if isinstance(schema, type) and issubclass(schema, Enum):
        return f"one of {', '.join(schema.__members__)}"
    if get_origin(schema) is tuple:
        return f"a list of {len(get_args(schema))}: {', '.join(describe_type(kind) for kind in get_args(schema))}"
    if get_origin(schema) is list:
        return f"a list, each item {describe_type(get_args(schema)[0])}"
    if get_origin(schema) is dict:
        return f"a mapping of names to {describe_type(get_args(schema)[1])}"
    return _PLAIN.get(schema, "a value")


def to_tree(value: Any) -> Any:
    """The reverse of `convert_value`: dictionaries, lists and plain values only."""
    if is_dataclass(value):
        return {item.name: to_tree(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple):
        return [to_tree(item) for item in value]
    if isinstance(value, Mapping):
        return {name: to_tree(item) for name, item in value.items()}
    return value


def default_tree() -> dict[str, Any]:
    """Every setting with its default, as a plain tree; those without one are MISSING."""
    return {item.name: to_tree(item.default_factory()) for item in fields(Config)}  # pyright: ignore[reportCallIssue]


def judge_config(verifiers: VerifiersConfig) -> JudgeConfig | None:
    """The model that judges open answers; None if the configuration names none. Raises: ConfigError."""
    return build_section(JudgeConfig, verifiers.judge, "verifiers.judge") if verifiers.judge else None


def lr_schedule_config(learner: LearnerConfig) -> LrScheduleConfig:
    """How the learning rate changes. Raises: ConfigError."""
    return build_section(LrScheduleConfig, learner.lr_schedule, "learner.lr_schedule")


def alerts_config(cfg: Config) -> AlertsConfig:
    """When the learner raises alerts; without limits, never. Raises: ConfigError."""
    rules = build_section(AlertsConfig, cfg.alerts, "alerts")
    unread = "0 with objective.kl_beta = 0, which needs no reference to measure it"
    require(rules.kl_above == 0 or cfg.objective.kl_beta > 0, "alerts.kl_above", rules.kl_above, unread)
    unscored = "0 with validation.every = 0, which gives no scores"
    require(rules.score_drop == 0 or cfg.validation.every > 0, "alerts.score_drop", rules.score_drop, unscored)
    return rules


def lora_config(model: ModelConfig) -> LoraConfig | None:
    """The adapters to train; None if the whole model is. Raises: ConfigError."""
    return build_section(LoraConfig, model.lora, "model.lora") if model.lora else None


def adaptive_config(buffer: BufferConfig) -> AdaptiveConfig | None:
    """How eta moves; None if it stays. Raises: ConfigError."""
    if not buffer.adaptive:
        return None
    rules = build_section(AdaptiveConfig, buffer.adaptive, "buffer.adaptive")
    between = f"from {rules.min} to {rules.max}, between which buffer.adaptive moves it"
    require(rules.min <= buffer.eta <= rules.max, "buffer.eta", buffer.eta, between)
    return rules


def curriculum_config(cfg: Config) -> CurriculumConfig | None:
    """How prompts are chosen; None if all are alike. Raises: ConfigError."""
    if not cfg.buffer.curriculum:
        return None
    rules = build_section(CurriculumConfig, cfg.buffer.curriculum, "buffer.curriculum")
    swept = rules.plateau == 0 or cfg.validation.every > 0
    require(swept, "buffer.curriculum.plateau", rules.plateau, "0 with validation.every = 0, or sweeps to be counted")
    return rules


def largest_eta(buffer: BufferConfig) -> int:
    """The largest eta that a ticket of the run may have. Raises: ConfigError."""
    rules = adaptive_config(buffer)
    return buffer.eta if rules is None else rules.max


def dotted_keys(tree: Mapping[str, Any] | None = None, key: str = "") -> list[str]:
    """Every setting as `section.key`, in the order of `Config`."""
    keys: list[str] = []
    for name, value in (default_tree() if tree is None else tree).items():
        keys += dotted_keys(value, _join(key, name)) if isinstance(value, Mapping) and value else [_join(key, name)]
    return keys


def _join(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name


def _unknown(key: str, value: Any, siblings: list[str]) -> ConfigError:
    """Suggests a key with the same last part, else a similar sibling, else a key with a similar last part."""
    by_leaf = {known.rpartition(".")[2]: known for known in reversed(dotted_keys())}
    leaf = key.rpartition(".")[2]
    near = [by_leaf[leaf]] if leaf in by_leaf else difflib.get_close_matches(key, siblings, n=1, cutoff=0.75)
    near = near or [by_leaf[close] for close in difflib.get_close_matches(leaf, list(by_leaf), n=1, cutoff=0.8)]
    expected = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(siblings)}"
    return ConfigError(f"{key} = {value!r}: unknown key; {expected}")
