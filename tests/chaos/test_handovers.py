"""Spot actors: each is preempted (SIGTERM, and no time to finish) or killed in the middle of its work, again and again.

A run goes on with what they handed over: nothing is lost or trained twice, the ledger and the tokens add up, and every token of
a rollout that changed hands has the log-probability of the version that its span names. `make soak` (PROLONG_SOAK=1) strikes
thirty times on transformers and eight times on vLLM.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from prolong.buffer.audit import audit
from prolong.buffer.journal.journal import Journal, read_journal
from prolong.common.messages import Status
from prolong.common.types import Group, Rollout, float32_array, int32_array
from transformers import AutoModelForCausalLM

from tests.support.runs import ON_VLLM, SMALL
from tests.support.watched_run import BATCH, WatchedRun

SOAK = bool(os.environ.get("PROLONG_SOAK"))
SEED = int(os.environ.get("PROLONG_SEED", "0"))
ACTORS = 3 if SOAK else 2
TOLERANCE = 2e-4  # of a log-probability, in float32
ETA = 3
APART = 2  # versions whose log-probabilities differ by much
SOON_S = 90.0  # for what happens at once on a machine that is not busy
SETTINGS = [
    *SMALL,
    f"buffer.batch_groups={BATCH}",
    "buffer.keep_history=true",
    "buffer.silence_s=4",
    f"buffer.eta={ETA}",
    "run.steps=100000",
    # every version can be loaded again
    "checkpoint.every=1",
    "checkpoint.keep=100000",
    "actor.capacity=64",
    "actor.max_num_seqs=8",
    "weights.timeout_s=10",
    "data.heldout=[]",
]


class SpotRun(WatchedRun):
    """A run whose actors come and go, looked at through the buffer's Status."""

    def __init__(self, root: Path, model: Path, *more: str) -> None:
        self.model = model
        overrides = [*SETTINGS, f"model.path={model}", f"data.train=[{{file: {model}/train.jsonl}}]", *more]
        super().__init__(root, "spot", *overrides)
        self.actors: dict[str, subprocess.Popen] = {}
        self.num_started = 0

    def start(self) -> None:
        """Until every actor works, on tickets of versions that have earlier ones to tell them apart from."""
        self.run.start("buffer")
        self.run.start("learner")
        for _ in range(ACTORS):
            self.start_actor()
        self.run.wait("every actor to work", lambda: len(self.at_work()) == ACTORS, 180)
        self.run.wait("some steps", lambda: self.status().version >= ETA + APART, 180)

    def start_actor(self) -> None:
        name = f"spot-{self.num_started}"
        self.num_started += 1
        self.actors[name] = self.run.start("actor", "--name", name)

    def is_settled(self) -> bool:
        """Whether every token that was handed over is saved or lost."""
        handed_over, *settled = (
            self.status().counters.get(f"buffer/{name}", 0) for name in ("handed_over_tokens", "saved_tokens", "lost_tokens")
        )
        return sum(settled) == handed_over

    def at_work(self) -> list[str]:
        peers = self.status().peers
        return [name for name in self.actors if name in peers and float(peers[name].get("leases", 0.0)) > 0]

    def in_their_work(self) -> list[str]:
        return [name for name in self.at_work() if self.number(name, "generated_rollouts") > 0]

    def saved_tokens(self) -> int:
        return self.status().counters.get("buffer/saved_tokens", 0)

    def strike(self, how: str, rng: random.Random) -> None:
        """End one actor that works and has ended rollouts, and start another in its place; the run goes on meanwhile."""
        victims = self.run.wait("actors at work", self.in_their_work, 120)
        name = rng.choice(victims)
        process, before = self.actors.pop(name), self.status().version
        if how == "SIGKILL":
            process.kill()
        else:
            self.preempt(process)
        self.start_actor()
        # in the long form the next blow may hit whoever goes on with it
        self.run.wait("the run to go on", lambda: self.status().version >= before + 2 and (SOAK or self.is_settled()), SOON_S)

    def preempt(self, process: subprocess.Popen) -> None:
        """SIGTERM twice: the second one says that no time is left to finish anything."""
        label = next(label for label, started in self.run.processes.items() if started is process)
        log = self.run.root / f"{label}.log"
        process.send_signal(signal.SIGTERM)
        self.run.wait("the signal to be noticed", lambda: "SIGTERM:" in log.read_text(), SOON_S)
        process.send_signal(signal.SIGTERM)
        assert self.run.ended(process, SOON_S) == 0, self.run.output()

    def stop(self) -> Status:
        """The last status; then everything ends, the actors first."""
        working = self.run.wait("actors at work", self.at_work, 120)
        for name in self.actors.keys() - set(working):
            self.actors.pop(name).kill()  # it would go on with what the others hand over, behind the last status
        for name in working:
            self.preempt(self.actors.pop(name))
        status = self.status()
        self.run.kill_all()
        return status

    @cache  # noqa: B019
    def policy(self, version: int) -> torch.nn.Module:
        """The weights of a version, by transformers."""
        folder = self.model if version == 0 else self.run.folder / "checkpoints" / f"step-{version:08d}"
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    @torch.no_grad()
    def apart(self, group: Group, rollout: Rollout, version: int) -> np.ndarray:
        """[T] |recomputed - behaviour| of all tokens, as if `version` had sampled them."""
        prompt = int32_array(group.prompt.token_ids).tolist()
        ids = torch.tensor([prompt + int32_array(rollout.token_ids).tolist()])
        logits = self.policy(version)(ids).logits[0, len(prompt) - 1 : -1]
        logprobs = torch.log_softmax(logits.float() / group.sampling.temperature, -1)
        recomputed = logprobs.gather(1, ids[0, len(prompt) :, None])[:, 0].numpy()
        return np.abs(recomputed - float32_array(rollout.behaviour_logprobs))


@pytest.fixture
def journal_of() -> Iterator[list[Journal]]:
    opened: list[Journal] = []
    yield opened
    for journal in opened:
        journal.close()


def check_seams(spot: SpotRun, groups: list[Group]) -> Counter[str]:
    """Each token of the rollouts that changed hands, under the version that its span names."""
    found: Counter[str] = Counter()
    right, swapped = [0.0], [0.0]
    for group in groups:
        for rollout in group.rollouts:
            names = {span.actor for span in rollout.spans}
            assert names <= {f"spot-{i}" for i in range(spot.num_started)} | {""}
            found["rollouts of two actors"] += len(names) > 1
            found["rollouts of an earlier actor"] += names != {""} and "" not in names
            found["tokens of earlier actors"] += sum(span.end - span.start for span in rollout.spans if span.actor)
            if names == {""}:
                continue
            for span in rollout.spans:
                right += spot.apart(group, rollout, span.version)[span.start : span.end].tolist()
                swapped += spot.apart(group, rollout, max(span.version - APART, 0))[span.start : span.end].tolist()
    print(f"log-probabilities: {len(right)} tokens, at most {max(right):.1e} apart; two versions back {np.mean(swapped):.1e}")
    assert max(right) < TOLERANCE
    assert np.mean(swapped) > 10 * np.mean(right)
    return found


def check_end(spot: SpotRun, status: Status, journal: Journal) -> None:
    """The books of the whole run, and the rollouts that changed hands."""
    counted = status.counters
    print({name: count for name, count in counted.items() if count})
    assert audit(journal).findings == []
    trained = [ordinal for version in journal.versions() for ordinal in journal.batch_record(version).ordinals]
    assert len(set(trained)) == len(trained) >= status.ledger["trained"]
    waiting = [record.ticket for record in journal.tickets()]
    under_way = sum(ticket.num_started_tokens for ticket in waiting if ticket.ordinal not in set(journal.groups()))
    settled = counted.get("buffer/saved_tokens", 0) + counted.get("buffer/lost_tokens", 0)
    assert counted["buffer/handed_over_tokens"] == settled + under_way
    assert counted["buffer/saved_tokens"] > 0
    assert counted.get("buffer/failed_handovers", 0) == 0
    assert counted.get("buffer/failed_groups", 0) == 0
    steps = [record["step"] for record in spot.run.metrics()]
    assert steps == list(range(1, len(steps) + 1))
    found = check_seams(spot, [journal.group(ordinal) for ordinal in journal.groups()])
    print(dict(found))
    # in the short form the one handover may meet no rollout in its middle
    assert found["rollouts of two actors"] + (0 if SOAK else found["rollouts of an earlier actor"]) > 0
    assert 0 < found["tokens of earlier actors"] <= counted["buffer/saved_tokens"]


def drawn(blows: int, rng: random.Random) -> list[str]:
    """One in five is SIGKILL: nothing can be handed over then."""
    return rng.sample(["SIGKILL", "SIGTERM"], blows, counts=[blows // 5, blows - blows // 5])


def storm(spot: SpotRun, blows: list[str], rng: random.Random, opened: list[Journal]) -> None:
    try:
        spot.start()
        for how in blows:
            spot.strike(how, rng)
        # a blow between two rollouts hands nothing over that an end could save
        while not spot.saved_tokens():
            spot.strike("SIGTERM", rng)
        status = spot.stop()
        print(f"struck: {dict(Counter(blows))}; version {status.version}")
        opened.append(read_journal(spot.run.folder / "journal"))
        check_end(spot, status, opened[0])
    finally:
        spot.run.kill_all()


@pytest.mark.slow
@pytest.mark.timeout(1800 if SOAK else 900)
def test_spot_actors_hand_over_and_others_go_on(tmp_path: Path, demo_model: Path, journal_of: list[Journal]) -> None:
    rng = random.Random(SEED)
    storm(SpotRun(tmp_path, demo_model), drawn(30, rng) if SOAK else ["SIGTERM", "SIGKILL"], rng, journal_of)


@pytest.mark.slow
@pytest.mark.skipif(not SOAK, reason="a vLLM engine starts for a quarter of a minute: make soak")
@pytest.mark.timeout(1800)
def test_spot_actors_on_vllm_hand_over_and_others_go_on(tmp_path: Path, demo_model: Path, journal_of: list[Journal]) -> None:
    rng = random.Random(SEED)
    storm(SpotRun(tmp_path, demo_model, ON_VLLM, "actor.kv_cache_gib=0.25"), drawn(8, rng), rng, journal_of)
