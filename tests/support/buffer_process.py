"""A real buffer process with a tiny tokenizer and a prompt file, and the messages of a scripted actor and learner. No torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from time import monotonic

import numpy as np
from prolong.buffer.client.client import BufferClient
from prolong.buffer.client.inbox import Inbox
from prolong.common.config.run_files import RunPaths, run_paths, save_config
from prolong.common.config.sections import (
    BufferConfig,
    Config,
    DataConfig,
    ModelConfig,
    RunConfig,
    SamplingConfig,
    SourceConfig,
)
from prolong.common.messages import (
    PROTOCOL_VERSION,
    Hello,
    Publish,
    PublishPlan,
    PublishResult,
    Role,
    UpdateWeights,
    WeightsApplied,
)
from prolong.common.messages import Tickets as Tickets
from prolong.common.tokenizer import Tokenizer
from prolong.common.types import (
    FinishReason,
    Group,
    Manifest,
    Rendezvous,
    Rollout,
    Ticket,
    Verdict,
    VerdictStatus,
    VersionSpan,
)
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers

RUN = """
from pathlib import Path
from prolong.buffer.main import main
from prolong.common.config.run_files import load_config
main(load_config(Path({!r})))
"""
NOTHING = Manifest(buckets=[])
NOWHERE = Rendezvous(transport="collective", address=b"")


def write_tokenizer(folder: Path, words: str = "zero one two three plus") -> Path:
    """A word-level tokenizer; another list of words has another fingerprint."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: index for index, word in enumerate(["<eos>", "<unk>", *words.split()])}
    raw = RawTokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>", "unk_token": "<unk>"}))
    return folder


def make_config(folder: Path, *, num_prompts: int = 50, steps: int = 4, address: str = "tcp://127.0.0.1:0", **buffer) -> Config:
    """A run in `folder`: batches of 2 groups of 2 rollouts, quick to notice silence."""
    prompts = folder / "prompts.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    line = {"prompt": "one plus two", "domain": "math", "task": "addition", "verifier": "number", "answer": {"answer": "3"}}
    prompts.write_text("".join(json.dumps(line) + "\n" for _ in range(num_prompts)))
    settings = {"batch_groups": 2, "eta": 1, "heartbeat_s": 0.1, "silence_s": 1.0, "max_message_mb": 4} | buffer
    return Config(
        run=RunConfig(name="tested", root=str(folder / "runs"), steps=steps),
        model=ModelConfig(path=str(write_tokenizer(folder / "model")), max_context=64),
        data=DataConfig(train=[SourceConfig(file=str(prompts))]),
        sampling=SamplingConfig(n=2, max_tokens=16),
        buffer=BufferConfig(address=address, **settings),
    )


class BufferProcess:
    """`prolong buffer` as its own process. `address` is known once it is bound."""

    def __init__(self, cfg: Config, *, program: str = RUN, environment: dict[str, str] | None = None) -> None:
        """`program`: source text with a place for the path of the configuration."""
        self.paths: RunPaths = run_paths(cfg)
        save_config(cfg, self.paths.config)
        command = [sys.executable, "-c", program.format(str(self.paths.config))]
        env = (environment or dict(os.environ)) | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
        try:
            self.address = self._wait_for_note()
        except BaseException:
            self.kill()
            raise

    def _wait_for_note(self, timeout_s: float = 100.0) -> str:
        deadline = monotonic() + timeout_s
        while monotonic() < deadline:
            try:
                note = json.loads(self.paths.buffer.read_text())
            except FileNotFoundError:
                note = {}
            if note.get("pid") == self.process.pid:
                return note["address"]
            try:
                self.process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"the buffer ended with {self.process.returncode}: {self.errors()}")
        raise AssertionError(f"the buffer did not bind within {timeout_s} s")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def errors(self) -> str:
        """Everything it wrote to stderr, once it has ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def __enter__(self) -> BufferProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        assert self.process.stderr is not None
        self.process.stderr.close()


def hello(cfg: Config, role: Role, name: str, **changes) -> Hello:
    fields = {
        "protocol": PROTOCOL_VERSION,
        "tokenizer": Tokenizer.load(cfg.model.path).fingerprint,
        "host": "here",
        "pid": os.getpid(),
        "capacity": 8 if role is Role.actor else 0,
        "version": 0 if role is Role.learner else -1,
    }
    return Hello(role=role, name=name, **(fields | changes))


def make_client(cfg: Config, address: str, role: Role, name: str, **changes) -> BufferClient:
    greeting, limit = hello(cfg, role, name, **changes), cfg.buffer.max_message_mb << 20
    return BufferClient(address, greeting, max_bytes=limit, keys=cfg.buffer.keys)


def publish(learner: BufferClient, inbox: Inbox[PublishPlan | PublishResult], generation: int, version: int) -> PublishResult:
    """The learner's half of a weight update without weights."""
    learner.send(Publish(generation=generation, version=version, rendezvous=NOWHERE, manifest=NOTHING))
    plan = inbox.take(60.0)
    assert isinstance(plan, PublishPlan)
    result = inbox.take(60.0)
    assert isinstance(result, PublishResult)
    return result


def apply(actor: BufferClient, update: UpdateWeights) -> None:
    """The actor's half."""
    applied = WeightsApplied(
        generation=update.generation, version=update.version, epoch=update.epoch, checksums=[], seconds=0.0
    )
    actor.send(applied)


def answer(ticket: Ticket, actor: str, num_tokens: int = 4) -> Group:
    """A group with signal: rewards 0, 1, 0, 1, ..."""
    rollouts = [
        Rollout(
            token_ids=np.full(num_tokens, 2, "<i4").tobytes(),
            behaviour_logprobs=np.full(num_tokens, -0.5, "<f4").tobytes(),
            spans=[VersionSpan(version=ticket.version, start=0, end=num_tokens)],
            finish_reason=FinishReason.stop,
            verdict=Verdict(reward=float(index % 2), status=VerdictStatus.ok, verifier="number", seconds=0.0),
        )
        for index in range(ticket.sampling.n)
    ]
    return Group.for_ticket(ticket, rollouts, actor=actor, seconds=0.1)
