"""A training run in one process, in turns: sample, judge, train. Every batch has exactly the staleness that eta allows.

    version v:  sample with the policy of v until eta + 1 batches wait  ->  train the oldest one, sampled at v - min(v, eta)

That is the state of a run whose actors are faster than its learner, so the most that the bound permits; and what the step
computes depends on the seed alone, not on the speed of a machine. Trainer, objective, verifiers and the sampling law are those
of any run; buffer, actors, sockets and the journal are not there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..actor.engines.completion import Completion
from ..actor.rollouts import answer_ids
from ..common.config.sections import Config, SourceConfig
from ..common.config.trees import largest_eta
from ..common.data.prompts import load_prompts
from ..common.tokenizer import Tokenizer
from ..common.types import (
    Batch,
    FinishReason,
    Group,
    Prompt,
    Rollout,
    Sampling,
    Ticket,
    TicketKind,
    ValidationSetting,
    Verdict,
    VersionSpan,
    int32_array,
    rollout_seed,
)
from ..learner.algorithm.api import LossTerms, PolicyLoss, TokenLoss, Tokens
from ..learner.algorithm.ratios import exp_ratio, finite_difference, rollout_sums
from ..learner.algorithm.rewards import shaped_rewards_of
from ..learner.algorithm.samples import check_staleness
from ..learner.batches.packing import MicroBatch
from ..learner.model.policy import Policy
from ..learner.ranks import Ranks
from ..verifiers.api import Task
from ..verifiers.registry import find, parse_answer
from .learner_step import build_trainer
from .quick_decoder import QuickDecoder, QuickRow

CPU = torch.device("cpu")
GENERATION = 1
# (version, metrics of the steps so far) -> the bound on staleness from this version on
EtaRule = Callable[[int, Sequence[dict[str, float]]], int]


class InlineJudge:
    """Verifiers in this process, for tasks that need no sandbox. Equal texts are judged once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[tuple[str, str], Verdict] = {}
        self._loaded: set[str] = set()

    def judge(self, prompt: Prompt, completion: Completion) -> Verdict:
        """The verdict on one completion."""
        text = self._tokenizer.decode(answer_ids(completion, self._tokenizer.eos_ids))
        found = self._known.get((prompt.uid, text))
        if found is None:
            cut_off = completion.finish_reason is FinishReason.length
            found = self._score(prompt, Task(completion=text, answer=parse_answer(prompt.answer), cut_off=cut_off))
            self._known[prompt.uid, text] = found
        return found

    def _score(self, prompt: Prompt, task: Task) -> Verdict:
        verifier = find(prompt.verifier)
        score = verifier.quick(task)
        if score is None:
            if prompt.verifier not in self._loaded:
                verifier.load()
                self._loaded.add(prompt.verifier)
            score = verifier.score(task)
        return Verdict(reward=score.reward, status=score.status, verifier=prompt.verifier, seconds=0.0)


class InlineSampler:
    """Groups of the trainer's policy, as it is when `load` is called."""

    def __init__(self, cfg: Config, policy: Policy, tokenizer: Tokenizer) -> None:
        self._cfg, self._judge = cfg, InlineJudge(tokenizer)
        self._decoder = QuickDecoder(policy.causal, tokenizer.eos_ids, cfg.model.max_context)
        self.version = -1

    def load(self, version: int) -> None:
        """Take the weights, which are those of `version`."""
        self._decoder.load()
        self.version = version

    def groups(self, tickets: Sequence[Ticket]) -> list[Group]:
        """Sample and judge the groups of `tickets`, all together."""
        rows = [[self._row(ticket, i) for i in range(ticket.sampling.n)] for ticket in tickets]
        self._decoder.decode([row for own in rows for row in own])
        return [
            Group.for_ticket(ticket, [self._rollout(row, ticket.prompt) for row in own], actor="inline", seconds=0.0)
            for ticket, own in zip(tickets, rows, strict=True)
        ]

    def _row(self, ticket: Ticket, index: int) -> QuickRow:
        prompt = int32_array(ticket.prompt.token_ids).tolist()
        return QuickRow(
            prompt=prompt,
            seed=rollout_seed(ticket.seed, index),
            temperature=ticket.sampling.temperature,
            max_tokens=min(ticket.sampling.max_tokens, self._cfg.model.max_context - len(prompt)),
        )

    def _rollout(self, row: QuickRow, prompt: Prompt) -> Rollout:
        assert row.finish_reason is not None
        completion = Completion(
            token_ids=np.array(row.token_ids, "<i4").tobytes(),
            behaviour_logprobs=np.array(row.logprobs, "<f4").tobytes(),
            spans=[VersionSpan(version=self.version, start=0, end=len(row.token_ids))],
            finish_reason=row.finish_reason,
        )
        return Rollout(
            token_ids=completion.token_ids,
            behaviour_logprobs=completion.behaviour_logprobs,
            spans=completion.spans,
            finish_reason=completion.finish_reason,
            verdict=self._judge.judge(prompt, completion),
        )


@dataclass(slots=True)
class RolloutUse:
    """What a step made of its rollouts, one number each [R]."""

    tokens: list[np.ndarray] = field(default_factory=list)
    # tokens that the loss took the gradient from
    clipped: list[np.ndarray] = field(default_factory=list)
    # sum of w = exp(policy - behaviour) over the tokens, and of w^2
    weight: list[np.ndarray] = field(default_factory=list)
    weight_squared: list[np.ndarray] = field(default_factory=list)


class WatchedLoss:
    """A policy loss that notes, for every rollout, how its tokens fared. The loss itself stays what it is."""

    def __init__(self, inner: PolicyLoss, seen: RolloutUse) -> None:
        self._inner, self._seen = inner, seen

    @property
    def needs_proximal(self) -> bool:
        return self._inner.needs_proximal

    def for_mini_batch(self, micros: Sequence[MicroBatch], ranks: Ranks) -> WatchedTokenLoss:
        return WatchedTokenLoss(self._inner.for_mini_batch(micros, ranks), self._seen)


class WatchedTokenLoss:
    """The loss of one update of `WatchedLoss`."""

    def __init__(self, inner: TokenLoss, seen: RolloutUse) -> None:
        self._inner, self._seen = inner, seen

    def __call__(self, tokens: Tokens, log_ratio: Tensor) -> LossTerms:
        terms = self._inner(tokens, log_ratio)
        weight = exp_ratio(finite_difference(tokens.policy.detach(), tokens.behaviour))
        clipped = (terms.clipped_low | terms.clipped_high | terms.clipped_dual).to(weight.dtype)
        for kept, values in (
            (self._seen.tokens, torch.ones_like(weight)),
            (self._seen.clipped, clipped),
            (self._seen.weight, weight),
            (self._seen.weight_squared, weight.square()),
        ):
            kept.append(rollout_sums(values, tokens.rollout, tokens.num_rollouts).numpy())
        return terms

    def metrics(self) -> dict[str, float]:
        return self._inner.metrics()


@dataclass(slots=True)
class LockstepResult:
    """What a run did."""

    # of version v, the mean reward of the rollouts that it sampled
    rewards: list[float] = field(default_factory=list)
    # of every step
    metrics: list[dict[str, float]] = field(default_factory=list)
    use: RolloutUse = field(default_factory=RolloutUse)
    # mean reward on the held-out prompts at the end
    heldout: float = 0.0


class LockstepRun:
    """One run of a configuration of the demo's kind: a model of float32 on the CPU, sampling without cuts."""

    def __init__(self, cfg: Config, prompts: Sequence[Prompt], heldout: Sequence[Prompt], tokenizer: Tokenizer) -> None:
        self.cfg = cfg
        self.trainer = build_trainer(cfg, Ranks(), CPU)
        self._sampler = InlineSampler(cfg, self.trainer.policy, tokenizer)
        self._rng = np.random.default_rng(cfg.run.seed)
        self._prompts, self._heldout = prompts, heldout
        self._order: list[int] = []
        self._issued = 0
        self._result = LockstepResult()
        self.trainer.loss = WatchedLoss(self.trainer.loss, self._result.use)

    def run(self, eta: EtaRule) -> LockstepResult:
        """Train `run.steps` steps under the bound that `eta` returns before each of them."""
        waiting: deque[list[Group]] = deque()
        result, cfg = self._result, self.cfg
        for version in range(cfg.run.steps + 1):
            self._sampler.load(version)
            bound = eta(version, result.metrics)
            # one batch at least: its reward is that of this version, also where enough batches wait
            sampled: list[list[Group]] = []
            while not sampled or len(waiting) < bound + 1:
                sampled.append(self._sample_batch())
                if len(waiting) < bound + 1:
                    waiting.append(sampled[-1])
            result.rewards.append(float(np.mean([self._mean_reward(group) for batch in sampled for group in batch])))
            if version < cfg.run.steps:
                result.metrics.append(self._step(version, waiting.popleft()))
        result.heldout = self._sweep()
        return result

    def _step(self, version: int, groups: list[Group]) -> dict[str, float]:
        batch = Batch(generation=GENERATION, version=version, groups=groups)
        buffer = self.cfg.buffer
        largest = largest_eta(buffer)
        check_staleness(batch, version=version, generation=GENERATION, eta=largest, straggler=buffer.straggler)
        metrics = self.trainer.train(batch)
        reference, how = self.trainer.reference, self.cfg.reference
        if reference is not None and how.ema > 0 and (version + 1) % how.ema_every == 0:
            reference.average(self.trainer.policy, how.ema)
        return metrics

    def _sample_batch(self) -> list[Group]:
        sampling, cfg = self.cfg.sampling, self.cfg
        rule = Sampling(n=sampling.n, temperature=sampling.temperature, top_p=1.0, max_tokens=sampling.max_tokens)
        return self._sampler.groups([self._ticket(self._draw(), rule) for _ in range(cfg.buffer.batch_groups)])

    def _draw(self) -> Prompt:
        if not self._order:
            self._order = self._rng.permutation(len(self._prompts)).tolist()
        return self._prompts[self._order.pop()]

    def _ticket(self, prompt: Prompt, sampling: Sampling, kind: TicketKind = TicketKind.train) -> Ticket:
        self._issued += 1
        return Ticket(
            ordinal=self._issued,
            kind=kind,
            prompt=prompt,
            sampling=sampling,
            seed=(self.cfg.run.seed << 32) + self._issued,
            generation=GENERATION,
            version=self._sampler.version,
            lease_s=1.0,
            setting=ValidationSetting.none,
        )

    def _mean_reward(self, group: Group) -> float:
        return float(shaped_rewards_of(group, self._sampler.version, self.cfg.rewards).mean())

    def _sweep(self) -> float:
        """Mean reward of the present policy on the held-out prompts."""
        how = self.cfg.validation
        rule = Sampling(n=how.n, temperature=how.temperature, top_p=1.0, max_tokens=how.max_tokens)
        tickets = [self._ticket(prompt, rule, TicketKind.validation) for prompt in self._heldout]
        return float(np.mean([self._mean_reward(group) for group in self._sampler.groups(tickets)]))


def task_prompts(file: Path, tasks: Sequence[str], cfg: Config, tokenizer: Tokenizer) -> list[Prompt]:
    """The prompts of `tasks` ("domain/task") in a file, task after task."""
    limits = cfg.model.max_context, max(cfg.sampling.max_tokens, cfg.validation.max_tokens)
    return [each for task in tasks for each in load_prompts(SourceConfig(file=str(file), only=task), tokenizer, *limits)]
