"""Recipe and overrides to one typed Config: Hydra composes, `common/config/trees.py` checks.

A recipe is a YAML file of `launch/conf` (by name) or any YAML file (by path). It overrides the defaults of
`common/config/sections.py`, and may build on other recipes with Hydra's `defaults:` list. Overrides are `section.key=value` in
Hydra's grammar; `model=X` is short for `model.path=X`, and `preset=X` lays the settings of a paper (launch/conf/preset) over
the recipe. Hydra is imported when it is first used: `prolong buffer --help` does without it. No other module sees Hydra or
OmegaConf.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from ..common.config.actors import kinds_of_actors, pooled_settings
from ..common.config.sections import Config
from ..common.config.stages import staged_configs
from ..common.config.trees import build_section, default_tree
from ..common.errors import ConfigError

CONF_FOLDER = Path(__file__).resolve().parent / "conf"


def recipes() -> list[str]:
    """Names of the recipes that ship with prolong."""
    return sorted(path.stem for path in CONF_FOLDER.glob("*.yaml"))


NO_SETTINGS: Mapping[str, object] = MappingProxyType({})


def compose(recipe: str = "", overrides: list[str] | None = None, settings: Mapping[str, object] = NO_SETTINGS) -> Config:
    """The configuration of `recipe` (a name, a path to a YAML file, or nothing: defaults alone) with `overrides` on top.

    `settings`: values by dotted key, over all others; what Python code gives, without Hydra's grammar.
    Raises: ConfigError naming the dotted key, what was got, what was expected, and the nearest key.
    """
    chosen = [override.removeprefix("preset=") for override in overrides or [] if override.startswith("preset=")]
    others = [override for override in overrides or [] if not override.startswith("preset=")]
    tree = _compose_tree(recipe, chosen, [_as_forced(override) for override in others])
    for key, value in settings.items():
        _put(tree, key, value)
    cfg = build_section(Config, tree)
    staged_configs(cfg)
    kinds_of_actors(cfg)
    return cfg


def _put(tree: object, key: str, value: object) -> None:
    """Set one value in the tree. A section that is not there is made, and `build_section` names it."""
    *sections, name = ("model.path" if key == "model" and isinstance(value, str) else key).split(".")
    for section in sections:
        tree = tree.setdefault(section, {}) if isinstance(tree, dict) else None
    if not isinstance(tree, dict):
        raise ConfigError(f"{key} = {value!r}: expected a key such as section.name")
    tree[name] = value


def check_pool_overrides(cfg: Config, pool: str, overrides: list[str]) -> None:
    """Raise ConfigError for an override that would have no effect, because the pool sets the same key."""
    for section, key, value in pooled_settings(cfg.pools[pool]) if pool else []:
        for override in overrides:
            given = override.lstrip("+").partition("=")[0]
            if f"{given}.".startswith(f"{section}.{key}."):
                raise ConfigError(
                    f"{override}: pool {pool} sets {section}.{key} = {value!r} itself; give pools.{pool}.{given}=VALUE instead"
                )


def presets() -> list[str]:
    """Names of the presets, which set objective, rewards and sampling as a paper did."""
    return sorted(path.stem for path in (CONF_FOLDER / "preset").glob("*.yaml"))


def _compose_tree(recipe: str, preset: list[str], overrides: list[str]) -> Any:
    """Plain dictionaries and lists, with interpolations resolved. Only the names of presets are checked here."""
    for name in preset:
        if name not in presets():
            raise ConfigError(f"preset = {name!r}: expected one of {', '.join(presets())}")
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    folder, name = _locate(recipe)
    store = ConfigStore.instance()
    store.store(name="_prolong_defaults", node=default_tree())
    layers = ["_prolong_defaults", *([name] if name else []), *(f"preset/{each}" for each in preset), "_self_"]
    store.store(name="_prolong_run", node={"defaults": layers})
    search = [] if folder == CONF_FOLDER else [f"hydra.searchpath=['file://{CONF_FOLDER}']"]
    try:
        with initialize_config_dir(str(folder), version_base="1.3", job_name="prolong"):
            composed = hydra_compose("_prolong_run", overrides=search + overrides)
        # a missing value stays "???", and `build_section` names it
        return OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(_one_sentence(error)) from error


def _locate(recipe: str) -> tuple[Path, str]:
    """Folder and name of the recipe for Hydra; the name is empty without a recipe."""
    if not recipe:
        return CONF_FOLDER, ""
    path = Path(recipe).expanduser()
    if path.suffix in (".yaml", ".yml") or path.is_absolute():
        if not path.is_file():
            raise ConfigError(f"recipe = {recipe!r}: expected a YAML file that exists, or one of {', '.join(recipes())}")
        if path.suffix != ".yaml":
            raise ConfigError(f"recipe = {recipe!r}: expected a file name that ends with .yaml; rename it")
        return path.resolve().parent, path.stem
    if recipe not in recipes():
        near = difflib.get_close_matches(recipe, recipes(), n=1)
        hint = (
            f"did you mean {near[0]}?"
            if near
            else f"expected a path to a YAML file or one of {', '.join(recipes()) or '(none)'}"
        )
        raise ConfigError(f"recipe = {recipe!r}: unknown; {hint}")
    return CONF_FOLDER, recipe


def _as_forced(override: str) -> str:
    """`++key=value`, which Hydra takes for any key, so that our own check can name an unknown one."""
    if override.startswith("~"):
        return override
    key, equals, value = override.lstrip("+").partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {override!r}: expected section.key=value")
    return f"++{'model.path' if key == 'model' and not value.startswith('{') else key}={value}"


def _one_sentence(error: BaseException) -> str:
    """The message of Hydra, OmegaConf or YAML without line breaks and links to their manuals."""
    lines = [line.strip() for line in str(error).splitlines()]
    text = "; ".join(line for line in lines if line and not line.startswith(("See https", "Config search path", "provider=")))
    grammar = "rror parsing" in text or "Ambiguous" in text or "expecting" in text
    hint = "; quote values that hold = , or brackets: section.key='VALUE'" if grammar else ""
    return f"configuration: {text.replace('++', '')}{hint}"
