"""A ticket becomes a scored group: generate, decode and verify each rollout as soon as it ends, while the others go on.

ticket --engine--> completion 0..n-1, as they end --tokenizer--> text --verifier pool--> verdict --> group
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter

from ..common.tokenizer import Tokenizer
from ..common.types import FinishReason, Group, Prompt, Rollout, Ticket, int32_array
from ..verifiers.workers.pool import VerifierPool
from .engines.api import Engine
from .engines.completion import Completion
from .stats import ActorStats


class RolloutWorker:
    """Turns tickets into scored groups; any number of them at once."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, pool: VerifierPool, stats: ActorStats, name: str) -> None:
        self._engine, self._tokenizer, self._pool, self._stats, self._name = engine, tokenizer, pool, stats, name

    async def work(self, ticket: Ticket) -> Group:
        """The ticket's group, in the order of its seeds. Rollouts whose verdict is None are left out and counted.

        Cancelling aborts the rollouts that are still generated. Raises the errors of the engine and of the pool.
        """
        start = perf_counter()
        in_flight = ticket.sampling.n
        verifying: dict[int, asyncio.Task[Rollout]] = {}
        self._stats.started(in_flight)
        try:
            async with asyncio.TaskGroup() as tasks:
                async for index, completion in self._engine.generate(ticket):
                    verifying[index] = tasks.create_task(self._verify(ticket.prompt, completion))
                    in_flight -= 1
                    self._stats.ended(1)
        finally:
            self._stats.ended(in_flight)
        rollouts = [verifying[index].result() for index in sorted(verifying)]
        return self._group(ticket, rollouts, perf_counter() - start)

    async def _verify(self, prompt: Prompt, completion: Completion) -> Rollout:
        self._stats.counts["generated_rollouts"] += 1
        self._stats.counts["generated_tokens"] += completion.num_tokens
        text = self._tokenizer.decode(answer_ids(completion, self._tokenizer.eos_ids))
        with self._stats.awaiting_verdict():
            verdict = await self._pool.verify(prompt, text, completion.finish_reason, completion.token_ids)
        self._stats.judged(verdict)
        return Rollout(
            token_ids=completion.token_ids,
            behaviour_logprobs=completion.behaviour_logprobs,
            spans=completion.spans,
            finish_reason=completion.finish_reason,
            verdict=verdict,
        )

    def _group(self, ticket: Ticket, rollouts: list[Rollout], seconds: float) -> Group:
        kept = [rollout for rollout in rollouts if rollout.verdict.reward is not None]
        self._stats.counts["dropped_rollouts"] += len(rollouts) - len(kept)
        return Group.for_ticket(ticket, kept, actor=self._name, seconds=seconds, dropped_rollouts=len(rollouts) - len(kept))


def answer_ids(completion: Completion, stop_ids: Sequence[int]) -> list[int]:
    """Token ids of the text that the verifier reads: the completion without the stop token that ended it."""
    ids = int32_array(completion.token_ids).tolist()
    if completion.finish_reason is FinishReason.stop and ids and ids[-1] in stop_ids:
        ids.pop()
    return ids
