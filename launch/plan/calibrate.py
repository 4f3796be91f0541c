"""Devices fitted to recorded runs: `prolong plan CLUSTER.yaml --calibrate RUN`.

    metrics.jsonl --stretches of steps--> seconds of the engine's steps and of the learner's, by what they had to do
    journal       --groups-->             lengths of completions, and of prompts
    dropped groups and mean reward -->    pass rates, by what the policy had learned (simulation/pass_rates.py)

Where actors and learner share the cores of one host, CPU seconds are fitted in place of seconds: they do not depend on who else
ran. How many cores an actor would take by itself, and what no record shows, `refine` finds by simulating the recorded runs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, median

from ...common.config.choices import Device
from ...common.config.sections import Config
from ...common.config.verifiers import VerifiersConfig
from ...common.errors import UserError
from ..gpus import has_gpu
from .fitting import fit_two
from .recorded import STRETCH, RecordedRun, Stretch
from .simulation.cluster import (
    Cluster,
    HostDevice,
    Learned,
    LearnerDevice,
    LengthClass,
    PoolDevice,
    VerifierDevice,
    WeightsDevice,
)
from .simulation.pass_rates import PassRates

POOL = "actors"  # name of the one pool
SAMPLES = 100  # quantiles that stand for all recorded lengths
LEAST_KV_USE = 0.3  # share of the cache that was taken: with less, its size is not to be seen
TOLD = 2.0  # times the least load: from there on the recorded loads tell what a rollout costs
# a step of an actor that is full takes so many times as long, where no record tells: weights are read once; a CPU computes
LONGER, LONGER_ON_CPU = 1.3, 2.0
ROUNDS = 4  # in which the mean reward of all groups and that of dropped ones are settled


def calibrate(runs: Sequence[RecordedRun], cores: float = 0.0) -> Cluster:
    """The cluster on which these runs were made. `cores`: of the one host that all processes share; 0: each has its own."""
    lengths = _lengths(runs)
    return Cluster(
        pools={POOL: _actor(runs, shared=cores > 0)},
        learner=_learner(runs, lengths.prompt_tokens, shared=cores > 0),
        lengths=[lengths],
        verifiers=_verifiers(runs),
        weights=_weights(runs),
        host=HostDevice(cores=cores),
    )


def of_settings(cluster: Cluster, run: RecordedRun) -> Cluster:
    """The calibrated cluster with the actors of a run, and the load that its host had."""
    actor = replace(
        cluster.pools[POOL],
        count=max(run.cfg.launch.actors, 1),
        capacity=run.cfg.actor.capacity,
        max_running=run.cfg.actor.max_num_seqs,
    )
    verifiers = replace(cluster.verifiers, workers=workers_of(run.cfg.verifiers))
    return replace(cluster, pools={POOL: actor}, verifiers=verifiers, host=replace(cluster.host, others=run.others))


def workers_of(cfg: VerifiersConfig) -> int:
    """Verdicts that an actor's verifiers make at once; 0, any number, where somebody else judges as well."""
    return 0 if cfg.hosts or cfg.judge else cfg.workers


def shared_cores(cfg: Config) -> float:
    """The cores that actors and learner of a run share: those of this machine, if it is made on the CPU of one machine."""
    on_cpu = cfg.model.device is Device.cpu or (cfg.model.device is Device.auto and not has_gpu())
    return float(len(os.sched_getaffinity(0))) if on_cpu and cfg.launch.actors else 0.0


def _stretches(runs: Sequence[RecordedRun]) -> list[Stretch]:
    return [stretch for run in runs for stretch in run.warm_stretches()]


def _actor(runs: Sequence[RecordedRun], *, shared: bool) -> PoolDevice:
    """Seconds of an engine's step by the rollouts that run in it."""
    rows: list[tuple[float, float, float]] = []
    for each in _stretches(runs):
        spent_s = _cpu_s(each) if shared else each["actor/busy_s"]
        rows.append((each["actor/engine_steps"], each["actor/engine_running"], spent_s))
    last = runs[-1].cfg
    full = min(last.actor.max_num_seqs or last.actor.capacity, last.actor.capacity)
    longer = LONGER_ON_CPU if shared else LONGER
    # several runs are recorded in order to tell them apart
    base_s, per_rollout_s = _engine_step(rows, full, longer) if len(runs) == 1 else fit_two(rows)
    device = PoolDevice(
        count=max(last.launch.actors, 1),
        capacity=last.actor.capacity,
        max_running=last.actor.max_num_seqs,
        step_base_s=base_s,
        step_per_rollout_s=per_rollout_s,
        kv_tokens=_kv_tokens(runs),
    )
    if not shared:
        return device
    helpers = _helpers_share(runs)
    # `refine` looks for the number of cores; here an actor takes one in all
    return replace(device, cores=1 - helpers, helper_cores=helpers)


def _helpers_share(runs: Sequence[RecordedRun]) -> float:
    """The share of an actor's CPU seconds that are not its engine's. Raises: UserError where its engine has none."""
    spent_s = sum(_cpu_s(each) for each in _stretches(runs))
    helpers_s = sum(each["actor/helper_cpu_s"] + each["buffer/cpu_s"] for each in _stretches(runs))
    if helpers_s < 0 or helpers_s >= spent_s:
        raise UserError(
            f"actor/cpu_s: of {spent_s:.3g} CPU seconds of actors and buffer, {helpers_s:.3g} are not an engine's; "
            "expected some that are. If the processes did not share the cores of one machine, say so with --cores 0"
        )
    return helpers_s / spent_s


def _engine_step(rows: Sequence[tuple[float, float, float]], full: int, longer: float) -> tuple[float, float]:
    """Seconds of an engine's step whatever runs, and for each rollout.

    rows: steps, rollouts summed over them, and seconds. Where the loads of all rows are alike they do not tell the two apart,
    and noise would: then a step of an actor that is full takes `longer` times as long.
    """
    known = [row for row in rows if min(row) > 0]
    loads = [running / steps for steps, running, _ in known]
    if not loads or max(loads) >= TOLD * min(loads):
        return fit_two(rows)
    step_s, load = median(spent_s / steps for steps, _, spent_s in known), median(loads)
    per_rollout_s = (longer - 1) * step_s / (max(full, 2 * load) - load)
    return max(step_s - per_rollout_s * load, 0.0), per_rollout_s


def _cpu_s(stretch: Stretch) -> float:
    """CPU seconds of the actors, and of the buffer on their behalf."""
    return stretch["actor/cpu_s"] + stretch["buffer/cpu_s"]


def _kv_tokens(runs: Sequence[RecordedRun]) -> int:
    """Tokens that the cache of keys and values holds, if it was ever full enough to tell; else 0."""
    sizes: list[float] = []
    for run in runs:
        for each in run.warm_stretches():
            steps = max(each["actor/engine_steps"], 1.0)
            use = each["actor/engine_kv_use"] / steps
            if use >= LEAST_KV_USE:
                context = run.prompt_tokens / run.cfg.sampling.n + each["rollout/tokens_mean"] / STRETCH / 2
                sizes.append(each["actor/engine_running"] / steps * context / use)
    return round(median(sizes)) if sizes else 0


def _learner(runs: Sequence[RecordedRun], prompt_tokens: int, *, shared: bool) -> LearnerDevice:
    """Seconds of a step by its tokens, those of prompts counted once for each rollout as in the simulation."""
    rows: list[tuple[float, float, float]] = []
    rest_s: list[float] = []
    for each in _stretches(runs):
        tokens = each["learner/tokens"] + prompt_tokens * each["rollout/count"]
        rows.append((STRETCH, tokens, each["learner/cpu_s"] if shared else each["learner/compute_s"]))
        known = ("learner/wait_s", "learner/compute_s")
        rest_s.append((each["learner/step_s"] - sum(each[name] for name in known)) / STRETCH)
    base_s, per_token_s = fit_two(rows)
    # CPU seconds hold publishing and checkpoints already
    return LearnerDevice(base_s=base_s + (0.0 if shared else max(fmean(rest_s), 0.0)), per_token_s=per_token_s)


def _verifiers(runs: Sequence[RecordedRun]) -> VerifierDevice:
    """Seconds of a verdict."""
    stretches = _stretches(runs)
    verdicts = sum(each["actor/verifiers/verdicts"] for each in stretches)
    spent_s = sum(each["actor/verify_s"] for each in stretches)
    return VerifierDevice(latency_s=spent_s / verdicts if verdicts else 0.0, workers=workers_of(runs[-1].cfg.verifiers))


def _weights(runs: Sequence[RecordedRun]) -> WeightsDevice:
    """Seconds that new weights take on their way, and that generation pauses for them: of the run in which they were least."""
    pauses: list[float] = []
    totals: list[float] = []
    for run in runs:
        updates = sum(each["actor/weight_updates"] for each in run.warm_stretches())
        pauses.append(sum(each["actor/weights_s"] for each in run.warm_stretches()) / max(updates, 1.0))
        pulled = sum(each["actor/pull_s"] + each["actor/load_s"] for each in run.warm_stretches()) / max(updates, 1.0)
        sent = [record["weights/publish_s"] for record in run.records if record.get("weights/publish_s")]
        totals.append(median(sent) if sent else pulled)
    pause_s = min(pauses)
    return WeightsDevice(publish_s=max(min(totals) - pause_s, 0.0), pause_s=pause_s, transport=runs[-1].cfg.weights.transport)


def _lengths(runs: Sequence[RecordedRun]) -> LengthClass:
    """The lengths of completions, and how they and the pass rates changed while the policy learned."""
    lengths = sorted(length for run in runs for length in run.lengths)
    prompt_tokens = max([run.prompt_tokens for run in runs if run.prompt_tokens] or [1])
    # a completion has a token
    recorded = max(fmean(record["rollout/tokens_mean"] for run in runs for record in run.records), 1.0)
    samples = [lengths[(2 * place + 1) * len(lengths) // (2 * SAMPLES)] for place in range(SAMPLES)] if lengths else []
    mean = fmean(samples) if samples else recorded
    return LengthClass(
        name="recorded",
        prompt_tokens=prompt_tokens,
        mean=0.0 if samples else mean,
        samples=samples,
        learned=_learned(runs, mean),
    )


def _learned(runs: Sequence[RecordedRun], mean: float) -> list[Learned]:
    """What prompts were like in each stretch of steps, as a mean over the runs that got there."""
    by_version: dict[int, list[tuple[Stretch, RecordedRun]]] = {}
    for run in runs:
        for each in run.stretches():
            by_version.setdefault(each.first, []).append((each, run))
    found: list[Learned] = []
    for version, stretches in sorted(by_version.items()):
        rollouts = sum(each["actor/generated_rollouts"] for each, _ in stretches)
        tokens = sum(each["actor/generated_tokens"] for each, _ in stretches)
        rates = [_pass_rates(each, run) for each, run in stretches]
        found.append(
            Learned(
                version=version if found else 0,
                scale=tokens / rollouts / mean if rollouts else 1.0,
                pass_rate=fmean(rate.mean for rate in rates),
                correlation=fmean(rate.correlation for rate in rates),
            )
        )
    return found


def _pass_rates(stretch: Stretch, run: RecordedRun) -> PassRates:
    """The pass rates behind the mean reward of trained groups and the number of groups without signal.

    The reward of dropped groups is not recorded: it is that of groups without signal at the pass rates that are found.
    """
    trained, n = STRETCH * run.groups_per_step, run.cfg.sampling.n
    reward = min(max(stretch["reward/mean"] / STRETCH, 0.0), 1.0)
    dropped, bypassed = stretch["buffer/filtered"], stretch["buffer/bypassed"]
    if not run.cfg.buffer.dynamic_sampling:
        return PassRates(reward, 0.0)
    share = (dropped + bypassed) / (trained + dropped)
    found, right = PassRates(reward, 0.0), round(reward)
    for _ in range(ROUNDS):
        mean = (reward * trained + right * dropped) / (trained + dropped)
        found = PassRates.fit(mean, share, n)
        right = found.all_right(n) / max(found.no_signal(n), 1e-9)
    return found
