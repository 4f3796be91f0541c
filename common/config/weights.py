"""The settings of the way that weights take; sections.py has those of the other parts of a run."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import require


@dataclass(kw_only=True, slots=True)
class WeightsConfig:
    """How weights travel from the learner to the actors."""

    # collective: the learner broadcasts to all actors at once. pull: each process fetches for itself what changed, and no host
    # need reach another but by one TCP port. An actor may pull (`prolong actor weights.transport=pull`) where others do not
    transport: str = "collective"
    host: str = "127.0.0.1"  # address of this process (learner's rank 0, relay, serving actor) that others can reach
    port: int = 0  # from which weights are pulled; 0: any free one
    serve: bool = False  # an actor that pulls lets others pull from it
    streams: int = 1  # TCP connections that a process pulls through
    max_mb_s: float = 0.0  # most megabytes a second that this process sends to, or pulls as, pullers; 0: no limit
    bucket_mb: int = 256  # weights are sent in portions of this size
    timeout_s: float = 60.0  # for one publish: reach the actors, send, load, acknowledge

    def __post_init__(self) -> None:
        require(self.transport != "", "weights.transport", self.transport, "the name of a weight transport")
        require(0 <= self.port <= 65_535, "weights.port", self.port, "a port from 0 to 65535")
        serves = "false: only a process that pulls its weights (weights.transport=pull) has any to serve"
        require(self.transport == "pull" or not self.serve, "weights.serve", self.serve, serves)
        require(1 <= self.streams <= 16, "weights.streams", self.streams, "from 1 to 16")
        require(self.max_mb_s >= 0, "weights.max_mb_s", self.max_mb_s, "0 or more")
        require(self.bucket_mb >= 1, "weights.bucket_mb", self.bucket_mb, "at least 1")
        require(self.timeout_s > 0, "weights.timeout_s", self.timeout_s, "a positive number of seconds")
