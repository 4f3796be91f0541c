"""The cores and the GPUs of each process of a run on one machine.

GPUs: one for each rank of the learner, then `actor.tensor_parallel` for each actor. A machine with a single GPU runs one rank
and one actor on it, side by side; docs/gpu.md says how they share its memory. Any other shortage is refused.
"""

from __future__ import annotations

from ..common.config.sections import Config, Device
from ..common.errors import ConfigError


def assign_cores(cfg: Config, cores: list[int]) -> dict[str, frozenset[int]]:
    """Name -> cores: the first ones for the ranks of the learner, the others shared among the actors; the buffer is not pinned.

    Empty without `launch.pin_cores`, and when there are fewer cores than ranks and actors.
    """
    ranks, actors = cfg.launch.learner_ranks, cfg.launch.actors
    if not cfg.launch.pin_cores or len(cores) < ranks + actors:
        return {}
    pinned = {"learner": frozenset(cores[:ranks])}
    return pinned | {f"actor-{i}": frozenset(share) for i, share in enumerate(_shares(cores[ranks:], actors))}


def needed_gpus(cfg: Config) -> int:
    """How many GPUs the processes of this run take if none is shared."""
    return cfg.launch.learner_ranks + cfg.launch.actors * cfg.actor.tensor_parallel


def shares_gpu(cfg: Config, num_gpus: int) -> bool:
    """Whether learner and actor use the same GPU: there is one, and one process of each."""
    return num_gpus == 1 and cfg.launch.learner_ranks == cfg.launch.actors == cfg.actor.tensor_parallel == 1


def check_gpus(cfg: Config, num_gpus: int) -> None:
    """Raise ConfigError, with the sum, when a run on GPUs needs more than this machine has."""
    needed = needed_gpus(cfg)
    if num_gpus >= needed or shares_gpu(cfg, num_gpus):
        return
    ranks, actors, each = cfg.launch.learner_ranks, cfg.launch.actors, cfg.actor.tensor_parallel
    one = "; with one GPU, launch.learner_ranks=1 launch.actors=1 actor.tensor_parallel=1 share it" if num_gpus == 1 else ""
    raise ConfigError(
        f"this run needs {needed} GPUs (launch.learner_ranks {ranks} + launch.actors {actors} x actor.tensor_parallel {each}), "
        f"and this machine has {num_gpus}: lower them (`prolong plan memory` says what fits), or give launch.actors=0 here and "
        f"start `prolong actor` on other machines{one}"
    )


def check_ranks(cfg: Config, num_gpus: int) -> None:
    """Raise ConfigError when the learner alone would have more ranks than this machine has GPUs, if it has any."""
    ranks = cfg.launch.learner_ranks
    if cfg.model.device is not Device.cpu and 0 < num_gpus < ranks:
        raise ConfigError(
            f"launch.learner_ranks = {ranks}: each rank needs a GPU, and this machine has {num_gpus}; lower it, or start ranks "
            "on other machines too (prolong learner --nodes)"
        )


def assign_gpus(cfg: Config, gpus: list[str]) -> dict[str, str]:
    """Name -> CUDA_VISIBLE_DEVICES: one GPU for each of the learner's ranks, `actor.tensor_parallel` for each actor.

    Learner and actor get the same one where they share it. Empty for a run on the CPU, and when there are too few.
    """
    ranks, actors, each = cfg.launch.learner_ranks, cfg.launch.actors, cfg.actor.tensor_parallel
    if cfg.model.device is Device.cpu:
        return {}
    if shares_gpu(cfg, len(gpus)):
        return {"learner": gpus[0], "actor-0": gpus[0]}
    if len(gpus) < needed_gpus(cfg):
        return {}
    starts = {f"actor-{i}": ranks + i * each for i in range(actors)}
    return {"learner": ",".join(gpus[:ranks])} | {name: ",".join(gpus[i : i + each]) for name, i in starts.items()}


def _shares(cores: list[int], number: int) -> list[list[int]]:
    """`cores` cut into `number` parts of equal length; the last one also gets the remainder."""
    size = len(cores) // max(1, number)
    return [cores[i * size : (i + 1) * size if i < number - 1 else None] for i in range(number)]
