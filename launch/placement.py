"""The cores and the GPUs of each process of a run on one machine.

GPUs: one for each rank of the learner, then `actor.tensor_parallel` for each actor, pool by pool. A pool may name its own where
the cards of a machine differ. A machine with a single GPU runs one rank and one actor on it, side by side; docs/gpu.md says how
they share its memory. Any other shortage is refused.
"""

from __future__ import annotations

from ..common.config.actors import actors_here, kinds_of_actors
from ..common.config.sections import Config, Device
from ..common.errors import ConfigError, require


def assign_cores(cfg: Config, cores: list[int]) -> dict[str, frozenset[int]]:
    """Name -> cores: the first ones for the ranks of the learner, the others shared among the actors; the buffer is not pinned.

    Empty without `launch.pin_cores`, and when there are fewer cores than ranks and actors.
    """
    ranks, names = cfg.launch.learner_ranks, [actor.name for actor in actors_here(cfg)]
    if not cfg.launch.pin_cores or len(cores) < ranks + len(names):
        return {}
    shares = zip(names, _shares(cores[ranks:], len(names)), strict=True)
    return {"learner": frozenset(cores[:ranks])} | {name: frozenset(share) for name, share in shares}


def gpus_of_actor(cfg: Config) -> int:
    """How many GPUs an actor of this configuration takes, if there are any."""
    return 0 if cfg.model.device is Device.cpu else cfg.actor.tensor_parallel


def _gpus_of_learner(cfg: Config) -> int:
    return 0 if cfg.model.device is Device.cpu else cfg.launch.learner_ranks


def needed_gpus(cfg: Config) -> int:
    """How many GPUs the processes of this run take if none is shared."""
    return _gpus_of_learner(cfg) + sum(gpus_of_actor(actor.cfg) for actor in actors_here(cfg))


def shares_gpu(cfg: Config, num_gpus: int) -> bool:
    """Whether learner and actor use the same GPU: there is one, and one process of each that would take one."""
    taken = [number for actor in actors_here(cfg) if (number := gpus_of_actor(actor.cfg))]
    return num_gpus == 1 and _gpus_of_learner(cfg) == 1 and taken == [1]


def check_gpus(cfg: Config, num_gpus: int) -> None:
    """Raise ConfigError, with the sum, when a run on GPUs needs more than this machine has, or pools name others."""
    needed = needed_gpus(cfg)
    if shares_gpu(cfg, num_gpus):
        return
    if num_gpus < needed:
        one = "; with one GPU, launch.learner_ranks=1 launch.actors=1 actor.tensor_parallel=1 share it" if num_gpus == 1 else ""
        raise ConfigError(
            f"this run needs {needed} GPUs ({_sum_of_gpus(cfg)}), and this machine has {num_gpus}: lower them (`prolong plan "
            f"memory` says what fits), or give {_none_here(cfg)} here and start `prolong actor` on other machines{one}"
        )
    named: set[int] = set()
    for pool, kind in kinds_of_actors(cfg).items():
        chosen = cfg.pools[pool].gpus if pool else []
        takes = gpus_of_actor(kind) * kind.launch.actors
        expected = f"none, or {takes} of the {num_gpus} here (count x tensor_parallel) that no other pool names"
        fits = len(chosen) == takes and max(chosen, default=0) < num_gpus and named.isdisjoint(chosen)
        require(not chosen or fits, f"pools.{pool}.gpus", chosen, expected)
        named.update(chosen)


def _sum_of_gpus(cfg: Config) -> str:
    parts = [f"launch.learner_ranks {_gpus_of_learner(cfg)}"]
    for pool, kind in kinds_of_actors(cfg).items():
        count, each = (f"pools.{pool}.count", "tensor_parallel") if pool else ("launch.actors", "actor.tensor_parallel")
        parts.append(f"{count} {kind.launch.actors} x {each} {gpus_of_actor(kind)}")
    return " + ".join(parts)


def _none_here(cfg: Config) -> str:
    return " ".join(f"pools.{pool}.count=0" for pool in cfg.pools) or "launch.actors=0"


def check_ranks(cfg: Config, num_gpus: int) -> None:
    """Raise ConfigError when the learner alone would have more ranks than this machine has GPUs, if it has any."""
    ranks = cfg.launch.learner_ranks
    if cfg.model.device is not Device.cpu and 0 < num_gpus < ranks:
        raise ConfigError(
            f"launch.learner_ranks = {ranks}: each rank needs a GPU, and this machine has {num_gpus}; lower it, or start ranks "
            "on other machines too (prolong learner --nodes)"
        )


def place_on_gpus(cfg: Config, num_gpus: int) -> dict[str, list[int]]:
    """Name -> numbers of its GPUs, for the learner and each actor that takes any.

    Learner and actor get the same one where they share it. Empty for a run on the CPU, and when there are too few.
    """
    actors = [actor for actor in actors_here(cfg) if gpus_of_actor(actor.cfg)]
    if shares_gpu(cfg, num_gpus):
        return {"learner": [0], actors[0].name: [0]}
    if num_gpus < needed_gpus(cfg):
        return {}
    chosen = {pool: list(settings.gpus) for pool, settings in cfg.pools.items()}
    named = {index for indices in chosen.values() for index in indices}
    free = [index for index in range(num_gpus) if index not in named]

    def take(source: list[int], number: int) -> list[int]:
        taken = source[:number]
        del source[:number]
        return taken

    placed = {"learner": take(free, ranks)} if (ranks := _gpus_of_learner(cfg)) else {}
    return placed | {actor.name: take(chosen.get(actor.pool) or free, gpus_of_actor(actor.cfg)) for actor in actors}


def assign_gpus(cfg: Config, gpus: list[str]) -> dict[str, str]:
    """Name -> CUDA_VISIBLE_DEVICES, as `place_on_gpus` places the processes on these GPUs."""
    return {name: ",".join(gpus[index] for index in indices) for name, indices in place_on_gpus(cfg, len(gpus)).items()}


def _shares(cores: list[int], number: int) -> list[list[int]]:
    """`cores` cut into `number` parts of equal length; the last one also gets the remainder."""
    size = len(cores) // max(1, number)
    return [cores[i * size : (i + 1) * size if i < number - 1 else None] for i in range(number)]
