"""The rollouts that a page shows: groups of the journal, spread evenly over the run, as many as a budget of bytes allows.

batch records --spread--> groups --encode--> text, lengths of tokens, versions, log-probabilities --budget--> JSON
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import msgspec
import numpy as np

from ...buffer.journal.journal import Journal, read_journal
from ...common.errors import JournalError, ModelError
from ...common.json_object import JsonObject
from ...common.tokenizer import Tokenizer
from ...common.types import Group, Prompt, Rollout, float32_array, int32_array

MAX_CHARS = 24_000  # of one completion; the middle of a longer one is left out
MAX_PROMPT_CHARS = 12_000
# one character each for a length or a log-probability: a page reads them faster than lists of numbers, and they take less
ALPHABET = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"))
# a log-probability lp is stored as round(LOGPROB_SCALE * sqrt(-lp)): fine near 0, and down to -12
LOGPROB_SCALE = 18.0
LARGEST = len(ALPHABET) - 1
CHUNK = 512  # groups that are read at a time

Spelled = Callable[[Sequence[int]], list[str]]  # the text that each token adds


@dataclass(slots=True)
class RolloutSample:
    """What a page shows of a journal. `groups` and `prompts` are JSON values, encoded."""

    groups: list[bytes] = field(default_factory=list)
    prompts: list[bytes] = field(default_factory=list)
    num_rollouts: int = 0
    kept_groups: int = 0  # that the journal has in its batches
    unreadable: int = 0  # groups that a live run dropped meanwhile, or that are damaged
    first_step: int = 0  # of the batches that the journal has
    last_step: int = 0
    generations: list[tuple[int, int]] = field(default_factory=list)  # (step, generation) wherever one begins
    why_none: str = ""  # the reason for no rollouts
    as_ids: str = ""  # the reason why tokens are shown as numbers

    def encoded(self) -> bytes:
        """As a JSON object."""
        facts = {
            "rollouts": self.num_rollouts,
            "kept_groups": self.kept_groups,
            "unreadable": self.unreadable,
            "first_step": self.first_step,
            "last_step": self.last_step,
            "why_none": self.why_none,
            "as_ids": self.as_ids,
        }
        head = msgspec.json.encode(facts)[:-1]
        return head + b',"prompts":[' + b",".join(self.prompts) + b'],"groups":[' + b",".join(self.groups) + b"]}"


def sample_rollouts(folder: Path, models: Sequence[str], budget: int) -> RolloutSample:
    """Rollouts of the journal in `folder`, whose JSON takes about `budget` bytes. `models`: where the tokenizer may be."""
    try:
        journal = read_journal(folder)
    except JournalError as error:
        return RolloutSample(why_none=str(error))
    spelled, why = _speller(models)
    with closing(journal):
        sample = _sample(journal, spelled, budget)
    sample.as_ids = why
    if not sample.kept_groups:
        sample.why_none = (
            "the journal holds no batch: none was trained yet, or a checkpoint has let go of all; "
            "a run with buffer.keep_history=true keeps them"
        )
    return sample


def _sample(journal: Journal, spelled: Spelled, budget: int) -> RolloutSample:
    sample = RolloutSample()
    places = _places(journal, sample)
    taken, numbers, spent = list[tuple[int, bytes]](), dict[str, int](), 0
    for place, group in _read_in_chunks(journal, places, sample):
        number = numbers.setdefault(group.prompt.uid, len(numbers))
        if number == len(sample.prompts):
            sample.prompts.append(msgspec.json.encode(_prompt_entry(group.prompt)))
            spent += len(sample.prompts[-1])
        encoded = msgspec.json.encode(group_entry(group, places[place][0], number, spelled))
        spent += len(encoded)
        if spent > budget and taken:
            break
        taken.append((place, encoded))
        sample.num_rollouts += len(group.rollouts)
    sample.groups = [encoded for _, encoded in sorted(taken)]
    return sample


def _places(journal: Journal, sample: RolloutSample) -> list[tuple[int, int]]:
    """(step, ordinal) of every group in a batch, in order; what the batches say is added to `sample`."""
    places: list[tuple[int, int]] = []
    for version in journal.versions():
        try:
            record = journal.batch_record(version)
        except JournalError:
            # a live run has let go of it meanwhile
            continue
        places += [(version + 1, ordinal) for ordinal in record.ordinals]
        if not sample.generations or record.generation != sample.generations[-1][1]:
            sample.generations.append((version + 1, record.generation))
    sample.kept_groups = len(places)
    if places:
        sample.first_step, sample.last_step = places[0][0], places[-1][0]
    return places


def _read_in_chunks(journal: Journal, places: list[tuple[int, int]], sample: RolloutSample) -> Iterator[tuple[int, Group]]:
    """Groups with their places, in the order of `spread`; of each chunk in the order in which they lie on the disk."""
    order = list(spread(len(places)))
    for begin in range(0, len(order), CHUNK):
        chunk, groups = order[begin : begin + CHUNK], dict[int, Group]()
        for place in sorted(chunk):
            try:
                groups[place] = journal.group(places[place][1])
            except JournalError:
                sample.unreadable += 1
        yield from ((place, groups[place]) for place in chunk if place in groups)


def spread(count: int) -> Iterator[int]:
    """The numbers below `count` in an order of which every beginning is spread evenly: 0, 1/2, 1/4, 3/4, 1/8 ... of it."""
    bits = max(1, (count - 1).bit_length())
    reversed_bits = np.zeros(1 << bits, dtype=np.int64)
    for bit in range(bits):
        reversed_bits |= ((np.arange(1 << bits) >> bit) & 1) << (bits - 1 - bit)
    return (int(place) for place in reversed_bits if place < count)


def _prompt_entry(prompt: Prompt) -> JsonObject:
    """Keys as short as they are many: assets/rollouts.js reads them."""
    return {
        "u": prompt.uid,
        "d": prompt.domain,
        "k": prompt.task,
        "x": _middle_cut(prompt.text, MAX_PROMPT_CHARS),
        "r": prompt.verifier,
        "a": _middle_cut(prompt.answer, MAX_PROMPT_CHARS),
    }


def _middle_cut(text: str, most: int) -> str:
    return (
        text if len(text) <= most else f"{text[: most // 2]}\n[... {len(text) - most:,} characters ...]\n{text[-most // 2 :]}"
    )


def group_entry(group: Group, step: int, prompt: int, spelled: Spelled) -> JsonObject:
    """A group as the page reads it. `step`: that trained it; `prompt`: its number among the page's prompts."""
    return {
        "o": group.ordinal,
        "s": step,
        "p": prompt,
        "a": group.actor,
        "t": round(group.seconds, 2),
        "x": group.dropped_rollouts,
        "g": group.generation,
        "r": [rollout_entry(rollout, spelled) for rollout in group.rollouts],
    }


def rollout_entry(rollout: Rollout, spelled: Spelled) -> JsonObject:
    """A rollout as the page reads it.

    t: text; k, q: length and log-probability of every token, a character of ALPHABET each; v: [version, end in the text,
    tokens, actor] of every span; c: [place in the text, tokens] of what was left out. Places count UTF-16 units, as JavaScript
    does.
    """
    pieces = spelled(int32_array(rollout.token_ids).tolist())
    begin, end = _left_out(pieces)
    lengths = list(map(len if all(map(str.isascii, pieces)) else _utf16_length, pieces))
    kept = lengths[:begin] + lengths[end:]
    ends = [0, *accumulate(lengths)]
    gap = ends[end] - ends[begin]

    def place(token: int) -> int:
        return ends[token] if token <= begin else ends[max(token, end)] - gap

    logprobs = float32_array(rollout.behaviour_logprobs)
    numbers = np.concatenate([logprobs[:begin], logprobs[end:]])
    kept, numbers = _without_long_ones(np.array(kept, dtype=np.int64), numbers)
    verdict = rollout.verdict
    entry: JsonObject = {
        "t": "".join(pieces[:begin] + pieces[end:]),
        "k": _in_alphabet(kept),
        "q": _in_alphabet(np.rint(LOGPROB_SCALE * np.sqrt(np.maximum(-np.nan_to_num(numbers, nan=-144.0), 0.0)))),
        "v": [[span.version, place(span.end), span.end - span.start, span.actor] for span in rollout.spans],
        "n": rollout.num_tokens,
        "w": verdict.reward,
        "s": verdict.status.value,
        "f": rollout.finish_reason.value,
    }
    if end > begin:
        entry["c"] = [ends[begin], end - begin]
    if verdict.detail:
        entry["d"] = verdict.detail[:500]
    if verdict.metrics:
        entry["m"] = {name: round(value, 4) for name, value in verdict.metrics.items()}
    return entry


def _left_out(pieces: Sequence[str]) -> tuple[int, int]:
    """The tokens [begin, end) in the middle that make a text too long; none of most."""
    if sum(map(len, pieces)) <= MAX_CHARS:
        return len(pieces), len(pieces)
    from_left = np.cumsum([len(piece) for piece in pieces])
    from_right = np.cumsum([len(piece) for piece in reversed(pieces)])
    begin = int(np.searchsorted(from_left, MAX_CHARS * 2 // 3, side="right"))
    return begin, max(begin, len(pieces) - int(np.searchsorted(from_right, MAX_CHARS // 3, side="right")))


def _utf16_length(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def _without_long_ones(lengths: np.ndarray, logprobs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [T], those that are longer than LARGEST (of spaces, say) as several."""
    if not len(lengths) or lengths.max() <= LARGEST:
        return lengths, logprobs
    times = np.maximum(1, -(-lengths // LARGEST))
    places = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
    return np.minimum(np.repeat(lengths, times) - places * LARGEST, LARGEST), np.repeat(logprobs, times)


def _in_alphabet(numbers: np.ndarray) -> str:
    """Numbers [T] as T characters; those above LARGEST become that."""
    return "".join(ALPHABET[np.clip(numbers, 0, LARGEST).astype(np.int64)])


def _speller(models: Sequence[str]) -> tuple[Spelled, str]:
    """What spells tokens, by the first tokenizer that loads; and why it spells numbers, empty if it spells text."""
    why = "the run has neither a checkpoint nor a config.yaml that names a model"
    for model in models:
        try:
            return Tokenizer.load(model).spell, ""
        except ModelError as error:
            why = str(error)
    return (lambda ids: [f"{token} " for token in ids]), why
