"""Every setting of a run, with its default, its unit and one line about it; some sections have files of their own.

These dataclasses are the only source of defaults; recipes override them, and `make docs` makes docs/config.md of them.
`launch/recipes.py` builds a Config from YAML and overrides; neither torch nor Hydra is imported here.
A value that cannot be used raises ConfigError with the dotted key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePath

from ..errors import require
from .algorithm import ObjectiveConfig, ReferenceConfig, RewardsConfig, StageConfig
from .choices import Device, DispatchRule, EngineKind, Preference, ResetSource, Straggler
from .learner import LearnerConfig
from .pools import PoolConfig
from .verifiers import VerifiersConfig
from .weights import WeightsConfig

MAX_MESSAGE_MB = 4096  # largest value of buffer.max_message_mb
MAX_STOPS, MAX_STOP = 16, 64  # texts that end a rollout, and characters of each


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """The run and its folder."""

    name: str = "default"  # runs/NAME is its folder
    root: str = "runs"  # where run folders live
    seed: int = 0  # seeds everything that is drawn at random
    steps: int = 1000  # learner steps, counted from version 0
    resume: bool = True  # go on from the newest checkpoint in the run folder, if there is one
    # each process serves /metrics, /healthz and /readyz on the first free port from here on (docs/monitoring.md); 0: none does
    http_port: int = 0

    def __post_init__(self) -> None:
        named = self.name not in ("", ".", "..") and "/" not in self.name and self.name.isprintable()
        require(named, "run.name", self.name, "a folder name")
        require(0 <= self.seed < 2**63, "run.seed", self.seed, "from 0 to 2^63 - 1")
        require(self.steps >= 1, "run.steps", self.steps, "at least 1")
        require(0 <= self.http_port < 65_536, "run.http_port", self.http_port, "a port from 1 to 65535, or 0")


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """The policy: the model that is trained and generates."""

    # folder or hub name of a causal language model that transformers and the engine can load
    path: str = "???"
    # in which learner and actors compute, and weights are published: auto (bfloat16 on a GPU, float32 on a CPU) | float32 |
    # bfloat16 | float16
    dtype: str = "auto"
    max_context: int = 1024  # tokens, prompt and completion together
    attention: str = "documents"  # in the learner: documents | sdpa | flash_attention_2 | flex_attention
    device: Device = Device.auto  # where learner and engines compute
    # train adapters beside the linear layers and leave the model as it is: {rank: 16} and the settings below; {}: train it all
    lora: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = ("auto", "float32", "bfloat16", "float16")
        require(self.dtype in known, "model.dtype", self.dtype, "auto, float32, bfloat16 or float16")
        require(self.max_context >= 2, "model.max_context", self.max_context, "at least 2 tokens")

    def settle_auto(self, *, on_gpu: bool) -> None:
        """Replace the dtype `auto` by the one of a process that computes on a GPU, or does not."""
        if self.dtype == "auto":
            self.dtype = "bfloat16" if on_gpu else "float32"


@dataclass(kw_only=True, slots=True)
class LoraConfig:
    """The adapters of a model that is not trained itself."""

    rank: int = 16  # length of the inner side of an adapter's two factors
    alpha: float = 32.0  # the product of the factors counts alpha / rank times
    # names of linear layers, such as q_proj or mlp.down_proj; none: all linear layers of the decoder
    targets: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        require(self.rank >= 1, "model.lora.rank", self.rank, "at least 1; model.lora={} trains the whole model")
        require(self.alpha > 0, "model.lora.alpha", self.alpha, "a positive number")

    @property
    def scale(self) -> float:
        """The factor of the product."""
        return self.alpha / self.rank


@dataclass(kw_only=True, slots=True)
class SourceConfig:
    """A prompt file: JSONL or parquet with prompt, domain, task, verifier and answer."""

    file: str = "???"  # its path
    # share of the mixture, relative to the other sources; 0: drawn only in stages that weigh it
    weight: float = 1.0
    only: str = ""  # keep only the prompts whose domain/task begins with this
    # give a prompt that is a text to the model as a chat, through its chat template; prompts that are messages always are
    chat: bool = False
    system: str = ""  # system message of every chat that has none of its own; without it the template may write one
    # arguments of the chat template, such as {enable_thinking: false}
    template: dict[str, object] = field(default_factory=dict)
    # the name that data.weights uses; by default the last part of `only`, or else the file's name without its ending
    name: str = ""

    def __post_init__(self) -> None:
        require(self.weight >= 0, "data.*.weight", self.weight, "0 or more")
        if not self.name:
            self.name = PurePath(self.only or self.file).stem


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """The prompt files."""

    train: list[SourceConfig] = field(default_factory=list)  # sources of training prompts, mixed by weight
    # sources of validation prompts; their weights are ignored
    heldout: list[SourceConfig] = field(default_factory=list)
    # name of a source in data.train -> a weight that replaces its own; stages change the mixture with it
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [source.name for source in self.train]
        require(len(set(names)) == len(names), "data.train", names, "a different name for every source; give data.train.*.name")
        for name, weight in self.weights.items():
            require(name in names, f"data.weights.{name}", weight, f"one of the names {', '.join(names)}")
            require(weight >= 0, f"data.weights.{name}", weight, "0 or more")
        require(not names or any(self.mixture), "data.weights", self.mixture, "a source that weighs more than 0")

    @property
    def mixture(self) -> list[float]:
        """The weight of every source of `train`."""
        return [self.weights.get(source.name, source.weight) for source in self.train]


def _check_cut(section: str, top_k: int, min_p: float, stop: list[str]) -> None:
    require(top_k >= 0, f"{section}.top_k", top_k, "0 or more")
    require(0 <= min_p < 1, f"{section}.min_p", min_p, "in [0, 1)")
    few = len(stop) <= MAX_STOPS and all(0 < len(text) <= MAX_STOP for text in stop)
    require(few, f"{section}.stop", stop, f"at most {MAX_STOPS} texts of 1 to {MAX_STOP} characters")


@dataclass(kw_only=True, slots=True)
class SamplingConfig:
    """How training rollouts are sampled."""

    n: int = 16  # rollouts per prompt
    temperature: float = 1.0  # of the distribution that is sampled from
    top_p: float = 1.0  # nucleus sampling; 1: off
    top_k: int = 0  # sample from so many of the most probable tokens only; 0: off
    min_p: float = 0.0  # only from tokens at least this times as probable as the most probable one; 0: off
    # texts that end a rollout; the token that completes one is kept, and the verifier reads the text with it
    stop: list[str] = field(default_factory=list)
    max_tokens: int = 512  # new tokens per rollout, at most

    def __post_init__(self) -> None:
        _check_cut("sampling", self.top_k, self.min_p, self.stop)
        require(self.n >= 2, "sampling.n", self.n, "at least 2: a group of one has no advantage")
        require(self.temperature > 0, "sampling.temperature", self.temperature, "above 0: greedy rollouts carry no signal")
        require(0 < self.top_p <= 1, "sampling.top_p", self.top_p, "in (0, 1]")
        require(self.max_tokens >= 1, "sampling.max_tokens", self.max_tokens, "at least 1")


@dataclass(kw_only=True, slots=True)
class AdaptiveConfig:
    """Bounds and reasons for an eta that moves (docs/staleness.md)."""

    min: int = 0  # the smallest that eta may become
    max: int = 8  # the largest: the bound that holds always
    ess: float = 0.98  # effective sample size (policy/ess) below which eta is halved
    kl: float = 0.01  # KL(behaviour, policy) in nats (policy/kl_behaviour_k3) above which eta is halved
    waiting: float = 0.05  # share of the learner's time, held back by eta alone, above which a larger one is tried
    window: int = 4  # steps that decide together

    def __post_init__(self) -> None:
        require(self.min >= 0, "buffer.adaptive.min", self.min, "0 or more")
        require(
            self.max > self.min, "buffer.adaptive.max", self.max, f"more than min = {self.min}; a fixed bound is buffer.eta"
        )
        require(0 < self.ess < 1, "buffer.adaptive.ess", self.ess, "between 0 and 1")
        require(self.kl > 0, "buffer.adaptive.kl", self.kl, "above 0")
        require(0 < self.waiting < 1, "buffer.adaptive.waiting", self.waiting, "between 0 and 1")
        require(self.window >= 1, "buffer.adaptive.window", self.window, "at least 1")


@dataclass(kw_only=True, slots=True)
class BufferConfig:
    """The staleness contract, deadlines of actors, the journal and the socket."""

    address: str = "tcp://127.0.0.1:5710"  # the one address that learner, actors and commands connect to
    batch_groups: int = 16  # B: groups per learner step
    eta: int = 2  # bound on staleness, in versions; 0 is the synchronous system
    # let eta move, beginning with buffer.eta: {min: 0, max: 8} and the settings below; {}: it stays
    adaptive: dict[str, object] = field(default_factory=dict)
    # draw prompts by their pass rates: {every: 16} and the settings below (docs/curriculum.md); {}: all alike
    curriculum: dict[str, object] = field(default_factory=dict)
    straggler: Straggler = Straggler.wait  # the treatment of a group that would exceed the bound
    preference: Preference = Preference.earliest_deadline  # which stored groups are trained first
    dispatch: DispatchRule = DispatchRule.forecast  # which actor is given which ticket
    dynamic_sampling: bool = True  # drop groups whose rewards are all equal, and issue other tickets instead
    max_filtered: float = 4.0  # groups dropped per step, at most, as a multiple of B; further ones are kept
    lease_s: float = 600.0  # a ticket that is not finished after this time is issued again
    heartbeat_s: float = 0.5  # pause between two signs of life of a client
    silence_s: float = 10.0  # a client that is silent for longer counts as gone: its tickets are issued again
    # size of the journal at which groups are no longer acknowledged, until a checkpoint frees space; 0: no file, memory only
    journal_gb: float = 64.0
    # keep every batch, so that `prolong replay` can start from version 0; otherwise only those that kept checkpoints need
    keep_history: bool = False
    max_message_mb: int = 256  # larger frames are refused
    # folder made by `prolong keys`; without it the address must be loopback and frames are not encrypted
    keys: str = ""

    def __post_init__(self) -> None:
        require(self.batch_groups >= 1, "buffer.batch_groups", self.batch_groups, "at least 1")
        require(self.eta >= 0, "buffer.eta", self.eta, "0 or more")
        require(self.max_filtered >= 0, "buffer.max_filtered", self.max_filtered, "0 or more")
        require(self.lease_s > 0, "buffer.lease_s", self.lease_s, "a positive number of seconds")
        beats = 0 < self.heartbeat_s < self.silence_s
        require(beats, "buffer.heartbeat_s", self.heartbeat_s, f"above 0 and below buffer.silence_s = {self.silence_s:g}")
        require(self.journal_gb >= 0, "buffer.journal_gb", self.journal_gb, "0 or more")
        sized = 1 <= self.max_message_mb <= MAX_MESSAGE_MB
        require(sized, "buffer.max_message_mb", self.max_message_mb, f"from 1 to {MAX_MESSAGE_MB}")


@dataclass(kw_only=True, slots=True)
class ValidationConfig:
    """Sweeps over the held-out prompts: before the first step, every N versions, and after the last step."""

    every: int = 0  # versions between two sweeps; 0: only before the first and after the last step
    prompts: int = 0  # prompts per task in the sweeps between first and last; 0: all
    n: int = 4  # rollouts per prompt of the setting "sampled"
    temperature: float = 1.0  # of the setting "sampled"
    top_p: float = 1.0  # of the setting "sampled"
    top_k: int = 0  # of the setting "sampled"
    min_p: float = 0.0  # of the setting "sampled"
    stop: list[str] = field(default_factory=list)  # texts that end a rollout, as sampling.stop
    max_tokens: int = 512  # new tokens per rollout, at most
    greedy: bool = True  # the first and the last sweep also run greedily, with one rollout per prompt

    def __post_init__(self) -> None:
        _check_cut("validation", self.top_k, self.min_p, self.stop)
        require(self.every >= 0, "validation.every", self.every, "0 or more")
        require(self.n >= 1, "validation.n", self.n, "at least 1")
        require(self.prompts >= 0, "validation.prompts", self.prompts, "0 or more")
        drawn = "above 0: validation.greedy adds a sweep at temperature 0"
        require(self.temperature > 0, "validation.temperature", self.temperature, drawn)
        require(0 < self.top_p <= 1, "validation.top_p", self.top_p, "in (0, 1]")
        require(self.max_tokens >= 1, "validation.max_tokens", self.max_tokens, "at least 1")


@dataclass(kw_only=True, slots=True)
class ActorConfig:
    """One actor process and the engine that generates in it."""

    engine: EngineKind = EngineKind.vllm  # the library that generates
    capacity: int = 256  # rollouts in flight at once; a ticket takes sampling.n of them
    max_num_seqs: int = 256  # rollouts that the engine runs at once; the others wait
    kv_cache_gib: float = 0.0  # vLLM only: memory for keys and values; 0: the rest of the share of a GPU, 1 GiB on a CPU
    # vLLM on a GPU only: share of its memory that the engine takes; `prolong train` lowers it where a learner shares the GPU
    gpu_memory_utilization: float = 0.85
    tensor_parallel: int = 1  # vLLM only: GPUs of one engine
    clear_kv: bool = True  # recompute the KV cache after a weight update
    grace_s: float = 5.0  # after SIGTERM: hand tickets over and leave within this
    # at the end of that time, tickets go to other actors with the tokens so far; otherwise their prompts are issued again
    hand_over: bool = True
    # vLLM only: arguments of its engine by their names there, such as {quantization: fp8_per_tensor, kv_cache_dtype: fp8};
    # those that would break what the run relies on are refused with the reason
    engine_args: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self.capacity >= 1, "actor.capacity", self.capacity, "at least 1")
        require(self.max_num_seqs >= 1, "actor.max_num_seqs", self.max_num_seqs, "at least 1")
        require(self.kv_cache_gib >= 0, "actor.kv_cache_gib", self.kv_cache_gib, "a number of GiB, or 0")
        share = 0 < self.gpu_memory_utilization <= 1
        require(share, "actor.gpu_memory_utilization", self.gpu_memory_utilization, "in (0, 1]")
        require(self.tensor_parallel >= 1, "actor.tensor_parallel", self.tensor_parallel, "at least 1")
        require(self.grace_s > 0, "actor.grace_s", self.grace_s, "a positive number of seconds")
        require(
            self.tensor_parallel == 1 or self.engine is EngineKind.vllm,
            "actor.tensor_parallel",
            self.tensor_parallel,
            f"1 with actor.engine={self.engine.name}",
        )
        takes = not self.engine_args or self.engine is EngineKind.vllm
        require(takes, "actor.engine_args", self.engine_args, f"none with actor.engine={self.engine.name}")


@dataclass(kw_only=True, slots=True)
class CheckpointConfig:
    """When the learner saves a checkpoint."""

    every: int = 100  # steps between two checkpoints; the last step is always saved
    every_s: float = 900.0  # also after a step that ends so many seconds after the last checkpoint; 0: by steps alone
    keep: int = 2  # so many checkpoints are kept, the newest ones

    def __post_init__(self) -> None:
        require(self.every >= 1, "checkpoint.every", self.every, "at least 1")
        require(self.every_s >= 0, "checkpoint.every_s", self.every_s, "0 or more seconds")
        require(self.keep >= 1, "checkpoint.keep", self.keep, "at least 1")


@dataclass(kw_only=True, slots=True)
class LaunchConfig:
    """The processes that `prolong train` starts on this machine."""

    actors: int = 1  # actor processes, unless there are `pools`, which have a `count` each
    learner_ranks: int = 1  # processes of the learner
    pin_cores: bool = False  # one core for each rank of the learner, the others shared among the actors
    max_restarts: int = 3  # how often each process is started again after it failed
    # the run stops when, before its first group, no model is loaded and no rollout generated for this time
    first_group_s: float = 300.0
    # from Ctrl-C or SIGTERM to the end of every process. The learner drops its step and saves within 0.6 of it or, of a long
    # time, all but 4 s: what it has not saved by then is computed again from the newest checkpoint, with the same batches
    stop_s: float = 10.0

    def __post_init__(self) -> None:
        require(self.actors >= 0, "launch.actors", self.actors, "0 or more")
        require(self.learner_ranks >= 1, "launch.learner_ranks", self.learner_ranks, "at least 1")
        require(self.max_restarts >= 0, "launch.max_restarts", self.max_restarts, "0 or more")
        require(self.first_group_s > 0, "launch.first_group_s", self.first_group_s, "a positive number of seconds")
        require(self.stop_s > 0, "launch.stop_s", self.stop_s, "a positive number of seconds")

    @property
    def last_s(self) -> float:
        """Seconds of `stop_s` that the buffer has when all others have left, and again those to end what is left."""
        return min(2.0, 0.2 * self.stop_s)

    @property
    def leave_s(self) -> float:
        """Seconds of `stop_s` that learner and actors have."""
        return self.stop_s - 2 * self.last_s


@dataclass(kw_only=True, slots=True)
class Config:
    """A run."""

    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    buffer: BufferConfig = field(default_factory=BufferConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    verifiers: VerifiersConfig = field(default_factory=VerifiersConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    # kinds of actors, {NAME: {count: 2, actor: {capacity: 64}}, ...} with the keys of pools.NAME below; none: all are alike
    pools: dict[str, PoolConfig] = field(default_factory=dict)
    # limits on the numbers of a step, such as {kl_above: 0.5, answer: stop}, and the keys of alerts below; {}: none
    alerts: dict[str, object] = field(default_factory=dict)
    # services that get a copy of the metrics, {wandb: {project: mine}}; names and arguments: docs/monitoring.md
    trackers: dict[str, dict[str, object]] = field(default_factory=dict)
    # run one after the other; none: the run is one stage
    stages: list[StageConfig] = field(default_factory=list)

    def __post_init__(self) -> None:
        fits = self.sampling.max_tokens < self.model.max_context
        limit = f"less than model.max_context = {self.model.max_context}"
        require(fits, "sampling.max_tokens", self.sampling.max_tokens, limit)
        self._check_validation()
        self._check_average()
        # a token of a rollout takes 8 bytes (id and log-probability), and so does one of the prompt (text and ids)
        num_bytes = self.buffer.batch_groups * (8 * self.sampling.n * self.sampling.max_tokens + 8 * self.model.max_context)
        mb = num_bytes // 2**20 + 1
        batch = f"at least {mb}: a batch of {self.buffer.batch_groups} groups of {self.sampling.n} rollouts may take {mb} MiB"
        require(self.buffer.max_message_mb >= mb, "buffer.max_message_mb", self.buffer.max_message_mb, batch)

    def _check_average(self) -> None:
        """An average needs a reference, of whole weights."""
        ema = self.reference.ema
        unread = "0 with objective.kl_beta = 0, which needs no reference"
        require(ema == 0 or self.objective.kl_beta > 0, "reference.ema", ema, unread)
        adapters = "0 with model.lora: an average of the factors of adapters is not the average of the weights that they make"
        require(ema == 0 or not self.model.lora, "reference.ema", ema, adapters)

    def _check_validation(self) -> None:
        """Triggers, targets of stages and the best checkpoint need validation scores."""
        every, saved_every = self.validation.every, self.checkpoint.every
        waits = self.reference.plateau > 0 or self.reference.drop > 0 or any(stage.target > 0 for stage in self.stages)
        require(every > 0 or not waits, "validation.every", every, "above 0: a trigger or a stage waits for validation scores")
        saved = every > 0 and every % saved_every == 0
        multiple = f"a multiple of checkpoint.every = {saved_every}: reference.source best needs the weights that were scored"
        require(saved or self.reference.source is not ResetSource.best, "validation.every", every, multiple)
