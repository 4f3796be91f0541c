"""Trying completions on the verifiers that a prompt file names, with one pool of workers for the whole file.

Attempts --Prover.prove--> Proof: proved; not proved, as nothing is known to be right or there is no sandbox; or failed
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace

from ...common.config.verifiers import VerifiersConfig
from ...common.errors import UserError
from ...common.json_object import JsonObject
from ...common.types import FinishReason, Prompt, Verdict
from ...verifiers.data.proofs import GRADED, Attempts
from ...verifiers.workers.pool import VerifierPool, make_pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What the trial of one record showed. gold: the completion that earned 1. failure: (reason to count, what happened)."""

    gold: str = ""
    unproved: str = ""
    failure: tuple[str, str] | None = None


class Prover:
    """Judges attempts with a pool that starts when the first of them comes; `close` ends it."""

    def __init__(self, cfg: VerifiersConfig) -> None:
        self._cfg = replace(cfg, hosts=[])
        self._pool: VerifierPool | None = None
        self._starting = asyncio.Lock()
        self._unusable: dict[str, str] = {}  # verifiers that cannot judge on this machine, and why

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.close()

    async def prove(self, prompt: Prompt, tried: Attempts) -> Proof:
        """Judge the right and the wrong completion. Raises: VerifierFailure when no worker starts."""
        judge = f"{prompt.verifier}{', C++' if tried.wrong.startswith('```cpp') else ''}"
        if judge in self._unusable:
            return Proof(unproved=self._unusable[judge])
        try:
            if tried.wrong and (failure := await self._wrong_fails(prompt, tried)):
                return Proof(failure=failure)
            return await self._right_passes(prompt, tried)
        except UserError as error:
            # no sandbox or no compiler here
            self._unusable[judge] = f"the verifier {judge} cannot judge on this machine: {error}"
            return Proof(unproved=self._unusable[judge])

    async def _right_passes(self, prompt: Prompt, tried: Attempts) -> Proof:
        if not tried.right:
            return Proof(unproved=tried.why)
        said = ""
        for completion in tried.right:
            verdict = await self.judge(prompt, completion)
            if verdict.reward == 1.0:
                return Proof(gold=completion)
            said = said or outcome(completion, verdict)
        form = f" in the form that the prompt asks for, {tried.form}," if tried.form else ""
        which = "the reference solution" if prompt.verifier == "code" else f"the stored answer{form}"
        return Proof(failure=(f"{which} does not earn 1", said))

    async def _wrong_fails(self, prompt: Prompt, tried: Attempts) -> tuple[str, str] | None:
        verdict = await self.judge(prompt, tried.wrong)
        if verdict.reward is not None and (verdict.reward < 1.0 if prompt.verifier in GRADED else verdict.reward == 0.0):
            return None
        what = "a program that does nothing" if prompt.verifier == "code" else "a wrong answer"
        reason = f"{what} gets no reward" if verdict.reward is None else f"{what} earns too much"
        return reason, outcome(tried.wrong, verdict)

    async def judge(self, prompt: Prompt, completion: str) -> Verdict:
        """Raises: UserError where the verifier cannot judge on this machine, VerifierFailure when no worker starts."""
        async with self._starting:
            if self._pool is None:
                self._pool = make_pool(self._cfg)
                await self._pool.start()
        return await self._pool.verify(prompt, completion, FinishReason.stop)


def outcome(completion: str, verdict: Verdict) -> str:
    """A verdict in words."""
    reward = "no reward" if verdict.reward is None else f"reward {verdict.reward:g}"
    return f"{verdict.verifier}: {reward} ({verdict.status}) for {completion!r:.80} {verdict.detail:.200}".rstrip()


def prompt_of(text: str, verifier: str, answer: JsonObject) -> Prompt:
    """A prompt for the verifiers alone, without tokens."""
    spec = json.dumps(answer, ensure_ascii=False)
    return Prompt(uid="", domain="data", task="data", text=text, token_ids=b"", verifier=verifier, answer=spec)
