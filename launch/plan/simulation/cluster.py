"""The machines of a run, as the simulation knows them: pools of engines, a learner, lengths, verifiers, weights, failures.

`read_cluster` reads them from YAML. A key that is unknown or of the wrong type raises ConfigError with its dotted name.

Example:
    pools:
      h100: {count: 32, capacity: 256, step_base_s: 0.011, step_per_rollout_s: 4.0e-5, kv_tokens: 400000}
    learner: {base_s: 4.0, per_token_s: 6.0e-6}
    lengths:
      - {name: math, mean: 6000, spread: 0.9, prompt_tokens: 200}
    weights: {publish_s: 1.5, pause_s: 0.4}
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ....common.config.actors import POOL_NAME
from ....common.config.trees import build_section
from ....common.errors import ConfigError, require
from .pass_rates import PassRates

TRANSPORTS = ("collective", "pull")
MOST_NAME = 100  # characters
MOST_SPREAD = 5  # of a logarithm: one in six is e^5 = 150 times the median or more


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolDevice:
    """Actors that are alike, and what a decode step of their engine takes: a roofline of bandwidth and arithmetic.

    A step of r running rollouts whose contexts are c tokens in all takes
    max(step_base_s + step_per_rollout_s r + step_per_kv_token_s c, compute_per_rollout_s r) seconds, and adds a token to each.
    """

    count: int = 1  # actors
    capacity: int = 256  # rollouts that an actor takes at once (actor.capacity)
    max_running: int = 0  # rollouts that the engine runs at once, the others wait (actor.max_num_seqs); 0: all
    step_base_s: float = 0.0  # seconds of a step whatever runs: the weights are read
    step_per_rollout_s: float = 0.0  # seconds more for each running rollout
    step_per_kv_token_s: float = 0.0  # seconds more for each token of their contexts: keys and values are read
    compute_per_rollout_s: float = 0.0  # seconds of arithmetic for each running rollout: a step takes at least their sum
    prefill_s_per_token: float = 0.0  # seconds for a token of a prompt, or of a context that is computed again
    kv_tokens: int = 0  # tokens that the cache of keys and values holds; 0: no limit
    publish_s: float = 0.0  # seconds until new weights are here, beyond weights.publish_s
    cores: float = 1.0  # of the host, that an actor takes while it generates; 0: it has its own; see HostDevice
    helper_cores: float = 0.0  # the same of processes beside it, which go at its speed: verifiers
    devices: int = 1  # GPUs of one actor: what a search for the best split counts

    def __post_init__(self) -> None:
        require(self.count >= 0, "pools.*.count", self.count, "0 or more")
        require(self.capacity >= 1, "pools.*.capacity", self.capacity, "at least 1")
        require(self.max_running >= 0, "pools.*.max_running", self.max_running, "0 or more")
        require(self.kv_tokens >= 0, "pools.*.kv_tokens", self.kv_tokens, "a number of tokens, or 0")
        require(self.devices >= 1, "pools.*.devices", self.devices, "at least 1")
        _check_times("pools.*", self, "step_base_s", "step_per_rollout_s", "step_per_kv_token_s", "compute_per_rollout_s")
        _check_times("pools.*", self, "prefill_s_per_token", "publish_s", "cores", "helper_cores")
        some = self.step_base_s + self.step_per_rollout_s + self.compute_per_rollout_s > 0
        require(some, "pools.*.step_base_s", self.step_base_s, "a step that takes time: above 0, or with step_per_rollout_s")
        helped = self.cores > 0 or self.helper_cores == 0
        require(helped, "pools.*.helper_cores", self.helper_cores, "0 where cores is 0: they go at its speed")

    @property
    def demand(self) -> tuple[float, float]:
        """Cores of a shared host that its engine wants, and cores taken for each that it gets; `cores` is above 0."""
        return self.cores, 1 + self.helper_cores / self.cores

    @property
    def all_cores(self) -> float:
        """Of the host, with those of its helpers."""
        return self.cores + self.helper_cores

    @property
    def most_running(self) -> int:
        """Rollouts that run at once, at most."""
        return min(self.max_running, self.capacity) if self.max_running else self.capacity

    def step_s(self, running: int, context_tokens: float = 0.0) -> float:
        """Seconds of one decode step."""
        read_s = self.step_base_s + self.step_per_rollout_s * running + self.step_per_kv_token_s * context_tokens
        return max(read_s, self.compute_per_rollout_s * running)

    def roof_tokens_per_s(self, mean_context: float = 0.0) -> float:
        """Tokens per second of one actor that is always full. `mean_context`: tokens of a running rollout and its prompt."""
        running = self.most_running
        if self.kv_tokens and mean_context > 0:
            running = max(1, min(running, int(self.kv_tokens / mean_context)))
        return running / self.step_s(running, running * mean_context)


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerDevice:
    """The learner, whatever its number of ranks."""

    base_s: float = 0.0  # seconds of a step whatever its batch: optimizer, packing of weights
    per_token_s: float = 0.0  # seconds for a token of the batch, prompts included
    spread: float = 0.0  # of the logarithm of a step's time, from step to step
    cores: float = 1.0  # of the host, that it takes during a step; see HostDevice
    # GPUs that the times above are of, and the pool that has the same ones: a search for the best split moves them
    devices: int = 0
    pool: str = ""
    # KL(behaviour, policy) of tokens that are one version old, nats per token: what an eta that adapts goes by. It grows with
    # the square of their age, and the effective sample size is exp(-2 KL), as that of log-normal ratios
    drift: float = 0.0

    def __post_init__(self) -> None:
        _check_times("learner", self, "base_s", "per_token_s", "cores", "drift")
        _check_spreads("learner", self, "spread")
        require(self.devices >= 0, "learner.devices", self.devices, "0 or more")

    def step_s(self, tokens: float) -> float:
        """Seconds of a step of so many tokens."""
        return self.base_s + self.per_token_s * tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Learned:
    """What prompts are like for a policy that has learned: from this version on, until the next entry."""

    version: int = 0  # of the actor when the ticket is issued
    scale: float = 1.0  # lengths are multiplied with it
    pass_rate: float = 0.5  # share of rollouts with reward 1
    correlation: float = 0.0  # of two rewards of one prompt

    def __post_init__(self) -> None:
        require(self.version >= 0, "lengths.*.learned.*.version", self.version, "0 or more")
        require(self.scale > 0, "lengths.*.learned.*.scale", self.scale, "above 0")
        for key in ("pass_rate", "correlation"):
            require(0 <= getattr(self, key) <= 1, f"lengths.*.learned.*.{key}", getattr(self, key), "in [0, 1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthClass:
    """Prompts that are alike: their share, and the lengths of their completions.

    A length is log-normal with mean `mean`: the logarithm spreads by `prompt_spread` from prompt to prompt, and by `spread`
    among the rollouts of one prompt; with `tail` it is Pareto of that exponent instead of `spread`. `samples`, if there are
    any, are drawn from as they are. A length is at most `max` and sampling.max_tokens: longer ones are cut.
    """

    name: str = "all"  # domain/task of its prompts
    share: float = 1.0  # of the prompts, relative to the other classes
    prompt_tokens: int = 128  # of a prompt
    mean: float = 0.0  # tokens of a completion, before the cut
    spread: float = 0.5  # standard deviation of the logarithm, within a group
    prompt_spread: float = 0.0  # the same from prompt to prompt
    tail: float = 0.0  # exponent of a Pareto tail, above 1; 0: log-normal
    samples: list[int] = field(default_factory=list)  # recorded lengths
    max: int = 0  # tokens of a completion, at most; 0: sampling.max_tokens
    pass_rate: float = 0.5  # share of rollouts with reward 1
    no_signal: float = 0.0  # share of groups whose rewards are all equal: dynamic sampling drops them
    # of two rewards of one prompt, if pass rates differ from prompt to prompt: gives no_signal for any n
    correlation: float = 0.0
    learned: list[Learned] = field(default_factory=list)  # by version, ascending: in place of pass_rate and correlation

    def __post_init__(self) -> None:
        named = 0 < len(self.name) <= MOST_NAME
        require(named, "lengths.*.name", self.name, f"a name of at most {MOST_NAME} characters, such as math or math/addition")
        require(self.share > 0, "lengths.*.share", self.share, "above 0")
        require(self.prompt_tokens >= 1, "lengths.*.prompt_tokens", self.prompt_tokens, "at least 1")
        known = self.mean >= 1 or bool(self.samples)
        require(known, "lengths.*.mean", self.mean, "at least 1 token, or lengths.*.samples")
        require(all(sample >= 1 for sample in self.samples), "lengths.*.samples", self.samples[:5], "lengths of at least 1")
        _check_spreads("lengths.*", self, "spread", "prompt_spread")
        heavy = self.tail == 0 or self.tail > 1
        require(heavy, "lengths.*.tail", self.tail, "above 1 (the mean is infinite otherwise), or 0")
        require(self.max >= 0, "lengths.*.max", self.max, "a number of tokens, or 0")
        for key in ("pass_rate", "no_signal", "correlation"):
            require(0 <= getattr(self, key) <= 1, f"lengths.*.{key}", getattr(self, key), "in [0, 1]")
        require(self.no_signal == 0 or self.correlation == 0, "lengths.*.no_signal", self.no_signal, "0 with a correlation")
        versions = [each.version for each in self.learned]
        require(versions == sorted(set(versions)), "lengths.*.learned.*.version", versions, "an ascending list")

    def at(self, version: int) -> Learned:
        """What these prompts are like for this version of the policy."""
        known = Learned(pass_rate=self.pass_rate, correlation=self.correlation)
        return next((each for each in reversed(self.learned) if each.version <= version), known)

    def no_signal_at(self, version: int, n: int) -> float:
        """The share of groups of n without signal, of this version of the policy."""
        learned = self.at(version)
        if learned.correlation == 0:
            return self.no_signal
        return PassRates(learned.pass_rate, learned.correlation).no_signal(n)


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifierDevice:
    """The verifiers of each actor."""

    latency_s: float = 0.0  # seconds of one verdict
    workers: int = 0  # verdicts at once, of each actor; 0: any number

    def __post_init__(self) -> None:
        _check_times("verifiers", self, "latency_s")
        require(self.workers >= 0, "verifiers.workers", self.workers, "0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsDevice:
    """How new weights reach the actors. Generation goes on until they are there, then it pauses while the engine takes them."""

    publish_s: float = 0.0  # seconds from the end of a step until the weights are at an actor
    pause_s: float = 0.0  # seconds that generation pauses; with actor.clear_kv contexts are computed again after that
    transport: str = "collective"  # collective: all actors at once; pull: each in its own time

    def __post_init__(self) -> None:
        _check_times("weights", self, "publish_s", "pause_s")
        require(self.transport in TRANSPORTS, "weights.transport", self.transport, " or ".join(TRANSPORTS))


@dataclass(frozen=True, kw_only=True, slots=True)
class Failures:
    """Deaths of processes, at random times: their leases are lost once they have been silent for buffer.silence_s."""

    mtbf_s: float = 0.0  # mean seconds between two deaths of one actor; 0: never
    restart_s: float = 60.0  # until a new one greets
    learner_mtbf_s: float = 0.0  # the same of the learner, which goes on from its newest checkpoint; 0: never
    learner_restart_s: float = 120.0

    def __post_init__(self) -> None:
        _check_times("failures", self, "mtbf_s", "restart_s", "learner_mtbf_s", "learner_restart_s")


@dataclass(frozen=True, kw_only=True, slots=True)
class HostDevice:
    """One machine whose cores all actors and the learner share, as on a CPU. The scheduler is fair among processes."""

    cores: float = 0.0  # 0: nobody shares
    others: float = 0.0  # processes of somebody else that want a core each, on average
    # how much longer the work of a process takes for each core that is busy beside it: they share caches and memory
    contention: float = 0.0

    def __post_init__(self) -> None:
        _check_times("host", self, "cores", "others", "contention")

    def share(self, wanted: Sequence[tuple[float, float]]) -> float:
        """The cores that each process gets at most, when they want so many: who wants less leaves the rest to the others.

        `wanted`: (cores that a process wants, cores that are taken for each one that it gets: its helpers go at its speed).
        """
        asked = sorted([*wanted, (1.0, self.others)])
        left, users = self.cores, sum(number for _, number in asked)
        for cores, number in asked:
            if users * cores >= left:
                return left / users
            left, users = left - number * cores, users - number
        return math.inf

    def speed(self, cores: float, share: float, busy: float) -> float:
        """Of a process that wants so many cores, relative to one that is alone.

        `share`: the most that it gets; `busy`: what all get together.
        """
        if not cores:
            return 1.0
        beside = max(busy - min(cores, share), 0.0)
        return min(1.0, share / cores) / (1 + self.contention * beside)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """The machines of a run and their work."""

    pools: dict[str, PoolDevice] = field(default_factory=dict)
    learner: LearnerDevice = field(default_factory=LearnerDevice)
    lengths: list[LengthClass] = field(default_factory=list)
    verifiers: VerifierDevice = field(default_factory=VerifierDevice)
    weights: WeightsDevice = field(default_factory=WeightsDevice)
    failures: Failures = field(default_factory=Failures)
    host: HostDevice = field(default_factory=HostDevice)

    def __post_init__(self) -> None:
        actors = sum(pool.count for pool in self.pools.values())
        require(actors >= 1, "pools", dict.fromkeys(self.pools, "..."), "at least one pool with count 1 or more")
        named = all(POOL_NAME.fullmatch(name) for name in self.pools)
        require(named, "pools", list(self.pools), "names of at most 100 letters, digits, _ and -")
        require(bool(self.lengths), "lengths", self.lengths, "at least one class of prompts, with its mean length")
        names = [length.name for length in self.lengths]
        require(len(set(names)) == len(names), "lengths.*.name", names, "a different name for every class")
        shared = self.learner.pool
        require(not shared or shared in self.pools, "learner.pool", shared, f"one of {', '.join(self.pools)}, or nothing")

    @property
    def used(self) -> list[PoolDevice]:
        """The pools that have an actor."""
        return [pool for pool in self.pools.values() if pool.count]

    @property
    def num_actors(self) -> int:
        """Actors of all pools."""
        return sum(pool.count for pool in self.pools.values())


def _check_times(key: str, device: object, *names: str) -> None:
    for name in names:
        value = getattr(device, name)
        require(value >= 0 and math.isfinite(value), f"{key}.{name}", value, "0 or more")


def _check_spreads(key: str, device: object, *names: str) -> None:
    for name in names:
        value = getattr(device, name)
        require(0 <= value <= MOST_SPREAD, f"{key}.{name}", value, f"from 0 to {MOST_SPREAD}: it is that of a logarithm")


def read_cluster(path: Path | str) -> Cluster:
    """The cluster that a YAML file describes. Raises ConfigError."""
    try:
        tree = _ClusterLoader(Path(path).read_text(encoding="utf-8")).get_single_data()
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cluster {str(path)!r}: expected a YAML file that can be read ({error})") from error
    return cluster_of(tree, str(path))


def cluster_of(tree: object, where: str = "cluster") -> Cluster:
    """The cluster of a tree of dictionaries and lists. Raises ConfigError, which names `where`."""
    try:
        return build_section(Cluster, tree)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


class _ClusterLoader(yaml.SafeLoader):
    """Safe YAML in which 4e-5 is a number; YAML 1.1 takes it for a text."""


_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_ClusterLoader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))
