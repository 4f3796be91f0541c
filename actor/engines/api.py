"""The seam between the actor and what generates text: tickets in, completions out, weights in.

    vllm/            vLLM's AsyncLLM: fast, on GPUs and CPUs
    transformers/    transformers in a thread of the actor: starts in a moment, for tests and machines without vLLM

`registry.py` maps `actor.engine` to an implementation. tests/integration/test_engine_contract.py is what each must pass, and
docs/extending.md shows how to add one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol, Self

from ...common.config.sections import ActorConfig, ModelConfig
from ...common.messages import UpdateWeights
from ...common.types import Ticket
from .completion import Completion
from .load import EngineLoad


class Engine(Protocol):
    """One copy of the policy that generates completions, and whose weights are replaced while it does so.

    An engine lives in one event loop; every method is called there, and none may block it once `start` has returned:
    generation runs in a thread or in a process of the engine's own. Such a process must end when the actor's process ends,
    by SIGKILL too.

    Sampling law. Rollout i of a ticket draws its tokens with the seed `rollout_seed(ticket.seed, i)` from the distribution
    softmax(logits / temperature), cut to the tokens that are at least `min_p` times as probable as the most probable one, of
    those to the `top_k` most probable, of those to the smallest set whose probabilities reach `top_p`, and renormalised. The
    noise depends on the seed and on the token's position alone, so that a rollout does not depend on what else is in flight,
    as far as floating-point arithmetic allows. A temperature of 0 is greedy: the most probable token, no cut, and n must be 1.
    The behaviour log-probability of a token is that of the distribution it was drawn from (for greedy, that of temperature 1).
    A rollout ends with the first token of `stop_ids`, or the token that completes a text of `Sampling.stop` in the text of the
    completion (stop_strings.py); that token is kept (`FinishReason.stop`). Or it ends after
    min(max_tokens, model.max_context - prompt) tokens (`FinishReason.length`).

    A rollout that another actor began (`ticket.unfinished()`) goes on behind its tokens: with the noise of their positions, and
    with limits and texts of `Sampling.stop` that count them. One without room for another token ends at once
    (`FinishReason.length`). Rollouts that have ended are not generated.

    Example:
        engine = await TransformersEngine.start(cfg.model, cfg.actor, cfg.run.seed, tokenizer.eos_ids)
        checksums = await engine.apply_weights(update, timeout_s=60.0)
        async for index, completion in engine.generate(ticket):
            print(index, completion.num_tokens, completion.spans)
        await engine.close()
    """

    @classmethod
    async def start(cls, model: ModelConfig, actor: ActorConfig, seed: int, stop_ids: Sequence[int]) -> Self:
        """Build the engine; it has no weights that count and must not generate before the first `apply_weights`.

        A `model.dtype` of auto is settled, in `model`.
        Called once, before anything else runs in the event loop; it may block the loop for seconds. Raises ModelError when
        the model cannot be loaded (a mistake of the user), ProlongError when the engine died while it started.
        """
        ...

    @property
    def version(self) -> int:
        """Policy version of the weights in use; -1 before the first. It changes only inside `apply_weights`."""
        ...

    @property
    def paused_s(self) -> float:
        """Seconds so far in which generation stood still for new weights."""
        ...

    @property
    def load(self) -> EngineLoad:
        """What it had to do so far; it may lag behind by the time between two rollouts that end."""
        ...

    @property
    def num_unfinished(self) -> int:
        """Rollouts that are being generated or wait for their turn; 0 soon after the last ticket ended or was cancelled."""
        ...

    async def num_steps(self) -> int:
        """Steps so far, asked of where they are made: while rollouts are unfinished the number grows, or the engine hangs.

        An engine that hangs may never answer: the caller has a deadline. Raises ProlongError when the engine died.
        """
        ...

    def generate(self, ticket: Ticket) -> AsyncIterator[tuple[int, Completion]]:
        """The ticket's unfinished rollouts as (index, completion), each as soon as it ended, in the order in which they end.

        A completion holds what this engine sampled, without the tokens that the rollout began with.
        Any number of tickets at once, with different ordinals; the engine queues what it cannot run yet. Weights may change
        between two tokens: `Completion.spans` says which version sampled which tokens. Closing the iterator, or cancelling
        the task that waits for it, aborts the rollouts that have not ended; the engine forgets them within a step or two.
        Raises ProlongError when the engine refuses the ticket (it then goes on with the others) or died.
        """
        ...

    async def interrupt(self) -> None:
        """End every rollout that is in flight, at a token boundary: the actor has no time left.

        Each `generate` yields what it has not yielded yet, with the tokens so far, maybe none, as `FinishReason.abort`, and is
        over. That may happen after the return. The engine can be used as before.
        """
        ...

    async def apply_weights(self, update: UpdateWeights, timeout_s: float) -> list[int]:
        """Receive the weights of `update` and use them; returns the checksum of every bucket, in the manifest's order.

        Called for one update at a time. Weights are received while generation goes on, into memory of their own; then
        generation pauses at a token boundary, the weights are loaded, `version` becomes `update.version`, and rollouts in
        flight go on under the new weights. With `actor.clear_kv` their keys and values are recomputed first.
        `timeout_s` bounds each phase of the download: the join, and each bucket.
        Raises WeightsError when the weights did not arrive or were superseded: the engine goes on with those it had.
        Raises ProlongError when they arrived and cannot be loaded, or the engine died: it must not be used any more.
        """
        ...

    def supersede(self) -> None:
        """A newer update is at hand: the download under way ends with WeightsError (a load under way is completed)."""
        ...

    async def close(self) -> None:
        """End the engine and its thread or process, within seconds. Rollouts in flight are lost. Called once."""
        ...
