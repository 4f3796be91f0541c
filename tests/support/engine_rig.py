"""A real engine with the learner's end of the weights plane, and a transformers model to compare it with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prolong.actor.engines.api import Engine
from prolong.actor.engines.completion import Completion
from prolong.actor.engines.registry import engine_class
from prolong.common.config.choices import Device, EngineKind
from prolong.common.config.sections import ActorConfig, ModelConfig, WeightsConfig
from prolong.common.messages import PublishPlan, UpdateWeights
from prolong.common.types import Prompt, Sampling, Ticket, TicketKind, float32_array, int32_array
from prolong.common.weights.api import LearnerEnd
from prolong.common.weights.buckets import PackedWeights, fill_bucket, plan_buckets
from prolong.common.weights.transports import configured_transport
from transformers import AutoModelForCausalLM

from tests.support.tiny_model import make_tiny_model, randomize

TIMEOUT_S = 60.0
BUCKET_BYTES = 100_000  # several buckets also for a tiny model
CPU = torch.device("cpu")
EOS = 1
PROMPT = [3, 4, 12, 5, 16]  # "12+3="


@dataclass
class Rig:
    """An engine, the transformers model whose weights it is sent, and a sender in a thread."""

    engine: Engine
    model: torch.nn.Module
    runner: asyncio.Runner
    end: LearnerEnd
    path: str
    epoch: int = 1
    versions: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)  # weights of every version that was sent
    _sender: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    _ordinal: int = 0

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(asyncio.wait_for(coroutine, 4 * TIMEOUT_S))

    @property
    def version(self) -> int:
        return self.engine.version

    def ticket(
        self, *, n: int = 16, temperature: float = 1.0, max_tokens: int = 64, seed: int = 0, top_p: float = 1.0, **cuts: Any
    ) -> Ticket:
        self._ordinal += 1
        return Ticket(
            ordinal=self._ordinal,
            kind=TicketKind.train,
            prompt=Prompt(
                uid="p", domain="math", task="t", text="12+3=", token_ids=np.array(PROMPT, "<i4").tobytes(), verifier="math"
            ),
            sampling=Sampling(n=n, temperature=temperature, top_p=top_p, max_tokens=max_tokens, **cuts),
            seed=seed,
            generation=1,
            version=self.version,
            lease_s=60.0,
        )

    async def collect(self, ticket: Ticket) -> list[Completion]:
        """The ticket's completions in the order of their seeds."""
        completions = {index: completion async for index, completion in self.engine.generate(ticket)}
        assert sorted(completions) == list(range(ticket.sampling.n))
        return [completions[index] for index in sorted(completions)]

    async def until_unfinished(self, condition: Callable[[int], bool]) -> None:
        """Wait until the engine's number of unfinished rollouts is as it should; `run` has the deadline."""
        # engines have no event for it
        while not condition(self.engine.num_unfinished):  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    def generate(self, **sampling: Any) -> list[Completion]:
        return self.run(self.collect(self.ticket(**sampling)))

    def offer(self, version: int, *, new_epoch: bool = False) -> tuple[UpdateWeights, Future[list[int]]]:
        """Draw the weights of `version` and start to send them; returns what the buffer would tell the actor."""
        randomize(self.model, version)
        weights = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}
        self.versions[version] = weights
        return self.offer_tensors(version, weights, new_epoch=new_epoch)

    def offer_tensors(
        self, version: int, weights: dict[str, torch.Tensor], *, new_epoch: bool = False
    ) -> tuple[UpdateWeights, Future[list[int]]]:
        """Start to send these tensors as `version`."""
        manifest = plan_buckets([(name, tensor.dtype, tensor.shape) for name, tensor in weights.items()], BUCKET_BYTES)
        if new_epoch:
            self.leave()
        update = self.update(version, manifest)
        return update, self._sender.submit(self._send, update, weights)

    def update(self, version: int, manifest: Any) -> UpdateWeights:
        return UpdateWeights(
            generation=1,
            version=version,
            epoch=self.epoch,
            member=0,
            num_members=1,
            rendezvous=self.end.rendezvous,
            manifest=manifest,
        )

    def leave(self) -> None:
        """The next offer goes to a new epoch."""
        self.end.disconnect()
        self.epoch += 1

    def _send(self, update: UpdateWeights, weights: dict[str, torch.Tensor]) -> list[int]:
        buckets = [fill_bucket(bucket, weights) for bucket in update.manifest.buckets]
        packed = PackedWeights(version=update.version, manifest=update.manifest, buckets=buckets)
        plan = PublishPlan(generation=1, version=update.version, epoch=update.epoch, members=["engine"])
        self.end.publish(plan, packed, TIMEOUT_S)
        return packed.checksums()

    async def push(self, version: int, *, new_epoch: bool = False) -> None:
        """Send the weights of `version` and have them applied; what arrived is what was sent."""
        update, sent = self.offer(version, new_epoch=new_epoch)
        assert await self.engine.apply_weights(update, TIMEOUT_S) == await asyncio.wrap_future(sent)

    def recompute(self, completion: Completion, temperature: float, version: int) -> np.ndarray:
        """[T] float32 log-probabilities of the completion under the weights of `version`, by transformers."""
        self.model.load_state_dict(self.versions[version], strict=False)
        return logprobs_under(self.model, completion, temperature)

    def close(self) -> None:
        self.leave()
        self._sender.shutdown()
        self.runner.run(self.engine.close())
        self.runner.close()
        self.end.close()


@torch.no_grad()
def logprobs_under(model: torch.nn.Module, completion: Completion, temperature: float = 1.0) -> np.ndarray:
    """[T] float32 log-probabilities of the completion under a model of transformers."""
    ids = torch.tensor([PROMPT + int32_array(completion.token_ids).tolist()])
    logits = model(ids).logits[0, len(PROMPT) - 1 : -1]
    logprobs = torch.log_softmax(logits.float() / (temperature or 1.0), -1)
    return logprobs.gather(1, ids[0, len(PROMPT) :, None])[:, 0].numpy()


def differences(rig: Rig, completions: list[Completion], temperature: float, version: int) -> np.ndarray:
    """All tokens' |recomputed - behaviour| log-probability."""
    return np.concatenate(
        [np.abs(rig.recompute(c, temperature, version) - float32_array(c.behaviour_logprobs)) for c in completions]
    )


def build_rig(folder: Path, *, tied: bool, kind: EngineKind = EngineKind.vllm) -> Rig:
    make_tiny_model(folder, tied=tied)
    return rig_for(folder, kind)


def rig_for(
    folder: Path,
    kind: EngineKind = EngineKind.vllm,
    *,
    device: Device = Device.cpu,
    dtype: str = "float32",
    learner: torch.device = CPU,
    engine_args: dict[str, object] | None = None,
) -> Rig:
    """A rig for the model in `folder`, with an engine on `device` that gets weights or adapters from `learner`."""
    torch.set_num_threads(1)
    runner = asyncio.Runner()
    model = ModelConfig(path=str(folder), max_context=256, device=device, dtype=dtype, lora={"rank": 4})
    actor = ActorConfig(engine=kind, kv_cache_gib=0.25, engine_args=engine_args or {})
    engine = runner.run(engine_class(kind).start(model, actor, 0, [EOS]))
    transformers_model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    cfg = WeightsConfig(timeout_s=TIMEOUT_S)
    end = configured_transport(cfg).open_learner_end(cfg, learner)
    rig = Rig(engine, transformers_model, runner, end, str(folder))
    rig.run(rig.push(0))
    return rig
