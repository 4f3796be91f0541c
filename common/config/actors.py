"""The actors of a run: the configuration of each pool, and the processes that `prolong train` starts.

Without `pools` all actors are alike, and `launch.actors` of them are started. With `pools` each pool has `count`, and sections
of its own that are laid over those of the run.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import NamedTuple

from ..errors import ConfigError, require
from .pools import PoolConfig
from .sections import Config
from .trees import build_section, to_tree

# section -> the keys that a pool may change; None: all
POOLED = {
    "actor": None,
    "model": ("dtype", "device"),
    "verifiers": ("workers", "timeout_s", "hosts", "keys"),
    "weights": ("transport", "host", "port", "serve", "streams", "max_mb_s", "timeout_s"),
}
POOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")


class ActorHere(NamedTuple):
    """An actor that `prolong train` starts."""

    name: str
    pool: str  # "": of none
    cfg: Config  # of its pool


def in_pool(cfg: Config, pool: str) -> Config:
    """The configuration of the actors of a pool, which has no pools itself; `cfg` for the pool "".

    Raises: ConfigError naming pools.POOL.SECTION.KEY for a key that no pool may change, and as `build_section` does.
    """
    if not pool:
        return cfg
    if pool not in cfg.pools:
        known = ", ".join(cfg.pools) or "none: this configuration has no pools"
        raise ConfigError(f"pool {pool!r}: expected one of {known}")
    if not POOL_NAME.fullmatch(pool):
        raise ConfigError(f"pools has {pool!r}: expected a name of at most 100 letters, digits, _ and -")
    settings = cfg.pools[pool]
    tree = to_tree(replace(cfg, pools={}, launch=replace(cfg.launch, actors=settings.count)))
    for section, key, value in pooled_settings(settings):
        allowed = POOLED[section]
        expected = f"one of {', '.join(allowed or ())}: the other keys of this section are those of the run"
        require(allowed is None or key in allowed, f"pools.{pool}.{section}.{key}", value, expected)
        tree[section][key] = value
    try:
        return build_section(Config, tree)
    except ConfigError as error:
        raise ConfigError(f"pool {pool} (pools.{pool}): {error}") from error


def pooled_settings(pool: PoolConfig) -> list[tuple[str, str, object]]:
    """(section, key, value) of all that a pool changes."""
    return [(section, key, value) for section in POOLED for key, value in getattr(pool, section).items()]


def kinds_of_actors(cfg: Config) -> dict[str, Config]:
    """Pool -> its configuration; without pools that of the run, under the name ""."""
    return {pool: in_pool(cfg, pool) for pool in cfg.pools} or {"": cfg}


def actors_here(cfg: Config) -> list[ActorHere]:
    """The actors that `prolong train` starts on this machine, pool by pool."""
    kinds = kinds_of_actors(cfg).items()
    return [ActorHere(f"{pool or 'actor'}-{i}", pool, kind) for pool, kind in kinds for i in range(kind.launch.actors)]
