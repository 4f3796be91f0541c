"""A buffer core with a scripted learner and actors, and the values that they exchange."""

from __future__ import annotations

from typing import Any

from prolong.buffer.core.core import BufferCore
from prolong.buffer.core.settings import RunSettings
from prolong.buffer.journal.disk import Disk, MemoryDisk
from prolong.buffer.journal.journal import Journal
from prolong.buffer.tickets.mixture import PromptMixture
from prolong.buffer.tickets.planned_mixture import PlannedMixture
from prolong.common import messages as m
from prolong.common.config.algorithm import StageConfig
from prolong.common.config.sections import (
    BufferConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    Preference,
    RunConfig,
    SamplingConfig,
    SourceConfig,
    Straggler,
    ValidationConfig,
    WeightsConfig,
)
from prolong.common.config.trees import curriculum_config
from prolong.common.types import (
    Batch,
    FinishReason,
    Group,
    Manifest,
    Prompt,
    Rendezvous,
    Rollout,
    Sampling,
    StepEvidence,
    Ticket,
    TicketKind,
    Verdict,
    VerdictStatus,
    VersionSpan,
    WeightSource,
)

LEARNER = b"learner"
SAMPLING = Sampling(n=2, temperature=1.0, top_p=1.0, max_tokens=1024)


def prompt(index: int = 0, *, domain: str = "math", task: str = "sum") -> Prompt:
    return Prompt(uid=f"{task}/{index}", domain=domain, task=task, text="1+1=", token_ids=b"\0" * 16, verifier="math")


def rollout(*versions: int, reward: float | None = 1.0, tokens: int = 4) -> Rollout:
    """A rollout whose tokens are of these versions; the last version has what is left."""
    starts = list(range(len(versions)))
    ends = [*starts[1:], tokens]
    return Rollout(
        token_ids=b"\0" * 4 * tokens,
        behaviour_logprobs=b"\0" * 4 * tokens,
        spans=[VersionSpan(version=v, start=start, end=end) for v, start, end in zip(versions, starts, ends, strict=True)],
        finish_reason=FinishReason.stop,
        verdict=Verdict(reward=reward, status=VerdictStatus.ok, verifier="math", seconds=0.0),
    )


def group(ticket: Ticket, *rollouts: Rollout, actor: str = "actor-0") -> Group:
    return Group.for_ticket(ticket, list(rollouts), actor=actor, seconds=1.0)


def config(
    *,
    batch: int = 2,
    eta: int = 1,
    steps: int = 10,
    straggler: Straggler = Straggler.wait,
    preference: Preference = Preference.earliest_deadline,
    max_filtered: float = 4.0,
    validation: ValidationConfig | None = None,
    lease_s: float = 60.0,
    stages: list[StageConfig] | None = None,
    checkpoint_every: int = 100,
    adaptive: dict[str, object] | None = None,
    curriculum: dict[str, object] | None = None,
) -> Config:
    return Config(
        run=RunConfig(name="scene", steps=steps),
        model=ModelConfig(path="none"),
        data=DataConfig(train=[SourceConfig(file="sums.jsonl"), SourceConfig(file="sorts.jsonl", weight=0.0)]),
        sampling=SamplingConfig(n=2, max_tokens=64),
        buffer=BufferConfig(
            batch_groups=batch,
            eta=eta,
            adaptive=adaptive or {},
            curriculum=curriculum or {},
            straggler=straggler,
            preference=preference,
            max_filtered=max_filtered,
            lease_s=lease_s,
            heartbeat_s=1.0,
            silence_s=10.0,
        ),
        validation=validation or ValidationConfig(),
        checkpoint=CheckpointConfig(every=checkpoint_every),
        weights=WeightsConfig(timeout_s=20.0),
        stages=stages or [],
    )


def catalog_of(version: int, learner: int = 0) -> bytes:
    """The digest of the catalog that one learner's process makes of a version."""
    return bytes([learner, version]).rjust(32, b"c")


def offer(version: int, *, generation: int = 1, learner: int = 0) -> m.Offer:
    return m.Offer(
        generation=generation,
        version=version,
        manifest=Manifest(buckets=[]),
        checksums=[version],
        catalog=catalog_of(version, learner),
        source=WeightSource(endpoint="tcp://learner:1"),
    )


class Scene:
    """A core and its clients: `say` delivers one message, ticks, and returns the core's answers."""

    def __init__(self, cfg: Config, *, heldout: int = 0, disk: Disk | None = None, model_ids: int | None = None) -> None:
        self.cfg, self.now, self.model_ids = cfg, 0.0, model_ids
        self.disk = disk or MemoryDisk()
        self.heldout = [prompt(i, task="held") for i in range(heldout)]
        self.generation = 0
        self.held: dict[str, int] = {}  # actor -> version
        self.restart()

    def restart(self) -> None:
        """Start another buffer on the same disk: changes that were not committed are lost."""
        self.journal = Journal(self.disk)
        sums, sorts = [prompt(i) for i in range(50)], [prompt(i, task="sort") for i in range(50)]
        rules, sources = curriculum_config(self.cfg), [(sums, 1.0), (sorts, 0.0)]
        seed = self.cfg.run.seed
        mixture = PromptMixture(sources, seed) if rules is None else PlannedMixture(sources, seed, rules)
        settings = RunSettings.from_config(self.cfg, self.model_ids)
        self.core = BufferCore.open(settings, mixture, self.heldout, "tok", self.journal, self.now)
        self.held.clear()

    def say(self, who: bytes | str, message: Any, *, after_s: float = 0.0) -> list[Any]:
        """Deliver and tick; returns the answers to the sender."""
        identity = who.encode() if isinstance(who, str) else who
        return self.say_all(identity, message, after_s=after_s).get(identity, [])

    def say_all(self, identity: bytes, message: Any, *, after_s: float = 0.0) -> dict[bytes, list[Any]]:
        """Deliver and tick; returns the answers by recipient."""
        self.now += after_s
        out = self.core.handle(identity, message, self.now) + self.core.tick(self.now)
        self.core.commit()
        heard: dict[bytes, list[Any]] = {}
        for recipient, answer in out:
            heard.setdefault(recipient, []).append(answer)
        return heard

    def wait(self, seconds: float) -> dict[bytes, list[Any]]:
        """Time passes."""
        self.now += seconds
        heard: dict[bytes, list[Any]] = {}
        out = self.core.tick(self.now)
        self.core.commit()
        for recipient, answer in out:
            heard.setdefault(recipient, []).append(answer)
        return heard

    def hello(self, role: m.Role, name: str, **more: Any) -> m.Hello:
        return m.Hello(
            **({"role": role, "name": name, "protocol": m.PROTOCOL_VERSION, "tokenizer": "tok", "host": "h", "pid": 1} | more)
        )

    def learner(self, version: int = 0, generation: int = -1, pid: int = 1, stage: int = 0) -> list[Any]:
        about = {"version": version, "generation": generation, "pid": pid, "stage": stage}
        heard = self.say(LEARNER, self.hello(m.Role.learner, "learner", **about))
        self.generation = next((x.generation for x in heard if isinstance(x, m.Welcome)), self.generation)
        return heard

    def actor(self, name: str = "actor-0", *, capacity: int = 100, pid: int = 1, version: int = -1) -> list[Any]:
        return self.say(name, self.hello(m.Role.actor, name, capacity=capacity, pid=pid, version=version))

    def publish(self, version: int) -> m.PublishPlan:
        message = m.Publish(
            generation=self.generation,
            version=version,
            rendezvous=Rendezvous(transport="collective", address=b""),
            manifest=Manifest(buckets=[]),
        )
        return only(self.say(LEARNER, message), m.PublishPlan)

    def apply(self, name: str, version: int, *, epoch: int | None = None, error: str = "") -> list[Any]:
        epoch = self.core.run.membership.epoch if epoch is None else epoch
        return self.say(
            name,
            m.WeightsApplied(generation=self.generation, version=version, epoch=epoch, checksums=[7], seconds=0.1, error=error),
        )

    def puller(self, name: str = "actor-0", *, role: m.Role = m.Role.actor, **more: Any) -> list[Any]:
        """A client that pulls its weights says Hello; `more`: fields of it."""
        about = {"transport": "pull", "capacity": 100 if role is m.Role.actor else 0}
        return self.say(name, self.hello(role, name, **(about | more)))

    def offer(self, version: int) -> dict[bytes, list[Any]]:
        """The learner offers a version; returns what everybody hears."""
        return self.say_all(LEARNER, offer(version, generation=self.generation))

    def pulled(self, name: str, version: int, **more: Any) -> list[Any]:
        """A puller holds a version now, with the checksums of `offer`."""
        about = {"generation": self.generation, "version": version, "epoch": -1, "checksums": [version], "seconds": 0.1}
        pull = {"num_bytes": 1000, "pull_s": 2.0, "catalog": catalog_of(version)}
        return self.say(name, m.WeightsApplied(**(about | pull | more)))

    def weights(self, version: int) -> list[Ticket]:
        """Publish, and every member applies; returns the tickets that the actors got then."""
        return [ticket for name in self.publish(version).members for ticket in tickets(self.apply(name, version))]

    def result(self, ticket: Ticket, *versions: int, name: str = "actor-0", spread: bool = True) -> m.GroupAck:
        """The actor finishes a ticket with tokens of these versions, by default the ticket's."""
        lived = versions or (ticket.version,)
        rollouts = [rollout(*lived), *[rollout(*lived, reward=0.0 if spread else 1.0)] * (ticket.sampling.n - 1)]
        return only(self.say(name, m.GroupResult(group=group(ticket, *rollouts, actor=name))), m.GroupAck)

    def take(self, version: int) -> Batch | None:
        ready = self.say(LEARNER, m.TakeBatch(generation=self.generation, version=version))
        return next((x.batch for x in ready if isinstance(x, m.BatchReady)), None)

    def done(self, version: int, stage: int = 0, evidence: StepEvidence | None = None, *, saves: bool = False) -> None:
        done = m.StepDone(generation=self.generation, version=version, stage=stage, saves=saves, evidence=evidence)
        self.say(LEARNER, done)

    @property
    def counts(self) -> dict[str, int]:
        """Ticket states that are not empty."""
        return {state: count for state, count in self.core.run.store.ledger.as_dict().items() if count}


def only(messages: list[Any], kind: type) -> Any:
    """The one message of this kind."""
    found = [message for message in messages if isinstance(message, kind)]
    assert len(found) == 1, messages
    return found[0]


def tickets(messages: list[Any], kind: TicketKind | None = None) -> list[Ticket]:
    """All tickets among these messages."""
    given = [ticket for message in messages if isinstance(message, m.Tickets) for ticket in message.tickets]
    return [ticket for ticket in given if kind is None or ticket.kind is kind]


def started(**settings: object) -> tuple[Scene, list]:
    """A scene with a learner and one actor that holds version 0; and the tickets that it got."""
    scene = Scene(config(**settings))  # pyright: ignore[reportArgumentType]
    scene.actor()
    scene.learner()
    return scene, scene.weights(0)
