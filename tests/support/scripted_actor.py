"""An actor without vLLM: joins the weights group for real, and answers tickets with random completions.

Behaviour log-probabilities are recomputed with transformers from the received tensors, so that a learner that trains on
other weights than it sent shows up as a ratio that is not 1.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from prolong.actor.weight_download import WeightDownloader
from prolong.buffer.client.client import BufferClient
from prolong.common.config.run_files import load_config
from prolong.common.config.sections import Config
from prolong.common.errors import BufferUnreachable, DeadlineExceeded, RunStopped
from prolong.common.messages import PROTOCOL_VERSION, GroupResult, Hello, Role, Tickets, UpdateWeights, WeightsApplied
from prolong.common.tokenizer import Tokenizer
from prolong.common.types import (
    FinishReason,
    Group,
    Rollout,
    Ticket,
    Verdict,
    VerdictStatus,
    VersionSpan,
    int32_array,
    rollout_seed,
)
from prolong.common.weights.api import WeightTransport
from prolong.common.weights.buckets import bucket_views
from prolong.common.weights.transports import TRANSPORTS
from transformers import AutoConfig, AutoModelForCausalLM


class ScriptedActor(threading.Thread):
    """Runs until the run stops. `versions`: acknowledged ones, in order."""

    def __init__(
        self,
        cfg: Config,
        address: str,
        name: str = "actor-0",
        *,
        corrupt_checksum_of: int = -1,
        die_at: int = -1,
        transports: Mapping[str, WeightTransport] = TRANSPORTS,
    ) -> None:
        """`die_at`: the version in whose broadcast this process ends, before the first byte."""
        super().__init__(name=name, daemon=True)
        self.cfg, self.address = cfg, address
        self.versions: list[int] = []
        self.received: dict[str, torch.Tensor] = {}
        self.error: BaseException | None = None
        self.leave = threading.Event()
        self._corrupt, self._die_at = corrupt_checksum_of, die_at
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
        )
        client = BufferClient(self.address, hello, max_bytes=self.cfg.buffer.max_message_mb << 20)
        inbox = client.inbox(Tickets, UpdateWeights)
        try:
            client.connect(30.0)
            while not self.leave.is_set():
                try:
                    message = inbox.take(0.1)
                except DeadlineExceeded:
                    continue
                if isinstance(message, UpdateWeights):
                    client.send(self._receive(message))
                else:
                    for ticket in message.tickets:
                        client.send(GroupResult(group=self._answer(ticket)))
        except (RunStopped, BufferUnreachable) as error:
            self.error = error
        finally:
            client.close()
            self._downloader.close()

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


if __name__ == "__main__":
    torch.set_num_threads(1)
    ScriptedActor(load_config(Path(sys.argv[1])), sys.argv[2], sys.argv[3], die_at=int(sys.argv[4])).run()
