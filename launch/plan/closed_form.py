"""What no schedule can beat: the closed form of a plan, without a simulation.

    X <= min(X_actors, X_learner, X_staleness, X_verifiers, X_weights, X_host)        steps per second

A step needs G groups of n rollouts of L tokens: B that are trained, and those that dynamic sampling drops. All actors together
sample so many tokens per second when they are always full; generation pauses for every version. The learner takes T_learner for
a batch. A ticket is trained within eta + 1 steps of the version that it was issued for, and meanwhile its weights are sent, its
longest rollout is sampled and verified, and its step is made:

    X_staleness = (eta + 1) / (T_publish + T_group + T_verdict + T_learner)

T_group depends on the load, hence on X: an actor that samples y tokens per second makes steps of base / (1 - per_rollout y)
seconds. At eta = 0 all groups of a step begin together, and end one after the other; what is dropped is made after that.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from ...common.config.sections import Config
from ...common.config.trees import largest_eta
from ...common.types import Sampling, Ticket, TicketKind
from .simulation.cluster import Cluster, PoolDevice
from .simulation.lengths import LengthSampler, simulated_prompts

DRAWN = 400  # groups from which the means of lengths are taken
BISECTIONS = 60
LEAST_WAVE = 0.01  # expected groups of a wave that is counted
NONE = float("inf")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepWork:
    """What a mean step needs."""

    groups: float  # that are generated
    waves: float  # of groups one after the other at eta = 0, where a group is begun when another was dropped
    rollouts: int  # of a group
    tokens: float  # of a mean completion
    longest: float  # of the longest completion of a group
    prompt_tokens: float

    @property
    def context(self) -> float:
        """Tokens of a running rollout, and its share of the prompt."""
        return self.tokens / 2 + self.prompt_tokens / self.rollouts


@dataclass(frozen=True, kw_only=True, slots=True)
class Roofs:
    """Steps per second that each part allows."""

    actors: float
    learner: float
    staleness: float
    verifiers: float
    weights: float
    host: float

    def all(self) -> dict[str, float]:
        """By name."""
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def bound(self) -> float:
        """Steps per second that nothing can exceed."""
        return min(self.all().values())

    @property
    def binds(self) -> str:
        """The lowest roof."""
        roofs = self.all()
        return min(roofs, key=lambda name: roofs[name])


def step_work(cluster: Cluster, cfg: Config, steps: int, seed: int = 0) -> StepWork:
    """The work of a mean step of a run of so many steps."""
    sampler = LengthSampler(cluster.lengths, cfg.sampling.max_tokens, seed)
    prompts = simulated_prompts(cluster.lengths, seed)
    sampling = Sampling(n=cfg.sampling.n, temperature=1.0, top_p=1.0, max_tokens=cfg.sampling.max_tokens)
    lengths: list[list[int]] = []
    prompt_tokens: list[int] = []
    for ordinal in range(DRAWN):
        version = ordinal * steps // DRAWN
        ticket = Ticket(
            ordinal=ordinal,
            kind=TicketKind.train,
            prompt=prompts.next(),
            sampling=sampling,
            seed=0,
            generation=1,
            version=version,
            lease_s=1.0,
        )
        lengths.append(sampler.work(ticket).lengths)
        prompt_tokens.append(len(ticket.prompt.token_ids) // 4)
    groups, waves = zip(*(_groups(cluster, cfg, version) for version in range(steps)), strict=True)
    return StepWork(
        groups=fmean(groups),
        waves=fmean(waves),
        rollouts=cfg.sampling.n,
        tokens=fmean(length for group in lengths for length in group),
        longest=fmean(max(group) for group in lengths),
        prompt_tokens=fmean(prompt_tokens),
    )


def _groups(cluster: Cluster, cfg: Config, version: int) -> tuple[float, float]:
    """Groups that the step of this version needs, and waves of them: those without signal are dropped, up to a limit."""
    batch, buffer = cfg.buffer.batch_groups, cfg.buffer
    if not buffer.dynamic_sampling:
        return batch, 1.0
    total = sum(kind.share for kind in cluster.lengths)
    lost = sum(kind.share / total * kind.no_signal_at(version, cfg.sampling.n) for kind in cluster.lengths)
    limit = int(buffer.max_filtered * batch)
    waves, dropped, share = 1.0, 0.0, lost
    while dropped < limit and share * batch > LEAST_WAVE:
        waves += 1 - (1 - share) ** batch
        dropped += share * batch
        share *= lost
    return (min(batch / (1 - lost), batch + limit) if lost < 1 else batch + limit), waves


def roofs(cluster: Cluster, cfg: Config, work: StepWork) -> Roofs:
    """The roof of each part; of an eta that adapts, at its largest."""
    learner_s = cluster.learner.step_s(cfg.buffer.batch_groups * work.rollouts * (work.tokens + work.prompt_tokens))
    eta, weights = largest_eta(cfg.buffer), cluster.weights
    rate = sum(device.count * _rollouts_per_s(device, work) for device in cluster.used)
    needed = work.groups * work.rollouts
    pause_s = weights.pause_s + (_recomputed_s(cluster, work) if cfg.actor.clear_kv else 0.0)
    workers = cluster.verifiers.workers * cluster.num_actors
    verdict_s = cluster.verifiers.latency_s
    sent_s = weights.publish_s / (eta + 1)
    return Roofs(
        actors=1 / (needed / rate + pause_s),
        learner=1 / learner_s if learner_s else NONE,
        staleness=_staleness_roof(cluster, work, eta, learner_s),
        verifiers=workers / (verdict_s * needed) if workers and verdict_s else NONE,
        weights=1 / max(pause_s, sent_s) if max(pause_s, sent_s) > 0 else NONE,
        host=_host_roof(cluster, work, learner_s),
    )


def _rollouts_per_s(device: PoolDevice, work: StepWork) -> float:
    """Rollouts per second of one actor that is always full."""
    tokens_per_s = device.roof_tokens_per_s(work.context)
    return 1 / (work.tokens / tokens_per_s + work.prompt_tokens / work.rollouts * device.prefill_s_per_token)


def _recomputed_s(cluster: Cluster, work: StepWork) -> float:
    """Seconds to compute the contexts of a full actor again, of the fastest pool."""
    return min(device.most_running * work.context * device.prefill_s_per_token for device in cluster.used)


def _staleness_roof(cluster: Cluster, work: StepWork, eta: int, learner_s: float) -> float:
    """The largest X with X (T_publish + T_group(X) + T_verdict + T_learner) <= eta + 1."""
    fixed_s = cluster.weights.publish_s + cluster.verifiers.latency_s + learner_s
    low, high = 0.0, (eta + 1) / max(fixed_s, 1e-12)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        fits = middle * (fixed_s + _group_s(cluster, work, eta, middle)) <= eta + 1
        low, high = (middle, high) if fits else (low, middle)
    return low


def _group_s(cluster: Cluster, work: StepWork, eta: int, steps_per_s: float) -> float:
    """The least seconds of a group, on the fastest pool, while all actors together make so many steps per second.

    At eta = 0: of the last group of a step, whose work is spread evenly over the actors.
    """
    rate = sum(device.count * _rollouts_per_s(device, work) for device in cluster.used)
    needed = work.groups * work.rollouts
    least = NONE
    for device in cluster.used:
        share = _rollouts_per_s(device, work) / rate
        if eta == 0:
            tokens = needed * share * work.tokens
            read_s = device.step_base_s * work.longest * work.waves + device.step_per_rollout_s * tokens
            spent_s = max(read_s, device.compute_per_rollout_s * tokens)
        else:
            tokens_per_s = steps_per_s * needed * share * work.tokens
            idle = 1 - device.step_per_rollout_s * tokens_per_s
            spent_s = work.longest * device.step_base_s / idle if idle > 0 else NONE
        least = min(least, max(spent_s, work.longest * device.step_s(1)))
    return least


def _host_roof(cluster: Cluster, work: StepWork, learner_s: float) -> float:
    """Steps per second for which the cores of a shared host suffice."""
    host, learner = cluster.host, cluster.learner
    if not host.cores:
        return NONE
    wanted = [demand for device in cluster.used if device.cores for demand in [device.demand] * device.count]
    wanted += [(learner.cores, 1.0)] if learner.cores else []
    share = host.share(wanted)
    usable = sum(min(cores, share) * taken for cores, taken in wanted)
    per_rollout = min(device.all_cores / _rollouts_per_s(device, work) for device in cluster.used)
    # of a step; 0 where a pool with a machine of its own can do all the work
    cpu_s = work.groups * work.rollouts * per_rollout + learner.cores * learner_s
    return usable / cpu_s if cpu_s > 0 else NONE
