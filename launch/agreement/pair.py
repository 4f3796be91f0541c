"""An engine and a policy side by side: the policy's weights reach the engine the way a run sends them.

pair = await EnginePair.start(cfg)               the engine first: it is forked while this process has one thread
await pair.publish()                             the policy's present weights
apart = pair.log_ratios(await pair.sample())     tokens that the engine sampled, under both
stages = await pair.stages()                     what both compute for one prompt, layer by layer
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch.nn import functional as F

from ...actor.engines.api import Engine
from ...actor.engines.layer_outputs import FINAL, LOGITS, LayerOutputs
from ...actor.engines.registry import engine_class
from ...common.config.sections import Config, WeightsConfig
from ...common.messages import PublishPlan, UpdateWeights
from ...common.models import DTYPES, resolve_device
from ...common.types import Prompt, Sampling, Ticket, TicketKind, float32_array, int32_array
from ...common.weights.transports import broadcast_transport, configured_transport
from ...learner.batches.packing import Sample, pack
from ...learner.model.policy import Policy, build_policy
from ...learner.weights.packer import WeightPacker

TIMEOUT_S = 120.0
PROMPTS, ROLLOUTS, MAX_TOKENS = 6, 4, 64
PROBE_TOKENS = 40
# shares of a parameter's spread that `shift_weights` adds as noise
SHIFT = 0.2

Stages = dict[str, tuple[np.ndarray, np.ndarray]]  # stage -> what engine and policy compute, [tokens, features] each


@runtime_checkable
class LayerWatch(Protocol):
    """An engine that can show what its layers compute."""

    async def layer_outputs(self, ticket: Ticket) -> dict[str, np.ndarray]: ...


class EnginePair:
    """One engine and one policy in this process."""

    def __init__(self, cfg: Config, engine: Engine, policy: Policy) -> None:
        self.cfg, self.engine, self.policy = cfg, engine, policy
        self._dtype = DTYPES[cfg.model.dtype]
        weights = WeightsConfig(transport=cfg.weights.transport, timeout_s=TIMEOUT_S)
        device = resolve_device(cfg.model.device)
        self._packer = WeightPacker(policy.full_shapes(self._dtype), weights.bucket_mb << 20, device)
        # where the run's actors pull, a broadcast takes the same bytes to the engine, which is in this process
        transport = broadcast_transport(weights) or configured_transport(WeightsConfig())
        self._end = transport.open_learner_end(weights, device)
        self._thread = ThreadPoolExecutor(1)
        self._version = -1
        self._ordinal = 0

    @classmethod
    async def start(cls, cfg: Config) -> EnginePair:
        """Raises: UserError, ModelError, ProlongError."""
        engine = await engine_class(cfg.actor.engine).start(cfg.model, cfg.actor, cfg.run.seed, [])
        try:
            device = resolve_device(cfg.model.device)
            # parameters in the dtype of the run, where the learner shards float32 masters that compute in it
            policy = build_policy(cfg.model, device=device, chunk=cfg.learner.logprob_chunk, shard=False, trainable=False)
            return cls(cfg, engine, policy.to(DTYPES[cfg.model.dtype]))
        except BaseException:
            await engine.close()
            raise

    async def publish(self) -> None:
        """Send the policy's weights. Raises: ProlongError."""
        self._version += 1
        update = UpdateWeights(
            generation=1,
            version=self._version,
            epoch=1,
            member=0,
            num_members=1,
            rendezvous=self._end.rendezvous,
            manifest=self._packer.manifest,
        )
        sent = self._thread.submit(self._send)
        await self.engine.apply_weights(update, TIMEOUT_S)
        await asyncio.wrap_future(sent)

    def _send(self) -> None:
        packed = self._packer.pack(self._version, self.policy.full_parameters(self._dtype))
        plan = PublishPlan(generation=1, version=self._version, epoch=1, members=["engine"])
        self._end.publish(plan, packed, TIMEOUT_S)
        self._packer.release(packed)

    async def sample(self) -> list[Sample]:
        """Rollouts of random prompts, as the learner gets them."""
        samples: list[Sample] = []
        for _ in range(PROMPTS):
            ticket = self._ticket(5 + 3 * (self._ordinal % PROMPTS), n=ROLLOUTS, max_tokens=MAX_TOKENS)
            async for _, completion in self.engine.generate(ticket):
                tokens, behaviour = int32_array(completion.token_ids), float32_array(completion.behaviour_logprobs)
                samples.append(_sample(int32_array(ticket.prompt.token_ids), tokens, behaviour, group=ticket.ordinal))
        return samples

    @torch.no_grad()
    def log_ratios(self, samples: list[Sample]) -> np.ndarray:
        """The learner's log-probability minus the engine's, of every sampled token."""
        apart = []
        for micro in pack(samples, token_budget=self.cfg.learner.token_budget, layout=self.policy.layout):
            micro = micro.to(self.policy.causal.device)
            logprobs, _ = self.policy.logprobs(micro)
            apart.append((logprobs - micro.behaviour).double().cpu().numpy())
        return np.concatenate(apart)

    async def stages(self) -> Stages:
        """What engine and policy compute for one prompt; nothing for an engine that does not show it."""
        if not isinstance(self.engine, LayerWatch):
            return {}
        ticket = self._ticket(PROBE_TOKENS, n=1, max_tokens=1)
        theirs = await self.engine.layer_outputs(ticket)
        ours = self._policy_stages(int32_array(ticket.prompt.token_ids))
        return {stage: (theirs[stage], ours[stage]) for stage in ours if stage in theirs}

    @torch.no_grad()
    def _policy_stages(self, tokens: np.ndarray) -> dict[str, np.ndarray]:
        """The learner's own path with one document: the last token is its completion, and predicted by none of the others."""
        config = self.policy.causal.config.get_text_config(decoder=True)
        outputs = LayerOutputs(self.policy.causal.base_model, config.num_hidden_layers, config.hidden_size)
        sample = _sample(tokens[:-1], tokens[-1:], np.zeros(1, dtype=np.float32))
        (micro,) = pack([sample], token_budget=len(tokens), layout=self.policy.layout)
        self.policy.logprobs(micro.to(self.policy.causal.device))
        found = outputs.take()
        if FINAL in found:
            found[LOGITS] = self._logits(found[FINAL][-1:])
        return {stage: value.numpy() for stage, value in found.items()}

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        head, form = self.policy.causal.get_output_embeddings(), self.policy.head_form
        assert isinstance(head, torch.nn.Linear)
        bias = None if head.bias is None else head.bias.float().cpu()
        logits = F.linear(states, head.weight.float().cpu(), bias)
        if form.soft_cap is not None:
            logits = form.soft_cap * torch.tanh(logits / form.soft_cap)
        return logits * form.scale

    @torch.no_grad()
    def shift_weights(self) -> None:
        """Move every parameter that is trained, so that weights which an update does not reach show."""
        generator = torch.Generator().manual_seed(self._version + 1)
        for parameter in (tensor for _, tensor in self.policy.stored_tensors() if isinstance(tensor, torch.nn.Parameter)):
            noise = torch.randn(parameter.shape, generator=generator)
            spread = parameter.float().std() if parameter.numel() > 1 else parameter.float().abs()
            parameter.add_((noise.to(parameter.device) * (SHIFT * spread + 0.01)).to(parameter.dtype))

    async def close(self) -> None:
        self._end.disconnect()
        self._thread.shutdown()
        await self.engine.close()
        self._end.close()

    def _ticket(self, num_tokens: int, *, n: int, max_tokens: int) -> Ticket:
        self._ordinal += 1
        config = self.policy.causal.config.get_text_config(decoder=True)
        room = max(self.cfg.model.max_context - num_tokens, 1)
        token_ids = np.random.default_rng(self._ordinal).integers(2, config.vocab_size, num_tokens).astype("<i4")
        return Ticket(
            ordinal=self._ordinal,
            kind=TicketKind.train,
            prompt=Prompt(uid="probe", domain="probe", task="probe", text="", token_ids=token_ids.tobytes(), verifier="none"),
            sampling=Sampling(n=n, temperature=1.0, top_p=1.0, max_tokens=min(max_tokens, room)),
            seed=self._ordinal,
            generation=1,
            version=max(self._version, 0),
            lease_s=600.0,
        )


def _sample(prompt: np.ndarray, completion: np.ndarray, behaviour: np.ndarray, group: int = 0) -> Sample:
    return Sample(
        group=group,
        prompt=prompt,
        completion=completion,
        behaviour=behaviour,
        keep=np.ones(len(completion), dtype=bool),
        staleness=np.zeros(len(completion), dtype=np.int32),
        temperature=1.0,
        reward=0.0,
    )
