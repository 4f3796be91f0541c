"""What `prolong bench all` measures: which bench with which arguments, and which numbers of its result are figures to compare.

A figure has a name `group/name` with its unit, and stands in the line of JSON that the bench prints. A bench that runs another
system beside prolong gives that system's figures under the same names.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from ..common.json_object import JsonObject

OURS, TRL = "prolong", "trl"
DEMO, TRL_ENVIRONMENT = "models/demo/train.jsonl", ".venv-trl/bin/python"
# files that a measurement needs, and what makes them
MADE_BY = {DEMO: "prolong bootstrap --out models/demo", TRL_ENVIRONMENT: "make install-trl"}


class Figure(NamedTuple):
    """Where a figure stands in a bench's result, as keys and indices with dots between, and which way is better."""

    path: str
    more_is_better: bool


def more(path: str) -> Figure:
    return Figure(path, more_is_better=True)


def less(path: str) -> Figure:
    return Figure(path, more_is_better=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredBench:
    """One bench with its arguments. `seconds`: what it takes on two quiet cores. `asked`: measured only where it is named."""

    bench: tuple[str, ...]
    seconds: float
    figures: Mapping[str, Mapping[str, Figure]]  # system -> name -> figure
    needs: tuple[str, ...] = ()
    asked: bool = False
    timeout_s: float = 1800.0

    @property
    def command(self) -> str:
        return shlex.join(["prolong", "bench", *self.bench, "--json"])


def _race(*arguments: str) -> tuple[str, ...]:
    return ("race-trl", "--seeds", "1", *arguments)


def _race_figures(load: str) -> Mapping[str, Mapping[str, Figure]]:
    return {
        system: {
            f"{load}/step_s": less(f"{system}.0.step_s"),
            f"{load}/to_reward_85_s": less(f"{system}.0.to_target_s"),
            f"{load}/cpu_ms_per_rollout": less(f"{system}.0.cpu_ms_per_rollout"),
        }
        for system in (OURS, TRL)
    }


def _step_figures(vocabulary: str, index: int) -> dict[str, dict[str, Figure]]:
    return {
        system: {
            f"learner/{vocabulary}_tokens_per_cpu_s": more(f"results.{index}.{prefix}tokens_per_cpu_s.0"),
            f"learner/{vocabulary}_peak_gb": less(f"results.{index}.{prefix}peak_gb.0"),
        }
        for system, prefix in ((OURS, ""), (TRL, "trl_"))
    }


def _ours(command: str, *, seconds: float, figures: Mapping[str, Figure], needs: tuple[str, ...] = ()) -> MeasuredBench:
    """A bench that runs prolong alone. `command`: its name and arguments."""
    return MeasuredBench(bench=tuple(command.split()), seconds=seconds, figures={OURS: figures}, needs=needs)


MEASUREMENTS: Mapping[str, MeasuredBench] = MappingProxyType(
    {
        "race-trl": MeasuredBench(
            bench=_race("--steps", "20"), seconds=45, needs=(DEMO, TRL_ENVIRONMENT), figures=_race_figures("demo_run")
        ),
        "race-trl-long-tail": MeasuredBench(
            bench=_race("--task", "long-tail", "--steps", "12"),
            seconds=120,
            needs=(DEMO, TRL_ENVIRONMENT),
            figures=_race_figures("long_tail_run"),
            asked=True,  # its model takes a quarter of an hour the first time
        ),
        "step-trl": MeasuredBench(
            bench=("step-trl", "--rounds", "1", "--vocab", "32000"),
            seconds=35,
            needs=(TRL_ENVIRONMENT,),
            figures=_step_figures("vocabulary_32k", 0),
        ),
        "pipeline": _ours(
            "pipeline --only real --rounds 1 --steps 10",
            seconds=50,
            needs=(DEMO,),
            figures={
                "pipeline/eta_0_step_s": less("step_s.0"),
                "pipeline/eta_1_step_s": less("step_s.1"),
                "pipeline/eta_1_over_eta_0": more("async_over_sync.1"),
                "pipeline/eta_2_over_eta_0": more("async_over_sync.2"),
            },
        ),
        "learner-step": _ours(
            "learner-step --rounds 5",
            seconds=15,
            figures={
                "learner/step_ms": less("rl_ms"),
                "learner/step_with_kl_ms": less("rl_with_kl_ms"),
                "learner/step_cpu_s": less("rl_cpu_s"),
                "learner/speed_over_supervised": more("rl_over_sft_speed"),
            },
        ),
        "actor-engine": _ours(
            "actor-engine --rounds 1 --layouts vllm transformers",
            seconds=35,
            figures={
                "actor/vllm_tokens_per_s": more("tokens_per_s.vllm"),
                "actor/vllm_cpu_us_per_token": less("cpu_us_per_token.vllm"),
                "actor/vllm_start_s": less("start_s.vllm"),
                "actor/transformers_tokens_per_s": more("tokens_per_s.transformers"),
            },
        ),
        "weight-update": _ours(
            "weight-update --updates 20",
            seconds=25,
            figures={
                "weights/update_idle_ms": less("idle.median_ms"),
                "weights/update_loaded_ms": less("loaded.median_ms"),
                "weights/update_paused_ms": less("loaded.paused_ms"),
            },
        ),
        "weights-transport": _ours(
            "weights-transport --rounds 3",
            seconds=25,
            figures={"weights/broadcast_200mb_s": less("broadcast, seconds"), "weights/pull_200mb_s": less("pulled, seconds")},
        ),
        "transport": _ours(
            "transport --rounds 5",
            seconds=5,
            figures={
                "transport/round_trip_ms": less("round_trip_ms"),
                "transport/70kb_groups_per_s": more("medium_groups_per_s"),
                "transport/1mb_groups_per_s": more("long_groups_per_s"),
            },
        ),
        "ingest": _ours(
            "ingest --rounds 5",
            seconds=10,
            figures={
                "buffer/durable_groups_per_s": more("durable_groups_per_s"),
                "buffer/cpu_ms_per_group": less("durable_cpu_ms_per_group"),
            },
        ),
        "heartbeats": _ours(
            "heartbeats --only alone --actors 1000",
            seconds=1,
            figures={"buffer/heartbeat_1000_actors_us": less("1000_heartbeat_us")},
        ),
        "math-speed": _ours(
            "math-speed --rounds 2",
            seconds=10,
            figures={
                "verifiers/easy_math_per_cpu_s": more("easy_per_worker_cpu_s"),
                "verifiers/hard_math_per_s": more("hard_per_s"),
                "verifiers/hard_over_math_verify": more("hard_speed_ratio"),
            },
        ),
        "verifiers": _ours(
            "verifiers",
            seconds=42,
            figures={
                "verifiers/bubblewrap_call_cpu_ms": less("bubblewrap_call_cpu_ms_per_run"),
                "verifiers/jail_calls_per_s": more("jail_call_runs_per_s"),
                "verifiers/jail_call_cpu_ms": less("jail_call_cpu_ms_per_run"),
            },
        ),
        "unequal-actors": _ours(
            "unequal-actors --actors 200",
            seconds=13,
            figures={
                "dispatch/forecast_share_of_roof": more("dispatch.forecast.share_of_roof"),
                "dispatch/even_share_of_roof": more("dispatch.even.share_of_roof"),
            },
        ),
    }
)


def direction_of(name: str) -> bool | None:
    """Whether more is better of a figure; None for one that this version does not know."""
    for measurement in MEASUREMENTS.values():
        for figures in measurement.figures.values():
            if name in figures:
                return figures[name].more_is_better
    return None


def figures_of(measurement: MeasuredBench, result: JsonObject) -> dict[str, dict[str, float]]:
    """The figures in the result of a bench, by system. What the bench did not measure on this machine is left out."""
    found: dict[str, dict[str, float]] = {}
    for system, figures in measurement.figures.items():
        values = {name: number_at(result, figure.path) for name, figure in figures.items()}
        found[system] = {name: value for name, value in values.items() if value is not None}
    return found


def number_at(result: object, path: str) -> float | None:
    """The finite number at a dotted path; None where there is none."""
    for part in path.split("."):
        if isinstance(result, Mapping) and part in result:
            result = result[part]
        elif isinstance(result, list) and part.isdigit() and int(part) < len(result):
            result = result[int(part)]
        else:
            return None
    if not isinstance(result, int | float) or isinstance(result, bool) or not math.isfinite(result):
        return None
    return float(result)
