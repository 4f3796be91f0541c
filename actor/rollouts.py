"""A ticket becomes a scored group: generate, decode and verify each rollout as soon as it ends, while the others go on.

ticket --engine--> completion 0..n-1, as they end --tokenizer--> text --verifier pool--> verdict --> group
                                                              interrupted before the last verdict --> started rollouts
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from time import monotonic

from ..common.tokenizer import Tokenizer
from ..common.trace import NO_TRACE, Fact, Tracer
from ..common.types import FinishReason, Group, Rollout, StartedRollout, Ticket, Verdict, int32_array
from ..verifiers.workers.pool import VerifierPool
from .engines.api import Engine
from .engines.completion import Completion
from .handover import continued, ended_before, started_rollout
from .stats import ActorStats


class RolloutWorker:
    """Turns tickets into scored groups; any number of them at once."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        pool: VerifierPool,
        stats: ActorStats,
        name: str,
        tracer: Tracer = NO_TRACE,
    ) -> None:
        self._tracer = tracer
        self._engine, self._tokenizer, self._pool, self._stats, self._name = engine, tokenizer, pool, stats, name
        self._judging: set[asyncio.Task[Verdict]] = set()
        self._interrupted = False

    async def work(self, ticket: Ticket) -> Group | list[StartedRollout]:
        """The ticket's group, in the order of its seeds. Rollouts whose verdict is None are left out and counted.

        After `interrupt`: what there is of its rollouts, unless the group was complete. Rollouts that other actors began go on.
        Cancelling aborts the rollouts that are still generated. Raises the errors of the engine and of the pool.
        """
        if self._interrupted:
            return ticket.started
        work = _Work(ticket)
        in_flight = len(ticket.unfinished())
        self._stats.started(in_flight)
        try:
            async with asyncio.TaskGroup() as tasks:
                for index in work.unjudged():
                    self._judge(work, index, tasks)
                async for index, completion in self._engine.generate(ticket):
                    in_flight -= 1
                    self._stats.ended(1)
                    self._count(completion)
                    work.ended_s[index] = monotonic()
                    work.completions[index] = continued(work.begun.get(index), completion)
                    if completion.finish_reason is not FinishReason.abort:
                        self._judge(work, index, tasks)
        finally:
            self._stats.ended(in_flight)
        verdicts = work.verdicts()
        if len(verdicts) < ticket.sampling.n:
            assert self._interrupted, "a rollout ended without a verdict"
            return self._started(work, verdicts)
        ended_s = monotonic()
        group = self._group(ticket, work.rollouts(), ended_s - work.began_s)
        if self._tracer.on:
            self._tracer.add("group", work.began_s, ended_s, **work.facts(group))
        return group

    async def interrupt(self) -> None:
        """End everything that `work` waits for: the rollouts of the engine, and verdicts."""
        self._interrupted = True
        for task in self._judging:
            task.cancel()
        await self._engine.interrupt()

    def _count(self, completion: Completion) -> None:
        self._stats.counts["generated_rollouts"] += completion.finish_reason is not FinishReason.abort
        self._stats.counts["generated_tokens"] += completion.num_tokens

    def _judge(self, work: _Work, index: int, tasks: asyncio.TaskGroup) -> None:
        """Begin to judge a rollout that has ended; after an interruption another actor does."""
        if self._interrupted:
            return
        task = work.judging[index] = tasks.create_task(self._verify(work, index))
        self._judging.add(task)
        task.add_done_callback(self._judging.discard)

    async def _verify(self, work: _Work, index: int) -> Verdict:
        prompt, completion = work.ticket.prompt, work.completions[index]
        text = self._tokenizer.decode(answer_ids(completion, self._tokenizer.eos_ids))
        with self._stats.awaiting_verdict():
            verdict = await self._pool.verify(prompt, text, completion.finish_reason, completion.token_ids)
        work.judged_s[index] = monotonic()
        self._stats.judged(verdict)
        return verdict

    def _started(self, work: _Work, verdicts: Mapping[int, Verdict]) -> list[StartedRollout]:
        """What is handed over; a rollout without a token is not."""
        return [
            started_rollout(index, completion, verdicts.get(index), self._name)
            for index, completion in sorted(work.completions.items())
            if completion.num_tokens
        ]

    def _group(self, ticket: Ticket, rollouts: list[Rollout], seconds: float) -> Group:
        kept = [rollout for rollout in rollouts if rollout.verdict.reward is not None]
        self._stats.counts["dropped_rollouts"] += len(rollouts) - len(kept)
        return Group.for_ticket(ticket, kept, actor=self._name, seconds=seconds, dropped_rollouts=len(rollouts) - len(kept))


class _Work:
    """One ticket: its completions so far and their verdicts, by index."""

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.begun = {rollout.index: rollout for rollout in ticket.started}
        self.completions = ended_before(ticket)
        self.judging: dict[int, asyncio.Task[Verdict]] = {}
        # for the trace: when its rollouts ended, and when each had its verdict
        self.began_s = monotonic()
        self.ended_s: dict[int, float] = {}
        self.judged_s: dict[int, float] = {}

    def unjudged(self) -> list[int]:
        """Those that ended at an earlier actor, which had no verdict on them."""
        return [index for index in self.completions if self.begun[index].verdict is None]

    def verdicts(self) -> dict[int, Verdict]:
        """All that there are. Raises what kept one from being there, but for an interruption."""
        given = {index: rollout.verdict for index, rollout in self.begun.items() if rollout.verdict is not None}
        return given | {index: task.result() for index, task in self.judging.items() if not task.cancelled()}

    def facts(self, group: Group) -> dict[str, Fact]:
        """What the trace says of the group: also, from its beginning, when each rollout ended here and was judged."""
        judged = [index for index in sorted(self.judged_s) if index in self.ended_s]
        rewards = [rollout.verdict.reward or 0.0 for rollout in group.rollouts]
        return {
            "ordinal": group.ordinal,
            "version": self.ticket.version,
            "kind": group.kind.value,
            "task": f"{group.prompt.domain}/{group.prompt.task}",
            "tokens": sum(rollout.num_tokens for rollout in group.rollouts),
            "reward": sum(rewards) / max(len(rewards), 1),
            "ended": [round(self.ended_s[index] - self.began_s, 6) for index in judged],
            "judged": [round(self.judged_s[index] - self.began_s, 6) for index in judged],
        }

    def rollouts(self) -> list[Rollout]:
        """All rollouts, once each has a verdict."""
        verdicts = self.verdicts()
        return [
            Rollout(
                token_ids=completion.token_ids,
                behaviour_logprobs=completion.behaviour_logprobs,
                spans=completion.spans,
                finish_reason=completion.finish_reason,
                verdict=verdicts[index],
            )
            for index, completion in sorted(self.completions.items())
        ]


def answer_ids(completion: Completion | Rollout, stop_ids: Sequence[int]) -> list[int]:
    """Token ids of the text that the verifier reads: the completion without the stop token that ended it."""
    ids = int32_array(completion.token_ids).tolist()
    if completion.finish_reason is FinishReason.stop and ids and ids[-1] in stop_ids:
        ids.pop()
    return ids
