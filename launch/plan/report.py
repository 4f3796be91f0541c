"""A plan as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.table import Table

from ...common.config.sections import Config
from ...common.config.trees import largest_eta
from ...common.json_object import JsonObject
from .refine import RunFit
from .simulation.cluster import Cluster
from .simulation.result import PoolUse
from .sweep import Planned, SweepPoint

BAR = 30  # characters of the longest bar of a histogram
NAMES = {
    "actors": "actors: to sample all tokens of a step",
    "learner": "learner: to take a step",
    "staleness": "staleness: from weights to trained groups in eta + 1 steps",
    "verifiers": "verifiers: to judge all rollouts of a step",
    "weights": "weights: to send a version in eta + 1 steps, and pauses",
    "host": "host: CPU seconds of a step on shared cores",
}


def planned_record(planned: Planned) -> JsonObject:
    """A plan as JSON."""
    found, cfg = planned.found, planned.cfg
    return {
        "settings": settings_record(planned.cluster, planned.cfg),
        "steps_per_s": found.steps_per_s,
        "tokens_per_s": found.tokens_per_s,
        "generated_per_s": found.generated_per_s,
        "learner": found.learner,
        "pools": {name: asdict(use) | {"share_of_roof": use.share_of_roof} for name, use in found.pools.items()},
        "actors_busy": found.actors_busy,
        "staleness": {str(age): count for age, count in found.staleness.items()},
        "staleness_mean": found.staleness_mean,
        "eta": cfg.buffer.eta,
        "waste": found.waste,
        "survival": found.survival,
        "roofs": {name: roof for name, roof in planned.roofs.all().items() if roof != float("inf")},
        "binds": planned.roofs.binds,
        "bound": planned.roofs.bound,
    }


def settings_record(cluster: Cluster, cfg: Config) -> JsonObject:
    """The settings that a plan depends on most."""
    return {
        "actors": {name: pool.count for name, pool in cluster.pools.items()},
        "capacity": {name: pool.capacity for name, pool in cluster.pools.items()},
        "learner_devices": cluster.learner.devices,
        "buffer.eta": cfg.buffer.eta,
        "buffer.batch_groups": cfg.buffer.batch_groups,
        "sampling.n": cfg.sampling.n,
    }


def show_planned(console: Console, planned: Planned) -> None:
    """Print a plan."""
    found, bound = planned.found, planned.roofs.bound
    console.print(
        f"[bold]{_rate(found.steps_per_s)}[/bold] steps/s, {found.tokens_per_s:,.0f} tokens/s trained, "
        f"{found.generated_per_s:,.0f} sampled: {found.steps_per_s / bound:.0%} of the bound",
        soft_wrap=True,
    )
    console.print(_settings_line(planned.cluster, planned.cfg), soft_wrap=True)
    console.print(_roofs(planned))
    console.print(_learner_line(planned), soft_wrap=True)
    console.print(_pools(planned))
    console.print("staleness of the groups that were trained, in versions")
    for line in _histogram(found.staleness):
        console.print(line)
    waste = ", ".join(f"{share:.1%} {name}" for name, share in found.waste.items() if share > 0)
    console.print(f"groups that were not trained: {waste or 'none'}")


def _settings_line(cluster: Cluster, cfg: Config) -> str:
    pools = ", ".join(f"{pool.count} {name} with {pool.capacity} rollouts each" for name, pool in cluster.pools.items())
    devices = f", learner on {cluster.learner.devices} devices" if cluster.learner.devices else ""
    eta = f"{cfg.buffer.eta}, up to {largest_eta(cfg.buffer)}" if cfg.buffer.adaptive else cfg.buffer.eta
    return f"eta {eta}, {cfg.buffer.batch_groups} groups of {cfg.sampling.n} a step; {pools}{devices}"


def _roofs(planned: Planned) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("closed form: no schedule can exceed")
    table.add_column("steps/s", justify="right")
    for name, roof in sorted(planned.roofs.all().items(), key=lambda item: item[1]):
        if roof != float("inf"):
            mark = "  <- binds" if name == planned.roofs.binds else ""
            table.add_row(f"{NAMES[name]}{mark}", _rate(roof))
    return table


def _learner_line(planned: Planned) -> str:
    shares = planned.found.learner
    waits = {name.removeprefix("wait/"): share for name, share in shares.items() if name.startswith("wait/")}
    largest = sorted(waits.items(), key=lambda item: -item[1])
    waited = ", ".join(f"{share:.0%} for {name}" for name, share in largest if share >= 0.005)
    return f"learner: trains {shares.get('train', 0.0):.0%} of its time" + (f", waits {waited}" if waited else "")


def _pools(planned: Planned) -> Table:
    """A row for each pool; columns that say 0 of all of them are left out."""
    rows = {name: _pool_row(use) for name, use in planned.found.pools.items()}
    shown = [column for column in next(iter(rows.values())) if any(row[column] for row in rows.values())]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("pool")
    for column in shown:
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in rows.items():
        table.add_row(name, *(row[column] or "0" for column in shown))
    return table


def _pool_row(use: PoolUse) -> dict[str, str]:
    """The cells of a pool, empty for nothing."""
    shares = {"busy": use.busy, "paused": use.weights, "idle": use.idle, "down": use.down}
    counts = {"running": use.running, "waiting": use.waiting}
    return {
        "actors": str(use.actors),
        **{name: f"{share:.0%}" if share >= 0.005 else "" for name, share in shares.items()},
        **{name: f"{count:.0f}" if count >= 0.5 else "" for name, count in counts.items()},
        "KV": f"{use.kv_use:.0%}" if use.kv_use >= 0.005 else "",
        "tokens/s": f"{use.tokens_per_s:,.0f}",
        "of roof": f"{use.share_of_roof:.0%}",
    }


def _histogram(counts: Mapping[int, int]) -> list[str]:
    total, most = sum(counts.values()), max(counts.values(), default=1)
    return [f"{age:4d} {count / total:6.1%} {'#' * round(BAR * count / most)}" for age, count in counts.items()]


def show_best(console: Console, given: Planned, best: Planned) -> None:
    """Print the best split and settings."""
    if best is given:
        console.print("best split and settings found: these", soft_wrap=True)
        return
    gain = best.found.steps_per_s / given.found.steps_per_s
    console.print(
        f"best split and settings found: {_settings_line(best.cluster, best.cfg)}\n"
        f"  {_rate(best.found.steps_per_s)} steps/s ({gain:.2f}x), mean staleness {best.found.staleness_mean:.2f}, bound by "
        f"{best.roofs.binds}",
        soft_wrap=True,
    )


def sweep_table(key: str, points: Sequence[SweepPoint]) -> Table:
    """A row for each value."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.title = "shares of time busy, mean and largest staleness, share of groups not trained"
    for name in (key.rpartition(".")[2], "steps/s", "bound", "tokens/s", "learner", "actors", "mean", "max", "waste"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("binds")
    for point in points:
        found, roofs = point.planned.found, point.planned.roofs
        table.add_row(
            f"{point.value:g}",
            _rate(found.steps_per_s),
            _rate(roofs.bound),
            f"{found.tokens_per_s:,.0f}",
            f"{found.learner_busy:.0%}",
            f"{found.actors_busy:.0%}",
            f"{found.staleness_mean:.2f}",
            str(max(found.staleness, default=0)),
            f"{sum(found.waste.values()):.0%}",
            roofs.binds,
        )
    return table


def show_fits(console: Console, fits: Sequence[RunFit]) -> None:
    """Print how well the calibrated cluster repeats the runs that it was calibrated on."""
    for fit in fits:
        console.print(
            f"calibrated on {fit.name}: {_rate(fit.steps_per_s)} steps/s recorded, {_rate(fit.simulated_steps_per_s)} "
            f"simulated ({fit.error:+.1%}); mean staleness {fit.staleness_mean:.2f}, {fit.simulated_staleness_mean:.2f}",
            soft_wrap=True,
        )


def _rate(steps_per_s: float) -> str:
    return f"{steps_per_s:.4g}"
