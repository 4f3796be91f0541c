"""The trackers that ship: the thinnest layer over the packages `wandb`, `trackio` and `mlflow`, which the user installs.

Arguments of `trackers.NAME` go to the package's own call that begins a run, by their names there; of MLflow also `tracking_uri`
and `experiment`.
"""

from __future__ import annotations

import importlib.util
import re
import uuid
from collections.abc import Mapping
from time import time
from types import ModuleType
from typing import NamedTuple

from ...common.config.sections import Config
from ...common.errors import UserError
from ...common.json_object import JsonObject
from .api import OpenTracker, TrackedRun, Tracker

MLFLOW_METRICS = 1000  # most that MLflow takes at once
MLFLOW_PARAMETERS = 100
MLFLOW_TEXT = 500  # characters of the value of a parameter


class _Logged:
    """A run of a package whose functions are `init`, `log` and `finish`: W&B, and trackio, which is made like it."""

    def __init__(self, package: ModuleType, identity: str) -> None:
        self._package, self._identity = package, identity

    @property
    def identity(self) -> str:
        return self._identity

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self._package.log(dict(numbers), step=step)

    def close(self) -> None:
        self._package.finish()


def open_wandb(run: TrackedRun) -> Tracker:
    import wandb  # pyright: ignore[reportMissingImports]

    identity = run.identity or uuid.uuid4().hex[:8]
    own = {"project": "prolong", "name": run.name, "dir": run.folder, "id": identity, "config": run.config, "resume": "allow"}
    wandb.init(**{**own, **run.arguments})
    return _Logged(wandb, identity)


def open_trackio(run: TrackedRun) -> Tracker:
    import trackio  # pyright: ignore[reportMissingImports]

    # it knows runs by their names
    identity = run.identity or f"{run.name}-{uuid.uuid4().hex[:8]}"
    trackio.init(**{"project": "prolong", "name": identity, "config": run.config, "resume": "allow", **run.arguments})
    return _Logged(trackio, identity)


class _MlflowRun:
    """By its client, which leaves no run of this process open."""

    def __init__(self, run: TrackedRun) -> None:
        from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

        self._metric, self._parameter = Metric, Param
        arguments = dict(run.arguments)
        self._client = MlflowClient(tracking_uri=arguments.pop("tracking_uri", None))
        self.identity = run.identity or self._begin(run, str(arguments.pop("experiment", "prolong")))

    def _begin(self, run: TrackedRun, experiment: str) -> str:
        known = self._client.get_experiment_by_name(experiment)
        number = self._client.create_experiment(experiment) if known is None else known.experiment_id
        identity = str(self._client.create_run(number, run_name=run.name).info.run_id)
        settings = [self._parameter(key, str(value)[:MLFLOW_TEXT]) for key, value in _dotted(run.config).items()]
        for first in range(0, len(settings), MLFLOW_PARAMETERS):
            self._client.log_batch(identity, params=settings[first : first + MLFLOW_PARAMETERS])
        return identity

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        at = int(1000 * time())
        # characters that MLflow refuses in names may come in names of tasks
        metrics = [self._metric(re.sub(r"[^\w\-. :/]", "_", key), value, at, step) for key, value in numbers.items()]
        for first in range(0, len(metrics), MLFLOW_METRICS):
            self._client.log_batch(self.identity, metrics=metrics[first : first + MLFLOW_METRICS])

    def close(self) -> None:
        self._client.set_terminated(self.identity)


def _dotted(tree: JsonObject, above: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in tree.items():
        found |= _dotted(value, f"{above}{key}.") if isinstance(value, dict) and value else {f"{above}{key}": value}
    return found


class Service(NamedTuple):
    """A tracker: the package that it needs, and what begins a run there."""

    package: str
    open: OpenTracker


SERVICES = {
    "wandb": Service("wandb", open_wandb),
    "trackio": Service("trackio", open_trackio),
    "mlflow": Service("mlflow", _MlflowRun),
}


def check_trackers(cfg: Config) -> None:
    """Raise UserError for a tracker that does not ship, or whose package is not installed."""
    for name, arguments in cfg.trackers.items():
        if name not in SERVICES:
            raise UserError(f"trackers.{name} = {arguments}: expected one of {', '.join(SERVICES)}")
        package = SERVICES[name].package
        if importlib.util.find_spec(package) is None:
            raise UserError(f"trackers.{name}: the package {package} is not installed here: pip install {package}")
