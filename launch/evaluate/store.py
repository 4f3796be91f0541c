"""What an evaluation has so far, on the disk: the journal of one model, whose groups are its scored rollouts.

A ticket asks for one rollout of one prompt; its ordinal is `number of the rollout * number of prompts + index of the prompt`.
So an evaluation that was killed goes on with the tickets that no group is recorded for, and one that is asked for more rollouts
per prompt keeps those that it has. All models sample a prompt's rollouts with the same seeds.

Several processes may sample one model: each has a journal of its own, and reads those of the others when it is opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic

import msgspec

from ...buffer.journal.journal import Journal, open_journal, read_journal
from ...buffer.journal.records import BufferState, PromptCursor
from ...buffer.tickets.store import ticket_seed
from ...common.errors import UserError
from ...common.files import write_atomically
from ...common.types import Group, Prompt, Sampling, Ticket, TicketKind, TicketState, ValidationSetting

COMMIT_S = 0.5  # between two commits, and from the last group that ended to its commit: a kill costs the work of a second
LEASE_S = 1e9  # nobody takes a ticket back
MAX_GB = 1024.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What rollouts are a sample of. Groups that are recorded under other values are those of another evaluation."""

    weights: str  # fingerprint of the model's files
    prompts: str  # digest of what the model reads, and of the answers
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    max_tokens: int
    stop: list[str]
    seed: int
    context: int
    dtype: str
    engine: str


class EvaluationStore:
    """The rollouts of one model. One process at a time may open a part of them."""

    def __init__(self, folder: Path, asked: Asked, prompts: Sequence[Prompt], n: int, part: tuple[int, int] = (0, 1)) -> None:
        """`n`: rollouts per prompt. `part`: only tickets whose ordinal has this remainder are missing here.

        Raises: UserError when `folder` holds another evaluation; JournalError.
        """
        self._prompts, self._asked, self._n = prompts, asked, n
        folder.mkdir(parents=True, exist_ok=True)
        check_same(folder / "asked.json", asked)
        own = folder / ("journal" if part == (0, 1) else f"journal-{part[0]}-of-{part[1]}")
        self._part = part
        with ExitStack() as opened:
            others = [path.parent for path in sorted(folder.glob("journal*/data.mdb")) if path.parent != own]
            self._others = [opened.enter_context(closing(read_journal(path))) for path in others]
            self._journal = open_journal(own, max_gb=MAX_GB, keep_history=True)
            opened.pop_all()
        # ordinal -> the journal that has its group
        self._done: dict[int, Journal] = {o: journal for journal in [*self._others, self._journal] for o in journal.groups()}
        self._num_own = len(self._journal.groups())
        self._committed_s = monotonic()

    def missing(self) -> Iterator[Ticket]:
        """The tickets without a group: the first rollout of every prompt, then the second of every prompt, and so on."""
        index, count = self._part
        ordinals = range(index, self._n * len(self._prompts), count)
        return (self._ticket(ordinal) for ordinal in ordinals if ordinal not in self._done)

    @property
    def num_missing(self) -> int:
        """Rollouts that are still to be sampled."""
        index, count = self._part
        return sum(ordinal not in self._done for ordinal in range(index, self._n * len(self._prompts), count))

    @property
    def num_asked(self) -> int:
        """Rollouts of this part."""
        return len(range(self._part[0], self._n * len(self._prompts), self._part[1]))

    def add(self, group: Group) -> None:
        """Record a scored group. It is on the disk with the next commit, which is made here once COMMIT_S have passed."""
        self._journal.put_group(group, b"")
        self._done[group.ordinal] = self._journal
        self._num_own += 1
        if monotonic() - self._committed_s > COMMIT_S:
            self.commit()

    def commit(self) -> None:
        self._journal.commit(_state(self._num_own))
        self._committed_s = monotonic()

    def groups_of(self, index: int) -> list[Group]:
        """The recorded groups of prompt `index`, of its first n rollouts."""
        ordinals = range(index, self._n * len(self._prompts), len(self._prompts))
        return [self._done[ordinal].group(ordinal) for ordinal in ordinals if ordinal in self._done]

    def close(self) -> None:
        """Commit and release the journals."""
        self.commit()
        for journal in (self._journal, *self._others):
            journal.close()

    def _ticket(self, ordinal: int) -> Ticket:
        asked = self._asked
        sampling = Sampling(
            n=1,
            temperature=asked.temperature,
            top_p=asked.top_p,
            top_k=asked.top_k,
            min_p=asked.min_p,
            stop=tuple(asked.stop),
            max_tokens=asked.max_tokens,
        )
        return Ticket(
            ordinal=ordinal,
            kind=TicketKind.validation,
            prompt=self._prompts[ordinal % len(self._prompts)],
            sampling=sampling,
            seed=ticket_seed(asked.seed, ordinal),
            generation=1,
            version=0,
            lease_s=LEASE_S,
            setting=ValidationSetting.sampled,
        )


def check_same(path: Path, asked: Asked) -> None:
    """Write what was asked for, or compare it with what the file says. Raises: UserError for a difference."""
    if not path.exists():
        write_atomically(path, json.dumps(asdict(asked), indent=2) + "\n")
        return
    try:
        recorded = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        what = f"{path} does not say what was sampled ({error})"
        raise UserError(f"{what}: remove {path.parent}, and what it holds is sampled again") from error
    changed = [name for name, value in asdict(asked).items() if recorded.get(name) != value]
    if changed:
        name = changed[0]
        raise UserError(
            f"{path.parent} holds rollouts of another evaluation: {name} was {recorded.get(name)!r}, now it is "
            f"{getattr(asked, name)!r}; give another --out, or remove that folder"
        )


def digest_of(prompts: Sequence[Prompt]) -> str:
    """A text that changes with anything that a model reads or a verifier compares."""
    digest = hashlib.blake2b(digest_size=16)
    for prompt in prompts:
        digest.update(msgspec.msgpack.encode(prompt))
    return digest.hexdigest()


def _state(num_groups: int) -> BufferState:
    """The state that every commit of a journal has; there is no learner, and no ticket is in any other state."""
    return BufferState(
        ledger={TicketState.stored.value: num_groups},
        next_ordinal=num_groups,
        cursor=PromptCursor(credits=[], drawn=[]),
    )
