"""What a puller holds after a pull is the learner's cast, bit for bit, whatever was lost, flipped, skipped or started again.

Real AdamW steps of a small model with experts; the learner's store, a relay that pulls from it, and pullers of either, in one
process. tests/unit/common/weights/pull/ has the sockets between them.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
import torch
from prolong.common.types import Manifest
from prolong.common.weights.buckets import PackedWeights, bucket_views, fill_bucket, plan_buckets
from prolong.common.weights.pull.catalog import catalog_digest, decode_catalog
from prolong.common.weights.pull.chunks import ChunkLayout
from prolong.common.weights.pull.store import ChunkStore, Deltas, Full, NotYet, Superseded

STEPS = 200
CHUNK_BYTES = 2048
BUCKET_BYTES = 6000
FAULTS = {
    "learner restarts",
    "puller restarts",
    "skipped",
    "interrupted",
    "payload flipped",
    "chunk flipped",
    "source flipped",
    "pulled again",
}
SHAPES = {
    "model.embed_tokens.weight": (97, 16),
    "model.layers.0.self_attn.q_proj.weight": (16, 16),
    "model.layers.0.mlp.gate.weight": (4, 16),
    **{f"model.layers.0.mlp.experts.{expert}.up_proj.weight": (24, 16) for expert in range(4)},
    "model.norm.weight": (16,),
}


class Learner:
    """Parameters in float32 with weights of a trained model's size, AdamW, and what is cast and offered."""

    def __init__(self, rng: random.Random, lr: float, dtype: torch.dtype, tied: bool) -> None:
        self.rng, self.lr, self.dtype, self.tied = rng, lr, dtype, tied
        self.generator = torch.Generator().manual_seed(rng.randrange(1 << 30))
        shapes = SHAPES if tied else SHAPES | {"lm_head.weight": (97, 16)}
        self.parameters = {name: self.noise(shape).mul_(0.03).requires_grad_() for name, shape in shapes.items()}
        self.manifest = plan_buckets([(name, dtype, tensor.shape) for name, tensor in self.cast().items()], BUCKET_BYTES)
        self.version = -1
        self.restart()

    def noise(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator)

    def cast(self) -> dict[str, torch.Tensor]:
        """As the actors get them: a tied head is sent under its own name as well."""
        tensors = {name: tensor.detach().to(self.dtype) for name, tensor in self.parameters.items()}
        return tensors | ({"lm_head.weight": tensors["model.embed_tokens.weight"]} if self.tied else {})

    def restart(self) -> None:
        """Another process: moments from nothing, another session, and an older version half of the time."""
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=self.lr, weight_decay=0.01)
        self.store = empty_store(self.manifest)
        self.version = max(0, self.version - self.rng.choice([0, 3]))
        self.publish()
        self.past: PackedWeights | None = None  # the version before, of this process

    def step(self) -> None:
        """Of two experts and of three rows in four of the embedding the gradient is zero, as where no token came by."""
        idle = self.rng.sample(range(4), 2)
        for name, parameter in self.parameters.items():
            parameter.grad = self.noise(tuple(parameter.shape))
            if "embed" in name:
                parameter.grad[torch.rand(97, generator=self.generator) < 0.75] = 0
            if any(f"experts.{expert}." in name for expert in idle):
                parameter.grad = None
        self.optimizer.step()
        self.version += self.rng.choice([1, 1, 1, 3])
        past = self.packed
        self.publish()
        self.past = past

    def publish(self) -> None:
        tensors = self.cast()
        buckets = [fill_bucket(bucket, tensors) for bucket in self.manifest.buckets]
        self.packed = PackedWeights(version=self.version, manifest=self.manifest, buckets=buckets)
        self.store.advance(self.packed)


def empty_store(manifest: Manifest) -> ChunkStore:
    buckets = [torch.zeros(bucket.num_bytes, dtype=torch.uint8) for bucket in manifest.buckets]
    return ChunkStore(ChunkLayout(manifest, CHUNK_BYTES), buckets)


def flip_a_bit(rng: random.Random, store: ChunkStore) -> None:
    flat = rng.choice(store.buckets)
    flat[rng.randrange(flat.numel())] ^= 1 << rng.randrange(8)


def flipped(rng: random.Random, payload: bytes | memoryview) -> bytes:
    changed = bytearray(payload)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


@dataclass
class World:
    """One learner, a relay, and pullers that ask either."""

    rng: random.Random
    learner: Learner
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.stores = {name: empty_store(self.learner.manifest) for name in ("relay", "near", "far")}
        # how often the others are drawn from depends on the bits of the weights, which another CPU rounds in another way
        self.chances = {fault: random.Random(f"{fault} {self.rng.random()}") for fault in [*sorted(FAULTS), "late"]}

    def chance(self, fault: str, probability: float) -> bool:
        happened = self.chances[fault].random() < probability
        self.counts[fault] += happened
        return happened

    def fetch(self, store: ChunkStore, index: int, source: ChunkStore, version: int) -> bool:
        """One request for a chunk, in full after wrong bytes. False: this source does not have it."""
        for _ in range(3):
            held = store.held(index)
            have = held.version if held is not None and held.session == store.session else None
            answer = source.answer(index, store.session, have, version)
            flip = self.chance("payload flipped", 0.05)
            if isinstance(answer, Deltas):
                assert have is not None
                steps = [(at, flipped(self.rng, payload) if flip and payload else payload) for at, payload in answer.steps]
                good = store.put_deltas(index, have, steps)
            elif isinstance(answer, Full):
                good = store.put_full(index, version, flipped(self.rng, answer.content) if flip else answer.content)
            else:
                assert isinstance(answer, NotYet | Superseded)
                return False
            self.counts[type(answer).__name__] += good
            self.counts["repeated"] += not good
            if good:
                return True
        return False

    def pull(self, name: str, version: int, sources: list[ChunkStore]) -> bool:
        """Pull one version; False when it was cut off, or some chunk was wrong everywhere."""
        store, learner = self.stores[name], self.learner
        encoded = learner.store.catalog(version)
        assert encoded is not None
        missing = store.begin(encoded, decode_catalog(encoded, catalog_digest(encoded), len(store.layout.chunks)))
        self.counts["damage found"] += bool(missing) and store.version == version
        self.rng.shuffle(missing)
        if self.chance("interrupted", 0.1):
            missing = missing[: self.rng.randrange(len(missing) + 1)]
        for index in missing:
            if not any(self.fetch(store, index, source, version) for source in sources):
                return False
        if any(store.held(index) != (learner.store.session, version) for index in range(len(store.layout.chunks))):
            return False
        store.finish(version)
        return True

    def wanted(self, store: ChunkStore) -> PackedWeights:
        """The newest version; sometimes the one before, on offer when a slow puller asked, if the store is not past it."""
        learner = self.learner
        ahead = store.session == learner.store.session and store.catalog(learner.version) is not None
        return learner.past if learner.past is not None and not ahead and self.chance("late", 0.2) else learner.packed

    def pull_and_prove(self, name: str, sources: list[ChunkStore]) -> None:
        """As an actor does: pull, compare checksums, look for damage and pull again when they differ."""
        store = self.stores[name]
        packed = self.wanted(store)
        if not self.pull(name, packed.version, sources):
            return
        held = PackedWeights(version=store.version, manifest=self.learner.manifest, buckets=store.buckets)
        if held.checksums() != packed.checksums() and not self.pull(name, packed.version, sources):
            return
        self.counts["pulled late" if packed is self.learner.past else "pulled"] += 1
        assert all(torch.equal(flat, sent) for flat, sent in zip(store.buckets, packed.buckets, strict=True))
        if packed is self.learner.packed:
            self.compare_with_cast(store)

    def compare_with_cast(self, store: ChunkStore) -> None:
        """Every tensor of the store, by name, with the learner's parameters as they are cast now."""
        views = {}
        for bucket, flat in zip(self.learner.manifest.buckets, store.buckets, strict=True):
            views.update(bucket_views(bucket, flat))
        for name, tensor in self.learner.cast().items():
            assert torch.equal(views[name].flatten().view(torch.uint8), tensor.flatten().view(torch.uint8)), name

    def turn(self) -> None:
        """One version, and what befalls it and those who pull it, once or twice."""
        self.learner.step()
        if self.chance("learner restarts", 0.03):
            self.learner.restart()
        if self.chance("source flipped", 0.03):
            flip_a_bit(self.rng, self.learner.store)
        self.round()
        if self.chance("pulled again", 0.25):
            self.round()

    def round(self) -> None:
        for name, store in self.stores.items():
            if self.chance("chunk flipped", 0.05):
                flip_a_bit(self.rng, store)
            if self.chance("puller restarts", 0.03):
                self.stores[name] = empty_store(self.learner.manifest)
        sources = {
            "relay": [self.learner.store],
            "near": [self.learner.store],
            "far": [self.stores["relay"], self.learner.store],
        }
        for name in self.rng.sample(list(sources), len(sources)):
            if not self.chance("skipped", 0.25):
                self.pull_and_prove(name, sources[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
@pytest.mark.parametrize("lr", [1e-6, 1e-5, 1e-4])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_pulled_weights_are_the_learners_bit_for_bit(lr: float, dtype: torch.dtype, tied: bool) -> None:
    rng = random.Random(f"{lr} {dtype} {tied}")
    world = World(rng, Learner(rng, lr, dtype, tied))
    for _ in range(STEPS):
        world.turn()
    assert {fault for fault in FAULTS if not world.counts[fault]} == set()
    assert world.counts["pulled"] > STEPS
    assert world.counts["Deltas"] > STEPS
    assert world.counts["Full"] > 0
    assert world.counts["repeated"] > 0
    assert world.counts["damage found"] > 0
    assert world.counts["pulled late"] > 0
