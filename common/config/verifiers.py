"""The settings of the judgement of completions; sections.py has those of the other parts of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import require


@dataclass(kw_only=True, slots=True)
class JudgeConfig:
    """The model that the verifier `judge` asks, behind an OpenAI-compatible endpoint."""

    url: str = "???"  # such as http://127.0.0.1:8000/v1
    model: str = "???"  # its name at the endpoint
    api_key_env: str = ""  # name of the environment variable that holds the API key; the key itself is written nowhere
    timeout_s: float = 20.0  # for one request; after four there is no reward
    concurrency: int = 32  # requests in flight of each actor and each `prolong verifier`
    cache_size: int = 100_000  # verdicts that are remembered
    cache_file: str = ""  # keeps them (hashes, no texts) for later runs

    def __post_init__(self) -> None:
        require(self.timeout_s > 0, "verifiers.judge.timeout_s", self.timeout_s, "a positive number of seconds")
        require(self.concurrency >= 1, "verifiers.judge.concurrency", self.concurrency, "at least 1")
        require(self.cache_size >= 1, "verifiers.judge.cache_size", self.cache_size, "at least 1")


@dataclass(kw_only=True, slots=True)
class VerifiersConfig:
    """How each actor and each `prolong verifier` judges completions."""

    workers: int = 1  # processes that score
    timeout_s: float = 30.0  # for one rollout; then the worker is killed
    # your verifiers, by the name that prompts give: {NAME: MODULE:FUNCTION}
    own: dict[str, str] = field(default_factory=dict)
    # addresses of `prolong verifier`, used in addition to the workers
    hosts: list[str] = field(default_factory=list)
    keys: str = ""  # folder made by `prolong keys` for those hosts; not needed on loopback
    # the model behind the verifier `judge`: {url: ..., model: ...} and the settings below
    judge: dict[str, object] = field(default_factory=dict)
    max_none_rate: float = 0.2  # share of recent verdicts without a reward above which the actor stops
    # where no sandbox works, run generated code without one; every such verdict is marked
    allow_unsafe_code: bool = False

    def __post_init__(self) -> None:
        require(self.workers >= 1, "verifiers.workers", self.workers, "at least 1")
        require(self.timeout_s > 0, "verifiers.timeout_s", self.timeout_s, "a positive number of seconds")
        require(0 <= self.max_none_rate <= 1, "verifiers.max_none_rate", self.max_none_rate, "in [0, 1]")
