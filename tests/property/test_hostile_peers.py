"""Well-formed messages in any order, with any numbers, from peers of every role: the core neither raises nor loses count.

Every message passes the wire's codec, in both directions: the core sees none that the codec refuses, and all of its answers can
be sent.
"""

import math
import random
from typing import Any

import msgspec
import numpy as np
import pytest
from prolong.buffer.core.core import BufferCore
from prolong.buffer.core.settings import RunSettings
from prolong.buffer.journal.disk import MemoryDisk
from prolong.buffer.journal.journal import Journal
from prolong.buffer.tickets.prompts import load_heldout, load_training_prompts
from prolong.common.config.algorithm import StageConfig
from prolong.common.config.sections import Config
from prolong.common.errors import WireError
from prolong.common.messages import (
    BatchReady,
    CheckpointSaved,
    Cordon,
    Finish,
    FromBuffer,
    FromClient,
    GroupResult,
    Heartbeat,
    Hello,
    Leave,
    Offer,
    Publish,
    RequestReset,
    Role,
    StatusRequest,
    StepDone,
    TakeBatch,
    TicketReturned,
    Tickets,
    UpdateWeights,
    WeightsApplied,
    Welcome,
)
from prolong.common.tokenizer import Tokenizer
from prolong.common.transport.wire import Decoder, encode
from prolong.common.types import Batch, PullAddress, Rollout, StepEvidence, Ticket, VersionSpan, WeightSource, float32_array

from tests.support.buffer_process import NOTHING, NOWHERE, answer, hello, make_config

ROLES = {
    "anna": Role.actor,
    "bert": Role.actor,
    "paul": Role.actor,  # pulls its weights
    "rita": Role.relay,
    "lea": Role.learner,
    "olga": Role.observer,
}
PULLERS = ("paul", "rita")
NUMBERS = [0, 0, 1, 1, 2, 3, 4, 5, -1, -5, 10**6, 2**31, 2**53, -(2**53), 2**62, -(2**62), 2**64 - 1]
REALS = [math.nan, math.inf, -math.inf, 1.7e308, -1.7e308, 1e300, 5e-324, -1.0, 0.0, 1.0, 1e3]
STATS = ("x", "engine_steps", "engine_running", "engine_tokens", "engine_kv_use", "busy_s", "idle_s")
SOURCE = WeightSource(endpoint="tcp://127.0.0.1:9")
SEEDS_PER_TEST = 20
MESSAGES = 200


class Stranger:
    """Plays every peer at once: mostly as a well-behaved one, at times with any message that the types allow."""

    def __init__(self, seed: int, cfg: Config, core: BufferCore) -> None:
        self.rng = random.Random(seed)
        self.cfg, self.core = cfg, core
        self.greeting = hello(cfg, Role.observer, "nobody")
        self.tickets: list[Ticket] = []
        self.duties: list[tuple[str, FromClient]] = [
            (name, self.greet(name, pid=1, version=-1, generation=-1)) for name in ("lea", "anna", "bert", *PULLERS)
        ]

    def hear(self, name: str, message: FromBuffer) -> None:
        """Queue the answers of a well-behaved peer."""
        match message:
            case Tickets():
                self.tickets += message.tickets
                self.duties += [(name, GroupResult(group=answer(ticket, name))) for ticket in message.tickets]
            case UpdateWeights():
                self.duties.append((name, self.applied(message)))
            case Welcome() if name == "lea":
                self.learn(message.generation, message.version)
            case BatchReady():
                generation, version = message.batch.generation, message.batch.version + 1
                self.duties.append((name, StepDone(generation=generation, version=version, evidence=self.evidence())))
                self.learn(generation, version)

    def applied(self, update: UpdateWeights) -> WeightsApplied:
        catalog = b""
        if update.epoch < 0:
            catalog = msgspec.msgpack.decode(update.rendezvous.address, type=PullAddress).catalog
        return WeightsApplied(
            generation=update.generation,
            version=update.version,
            epoch=update.epoch,
            checksums=[] if update.epoch >= 0 else [update.version % 1000],
            seconds=0.0,
            catalog=catalog,
        )

    def offer(self, generation: int, version: int) -> Offer:
        return Offer(
            generation=generation,
            version=version,
            manifest=NOTHING,
            checksums=[version % 1000],
            catalog=bytes([version % 251]) * 32,
            source=SOURCE,
        )

    def learn(self, generation: int, version: int) -> None:
        step: dict[str, Any] = {"generation": generation, "version": version}
        self.duties.append(("lea", Publish(**step, rendezvous=NOWHERE, manifest=NOTHING)))
        self.duties.append(("lea", self.offer(**step)))
        self.duties.append(("lea", TakeBatch(**step)))

    def next(self) -> tuple[str, FromClient]:
        """The next message, and the name of its sender."""
        if self.duties and self.rng.random() < 0.8:
            return self.duties.pop(0)
        name = self.rng.choice(list(ROLES))
        return name, self.heartbeat() if self.rng.random() < 0.5 else self.say(name)

    def number(self, *fitting: int) -> int:
        return self.rng.choice(NUMBERS) if self.rng.random() < 0.3 else self.rng.choice(fitting)

    def generation(self) -> int:
        return self.number(self.core.run.store.generation)

    def version(self) -> int:
        return self.number(self.core.run.store.version, self.core.run.store.version + 1)

    def say(self, name: str) -> FromClient:
        step: dict[str, Any] = {"generation": self.generation(), "version": self.version()}
        epoch = self.number(self.core.run.membership.epoch)
        if self.rng.random() < 0.1:
            pid, version, generation = self.rng.choice([1, 1, 2]), self.version(), self.generation()
            return self.greet(name, pid=pid, version=version, generation=generation, stage=self.number(0, 1))
        return self.rng.choice(
            [
                self.heartbeat,
                lambda: self.group() if self.tickets else StatusRequest(),
                lambda: self.group() if self.tickets else StatusRequest(),
                lambda: TicketReturned(ordinal=self.number(*(t.ordinal for t in self.tickets), 0), reason="x"),
                lambda: TakeBatch(**step),
                lambda: StepDone(**step, stage=self.number(0, 0, 1), evidence=self.rng.choice([None, self.evidence()])),
                lambda: RequestReset(),
                lambda: CheckpointSaved(**step),
                lambda: Publish(**step, rendezvous=NOWHERE, manifest=NOTHING),
                lambda: WeightsApplied(
                    **step,
                    epoch=self.number(self.core.run.membership.epoch),
                    checksums=[],
                    seconds=0.0,
                    error=self.rng.choice("  x"),
                    num_bytes=self.number(10),
                    catalog=self.rng.choice([b"", bytes([self.rng.randrange(5)]) * 32]),
                ),
                lambda: self.offer(**step),
                lambda: Leave(reason="x") if self.rng.random() < 0.1 else StatusRequest(),
                lambda: Cordon(epoch=epoch, names=["anna", "zoe"]),
                lambda: Finish(**step) if self.rng.random() < 0.05 else StatusRequest(),
            ]
        )()

    def heartbeat(self) -> Heartbeat:
        return Heartbeat(stats=self.stats(), room=self.rng.choice([None, self.number(8)]))

    def stats(self) -> dict[str, float]:
        """What an actor counts: mostly numbers that mean something, so that those which do not are used as well."""
        return {name: self.rng.choice(REALS) if self.rng.random() < 0.3 else self.rng.uniform(1, 1e3) for name in STATS}

    def evidence(self) -> StepEvidence:
        usual = {"ess": 0.9, "kl": 0.01, "wait_s": 1.0, "step_s": 2.0}
        return StepEvidence(**{name: self.rng.choice([*REALS, *[number] * 20]) for name, number in usual.items()})

    def greet(self, name: str, **changes) -> Hello:
        about: dict[str, Any] = {"role": ROLES[name], "name": name, "capacity": self.number(8, 1)}
        about["pool"] = self.rng.choice(["", "large", "small"])
        if name in PULLERS:
            about |= {"transport": "pull", "serves": self.rng.choice([SOURCE, SOURCE, None])}
        return msgspec.structs.replace(self.greeting, **about, **changes)

    def damaged(self, rollout: Rollout) -> Rollout:
        number = self.rng.choice([math.nan, math.inf, -math.inf, 5.0])
        verdict = msgspec.structs.replace(rollout.verdict, reward=self.rng.choice([number, None]))
        changes = [
            {"verdict": verdict},
            {"behaviour_logprobs": np.full(rollout.num_tokens, number, "<f4").tobytes()},
            {"behaviour_logprobs": b""},
            {"token_ids": b"", "behaviour_logprobs": b"", "spans": []},
            {"token_ids": b"123"},
            {"spans": []},
        ]
        return msgspec.structs.replace(rollout, **self.rng.choice(changes))

    def group(self) -> GroupResult:
        group = answer(self.rng.choice(self.tickets), "anna", num_tokens=self.rng.choice([1, 4]))
        rollouts = group.rollouts[: self.rng.choice([0, 1, 2, 2, 2])]
        if self.rng.random() < 0.3:
            rollouts = [
                msgspec.structs.replace(r, spans=[VersionSpan(version=self.number(0), start=0, end=r.num_tokens)])
                for r in rollouts
            ]
        if self.rng.random() < 0.2:
            rollouts = [self.damaged(rollout) for rollout in rollouts]
        return GroupResult(group=msgspec.structs.replace(group, rollouts=rollouts))


def is_sound(batch: Batch) -> bool:
    """Whether the numbers of a batch are finite and consistent, so that its loss is a finite number."""
    rollouts = [rollout for group in batch.groups for rollout in group.rollouts]
    logprobs = [float32_array(rollout.behaviour_logprobs) for rollout in rollouts]
    rewards = [rollout.verdict.reward for rollout in rollouts]
    sound = [
        len(p) == r.num_tokens > 0 and (p <= 0).all() and np.isfinite(p).all() for p, r in zip(logprobs, rollouts, strict=True)
    ]
    return all(sound) and all(reward is not None and math.isfinite(reward) for reward in rewards)


@pytest.mark.parametrize("block", range(5))
def test_no_sequence_of_well_formed_messages_breaks_the_core(tmp_path, block):
    cfg = make_config(tmp_path)
    cfg.buffer.adaptive = {"min": 0, "max": 4, "window": 2}
    cfg.stages = [StageConfig(name="first", steps=2), StageConfig(name="second", sampling={"n": 3})]
    tokenizer = Tokenizer.load(cfg.model.path)
    num_batches, limit = 0, cfg.buffer.max_message_mb << 20
    for seed in range(block * SEEDS_PER_TEST, (block + 1) * SEEDS_PER_TEST):
        mixture, heldout = load_training_prompts(cfg, tokenizer), load_heldout(cfg, tokenizer)
        core = BufferCore.open(RunSettings.from_config(cfg), mixture, heldout, tokenizer.fingerprint, Journal(MemoryDisk()))
        decoder: Decoder = Decoder(FromClient, limit)
        stranger, now = Stranger(seed, cfg, core), 0.0
        for _ in range(MESSAGES):
            now += stranger.rng.choice([0.0, 0.01, 0.01, 0.1])
            name, message = stranger.next()
            try:
                message = decoder.decode(encode(message))
            except WireError:
                continue
            out = core.handle(name.encode(), message, now) + core.tick(now)
            for peer, heard in out:
                assert len(encode(heard)) <= limit
                stranger.hear(peer.decode(), heard)
            batches = [heard.batch for _, heard in out if isinstance(heard, BatchReady)]
            num_batches += len(batches)
            assert all(map(is_sound, batches))
            assert core.run.store.ledger.balanced
            if core.finished():
                break
        assert msgspec.msgpack.encode(core.status(now))
    assert num_batches > 5  # some of the noise was a run
