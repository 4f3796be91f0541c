"""Every knob of prolong, its default, its unit and one line about it. YAML files only override; docs/config.md lists them.

Torch-free, and free of Hydra: `compose.py` builds these from YAML and overrides.
A wrong value raises ConfigError with the dotted key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePath

from ..errors import require
from .algorithm import ObjectiveConfig, ReferenceConfig, RewardsConfig, StageConfig
from .choices import Device, EngineKind, Preference, ResetSource, Straggler


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """Which run this is."""

    name: str = "default"  # runs/NAME is its folder
    root: str = "runs"  # where run folders live
    seed: int = 0  # of everything that is drawn
    steps: int = 1000  # learner steps, counted from version 0
    resume: bool = True  # continue from the newest checkpoint of the folder, if there is one

    def __post_init__(self) -> None:
        require(self.name != "" and "/" not in self.name, "run.name", self.name, "a folder name")
        require(self.steps >= 1, "run.steps", self.steps, "at least 1")


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """The policy."""

    path: str = "???"  # a folder, or a hub name, of a causal LM that transformers and vLLM both load
    dtype: str = "float32"  # float32 | bfloat16: parameters on both sides
    max_context: int = 1024  # tokens, prompt and completion together
    attention: str = "documents"  # of the learner: documents | sdpa | flash_attention_2 | flex_attention
    device: Device = Device.auto

    def __post_init__(self) -> None:
        require(self.dtype in ("float32", "bfloat16"), "model.dtype", self.dtype, "float32 or bfloat16")
        require(self.max_context >= 2, "model.max_context", self.max_context, "at least 2 tokens")


@dataclass(kw_only=True, slots=True)
class SourceConfig:
    """One prompt file: JSONL or parquet with prompt, domain, task, verifier, answer."""

    file: str = "???"
    weight: float = 1.0  # share in the mixture, relative to the other sources; 0: only in stages that weigh it
    only: str = ""  # keep the prompts whose domain/task begins with this
    name: str = ""  # what data.weights calls it; by default the last part of `only`, or the file's name without its ending

    def __post_init__(self) -> None:
        require(self.weight >= 0, "data.*.weight", self.weight, "0 or more")
        self.name = self.name or PurePath(self.only or self.file).stem


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """Where prompts come from."""

    train: list[SourceConfig] = field(default_factory=list)  # the mixture
    heldout: list[SourceConfig] = field(default_factory=list)  # validation prompts; weights are ignored
    weights: dict[str, float] = field(default_factory=dict)  # by name of a source in train, instead of its own: for stages

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


@dataclass(kw_only=True, slots=True)
class SamplingConfig:
    """How training rollouts are drawn."""

    n: int = 16  # rollouts per prompt
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512  # new tokens per rollout

    def __post_init__(self) -> None:
        require(self.n >= 2, "sampling.n", self.n, "at least 2: a group of one has no advantage")
        require(self.temperature > 0, "sampling.temperature", self.temperature, "above 0: greedy rollouts carry no signal")
        require(0 < self.top_p <= 1, "sampling.top_p", self.top_p, "in (0, 1]")
        require(self.max_tokens >= 1, "sampling.max_tokens", self.max_tokens, "at least 1")


@dataclass(kw_only=True, slots=True)
class BufferConfig:
    """The staleness contract and the ledger's patience."""

    address: str = "tcp://127.0.0.1:5710"  # the one address that everybody needs
    batch_groups: int = 16  # B: groups per learner step
    eta: int = 2  # bound on staleness, in versions; 0 is the synchronous system
    straggler: Straggler = Straggler.wait
    preference: Preference = Preference.earliest_deadline
    dynamic_sampling: bool = True  # drop groups whose rewards carry no signal, and refill
    max_filtered: float = 4.0  # groups dropped per step at most, as a multiple of B; above it they are kept
    lease_s: float = 600.0  # a ticket unfinished for longer is reissued
    heartbeat_s: float = 0.5
    silence_s: float = 10.0  # a peer silent for longer is gone: its tickets are reissued
    journal_gb: float = 64.0  # at this size nothing more is acknowledged until a checkpoint frees some; 0: in memory only
    keep_history: bool = False  # keep every batch, for `prolong replay` from version 0; else what retained checkpoints need
    max_message_mb: int = 256  # larger frames are refused
    keys: str = ""  # folder made by `prolong keys`; without it the address must be loopback, and frames are plain

    def __post_init__(self) -> None:
        require(self.batch_groups >= 1, "buffer.batch_groups", self.batch_groups, "at least 1")
        require(self.eta >= 0, "buffer.eta", self.eta, "0 or more")
        require(self.max_filtered >= 0, "buffer.max_filtered", self.max_filtered, "0 or more")
        require(self.lease_s > 0, "buffer.lease_s", self.lease_s, "a positive number of seconds")
        beats = 0 < self.heartbeat_s < self.silence_s
        require(beats, "buffer.heartbeat_s", self.heartbeat_s, f"above 0 and below buffer.silence_s = {self.silence_s:g}")
        require(self.journal_gb >= 0, "buffer.journal_gb", self.journal_gb, "0 or more")
        require(1 <= self.max_message_mb <= 4096, "buffer.max_message_mb", self.max_message_mb, "from 1 to 4096")


@dataclass(kw_only=True, slots=True)
class ValidationConfig:
    """Held-out prompts as validation tickets: before the first step, every N versions, and after the last."""

    every: int = 0  # versions between sweeps; 0: only before and after
    prompts: int = 0  # per task in the sweeps between; 0: all
    n: int = 4  # rollouts per prompt of the setting "sampled"
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    greedy: bool = True  # the sweeps before and after also run greedily, one rollout a prompt

    def __post_init__(self) -> None:
        require(self.every >= 0, "validation.every", self.every, "0 or more")
        require(self.n >= 1, "validation.n", self.n, "at least 1")


@dataclass(kw_only=True, slots=True)
class ActorConfig:
    """One actor process and the engine that generates in it."""

    engine: EngineKind = EngineKind.vllm
    capacity: int = 256  # rollouts in flight at once; a ticket takes n of them
    max_num_seqs: int = 256  # rollouts that the engine runs at once; the others wait
    kv_cache_gib: float = 1.0  # vLLM on a CPU only: memory for keys and values
    gpu_memory_utilization: float = 0.85  # vLLM on a GPU only: share of its memory that the engine takes
    tensor_parallel: int = 1  # vLLM only: GPUs of one engine
    clear_kv: bool = True  # recompute the KV cache after a weight update
    grace_s: float = 5.0  # after SIGTERM: hand tickets back and leave within this

    def __post_init__(self) -> None:
        require(self.capacity >= 1, "actor.capacity", self.capacity, "at least 1")
        require(self.max_num_seqs >= 1, "actor.max_num_seqs", self.max_num_seqs, "at least 1")
        require(
            self.tensor_parallel == 1 or self.engine is EngineKind.vllm,
            "actor.tensor_parallel",
            self.tensor_parallel,
            f"1 with actor.engine={self.engine.name}",
        )


@dataclass(kw_only=True, slots=True)
class VerifiersConfig:
    """How completions are judged, by each actor and by each `prolong verifier`."""

    workers: int = 1  # processes that score
    timeout_s: float = 30.0  # per rollout
    own: dict[str, str] = field(default_factory=dict)  # your own, by the name that prompts give: {NAME: MODULE:FUNCTION}
    hosts: list[str] = field(default_factory=list)  # addresses of `prolong verifier`, used beside the own workers
    keys: str = ""  # folder with the keys of those hosts' service, made by `prolong keys`; not needed on loopback
    max_none_rate: float = 0.2  # share of verdicts None (over the last 1,000) above which the actor stops
    allow_unsafe_code: bool = False  # run what models write unprotected where no sandbox works; marks every verdict

    def __post_init__(self) -> None:
        require(self.workers >= 1, "verifiers.workers", self.workers, "at least 1")
        require(self.timeout_s > 0, "verifiers.timeout_s", self.timeout_s, "a positive number of seconds")


@dataclass(kw_only=True, slots=True)
class LearnerConfig:
    """One learner step."""

    minibatches: int = 1  # optimizer updates per batch
    token_budget: int = 4096  # tokens of one packed forward
    lr: float = 2e-6
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    grad_clip: float = 1.0  # global norm
    logprob_chunk: int = 1024  # completion positions per chunk of the head
    recompute: bool = False  # layers keep no activations for the backward pass: far less memory, a third more time
    max_skipped: int = 3  # non-finite updates in a row before the run stops
    starve_s: float = 1800.0  # without a batch for longer, the learner stops
    fsdp_reshard: bool = True  # multi-rank: reshard parameters after forward

    def __post_init__(self) -> None:
        require(self.minibatches >= 1, "learner.minibatches", self.minibatches, "at least 1")
        require(self.token_budget >= 1, "learner.token_budget", self.token_budget, "at least 1")
        require(self.lr > 0, "learner.lr", self.lr, "a positive number")


@dataclass(kw_only=True, slots=True)
class CheckpointConfig:
    """When the learner saves itself."""

    every: int = 100  # steps; the last step is always saved
    keep: int = 2  # newest ones kept

    def __post_init__(self) -> None:
        require(self.every >= 1, "checkpoint.every", self.every, "at least 1")
        require(self.keep >= 1, "checkpoint.keep", self.keep, "at least 1")


@dataclass(kw_only=True, slots=True)
class WeightsConfig:
    """The broadcast from learner to actors."""

    host: str = "127.0.0.1"  # address of learner rank 0 that actors can reach
    bucket_mb: int = 256
    timeout_s: float = 60.0  # of one publish: join, broadcast, load, acknowledge

    def __post_init__(self) -> None:
        require(self.bucket_mb >= 1, "weights.bucket_mb", self.bucket_mb, "at least 1")
        require(self.timeout_s > 0, "weights.timeout_s", self.timeout_s, "a positive number of seconds")


@dataclass(kw_only=True, slots=True)
class LaunchConfig:
    """`prolong train` only: what it starts on this machine."""

    actors: int = 1
    learner_ranks: int = 1
    pin_cores: bool = False  # learner on the first core(s), actors on the others
    max_restarts: int = 3  # of each process
    first_group_s: float = 300.0  # without any scored group for longer, the run stops


@dataclass(kw_only=True, slots=True)
class Config:
    """A whole run."""

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
    stages: list[StageConfig] = field(default_factory=list)  # one after the other; none: the whole run is one stage

    def __post_init__(self) -> None:
        fits = self.sampling.max_tokens < self.model.max_context
        limit = f"less than model.max_context = {self.model.max_context}"
        require(fits, "sampling.max_tokens", self.sampling.max_tokens, limit)
        self._check_validation()
        # a token costs 8 bytes (id, log-probability), its prompt as much again in text and ids
        num_bytes = self.buffer.batch_groups * (8 * self.sampling.n * self.sampling.max_tokens + 8 * self.model.max_context)
        mb = num_bytes // 2**20 + 1
        batch = f"at least {mb}: a batch of {self.buffer.batch_groups} groups of {self.sampling.n} rollouts may take {mb} MiB"
        require(self.buffer.max_message_mb >= mb, "buffer.max_message_mb", self.buffer.max_message_mb, batch)

    def _check_validation(self) -> None:
        """Triggers, targets and the best checkpoint live on validation scores."""
        every, saved_every = self.validation.every, self.checkpoint.every
        waits = self.reference.plateau > 0 or self.reference.drop > 0 or any(stage.target > 0 for stage in self.stages)
        require(every > 0 or not waits, "validation.every", every, "above 0: a trigger or a stage waits for validation scores")
        saved = every > 0 and every % saved_every == 0
        multiple = f"a multiple of checkpoint.every = {saved_every}: reference.source best needs the weights that were scored"
        require(saved or self.reference.source is not ResetSource.best, "validation.every", every, multiple)
