"""`prolong data check`: every line of a prompt file as the buffer would read it, and every gold answer as a rollout's.

rows --> Prompt or a bad line --> counts, lengths, doubles
              '--> gold completion --> VerifierPool --> reward 1, or a failure with its line number
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...common.config.sections import VerifiersConfig
from ...common.data.prompts import PromptEncoder, read_prompts
from ...common.errors import DataError, UserError
from ...common.tokenizer import Tokenizer
from ...common.types import FinishReason, Prompt
from ...verifiers.adapters.user_verifiers import declared
from ...verifiers.api import Verifier
from ...verifiers.registry import NO_VERIFIERS, check_prompt, find, parse_answer
from ...verifiers.workers.pool import make_pool
from .files import print_bad_lines

IN_FLIGHT = 256  # gold answers that the pool holds at a time
PROGRESS_EVERY_S = 2.0
QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)


class Characters:
    """Stands in for a tokenizer when no model is named: one "token" per character, chat messages joined by line breaks."""

    def render(self, prompt: str | list[dict[str, Any]]) -> str:
        if isinstance(prompt, str):
            return prompt
        if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in prompt):
            raise DataError(f"prompt = {prompt!r:.200}: expected messages with a role and a content")
        return "\n".join(str(message.get("content")) for message in prompt)

    def encode(self, text: str, *, special: bool = False) -> np.ndarray:
        return np.zeros(len(text), dtype="<i4")


@dataclass
class Contents:
    """What a file holds. lines[i] is the line of prompts[i]; golds[i] a completion that must earn 1, if one is known."""

    prompts: list[Prompt] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    golds: list[str | None] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)


def check_prompt_file(path: Path, model: str, cfg: VerifiersConfig, longest: int, *, golds: bool) -> int:
    """Print the report; 1 if a line is bad or a gold answer fails. Raises UserError."""
    contents = read_contents(path, Tokenizer.load(model) if model else Characters(), declared(cfg.own))
    print_contents(path, contents, "tokens" if model else "characters", longest)
    failures = asyncio.run(verify_golds(contents, cfg)) if golds and contents.prompts else []
    if contents.bad:
        print_bad_lines(f"{path}: {len(contents.bad)} bad lines", contents.bad)
    if failures:
        print_bad_lines(f"{path}: {len(failures)} gold answers do not earn 1 from their own verifier", failures)
    return 1 if contents.bad or failures or not contents.prompts else 0


def read_contents(path: Path, tokenizer: PromptEncoder, own: Mapping[str, Verifier] = NO_VERIFIERS) -> Contents:
    """Every line that is a prompt whose verifier can judge its answer; why the others are not. Raises DataError."""
    contents = Contents()
    for line, read in read_prompts(path, tokenizer):
        try:
            if isinstance(read, DataError):
                raise read
            prompt = read.prompt
            check_prompt(prompt, own)
            gold = read.record.get("gold")
            if gold is None:
                gold = find(prompt.verifier, own).gold(parse_answer(prompt.answer))
        except UserError as error:
            contents.bad.append(f"line {line}: {error}")
            continue
        contents.prompts.append(prompt)
        contents.lines.append(line)
        contents.golds.append(gold)
    return contents


def print_contents(path: Path, contents: Contents, unit: str, longest: int) -> None:
    """To stdout: counts, lengths, the longest prompts, doubles."""
    prompts = contents.prompts
    print(f"{path}: {len(prompts)} prompts, {len(contents.bad)} bad lines")
    counts = Counter((prompt.domain, prompt.task, prompt.verifier) for prompt in prompts)
    for (domain, task, verifier), count in sorted(counts.items()):
        print(f"  {count:8d}  {domain}/{task}, verifier {verifier}")
    if not prompts:
        return
    lengths = np.array([len(prompt.token_ids) // 4 for prompt in prompts])
    named = zip(("least", "median", "90 %", "99 %", "most"), np.quantile(lengths, QUANTILES, method="higher"), strict=True)
    print(f"prompt length in {unit}: " + ", ".join(f"{name} {value}" for name, value in named))
    for index in np.argsort(-lengths, kind="stable")[:longest]:
        print(f"  line {contents.lines[index]}: {lengths[index]} {unit}: {prompts[index].text[:60]!r}...")
    for what in duplicate_prompts(contents):
        print(what)


def duplicate_prompts(contents: Contents) -> list[str]:
    """Sentences about prompts that occur twice, and about those that do with another answer."""
    first: dict[str, int] = {}
    same, contradicting = list[str](), list[str]()
    for index, prompt in enumerate(contents.prompts):
        other = first.setdefault(prompt.text, index)
        if other != index:
            agrees = (
                contents.prompts[other].answer == prompt.answer or contents.golds[other] == contents.golds[index] is not None
            )
            (same if agrees else contradicting).append(f"{contents.lines[index]} (of {contents.lines[other]})")
    told = [("the same prompt and answer as an earlier line", same), ("an earlier prompt, another answer", contradicting)]
    return [f"{len(lines)} lines with {what}: {', '.join(lines[:5])}" for what, lines in told if lines]


async def verify_golds(contents: Contents, cfg: VerifiersConfig) -> list[str]:
    """Sentences about the gold answers that do not earn 1, in the order of their lines. Raises VerifierFailure."""
    known = [i for i, gold in enumerate(contents.golds) if gold is not None]
    print(f"gold answers: {len(known)} to verify, {len(contents.golds) - len(known)} that cannot be told from the file")
    if not known:
        return []
    names = tuple(sorted({contents.prompts[i].verifier for i in known}))
    pool = make_pool(replace(cfg, hosts=[], workers=min(cfg.workers, len(known))), preload=names)
    await pool.start()
    gate, told = asyncio.Semaphore(IN_FLIGHT), progress_line(len(known))

    async def one(i: int) -> str | None:
        async with gate:
            verdict = await pool.verify(contents.prompts[i], contents.golds[i] or "", FinishReason.stop)
        told()
        if verdict.reward == 1.0:
            return None
        reward = "no reward" if verdict.reward is None else f"reward {verdict.reward:g}"
        said = f"{reward} ({verdict.status}) for {contents.golds[i]!r:.80} {verdict.detail:.200}"
        return f"line {contents.lines[i]}: {contents.prompts[i].verifier}: {said.rstrip()}"

    try:
        outcomes = await asyncio.gather(*map(one, known))
    finally:
        await pool.close()
    failures = [outcome for outcome in outcomes if outcome is not None]
    print(f"gold answers: {len(known) - len(failures)} of {len(known)} earn 1 from their own verifier")
    return failures


def progress_line(total: int) -> Callable[[], None]:
    """Call it once per verdict; it writes to stderr now and then."""
    done, last = 0, time.monotonic()

    def one_more() -> None:
        nonlocal done, last
        done += 1
        if time.monotonic() - last > PROGRESS_EVERY_S:
            last = time.monotonic()
            sys.stderr.write(f"{done} of {total} gold answers\n")

    return one_more
