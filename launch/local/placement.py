"""The cores and the GPUs of each process of a run on one machine."""

from __future__ import annotations

from ...common.config.sections import Config, Device


def assign_cores(cfg: Config, cores: list[int]) -> dict[str, frozenset[int]]:
    """Name -> cores: the first ones for the ranks of the learner, the others shared among the actors; the buffer is not pinned.

    Empty without `launch.pin_cores`, and when there are fewer cores than ranks and actors.
    """
    ranks, actors = cfg.launch.learner_ranks, cfg.launch.actors
    if not cfg.launch.pin_cores or len(cores) < ranks + actors:
        return {}
    pinned = {"learner": frozenset(cores[:ranks])}
    return pinned | {f"actor-{i}": frozenset(share) for i, share in enumerate(_shares(cores[ranks:], actors))}


def assign_gpus(cfg: Config, gpus: list[str]) -> dict[str, str]:
    """Name -> CUDA_VISIBLE_DEVICES: one GPU for each of the learner's ranks, `actor.tensor_parallel` for each actor.

    Empty when there are fewer GPUs: then every process sees all that the environment names.
    """
    ranks, actors, each = cfg.launch.learner_ranks, cfg.launch.actors, cfg.actor.tensor_parallel
    if cfg.model.device is Device.cpu or len(gpus) < ranks + actors * each:
        return {}
    starts = {f"actor-{i}": ranks + i * each for i in range(actors)}
    return {"learner": ",".join(gpus[:ranks])} | {name: ",".join(gpus[i : i + each]) for name, i in starts.items()}


def _shares(cores: list[int], number: int) -> list[list[int]]:
    """`cores` cut into `number` parts of equal length; the last one also gets the remainder."""
    size = len(cores) // max(1, number)
    return [cores[i * size : (i + 1) * size if i < number - 1 else None] for i in range(number)]
