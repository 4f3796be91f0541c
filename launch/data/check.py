"""`prolong data check`: read every line of a prompt file as the buffer does, and judge every gold answer like a rollout.

read_prompts --> Prompt or bad line --> counts, lengths, duplicates
                   '--> the answer, in the form that the prompt asks for --> VerifierPool --> reward 1, or a failure
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ...common.config.sections import SourceConfig
from ...common.config.verifiers import VerifiersConfig
from ...common.data.prompts import NO_ARGUMENTS, PromptEncoder, read_prompts
from ...common.errors import DataError, UserError
from ...common.json_object import JsonObject
from ...common.tokenizer import Tokenizer
from ...common.types import FinishReason, Prompt
from ...verifiers.api import Verifier
from ...verifiers.data.proofs import READS, attempts
from ...verifiers.data.requests import Form, requested_forms
from ...verifiers.registry import NO_VERIFIERS, check_prompt, find, parse_answer
from ...verifiers.user_verifiers import declared
from ...verifiers.workers.pool import check_own_verifiers, make_pool
from .printing import Progress, first_numbers, print_bad_lines
from .proving import outcome

IN_FLIGHT = 256  # gold answers that the pool holds at a time
QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)


class Characters:
    """Takes the place of a tokenizer when no model is named: one "token" per character, chat messages joined by line breaks."""

    def render(self, prompt: str | list[JsonObject], arguments: Mapping[str, object] = NO_ARGUMENTS) -> str:
        if isinstance(prompt, str):
            return prompt
        if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in prompt):
            raise DataError(f"prompt = {prompt!r:.200}: expected messages with a role and a content")
        return "\n".join(str(message.get("content")) for message in prompt)

    def encode(self, text: str, *, special: bool = False) -> np.ndarray:
        return np.zeros(len(text), dtype="<i4")


@dataclass
class Contents:
    """The content of a file. lines[i] is the line of prompts[i], golds[i] a completion that must earn 1, or None if unknown.

    forms[i]: where prompts[i] asks for its answer; None if it does not say, or brings a gold of its own.
    bad: reason -> the lines that are bad for it.
    """

    prompts: list[Prompt] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    golds: list[str | None] = field(default_factory=list)
    forms: list[Form | None] = field(default_factory=list)
    bad: dict[str, list[int]] = field(default_factory=dict)

    @property
    def num_bad(self) -> int:
        return sum(map(len, self.bad.values()))


def check_prompt_file(path: Path, model: str, cfg: VerifiersConfig, longest: int, *, golds: bool) -> int:
    """Print the report; 1 if there is a bad line, no prompt, or a gold answer that fails. Raises: UserError."""
    contents = read_contents(path, Tokenizer.load(model) if model else Characters(), declared(cfg.own))
    print_contents(path, contents, "tokens" if model else "characters", longest)
    failures = asyncio.run(verify_golds(contents, cfg)) if golds and contents.prompts else []
    if contents.bad:
        print_bad_lines(f"{path}: {contents.num_bad} bad lines", [f"{_lines(at)}: {why}" for why, at in contents.bad.items()])
    if failures:
        print_bad_lines(f"{path}: {len(failures)} gold answers do not earn 1 from their own verifier", failures)
    return 1 if contents.bad or failures or not contents.prompts else 0


def read_contents(path: Path, tokenizer: PromptEncoder, own: Mapping[str, Verifier] = NO_VERIFIERS) -> Contents:
    """The prompts whose verifier can judge their answer, and the reason for each other line. Raises: DataError."""
    contents = Contents()
    for line, read in read_prompts(SourceConfig(file=str(path)), tokenizer):
        try:
            if isinstance(read, DataError):
                raise read
            prompt = read.prompt
            check_prompt(prompt, own)
            gold, form = gold_of(prompt, read.record.get("gold"), own)
        except UserError as error:
            # one mistake in every line, such as a verifier without its setting, is told once
            uid = "" if isinstance(read, DataError) else f"prompt {read.prompt.uid}: "
            contents.bad.setdefault(str(error).removeprefix(uid), []).append(line)
            continue
        contents.prompts.append(prompt)
        contents.lines.append(line)
        contents.golds.append(gold)
        contents.forms.append(form)
    return contents


def _lines(numbers: Sequence[int]) -> str:
    return f"line {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} lines ({first_numbers(numbers)})"


def gold_of(prompt: Prompt, brought: str | None, own: Mapping[str, Verifier]) -> tuple[str | None, Form | None]:
    """A completion that must earn 1, and the form of it that the prompt asks for. `brought`: the one that the file has."""
    if brought is not None:
        return brought, None
    answer = parse_answer(prompt.answer)
    gold = find(prompt.verifier, own).gold(answer)
    if prompt.verifier in own:
        return gold, None
    tried = attempts(prompt.text, prompt.verifier, answer, gold)
    return (tried.right[0] if tried.right else None), tried.form


def print_contents(path: Path, contents: Contents, unit: str, longest: int) -> None:
    """Print counts, lengths, the longest prompts and duplicates."""
    prompts = contents.prompts
    print(f"{path}: {len(prompts)} prompts, {contents.num_bad} bad lines")
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
    for sentence in [*duplicate_prompts(contents), *silent_prompts(contents)]:
        print(sentence)


def duplicate_prompts(contents: Contents) -> list[str]:
    """Sentences about prompts that occur again, with the same answer or with another one."""
    first: dict[str, int] = {}
    same, contradicting = list[str](), list[str]()
    for index, prompt in enumerate(contents.prompts):
        other = first.setdefault(prompt.text, index)
        if other != index:
            same_gold = contents.golds[index] is not None and contents.golds[index] == contents.golds[other]
            listed = same if same_gold or contents.prompts[other].answer == prompt.answer else contradicting
            listed.append(f"{contents.lines[index]} (of {contents.lines[other]})")
    kinds = [("the same prompt and answer as an earlier line", same), ("an earlier prompt, another answer", contradicting)]
    return [f"{len(lines)} lines with {kind}: {', '.join(lines[:5])}" for kind, lines in kinds if lines]


def silent_prompts(contents: Contents) -> list[str]:
    """Sentences about prompts that do not say where the answer goes, though their verifier reads it in one place only."""
    lines: dict[Form, list[int]] = {}
    for line, prompt in zip(contents.lines, contents.prompts, strict=True):
        form = READS.get(prompt.verifier)
        if form is not None and prompt.verifier != "number" and not requested_forms(prompt.text):
            lines.setdefault(form, []).append(line)
    return [
        f"{len(found)} prompts do not say where the answer goes, and their verifier reads {form}: lines {first_numbers(found)}"
        for form, found in lines.items()
    ]


async def verify_golds(contents: Contents, cfg: VerifiersConfig) -> list[str]:
    """Sentences about the gold answers that do not earn 1, in the order of their lines. Raises: VerifierFailure."""
    rows = zip(contents.lines, contents.prompts, contents.golds, contents.forms, strict=True)
    known = [(line, prompt, gold, form) for line, prompt, gold, form in rows if gold is not None]
    print(f"gold answers: {len(known)} to verify, {len(contents.golds) - len(known)} that the file does not tell")
    if not known:
        await check_own_verifiers(cfg)
        if cfg.own:
            print('to try your own verifier here, give a completion that must earn 1 as "gold", beside "answer"')
        return []
    names = tuple(sorted({prompt.verifier for _, prompt, _, _ in known}))
    pool = make_pool(replace(cfg, hosts=[], workers=min(cfg.workers, len(known))), preload=names)
    await pool.start()
    in_flight, progress, num_judged = asyncio.Semaphore(IN_FLIGHT), Progress(), 0

    async def judge(line: int, prompt: Prompt, gold: str, form: Form | None) -> str | None:
        nonlocal num_judged
        async with in_flight:
            verdict = await pool.verify(prompt, gold, FinishReason.stop)
        num_judged += 1
        progress.tell(f"{num_judged} of {len(known)} gold answers")
        if verdict.reward == 1.0:
            return None
        return f"line {line}: {outcome(gold, verdict)}{_asked(prompt.verifier, form)}"

    try:
        outcomes = await asyncio.gather(*(judge(*row) for row in known))
    finally:
        await pool.close()
    failures = [outcome for outcome in outcomes if outcome is not None]
    print(f"gold answers: {len(known) - len(failures)} of {len(known)} earn 1 from their own verifier")
    return failures


def _asked(verifier: str, form: Form | None) -> str:
    """The form that a prompt asks for, in brackets; whether its verifier reads it."""
    if form is None:
        return ""
    read = READS.get(verifier)
    return f" (the prompt asks for {form}{f', its verifier reads {read}' if read not in (None, form) else ''})"
