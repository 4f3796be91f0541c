"""An actor without vLLM: joins the weights group for real, or pulls, and answers tickets with random completions.

Behaviour log-probabilities are recomputed with transformers from the received tensors, so that a learner that trains on
other weights than it sent shows up as a ratio that is not 1.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Self

import msgspec
import numpy as np
import torch
from prolong.actor.weight_download import WeightDownloader
from prolong.buffer.client.client import BufferClient
from prolong.common.config.run_files import load_config
from prolong.common.config.sections import Config
from prolong.common.errors import BufferUnreachable, DeadlineExceeded, RunStopped, WeightsError
from prolong.common.messages import PROTOCOL_VERSION, GroupResult, Hello, Role, Tickets, UpdateWeights, WeightsApplied
from prolong.common.tokenizer import Tokenizer
from prolong.common.transport.keys import load_client_keys
from prolong.common.types import (
    PULL,
    FinishReason,
    Group,
    Manifest,
    PullAddress,
    Rollout,
    Ticket,
    Verdict,
    VerdictStatus,
    VersionSpan,
    int32_array,
    rollout_seed,
)
from prolong.common.weights.api import WeightTransport
from prolong.common.weights.buckets import bucket_views, checksum
from prolong.common.weights.pull.chunks import ChunkLayout
from prolong.common.weights.pull.puller import Puller
from prolong.common.weights.pull.store import ChunkStore
from prolong.common.weights.transports import COLLECTIVE, TRANSPORTS
from transformers import AutoConfig, AutoModelForCausalLM


class ScriptedActor(threading.Thread):
    """Runs until the run stops. `versions`: acknowledged ones, in order; `history`: what was received of each, if it pulls.

    As a context it is started, and has left at the end: the next test finds no thread of this one.
    """

    def __init__(
        self,
        cfg: Config,
        address: str,
        name: str = "actor-0",
        *,
        corrupt_checksum_of: int = -1,
        die_at: int = -1,
        pulls: bool = False,
        transports: Mapping[str, WeightTransport] = TRANSPORTS,
    ) -> None:
        """`die_at`: the version in whose broadcast this process ends, before the first byte."""
        super().__init__(name=name, daemon=True)
        self.cfg, self.address = cfg, address
        self.versions: list[int] = []
        self.received: dict[str, torch.Tensor] = {}
        self.num_bytes: list[int] = []  # pulled, of each version
        self.error: BaseException | None = None
        self.leave = threading.Event()
        self.history: dict[int, dict[str, torch.Tensor]] = {}
        self._corrupt, self._die_at = corrupt_checksum_of, die_at
        self._puller = Puller(_store, load_client_keys(cfg.buffer.keys)) if pulls else None
        self._downloader = WeightDownloader(torch.device("cpu"), transports)
        self.model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(cfg.model.path)).eval()

    def run(self) -> None:
        hello = Hello(
            role=Role.actor,
            name=self.name,
            protocol=PROTOCOL_VERSION,
            tokenizer=Tokenizer.load(self.cfg.model.path).fingerprint,
            host="here",
            pid=os.getpid(),
            capacity=4 * self.cfg.sampling.n,
            transport=PULL if self._puller is not None else COLLECTIVE,
        )
        keys = self.cfg.buffer.keys
        client = BufferClient(self.address, hello, max_bytes=self.cfg.buffer.max_message_mb << 20, keys=keys)
        inbox = client.inbox(Tickets, UpdateWeights)
        try:
            client.connect(120.0, stop=self.leave)
            while not self.leave.is_set():
                try:
                    message = inbox.take(0.1)
                except DeadlineExceeded:
                    continue
                if isinstance(message, UpdateWeights) and message.rendezvous.transport == PULL:
                    client.send(self._pull(message))
                elif isinstance(message, UpdateWeights):
                    client.send(self._receive(message))
                else:
                    for ticket in message.tickets:
                        client.send(GroupResult(group=self._answer(ticket)))
        except (RunStopped, BufferUnreachable) as error:
            self.error = error
        finally:
            client.close()
            self._downloader.close()
            if self._puller is not None:
                self._puller.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave.set()
        self.join(90.0)
        assert not self.is_alive(), f"{self.name} is still at work"

    def _pull(self, update: UpdateWeights) -> WeightsApplied:
        assert self._puller is not None
        about = {"generation": update.generation, "version": update.version, "epoch": update.epoch, "seconds": 0.0}
        try:
            # soon over: the source of a learner that was killed never answers, and the buffer has named another meanwhile
            result = self._puller.pull(update, monotonic() + 1.0)
        except WeightsError as error:
            return WeightsApplied(checksums=[], error=str(error), **about)
        assert self._puller.store is not None
        buckets = [flat.clone() for flat in self._puller.store.buckets]
        for bucket, flat in zip(update.manifest.buckets, buckets, strict=True):
            self.received |= dict(bucket_views(bucket, flat))
        self.model.load_state_dict(self.received, strict=False)
        self.versions.append(update.version)
        self.history[update.version] = dict(self.received)
        self.num_bytes.append(result.num_bytes)
        catalog = msgspec.msgpack.decode(update.rendezvous.address, type=PullAddress).catalog
        sums = [checksum(flat) for flat in buckets]
        return WeightsApplied(checksums=sums, num_bytes=result.num_bytes, catalog=catalog, **about)

    def _receive(self, update: UpdateWeights) -> WeightsApplied:
        if update.version == self._die_at:
            os._exit(1)
        self._downloader.start(update, 10.0)
        result = self._downloader.result(60.0)
        assert result is not None, "a download outlived its deadlines"
        sums, error = result
        if not error:
            for bucket, flat in zip(update.manifest.buckets, self._downloader.take_buckets(), strict=True):
                self.received |= dict(bucket_views(bucket, flat))
            self.model.load_state_dict(self.received, strict=False)
            self.versions.append(update.version)
        if update.version == self._corrupt:
            sums, self._corrupt = [value + 1 for value in sums], -1
        return WeightsApplied(
            generation=update.generation, version=update.version, epoch=update.epoch, checksums=sums, seconds=0.0, error=error
        )

    def _answer(self, ticket: Ticket) -> Group:
        rollouts = [self._rollout(ticket, rollout_seed(ticket.seed, i), i) for i in range(ticket.sampling.n)]
        return Group.for_ticket(ticket, rollouts, actor=self.name, seconds=0.01)

    def _rollout(self, ticket: Ticket, seed: int, index: int) -> Rollout:
        rng = np.random.default_rng(seed)
        length = int(rng.integers(2, ticket.sampling.max_tokens + 1))
        prompt = int32_array(ticket.prompt.token_ids)
        completion = rng.integers(2, self.model.config.vocab_size, length).astype("<i4")
        tokens = torch.tensor(np.concatenate((prompt, completion))).long()
        with torch.no_grad():
            logits = self.model(input_ids=tokens[None]).logits[0] / max(ticket.sampling.temperature, 1e-6)
        own = logits.log_softmax(-1)[:-1].gather(1, tokens[1:, None])[len(prompt) - 1 :, 0]
        return Rollout(
            token_ids=completion.tobytes(),
            behaviour_logprobs=own.numpy().astype("<f4").tobytes(),
            spans=[VersionSpan(version=self.versions[-1], start=0, end=length)],
            finish_reason=FinishReason.stop,
            verdict=Verdict(reward=float(index % 2), status=VerdictStatus.ok, verifier="number", seconds=0.0),
        )


def _store(manifest: Manifest) -> ChunkStore:
    buckets = [torch.zeros(bucket.num_bytes, dtype=torch.uint8) for bucket in manifest.buckets]
    return ChunkStore(ChunkLayout(manifest), buckets)


if __name__ == "__main__":
    torch.set_num_threads(1)
    ScriptedActor(load_config(Path(sys.argv[1])), sys.argv[2], sys.argv[3], die_at=int(sys.argv[4])).run()
